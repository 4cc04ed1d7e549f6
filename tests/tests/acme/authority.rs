//! The CA of a test: Pebble, and the DNS it believes. Each has an address of its own on the loopback network, so that
//! the fixed ports of validation are free.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use postern_tests::gateway::Process;
use postern_tests::peer::{Tool, installed_dir};
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::within;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const DIRECTORY: u16 = 14_000;
const MANAGEMENT: u16 = 15_000;
const DNS: u16 = 8_053;
const DNS_MANAGEMENT: u16 = 8_055;
/// Where Pebble comes to for TLS-ALPN-01 and HTTP-01, instead of 443 and 80.
pub const TLS_PORT: u16 = 5_001;
pub const HTTP_PORT: u16 = 5_002;

/// What a Pebble is started with.
#[derive(Default)]
pub struct Options {
    config: Vec<(&'static str, serde_json::Value)>,
    environment: Vec<(&'static str, String)>,
    newer: bool,
}

impl Options {
    /// Pebble 2.6, which has renewal information (RFC 9773).
    pub fn newer(mut self) -> Self {
        self.newer = true;
        self
    }

    pub fn config(mut self, key: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.config.push((key, value.into()));
        self
    }

    pub fn env(mut self, key: &'static str, value: &str) -> Self {
        self.environment.push((key, value.to_owned()));
        self
    }

    pub async fn start(self) -> Pebble {
        let pebble = Pebble::prepare(self);
        pebble.with_ca().await
    }

    /// Only the DNS runs; the CA is down.
    pub async fn without_ca(self) -> Pebble {
        let pebble = Pebble::prepare(self);
        pebble.with_dns().await
    }
}

pub struct Pebble {
    dir: TempDir,
    pub ip: IpAddr,
    options: Options,
    ca: Option<Process>,
    dns: Option<Process>,
}

impl Pebble {
    fn prepare(options: Options) -> Self {
        let dir = TempDir::with_prefix("pebble-").expect("a directory");
        let ip = address();
        write_identity(dir.path(), ip);
        let mut settings = serde_json::json!({
            "listenAddress": SocketAddr::new(ip, DIRECTORY).to_string(),
            "managementListenAddress": SocketAddr::new(ip, MANAGEMENT).to_string(),
            "certificate": dir.path().join("dir.pem"),
            "privateKey": dir.path().join("dir.key"),
            "httpPort": HTTP_PORT,
            "tlsPort": TLS_PORT,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        });
        for (key, value) in &options.config {
            settings[key] = value.clone();
        }
        let text = serde_json::json!({ "pebble": settings }).to_string();
        std::fs::write(dir.path().join("pebble.json"), text).expect("written");
        Pebble {
            dir,
            ip,
            options,
            ca: None,
            dns: None,
        }
    }

    async fn with_dns(mut self) -> Self {
        let at = |port| SocketAddr::new(self.ip, port).to_string();
        let tool = Tool::new("pebble-challtestsrv")
            .args(["-defaultIPv6", "", "-defaultIPv4", &self.ip.to_string()])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &at(DNS), "-management", &at(DNS_MANAGEMENT)]);
        let process = Process::start(tool);
        reachable(SocketAddr::new(self.ip, DNS_MANAGEMENT), &process).await;
        self.dns = Some(process);
        self
    }

    async fn with_ca(self) -> Self {
        let mut this = self.with_dns().await;
        this.start_ca().await;
        this
    }

    /// What it is started with from now on.
    pub fn set_env(&mut self, key: &'static str, value: &str) {
        self.options.environment.push((key, value.to_owned()));
    }

