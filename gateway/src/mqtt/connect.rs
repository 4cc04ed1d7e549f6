//! CONNECT (section 3.1): the one packet that says its own version, so it is checked and built here as a whole.

use bytes::Bytes;
use rmqtt_codec::{v3, v5};

use super::properties::{self, Allowed, Property, Remainder};
use super::reader::Reader;
use super::{Connect, DecodeError, PropertyBlock, Qos, Version, Will, library};

const PACKET: &str = "CONNECT";

const USER_NAME: u8 = 0b1000_0000;
const PASSWORD: u8 = 0b0100_0000;
const WILL_RETAIN: u8 = 0b0010_0000;
const WILL_QOS: u8 = 0b0001_1000;
const WILL: u8 = 0b0000_0100;
const CLEAN_START: u8 = 0b0000_0010;
const RESERVED: u8 = 0b0000_0001;

/// The version that the first bytes of a CONNECT's body ask for (sections 3.1.2.1 and 3.1.2.2).
pub(super) fn version(body: &[u8]) -> Result<Version, DecodeError> {
    let mut reader = Reader::new(PACKET, body);
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::UnknownProtocolName);
    }
    match (name, reader.byte()?) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (_, level) => {
            // Bridges set the top bit of the level they speak.
            let answer_in = if level & 0x7F <= 4 {
                Version::V311
            } else {
                Version::V5
            };
            Err(DecodeError::UnsupportedProtocolVersion { level, answer_in })
        }
    }
}

/// Decodes a whole CONNECT, fixed header included. `header` is the length of the fixed header.
pub(super) fn decode(
    version: Version,
    packet: &[u8],
    header: usize,
) -> Result<Box<Connect>, DecodeError> {
    let facts = check(version, &packet[header..])?;
    let mut copy = library::copy(packet);
    facts.make_palatable(&mut copy[header..]);
    if version.is_v5() {
        from_v5(library::decode_v5(PACKET, copy)?, &facts)
    } else {
        from_v3(version, library::decode_v3(PACKET, copy)?)
    }
}

/// What the check found and the library does not tell, or would refuse although it is legal.
struct Facts {
    flags: u8,
    flags_at: usize,
    /// An empty client identifier, which MQTT 5 allows with and without clean start.
    empty_client_id: bool,
    /// The flags to be cleared because MQTT 3.1 lets user name and password be missing although announced.
    missing: u8,
    will: Option<WillFacts>,
}

#[derive(Default)]
struct WillFacts {
    delay: u32,
    message_expiry: Option<u32>,
    /// Where the four bytes of a message expiry interval of 0 are, in the body.
    zero_expiry_at: Option<usize>,
    properties: PropertyBlock,
}

impl Facts {
    /// Changes what is legal but refused by the library into what it accepts. The truth stays in `self`.
    fn make_palatable(&self, body: &mut [u8]) {
        if self.empty_client_id {
            body[self.flags_at] |= CLEAN_START;
        }
        body[self.flags_at] &= !self.missing;
        if let Some(at) = self.will.as_ref().and_then(|will| will.zero_expiry_at) {
            body[at + 3] = 1;
        }
    }
}

fn check(version: Version, body: &[u8]) -> Result<Facts, DecodeError> {
    let mut reader = Reader::new(PACKET, body);
    reader.binary()?;
    reader.byte()?;
    let flags_at = reader.position();
    let flags = reader.byte()?;
    check_flags(&reader, version, flags)?;
    reader.two_byte()?;
    if version.is_v5() {
        connect_properties(&mut reader)?;
    }
    let empty_client_id = reader.string()?.is_empty();
    if empty_client_id && !may_be_empty(version, flags) {
        return Err(DecodeError::ClientIdentifierNotValid);
    }
    let will = if flags & WILL != 0 {
        Some(will(&mut reader, version)?)
    } else {
        None
    };
    let mut missing = 0;
    if flags & USER_NAME != 0 {
        if version == Version::V31 && reader.is_empty() {
            missing = USER_NAME | PASSWORD;
        } else {
            reader.string()?;
        }
    }
    if flags & PASSWORD != 0 && missing == 0 {
        if version == Version::V31 && reader.is_empty() {
            missing = PASSWORD;
        } else {
            reader.binary()?;
        }
    }
    reader.end()?;
    Ok(Facts {
        flags,
        flags_at,
        empty_client_id,
        missing,
        will,
    })
}

