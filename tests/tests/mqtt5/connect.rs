//! CONNECT and CONNACK.

use postern_tests::packet::{EVERY_VERSION, PINGREQ, Packet, Version, frame};
use postern_tests::{Connect, Gateway, Property, Publish, Scope, Subscribe};

use crate::{RECEIVE_MAXIMUM, gateway};

// [MQTT-3.1.2-28] and the defaults of section 3.2.2.3: what equals its default is left out.
#[tokio::test]
async fn connack_announces_the_limits_and_nothing_unasked() {
    let gateway = gateway().await;
    let client = gateway.v5(&Scope::new().id("a")).await;
    let properties = &client.connack.properties;
    assert!(!client.connack.session_present);
    assert!(
        properties.contains(&Property::ReceiveMaximum(RECEIVE_MAXIMUM)),
        "{properties:?}"
    );
    assert!(
        properties.contains(&Property::MaximumPacketSize(1 << 20)),
        "{properties:?}"
    );
    assert!(
        properties.contains(&Property::TopicAliasMaximum(16)),
        "{properties:?}"
    );
    for property in properties {
        let unasked = matches!(
            property,
            Property::AssignedClientId(_)
                | Property::ResponseInformation(_)
                | Property::ServerReference(_)
                | Property::AuthenticationMethod(_)
                | Property::MaximumQos(_)
                | Property::RetainAvailable(0)
                | Property::WildcardAvailable(0)
                | Property::SharedAvailable(0)
                | Property::SubscriptionIdAvailable(0)
        );
        assert!(
            !unasked,
            "{property:?} was not asked for, or restricts what the gateway can do"
        );
    }
}

// [MQTT-3.1.0-1] [MQTT-3.14.0-1]
#[tokio::test]
async fn anything_before_connect_closes_the_connection_without_a_word() {
    let gateway = gateway().await;
    let version = Version::V5;
    for (name, bytes) in [
        ("PUBLISH", Publish::new("a", "b").bytes(version)),
        ("SUBSCRIBE", Subscribe::to("a", 0).bytes(version)),
        ("PINGREQ", PINGREQ.to_vec()),
        ("DISCONNECT", vec![0xE0, 0x00]),
        ("AUTH", vec![0xF0, 0x00]),
        ("CONNACK", vec![0x20, 0x03, 0x00, 0x00, 0x00]),
        ("type 0", vec![0x00, 0x00]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let mut client = gateway.open().await;
        client.send(&bytes).await;
        assert_eq!(client.frame().await, None, "{name}");
    }
}

// [MQTT-3.1.0-2]
#[tokio::test]
async fn a_second_connect_is_a_protocol_error() {
    let gateway = gateway().await;
    let connect = gateway.login(&Connect::v5(&Scope::new().id("a")));
    let mut client = gateway.connect(connect.clone()).await;
    client.send(&connect.bytes()).await;
    assert_eq!(client.end_code().await, 0x82);
}

// [MQTT-3.1.2-1] [MQTT-3.1.2-2]
#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let gateway = gateway().await;
    for level in [0, 1, 2, 6, 7, 0x7F, 0xFF] {
        let mut client = gateway.open().await;
        let mut bytes = gateway.login(&Connect::v5("a")).bytes();
        let at = bytes
            .iter()
            .position(|byte| *byte == b'T')
            .expect("the name")
            + 2;
        bytes[at] = level;
        client.send(&bytes).await;
        let (first, body) = client
            .frame()
            .await
            .unwrap_or_else(|| panic!("level {level}: no CONNACK"));
        assert_eq!(first, 0x20, "level {level}");
        // 0x84 in the form of MQTT 5, 0x01 in the form of MQTT 3.
        assert!(
            matches!(body[..], [0, 0x84, ..] | [0, 0x01]),
            "level {level}: {body:02x?}"
        );
        assert_eq!(client.frame().await, None, "level {level}");
    }
    for name in ["MQTx", "mqtt", "MQIsdp", "", "MQTTT"] {
        let mut client = gateway.open().await;
        let mut body = (name.len() as u16).to_be_bytes().to_vec();
        body.extend(name.as_bytes());
        body.extend([5, 2, 0, 0, 0, 0, 1, b'a']);
        client.send(&frame(0x10, body)).await;
        if let Some((first, body)) = client.frame().await {
            assert_eq!(first, 0x20, "protocol name {name:?}");
            assert!(
                body[1] >= 0x80 || body[..] == [0, 1],
                "protocol name {name:?}: {body:02x?}"
            );
            assert_eq!(client.frame().await, None, "protocol name {name:?}");
        }
    }
}

// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[tokio::test]
async fn an_empty_client_identifier_gets_one_of_its_own() {
    let gateway = gateway().await;
    let mut assigned = Vec::new();
    for clean in [true, false] {
        let mut connect = Connect::v5("").persistent(60);
        connect.clean = clean;
        let client = gateway.connect(connect).await;
        assert!(!client.connack.session_present);
        let id = client.connack.properties.iter().find_map(|p| match p {
            Property::AssignedClientId(id) => Some(id.clone()),
            _ => None,
        });
        assigned.push(id.expect("an assigned client identifier"));
        client.disconnect().await;
    }
    assert_ne!(assigned[0], assigned[1]);
    for id in assigned {
        assert!(!id.is_empty());
        let client = gateway.connect(Connect::v5(&id).persistent(0)).await;
        assert!(
            client.connack.session_present,
            "the assigned identifier names the session"
        );
    }
}

// [MQTT-3.1.3-5]
#[tokio::test]
async fn every_allowed_client_identifier_is_taken() {
    let gateway = gateway().await;
    for id in [
        "0123456789abcdefghijklm",
        "nopqrstuvwxyzABCDEFGHIJ",
        "KLMNOPQRSTUVWXYZ",
        "0",
    ] {
        gateway.v5(id).await.disconnect().await;
    }
}

// [MQTT-3.2.2-6] [MQTT-3.2.2-7]
#[tokio::test]
async fn bad_credentials_get_0x86_and_the_end() {
    let gateway = gateway().await;
    let admin = &gateway.admin.name;
    let session = Scope::new().id("a");
    gateway
        .connect(Connect::v5(&session).persistent(60))
        .await
        .vanish();
    for (user, password) in [
        (admin.as_str(), "wrong"),
        ("nobody", "wrong"),
        (admin, ""),
        ("", ""),
    ] {
        let mut client = gateway
            .try_connect(&Connect::v5(&session).persistent(60).user(user, password))
            .await;
        assert_eq!(client.connack.code, 0x86, "{user:?}");
        assert!(!client.connack.session_present);
        assert_eq!(client.frame().await, None);
    }
}

// I5
#[tokio::test]
async fn nobody_is_let_in_without_a_name() {
    let gateway = gateway().await;
    for version in EVERY_VERSION {
        let mut client = gateway
            .try_connect(&Connect::new(version, "anonymous").anonymous())
            .await;
        let code = client.connack.code;
        assert!(
            if version == Version::V5 {
                matches!(code, 0x86 | 0x87)
            } else {
                matches!(code, 4 | 5)
            },
            "{code:#x}"
        );
        assert_eq!(client.frame().await, None);
    }
}

// [MQTT-4.12.0-1]
#[tokio::test]
async fn an_unknown_authentication_method_gets_0x8c() {
    let gateway = gateway().await;
    let connect = Connect::v5(&Scope::new().id("a"))
        .with(Property::AuthenticationMethod("SCRAM-SHA-1".into()))
        .with(Property::AuthenticationData(b"n,,n=user".to_vec()));
    let mut client = gateway.try_connect(&connect).await;
    assert_eq!(client.connack.code, 0x8C);
    assert_eq!(client.frame().await, None);
}

// [MQTT-3.1.4-6]
#[tokio::test]
async fn packets_behind_a_refused_connect_do_nothing() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("#"), 1).await;
    let mut bytes = Connect::v5(&scope.id("a")).user("nobody", "wrong").bytes();
    bytes.extend(Publish::new(&scope.topic("sneaked"), "in").bytes(Version::V5));
    bytes.extend(
        Publish::new(&scope.topic("sneaked"), "in")
            .retain()
            .bytes(Version::V5),
    );
    let mut client = gateway.open().await;
    client.send(&bytes).await;
    assert!(matches!(client.packet().await, Packet::ConnAck(connack) if connack.code == 0x86));
    assert_eq!(client.frame().await, None);
    watcher
        .publish(Publish::new(&scope.topic("end"), "").qos(1))
        .await;
    assert_eq!(watcher.receive_until(&scope.topic("end")).await, []);
}

// Section 3.1.4: a client need not wait for CONNACK.
#[tokio::test]
async fn packets_behind_connect_in_the_same_segment_count() {
    let gateway = gateway().await;
    let topic = Scope::new().topic("a");
    let mut bytes = gateway.login(&Connect::v5(&Scope::new().id("a"))).bytes();
    bytes.extend(
        Subscribe {
            id: 1,
            ..Subscribe::to(&topic, 0)
        }
        .bytes(Version::V5),
    );
    bytes.extend(Publish::new(&topic, "hello").bytes(Version::V5));
    bytes.extend(PINGREQ);
    let mut client = gateway.open().await;
    client.send(&bytes).await;
    assert!(matches!(client.packet().await, Packet::ConnAck(connack) if connack.code == 0));
    client
        .wait_for("SUBACK", |p| matches!(p, Packet::SubAck(_)))
        .await;
    client
        .wait_for(
            "the message",
            |p| matches!(p, Packet::Publish(p) if p.payload == b"hello"),
        )
        .await;
    client
        .wait_for("PINGRESP", |p| *p == Packet::PingResp)
        .await;
}

