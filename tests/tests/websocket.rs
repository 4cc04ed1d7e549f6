//! MQTT over WebSocket over TLS, frame by frame (MQTT 5.0, chapter 6; RFC 6455).

use postern_tests::packet::{PINGREQ, Version};
use postern_tests::websocket::{
    BINARY, CLOSE, CONTINUATION, PING, PONG, Socket, TEXT, request, upgrade,
};
use postern_tests::{Connect, Gateway, Publish, Scope, Setup, Shared, Subscribe};

const CONNACK_V311: [u8; 4] = [0x20, 2, 0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];

async fn gateway() -> Shared {
    Shared::start(Setup::new()).await
}

fn connect(gateway: &Gateway) -> Vec<u8> {
    gateway
        .login(&Connect::v311(&Scope::new().id("ws")))
        .bytes()
}

async fn open(gateway: &Gateway) -> Socket {
    Socket::open(gateway.addresses.wss, &gateway.ca()).await
}

/// An upgraded connection with an MQTT session.
async fn connected(gateway: &Gateway) -> Socket {
    let mut socket = open(gateway).await;
    socket.send(true, BINARY, &connect(gateway)).await;
    assert_eq!(socket.binary(4).await, CONNACK_V311);
    socket
}

// [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[tokio::test]
async fn the_subprotocol_is_negotiated() {
    let gateway = gateway().await;
    for (offer, answer) in [
        ("mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("chat, mqtt", "mqtt"),
        ("mqtt, chat", "mqtt"),
    ] {
        let (status, head, _) = request(
            gateway.addresses.wss,
            &gateway.ca(),
            "/mqtt",
            &upgrade(offer),
        )
        .await;
        assert_eq!(status, 101, "{offer}: {head}");
        let chosen = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-protocol")
                .then(|| value.trim())
        });
        assert_eq!(chosen, Some(answer), "{offer}: {head}");
    }
}

#[tokio::test]
async fn what_is_not_an_upgrade_gets_a_proper_answer() {
    let gateway = gateway().await;
    let without = |name: &str| -> Vec<(&str, &str)> {
        upgrade("mqtt")
            .into_iter()
            .filter(|(header, _)| *header != name)
            .collect()
    };
    for (what, path, headers, statuses) in [
        ("another path", "/elsewhere", upgrade("mqtt"), 404..=404),
        ("no upgrade", "/mqtt", vec![], 400..=426),
        (
            "no subprotocol",
            "/mqtt",
            without("Sec-WebSocket-Protocol"),
            400..=426,
        ),
        ("another subprotocol", "/mqtt", upgrade("chat"), 400..=426),
        ("no key", "/mqtt", without("Sec-WebSocket-Key"), 400..=426),
        (
            "no version",
            "/mqtt",
            without("Sec-WebSocket-Version"),
            400..=426,
        ),
    ] {
        let (status, head, mut socket) =
            request(gateway.addresses.wss, &gateway.ca(), path, &headers).await;
        assert!(statuses.contains(&status), "{what}: {head}");
        while socket.next().await.is_some() {}
    }
}

// [MQTT-6.0.0-2]: packets cut and joined as the client likes.
#[tokio::test]
async fn packets_may_be_cut_and_joined_anywhere() {
    let gateway = gateway().await;
    let topic = Scope::new().topic("a");
    let v311 = Version::V311;
    let mut bytes = connect(&gateway);
    bytes.extend(
        Subscribe {
            id: 1,
            ..Subscribe::to(&topic, 0)
        }
        .bytes(v311),
    );
    let publish = Publish::new(&topic, "payload").bytes(v311);
    bytes.extend(&publish);
    bytes.extend(PINGREQ);
    for size in [1, 2, 3, 7, 10, bytes.len()] {
        let mut socket = open(&gateway).await;
        for part in bytes.chunks(size) {
            socket.send(true, BINARY, part).await;
        }
        let came = socket.binary(4 + 5 + publish.len() + 2).await;
        assert_eq!(came[..4], CONNACK_V311, "frames of {size} bytes");
        for packet in [&[0x90, 3, 0, 1, 0][..], &publish, &PINGRESP] {
            let there = came[4..]
                .windows(packet.len())
                .any(|window| window == packet);
            assert!(
                there,
                "frames of {size} bytes: {packet:02x?} is missing in {came:02x?}"
            );
        }
    }
    // One message in many fragments, with control frames between them.
    let mut socket = open(&gateway).await;
    for (n, part) in bytes.chunks(5).enumerate() {
        let last = (n + 1) * 5 >= bytes.len();
        socket
            .send(last, if n == 0 { BINARY } else { CONTINUATION }, part)
            .await;
        if n == 2 {
            socket.send(true, PING, b"between").await;
        }
    }
    let mut ponged = false;
    let mut came = Vec::new();
    while came.len() < 4 + 5 + publish.len() + 2 {
        let frame = socket.frame().await;
        if frame.opcode == PONG {
            assert_eq!(frame.payload, b"between");
            ponged = true;
        } else {
            came.extend(frame.payload);
        }
    }
    assert!(ponged, "RFC 6455, 5.5.2");
    assert_eq!(came[..4], CONNACK_V311);
}

