//! One port for everything: MQTT or WebSocket, by ALPN or by the first byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_tests::client::tcp;
use postern_tests::peer::Tool;
use postern_tests::scope::own_address;
use postern_tests::tls::client_config_with_alpn;
use postern_tests::wait::{within, within_time};
use postern_tests::websocket::{BINARY, Socket, upgrade};
use postern_tests::{Connect, Gateway, Scope, Setup, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{address, openssl};

const CONNACK_V311: [u8; 4] = [0x20, 2, 0, 0];

async fn gateway() -> Shared {
    Shared::start(Setup::new().toml(
        r#"
        [listeners.only-mqtt]
        protocol = "mqtt"
        bind = ["127.0.0.1:0"]
        [listeners.only-websocket]
        protocol = "websocket"
        bind = ["127.0.0.1:0"]
        [listeners.plain-any]
        protocol = "any"
        tls = false
        bind = ["127.0.0.1:0"]
        "#,
    ))
    .await
}

/// A TLS connection that offers these protocols.
async fn open(gateway: &Gateway, to: SocketAddr, alpn: &[&str]) -> TlsStream<TcpStream> {
    let config = client_config_with_alpn(&gateway.ca(), alpn);
    let name = "localhost".try_into().expect("a DNS name");
    let connecting = TlsConnector::from(config).connect(name, tcp(None, to).await);
    within("a TLS handshake", connecting)
        .await
        .expect("the handshake succeeds")
}

fn connect(gateway: &Gateway) -> Vec<u8> {
    gateway
        .login(&Connect::v311(&Scope::new().id("one")))
        .bytes()
}

fn request(path: &str) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in upgrade("mqtt") {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

/// What a client speaks after the handshake.
#[derive(Debug, Clone, Copy)]
enum Speaks {
    Mqtt,
    WebSocket,
}

#[tokio::test]
async fn every_tls_port_serves_mqtt_and_websocket_by_alpn_or_by_the_first_byte() {
    let gateway = gateway().await;
    for to in [gateway.addresses.mqtts, gateway.addresses.wss] {
        for (alpn, speaks) in [
            (&["mqtt"][..], Speaks::Mqtt),
            (&["http/1.1"], Speaks::WebSocket),
            (&["h2", "http/1.1"], Speaks::WebSocket),
            (&[], Speaks::Mqtt),
            (&[], Speaks::WebSocket),
        ] {
            let stream = open(&gateway, to, alpn).await;
            match speaks {
                Speaks::Mqtt => mqtt(&gateway, stream).await,
                Speaks::WebSocket => websocket(&gateway, stream).await,
            }
        }
    }
}

async fn mqtt(gateway: &Gateway, mut stream: impl postern_tests::client::Stream) {
    stream.write_all(&connect(gateway)).await.expect("it reads");
    stream.flush().await.expect("it reads");
    let mut answer = [0; 4];
    within("CONNACK", stream.read_exact(&mut answer))
        .await
        .expect("an answer");
    assert_eq!(answer, CONNACK_V311);
}

async fn websocket(gateway: &Gateway, mut stream: TlsStream<TcpStream>) {
    stream.write_all(&request("/mqtt")).await.expect("it reads");
    stream.flush().await.expect("it reads");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut socket = Socket::over(stream);
    socket.send(true, BINARY, &connect(gateway)).await;
    assert_eq!(socket.binary(4).await, CONNACK_V311);
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = within("an HTTP answer", stream.read_u8()).await;
        head.push(byte.unwrap_or_else(|e| panic!("{e} after {head:?}")));
    }
    String::from_utf8(head).expect("HTTP is text")
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_all_there() {
    let gateway = gateway().await;
    for bytes in [connect(&gateway), request("/")] {
        let mut stream = open(&gateway, gateway.addresses.mqtts, &[]).await;
        for byte in &bytes {
            stream.write_all(&[*byte]).await.expect("it reads");
            stream.flush().await.expect("it reads");
        }
        let first = within("an answer", stream.read_u8()).await.expect("a byte");
        assert_eq!(first, if bytes[0] == 0x10 { 0x20 } else { b'H' });
    }
}

#[tokio::test]
async fn what_is_http_but_not_for_us_gets_its_http_answer() {
    let gateway = gateway().await;
    for (request, status) in [
        (request("/elsewhere"), "404"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "426"),
        (b"POST / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "405"),
    ] {
        for alpn in [&[][..], &["http/1.1"]] {
            let mut stream = open(&gateway, gateway.addresses.mqtts, alpn).await;
            stream.write_all(&request).await.expect("it reads");
            stream.flush().await.expect("it reads");
            let head = read_head(&mut stream).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
    }
}

#[tokio::test]
async fn a_listener_for_one_protocol_refuses_the_other() {
    let gateway = gateway().await;
    for (listener, refused, bytes) in [
        ("only-mqtt", "http/1.1", request("/mqtt")),
        ("only-websocket", "mqtt", connect(&gateway)),
    ] {
        let to = address(&gateway, listener);
        let finished = openssl(&gateway, to, &["-alpn", refused]).await;
        let alert = "alert no application protocol";
        assert!(finished.stderr.contains(alert), "{listener}: {finished}");
        // Without ALPN the bytes meet a decoder that does not know them.
        let mut stream = open(&gateway, to, &[]).await;
        stream.write_all(&bytes).await.expect("it reads");
        stream.flush().await.expect("it reads");
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        let accepted =
            answer.starts_with("HTTP/1.1 101") || answer.as_bytes().starts_with(&CONNACK_V311);
        assert!(!accepted, "{listener}: {answer:?}");
    }
    mqtt(
        &gateway,
        open(&gateway, address(&gateway, "only-mqtt"), &["mqtt"]).await,
    )
    .await;
    let to = address(&gateway, "only-websocket");
    websocket(&gateway, open(&gateway, to, &["http/1.1"]).await).await;
}

#[tokio::test]
async fn a_plain_port_tells_them_apart_as_well() {
    let gateway = gateway().await;
    let to = address(&gateway, "plain-any");
    mqtt(&gateway, tcp(None, to).await).await;
    let mut stream = tcp(None, to).await;
    stream.write_all(&request("/mqtt")).await.expect("it reads");
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

// The port that browsers use, with a client that only knows MQTT over TLS.
#[tokio::test]
async fn mosquitto_publishes_on_either_port_with_and_without_alpn() {
    let gateway = gateway().await;
    for to in [gateway.addresses.mqtts, gateway.addresses.wss] {
        for alpn in [&[][..], &["--tls-alpn", "mqtt"]] {
            Tool::new("mosquitto_pub")
                .args(["-h", "localhost", "-p", &to.port().to_string()])
                .args(["-A", &own_address().to_string(), "-V", "mqttv5", "-q", "1"])
                .args(["-u", &gateway.admin.name, "-P", &gateway.admin.password])
                .args(["-t", "any", "-m", "x", "--cafile"])
                .arg(gateway.ca())
                .args(alpn)
                .run()
                .await
                .expect_success();
        }
    }
}

/// Time for CONNECT, and how long the client takes for its request.
const ALLOWED: Duration = Duration::from_secs(8);
const TAKEN: Duration = Duration::from_secs(5);

// One deadline for all of it: a slow request leaves less time for CONNECT.
#[tokio::test]
async fn the_time_for_connect_begins_before_the_first_byte_and_not_after_the_upgrade() {
    let gateway = Setup::new()
        .toml("[limits]\nconnect_timeout = \"8s\"")
        .start()
        .await;
    let slow = async {
        let mut stream = open(&gateway, gateway.addresses.mqtts, &[]).await;
        let start = Instant::now();
        tokio::time::sleep(TAKEN).await;
        stream.write_all(&request("/mqtt")).await.expect("it reads");
        stream.flush().await.expect("it reads");
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        closed(stream).await;
        let elapsed = start.elapsed();
        let anew = ALLOWED + TAKEN - Duration::from_secs(1);
        assert!(elapsed < anew, "{elapsed:?}");
    };
    // A client that says nothing at all is not waited for either.
    let silent = async { closed(open(&gateway, gateway.addresses.mqtts, &[]).await).await };
    tokio::join!(slow, silent);
}

async fn closed(mut stream: TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    let _ = within_time("the gateway to lose patience", 3 * ALLOWED, ended).await;
}
