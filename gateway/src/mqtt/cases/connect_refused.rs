//! CONNECT that is refused.

use super::connect::plain;
use super::{
    Case, ClientIdentifierNotValid, Expect, MalformedPacket, ProtocolError, Stage,
    TopicNameInvalid, UnsupportedProtocolVersion, V5, V31, V311, packet,
};
use crate::mqtt::{Packet, ReasonCode, Version};

pub(super) fn cases() -> Vec<Case> {
    [refused(), refused_v5(), refused_properties(), headers()]
        .into_iter()
        .flatten()
        .collect()
}

fn bad(name: &'static str, version: Version, body: &[u8], reason: ReasonCode) -> Case {
    Case {
        name,
        version,
        stage: Stage::First,
        bytes: packet(0x10, body),
        expect: Expect::Refused(reason),
    }
}

fn refused() -> Vec<Case> {
    vec![
        bad(
            "CONNECT with protocol level 0",
            V311,
            b"\x00\x04MQTT\x00\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT with protocol level 6",
            V5,
            b"\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT of a bridge, level 0x84",
            V311,
            b"\x00\x04MQTT\x84\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT with MQTT and level 3",
            V311,
            b"\x00\x04MQTT\x03\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT with MQIsdp and level 4",
            V311,
            b"\x00\x06MQIsdp\x04\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT with protocol name mqtt",
            V311,
            b"\x00\x04mqtt\x04\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad(
            "CONNECT with an empty protocol name",
            V311,
            b"\x00\x00\x04\x02\x00\x3c\x00\x01c",
            UnsupportedProtocolVersion,
        ),
        bad("CONNECT without a body", V311, b"", MalformedPacket),
        bad(
            "CONNECT that ends inside the protocol name",
            V311,
            b"\x00\x04MQT",
            MalformedPacket,
        ),
        bad(
            "CONNECT that ends before the level",
            V311,
            b"\x00\x04MQTT",
            MalformedPacket,
        ),
        bad(
            "CONNECT that ends before the flags",
            V311,
            b"\x00\x04MQTT\x04",
            MalformedPacket,
        ),
        bad(
            "CONNECT that ends inside keep alive",
            V311,
            b"\x00\x04MQTT\x04\x02\x00",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with the reserved flag",
            V311,
            b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1 with the reserved flag",
            V31,
            b"\x00\x06MQIsdp\x03\x03\x00\x3c\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with will QoS without will",
            V311,
            b"\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with will retain without will",
            V311,
            b"\x00\x04MQTT\x04\x22\x00\x3c\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with will QoS 3",
            V311,
            b"\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01c\x00\x03w/t\x00\x03bye",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with a password and no user name",
            V311,
            b"\x00\x04MQTT\x04\x42\x00\x3c\x00\x01c\x00\x02pw",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 that announces a user name and ends before it",
            V311,
            b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with an empty client identifier and a session to keep",
            V311,
            b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00",
            ClientIdentifierNotValid,
        ),
        bad(
            "CONNECT 3.1 with an empty client identifier",
            V31,
            b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00",
            ClientIdentifierNotValid,
        ),
        bad(
            "CONNECT 3.1.1 with bytes behind it",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c\x00",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1 with bytes behind it",
            V31,
            b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01cx",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with U+0000 in the client identifier",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x03a\x00b",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with a surrogate in the client identifier",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x03\xed\xa0\x80",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with an overlong client identifier encoding",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02\xc0\x80",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with a user name that is not UTF-8",
            V311,
            b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c\x00\x01\xff",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with U+0000 in the user name",
            V311,
            b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01c\x00\x01\x00",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 with a wildcard in the will topic",
            V311,
            b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x03w/#\x00\x03bye",
            TopicNameInvalid,
        ),
        bad(
            "CONNECT 3.1.1 with an empty will topic",
            V311,
            b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x00\x00\x03bye",
            TopicNameInvalid,
        ),
        bad(
            "CONNECT 3.1.1 with U+0000 in the will topic",
            V311,
            b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x03w\x00t\x00\x03bye",
            MalformedPacket,
        ),
        bad(
            "CONNECT 3.1.1 that ends inside the will payload",
            V311,
            b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x03w/t\x00\x04bye",
            MalformedPacket,
        ),
    ]
}

