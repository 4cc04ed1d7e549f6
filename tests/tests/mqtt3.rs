//! Does the gateway keep MQTT 3.1.1 and 3.1, byte for byte where the specification leaves no choice? The statements
//! `[MQTT-x.y.z-n]` are those of MQTT 3.1.1.

use std::time::{Duration, Instant};

use postern_tests::packet::{
    EVERY_VERSION, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Version, Will, ack, frame,
    unsubscribe,
};
use postern_tests::property::write_binary;
use postern_tests::{Client, Connect, Gateway, Publish, Scope, Setup, Shared, Subscribe};

const V3: [Version; 2] = [Version::V31, Version::V311];

async fn gateway() -> Shared {
    Shared::start(Setup::new().toml("[limits]\nmax_sessions_per_principal = 1000\n")).await
}

async fn connect(gateway: &Gateway, version: Version, id: &str) -> Client {
    gateway.connect(Connect::new(version, id)).await
}

async fn session(gateway: &Gateway, version: Version, id: &str) -> Client {
    gateway
        .connect(Connect::new(version, id).persistent(0))
        .await
}

/// Sends bytes and sees exactly these bytes come back.
async fn exchange(client: &mut Client, sent: &[u8], wanted: &[u8]) {
    client.send(sent).await;
    let mut came = Vec::new();
    while came.len() < wanted.len() {
        let (first, body) = client
            .frame()
            .await
            .unwrap_or_else(|| panic!("{sent:02x?}: closed after {came:02x?}"));
        came.extend(frame(first, body));
    }
    assert_eq!(came, wanted, "the answer to {sent:02x?}");
}

// Chapter 3 of both specifications, every packet a client can cause, in its bytes.
#[tokio::test]
async fn the_whole_conversation_is_byte_exact() {
    let gateway = gateway().await;
    for version in V3 {
        for encrypted in [false, true] {
            let mut client = if encrypted {
                gateway.open_tls().await
            } else {
                gateway.open().await
            };
            client.version = version;
            let id = Scope::new().id("b");
            let login = gateway.login(&Connect::new(version, &id));
            exchange(&mut client, &login.bytes(), &[0x20, 2, 0, 0]).await;
            exchange(&mut client, &[0xC0, 0], &[0xD0, 0]).await;
            // SUBSCRIBE 0x0102 to "b/+" at QoS 2 and "b" at QoS 0.
            let subscribe = [0x82, 12, 1, 2, 0, 3, b'b', b'/', b'+', 2, 0, 1, b'b', 0];
            exchange(&mut client, &subscribe, &[0x90, 4, 1, 2, 2, 0]).await;
            // A QoS 0 message comes back as it was sent.
            let publish = [0x30, 6, 0, 3, b'b', b'/', b'1', b'x'];
            exchange(&mut client, &publish, &publish).await;
            // A QoS 1 message: PUBACK, and the message with the gateway's own first packet identifier.
            client
                .send(&[0x32, 8, 0, 3, b'b', b'/', b'1', 0xAB, 0xCD, b'y'])
                .await;
            let mut came = [
                client.frame().await.expect("one"),
                client.frame().await.expect("two"),
            ];
            came.sort();
            let [message, puback] = came;
            assert_eq!(message.0, 0x32);
            assert_eq!(message.1[..5], [0, 3, b'b', b'/', b'1']);
            assert_eq!(message.1[7..], [b'y']);
            assert_eq!(puback, (0x40, vec![0xAB, 0xCD]));
            let (high, low) = (message.1[5], message.1[6]);
            client.send(&[0x40, 2, high, low]).await;
            exchange(&mut client, &[0xC0, 0], &[0xD0, 0]).await;
            // QoS 2 into a subscription of QoS 0.
            client.send(&[0x34, 6, 0, 1, b'b', 0, 9, b'z']).await;
            let mut came = [
                client.frame().await.expect("one"),
                client.frame().await.expect("two"),
            ];
            came.sort();
            assert_eq!(came, [(0x30, vec![0, 1, b'b', b'z']), (0x50, vec![0, 9])]);
            exchange(&mut client, &[0x62, 2, 0, 9], &[0x70, 2, 0, 9]).await;
            exchange(
                &mut client,
                &[0xA2, 7, 0, 7, 0, 3, b'b', b'/', b'+'],
                &[0xB0, 2, 0, 7],
            )
            .await;
            client.send(&[0xE0, 0]).await;
            assert_eq!(client.frame().await, None);
        }
    }
}

