//! Malformed packets and protocol errors: each ends the connection with the reason code of the specification, and
//! nobody else notices.

use postern_tests::packet::{
    PUBREL, Packet, Version, ack, ack_with, disconnect, frame, unsubscribe,
};
use postern_tests::property::write_binary;
use postern_tests::{Connect, Property, Publish, Scope, Subscribe};

use crate::gateway;

const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_NAME_INVALID: u8 = 0x90;
const TOPIC_ALIAS_INVALID: u8 = 0x94;
const PACKET_TOO_LARGE: u8 = 0x95;

/// A PUBLISH at QoS 0 whose parts are raw bytes.
fn publish(topic: &[u8], properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    write_binary(&mut body, topic);
    body.push(properties.len() as u8);
    body.extend(properties);
    body.extend(payload);
    frame(0x30, body)
}

fn with(property: Property) -> Vec<u8> {
    Publish::new("a", "").with(property).bytes(Version::V5)
}

fn subscribe(options: u8) -> Vec<u8> {
    Subscribe {
        id: 1,
        ..Subscribe::to("a", options)
    }
    .bytes(Version::V5)
}

fn subscribe_raw(filter: &[u8], properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1, properties.len() as u8];
    body.extend(properties);
    write_binary(&mut body, filter);
    body.push(0);
    frame(0x82, body)
}