#[tokio::test]
async fn one_byte_at_a_time_works() {
    let gateway = gateway().await;
    let topic = Scope::new().topic("a");
    let mut bytes = gateway.login(&Connect::v5(&Scope::new().id("a"))).bytes();
    bytes.extend(
        Subscribe {
            id: 1,
            ..Subscribe::to(&topic, 0)
        }
        .bytes(Version::V5),
    );
    bytes.extend(
        Publish::new(&topic, "hello")
            .with(Property::user("a", "b"))
            .bytes(Version::V5),
    );
    let mut client = gateway.open_tls().await;
    for byte in bytes {
        client.send(&[byte]).await;
    }
    client
        .wait_for(
            "CONNACK",
            |p| matches!(p, Packet::ConnAck(connack) if connack.code == 0),
        )
        .await;
    client
        .wait_for(
            "the message",
            |p| matches!(p, Packet::Publish(p) if p.payload == b"hello"),
        )
        .await;
}

// [MQTT-3.1.2-29]: reason strings and user properties only where the client wants them.
#[tokio::test]
async fn reason_strings_come_unless_the_client_declines_them() {
    let gateway = gateway().await;
    for (wanted, property) in [(true, None), (true, Some(1)), (false, Some(0))] {
        let mut connect = Connect::v5(&Scope::new().id("a"));
        connect
            .properties
            .extend(property.map(Property::RequestProblemInformation));
        let mut client = gateway.connect(connect).await;
        let (_, id) = client
            .start_publish(Publish::new("$SYS/mine", "x").qos(1))
            .await;
        let puback = client.puback(id).await;
        assert_eq!(puback.code, 0x87, "P2: clients never publish to $ topics");
        let suback = client.subscribe_all(Subscribe::to("a/#/b", 0)).await;
        assert_eq!(suback.codes, [0x8F]);
        for properties in [&puback.properties, &suback.properties] {
            let there = properties
                .iter()
                .any(|p| matches!(p, Property::ReasonString(_)));
            assert_eq!(there, wanted, "{property:?}: {properties:?}");
        }
    }
}

// [MQTT-3.2.2-19] [MQTT-3.1.2-24]: the small maximum leaves no room for a reason string.
#[tokio::test]
async fn an_acknowledgement_sheds_its_reason_string_rather_than_exceed_the_maximum() {
    let gateway = gateway().await;
    let connect = Connect::v5(&Scope::new().id("a")).with(Property::MaximumPacketSize(30));
    let mut client = gateway.open().await;
    client.send(&gateway.login(&connect).bytes()).await;
    let (first, body) = client.frame().await.expect("CONNACK");
    assert_eq!((first, body[1]), (0x20, 0), "{body:02x?}");
    assert!(body.len() + 2 <= 30, "CONNACK of {} bytes", body.len() + 2);
    client
        .send(
            &Publish::new("$SYS/mine", "x")
                .qos(1)
                .id(1)
                .bytes(Version::V5),
        )
        .await;
    let (first, body) = client.frame().await.expect("PUBACK");
    assert_eq!((first, &body[..3]), (0x40, &[0, 1, 0x87][..]));
    assert!(body.len() + 2 <= 30, "PUBACK of {} bytes", body.len() + 2);
}

async fn expiry_granted(gateway: &Gateway, asked: u32) -> Option<u32> {
    let mut connect = Connect::v5(&Scope::new().id("a")).persistent(asked);
    connect.clean = true;
    let client = gateway.connect(connect).await;
    let granted = |p: &Property| {
        if let Property::SessionExpiry(s) = p {
            Some(*s)
        } else {
            None
        }
    };
    let granted = client.connack.properties.iter().find_map(granted);
    client.disconnect().await;
    granted
}

// S5: session_expiry_max. Section 3.2.2.3.2: absent means "as you asked".
#[tokio::test]
async fn a_session_expiry_above_the_maximum_is_lowered_and_said_so() {
    let gateway = gateway().await;
    let week = 7 * 24 * 3600;
    assert!(matches!(
        expiry_granted(&gateway, 60).await,
        None | Some(60)
    ));
    assert!(matches!(
        expiry_granted(&gateway, week).await,
        None | Some(604_800)
    ));
    assert_eq!(expiry_granted(&gateway, week + 1).await, Some(week));
    assert_eq!(expiry_granted(&gateway, u32::MAX).await, Some(week));
}
