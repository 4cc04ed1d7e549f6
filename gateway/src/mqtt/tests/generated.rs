use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder as _, Encoder as _};

use crate::mqtt::cases;
use crate::mqtt::*;

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

fn connected(version: Version) -> Decoder {
    let mut decoder = Decoder::new(1 << 20);
    let mut connect = BytesMut::from(cases::plain_connect(version));
    assert!(matches!(decoder.decode(&mut connect), Ok(Some(_))));
    decoder
}

/// All packets of a stream, up to its end or its first error.
fn drain(decoder: &mut Decoder, bytes: &mut BytesMut) -> (Vec<Packet>, Option<DecodeError>) {
    let mut packets = vec![];
    loop {
        match decoder.decode(bytes) {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

/// Streams that go deep: cases of the table, some of them damaged in one byte.
fn streams() -> impl Strategy<Value = (Version, Vec<u8>)> {
    let pick = (
        any::<prop::sample::Index>(),
        any::<Option<(prop::sample::Index, u8)>>(),
    );
    (versions(), prop::collection::vec(pick, 1..6)).prop_map(|(version, picks)| {
        let cases: Vec<_> = cases::all()
            .into_iter()
            .filter(|case| case.version == version && case.stage == cases::Stage::Connected)
            .filter(|case| !case.bytes.is_empty() && case.bytes.len() < 500)
            .collect();
        let mut stream = vec![];
        for (case, damage) in picks {
            let mut bytes = case.get(&cases).bytes.clone();
            if let Some((at, byte)) = damage {
                *at.get_mut(&mut bytes) = byte;
            }
            stream.extend(bytes);
        }
        (version, stream)
    })
}

fn strings() -> impl Strategy<Value = bytestring::ByteString> {
    "[a-zA-Zé/ ]{0,12}".prop_map(Into::into)
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    prop::collection::vec((strings(), strings()), 0..4)
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![
        Just(Qos::AtMostOnce),
        Just(Qos::AtLeastOnce),
        Just(Qos::ExactlyOnce)
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(version in versions(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drain(&mut connected(version), &mut BytesMut::from(bytes.as_slice()));
        drain(&mut Decoder::new(1000), &mut BytesMut::from(bytes.as_slice()));
    }

    #[test]
    fn arbitrary_bytes_behind_a_connect_header_never_panic(
        head in prop_oneof![Just(&b"\x00\x04MQTT\x05"[..]), Just(&b"\x00\x04MQTT\x04"[..]), Just(&b"\x00\x06MQIsdp\x03"[..])],
        tail in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..100),
    ) {
        let mut packet = BytesMut::from(&[0x10, (head.len() + tail.len()) as u8][..]);
        packet.extend_from_slice(head);
        packet.extend_from_slice(&tail);
        drain(&mut Decoder::new(1000), &mut packet);
    }

    #[test]
    fn a_stream_split_anywhere_decodes_the_same((version, stream) in streams(), cuts in prop::collection::vec(1usize..20, 1..40)) {
        let whole = drain(&mut connected(version), &mut BytesMut::from(stream.as_slice()));
        let mut decoder = connected(version);
        let mut buffer = BytesMut::new();
        let mut split = (vec![], None);
        let mut rest = stream.as_slice();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() && split.1.is_none() {
            let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            rest = later;
            buffer.extend_from_slice(piece);
            let (packets, error) = drain(&mut decoder, &mut buffer);
            split.0.extend(packets);
            split.1 = error;
        }
        prop_assert_eq!(whole, split);
    }

    /// The library reads what we write, and we read it back unchanged.
    #[test]
    fn a_publish_frame_survives_both_decoders(
        v5 in any::<bool>(),
        dup in any::<bool>(),
        retain in any::<bool>(),
        qos in qos(),
        id in 1u16..,
        topic in "[a-zé/]{1,20}",
        alias in prop::option::of(1u16..),
        expiry in prop::option::of(1u32..),
        subscription_ids in prop::collection::vec(1u32..268_435_456, 0..3),
        users in user_properties(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let mut block = vec![];
        for (name, value) in &users {
            block.push(0x26);
            for text in [name, value] {
                block.extend_from_slice(&(text.len() as u16).to_be_bytes());
                block.extend_from_slice(text.as_bytes());
            }
        }
        let packet_id = (qos > Qos::AtMostOnce).then(|| PacketId::new(id).unwrap());
        let frame = PublishFrame {
            version, dup, qos, retain, topic: &topic, packet_id, properties: &block, message_expiry: expiry,
            subscription_ids: &subscription_ids, topic_alias: alias.and_then(NonZeroU16::new), payload: &payload,
        };
        let mut bytes = BytesMut::new();
        prop_assert_eq!(frame.write(None, &mut bytes), Ok(frame.encoded_len()));
        prop_assert_eq!(bytes.len(), frame.encoded_len());

        let dup = dup && qos > Qos::AtMostOnce;
        let publish = if v5 {
            let (packet, _) = v5::Codec::default().decode(&mut bytes.clone()).unwrap().unwrap();
            let v5::Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            publish
        } else {
            let (packet, _) = v3::Codec::default().decode(&mut bytes.clone()).unwrap().unwrap();
            let v3::Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            publish
        };
        prop_assert_eq!(&publish.topic[..], &topic);
        prop_assert_eq!(&publish.payload[..], &payload);
        prop_assert_eq!((publish.dup, publish.retain, publish.packet_id), (dup, retain, packet_id));
        if let Some(properties) = &publish.properties {
            let ids: Vec<u32> = properties.subscription_ids.iter().map(|id| id.get()).collect();
            prop_assert_eq!(ids, subscription_ids.clone());
            prop_assert_eq!(&properties.user_properties, &users);
            prop_assert_eq!(properties.topic_alias.map(|alias| alias.get()), alias);
            prop_assert_eq!(properties.message_expiry_interval.map(|expiry| expiry.get()), expiry);
        }

        let ours = connected(version).decode(&mut bytes);
        if v5 && !subscription_ids.is_empty() {
            prop_assert_eq!(ours.map_err(|error| error.reason()), Err(ReasonCode::ProtocolError));
        } else {
            let expected = Publish {
                dup, qos, retain, packet_id,
                topic: topic.as_str().into(),
                payload: payload.into(),
                topic_alias: alias.and_then(NonZeroU16::new).filter(|_| v5),
                message_expiry: expiry.filter(|_| v5),
                properties: PropertyBlock::from_bytes(if v5 { block.into() } else { Bytes::new() }),
            };
            prop_assert_eq!(ours, Ok(Some(Packet::Publish(Box::new(expected)))));
        }
    }

    /// What the library writes for a client, we read as it was meant.
    #[test]
    fn a_connect_of_the_library_is_read_as_meant(
        clean_start in any::<bool>(),
        keep_alive in any::<u16>(),
        client_id in "[a-z0-9]{1,23}",
        username in prop::option::of(strings()),
        password in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        session_expiry in any::<u32>(),
        receive_maximum in 1u16..,
        users in user_properties(),
        will in prop::option::of((qos(), any::<bool>(), "[a-z/]{1,9}", any::<u32>(), prop::option::of(1u32..))),
    ) {
        let library = v5::Connect {
            clean_start, keep_alive,
            client_id: client_id.as_str().into(),
            username: username.clone(),
            password: password.clone().map(Bytes::from),
            session_expiry_interval_secs: session_expiry,
            receive_max: NonZeroU16::new(receive_maximum),
            user_properties: users.clone(),
            last_will: will.as_ref().map(|(qos, retain, topic, delay, expiry)| v5::LastWill {
                qos: (*qos as u8).try_into().unwrap(),
                retain: *retain,
                topic: topic.as_str().into(),
                message: Bytes::from_static(b"bye"),
                will_delay_interval_sec: Some(*delay),
                correlation_data: None,
                message_expiry_interval: expiry.and_then(std::num::NonZeroU32::new),
                content_type: Some("t".into()),
                user_properties: vec![],
                is_utf8_payload: None,
                response_topic: None,
            }),
            ..v5::Connect::default()
        };
        let mut bytes = BytesMut::new();
        v5::Codec::default().encode(v5::Packet::Connect(Box::new(library)), &mut bytes).unwrap();
        let Ok(Some(Packet::Connect(connect))) = Decoder::new(10_000).decode(&mut bytes) else { panic!("refused") };
        prop_assert_eq!(connect.version, Version::V5);
        prop_assert_eq!((connect.clean_start, connect.keep_alive), (clean_start, keep_alive));
        prop_assert_eq!(&connect.client_id[..], &client_id);
        prop_assert_eq!(connect.username, username);
        prop_assert_eq!(connect.password, password.map(Bytes::from));
        prop_assert_eq!((connect.session_expiry, connect.receive_maximum), (session_expiry, receive_maximum));
        prop_assert_eq!(connect.user_properties, users);
        let read = connect.will.map(|will| {
            assert_eq!(&will.properties.as_bytes()[..], b"\x03\x00\x01t");
            (will.qos, will.retain, will.topic.to_string(), will.delay, will.message_expiry)
        });
        prop_assert_eq!(read, will);
    }

    #[test]
    fn a_subscribe_of_the_library_is_read_as_meant(
        id in 1u16..,
        subscription_id in prop::option::of(1u32..268_435_456),
        filters in prop::collection::vec(("[a-z/]{1,9}", 0u8..3, any::<bool>(), any::<bool>(), 0u8..3), 1..6),
        users in user_properties(),
    ) {
        let library = v5::Subscribe {
            packet_id: NonZeroU16::new(id).unwrap(),
            id: subscription_id.and_then(std::num::NonZeroU32::new),
            user_properties: users.clone(),
            topic_filters: filters
                .iter()
                .map(|(filter, qos, no_local, as_published, handling)| {
                    let options = v5::SubscriptionOptions {
                        qos: (*qos).try_into().unwrap(),
                        no_local: *no_local,
                        retain_as_published: *as_published,
                        retain_handling: (*handling).try_into().unwrap(),
                    };
                    (filter.as_str().into(), options)
                })
                .collect(),
        };
        let mut bytes = BytesMut::new();
        v5::Codec::default().encode(v5::Packet::Subscribe(library), &mut bytes).unwrap();
        let Ok(Some(Packet::Subscribe(subscribe))) = connected(Version::V5).decode(&mut bytes) else { panic!("refused") };
        prop_assert_eq!(subscribe.packet_id.get(), id);
        prop_assert_eq!(subscribe.subscription_id.map(|id| id.get()), subscription_id);
        prop_assert_eq!(subscribe.user_properties, users);
        let read: Vec<_> = subscribe
            .filters
            .iter()
            .map(|f| {
                let handling = f.retain_handling as u8;
                (f.filter.to_string(), f.qos as u8, f.no_local, f.retain_as_published, handling)
            })
            .collect();
        prop_assert_eq!(read, filters);
    }
}
