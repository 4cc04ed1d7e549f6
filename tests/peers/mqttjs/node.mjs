// MQTT.js in Node, over WebSocket and TLS. The environment names the gateway: URL, CA, USERNAME, PASSWORD, SCOPE.
// Prints the scenarios that held.
import { readFileSync } from 'node:fs';
import mqtt from 'mqtt';

globalThis.mqtt = mqtt;
await import('./scenarios.js');

const { URL: url, CA, USERNAME: username, PASSWORD: password, SCOPE: scope } = process.env;
const gateway = { url, username, password, scope, ca: readFileSync(CA) };
for (const version of [3, 4, 5]) {
  const options = version === 3 ? { protocolId: 'MQIsdp' } : {};
  const connect = mqtt.connect;
  globalThis.mqtt = { ...mqtt, connect: (to, rest) => connect(to, { ...rest, ...options }) };
  for (const name of await globalThis.scenarios.run(gateway, version)) console.log(`${version} ${name}`);
}
process.exit(0);
