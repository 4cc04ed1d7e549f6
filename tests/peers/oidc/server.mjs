// oidc-provider as an issuer of access tokens: JWT for the resource urn:mqtt:jwt, opaque for urn:mqtt:opaque. Prints
// "ready ISSUER CONTROL", two URLs on loopback; CONTROL does what tests need and no issuer offers.
import { createHmac, createPrivateKey, generateKeyPairSync, sign } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider, errors } from 'oidc-provider';

const SCOPES = 'mqtt:pub:tests/%u/# mqtt:sub:tests/%u/# mqtt:sub:tests/shared sensors';
let ttl = 60, number = 0, algorithm = 'ES256', keys = [], provider, handler, issuer;

const kept = new Map(); // outlives a rotation, which makes a new Provider
class Store {
  constructor(kind) { this.id = (id) => `${kind}:${id}`; }
  async upsert(id, payload, seconds) {
    kept.set(this.id(id), { ...payload, until: seconds ? Date.now() + seconds * 1000 : Infinity });
  }
  async find(id) {
    const found = kept.get(this.id(id));
    return found && found.until > Date.now() ? found : undefined;
  }
  async findByUserCode(code) { return [...kept.values()].find((found) => found.userCode === code); }
  async destroy(id) { kept.delete(this.id(id)); }
  async consume(id) { kept.get(this.id(id)).consumed = Date.now() / 1000 | 0; }
  async revokeByGrantId(grant) { for (const [id, found] of kept) if (found.grantId === grant) kept.delete(id); }
}

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });

const KINDS = {
  ES256: ['ec', { namedCurve: 'P-256' }], ES384: ['ec', { namedCurve: 'P-384' }], EdDSA: ['ed25519'],
  RS256: ['rsa', { modulusLength: 2048 }], PS256: ['rsa', { modulusLength: 2048 }],
};

// A new signing key; those before it stay published.
function rotate() {
  const jwk = generateKeyPairSync(...KINDS[algorithm]).privateKey.export({ format: 'jwk' });
  keys = [{ ...jwk, kid: `k${++number}`, alg: algorithm, use: 'sig' }, ...keys.slice(0, 4)];
  const client = (client_id, client_secret, grant_types, scope) => ({
    client_id, client_secret, grant_types, scope, redirect_uris: [], response_types: [],
    id_token_signed_response_alg: 'RS256',
  });
  const device = 'urn:ietf:params:oauth:grant-type:device_code';
  const rsaKey = { ...rsa.privateKey.export({ format: 'jwk' }), kid: 'rsa', alg: 'RS256', use: 'sig' };
  provider = new Provider(issuer, {
    adapter: Store,
    jwks: { keys: [...keys, rsaKey] },
    scopes: ['openid', 'offline_access', ...SCOPES.split(' ')],
    clients: [
      client('dev', 'dev-secret', ['client_credentials', 'refresh_token', device], `openid offline_access ${SCOPES}`),
      client('gw', 'gw-secret', ['client_credentials']),
    ],
    ttl: { ClientCredentials: () => ttl, AccessToken: () => ttl, DeviceCode: 600, Grant: 3600, IdToken: 3600, RefreshToken: 3600 },
    features: {
      clientCredentials: { enabled: true }, deviceFlow: { enabled: true }, revocation: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: async () => true },
      resourceIndicators: {
        enabled: true, defaultResource: () => undefined, useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => {
          const [, , format] = resource.split(':');
          if (!['jwt', 'opaque'].includes(format)) throw new errors.InvalidTarget();
          return { scope: SCOPES, audience: resource, accessTokenTTL: ttl, accessTokenFormat: format, jwt: { sign: { alg: algorithm, kid: keys[0].kid } } };
        },
      },
    },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (_, token) => ({ mqtt_user: token.accountId ?? 'sensor-7', groups: ['mqtt-devices', 'admin'] }),
  });
  handler = provider.callback();
}

// The person at the verification page.
async function approve(code, name) {
  const found = await provider.DeviceCode.findByUserCode(code.replaceAll('-', ''), { ignoreExpiration: true });
  const { scope, resource } = found.params;
  const grant = new provider.Grant({ accountId: name, clientId: found.clientId });
  grant.addOIDCScope(scope);
  for (const one of [resource ?? []].flat()) grant.addResourceScope(one, scope);
  Object.assign(found, { accountId: name, grantId: await grant.save(), scope, resource, claims: {}, authTime: Date.now() / 1000 | 0 });
  await found.save();
}

// A JWT with these claims, signed in a good way or a bad one.
function forge(kind, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = (header) => `${part({ typ: 'at+jwt', kid: keys[0].kid, ...header })}.${part({ iss: issuer, ...claims })}`;
  const ecdsa = (key) => {
    const text = message({ alg: 'ES256' });
    return `${text}.${sign('sha256', text, { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
  };
  const hmac = (secret) => {
    const text = message({ alg: 'HS256', kid: 'rsa' });
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
  };
  switch (kind) {
    case 'signed': return ecdsa(createPrivateKey({ key: keys[0], format: 'jwk' }));
    case 'foreign': return ecdsa(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey);
    case 'none': return `${message({ alg: 'none' })}.`;
    case 'hmac-pem': return hmac(rsa.publicKey.export({ type: 'spki', format: 'pem' }));
    case 'hmac-der': return hmac(rsa.publicKey.export({ type: 'pkcs1', format: 'der' }));
    case 'hmac-modulus': return hmac(Buffer.from(rsa.publicKey.export({ format: 'jwk' }).n, 'base64url'));
    default: throw new Error(`no such kind: ${kind}`);
  }
}

const listen = (server, port) => new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(server.address().port)));
const open = () => createServer((request, response) => handler(request, response));
let server = open();
const port = await listen(server, 0);
issuer = `http://127.0.0.1:${port}`;
rotate();

const control = createServer(async (request, response) => {
  const [, verb, ...rest] = request.url.split('/');
  let body = '';
  for await (const chunk of request) body += chunk;
  switch (verb) {
    case 'rotate': rotate(); break;
    case 'algorithm': algorithm = rest[0]; rotate(); break;
    case 'ttl': ttl = +rest[0]; break;
    case 'approve': await approve(rest[0], rest[1]); break;
    case 'forge': return response.end(forge(rest[0], JSON.parse(body)));
    case 'down': server.closeAllConnections(); await new Promise((resolve) => server.close(resolve)); break;
    case 'up': server = open(); await listen(server, port); break;
    default: response.statusCode = 404;
  }
  return response.end('ok');
});
console.log(`ready ${issuer} http://127.0.0.1:${await listen(control, 0)}`);
