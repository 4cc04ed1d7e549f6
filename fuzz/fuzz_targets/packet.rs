//! The packet decoder: no bytes make it panic or reserve memory, and how they are split makes no difference. What it
//! accepts as PUBLISH it writes back so that it reads the same.
//!
//! The first byte of the input chooses the version and whether a CONNECT has come before, the second the split. With
//! the top bit of the first byte set, the rest is not the stream itself but damage to a case of the table, so that a
//! run from an empty corpus gets deep at once.
#![no_main]

use std::sync::OnceLock;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../gateway/src/mqtt/mod.rs"]
mod mqtt;

use mqtt::{DecodeError, Decoder, Packet, PublishFrame, Version};

const LIMIT: u32 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let [choice, split, rest @ ..] = input else {
        return;
    };
    let stream = &if choice & 0x80 == 0 {
        rest.to_vec()
    } else {
        damaged_case(rest)
    };
    let version = match choice % 4 {
        0 => None,
        1 => Some(Version::V31),
        2 => Some(Version::V311),
        _ => Some(Version::V5),
    };
    let whole = decode(version, &[stream]);
    let (left, right) = stream.split_at(usize::from(*split).min(stream.len()));
    assert_eq!(whole, decode(version, &[left, right]));
    for packet in &whole.0 {
        if let Packet::Publish(publish) = packet {
            round_trip(version.unwrap_or(Version::V5), publish);
        }
    }
});

/// A case of the table, with one byte replaced for each pair of position and byte that follows its number.
fn damaged_case(input: &[u8]) -> Vec<u8> {
    static CASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let cases = CASES.get_or_init(|| {
        let small = |bytes: &Vec<u8>| (1..256).contains(&bytes.len());
        mqtt::cases::all()
            .into_iter()
            .map(|case| case.bytes)
            .filter(small)
            .collect()
    });
    let [high, low, damage @ ..] = input else {
        return vec![];
    };
    let mut bytes = cases[usize::from(u16::from_be_bytes([*high, *low])) % cases.len()].clone();
    for pair in damage.chunks_exact(2) {
        let at = usize::from(pair[0]) % bytes.len();
        bytes[at] = pair[1];
    }
    bytes
}

fn connected(version: Option<Version>) -> Decoder {
    let mut decoder = Decoder::new(LIMIT);
    if let Some(version) = version {
        let mut connect = BytesMut::from(mqtt::cases::plain_connect(version));
        assert!(matches!(
            decoder.decode(&mut connect),
            Ok(Some(Packet::Connect(_)))
        ));
    }
    decoder
}

fn decode(version: Option<Version>, pieces: &[&[u8]]) -> (Vec<Packet>, Option<DecodeError>) {
    let mut decoder = connected(version);
    let (mut buffer, mut packets) = (BytesMut::new(), vec![]);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let capacity = buffer.capacity();
            match decoder.decode(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => {
                    assert_eq!(buffer.capacity(), capacity);
                    break;
                }
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

/// `version` is a guess for streams that begin with a CONNECT: a version that says less is written without loss of
/// what it said.
fn round_trip(version: Version, publish: &mqtt::Publish) {
    let frame = PublishFrame {
        version,
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: &publish.topic,
        packet_id: publish.packet_id,
        properties: publish.properties.as_bytes(),
        message_expiry: publish.message_expiry,
        subscription_ids: &[],
        topic_alias: publish.topic_alias,
        payload: &publish.payload,
    };
    let mut written = BytesMut::new();
    assert_eq!(frame.write(None, &mut written), Ok(frame.encoded_len()));
    let read = connected(Some(version)).decode(&mut written);
    match read {
        Ok(Some(Packet::Publish(read))) => assert_eq!(&*read, publish),
        other => panic!("{publish:?} was read back as {other:?}"),
    }
}