fn check_flags(reader: &Reader<'_>, version: Version, flags: u8) -> Result<(), DecodeError> {
    if flags & RESERVED != 0 {
        // MQTT-3.1.2-3.
        return Err(reader.malformed("the reserved connect flag is set"));
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        // MQTT-3.1.2-11, -13.
        return Err(reader.malformed("will QoS or will retain without the will flag"));
    }
    if flags & WILL_QOS == WILL_QOS {
        // MQTT-3.1.2-12.
        return Err(reader.malformed("will QoS 3"));
    }
    if !version.is_v5() && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        // MQTT-3.1.2-22 of 3.1.1.
        return Err(reader.malformed("a password without a user name"));
    }
    Ok(())
}

fn may_be_empty(version: Version, flags: u8) -> bool {
    match version {
        Version::V31 => false,
        // MQTT-3.1.3-8 of 3.1.1.
        Version::V311 => flags & CLEAN_START != 0,
        Version::V5 => true,
    }
}

fn connect_properties(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let (mut method, mut data) = (false, false);
    properties::walk(reader, PACKET, Allowed::CONNECT, |property| {
        method |= property.identifier == properties::AUTHENTICATION_METHOD;
        data |= property.identifier == properties::AUTHENTICATION_DATA;
        Ok(())
    })?;
    if data && !method {
        return Err(reader.protocol_error("authentication data without an authentication method"));
    }
    Ok(())
}

fn will(reader: &mut Reader<'_>, version: Version) -> Result<WillFacts, DecodeError> {
    let mut facts = WillFacts::default();
    if version.is_v5() {
        let mut kept = Remainder::default();
        let mut zero_expiry_end = None;
        let list = properties::walk(reader, PACKET, Allowed::WILL, |property: &Property| {
            match property.identifier {
                properties::WILL_DELAY_INTERVAL => facts.delay = property.number,
                properties::MESSAGE_EXPIRY_INTERVAL => {
                    facts.message_expiry = Some(property.number);
                    zero_expiry_end = (property.number == 0).then_some(property.end);
                }
                _ => kept.keep(property),
            }
            Ok(())
        })?;
        let list_at = reader.position() - list.len();
        facts.zero_expiry_at = zero_expiry_end.map(|end| list_at + end - 4);
        let owner = Bytes::copy_from_slice(list);
        facts.properties = PropertyBlock::from_bytes(kept.cut(&owner, &owner));
    }
    let topic = reader.string()?;
    if let Some(why) = super::topic::flaw(topic) {
        return Err(DecodeError::TopicNameInvalid {
            packet: PACKET,
            why,
        });
    }
    reader.binary()?;
    Ok(facts)
}

fn from_v3(version: Version, packet: v3::Packet) -> Result<Box<Connect>, DecodeError> {
    let v3::Packet::Connect(connect) = packet else {
        return Err(library::disagreement(PACKET));
    };
    let connect = *connect;
    Ok(Box::new(Connect {
        version,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id,
        username: connect.username,
        password: connect.password,
        will: connect.last_will.map(|will| {
            Box::new(Will {
                topic: will.topic,
                payload: will.message,
                qos: Qos::from_library(will.qos),
                retain: will.retain,
                delay: 0,
                properties: PropertyBlock::default(),
                message_expiry: None,
            })
        }),
        session_expiry: if connect.clean_session { 0 } else { u32::MAX },
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
    }))
}

fn from_v5(packet: v5::Packet, facts: &Facts) -> Result<Box<Connect>, DecodeError> {
    let v5::Packet::Connect(connect) = packet else {
        return Err(library::disagreement(PACKET));
    };
    let connect = *connect;
    let will = match (connect.last_will, &facts.will) {
        (Some(will), Some(facts)) => Some(Box::new(Will {
            topic: will.topic,
            payload: will.message,
            qos: Qos::from_library(will.qos),
            retain: will.retain,
            delay: facts.delay,
            properties: facts.properties.clone(),
            message_expiry: facts.message_expiry,
        })),
        _ => None,
    };
    Ok(Box::new(Connect {
        version: Version::V5,
        clean_start: facts.flags & CLEAN_START != 0,
        keep_alive: connect.keep_alive,
        client_id: connect.client_id,
        username: connect.username,
        password: connect.password,
        will,
        session_expiry: connect.session_expiry_interval_secs,
        receive_maximum: connect
            .receive_max
            .map_or(u16::MAX, |maximum| maximum.get()),
        maximum_packet_size: connect.max_packet_size.map(|maximum| maximum.get()),
        topic_alias_maximum: connect.topic_alias_max,
        request_problem_information: connect.request_problem_info,
        request_response_information: connect.request_response_info,
        authentication_method: connect.auth_method,
        authentication_data: connect.auth_data,
        user_properties: connect.user_properties,
    }))
}
