// MQTT.js in a Chromium page. The environment names the gateway: URL, USERNAME, PASSWORD, SCOPE, and the browser:
// CHROMIUM, and HOME with the certificate store it trusts. Prints the scenarios that held, or why a connection failed.
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const { URL: url, USERNAME: username, PASSWORD: password, SCOPE: scope, CHROMIUM } = process.env;
const file = (path) => fileURLToPath(new globalThis.URL(path, import.meta.url));

const server = createServer((request, response) => {
  response.setHeader('content-type', 'text/html');
  response.end('<!doctype html><title>MQTT over WebSocket</title>');
}).listen(0, '127.0.0.1');
await new Promise((resolve) => server.once('listening', resolve));

// Chromium refuses its sandbox to root, and small containers have a small /dev/shm.
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
let exit = 0;
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.log(`console: ${message.text()}`));
  await page.goto(`http://localhost:${server.address().port}/`);
  await page.addScriptTag({ path: file('node_modules/mqtt/dist/mqtt.min.js') });
  await page.addScriptTag({ path: file('scenarios.js') });
  for (const version of [4, 5]) {
    const held = await page.evaluate(
      ([gateway, number]) => globalThis.scenarios.run(gateway, number),
      [{ url, username, password, scope }, version],
    );
    for (const name of held) console.log(`${version} ${name}`);
  }
} catch (error) {
  console.error(error.message);
  exit = 1;
} finally {
  await browser.close();
  server.close();
}
process.exit(exit);