// [MQTT-3.2.2-1] [MQTT-3.2.2-2] [MQTT-3.2.2-3], and the reserved byte of 3.1.
#[tokio::test]
async fn session_present_is_said_in_3_1_1_and_cannot_be_in_3_1() {
    let gateway = gateway().await;
    for version in V3 {
        let id = Scope::new().id("a");
        assert!(
            !session(&gateway, version, &id)
                .await
                .connack
                .session_present
        );
        let again = session(&gateway, version, &id).await;
        assert_eq!(again.connack.session_present, version == Version::V311);
        again.disconnect().await;
        // [MQTT-3.1.2-6]: a clean session forgets it.
        let clean = connect(&gateway, version, &id).await;
        assert!(!clean.connack.session_present);
        clean.disconnect().await;
        assert!(
            !session(&gateway, version, &id)
                .await
                .connack
                .session_present
        );
    }
}

// [MQTT-3.1.2-2] [MQTT-3.1.3-8] [MQTT-3.1.3-9] [MQTT-3.2.2-4] [MQTT-3.2.2-5]
#[tokio::test]
async fn connack_refuses_with_the_codes_of_version_3() {
    let gateway = gateway().await;
    let admin = gateway.admin.clone();
    let refused = async |connect: Connect| {
        let mut client = gateway.try_connect(&connect).await;
        let code = client.connack.code;
        assert!(!client.connack.session_present);
        assert_eq!(client.frame().await, None, "closed after CONNACK {code}");
        code
    };
    for version in V3 {
        assert_eq!(
            refused(Connect::new(version, "a").user(&admin.name, "wrong")).await,
            4
        );
        assert_eq!(
            refused(Connect::new(version, "a").user("nobody", "wrong")).await,
            4
        );
        assert_eq!(refused(Connect::new(version, "").persistent(0)).await, 2);
    }
    let mut client = gateway.open().await;
    let mut bytes = gateway.login(&Connect::v311("a")).bytes();
    bytes[8] = 9;
    client.send(&bytes).await;
    let (_, body) = client.frame().await.expect("CONNACK");
    assert!(matches!(body[..], [0, 1] | [0, 0x84, ..]), "{body:02x?}");
    assert_eq!(client.frame().await, None);
}

// [MQTT-3.1.3-6] [MQTT-3.1.3-7]: without a client identifier and with a clean session everybody is somebody else.
#[tokio::test]
async fn an_empty_client_identifier_is_fine_with_a_clean_session() {
    let gateway = gateway().await;
    let mut first = connect(&gateway, Version::V311, "").await;
    let mut second = connect(&gateway, Version::V311, "").await;
    first.nothing_came().await;
    second.nothing_came().await;
}

// [MQTT-3.1.4-2]
#[tokio::test]
async fn a_second_connection_closes_the_first_one() {
    let gateway = gateway().await;
    for old in EVERY_VERSION {
        for new in V3 {
            let id = Scope::new().id("a");
            let mut first = connect(&gateway, old, &id).await;
            let mut second = connect(&gateway, new, &id).await;
            let reason = first.end().await;
            assert_eq!(
                reason.map(|r| r.code),
                (old == Version::V5).then_some(0x8E),
                "{old:?} then {new:?}"
            );
            second.nothing_came().await;
        }
    }
}

// [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-2], S1
#[tokio::test]
async fn a_denied_filter_gets_0x80_in_3_1_1_and_the_end_in_3_1() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let user = gateway.add_user(&scope.id("user"), &[]).await;
    let filter = scope.topic("a");
    gateway
        .acl(&format!("allow subscribe {filter} --user {}", user.name))
        .await;
    let subscribe = Subscribe {
        id: 1,
        ..Subscribe::to(&filter, 1)
            .and("denied", 1)
            .and("#", 2)
            .and(&filter, 0)
    };
    let connect = |version| Connect::new(version, &scope.id("a")).user(&user.name, &user.password);
    let mut client = gateway.connect(connect(Version::V311)).await;
    assert_eq!(
        client.subscribe_all(subscribe.clone()).await.codes,
        [1, 0x80, 0x80, 0]
    );
    let mut client = gateway.connect(connect(Version::V31)).await;
    client.send(&subscribe.bytes(Version::V31)).await;
    assert_eq!(client.frame().await, None);
}

