//! CONNECT.

use bytes::Bytes;

use super::{
    Case, ClientIdentifierNotValid, Expect, MalformedPacket, ProtocolError, Stage,
    TopicNameInvalid, UnsupportedProtocolVersion, V5, V31, V311, packet,
};
use crate::mqtt::{Connect, Packet, PropertyBlock, Qos, ReasonCode, Version, Will};

pub(super) fn cases() -> Vec<Case> {
    [
        accepted(),
        accepted_properties(),
        wills(),
        refused(),
        refused_v5(),
        refused_properties(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn good(name: &'static str, version: Version, body: &[u8], connect: Connect) -> Case {
    let expect = Expect::Packet(Packet::Connect(Box::new(connect)));
    Case {
        name,
        version,
        stage: Stage::First,
        bytes: packet(0x10, body),
        expect,
    }
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

/// What a CONNECT with client identifier `c`, clean start, keep alive 60 s and nothing else means.
fn plain(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "c".into(),
        username: None,
        password: None,
        will: None,
        session_expiry: 0,
        receive_maximum: 65535,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
    }
}

fn accepted() -> Vec<Case> {
    let long = [
        b"\x00\x04MQTT\x05\x02\x00\x3c\x00\xff\xff".as_slice(),
        &[b'x'; 65535],
    ]
    .concat();
    let login = |version| Connect {
        username: Some("user".into()),
        password: Some(Bytes::from_static(b"\x00\xffpw")),
        ..plain(version)
    };
    vec![
        good(
            "CONNECT 3.1",
            V31,
            b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c",
            plain(V31),
        ),
        good(
            "CONNECT 3.1.1",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
            plain(V311),
        ),
        good(
            "CONNECT 5",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
            plain(V5),
        ),
        good(
            "CONNECT 3.1.1 without clean session keeps its session for ever",
            V311,
            b"\x00\x04MQTT\x04\x00\x00\x00\x00\x01c",
            Connect {
                clean_start: false,
                keep_alive: 0,
                session_expiry: u32::MAX,
                ..plain(V311)
            },
        ),
        good(
            "CONNECT 3.1.1 with an empty client identifier and clean session",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
            Connect {
                client_id: "".into(),
                ..plain(V311)
            },
        ),
        good(
            "CONNECT 5 with an empty client identifier and clean start",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
            Connect {
                client_id: "".into(),
                ..plain(V5)
            },
        ),
        good(
            "CONNECT 5 with an empty client identifier without clean start",
            V5,
            b"\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00",
            Connect {
                client_id: "".into(),
                clean_start: false,
                ..plain(V5)
            },
        ),
        good(
            "CONNECT 3.1 with a client identifier of 30 characters",
            V31,
            b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x1e012345678901234567890123456789",
            Connect {
                client_id: "012345678901234567890123456789".into(),
                ..plain(V31)
            },
        ),
        good(
            "CONNECT 3.1.1 with user name and binary password",
            V311,
            b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x04user\x00\x04\x00\xffpw",
            login(V311),
        ),
        good(
            "CONNECT 5 with user name and binary password",
            V5,
            b"\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x01c\x00\x04user\x00\x04\x00\xffpw",
            login(V5),
        ),
        good(
            "CONNECT 5 with a password and no user name",
            V5,
            b"\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x01c\x00\x04\x00\xffpw",
            Connect {
                username: None,
                ..login(V5)
            },
        ),
        good(
            "CONNECT 3.1.1 with empty user name and empty password",
            V311,
            b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x00\x00\x00",
            Connect {
                username: Some("".into()),
                password: Some(Bytes::new()),
                ..plain(V311)
            },
        ),
        good(
            "CONNECT 3.1 that announces user name and password and ends before them",
            V31,
            b"\x00\x06MQIsdp\x03\xc2\x00\x3c\x00\x01c",
            plain(V31),
        ),
        good(
            "CONNECT 3.1 that announces a password and ends after the user name",
            V31,
            b"\x00\x06MQIsdp\x03\xc2\x00\x3c\x00\x01c\x00\x04user",
            Connect {
                username: Some("user".into()),
                ..plain(V31)
            },
        ),
        good(
            "CONNECT 5 with a client identifier of 65,535 bytes",
            V5,
            &long,
            Connect {
                client_id: "x".repeat(65535).into(),
                ..plain(V5)
            },
        ),
        good(
            "CONNECT 3.1.1 with a client identifier of four-byte characters",
            V311,
            b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x08\xf0\x9f\xa6\x80\xf0\x9f\xa6\x80",
            Connect {
                client_id: "🦀🦀".into(),
                ..plain(V311)
            },
        ),
    ]
}

fn accepted_properties() -> Vec<Case> {
    vec![
        good(
            "CONNECT 5 with every property",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x3c\x2e\
              \x11\x00\x00\x0e\x10\x21\x00\x0a\x27\x00\x00\x10\x00\x22\x00\x05\x19\x01\x17\x00\
              \x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w\x15\x00\x05SCRAM\x16\x00\x01d\
              \x00\x01c",
            Connect {
                session_expiry: 3600,
                receive_maximum: 10,
                maximum_packet_size: Some(4096),
                topic_alias_maximum: 5,
                request_problem_information: false,
                request_response_information: true,
                authentication_method: Some("SCRAM".into()),
                authentication_data: Some(Bytes::from_static(b"d")),
                user_properties: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
                ..plain(V5)
            },
        ),
        good(
            "CONNECT 5 with every property at its lowest",
            V5,
            b"\x00\x04MQTT\x05\x02\x00\x00\x14\
              \x11\x00\x00\x00\x00\x21\x00\x01\x27\x00\x00\x00\x01\x22\x00\x00\x19\x00\x17\x01\
              \x00\x01c",
            Connect {
                keep_alive: 0,
                receive_maximum: 1,
                maximum_packet_size: Some(1),
                ..plain(V5)
            },
        ),
        good(
            "CONNECT 5 with every number at its highest",
            V5,
            b"\x00\x04MQTT\x05\x02\xff\xff\x10\
              \x11\xff\xff\xff\xff\x21\xff\xff\x27\xff\xff\xff\xff\x22\xff\xff\x00\x01c",
            Connect {
                keep_alive: 65535,
                session_expiry: u32::MAX,
                maximum_packet_size: Some(u32::MAX),
                topic_alias_maximum: 65535,
                ..plain(V5)
            },
        ),
    ]
}

fn wills() -> Vec<Case> {
    let will = || Will {
        topic: "w/t".into(),
        payload: Bytes::from_static(b"bye"),
        qos: Qos::AtLeastOnce,
        retain: true,
        delay: 0,
        properties: PropertyBlock::default(),
        message_expiry: None,
    };
    let with = |version, will| Connect {
        will: Some(Box::new(will)),
        ..plain(version)
    };
    vec![
        good(
            "CONNECT 3.1.1 with a retained will at QoS 1",
            V311,
            b"\x00\x04MQTT\x04\x2e\x00\x3c\x00\x01c\x00\x03w/t\x00\x03bye",
            with(V311, will()),
        ),
        good(
            "CONNECT 3.1 with an empty will at QoS 2",
            V31,
            b"\x00\x06MQIsdp\x03\x16\x00\x3c\x00\x01c\x00\x03w/t\x00\x00",
            with(V31, Will { payload: Bytes::new(), qos: Qos::ExactlyOnce, retain: false, ..will() }),
        ),
        good(
            "CONNECT 5 with a will without properties",
            V5,
            b"\x00\x04MQTT\x05\x2e\x00\x3c\x00\x00\x01c\x00\x00\x03w/t\x00\x03bye",
            with(V5, will()),
        ),
        good(
            "CONNECT 5 with a will with every property",
            V5,
            b"\x00\x04MQTT\x05\x2e\x00\x3c\x00\x00\x01c\
              \x22\x01\x01\x18\x00\x00\x00\x1e\x03\x00\x02ct\x08\x00\x02rt\x02\x00\x00\x00\x09\
              \x09\x00\x02cd\x26\x00\x01k\x00\x01v\x00\x03w/t\x00\x03bye",
            with(
                V5,
                Will {
                    delay: 30,
                    message_expiry: Some(9),
                    properties: PropertyBlock::from_bytes(Bytes::from_static(
                        b"\x01\x01\x03\x00\x02ct\x08\x00\x02rt\x09\x00\x02cd\x26\x00\x01k\x00\x01v",
                    )),
                    ..will()
                },
            ),
        ),
        good(
            "CONNECT 5 with a will that expires at once",
            V5,
            b"\x00\x04MQTT\x05\x2e\x00\x3c\x00\x00\x01c\x05\x02\x00\x00\x00\x00\x00\x03w/t\x00\x03bye",
            with(V5, Will { message_expiry: Some(0), ..will() }),
        ),
        good(
            "CONNECT 5 with an empty client identifier, no clean start and a will that expires at once",
            V5,
            b"\x00\x04MQTT\x05\x2c\x00\x3c\x00\x00\x00\
              \x0a\x18\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x03w/t\x00\x03bye",
            Connect {
                client_id: "".into(),
                clean_start: false,
                ..with(V5, Will { message_expiry: Some(0), ..will() })
            },
        ),
        good(
            "CONNECT 5 with a will that says UTF-8 and is not",
            V5,
            b"\x00\x04MQTT\x05\x2e\x00\x3c\x00\x00\x01c\x02\x01\x01\x00\x03w/t\x00\x01\xff",
            with(
                V5,
                Will {
                    payload: Bytes::from_static(b"\xff"),
                    properties: PropertyBlock::from_bytes(Bytes::from_static(b"\x01\x01")),
                    ..will()
                },
            ),
        ),
    ]
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
