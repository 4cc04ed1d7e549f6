//! CONNECT that is accepted.

use bytes::Bytes;

use super::{Case, Expect, Stage, V5, V31, V311, packet};
use crate::mqtt::{Connect, Packet, PropertyBlock, Qos, Version, Will};

pub(super) fn cases() -> Vec<Case> {
    [
        accepted(),
        accepted_properties(),
        wills(),
        super::connect_refused::cases(),
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

/// What a CONNECT with client identifier `c`, clean start, keep alive 60 s and nothing else means.
pub(super) fn plain(version: Version) -> Connect {
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
