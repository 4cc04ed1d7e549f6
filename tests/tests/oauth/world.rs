//! The issuer, a gateway that trusts it, and clients with its tokens.

use postern_tests::peer::{Running, Tool, peers_dir};
use postern_tests::wait::{until, within};
use postern_tests::{Client, Connect, Gateway, Setup};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The user that client credentials are for.
pub const USER: &str = "sensor-7";
/// Scopes that every token may have; `%u` is the user.
pub const SCOPE: &str = "mqtt:pub:tests/%u/# mqtt:sub:tests/%u/#";

/// oidc-provider.
pub struct Issuer {
    pub url: String,
    control: String,
    _process: Running,
}

impl Issuer {
    pub async fn start() -> Issuer {
        let folder = peers_dir().join("oidc");
        assert!(
            folder.join("node_modules/oidc-provider").exists(),
            "the npm package oidc-provider is missing: tests/run peers installs it"
        );
        let server = Tool::new("node").arg("server.mjs").current_dir(&folder);
        let mut process = server.start().await;
        let ready = process.line_with("ready ").await;
        let mut urls = ready.split(' ').skip(1).map(str::to_owned);
        let (url, control) = (urls.next().expect("issuer"), urls.next().expect("control"));
        Issuer {
            url,
            control,
            _process: process,
        }
    }

    /// A token by client credentials.
    pub async fn token(&self, kind: &str) -> String {
        self.token_for(kind, SCOPE).await
    }

    pub async fn token_for(&self, kind: &str, scope: &str) -> String {
        let answer = self
            .post(
                "/token",
                DEV,
                &[
                    ("grant_type", "client_credentials"),
                    ("scope", scope),
                    ("resource", &format!("urn:mqtt:{kind}")),
                ],
            )
            .await;
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    /// A token by the device flow (RFC 8628), which a person approves.
    pub async fn device_token(&self, kind: &str, person: &str) -> String {
        let resource = format!("urn:mqtt:{kind}");
        let begun = self
            .post(
                "/device/auth",
                DEV,
                &[
                    ("client_id", "dev"),
                    ("scope", SCOPE),
                    ("resource", &resource),
                ],
            )
            .await;
        let code = begun["device_code"]
            .as_str()
            .unwrap_or_else(|| panic!("no code: {begun}"));
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
            ("device_code", code),
            ("resource", &resource),
        ];
        let pending = self.post("/token", DEV, &form).await;
        assert_eq!(pending["error"], "authorization_pending");
        let user_code = begun["user_code"].as_str().expect("a user code");
        self.control(&format!("approve/{user_code}/{person}")).await;
        let answer = self.post("/token", DEV, &form).await;
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    pub async fn revoke(&self, token: &str) {
        self.post("/token/revocation", DEV, &[("token", token)])
            .await;
    }

    /// A JWT with these claims beside `iss`, signed as `kind` says.
    pub async fn forge(&self, kind: &str, claims: Value) -> String {
        let url = format!("{}/forge/{kind}", self.control);
        request("POST", &url, "", &claims.to_string()).await
    }

    /// A JWT that is good, for anybody and everything.
    pub async fn sign(&self, change: Value) -> String {
        let mut claims = claims();
        for (name, value) in change.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        self.forge("signed", claims).await
    }

    pub async fn control(&self, verb: &str) {
        let done = request("GET", &format!("{}/{verb}", self.control), "", "").await;
        assert_eq!(done, "ok", "{verb}");
    }

    async fn post(&self, path: &str, client: &str, form: &[(&str, &str)]) -> Value {
        let pairs: Vec<_> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        let head = format!(
            "authorization: Basic {client}\r\ncontent-type: application/x-www-form-urlencoded\r\n"
        );
        let answer = request(
            "POST",
            &format!("{}{path}", self.url),
            &head,
            &pairs.join("&"),
        )
        .await;
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }
}

/// dev:dev-secret.
const DEV: &str = "ZGV2OmRldi1zZWNyZXQ=";

/// Claims that are good but for what a test changes.
pub fn claims() -> Value {
    json!({"aud": "urn:mqtt:jwt", "sub": "x", "mqtt_user": USER, "exp": now() + 60, "scope": SCOPE})
}

pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// One HTTP request; the body of the answer, whatever its status.
async fn request(method: &str, url: &str, head: &str, body: &str) -> String {
    let rest = url.strip_prefix("http://").expect("plain HTTP");
    let (host, path) = rest.split_once('/').expect("a path");
    let exchange = async {
        let mut stream = TcpStream::connect(host).await.expect("the issuer listens");
        let text = format!(
            "{method} /{path} HTTP/1.0\r\nhost: {host}\r\n{head}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("it answers");
        answer
    };
    let answer = within("the issuer", exchange).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    body.to_owned()
}

/// A gateway that takes the issuer's JWTs.
pub async fn gateway(issuer: &Issuer, more: &str) -> Gateway {
    Setup::new().toml(&jwt(issuer, more)).start().await
}

pub fn jwt(issuer: &Issuer, more: &str) -> String {
    format!(
        "[oauth.home]\nissuer = {:?}\naudience = \"urn:mqtt:jwt\"\nname_claim = \"mqtt_user\"\nclock_skew = 0\n{more}",
        issuer.url
    )
}

/// A gateway that asks the issuer about tokens, and the directory with its secret.
pub async fn asking_gateway(issuer: &Issuer, more: &str) -> (Gateway, TempDir) {
    let dir = TempDir::new().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "gw-secret\n").expect("written");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&secret, mode).expect("closed");
    let tables = format!(
        "[oauth.home]\nissuer = {:?}\nmode = \"introspection\"\naudience = \"urn:mqtt:opaque\"\nname_claim = \"mqtt_user\"\n\
         client_id = \"gw\"\nclient_secret_file = {secret:?}\nclock_skew = 0\n{more}",
        issuer.url
    );
    (Setup::new().toml(&tables).start().await, dir)
}

/// CONNECT with a token in the password.
pub fn with_token(connect: Connect, token: &str) -> Connect {
    connect.user("any", token)
}

/// A connection and its CONNACK, whatever that says.
pub async fn knock(gateway: &Gateway, connect: &Connect) -> Client {
    let mut client = gateway.open().await;
    client.connect(connect).await;
    client
}

/// Waits until the log has this in it.
pub async fn logged(gateway: &Gateway, part: &str) {
    let what = format!("{part:?} in the log");
    until(&what, || gateway.process.log().text().contains(part)).await;
}

/// No part of a token is in the log.
pub fn assert_hidden(gateway: &Gateway, token: &str) {
    let log = gateway.process.log().text();
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!log.contains(part), "a token is in the log");
    }
}