fn refused_v5() -> Vec<Case> {
    vec![
        bad(
            "CONNECT 5 with the reserved flag",
            V5,
            b"\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with will QoS without will",
            V5,
            b"\x00\x04MQTT\x05\x12\x00\x3c\x00\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with will retain without will",
            V5,
            b"\x00\x04MQTT\x05\x22\x00\x3c\x00\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with will QoS 3",
            V5,
            b"\x00\x04MQTT\x05\x1e\x00\x3c\x00\x00\x01c\x00\x00\x03w/t\x00\x03bye",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with bytes behind it",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c\x00",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 without a property length",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with a property length in needless bytes",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x80\x00\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with a property length of five bytes",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x80\x80\x80\x80\x01\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with a property length past its end",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x7f\x00\x01c",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with an empty will topic",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x00\x00\x00\x00\x03bye",
            TopicNameInvalid,
        ),
        bad(
            "CONNECT 5 with a wildcard in the will topic",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x00\x00\x01+\x00\x03bye",
            TopicNameInvalid,
        ),
        bad(
            "CONNECT 5 with a wildcard in the response topic of the will",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x04\x08\x00\x01#\x00\x03w/t\x00\x03bye",
            ProtocolError,
        ),
        bad(
            "CONNECT 5 with two will delays",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\
              \x0a\x18\x00\x00\x00\x01\x18\x00\x00\x00\x01\x00\x03w/t\x00\x03bye",
            ProtocolError,
        ),
        bad(
            "CONNECT 5 with a topic alias in its will",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x03\x23\x00\x01\x00\x03w/t\x00\x03bye",
            MalformedPacket,
        ),
        bad(
            "CONNECT 5 with payload format indicator 2 in its will",
            V5,
            b"\x00\x04MQTT\x05\x06\x00\x3c\x00\x00\x01c\x02\x01\x02\x00\x03w/t\x00\x03bye",
            ProtocolError,
        ),
    ]
}

/// Each row is a property list in an otherwise plain CONNECT 5.
fn refused_properties() -> Vec<Case> {
    let rows: [(&'static str, &[u8], ReasonCode); 22] = [
        (
            "CONNECT 5 with receive maximum 0",
            b"\x21\x00\x00",
            ProtocolError,
        ),
        (
            "CONNECT 5 with maximum packet size 0",
            b"\x27\x00\x00\x00\x00",
            ProtocolError,
        ),
        (
            "CONNECT 5 with request problem information 2",
            b"\x17\x02",
            ProtocolError,
        ),
        (
            "CONNECT 5 with request response information 2",
            b"\x19\x02",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two session expiries",
            b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two receive maxima",
            b"\x21\x00\x01\x21\x00\x01",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two maximum packet sizes",
            b"\x27\x00\x00\x01\x00\x27\x00\x00\x01\x00",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two topic alias maxima",
            b"\x22\x00\x01\x22\x00\x01",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two request problem informations",
            b"\x17\x00\x17\x00",
            ProtocolError,
        ),
        (
            "CONNECT 5 with two authentication methods",
            b"\x15\x00\x01a\x15\x00\x01a",
            ProtocolError,
        ),
        (
            "CONNECT 5 with authentication data and no method",
            b"\x16\x00\x01d",
            ProtocolError,
        ),
        (
            "CONNECT 5 with a will delay among its own properties",
            b"\x18\x00\x00\x00\x01",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with a topic alias",
            b"\x23\x00\x01",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with a server keep alive",
            b"\x13\x00\x01",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with the unknown property 0x7F",
            b"\x7f\x00",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with the unknown property 0x00",
            b"\x00\x00",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with a property cut off",
            b"\x11\x00\x00",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with half a user property",
            b"\x26\x00\x01k",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with U+0000 in a user property name",
            b"\x26\x00\x01\x00\x00\x01v",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with U+0000 in a user property value",
            b"\x26\x00\x01k\x00\x01\x00",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with a user property that is not UTF-8",
            b"\x26\x00\x01k\x00\x01\xff",
            MalformedPacket,
        ),
        (
            "CONNECT 5 with U+0000 in the authentication method",
            b"\x15\x00\x01\x00",
            MalformedPacket,
        ),
    ];
    rows.into_iter()
        .map(|(name, list, reason)| {
            let head = b"\x00\x04MQTT\x05\x02\x00\x3c".as_slice();
            let body = [head, &[list.len() as u8], list, b"\x00\x01c"].concat();
            bad(name, V5, &body, reason)
        })
        .collect()
}

/// The form of the remaining length, which only MQTT 5 prescribes.
fn headers() -> Vec<Case> {
    vec![
        Case {
            name: "CONNECT 5 with a remaining length in needless bytes",
            version: V5,
            stage: Stage::First,
            bytes: b"\x10\x8e\x00\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c".to_vec(),
            expect: Expect::Refused(MalformedPacket),
        },
        Case {
            name: "CONNECT 3.1.1 with a remaining length in needless bytes, as modems send it",
            version: V311,
            stage: Stage::First,
            bytes: b"\x10\x8d\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c".to_vec(),
            expect: Expect::Packet(Packet::Connect(Box::new(plain(V311)))),
        },
    ]
}