    /// Starts the CA. What an earlier one knew is forgotten: accounts, orders, roots.
    pub async fn start_ca(&mut self) {
        let program = match self.options.newer {
            true => installed_dir().join("pebble-2.6/usr/bin/pebble"),
            false => PathBuf::from("pebble"),
        };
        let mut tool = Tool::new(program)
            .arg("-config")
            .arg(self.dir.path().join("pebble.json"))
            .args(["-dnsserver", &SocketAddr::new(self.ip, DNS).to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1");
        for (key, value) in &self.options.environment {
            tool = tool.env(key, value);
        }
        let process = Process::start(tool);
        reachable(SocketAddr::new(self.ip, DIRECTORY), &process).await;
        self.ca = Some(process);
    }

    /// Ends the CA.
    pub async fn stop_ca(&mut self) {
        let ca = self.ca.take().expect("the CA runs");
        ca.signal(libc::SIGKILL);
        ca.wait().await;
    }

    pub fn directory(&self) -> String {
        format!("https://{}/dir", SocketAddr::new(self.ip, DIRECTORY))
    }

    /// The DNS server.
    pub fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.ip, DNS)
    }

    /// Where records are set.
    pub fn dns_management(&self) -> SocketAddr {
        SocketAddr::new(self.ip, DNS_MANAGEMENT)
    }

    /// PEM file of the root that vouches for the directory itself.
    pub fn directory_root(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    /// Certificate and key of the directory, for a server that stands in for it.
    pub fn identity(&self) -> (PathBuf, PathBuf) {
        (
            self.dir.path().join("dir.pem"),
            self.dir.path().join("dir.key"),
        )
    }

    /// PEM file with the root of the certificates it issues.
    pub async fn issuing_root(&self) -> PathBuf {
        let text = self
            .get(SocketAddr::new(self.ip, MANAGEMENT), "/roots/0")
            .await;
        assert!(text.contains("BEGIN CERTIFICATE"), "{text}");
        let path = self.dir.path().join("issuing-root.pem");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// The body of an HTTPS answer.
    pub async fn get(&self, at: SocketAddr, path: &str) -> String {
        let connector = TlsConnector::from(client_config(&self.directory_root(), ALL_VERSIONS));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        let answer = within("an answer of Pebble", async {
            let stream = TcpStream::connect(at).await.expect("it listens");
            let name = at.ip().into();
            let mut stream = connector.connect(name, stream).await.expect("TLS");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            // Go closes without close_notify at times.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        });
        body(&String::from_utf8_lossy(&answer.await))
    }

    /// Tells the DNS something: `set-servfail`, `add-caa`.
    pub async fn tell_dns(&self, what: &str, json: serde_json::Value) {
        let at = self.dns_management();
        let json = json.to_string();
        let length = json.len();
        let request = format!(
            "POST /{what} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{json}"
        );
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        within("an answer", stream.read_to_string(&mut answer))
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
    }
}

/// What follows the head of an HTTP answer, chunks joined.
fn body(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut joined) = (body, String::new());
    while let Some((length, tail)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).expect("a chunk length");
        if length == 0 {
            break;
        }
        joined.push_str(&tail[..length]);
        rest = &tail[length + 2..];
    }
    joined
}

async fn reachable(at: SocketAddr, process: &Process) {
    let start = Instant::now();
    while TcpStream::connect(at).await.is_err() {
        assert!(
            process.status().is_none() && start.elapsed() < Duration::from_secs(30),
            "nothing listens on {at}:\n{}",
            process.log().tail()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An address that no other test of this machine uses: the process is in it.
fn address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 128 | high >> 1, low, n))
}

/// The directory's own certificate: a root, and a leaf for its address.
fn write_identity(directory: &Path, ip: IpAddr) {
    let root_key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(DnType::CommonName, "Directory root");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key).expect("a root");
    let issuer = Issuer::from_params(&root, &root_key);
    let key = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(ip)];
    let leaf = leaf.signed_by(&key, &issuer).expect("a leaf");
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
    write("root.pem", certificate.pem()).expect("written");
    write("dir.pem", leaf.pem()).expect("written");
    write("dir.key", key.serialize_pem()).expect("written");
}

/// A TLS server configuration of the directory's identity.
pub fn server_config(pebble: &Pebble) -> Arc<rustls::ServerConfig> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let (certificate, key) = pebble.identity();
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    Arc::new(config)
}