/// Wrong PUBLISH packets. Where the specification leaves the choice between "malformed" and a more telling code,
/// both are listed.
fn publish_cases() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    vec![
        // [MQTT-3.3.1-4]
        ("QoS 3", vec![0x36, 0x06, 0, 1, b'a', 0, 1, 0], &[MALFORMED]),
        // [MQTT-3.3.1-2]
        (
            "DUP with QoS 0",
            vec![0x38, 0x04, 0, 1, b'a', 0],
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-2.2.1-3]
        (
            "packet identifier 0 at QoS 1",
            Publish::new("a", "").qos(1).bytes(Version::V5),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "packet identifier 0 at QoS 2",
            Publish::new("a", "").qos(2).bytes(Version::V5),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-3.3.2-2] [MQTT-4.7.0-1]
        (
            "+ in a topic name",
            publish(b"a/+", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "# in a topic name",
            publish(b"a/#", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "+ inside a topic level",
            publish(b"a+b", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        // [MQTT-4.7.3-1]
        (
            "an empty topic without alias",
            publish(b"", b"", b""),
            &[PROTOCOL_ERROR],
        ),
        // [MQTT-1.5.4-1] [MQTT-1.5.4-2] [MQTT-4.7.3-2]
        (
            "U+0000 in a topic",
            publish(b"a\0b", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "a surrogate in a topic",
            publish(b"a\xED\xA0\x80", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "invalid UTF-8 in a topic",
            publish(b"a\xFF", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        (
            "overlong UTF-8 in a topic",
            publish(b"a\xC0\xAF", b"", b""),
            &[MALFORMED, TOPIC_NAME_INVALID],
        ),
        // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
        (
            "topic alias 0",
            with(Property::TopicAlias(0)),
            &[TOPIC_ALIAS_INVALID],
        ),
        (
            "topic alias above the maximum",
            with(Property::TopicAlias(17)),
            &[TOPIC_ALIAS_INVALID],
        ),
        (
            "an unknown topic alias",
            Publish::new("", "")
                .with(Property::TopicAlias(16))
                .bytes(Version::V5),
            &[PROTOCOL_ERROR],
        ),
        // [MQTT-3.3.4-6]
        (
            "a subscription identifier from a client",
            with(Property::SubscriptionId(1)),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-3.3.2-13] [MQTT-3.3.2-14]
        (
            "a wildcard in the response topic",
            with(Property::ResponseTopic("a/#".into())),
            &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID],
        ),
        (
            "U+0000 in the content type",
            with(Property::ContentType("\0".into())),
            &[MALFORMED],
        ),
        (
            "U+0000 in a user property",
            with(Property::user("a", "\0")),
            &[MALFORMED],
        ),
        (
            "invalid UTF-8 in a user property",
            publish(b"a", &[0x26, 0, 1, 0xFF, 0, 1, b'a'], b""),
            &[MALFORMED],
        ),
        // Section 3.3.2.3.2
        (
            "payload format indicator 2",
            with(Property::PayloadFormat(2)),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // Section 2.2.2.2
        (
            "a property twice",
            publish(b"a", &[1, 0, 1, 0], b""),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "two content types",
            publish(b"a", &[3, 0, 1, b'a', 3, 0, 1, b'a'], b""),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "a property of CONNECT",
            with(Property::SessionExpiry(1)),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "a reason string",
            with(Property::ReasonString("a".into())),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "an unknown property",
            publish(b"a", &[0x7F, 0], b""),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "a property cut short",
            publish(b"a", &[0x02, 0, 0], b""),
            &[MALFORMED],
        ),
        (
            "properties longer than the packet",
            vec![0x30, 0x04, 0, 1, b'a', 9],
            &[MALFORMED],
        ),
        (
            "a topic longer than the packet",
            vec![0x30, 0x04, 0, 9, b'a', 0],
            &[MALFORMED],
        ),
        (
            "no property length",
            vec![0x30, 0x03, 0, 1, b'a'],
            &[MALFORMED],
        ),
        (
            "no packet identifier",
            vec![0x32, 0x03, 0, 1, b'a'],
            &[MALFORMED],
        ),
        ("nothing at all", vec![0x30, 0x00], &[MALFORMED]),
    ]
}

/// Wrong packets of the other types.
fn other_cases() -> Vec<(&'static str, Vec<u8>, &'static [u8])> {
    let v5 = Version::V5;
    vec![
        // [MQTT-2.1.3-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.6.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
        (
            "SUBSCRIBE with flags 0",
            [&[0x80][..], &subscribe(0)[1..]].concat(),
            &[MALFORMED],
        ),
        (
            "UNSUBSCRIBE with flags 0",
            [&[0xA0][..], &unsubscribe(v5, 1, &["a"])[1..]].concat(),
            &[MALFORMED],
        ),
        ("PUBREL with flags 0", frame(0x60, vec![0, 1]), &[MALFORMED]),
        ("PUBACK with flags 2", frame(0x42, vec![0, 1]), &[MALFORMED]),
        ("PUBREC with flags 1", frame(0x51, vec![0, 1]), &[MALFORMED]),
        (
            "PUBCOMP with flags 8",
            frame(0x78, vec![0, 1]),
            &[MALFORMED],
        ),
        ("PINGREQ with flags 1", vec![0xC1, 0x00], &[MALFORMED]),
        ("DISCONNECT with flags 1", vec![0xE1, 0x00], &[MALFORMED]),
        ("AUTH with flags 1", vec![0xF1, 0x00], &[MALFORMED]),
        (
            "packet type 0",
            vec![0x00, 0x00],
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // Section 2.1.4
        (
            "a remaining length of five bytes",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            &[MALFORMED],
        ),
        (
            "the largest remaining length",
            vec![0x30, 0xFF, 0xFF, 0xFF, 0x7F],
            &[PACKET_TOO_LARGE],
        ),
        // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
        (
            "SUBSCRIBE without filters",
            frame(0x82, vec![0, 1, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "UNSUBSCRIBE without filters",
            frame(0xA2, vec![0, 1, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-2.2.1-3]
        (
            "SUBSCRIBE with identifier 0",
            Subscribe::to("a", 0).bytes(v5),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "UNSUBSCRIBE with identifier 0",
            unsubscribe(v5, 0, &["a"]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-3.8.3-5], section 3.8.3.1
        (
            "subscription QoS 3",
            subscribe(3),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "retain handling 3",
            subscribe(0x30),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        ("reserved option bit 6", subscribe(0x40), &[MALFORMED]),
        ("reserved option bit 7", subscribe(0x80), &[MALFORMED]),
        // Section 3.8.2.1.2
        (
            "subscription identifier 0",
            Subscribe {
                id: 1,
                ..Subscribe::to("a", 0).identified(0)
            }
            .bytes(v5),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "two subscription identifiers",
            Subscribe {
                id: 1,
                ..Subscribe::to("a", 0).identified(1).identified(2)
            }
            .bytes(v5),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        // [MQTT-3.8.3-1] [MQTT-3.10.3-1]
        (
            "invalid UTF-8 in a filter",
            subscribe_raw(b"a\xFF", b""),
            &[MALFORMED],
        ),
        (
            "U+0000 in a filter",
            subscribe_raw(b"a\0", b""),
            &[MALFORMED, 0x8F],
        ),
        // [MQTT-4.7.3-1]
        (
            "an empty filter",
            subscribe_raw(b"", b""),
            &[MALFORMED, PROTOCOL_ERROR, 0x8F],
        ),
        (
            "a filter without options",
            frame(0x82, vec![0, 1, 0, 0, 1, b'a']),
            &[MALFORMED],
        ),
        (
            "a topic alias in SUBSCRIBE",
            subscribe_raw(b"a", &[0x23, 0, 1]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "PUBACK with identifier 0",
            ack(0x40, 0),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "PUBREL with identifier 0",
            ack(PUBREL, 0),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "PUBACK with an unknown reason",
            ack_with(0x40, 1, 0x55),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "PUBREL with a reason of PUBACK",
            ack_with(PUBREL, 1, 0x10),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        ("PUBACK of one byte", frame(0x40, vec![0]), &[MALFORMED]),
        (
            "PUBACK with bytes behind its end",
            frame(0x40, vec![0, 1, 0, 0, 7]),
            &[MALFORMED],
        ),
        ("PINGREQ with a body", vec![0xC0, 0x01, 0x00], &[MALFORMED]),
        (
            "DISCONNECT with an unknown reason",
            disconnect(0x55, &[]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "DISCONNECT with a reason for servers only",
            disconnect(0x8E, &[]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "DISCONNECT with a receive maximum",
            disconnect(0, &[Property::ReceiveMaximum(1)]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "DISCONNECT with bytes behind its end",
            frame(0xE0, vec![0, 0, 7]),
            &[MALFORMED],
        ),
        // Packets only a server sends.
        (
            "CONNACK",
            frame(0x20, vec![0, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "SUBACK",
            frame(0x90, vec![0, 1, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        (
            "UNSUBACK",
            frame(0xB0, vec![0, 1, 0, 0]),
            &[MALFORMED, PROTOCOL_ERROR],
        ),
        ("PINGRESP", vec![0xD0, 0x00], &[MALFORMED, PROTOCOL_ERROR]),
        // [MQTT-4.12.0-7], section 4.12: no authentication method was agreed on.
        (
            "AUTH out of the blue",
            frame(0xF0, vec![0x19, 0]),
            &[PROTOCOL_ERROR],
        ),
        (
            "AUTH with a method",
            frame(0xF0, vec![0x18, 4, 0x15, 0, 1, b'x']),
            &[PROTOCOL_ERROR, 0x8C],
        ),
    ]
}

// [MQTT-4.13.1-1] [MQTT-4.13.2-1]
#[tokio::test]
async fn every_wrong_packet_ends_its_connection_with_its_reason_code() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut bystander = gateway.v5(&scope.id("bystander")).await;
    let mut wrong = Vec::new();
    for (name, bytes, codes) in publish_cases().into_iter().chain(other_cases()) {
        let mut client = gateway.v5(&scope.id("a")).await;
        client.send(&bytes).await;
        // A gateway that takes the packet answers this instead.
        let _ = client.try_send(&[0xC0, 0x00]).await;
        let code = loop {
            match client.next().await {
                Some(Packet::Disconnect(reason)) => break Some(reason.code),
                Some(Packet::PingResp) | None => break None,
                Some(_) => {}
            }
        };
        if code.is_none_or(|code| !codes.contains(&code)) {
            wrong.push(format!(
                "{name}: {code:02x?} instead of one of {codes:02x?}"
            ));
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

/// Wrong CONNECT packets.
fn connect_cases() -> Vec<(&'static str, Vec<u8>)> {
    let good = Connect::v5("a").user("u", "p").bytes();
    let flags = |byte: u8| {
        let mut bytes = good.clone();
        bytes[9] = byte;
        bytes
    };
    let property = |property: Property| Connect::v5("a").user("u", "p").with(property).bytes();
    let twice = |property: Property| {
        Connect::v5("a")
            .user("u", "p")
            .with(property.clone())
            .with(property)
            .bytes()
    };
    vec![
        // [MQTT-3.1.2-3]
        ("the reserved flag", flags(0xC3)),
        // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
        ("will QoS without a will", flags(0xCA)),
        ("will retain without a will", flags(0xE2)),
        // [MQTT-3.1.2-12]
        ("will QoS 3", {
            let mut bytes = Connect::v5("a")
                .user("u", "p")
                .will(postern_tests::packet::Will::new("w", ""))
                .bytes();
            bytes[9] |= 0x18;
            bytes
        }),
        ("receive maximum 0", property(Property::ReceiveMaximum(0))),
        (
            "maximum packet size 0",
            property(Property::MaximumPacketSize(0)),
        ),
        (
            "request problem information 2",
            property(Property::RequestProblemInformation(2)),
        ),
        (
            "request response information 2",
            property(Property::RequestResponseInformation(2)),
        ),
        ("a property of PUBLISH", property(Property::TopicAlias(1))),
        (
            "authentication data without a method",
            property(Property::AuthenticationData(vec![1])),
        ),
        ("session expiry twice", twice(Property::SessionExpiry(1))),
        ("receive maximum twice", twice(Property::ReceiveMaximum(1))),
        (
            "topic alias maximum twice",
            twice(Property::TopicAliasMaximum(1)),
        ),
        // [MQTT-1.5.4-2]
        (
            "U+0000 in the client identifier",
            Connect::v5("a\0").user("u", "p").bytes(),
        ),
        (
            "U+0000 in the user name",
            Connect::v5("a").user("u\0", "p").bytes(),
        ),
        ("bytes behind the end", {
            let mut bytes = good.clone();
            bytes[1] += 1;
            bytes.push(0);
            bytes
        }),
        ("an end before the password", {
            let mut bytes = good.clone();
            bytes[1] -= 1;
            bytes.pop();
            bytes
        }),
        (
            "a will topic with a wildcard",
            Connect::v5("a")
                .user("u", "p")
                .will(postern_tests::packet::Will::new("a/#", ""))
                .bytes(),
        ),
        (
            "flags in the first byte",
            [&[0x11][..], &good[1..]].concat(),
        ),
    ]
}

// [MQTT-3.1.4-1]: closed, with or without a CONNACK that refuses; never let in.
#[tokio::test]
async fn every_wrong_connect_is_refused() {
    let gateway = gateway().await;
    let account = gateway.admin.clone();
    let mut wrong = Vec::new();
    for (name, bytes) in connect_cases() {
        // The right user name and password, so that nothing else is the reason.
        let mut client = gateway.open().await;
        client.send(&replace_credentials(&bytes, &account)).await;
        let answer = client.frame().await;
        if let Some((0x20, body)) = &answer {
            let refused = matches!(body[1], 0x81 | 0x82 | 0x84 | 0x85 | 0x90);
            if !refused || client.frame().await.is_some() {
                wrong.push(format!("{name}: {body:02x?}"));
            }
        } else if answer.is_some() {
            wrong.push(format!("{name}: {answer:02x?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Puts a real account in place of the user `u` and the password `p` at the end of a CONNECT. Packets that are cut or
/// extended there, or have a special user name, stay as they are.
fn replace_credentials(bytes: &[u8], account: &postern_tests::Account) -> Vec<u8> {
    let Some(head) = bytes.strip_suffix(&[0, 1, b'u', 0, 1, b'p']) else {
        return bytes.to_vec();
    };
    let mut body = head[2..].to_vec();
    write_binary(&mut body, account.name.as_bytes());
    write_binary(&mut body, account.password.as_bytes());
    frame(bytes[0], body)
}
