//! PUBLISH from a client (section 3.3). Decoded by hand, without the library: this is the hot path, the properties
//! that are forwarded stay encoded, and a message expiry of 0, which is legal, is not refused.

use std::num::NonZeroU16;

use bytes::{Buf as _, Bytes};
use bytestring::ByteString;

use super::properties::{self, Allowed, Remainder};
use super::reader::Reader;
use super::{DecodeError, PropertyBlock, Publish, Qos, Version, topic};

const PACKET: &str = "PUBLISH";

const DUP: u8 = 0b1000;
const QOS: u8 = 0b0110;
const RETAIN: u8 = 0b0001;

/// The flags in the first byte (section 3.3.1).
pub(super) fn check_flags(first: u8) -> Result<(), DecodeError> {
    match (first & QOS, first & DUP) {
        // MQTT-3.3.1-4.
        (QOS, _) => Err(DecodeError::Malformed {
            packet: PACKET,
            why: "QoS 3",
        }),
        // MQTT-3.3.1-2.
        (0, DUP) => Err(DecodeError::Protocol {
            packet: PACKET,
            why: "DUP with QoS 0",
        }),
        _ => Ok(()),
    }
}

/// Decodes what follows the fixed header. Allocates nothing but the box unless properties must be torn apart.
pub(super) fn decode(
    version: Version,
    first: u8,
    mut body: Bytes,
) -> Result<Box<Publish>, DecodeError> {
    let mut reader = Reader::new(PACKET, &body);
    let topic = topic_name(reader.binary()?, &body)?;
    let qos = match first & QOS {
        0 => Qos::AtMostOnce,
        0b0010 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    };
    let packet_id = if qos == Qos::AtMostOnce {
        None
    } else {
        Some(reader.packet_id()?)
    };
    let properties = if version.is_v5() {
        properties(&mut reader, &body)?
    } else {
        Properties::default()
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(if version.is_v5() {
            // Section 3.3.2.1.
            DecodeError::Protocol {
                packet: PACKET,
                why: "neither topic name nor topic alias",
            }
        } else {
            // MQTT-4.7.3-1.
            DecodeError::TopicNameInvalid {
                packet: PACKET,
                why: "it is empty",
            }
        });
    }
    let payload_at = reader.position();
    body.advance(payload_at);
    Ok(Box::new(Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & RETAIN != 0,
        topic,
        packet_id,
        payload: body,
        topic_alias: properties.topic_alias,
        message_expiry: properties.message_expiry,
        properties: properties.block,
    }))
}

/// The topic name, which may be empty here.
fn topic_name(name: &[u8], body: &Bytes) -> Result<ByteString, DecodeError> {
    let name = ByteString::try_from(body.slice_ref(name)).map_err(|_| DecodeError::Malformed {
        packet: PACKET,
        why: "the topic name is not UTF-8",
    })?;
    if !topic::is_suspect(&name) {
        return Ok(name);
    }
    if name.contains('\0') {
        // MQTT-1.5.4-2.
        return Err(DecodeError::Malformed {
            packet: PACKET,
            why: "the topic name contains U+0000",
        });
    }
    Err(DecodeError::TopicNameInvalid {
        packet: PACKET,
        why: "it contains a wildcard",
    })
}

#[derive(Default)]
struct Properties {
    topic_alias: Option<NonZeroU16>,
    message_expiry: Option<u32>,
    block: PropertyBlock,
}

fn properties(reader: &mut Reader<'_>, body: &Bytes) -> Result<Properties, DecodeError> {
    let mut found = Properties::default();
    let mut kept = Remainder::default();
    let list = properties::walk(reader, PACKET, Allowed::PUBLISH, |property| {
        match property.identifier {
            properties::TOPIC_ALIAS => {
                found.topic_alias = u16::try_from(property.number)
                    .ok()
                    .and_then(NonZeroU16::new);
            }
            properties::MESSAGE_EXPIRY_INTERVAL => found.message_expiry = Some(property.number),
            properties::SUBSCRIPTION_IDENTIFIER => {
                // MQTT-3.3.4-6.
                return Err(DecodeError::Protocol {
                    packet: PACKET,
                    why: "a client sent a subscription identifier",
                });
            }
            _ => kept.keep(property),
        }
        Ok(())
    })?;
    found.block = PropertyBlock::from_bytes(kept.cut(list, body));
    Ok(found)
}
