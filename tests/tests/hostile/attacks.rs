//! The attacks. Each returns when the gateway has dealt with it: the connections it should close are closed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_tests::client::{self, tcp};
use postern_tests::packet::{PINGREQ, Version, frame, unsubscribe};
use postern_tests::property::write_variable;
use postern_tests::scope::own_address;
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::within_time;
use postern_tests::{Client, Connect, Gateway, Property, Publish, Scope, Subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The gateway's own deadlines are 4 s; this is when they must have had their effect.
const CLOSED_WITHIN: Duration = Duration::from_secs(12);

/// Waits, with the deadline of a clean-up, until `done`.
pub async fn settled(gateway: &Gateway, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{what} did not come back: {} KiB, {} open files",
            gateway.process.resident_kib(),
            gateway.process.open_files()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads until the gateway closes the connection.
async fn closed(stream: &mut TcpStream, what: &str) {
    let mut sink = [0; 4096];
    within_time(what, CLOSED_WITHIN, async {
        while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
}

/// Bytes without any meaning, the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn login(gateway: &Gateway) -> Client {
    gateway.v5(&Scope::new().id("attacker")).await
}

pub async fn garbage(gateway: &Gateway) {
    let address = own_address();
    for seed in 0..60 {
        for port in [
            gateway.addresses.mqtt,
            gateway.addresses.mqtts,
            gateway.addresses.wss,
        ] {
            let mut stream = tcp(Some(address), port).await;
            // It may be closed while we are still talking.
            let _ = stream.write_all(&noise(seed, 2_000)).await;
            let _ = stream.shutdown().await;
            closed(&mut stream, "the end of garbage").await;
        }
        let mut inside = client::tls(gateway.addresses.mqtts, &gateway.ca(), ALL_VERSIONS).await;
        let _ = inside.write_all(&noise(seed, 500)).await;
        let _ = inside.shutdown().await;
        let mut client = login(gateway).await;
        let _ = client.try_send(&noise(seed + 1_000, 2_000)).await;
        client.vanish();
    }
}

pub async fn truncated(gateway: &Gateway) {
    let connect = gateway
        .login(&Connect::v5("truncated").with(Property::user("a", "b")))
        .bytes();
    let publish = Publish::new("a/b", "payload")
        .qos(2)
        .id(1)
        .with(Property::user("a", "b"))
        .bytes(Version::V5);
    let subscribe = Subscribe {
        id: 1,
        ..Subscribe::to("a/+", 1).and("b/#", 2)
    }
    .bytes(Version::V5);
    let address = own_address();
    for length in 1..connect.len() {
        let mut stream = tcp(Some(address), gateway.addresses.mqtt).await;
        let _ = stream.write_all(&connect[..length]).await;
        let _ = stream.shutdown().await;
        closed(&mut stream, "the end after half a CONNECT").await;
    }
    for packet in [publish, subscribe] {
        for length in 1..packet.len() {
            let mut client = login(gateway).await;
            client.send(&packet[..length]).await;
            client.vanish();
        }
    }
}

/// PUBLISH before CONNECT, a second CONNECT, packet identifier 0, QoS 3, wildcards in topic names, and floods of
/// what is allowed.
pub async fn violations(gateway: &Gateway) {
    let v5 = Version::V5;
    for _ in 0..20 {
        let mut early = gateway.open().await;
        early.send(&Publish::new("a", "b").bytes(v5)).await;
        assert_eq!(early.frame().await, None);
        for bytes in [
            gateway.login(&Connect::v5("second")).bytes(),
            Publish::new("a", "b").qos(1).bytes(v5),
            vec![0x36, 0x05, 0, 1, b'a', 0, 1],
            Publish::new("a/#", "b").bytes(v5),
            Publish::new("", "b").bytes(v5),
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            let mut client = login(gateway).await;
            client.send(&bytes).await;
            assert!(client.end_code().await >= 0x80);
        }
        let mut client = login(gateway).await;
        client.send(&PINGREQ.repeat(500)).await;
        client.send(&unsubscribe(v5, 1, &vec!["x"; 500])).await;
        client
            .wait_for("UNSUBACK", |p| {
                matches!(p, postern_tests::Packet::UnsubAck(_))
            })
            .await;
    }
}

pub async fn huge_then_silence(gateway: &Gateway) {
    let address = own_address();
    for first in [0x10, 0x30, 0x32, 0x82] {
        for _ in 0..25 {
            let mut stream = tcp(Some(address), gateway.addresses.mqtt).await;
            let _ = stream.write_all(&[first, 0xFF, 0xFF, 0xFF, 0x7F]).await;
            closed(&mut stream, "the end of a packet of 256 MB").await;
            let mut client = login(gateway).await;
            client.send(&[first, 0xFF, 0xFF, 0xFF, 0x7F]).await;
            assert!(client.end_code().await >= 0x80);
        }
    }
}

/// The announced size is allowed: nothing may be reserved for it before its bytes are there.
pub async fn large_then_silence(gateway: &Gateway) {
    let before = gateway.process.resident_kib();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = login(gateway).await;
        let mut bytes = vec![0x30];
        write_variable(&mut bytes, (1 << 20) - 10);
        bytes.extend([0, 1, b'a']);
        client.send(&bytes).await;
        clients.push(client);
    }
    let mut clock = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..10 {
        clock.tick().await;
        let grown = gateway.process.resident_kib().saturating_sub(before);
        assert!(
            grown < 32 * 1024,
            "{grown} KiB for 100 packets that were only announced"
        );
    }
}

pub async fn one_byte_per_second(gateway: &Gateway) {
    let bytes = gateway.login(&Connect::v5("slow")).bytes();
    let slow = async |port: SocketAddr, address: IpAddr| {
        let mut stream = tcp(Some(address), port).await;
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let start = Instant::now();
        for byte in &bytes {
            clock.tick().await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            assert!(
                start.elapsed() < CLOSED_WITHIN,
                "it may go on for {:?}",
                start.elapsed()
            );
        }
        closed(&mut stream, "the end of one byte per second").await;
    };
    let address = own_address();
    let ports = [
        gateway.addresses.mqtt,
        gateway.addresses.mqtts,
        gateway.addresses.wss,
    ];
    let mut all = Vec::new();
    for n in 0..60 {
        all.push(slow(ports[n % 3], address));
    }
    together(all).await;
}

async fn together(all: Vec<impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// The sockets of one address must not close the door to the next one.
async fn somebody_else_gets_in(gateway: &Gateway) {
    let start = Instant::now();
    let mut client = gateway
        .connect_tls(Connect::v5(&Scope::new().id("in-between")))
        .await;
    client.ping().await;
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "another address waited {took:?} for its TLS connection"
    );
}

/// A real ClientHello.
fn client_hello(gateway: &Gateway) -> Vec<u8> {
    let config = client_config(&gateway.ca(), ALL_VERSIONS);
    let name = "localhost".try_into().expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("into memory");
    hello
}

/// Half a ClientHello, or a whole one and no answer to the server's.
pub async fn half_open_tls(gateway: &Gateway) {
    let address = own_address();
    let hello = client_hello(gateway);
    let mut streams = Vec::new();
    for n in 0..400 {
        let port = if n % 2 == 0 {
            gateway.addresses.mqtts
        } else {
            gateway.addresses.wss
        };
        let mut stream = tcp(Some(address), port).await;
        let length = if n % 4 < 2 {
            hello.len()
        } else {
            hello.len() / 2
        };
        let _ = stream.write_all(&hello[..length]).await;
        streams.push(stream);
    }
    somebody_else_gets_in(gateway).await;
    for stream in &mut streams {
        closed(stream, "the end of half a TLS handshake").await;
    }
}

pub async fn never_connect(gateway: &Gateway) {
    let address = own_address();
    let ports = [
        gateway.addresses.mqtt,
        gateway.addresses.mqtts,
        gateway.addresses.wss,
    ];
    let mut streams = Vec::new();
    for n in 0..1_000 {
        streams.push(tcp(Some(address), ports[n % 3]).await);
    }
    somebody_else_gets_in(gateway).await;
    for stream in &mut streams {
        closed(stream, "the end of a silent socket").await;
    }
}

pub async fn long_topics(gateway: &Gateway) {
    let mut client = login(gateway).await;
    for n in 0..200 {
        let mut topic = format!("{n}/");
        topic.push_str(&"x".repeat(65_535 - topic.len()));
        assert!(client.publish(Publish::new(&topic, "").qos(1)).await < 0x80);
    }
}

/// 10,000 filters, in one packet and in many; the limit of 1,000 holds.
pub async fn many_filters(gateway: &Gateway) {
    let mut client = login(gateway).await;
    let mut subscribe = Subscribe::to("first", 0);
    for n in 1..10_000 {
        subscribe = subscribe.and(&format!("bomb/+/{n}/#"), 1);
    }
    let codes = client.subscribe_all(subscribe).await.codes;
    assert_eq!(codes.iter().filter(|code| **code < 0x80).count(), 1_000);
    assert!(
        codes[1_000..].iter().all(|code| *code == 0x97),
        "the rest gets \"quota exceeded\""
    );
    for n in 0..1_000 {
        assert_eq!(client.subscribe(&format!("more/{n}"), 0).await, 0x97);
    }
}

/// It subscribes, and then it does not read a byte of 64 MB.
pub async fn deaf_subscriber(gateway: &Gateway) {
    let scope = Scope::new();
    let before = gateway.process.resident_kib();
    for qos in [0, 1] {
        let mut deaf = gateway.v5(&scope.id("deaf")).await;
        deaf.subscribe(&scope.topic("flood"), qos).await;
        let mut publisher = gateway.v5(&scope.id("publisher")).await;
        for n in 0..1_000 {
            let payload = vec![n as u8; 64 * 1024];
            publisher
                .publish(
                    Publish::new(&scope.topic("flood"), "")
                        .qos(qos)
                        .payload(payload),
                )
                .await;
        }
        publisher.ping().await;
        let grown = gateway.process.resident_kib().saturating_sub(before);
        assert!(grown < 64 * 1024, "{grown} KiB for one slow consumer");
        deaf.vanish();
    }
}

pub async fn wrong_passwords(gateway: &Gateway) {
    let scope = Scope::new();
    let chosen = gateway
        .add_user_with(&scope.id("chosen"), "correct horse battery staple", &[])
        .await;
    let mut waiting = Vec::new();
    let address = own_address();
    for n in 0..60 {
        let name = match n % 3 {
            0 => chosen.name.clone(),
            1 => gateway.admin.name.clone(),
            _ => scope.id("nobody"),
        };
        let mut client = Client::over(
            tcp(Some(address), gateway.addresses.mqtt).await,
            Version::V5,
        );
        client
            .send(
                &Connect::v5("guess")
                    .user(&name, &format!("guess {n}"))
                    .bytes(),
            )
            .await;
        waiting.push(client);
    }
    for client in &mut waiting {
        // Refused, or told to come back later: never let in.
        if let Some((first, body)) = client.frame().await {
            assert_eq!(first, 0x20);
            assert!(body[1] >= 0x80, "{body:02x?}");
        }
    }
}

pub async fn handshake_storm(gateway: &Gateway) {
    let address = gateway.addresses.mqtts;
    let ca = gateway.ca();
    for _ in 0..40 {
        let five: Vec<_> = (0..5)
            .map(|_| async { drop(client::tls(address, &ca, ALL_VERSIONS).await) })
            .collect();
        together(five).await;
    }
}

pub async fn resets(gateway: &Gateway) {
    let scope = Scope::new();
    for n in 0..200 {
        let stream = tcp(None, gateway.addresses.mqtt).await;
        // Closing with a linger time of zero sends RST.
        stream.set_zero_linger().expect("SO_LINGER");
        let mut client = Client::over(stream, Version::V5);
        let connect = Connect::v5(&scope.id("reset")).persistent(if n % 2 == 0 { 0 } else { 60 });
        client.connect(&gateway.login(&connect)).await;
        client.subscribe(&scope.topic("#"), 2).await;
        for _ in 0..10 {
            client
                .start_publish(Publish::new(&scope.topic("a"), "x").qos(n % 3))
                .await;
        }
        client.vanish();
    }
    gateway.v5(&scope.id("reset")).await.disconnect().await;
}

pub async fn bad_upgrades(gateway: &Gateway) {
    let to = gateway.addresses.wss;
    let long = "x".repeat(64 * 1024);
    let requests = [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".to_owned(),
        "POST /mqtt HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /mqtt HTTP/1.1\r\nX: {long}\r\n\r\n"),
        "X: y\r\n".repeat(5_000),
        "GET /mqtt HTTP/1.1\r\nHost: ".to_owned(),
    ];
    for request in &requests {
        for _ in 0..10 {
            let mut stream = client::tls(to, &gateway.ca(), ALL_VERSIONS).await;
            // It may be answered and closed before all of it is sent.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.flush().await;
            let mut answer = Vec::new();
            let reading =
                async { while stream.read_buf(&mut answer).await.is_ok_and(|n| n > 0) {} };
            within_time("the end of a bad upgrade", CLOSED_WITHIN, reading).await;
            assert!(!answer.starts_with(b"HTTP/1.1 101"), "{request:.60}");
            if answer.is_empty() {
                // The unfinished one is closed by the deadline: once is enough.
                break;
            }
        }
    }
}

pub async fn retained_flood(gateway: &Gateway) {
    let scope = Scope::new();
    let mut client = login(gateway).await;
    for text in ["kept", ""] {
        for n in 0..2_000 {
            client
                .publish(
                    Publish::new(&scope.topic(&n.to_string()), text)
                        .qos(1)
                        .retain(),
                )
                .await;
        }
    }
}

pub async fn takeovers(gateway: &Gateway) {
    let id = Scope::new().id("taken");
    for n in 0..200 {
        let client = gateway
            .connect(Connect::v5(&id).persistent(n % 2 * 60))
            .await;
        client.vanish();
    }
    gateway.v5(&id).await.disconnect().await;
}

pub async fn all_at_once(gateway: &Gateway) {
    // A packet that nobody understands, in the middle of everything else.
    let strange = async {
        for first in 0..=255 {
            let mut client = login(gateway).await;
            let _ = client
                .try_send(&frame(first, noise(u64::from(first), 50)))
                .await;
            client.vanish();
        }
    };
    tokio::join!(
        garbage(gateway),
        truncated(gateway),
        violations(gateway),
        never_connect(gateway),
        half_open_tls(gateway),
        many_filters(gateway),
        handshake_storm(gateway),
        resets(gateway),
        strange,
    );
}
