//! An issuer for tests: a server on loopback that says what it is told to say, and tokens with good and bad signatures.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker_config::Config;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ALGORITHM: &EcdsaSigningAlgorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;

/// A key of an issuer.
pub struct SigningKey {
    pub id: &'static str,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    pub fn new(id: &'static str) -> SigningKey {
        let pair = EcdsaKeyPair::generate(ALGORITHM).unwrap();
        SigningKey { id, pair }
    }

    /// Its public half (RFC 7517).
    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": text(x), "y": text(y)})
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(
            &json!({"alg": "ES256", "typ": "at+jwt", "kid": self.id}),
            claims,
        )
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

/// Header and claims of a JWT, without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", text(header), text(claims))
}

/// Claims of a token for `mqtt` that lives a minute.
pub fn claims(issuer: &str) -> Value {
    json!({"iss": issuer, "aud": "mqtt", "sub": "sensor-7", "exp": now() + 60, "scope": "mqtt:pub:a/# openid"})
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// What the server answers to a path, and how often it was asked.
#[derive(Default)]
struct Script {
    answers: HashMap<String, (u16, String)>,
    /// Answers to introspection, by token.
    tokens: HashMap<String, Value>,
    asked: HashMap<String, usize>,
    delay: Duration,
}

/// A server on loopback.
pub struct Server {
    pub url: String,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = script.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        let server = Server { url, script, task };
        server.describe(json!({
            "issuer": server.url, "jwks_uri": format!("{}/jwks", server.url),
            "introspection_endpoint": format!("{}/introspect", server.url),
        }));
        server
    }

    pub fn describe(&self, description: Value) {
        self.answer(
            "/.well-known/openid-configuration",
            200,
            &description.to_string(),
        );
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answer("/jwks", 200, &json!({ "keys": keys }).to_string());
    }

    pub fn answer(&self, path: &str, status: u16, body: &str) {
        let answers = &mut self.script.lock().answers;
        answers.insert(path.to_owned(), (status, body.to_owned()));
    }

    /// It answers there as it usually does.
    pub fn answer_as_usual(&self, path: &str) {
        self.script.lock().answers.remove(path);
    }

    /// What it says about a token from now on.
    pub fn vouch(&self, token: &str, claims: Value) {
        self.script.lock().tokens.insert(token.to_owned(), claims);
    }

    pub fn delay(&self, delay: Duration) {
        self.script.lock().delay = delay;
    }

    pub fn asked(&self, path: &str) -> usize {
        self.script.lock().asked.get(path).copied().unwrap_or(0)
    }

    /// It is gone.
    pub fn stop(&self) {
        self.task.abort();
        self.script.lock().answers.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request of each connection: which is closed then.
async fn serve(mut stream: tokio::net::TcpStream, script: Arc<Mutex<Script>>) {
    let mut text = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
            return;
        }
        let all = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = all.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (delay, (status, answer)) = {
        let mut script = script.lock();
        *script.asked.entry(path.clone()).or_default() += 1;
        let answer = match (path.as_str(), script.answers.get(&path)) {
            (_, Some(answer)) => answer.clone(),
            ("/introspect", None) if !head.contains("Basic Z3c6aHVzaA==") => {
                (401, r#"{"error":"invalid_client"}"#.to_owned())
            }
            ("/introspect", None) => {
                let token = body.split('&').find_map(|pair| pair.strip_prefix("token="));
                let claims = script.tokens.get(token.unwrap_or_default());
                (
                    200,
                    claims
                        .cloned()
                        .unwrap_or(json!({"active": false}))
                        .to_string(),
                )
            }
            _ => (404, "{}".to_owned()),
        };
        (script.delay, answer)
    };
    tokio::time::sleep(delay).await;
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A configuration of one issuer `home` for the audience `mqtt`; without the system's roots, which a machine may lack. One
/// with its keys in a file is asked nothing.
pub fn config(issuer: &str, more: &str) -> Config {
    let is_file = |line: &str| line.starts_with("keys_file") || line.starts_with("secret_file");
    let root = match more.lines().any(is_file) {
        true => String::new(),
        false => format!("server_root = {:?}\n", roots().path()),
    };
    let text = format!("[oauth.home]\nissuer = \"{issuer}\"\naudience = \"mqtt\"\n{root}{more}");
    match Config::parse(&text, "test") {
        Ok(config) => config,
        Err(report) => panic!("{report}"),
    }
}

/// Keys to ask as the client `gw`.
pub fn introspection(issuer: &str, more: &str) -> Config {
    static SECRET: std::sync::OnceLock<tempfile::NamedTempFile> = std::sync::OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hush\n").unwrap();
        file
    });
    let more = format!(
        "mode = \"introspection\"\nclient_id = \"gw\"\nclient_secret_file = {:?}\n{more}",
        secret.path()
    );
    config(issuer, &more)
}

/// A PEM file with a root certificate.
pub fn root_file() -> tempfile::NamedTempFile {
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::new(Vec::new())
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(root.pem().as_bytes()).unwrap();
    file
}

fn roots() -> &'static tempfile::NamedTempFile {
    static ROOT: std::sync::OnceLock<tempfile::NamedTempFile> = std::sync::OnceLock::new();
    ROOT.get_or_init(root_file)
}