// S1: what cannot be refused is acknowledged and dropped, or ends the connection, as configured.
#[tokio::test]
async fn a_denied_publish_is_acknowledged_and_dropped() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let user = gateway.add_user(&scope.id("user"), &[]).await;
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("#"), 2).await;
    for version in V3 {
        let mut client = gateway
            .connect(Connect::new(version, &scope.id("a")).user(&user.name, &user.password))
            .await;
        for qos in 0..=2 {
            client
                .publish(Publish::new(&scope.topic("a"), "x").qos(qos))
                .await;
            client
                .publish(Publish::new(&scope.topic("a"), "x").qos(qos).retain())
                .await;
        }
        client.nothing_came().await;
    }
    watcher
        .publish(Publish::new(&scope.topic("end"), "").qos(2))
        .await;
    assert_eq!(watcher.receive_until(&scope.topic("end")).await, []);
    watcher.subscribe(&scope.topic("a"), 2).await;
    watcher.nothing_came().await;
}

#[tokio::test]
async fn a_denied_publish_ends_the_connection_where_that_is_configured() {
    let gateway = Setup::new()
        .toml("[session]\ndenied_publish = \"disconnect\"\n")
        .start()
        .await;
    let user = gateway.add_user("user", &[]).await;
    for version in V3 {
        for qos in 0..=2 {
            let mut client = gateway
                .connect(Connect::new(version, "a").user(&user.name, &user.password))
                .await;
            client.start_publish(Publish::new("a", "x").qos(qos)).await;
            assert_eq!(client.frame().await, None, "{version:?} QoS {qos}");
        }
    }
}

// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1]
#[tokio::test]
async fn unacknowledged_messages_come_again_with_dup_in_order() {
    let gateway = gateway().await;
    for version in V3 {
        for qos in [1, 2] {
            let scope = Scope::new();
            let topic = scope.topic("a");
            let mut client = session(&gateway, version, &scope.id("s")).await;
            client.subscribe(&topic, 2).await;
            let mut publisher = connect(&gateway, version, &scope.id("p")).await;
            let mut first = Vec::new();
            for n in 0..10 {
                publisher
                    .publish(Publish::new(&topic, &n.to_string()).qos(qos))
                    .await;
                first.push(client.message().await);
            }
            client.vanish();
            publisher
                .publish(Publish::new(&topic, "later").qos(qos))
                .await;
            let mut client = session(&gateway, version, &scope.id("s")).await;
            for message in first {
                assert_eq!(client.receive().await, message.dup());
            }
            assert_eq!(client.receive().await.text(), "later");
            client.nothing_came().await;
        }
    }
}

// [MQTT-4.3.3-1] [MQTT-4.3.3-2]
#[tokio::test]
async fn qos_2_is_delivered_once_in_both_directions() {
    let gateway = gateway().await;
    for version in V3 {
        let scope = Scope::new();
        let topic = scope.topic("a");
        let mut subscriber = session(&gateway, version, &scope.id("s")).await;
        subscriber.subscribe(&topic, 2).await;
        let mut publisher = session(&gateway, version, &scope.id("p")).await;
        publisher
            .start_publish(Publish::new(&topic, "once").qos(2).id(3))
            .await;
        publisher.pubrec(3).await;
        publisher.vanish();
        let mut publisher = session(&gateway, version, &scope.id("p")).await;
        publisher
            .start_publish(Publish::new(&topic, "once").qos(2).id(3).dup())
            .await;
        publisher.pubrec(3).await;
        publisher.send(&ack(PUBREL, 3)).await;
        publisher
            .wait_for("PUBCOMP", |p| matches!(p, Packet::PubComp(a) if a.id == 3))
            .await;

        let message = subscriber.message().await;
        subscriber.send(&ack(PUBREC, message.id)).await;
        assert!(matches!(subscriber.packet().await, Packet::PubRel(a) if a.id == message.id));
        subscriber.vanish();
        let mut subscriber = session(&gateway, version, &scope.id("s")).await;
        assert!(matches!(subscriber.packet().await, Packet::PubRel(a) if a.id == message.id));
        subscriber.send(&ack(PUBCOMP, message.id)).await;
        subscriber.nothing_came().await;
    }
}

// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.8.4-3]
#[tokio::test]
async fn retained_messages_follow_version_3() {
    let gateway = gateway().await;
    for version in V3 {
        let scope = Scope::new();
        let topic = scope.topic("a");
        let mut client = connect(&gateway, version, &scope.id("a")).await;
        client
            .publish(Publish::new(&topic, "kept").qos(1).retain())
            .await;
        // Every SUBSCRIBE brings them, a repeated one, too.
        for qos in [0, 1, 1] {
            client.subscribe(&topic, qos).await;
            let message = client.receive().await;
            assert_eq!(
                (message.text(), message.retain, message.qos),
                ("kept", true, qos)
            );
        }
        client
            .publish(Publish::new(&topic, "new").qos(1).retain())
            .await;
        assert!(
            !client.receive().await.retain,
            "an established subscription sees the flag as 0"
        );
        client
            .publish(Publish::new(&topic, "").qos(1).retain())
            .await;
        assert!(client.receive().await.payload.is_empty());
        client.subscribe(&topic, 1).await;
        client.nothing_came().await;
    }
}

// [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3]
#[tokio::test]
async fn the_will_follows_every_end_without_disconnect() {
    let gateway = gateway().await;
    for version in V3 {
        for qos in 0..=2 {
            let scope = Scope::new();
            let mut watcher = connect(&gateway, version, &scope.id("w")).await;
            watcher.subscribe(&scope.topic("#"), 2).await;
            let will = |text| {
                Connect::new(version, &scope.id("a"))
                    .will(Will::new(&scope.topic("will"), text).qos(qos))
            };
            gateway.connect(will("clean")).await.disconnect().await;
            gateway.connect(will("broken")).await.vanish();
            let came = watcher.receive().await;
            assert_eq!((came.text(), came.qos), ("broken", qos));
            let mut taken = gateway.connect(will("taken over")).await;
            let new = connect(&gateway, version, &scope.id("a")).await;
            assert_eq!(taken.end().await, None);
            assert_eq!(watcher.receive().await.text(), "taken over");
            new.disconnect().await;
        }
    }
}

// [MQTT-3.1.2-24], S3
#[tokio::test]
async fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let gateway = gateway().await;
    for version in V3 {
        let mut client = gateway
            .connect(Connect::new(version, &Scope::new().id("a")).keep_alive(1))
            .await;
        let start = Instant::now();
        assert_eq!(client.frame().await, None);
        let after = start.elapsed();
        assert!(
            after > Duration::from_millis(1_490) && after < Duration::from_secs(4),
            "after {after:?}"
        );
    }
}

// [MQTT-3.10.4-4] [MQTT-3.10.4-5]
#[tokio::test]
async fn unsuback_comes_also_for_unknown_filters() {
    let gateway = gateway().await;
    let mut client = connect(&gateway, Version::V311, &Scope::new().id("a")).await;
    exchange(
        &mut client,
        &unsubscribe(Version::V311, 0x1234, &["never", "was/#"]),
        &[0xB0, 2, 0x12, 0x34],
    )
    .await;
}

// MQTT 5 properties do not leak into version 3, and version 3 gets everything else.
#[tokio::test]
async fn messages_cross_between_versions() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut clients = Vec::new();
    for version in EVERY_VERSION {
        let mut client = connect(&gateway, version, &scope.id(&format!("{version:?}"))).await;
        client.subscribe(&topic, 1).await;
        clients.push(client);
    }
    for from in 0..clients.len() {
        let mut publish = Publish::new(&topic, "x").qos(1);
        if clients[from].version == Version::V5 {
            publish = publish.with(postern_tests::Property::user("a", "b"));
        }
        let wanted = publish.properties.clone();
        clients[from].publish(publish).await;
        for client in &mut clients {
            let message = client.receive().await;
            assert_eq!(message.text(), "x");
            if client.version == Version::V5 {
                assert_eq!(message.properties, wanted);
            }
        }
    }
}

