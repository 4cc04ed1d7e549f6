// What MQTT.js is asked to do, in Node and in a page alike: a plain script that needs the global `mqtt` and leaves the
// global `scenarios`. Each scenario throws if something is not as it should be.

globalThis.scenarios = (() => {
  const DEADLINE = 20_000; // ms, for every single answer

  function check(condition, what) {
    if (!condition) throw new Error(what);
  }

  function within(what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), DEADLINE);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  }

  // A connected client whose messages can be awaited one by one.
  async function connect(gateway, name, options = {}) {
    const client = mqtt.connect(gateway.url, {
      username: gateway.username,
      password: gateway.password,
      clientId: `${gateway.scope}-${name}`,
      reconnectPeriod: 0,
      ...(gateway.ca ? { ca: gateway.ca } : {}),
      ...options,
    });
    const waiting = [], queue = [];
    client.on('message', (topic, payload, packet) => {
      const message = { topic, text: payload.toString(), payload, packet };
      waiting.length ? waiting.shift()(message) : queue.push(message);
    });
    client.message = () => within('a message', queue.length
      ? Promise.resolve(queue.shift())
      : new Promise((resolve) => waiting.push(resolve)));
    client.connack = await within('CONNACK', new Promise((resolve, reject) => {
      client.once('connect', resolve);
      client.once('error', reject);
      client.once('close', () => reject(new Error('the connection was closed')));
    }));
    return client;
  }

  async function every_qos_arrives_in_order(gateway, version) {
    const topic = `${gateway.scope}/qos`;
    const client = await connect(gateway, 'qos', { protocolVersion: version });
    await client.subscribeAsync(topic, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      const wanted = Array.from({ length: 50 }, (_, n) => `${qos}-${n}`);
      await Promise.all(wanted.map((text) => client.publishAsync(topic, text, { qos })));
      for (const text of wanted) {
        const message = await client.message();
        check(message.text === text, `${message.text} came instead of ${text}`);
        check(message.packet.qos === qos, `QoS ${message.packet.qos} instead of ${qos}`);
      }
    }
    await client.endAsync();
  }

  async function a_retained_message_and_a_will_arrive(gateway, version) {
    const kept = `${gateway.scope}/kept`, gone = `${gateway.scope}/gone`;
    const watcher = await connect(gateway, 'watcher', { protocolVersion: version });
    await watcher.publishAsync(kept, 'value', { qos: 1, retain: true });
    await watcher.subscribeAsync([kept, gone], { qos: 1 });
    const message = await watcher.message();
    check(message.text === 'value' && message.packet.retain, 'the retained message');
    const will = { topic: gone, payload: 'gone', qos: 1 };
    const client = await connect(gateway, 'client', { protocolVersion: version, will });
    client.stream.destroy();
    check((await watcher.message()).text === 'gone', 'the will');
    await watcher.publishAsync(kept, '', { qos: 1, retain: true });
    await watcher.endAsync();
  }

  async function a_session_is_resumed(gateway, version) {
    const topic = `${gateway.scope}/session`;
    const options = { protocolVersion: version, clean: false };
    if (version === 5) options.properties = { sessionExpiryInterval: 600 };
    const first = await connect(gateway, 'session', options);
    check(!first.connack.sessionPresent, 'a new session');
    await first.subscribeAsync(topic, { qos: 1 });
    first.stream.destroy();
    const publisher = await connect(gateway, 'publisher', { protocolVersion: version });
    for (const text of ['one', 'two', 'three']) await publisher.publishAsync(topic, text, { qos: 1 });
    const second = await connect(gateway, 'session', options);
    // CONNACK of MQTT 3.1 has no such flag.
    check(second.connack.sessionPresent || version === 3, 'the old session');
    for (const text of ['one', 'two', 'three']) {
      const message = await second.message();
      check(message.text === text, `${message.text} came instead of ${text}`);
    }
    await publisher.endAsync();
    await second.unsubscribeAsync(topic);
    await second.endAsync();
  }

  async function a_large_message_passes(gateway, version) {
    const topic = `${gateway.scope}/large`;
    const client = await connect(gateway, 'large', { protocolVersion: version });
    await client.subscribeAsync(topic, { qos: 1 });
    const text = 'abcdefghij'.repeat(50_000);
    await client.publishAsync(topic, text, { qos: 1 });
    check((await client.message()).text === text, 'the same text');
    await client.endAsync();
  }

  async function a_wrong_password_is_refused(gateway, version) {
    let code = 'no error';
    try {
      await connect({ ...gateway, password: 'wrong' }, 'refused', { protocolVersion: version });
    } catch (error) {
      code = error.code;
    }
    const wanted = version === 5 ? [134, 135] : [4, 5];
    check(wanted.includes(code), `code ${code} instead of one of ${wanted}`);
  }

  async function v5_properties_arrive(gateway) {
    const topic = `${gateway.scope}/properties`;
    const client = await connect(gateway, 'properties', { protocolVersion: 5 });
    await client.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 9 } });
    await client.publishAsync(topic, 'x', {
      qos: 1,
      properties: {
        contentType: 'text/plain', responseTopic: 'answer', correlationData: 'four', messageExpiryInterval: 500,
        payloadFormatIndicator: true, userProperties: { a: ['1', '2'] },
      },
    });
    const { properties } = (await client.message()).packet;
    check(properties.subscriptionIdentifier === 9, 'subscription identifier');
    check(properties.contentType === 'text/plain' && properties.responseTopic === 'answer', 'strings');
    check(properties.correlationData.toString() === 'four', 'correlation data');
    check(properties.userProperties.a.join() === '1,2', 'user properties');
    check(properties.messageExpiryInterval > 400 && properties.messageExpiryInterval <= 500, 'expiry');
    await client.endAsync();
  }

  async function v5_topic_aliases_are_used_both_ways(gateway) {
    const topic = `${gateway.scope}/alias`;
    const client = await connect(gateway, 'alias', {
      protocolVersion: 5, autoUseTopicAlias: true, autoAssignTopicAlias: true, properties: { topicAliasMaximum: 4 },
    });
    await client.subscribeAsync(topic, { qos: 1 });
    for (const text of ['one', 'two', 'three']) {
      await client.publishAsync(topic, text, { qos: 1 });
      const message = await client.message();
      check(message.topic === topic && message.text === text, `${message.topic} ${message.text}`);
    }
    await client.endAsync();
  }

  const everyVersion = {
    every_qos_arrives_in_order, a_retained_message_and_a_will_arrive, a_session_is_resumed, a_large_message_passes,
    a_wrong_password_is_refused,
  };
  const onlyV5 = { v5_properties_arrive, v5_topic_aliases_are_used_both_ways };

  // Runs all scenarios for `version` (3, 4 or 5); the names of those that held.
  async function run(gateway, version) {
    const held = [];
    const scenarios = { ...everyVersion, ...(version === 5 ? onlyV5 : {}) };
    for (const [name, scenario] of Object.entries(scenarios)) {
      try {
        await scenario({ ...gateway, scope: `${gateway.scope}-${version}-${held.length}` }, version);
      } catch (error) {
        throw new Error(`${name}, version ${version}: ${error.message}`);
      }
      held.push(name);
    }
    return held;
  }

  return { run };
})();
