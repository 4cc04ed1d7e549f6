//! MQTT 5 properties (section 2.2.2): which ones a packet may have, how often, and with which values.

use bytes::{Bytes, BytesMut};

use super::DecodeError;
use super::reader::Reader;

pub(super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
pub(super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
pub(super) const CONTENT_TYPE: u8 = 0x03;
pub(super) const RESPONSE_TOPIC: u8 = 0x08;
pub(super) const CORRELATION_DATA: u8 = 0x09;
pub(super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(super) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
pub(super) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(super) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(super) const AUTHENTICATION_DATA: u8 = 0x16;
pub(super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub(super) const WILL_DELAY_INTERVAL: u8 = 0x18;
pub(super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub(super) const RESPONSE_INFORMATION: u8 = 0x1A;
pub(super) const SERVER_REFERENCE: u8 = 0x1C;
pub(super) const REASON_STRING: u8 = 0x1F;
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
pub(super) const MAXIMUM_QOS: u8 = 0x24;
pub(super) const RETAIN_AVAILABLE: u8 = 0x25;
pub(super) const USER_PROPERTY: u8 = 0x26;
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(super) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
pub(super) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
pub(super) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;

/// A set of property identifiers, as bits: the highest identifier is 0x2A.
#[derive(Clone, Copy)]
pub(super) struct Allowed(u64);

impl Allowed {
    pub(super) const CONNECT: Allowed = Allowed::of(&[
        SESSION_EXPIRY_INTERVAL,
        AUTHENTICATION_METHOD,
        AUTHENTICATION_DATA,
        REQUEST_PROBLEM_INFORMATION,
        REQUEST_RESPONSE_INFORMATION,
        RECEIVE_MAXIMUM,
        TOPIC_ALIAS_MAXIMUM,
        USER_PROPERTY,
        MAXIMUM_PACKET_SIZE,
    ]);
    pub(super) const WILL: Allowed = Allowed::of(&[
        WILL_DELAY_INTERVAL,
        PAYLOAD_FORMAT_INDICATOR,
        MESSAGE_EXPIRY_INTERVAL,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        USER_PROPERTY,
    ]);
    /// The subscription identifier is left in: it is a PUBLISH property, which only a server may send, and gets
    /// its own error.
    pub(super) const PUBLISH: Allowed = Allowed::of(&[
        PAYLOAD_FORMAT_INDICATOR,
        MESSAGE_EXPIRY_INTERVAL,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        SUBSCRIPTION_IDENTIFIER,
        TOPIC_ALIAS,
        USER_PROPERTY,
    ]);
    pub(super) const ACK: Allowed = Allowed::of(&[REASON_STRING, USER_PROPERTY]);
    pub(super) const SUBSCRIBE: Allowed = Allowed::of(&[SUBSCRIPTION_IDENTIFIER, USER_PROPERTY]);
    pub(super) const UNSUBSCRIBE: Allowed = Allowed::of(&[USER_PROPERTY]);
    pub(super) const DISCONNECT: Allowed = Allowed::of(&[
        SESSION_EXPIRY_INTERVAL,
        SERVER_REFERENCE,
        REASON_STRING,
        USER_PROPERTY,
    ]);
    pub(super) const AUTH: Allowed = Allowed::of(&[
        AUTHENTICATION_METHOD,
        AUTHENTICATION_DATA,
        REASON_STRING,
        USER_PROPERTY,
    ]);

    const fn of(identifiers: &[u8]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < identifiers.len() {
            bits |= 1 << identifiers[i];
            i += 1;
        }
        Allowed(bits)
    }

    fn contains(self, identifier: u8) -> bool {
        identifier < 64 && self.0 & (1 << identifier) != 0
    }
}

/// One property of a list that is being walked.
pub(super) struct Property {
    pub(super) identifier: u8,
    /// The value of an integer property; 0 for strings and binary data.
    pub(super) number: u32,
    /// Where the property begins, identifier included, counted from the first byte of the list.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
}

/// Reads the property length and the list behind it, checks each property and hands it to `each`. Returns the list.
///
/// # Errors
/// An identifier that this packet may not have, a value of the wrong shape: malformed. A property given twice, a
/// value out of its range: protocol error.
pub(super) fn walk<'a>(
    reader: &mut Reader<'a>,
    packet: &'static str,
    allowed: Allowed,
    mut each: impl FnMut(&Property) -> Result<(), DecodeError>,
) -> Result<&'a [u8], DecodeError> {
    let length = reader.variable_byte_integer()?;
    let list = reader.take(length as usize)?;
    let mut inner = Reader::new(packet, list);
    let mut seen = 0u64;
    while !inner.is_empty() {
        let start = inner.position();
        let identifier = inner.byte()?;
        if !allowed.contains(identifier) {
            return Err(inner.malformed("a property that this packet type does not have"));
        }
        if identifier != USER_PROPERTY && seen & (1 << identifier) != 0 {
            return Err(inner.protocol_error("a property is given twice"));
        }
        seen |= 1 << identifier;
        let number = value(&mut inner, identifier)?;
        each(&Property {
            identifier,
            number,
            start,
            end: inner.position(),
        })?;
    }
    Ok(list)
}

/// Reads and checks the value of a property that the packet may have.
fn value(reader: &mut Reader<'_>, identifier: u8) -> Result<u32, DecodeError> {
    let number = match identifier {
        PAYLOAD_FORMAT_INDICATOR | REQUEST_PROBLEM_INFORMATION | REQUEST_RESPONSE_INFORMATION => {
            let flag = reader.byte()?;
            if flag > 1 {
                return Err(reader.protocol_error("a property that is 0 or 1 has another value"));
            }
            u32::from(flag)
        }
        MESSAGE_EXPIRY_INTERVAL | SESSION_EXPIRY_INTERVAL | WILL_DELAY_INTERVAL => {
            reader.four_byte()?
        }
        MAXIMUM_PACKET_SIZE => not_zero(reader.four_byte()?)
            .ok_or_else(|| reader.protocol_error("maximum packet size 0"))?,
        RECEIVE_MAXIMUM => not_zero(u32::from(reader.two_byte()?))
            .ok_or_else(|| reader.protocol_error("receive maximum 0"))?,
        TOPIC_ALIAS => {
            not_zero(u32::from(reader.two_byte()?)).ok_or(DecodeError::TopicAliasInvalid)?
        }
        TOPIC_ALIAS_MAXIMUM => u32::from(reader.two_byte()?),
        SUBSCRIPTION_IDENTIFIER => not_zero(reader.variable_byte_integer()?)
            .ok_or_else(|| reader.protocol_error("subscription identifier 0"))?,
        CORRELATION_DATA | AUTHENTICATION_DATA => {
            reader.binary()?;
            0
        }
        RESPONSE_TOPIC => {
            // MQTT-3.3.2-14, MQTT-4.7.3-1.
            let topic = reader.string()?;
            if topic.is_empty() || topic.contains(['+', '#']) {
                return Err(
                    reader.protocol_error("the response topic is empty or contains wildcards")
                );
            }
            0
        }
        USER_PROPERTY => {
            reader.string()?;
            reader.string()?;
            0
        }
        // All other identifiers that a client may send carry one string.
        _ => {
            reader.string()?;
            0
        }
    };
    Ok(number)
}

fn not_zero(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// Collects what stays of a property list when some properties are taken out of it.
///
/// Clients put topic alias and message expiry anywhere among the others. What stays in one piece is a view; only
/// what is torn apart is copied.
#[derive(Default)]
pub(super) struct Remainder {
    /// The pieces that stay, as ranges of the list; adjacent ones are joined.
    pieces: smallvec::SmallVec<[(usize, usize); 4]>,
}

impl Remainder {
    pub(super) fn keep(&mut self, property: &Property) {
        match self.pieces.last_mut() {
            Some((_, end)) if *end == property.start => *end = property.end,
            _ => self.pieces.push((property.start, property.end)),
        }
    }

    /// What was kept of `list`, which must be a view into `owner`.
    pub(super) fn cut(&self, list: &[u8], owner: &Bytes) -> Bytes {
        match self.pieces.as_slice() {
            [] => Bytes::new(),
            [(start, end)] => owner.slice_ref(&list[*start..*end]),
            pieces => {
                let mut joined = BytesMut::with_capacity(list.len());
                for (start, end) in pieces {
                    joined.extend_from_slice(&list[*start..*end]);
                }
                joined.freeze()
            }
        }
    }
}
