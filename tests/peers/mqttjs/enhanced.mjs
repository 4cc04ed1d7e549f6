// Enhanced authentication with MQTT.js, MQTT 5 over WebSocket and TLS. The environment names the gateway (URL, CA), a topic
// (TOPIC) and tokens: FIRST for CONNECT, NEXT for re-authentication, OTHER of another principal. Prints what held.
import { readFileSync } from 'node:fs';
import mqtt from 'mqtt';

const { URL: url, CA, TOPIC: topic, FIRST, NEXT, OTHER } = process.env;
const DEADLINE = 20_000; // ms, for every single answer
const method = { authenticationMethod: 'OAUTH2' };
const within = (what, promise) => {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`waited in vain for ${what}`)), DEADLINE); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};
const check = (condition, what) => { if (!condition) throw new Error(what); };

// A connected client. `answer` is what it sends when it is asked for its data.
async function connect(properties, answer) {
  const client = mqtt.connect(url, {
    protocolVersion: 5, ca: readFileSync(CA), reconnectPeriod: 0, clientId: '', properties: { ...method, ...properties },
  });
  const auths = [], waiting = [];
  client.handleAuth = (packet, done) => {
    if (packet.reasonCode === 24) {
      return done(null, { cmd: 'auth', reasonCode: 24, properties: { ...method, authenticationData: Buffer.from(answer) } });
    }
    waiting.length ? waiting.shift()(packet) : auths.push(packet);
    done(null);
  };
  client.auth = () => within('AUTH', auths.length ? auths.shift() : new Promise((resolve) => waiting.push(resolve)));
  client.gone = new Promise((resolve) => client.once('disconnect', resolve));
  client.connack = await within('CONNACK', new Promise((resolve, reject) => {
    client.once('connect', resolve);
    client.once('error', reject);
  }));
  return client;
}

const renew = (client, token) => client._sendPacket({
  cmd: 'auth', reasonCode: 25, properties: token ? { ...method, authenticationData: Buffer.from(token) } : method,
});

async function hears(client) {
  const message = new Promise((resolve) => client.once('message', (_, payload) => resolve(payload.toString())));
  await within('PUBACK', client.publishAsync(topic, 'hello', { qos: 1 }));
  check(await within('a message', message) === 'hello', 'the message');
}

async function a_token_in_connect_logs_in() {
  const client = await connect({ authenticationData: Buffer.from(FIRST) });
  check(client.connack.properties.authenticationMethod === 'OAUTH2', 'CONNACK names the method');
  await client.subscribeAsync(topic, { qos: 1 });
  await hears(client);
  await client.endAsync();
}

async function a_client_without_data_is_asked_for_it() {
  const client = await connect({}, FIRST);
  check(client.connected, 'it is connected');
  await client.endAsync();
}

async function a_fresh_token_keeps_the_connection() {
  const client = await connect({ authenticationData: Buffer.from(FIRST) }, NEXT);
  await client.subscribeAsync(topic, { qos: 1 });
  for (const token of [NEXT, NEXT, undefined]) {
    renew(client, token);
    const done = await client.auth();
    check(done.reasonCode === 0 && done.properties.authenticationMethod === 'OAUTH2', 'AUTH with success');
    await hears(client);
  }
  await client.endAsync();
}

async function a_token_of_another_principal_ends_the_connection() {
  for (const bad of [OTHER, 'no-token', FIRST.slice(0, -8) + 'AAAAAAAA']) {
    const client = await connect({ authenticationData: Buffer.from(FIRST) });
    renew(client, bad);
    const packet = await within('DISCONNECT', client.gone);
    check(packet.reasonCode === 0x87, `reason code ${packet.reasonCode}`);
    client.end(true);
  }
}

async function a_bad_token_and_another_method_are_refused() {
  for (const [properties, code] of [
    [{ authenticationData: Buffer.from('no-token') }, 0x87],
    [{ authenticationData: Buffer.from(FIRST), authenticationMethod: 'SCRAM-SHA-256' }, 0x8C],
  ]) {
    const error = await connect(properties).then(() => undefined, (error) => error);
    check(error?.code === code, `${error?.code} instead of ${code}`);
  }
}

const scenarios = [
  a_token_in_connect_logs_in, a_client_without_data_is_asked_for_it, a_fresh_token_keeps_the_connection,
  a_token_of_another_principal_ends_the_connection, a_bad_token_and_another_method_are_refused,
];
for (const scenario of scenarios) {
  await scenario().catch((error) => { throw new Error(`${scenario.name}: ${error.message}`); });
  console.log(scenario.name);
}
process.exit(0);
