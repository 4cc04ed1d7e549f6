//! Small records: what a device needs whose receive buffer is smaller than a full record of 16 KiB.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use postern_tests::client::tcp;
use postern_tests::packet::Version;
use postern_tests::peer::{Finished, Tool, installed_dir};
use postern_tests::tls::client_config;
use postern_tests::wait::within;
use postern_tests::{Client, Connect, Gateway, Publish, Setup};
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::address;

/// The payload that the device checks.
fn message(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

const LENGTH: usize = 6_000;

/// The gateway's CA in DER, as a device keeps it.
fn ca_in_der(gateway: &Gateway) -> PathBuf {
    let path = gateway.data.join("ca.der");
    let ca = CertificateDer::from_pem_file(gateway.ca()).expect("the CA file can be read");
    std::fs::write(&path, ca).expect("the data directory can be written");
    path
}

/// A device with a receive buffer for records of `receive` bytes that connects three times.
fn device(port: u16, ca: &Path, receive: usize, user: &str, password: &str) -> Tool {
    Tool::new(installed_dir().join("bearssl-client"))
        .arg(port.to_string())
        .arg(ca)
        .arg(receive.to_string())
        .args([user, password, "small", "3"])
}

/// Runs the device against a listener of the gateway, and sends it the message; its output.
async fn at_the_gateway(gateway: &Gateway, listener: &str, receive: usize) -> String {
    let to = address(gateway, listener);
    let (user, password) = (&gateway.admin.name, &gateway.admin.password);
    let tool = device(to.port(), &ca_in_der(gateway), receive, user, password);
    let mut running = tool.start().await;
    let mut output = running.line().await;
    if output == "subscribed" {
        let mut publisher = gateway.v5(&format!("to-{receive}")).await;
        publisher
            .publish(Publish::new("small", "").payload(message(LENGTH)))
            .await;
        for _ in 0..5 {
            output += &format!("\n{}", running.line().await);
        }
    }
    output
}

// BearSSL asks for max_fragment_length by itself when its buffer is small, and it has no tickets.
#[tokio::test]
async fn devices_with_small_buffers_take_a_message_of_6000_bytes_and_resume_by_id() {
    let gateway = Gateway::start().await;
    for receive in [512, 1_024, 16_384] {
        let output = at_the_gateway(&gateway, "mqtts", receive).await;
        let expected =
            format!("subscribed\nmessage {LENGTH} intact\nresumed 0\nresumed 1\nresumed 1");
        let memory = output.strip_prefix(&expected);
        let memory = memory.and_then(|rest| rest.strip_prefix("\nmemory "));
        let bytes: usize = memory
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or_else(|| panic!("{receive}: {output}"));
        assert!(bytes < receive + 8_500, "{receive}: {bytes} bytes");
    }
}

// The comparison: it is our records that make the difference, not the device.
#[tokio::test]
async fn the_same_devices_fail_at_a_server_that_does_not_know_max_fragment_length() {
    let gateway = Gateway::start().await;
    for (records, receive, expected) in [
        (None, 512, "error 6"),
        (None, 1_024, "error 6"),
        (None, 16_384, "message 6000 intact"),
        (Some(512), 512, "message 6000 intact"),
        (Some(512), 1_024, "message 6000 intact"),
    ] {
        let finished = at_a_plain_server(&gateway, records, receive).await;
        assert!(
            finished.stdout.contains(expected),
            "records of {records:?} for {receive} bytes: {finished}"
        );
    }
}

/// Runs the device against rustls as it is, with the gateway's certificate and records of at most `records` bytes.
async fn at_a_plain_server(gateway: &Gateway, records: Option<usize>, receive: usize) -> Finished {
    let tls = gateway.data.join("tls");
    let chain = CertificateDer::pem_file_iter(tls.join("server.pem"))
        .expect("the certificate can be read")
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates in PEM");
    let key = PrivateKeyDer::from_pem_file(tls.join("server.key")).expect("the key can be read");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    // rustls counts the record header of five bytes.
    config.max_fragment_size = records.map(|bytes| bytes + 5);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config))));
    let finished = device(port, &ca_in_der(gateway), receive, "u", "p")
        .run()
        .await;
    server.abort();
    finished
}

/// As much MQTT as the device needs.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut buffer = [0; 1_024];
            loop {
                let length = stream.read(&mut buffer).await?;
                let answer = match buffer[..length].first() {
                    Some(0x10) => vec![0x20, 2, 0, 0],
                    Some(0x82) => {
                        let publish = Publish::new("small", "").payload(message(LENGTH));
                        [&[0x90, 3, 0, 1, 0][..], &publish.bytes(Version::V311)].concat()
                    }
                    _ => return io::Result::Ok(()),
                };
                stream.write_all(&answer).await?;
                stream.flush().await?;
            }
        });
    }
}

#[tokio::test]
async fn max_fragment_size_of_a_listener_holds_for_clients_that_ask_for_nothing() {
    let gateway = Setup::new()
        .toml("[listeners.small]\nprotocol = \"any\"\nbind = [\"127.0.0.1:0\"]\nmax_fragment_size = 512")
        .start()
        .await;
    for version in [&TLS12, &TLS13] {
        let small = largest_record(&gateway, address(&gateway, "small"), version).await;
        // A nonce of 8 bytes and a tag of 16 in TLS 1.2, a type and a tag in TLS 1.3.
        assert!((512..=512 + 24).contains(&small), "{version:?}: {small}");
        let usual = largest_record(&gateway, gateway.addresses.mqtts, version).await;
        assert!(usual > LENGTH, "{version:?}: {usual}");
    }
    // A device that asks gets the smaller of the two.
    let output = at_the_gateway(&gateway, "small", 1_024).await;
    assert!(output.contains("message 6000 intact"), "{output}");
}

/// The longest record that a client sees which subscribes and gets a message.
async fn largest_record(
    gateway: &Gateway,
    to: SocketAddr,
    version: &'static rustls::SupportedProtocolVersion,
) -> usize {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tap = Tap {
        inner: tcp(None, to).await,
        seen: seen.clone(),
    };
    let connector = TlsConnector::from(client_config(&gateway.ca(), &[version]));
    let name = "localhost".try_into().expect("a DNS name");
    let stream = within("a TLS handshake", connector.connect(name, tap))
        .await
        .expect("the handshake succeeds");
    let mut client = Client::over(stream, Version::V5);
    client.connect(&gateway.login(&Connect::v5(""))).await;
    assert_eq!(client.connack.code, 0);
    client.subscribe("large", 0).await;
    let publish = Publish::new("large", "").payload(message(LENGTH));
    client.publish(publish).await;
    assert_eq!(client.message().await.payload, message(LENGTH));
    let bytes = seen.lock().expect("no poison").clone();
    let mut rest = &bytes[..];
    let mut longest = 0;
    while let [_, _, _, high, low, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        longest = longest.max(length);
        rest = tail.get(length..).unwrap_or_default();
    }
    longest
}

/// Keeps what is read.
struct Tap {
    inner: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let mut seen = self.seen.lock().expect("no poison");
        seen.extend_from_slice(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
