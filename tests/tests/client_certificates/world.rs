//! Clients with certificates: TLS settings, connections, and what comes of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use postern_tests::client::tcp;
use postern_tests::packet::Version;
use postern_tests::tls::ALL_VERSIONS;
use postern_tests::wait::within;
use postern_tests::{Client, Connect, Gateway};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::Device;

pub const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Where a listener of this name listens.
pub fn address(gateway: &Gateway, listener: &str) -> SocketAddr {
    let path = gateway.data.join("addresses.json");
    let text = std::fs::read_to_string(path).expect("addresses.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let address = json[listener][0].as_str().expect("the listener is on");
    address.parse().expect("an address")
}

/// TLS settings of a client that trusts the gateway, has a certificate or none, and remembers its TLS sessions.
pub fn config(
    gateway: &Gateway,
    device: Option<&Device>,
    versions: &[&'static SupportedProtocolVersion],
    by: Tls12Resumption,
) -> Arc<ClientConfig> {
    config_trusting(&gateway.ca(), device, versions, by)
}

pub fn config_trusting(
    ca: &Path,
    device: Option<&Device>,
    versions: &[&'static SupportedProtocolVersion],
    by: Tls12Resumption,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA file") {
        roots.add(certificate.expect("PEM")).expect("a CA");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions and provider fit")
        .with_root_certificates(roots);
    let mut config = match device {
        Some(device) => builder
            .with_client_auth_cert(device.chain.clone(), device.key.clone_key())
            .expect("certificate and key"),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(16).tls12_resumption(by);
    Arc::new(config)
}

/// TLS settings of a client that remembers nothing.
pub fn fresh(
    gateway: &Gateway,
    device: &Device,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let by = Tls12Resumption::Disabled;
    let mut config = (*config(gateway, Some(device), versions, by)).clone();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

pub fn usual(gateway: &Gateway, device: Option<&Device>) -> Arc<ClientConfig> {
    config(
        gateway,
        device,
        ALL_VERSIONS,
        Tls12Resumption::SessionIdOrTickets,
    )
}

/// A handshake; in TLS 1.3 it may end well for the client before the gateway refuses it.
pub async fn handshake(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(config.clone());
    let name = "localhost".try_into().expect("a DNS name");
    within(
        "a TLS handshake",
        connector.connect(name, tcp(None, to).await),
    )
    .await
}

/// The alert with which the gateway refuses a client.
pub async fn refusal(to: SocketAddr, config: &Arc<ClientConfig>) -> AlertDescription {
    let error = match handshake(to, config).await {
        Err(error) => error,
        Ok(mut stream) => {
            let read = within("the gateway's alert", stream.read_u8()).await;
            read.expect_err("the gateway says nothing before CONNECT")
        }
    };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error}"),
    }
}

/// Connects with a certificate, whatever the answer is.
pub async fn connect(to: SocketAddr, config: &Arc<ClientConfig>, connect: &Connect) -> Client {
    let stream = handshake(to, config).await.expect("the handshake succeeds");
    let mut client = Client::over(stream, connect.version);
    client.connect(connect).await;
    client
}

/// Connects and is let in.
pub async fn let_in(to: SocketAddr, config: &Arc<ClientConfig>, connect: &Connect) -> Client {
    let client = self::connect(to, config, connect).await;
    assert_eq!(client.connack.code, 0, "{:?}", client.connack);
    client
}

/// What came of a connection: how TLS began, and whether CONNECT was answered with success.
pub async fn outcome(to: SocketAddr, config: &Arc<ClientConfig>) -> (HandshakeKind, bool) {
    let stream = handshake(to, config).await.expect("the handshake succeeds");
    let kind = stream.get_ref().1.handshake_kind().expect("it is over");
    let mut client = Client::over(stream, Version::V5);
    // It may be closed before it is read.
    let _ = client.try_send(&Connect::v5("").bytes()).await;
    match client.frame().await {
        Some((first, body)) => {
            assert_eq!((first, body[1]), (0x20, 0), "CONNACK");
            // Until the ticket of this connection is here.
            client.ping().await;
            client.disconnect().await;
            (kind, true)
        }
        None => (kind, false),
    }
}

/// A certificate of the gateway's own CA.
pub async fn issue(gateway: &Gateway, name: &str) -> Device {
    let folder = tempfile::TempDir::with_prefix("postern-device-").expect("a folder");
    let path = folder.path().to_str().expect("a path of ours");
    let arguments = ["ca", "issue", "device", name, "--out", path];
    gateway.cli(&arguments, "").await.expect_success();
    Device::read(folder.path(), name)
}
