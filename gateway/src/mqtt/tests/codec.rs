use bytes::BytesMut;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder as _;

use crate::mqtt::cases::{self, Case, Expect, Stage};
use crate::mqtt::*;

/// A decoder as the case wants it: fresh, or past a CONNECT of the case's version.
fn decoder(case: &Case) -> Decoder {
    let mut decoder = Decoder::new(cases::MAXIMUM_PACKET_SIZE);
    if case.stage == Stage::Connected {
        let mut connect = BytesMut::from(cases::plain_connect(case.version));
        assert!(matches!(
            decoder.decode(&mut connect),
            Ok(Some(Packet::Connect(_)))
        ));
        assert!(connect.is_empty());
    }
    decoder
}

fn check(case: &Case, result: Result<Option<Packet>, DecodeError>) {
    match (&case.expect, result) {
        (Expect::Packet(expected), Ok(Some(packet))) => {
            assert_eq!(&packet, expected, "{}", case.name);
        }
        (Expect::Refused(reason), Err(error)) => {
            assert_eq!(error.reason(), *reason, "{}: {error}", case.name)
        }
        (Expect::Incomplete, Ok(None)) => {}
        (expected, result) => panic!("{}: expected {expected:?}, got {result:?}", case.name),
    }
}

#[test]
fn each_case_decodes_to_what_the_table_says() {
    for case in cases::all() {
        let mut bytes = BytesMut::from(case.bytes.as_slice());
        check(&case, decoder(&case).decode(&mut bytes));
        if matches!(case.expect, Expect::Packet(_)) {
            assert!(bytes.is_empty(), "{}: bytes left over", case.name);
        }
    }
}

#[test]
fn each_case_decodes_the_same_byte_by_byte() {
    for case in cases::all().iter().filter(|case| case.bytes.len() < 1000) {
        let mut decoder = decoder(case);
        let mut bytes = BytesMut::new();
        let mut result = Ok(None);
        for byte in &case.bytes {
            bytes.extend_from_slice(&[*byte]);
            result = decoder.decode(&mut bytes);
            if !matches!(result, Ok(None)) {
                break;
            }
        }
        check(case, result);
    }
}

