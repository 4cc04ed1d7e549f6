//! Is this packet allowed? A walk over the bytes of every packet but PUBLISH that refuses what the specification
//! forbids, with the reason code it asks for. The library that builds the values afterwards checks only a part.

use super::properties::{self, Allowed};
use super::reader::Reader;
use super::{DecodeError, ReasonCode, Version};

type Checked = Result<(), DecodeError>;

/// PUBACK, PUBREC, PUBREL and PUBCOMP of MQTT 5 that are longer than the packet identifier.
pub(super) fn ack(packet: &'static str, body: &[u8]) -> Checked {
    let mut reader = Reader::new(packet, body);
    reader.packet_id()?;
    if !reader.is_empty() {
        let reason = reader.byte()?;
        let known: &[ReasonCode] = match packet {
            "PUBACK" | "PUBREC" => &RECEIVED,
            _ => &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound],
        };
        known_reason(&reader, reason, known)?;
    }
    if !reader.is_empty() {
        properties::walk(&mut reader, packet, Allowed::ACK, |_| Ok(()))?;
    }
    reader.end()
}

/// SUBSCRIBE (section 3.8).
pub(super) fn subscribe(version: Version, body: &[u8]) -> Checked {
    let mut reader = Reader::new("SUBSCRIBE", body);
    reader.packet_id()?;
    if version.is_v5() {
        properties::walk(&mut reader, "SUBSCRIBE", Allowed::SUBSCRIBE, |_| Ok(()))?;
    }
    if reader.is_empty() {
        // MQTT-3.8.3-2.
        return Err(reader.protocol_error("no topic filter"));
    }
    while !reader.is_empty() {
        let filter = filter(&mut reader)?;
        let options = reader.byte()?;
        subscription_options(&reader, version, filter, options)?;
    }
    Ok(())
}

/// UNSUBSCRIBE (section 3.10).
pub(super) fn unsubscribe(version: Version, body: &[u8]) -> Checked {
    let mut reader = Reader::new("UNSUBSCRIBE", body);
    reader.packet_id()?;
    if version.is_v5() {
        properties::walk(&mut reader, "UNSUBSCRIBE", Allowed::UNSUBSCRIBE, |_| Ok(()))?;
    }
    if reader.is_empty() {
        // MQTT-3.10.3-2.
        return Err(reader.protocol_error("no topic filter"));
    }
    while !reader.is_empty() {
        filter(&mut reader)?;
    }
    Ok(())
}

/// DISCONNECT of MQTT 5 (section 3.14) with a body.
pub(super) fn disconnect(body: &[u8]) -> Checked {
    let mut reader = Reader::new("DISCONNECT", body);
    let reason = reader.byte()?;
    known_reason(&reader, reason, &DISCONNECTS)?;
    if !reader.is_empty() {
        properties::walk(&mut reader, "DISCONNECT", Allowed::DISCONNECT, |_| Ok(()))?;
    }
    reader.end()
}

/// AUTH (section 3.15).
pub(super) fn auth(body: &[u8]) -> Checked {
    let mut reader = Reader::new("AUTH", body);
    // An empty AUTH means Success, which is not for a client to say.
    let reason = if reader.is_empty() {
        ReasonCode::Success as u8
    } else {
        reader.byte()?
    };
    known_reason(
        &reader,
        reason,
        &[
            ReasonCode::ContinueAuthentication,
            ReasonCode::ReAuthenticate,
        ],
    )?;
    let mut method = false;
    if !reader.is_empty() {
        properties::walk(&mut reader, "AUTH", Allowed::AUTH, |property| {
            method |= property.identifier == properties::AUTHENTICATION_METHOD;
            Ok(())
        })?;
    }
    if !method {
        return Err(reader.protocol_error("no authentication method"));
    }
    reader.end()
}

/// What a receiver of a PUBLISH may answer (sections 3.4.2.1 and 3.5.2.1).
const RECEIVED: [ReasonCode; 9] = [
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::UnspecifiedError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::NotAuthorized,
    ReasonCode::TopicNameInvalid,
    ReasonCode::PacketIdentifierInUse,
    ReasonCode::QuotaExceeded,
    ReasonCode::PayloadFormatInvalid,
];

/// What a client may disconnect with (section 3.14.2.1).
const DISCONNECTS: [ReasonCode; 14] = [
    ReasonCode::Success,
    ReasonCode::DisconnectWithWillMessage,
    ReasonCode::UnspecifiedError,
    ReasonCode::MalformedPacket,
    ReasonCode::ProtocolError,
    ReasonCode::ImplementationSpecificError,
    ReasonCode::TopicNameInvalid,
    ReasonCode::ReceiveMaximumExceeded,
    ReasonCode::TopicAliasInvalid,
    ReasonCode::PacketTooLarge,
    ReasonCode::MessageRateTooHigh,
    ReasonCode::QuotaExceeded,
    ReasonCode::AdministrativeAction,
    ReasonCode::PayloadFormatInvalid,
];

fn known_reason(reader: &Reader<'_>, reason: u8, known: &[ReasonCode]) -> Checked {
    if known.iter().any(|code| *code as u8 == reason) {
        Ok(())
    } else {
        Err(reader.protocol_error("a reason code that a client does not use in it"))
    }
}

/// A topic filter is at least one character long (MQTT-4.7.3-1); what else is wrong with it is answered in the SUBACK.
fn filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.string()?;
    if filter.is_empty() {
        Err(reader.malformed("an empty topic filter"))
    } else {
        Ok(filter)
    }
}

fn subscription_options(
    reader: &Reader<'_>,
    version: Version,
    filter: &str,
    options: u8,
) -> Checked {
    let reserved = match version {
        // MQTT 3.1 calls the upper six bits unused and asks nothing of them.
        Version::V31 => 0,
        // MQTT-3.8.3-4 of 3.1.1.
        Version::V311 => 0b1111_1100,
        // MQTT-3.8.3-5.
        Version::V5 => 0b1100_0000,
    };
    if options & reserved != 0 {
        return Err(reader.malformed("reserved bits of the subscription options are set"));
    }
    if options & 0b11 == 3 {
        return Err(reader.malformed("maximum QoS 3"));
    }
    if version.is_v5() {
        if options & 0b0011_0000 == 0b0011_0000 {
            return Err(reader.protocol_error("retain handling 3"));
        }
        if options & 0b100 != 0 && filter.starts_with("$share/") {
            // MQTT-3.8.3-4.
            return Err(reader.protocol_error("no local on a shared subscription"));
        }
    }
    Ok(())
}