// [MQTT-6.0.0-1]
#[tokio::test]
async fn a_text_frame_closes_with_1003() {
    let gateway = gateway().await;
    let mut socket = connected(&gateway).await;
    socket.send(true, TEXT, b"hello").await;
    assert_eq!(socket.frame().await.close_code(), 1003);
    assert_eq!(socket.next().await, None);
}

// RFC 6455, 5.5.2: a ping is answered with its payload, before and after CONNECT.
#[tokio::test]
async fn pings_are_answered() {
    let gateway = gateway().await;
    let mut socket = connected(&gateway).await;
    for payload in [&b""[..], b"x", &[7; 125]] {
        socket.send(true, PING, payload).await;
        let pong = socket.frame().await;
        assert_eq!((pong.opcode, &pong.payload[..]), (PONG, payload));
    }
    socket.send(true, PONG, b"unasked").await;
    socket.send(true, BINARY, &PINGREQ).await;
    assert_eq!(socket.binary(2).await, PINGRESP);
}

// RFC 6455, 5.5.1 and 7.4
#[tokio::test]
async fn close_frames_are_answered_and_violations_get_their_code() {
    let gateway = gateway().await;
    let mut socket = connected(&gateway).await;
    socket.send(true, CLOSE, &1000u16.to_be_bytes()).await;
    assert_eq!(socket.frame().await.close_code(), 1000);
    assert_eq!(socket.next().await, None);
    for (what, last, opcode, payload, code) in [
        ("a reserved opcode", true, 3, vec![], 1002),
        (
            "a continuation of nothing",
            true,
            CONTINUATION,
            vec![1],
            1002,
        ),
        ("a fragmented ping", false, PING, vec![], 1002),
        ("a ping of 126 bytes", true, PING, vec![0; 126], 1002),
    ] {
        let mut socket = connected(&gateway).await;
        socket.send(last, opcode, &payload).await;
        assert_eq!(socket.frame().await.close_code(), code, "{what}");
    }
}

// MQTT DISCONNECT ends the WebSocket properly, too.
#[tokio::test]
async fn disconnect_closes_with_1000() {
    let gateway = gateway().await;
    let mut socket = connected(&gateway).await;
    socket.send(true, BINARY, &[0xE0, 0]).await;
    assert_eq!(socket.frame().await.close_code(), 1000);
    assert_eq!(socket.next().await, None);
}

// Every message of the gateway is binary, and large ones arrive whole.
#[tokio::test]
async fn large_messages_pass_both_ways() {
    let gateway = gateway().await;
    let topic = Scope::new().topic("a");
    let mut socket = connected(&gateway).await;
    socket
        .send(
            true,
            BINARY,
            &Subscribe {
                id: 1,
                ..Subscribe::to(&topic, 0)
            }
            .bytes(Version::V311),
        )
        .await;
    assert_eq!(socket.binary(5).await, [0x90, 3, 0, 1, 0]);
    for length in [125, 126, 65_535, 65_536, 900_000] {
        let publish = Publish::new(&topic, "")
            .payload(vec![b'x'; length])
            .bytes(Version::V311);
        socket.send(true, BINARY, &publish).await;
        assert!(
            socket.binary(publish.len()).await == publish,
            "{length} bytes"
        );
    }
}