#[test]
fn each_case_decodes_the_same_with_another_packet_behind_it() {
    for case in cases::all()
        .iter()
        .filter(|case| matches!(case.expect, Expect::Packet(_)))
    {
        let mut decoder = decoder(case);
        let mut bytes = BytesMut::from([case.bytes.as_slice(), b"\xc0\x00"].concat().as_slice());
        check(case, decoder.decode(&mut bytes));
        assert_eq!(
            decoder.decode(&mut bytes),
            Ok(Some(Packet::PingReq)),
            "{}",
            case.name
        );
        assert!(bytes.is_empty());
    }
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn an_incomplete_packet_reserves_no_memory() {
    let mut decoder = Decoder::new(1000);
    let mut bytes = BytesMut::from(cases::plain_connect(Version::V311));
    assert!(matches!(decoder.decode(&mut bytes), Ok(Some(_))));
    decoder.set_max_packet_size(u32::MAX);
    let mut bytes = BytesMut::with_capacity(64);
    bytes.extend_from_slice(b"\x30\xff\xff\xff\x7f\x00\x03a/b");
    let capacity = bytes.capacity();
    assert_eq!(decoder.decode(&mut bytes), Ok(None));
    assert_eq!(bytes.capacity(), capacity);
    assert_eq!(bytes.len(), 10);
}

#[test]
fn the_first_packet_has_its_own_limit() {
    let connect = cases::plain_connect(Version::V5);
    let exact = connect.len() as u32;
    assert!(matches!(
        Decoder::new(exact).decode(&mut BytesMut::from(connect)),
        Ok(Some(_))
    ));
    let refused = Decoder::new(exact - 1).decode(&mut BytesMut::from(&connect[..2]));
    assert_eq!(
        refused.map_err(|error| error.reason()),
        Err(ReasonCode::PacketTooLarge)
    );
}

#[test]
fn a_connect_that_is_refused_still_tells_its_version() {
    let mut decoder = Decoder::new(1000);
    assert_eq!(decoder.version(), None);
    let mut bytes = BytesMut::from(&b"\x10\x0e\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x01c"[..]);
    assert!(decoder.decode(&mut bytes).is_err());
    assert_eq!(decoder.version(), Some(Version::V5));
}

#[test]
fn an_unsupported_level_tells_the_version_to_answer_in() {
    let answer = |level: u8| {
        let bytes = [
            &b"\x10\x0d\x00\x04MQTT"[..],
            &[level],
            b"\x02\x00\x3c\x00\x01c",
        ]
        .concat();
        match Decoder::new(1000).decode(&mut BytesMut::from(bytes.as_slice())) {
            Err(DecodeError::UnsupportedProtocolVersion {
                level: told,
                answer_in,
            }) if told == level => answer_in,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answer(3), Version::V311);
    assert_eq!(answer(0x84), Version::V311);
    assert_eq!(answer(6), Version::V5);
    assert_eq!(answer(0x85), Version::V5);
}

#[test]
fn debug_output_shows_no_secret() {
    let mut bytes = BytesMut::from(
        &b"\x10\x1d\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x01c\x00\x04user\x00\x07hunter2"[..],
    );
    let packet = Decoder::new(1000).decode(&mut bytes).unwrap().unwrap();
    let shown = format!("{packet:?}");
    assert!(
        shown.contains("user") && shown.contains("<7 bytes>"),
        "{shown}"
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn each_reply_is_written_as_the_table_says() {
    for case in cases::replies() {
        let mut bytes = BytesMut::from(&b"before"[..]);
        encode(&case.reply, case.version, case.limits, &mut bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(&bytes[6..], case.bytes, "{}", case.name);
        if let Some(maximum) = case.limits.maximum_packet_size {
            assert!(case.bytes.len() <= maximum as usize, "{}", case.name);
        }
    }
}

#[test]
fn the_library_reads_each_reply() {
    for case in cases::replies()
        .iter()
        .filter(|case| !case.bytes.is_empty())
    {
        let mut bytes = BytesMut::from(case.bytes);
        let read = if case.version.is_v5() {
            v5::Codec::default()
                .decode(&mut bytes)
                .map(|packet| packet.is_some())
        } else {
            v3::Codec::default()
                .decode(&mut bytes)
                .map(|packet| packet.is_some())
        };
        assert!(matches!(read, Ok(true)), "{}: {read:?}", case.name);
        assert!(bytes.is_empty(), "{}", case.name);
    }
}

#[test]
fn a_reply_that_cannot_fit_is_not_written() {
    let limits = PeerLimits {
        maximum_packet_size: Some(4),
        problem_information: true,
    };
    let reply = Reply::PubAck(Ack::new(PacketId::MIN, ReasonCode::NotAuthorized));
    let mut bytes = BytesMut::from(&b"before"[..]);
    let refused = encode(&reply, Version::V5, limits, &mut bytes);
    assert_eq!(
        refused,
        Err(EncodeError::TooLarge {
            size: 6,
            maximum: 4
        })
    );
    assert_eq!(&bytes[..], b"before");
}

#[test]
fn a_reply_with_an_overlong_string_is_not_written() {
    let ack = Ack {
        reason_string: Some("r".repeat(65536).into()),
        ..Ack::new(PacketId::MIN, ReasonCode::Success)
    };
    let mut bytes = BytesMut::new();
    let refused = encode(
        &Reply::PubAck(ack),
        Version::V5,
        PeerLimits::default(),
        &mut bytes,
    );
    assert_eq!(
        refused,
        Err(EncodeError::FieldTooLong {
            field: "reason string",
            length: 65536
        })
    );
    assert!(bytes.is_empty());
}

#[test]
fn mqtt_3_1_cannot_refuse_a_subscription() {
    // S1
    let reply = Reply::SubAck {
        packet_id: PacketId::MIN,
        reasons: vec![ReasonCode::Success, ReasonCode::NotAuthorized],
        reason_string: None,
        user_properties: Vec::new(),
    };
    let mut bytes = BytesMut::new();
    let refused = encode(&reply, Version::V31, PeerLimits::default(), &mut bytes);
    assert_eq!(refused, Err(EncodeError::NoRefusalInMqtt31));
    assert!(bytes.is_empty());
}

#[test]
fn each_publish_frame_is_written_as_the_table_says() {
    for case in cases::frames() {
        let mut bytes = BytesMut::from(&b"before"[..]);
        let written = case.frame.write(None, &mut bytes);
        assert_eq!(&bytes[6..], case.bytes, "{}", case.name);
        assert_eq!(written, Ok(case.bytes.len()), "{}", case.name);
        assert_eq!(case.frame.encoded_len(), case.bytes.len(), "{}", case.name);
    }
}

#[test]
fn a_publish_frame_over_the_maximum_is_not_written() {
    for case in cases::frames() {
        let size = case.bytes.len();
        let mut bytes = BytesMut::new();
        assert_eq!(
            case.frame.write(Some(size as u32), &mut bytes),
            Ok(size),
            "{}",
            case.name
        );
        bytes.clear();
        let refused = case.frame.write(Some(size as u32 - 1), &mut bytes);
        assert_eq!(
            refused,
            Err(EncodeError::TooLarge {
                size,
                maximum: size - 1
            }),
            "{}",
            case.name
        );
        assert!(bytes.is_empty(), "{}", case.name);
    }
}

#[test]
fn lengths_take_another_byte_exactly_at_their_boundaries() {
    // Section 1.5.5: the remaining length with the payload, the property length with the properties.
    let plain = cases::frames().remove(2).frame;
    for (length, bytes) in [
        (127, 1),
        (128, 2),
        (16_383, 2),
        (16_384, 3),
        (2_097_151, 3),
        (2_097_152, 4),
    ] {
        let filler = vec![b'x'; length];
        let payload = &filler[6..];
        let mut written = BytesMut::new();
        let size = PublishFrame { payload, ..plain }.write(None, &mut written);
        assert_eq!(size, Ok(1 + bytes + length), "remaining length {length}");

        // One user property after another, each of at most 65,535 + 65,535 bytes and 5 more.
        let mut properties = vec![];
        while properties.len() < length {
            let rest = (length - properties.len()).min(60_000);
            let rest = if (1..5).contains(&(length - properties.len() - rest)) {
                rest - 5
            } else {
                rest
            };
            let value = rest - 5;
            properties.extend_from_slice(&[0x26, 0, 0, (value >> 8) as u8, value as u8]);
            properties.extend_from_slice(&filler[..value]);
        }
        let frame = PublishFrame {
            properties: &properties,
            ..plain
        };
        let mut written = BytesMut::new();
        assert_eq!(frame.write(None, &mut written), Ok(frame.encoded_len()));
        let mut decoder = Decoder::new(cases::MAXIMUM_PACKET_SIZE);
        let mut connect = BytesMut::from(cases::plain_connect(Version::V5));
        assert!(matches!(decoder.decode(&mut connect), Ok(Some(_))));
        decoder.set_max_packet_size(u32::MAX);
        let Ok(Some(Packet::Publish(read))) = decoder.decode(&mut written) else {
            panic!("property length {length}");
        };
        assert_eq!(
            (read.properties.as_bytes().len(), &read.payload[..]),
            (length, &b"hi"[..])
        );
    }
}

#[test]
fn a_publish_frame_against_the_protocol_is_not_written() {
    let plain = cases::frames().remove(2).frame;
    let long = "t".repeat(65536);
    let mut bytes = BytesMut::new();
    let mut refusal = |frame: PublishFrame<'_>| frame.write(None, &mut bytes).unwrap_err();
    assert_eq!(
        refusal(PublishFrame {
            qos: Qos::AtLeastOnce,
            ..plain
        }),
        EncodeError::PacketIdentifierMissing
    );
    assert_eq!(
        refusal(PublishFrame {
            topic: &long,
            ..plain
        }),
        EncodeError::FieldTooLong {
            field: "topic name",
            length: 65536
        }
    );
    for id in [0, 268_435_456] {
        assert_eq!(
            refusal(PublishFrame {
                subscription_ids: &[1, id],
                ..plain
            }),
            EncodeError::SubscriptionIdentifierOutOfRange(id)
        );
    }
    assert!(bytes.is_empty());
}

#[test]
fn every_reason_code_survives_its_byte() {
    for byte in 0..=255 {
        match ReasonCode::try_from(byte) {
            Ok(code) => assert_eq!((code as u8, code.is_error()), (byte, byte >= 0x80)),
            Err(unknown) => assert_eq!(unknown, byte),
        }
    }
    assert_eq!(ReasonCode::ALL.len(), 43);
}