/// Packets that end a version 3 connection, without a word.
fn wrong_packets() -> Vec<(&'static str, Vec<u8>)> {
    let raw = |topic: &[u8]| {
        let mut body = Vec::new();
        write_binary(&mut body, topic);
        frame(0x30, body)
    };
    let v311 = Version::V311;
    vec![
        // [MQTT-3.1.0-2]
        ("a second CONNECT", Connect::v311("a").bytes()),
        // [MQTT-3.3.1-4] [MQTT-2.3.1-1] [MQTT-3.3.2-2]
        ("QoS 3", vec![0x36, 5, 0, 1, b'a', 0, 1]),
        (
            "packet identifier 0",
            Publish::new("a", "").qos(1).bytes(v311),
        ),
        ("# in a topic name", raw(b"a/#")),
        ("+ in a topic name", raw(b"+")),
        ("an empty topic name", raw(b"")),
        // [MQTT-1.5.3-1] [MQTT-1.5.3-2]
        ("U+0000 in a topic name", raw(b"a\0")),
        ("a surrogate in a topic name", raw(b"\xED\xA0\x80")),
        ("invalid UTF-8 in a topic name", raw(b"\xC3\x28")),
        // [MQTT-2.2.2-2] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.6.1-1]
        (
            "SUBSCRIBE with flags 0",
            frame(0x80, vec![0, 1, 0, 1, b'a', 0]),
        ),
        (
            "UNSUBSCRIBE with flags 0",
            frame(0xA0, vec![0, 1, 0, 1, b'a']),
        ),
        ("PUBREL with flags 0", frame(0x60, vec![0, 1])),
        ("PUBACK with flags 1", frame(PUBACK | 1, vec![0, 1])),
        // [MQTT-3.8.3-3] [MQTT-3.8.3-4] [MQTT-3.10.3-2]
        ("SUBSCRIBE without filters", frame(0x82, vec![0, 1])),
        ("UNSUBSCRIBE without filters", frame(0xA2, vec![0, 1])),
        (
            "subscription QoS 3",
            Subscribe {
                id: 1,
                ..Subscribe::to("a", 3)
            }
            .bytes(v311),
        ),
        (
            "reserved bits in the QoS byte",
            Subscribe {
                id: 1,
                ..Subscribe::to("a", 4)
            }
            .bytes(v311),
        ),
        (
            "SUBSCRIBE with identifier 0",
            Subscribe::to("a", 0).bytes(v311),
        ),
        ("a filter cut short", frame(0x82, vec![0, 1, 0, 9, b'a', 0])),
        ("PUBACK of MQTT 5", frame(PUBACK, vec![0, 1, 0x10])),
        ("PINGREQ with a body", vec![0xC0, 1, 0]),
        ("DISCONNECT of MQTT 5", vec![0xE0, 1, 0]),
        ("AUTH", vec![0xF0, 0]),
        ("CONNACK", vec![0x20, 2, 0, 0]),
        ("PINGRESP", vec![0xD0, 0]),
        ("packet type 0", vec![0, 0]),
        (
            "five bytes of remaining length",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1],
        ),
        ("too large a packet", vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F]),
    ]
}

// [MQTT-4.8.0-1], and a server of version 3 has no DISCONNECT.
#[tokio::test]
async fn every_wrong_packet_ends_its_connection_silently() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut bystander = connect(&gateway, Version::V311, &scope.id("bystander")).await;
    let mut wrong = Vec::new();
    for (name, bytes) in wrong_packets() {
        let mut client = connect(&gateway, Version::V311, &scope.id("a")).await;
        client.send(&bytes).await;
        let _ = client.try_send(&PINGREQ).await;
        if let Some(packet) = client.frame().await {
            wrong.push(format!("{name}: {packet:02x?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    bystander.nothing_came().await;
}

// [MQTT-3.1.2-3] [MQTT-3.1.2-13] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.2-22]
#[tokio::test]
async fn wrong_connect_flags_are_refused() {
    let gateway = gateway().await;
    let good = gateway.login(&Connect::v311("a")).bytes();
    for (name, flags) in [
        ("the reserved flag", 0xC3),
        ("will QoS without a will", 0xCA),
        ("will retain without a will", 0xE2),
        ("a password without a user name", 0x42),
    ] {
        let mut bytes = good.clone();
        bytes[9] = flags;
        let mut client = gateway.open().await;
        client.send(&bytes).await;
        let answer = client.frame().await;
        let refused = answer
            .as_ref()
            .is_none_or(|(first, body)| *first == 0x20 && body[1] != 0);
        assert!(refused, "{name}: {answer:02x?}");
    }
}
