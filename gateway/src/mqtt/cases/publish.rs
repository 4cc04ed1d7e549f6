//! PUBLISH from a client.

use std::num::NonZeroU16;

use bytes::Bytes;

use super::{
    Case, MalformedPacket, PacketTooLarge, ProtocolError, TopicAliasInvalid, TopicNameInvalid, V5,
    V31, V311, bad, good, id, packet,
};
use crate::mqtt::{Packet, PropertyBlock, Publish, Qos, ReasonCode, Version};

pub(super) fn cases() -> Vec<Case> {
    [
        accepted(),
        accepted_properties(),
        refused(),
        refused_topics(),
        refused_properties(),
        boundaries(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A PUBLISH to `a/b` with payload `hi` at QoS 0.
fn plain() -> Publish {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: "a/b".into(),
        packet_id: None,
        payload: Bytes::from_static(b"hi"),
        topic_alias: None,
        message_expiry: None,
        properties: PropertyBlock::default(),
    }
}

fn publish(name: &'static str, version: Version, first: u8, body: &[u8], publish: Publish) -> Case {
    good(
        name,
        version,
        packet(first, body),
        Packet::Publish(Box::new(publish)),
    )
}

fn accepted() -> Vec<Case> {
    let qos1 = || Publish {
        qos: Qos::AtLeastOnce,
        packet_id: Some(id(10)),
        ..plain()
    };
    let qos2 = || Publish {
        qos: Qos::ExactlyOnce,
        packet_id: Some(id(65535)),
        ..plain()
    };
    vec![
        publish(
            "PUBLISH 3.1.1 at QoS 0",
            V311,
            0x30,
            b"\x00\x03a/bhi",
            plain(),
        ),
        publish("PUBLISH 3.1 at QoS 0", V31, 0x30, b"\x00\x03a/bhi", plain()),
        publish(
            "PUBLISH 5 at QoS 0",
            V5,
            0x30,
            b"\x00\x03a/b\x00hi",
            plain(),
        ),
        publish(
            "PUBLISH 3.1.1 at QoS 1",
            V311,
            0x32,
            b"\x00\x03a/b\x00\x0ahi",
            qos1(),
        ),
        publish(
            "PUBLISH 5 at QoS 1",
            V5,
            0x32,
            b"\x00\x03a/b\x00\x0a\x00hi",
            qos1(),
        ),
        publish(
            "PUBLISH 3.1.1 at QoS 2, highest packet identifier",
            V311,
            0x34,
            b"\x00\x03a/b\xff\xffhi",
            qos2(),
        ),
        publish(
            "PUBLISH 5 at QoS 2, highest packet identifier",
            V5,
            0x34,
            b"\x00\x03a/b\xff\xff\x00hi",
            qos2(),
        ),
        publish(
            "PUBLISH 3.1.1 at QoS 1 again, retained",
            V311,
            0x3b,
            b"\x00\x03a/b\x00\x0ahi",
            Publish {
                dup: true,
                retain: true,
                ..qos1()
            },
        ),
        publish(
            "PUBLISH 5 at QoS 2 again, retained",
            V5,
            0x3d,
            b"\x00\x03a/b\xff\xff\x00hi",
            Publish {
                dup: true,
                retain: true,
                ..qos2()
            },
        ),
        publish(
            "PUBLISH 3.1.1 retained with an empty payload",
            V311,
            0x31,
            b"\x00\x03a/b",
            Publish {
                retain: true,
                payload: Bytes::new(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 5 with an empty payload",
            V5,
            0x30,
            b"\x00\x03a/b\x00",
            Publish {
                payload: Bytes::new(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 3.1.1 to a topic that begins with a multibyte character",
            V311,
            0x30,
            b"\x00\x07\xe6\xb8\xa9\xe5\xba\xa6/hi",
            Publish {
                topic: "温度/".into(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 3.1.1 to the topic /",
            V311,
            0x30,
            b"\x00\x01/hi",
            Publish {
                topic: "/".into(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 3.1.1 to a topic with a space and a dollar",
            V311,
            0x30,
            b"\x00\x03$ ahi",
            Publish {
                topic: "$ a".into(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 3.1.1 with a payload of zeros and invalid UTF-8",
            V311,
            0x30,
            b"\x00\x03a/b\x00\xff\x00\xed\xa0\x80",
            Publish {
                payload: Bytes::from_static(b"\x00\xff\x00\xed\xa0\x80"),
                ..plain()
            },
        ),
    ]
}

fn accepted_properties() -> Vec<Case> {
    let block = |bytes: &'static [u8]| PropertyBlock::from_bytes(Bytes::from_static(bytes));
    let all = b"\x01\x01\x03\x00\x02ct\x08\x00\x02rt\x09\x00\x02\x00\xff\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w";
    // Alias, expiry and the others, in every order that makes a difference to what is cut out.
    let (alias, expiry) = (
        b"\x23\x00\x07".as_slice(),
        b"\x02\x00\x00\x00\x3c".as_slice(),
    );
    let rows: [(&'static str, Vec<u8>); 5] = [
        (
            "PUBLISH 5 with alias and expiry first",
            [alias, expiry, all].concat(),
        ),
        (
            "PUBLISH 5 with alias and expiry last",
            [all.as_slice(), alias, expiry].concat(),
        ),
        (
            "PUBLISH 5 with alias first and expiry last",
            [alias, all, expiry].concat(),
        ),
        (
            "PUBLISH 5 with alias in the middle",
            [expiry, &all[..7], alias, &all[7..]].concat(),
        ),
        ("PUBLISH 5 with alias and expiry apart in the middle", {
            [&all[..2], alias, &all[2..7], expiry, &all[7..]].concat()
        }),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, list)| {
            let body = [b"\x00\x03a/b", [list.len() as u8].as_slice(), &list, b"hi"].concat();
            let expected = Publish {
                topic_alias: NonZeroU16::new(7),
                message_expiry: Some(60),
                properties: block(all),
                ..plain()
            };
            publish(name, V5, 0x30, &body, expected)
        })
        .collect();
    cases.extend([
        publish(
            "PUBLISH 5 with an alias and no topic name",
            V5,
            0x30,
            b"\x00\x00\x03\x23\xff\xffhi",
            Publish {
                topic: "".into(),
                topic_alias: NonZeroU16::new(65535),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 5 that expires at once",
            V5,
            0x30,
            b"\x00\x03a/b\x05\x02\x00\x00\x00\x00hi",
            Publish {
                message_expiry: Some(0),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 5 that expires last of all",
            V5,
            0x30,
            b"\x00\x03a/b\x05\x02\xff\xff\xff\xffhi",
            Publish {
                message_expiry: Some(u32::MAX),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 5 that says UTF-8 and is not",
            V5,
            0x30,
            b"\x00\x03a/b\x02\x01\x01\xff\xfe",
            Publish {
                payload: Bytes::from_static(b"\xff\xfe"),
                properties: block(b"\x01\x01"),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 5 with empty user property, content type and correlation data",
            V5,
            0x30,
            b"\x00\x03a/b\x0b\x26\x00\x00\x00\x00\x03\x00\x00\x09\x00\x00hi",
            Publish {
                properties: block(b"\x26\x00\x00\x00\x00\x03\x00\x00\x09\x00\x00"),
                ..plain()
            },
        ),
    ]);
    cases
}

fn refused() -> Vec<Case> {
    vec![
        bad(
            "PUBLISH 3.1.1 with QoS 3",
            V311,
            packet(0x36, b"\x00\x03a/b\x00\x01hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 3.1 with QoS 3",
            V31,
            packet(0x36, b"\x00\x03a/b\x00\x01hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 5 with QoS 3",
            V5,
            packet(0x36, b"\x00\x03a/b\x00\x01\x00hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 3.1.1 with DUP at QoS 0",
            V311,
            packet(0x38, b"\x00\x03a/bhi"),
            ProtocolError,
        ),
        bad(
            "PUBLISH 5 with DUP at QoS 0",
            V5,
            packet(0x38, b"\x00\x03a/b\x00hi"),
            ProtocolError,
        ),
        bad(
            "PUBLISH 3.1.1 with packet identifier 0",
            V311,
            packet(0x32, b"\x00\x03a/b\x00\x00hi"),
            ProtocolError,
        ),
        bad(
            "PUBLISH 5 with packet identifier 0",
            V5,
            packet(0x34, b"\x00\x03a/b\x00\x00\x00hi"),
            ProtocolError,
        ),
        bad(
            "PUBLISH 3.1.1 without a body",
            V311,
            packet(0x30, b""),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 3.1.1 that ends inside its topic",
            V311,
            packet(0x30, b"\x00\x09a/b"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 3.1.1 that ends inside its packet identifier",
            V311,
            packet(0x32, b"\x00\x03a/b\x00"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 5 without a property length",
            V5,
            packet(0x30, b"\x00\x03a/b"),
            MalformedPacket,
        ),
    ]
}

fn refused_topics() -> Vec<Case> {
    vec![
        bad(
            "PUBLISH 3.1.1 with an empty topic",
            V311,
            packet(0x30, b"\x00\x00hi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 3.1 with an empty topic",
            V31,
            packet(0x30, b"\x00\x00hi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 5 with neither topic nor alias",
            V5,
            packet(0x30, b"\x00\x00\x00hi"),
            ProtocolError,
        ),
        bad(
            "PUBLISH 3.1.1 with # in its topic",
            V311,
            packet(0x30, b"\x00\x03a/#hi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 3.1.1 with + in its topic",
            V311,
            packet(0x30, b"\x00\x03+/bhi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 5 with # in its topic",
            V5,
            packet(0x30, b"\x00\x03a/#\x00hi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 5 with + inside a level of its topic",
            V5,
            packet(0x30, b"\x00\x03a+b\x00hi"),
            TopicNameInvalid,
        ),
        bad(
            "PUBLISH 3.1.1 with U+0000 in its topic",
            V311,
            packet(0x30, b"\x00\x03a\x00bhi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 5 with U+0000 in its topic",
            V5,
            packet(0x30, b"\x00\x03a\x00b\x00hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 3.1.1 with a topic that is not UTF-8",
            V311,
            packet(0x30, b"\x00\x03a\xff/hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 5 with a surrogate in its topic",
            V5,
            packet(0x30, b"\x00\x03\xed\xb0\x80\x00hi"),
            MalformedPacket,
        ),
        bad(
            "PUBLISH 5 with a wildcard beside its alias",
            V5,
            packet(0x30, b"\x00\x01#\x03\x23\x00\x01hi"),
            TopicNameInvalid,
        ),
    ]
}

/// Each row is a property list in an otherwise plain PUBLISH 5.
fn refused_properties() -> Vec<Case> {
    let rows: [(&'static str, &[u8], ReasonCode); 21] = [
        (
            "PUBLISH 5 with topic alias 0",
            b"\x23\x00\x00",
            TopicAliasInvalid,
        ),
        (
            "PUBLISH 5 with a subscription identifier",
            b"\x0b\x01",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with subscription identifier 0",
            b"\x0b\x00",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with payload format indicator 2",
            b"\x01\x02",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two payload format indicators",
            b"\x01\x00\x01\x00",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two message expiries",
            b"\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two topic aliases",
            b"\x23\x00\x01\x23\x00\x01",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two response topics",
            b"\x08\x00\x01a\x08\x00\x01a",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two correlation data",
            b"\x09\x00\x01a\x09\x00\x01a",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with two content types",
            b"\x03\x00\x01a\x03\x00\x01a",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with # in its response topic",
            b"\x08\x00\x03a/#",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with + in its response topic",
            b"\x08\x00\x01+",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with an empty response topic",
            b"\x08\x00\x00",
            ProtocolError,
        ),
        (
            "PUBLISH 5 with U+0000 in its response topic",
            b"\x08\x00\x03a\x00b",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with U+0000 in its content type",
            b"\x03\x00\x01\x00",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with a content type that is not UTF-8",
            b"\x03\x00\x01\xff",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with U+0000 in a user property",
            b"\x26\x00\x01\x00\x00\x00",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with a session expiry",
            b"\x11\x00\x00\x00\x01",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with a reason string",
            b"\x1f\x00\x01a",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with the unknown property 0x40",
            b"\x40\x00",
            MalformedPacket,
        ),
        (
            "PUBLISH 5 with a property cut off",
            b"\x02\x00\x00\x00",
            MalformedPacket,
        ),
    ];
    let mut cases: Vec<Case> = rows
        .into_iter()
        .map(|(name, list, reason)| {
            let body = [b"\x00\x03a/b", [list.len() as u8].as_slice(), list, b"hi"].concat();
            bad(name, V5, packet(0x30, body), reason)
        })
        .collect();
    cases.push(bad(
        "PUBLISH 5 with a property length in needless bytes",
        V5,
        packet(0x30, b"\x00\x03a/b\x80\x00hi"),
        MalformedPacket,
    ));
    cases.push(bad(
        "PUBLISH 5 with a property length past its end",
        V5,
        packet(0x30, b"\x00\x03a/b\x09hi"),
        MalformedPacket,
    ));
    cases
}

fn boundaries() -> Vec<Case> {
    let long_topic = "t".repeat(65535);
    let with_long_topic = [b"\xff\xff", long_topic.as_bytes()].concat();
    let largest = super::MAXIMUM_PACKET_SIZE as usize;
    // One byte of type, three of remaining length, two of topic length, three of topic.
    let payload = vec![7; largest - 9];
    let fits = [b"\x00\x03a/b".as_slice(), &payload].concat();
    vec![
        publish(
            "PUBLISH 3.1.1 to a topic of 65,535 bytes",
            V311,
            0x30,
            &with_long_topic,
            Publish {
                topic: long_topic.into(),
                payload: Bytes::new(),
                ..plain()
            },
        ),
        publish(
            "PUBLISH 3.1.1 of exactly the maximum packet size",
            V311,
            0x30,
            &fits,
            Publish {
                payload: payload.into(),
                ..plain()
            },
        ),
        bad(
            "PUBLISH 3.1.1 one byte over the maximum packet size, header only",
            V311,
            packet(0x30, [fits.as_slice(), b"x"].concat())[..4].to_vec(),
            PacketTooLarge,
        ),
        bad(
            "PUBLISH 5 with the largest remaining length, header only",
            V5,
            b"\x30\xff\xff\xff\x7f".to_vec(),
            PacketTooLarge,
        ),
    ]
}
