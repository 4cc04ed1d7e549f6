//! PUBLISH from the server (section 3.3): the hot path of every delivery, written without an allocation.

use std::num::NonZeroU16;

use bytes::{BufMut as _, BytesMut};

use super::properties::{MESSAGE_EXPIRY_INTERVAL, SUBSCRIPTION_IDENTIFIER, TOPIC_ALIAS};
use super::reader::VARIABLE_BYTE_INTEGER_MAX;
use super::{EncodeError, PacketId, Qos, Version};

/// One PUBLISH to one client, borrowed from wherever its parts are.
#[derive(Debug, Clone, Copy)]
pub struct PublishFrame<'a> {
    /// The client's version. In MQTT 3 only topic, packet identifier and payload are written.
    pub version: Version,
    /// Ignored at QoS 0 (MQTT-3.3.1-2).
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Empty if `topic_alias` stands for it.
    pub topic: &'a str,
    /// Needed above QoS 0, ignored at QoS 0 (MQTT-2.2.1-2).
    pub packet_id: Option<PacketId>,
    /// The bytes of a [`super::PropertyBlock`].
    pub properties: &'a [u8],
    /// What is left of the message expiry interval, seconds.
    pub message_expiry: Option<u32>,
    /// Of all matching subscriptions of this client (MQTT-3.3.4-3 to -5), each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
    /// At most the client's topic alias maximum.
    pub topic_alias: Option<NonZeroU16>,
    pub payload: &'a [u8],
}

impl PublishFrame<'_> {
    /// The size of the packet in bytes, fixed header included: what a client's maximum packet size is compared with.
    pub fn encoded_len(&self) -> usize {
        let remaining = self.remaining_length();
        1 + variable_byte_integer_len(remaining) + remaining
    }

    /// Appends the packet to `dst` and returns its size. `maximum` is the client's maximum packet size.
    ///
    /// # Errors
    /// The packet is over `maximum` or over what the protocol can say, or its fields contradict the protocol. Nothing
    /// is written then.
    pub fn write(&self, maximum: Option<u32>, dst: &mut BytesMut) -> Result<usize, EncodeError> {
        let remaining = self.remaining_length();
        let size = 1 + variable_byte_integer_len(remaining) + remaining;
        self.check(remaining, size, maximum)?;
        dst.reserve(size);
        let dup = self.dup && self.qos > Qos::AtMostOnce;
        dst.put_u8(0x30 | u8::from(dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain));
        put_variable_byte_integer(remaining as u32, dst);
        dst.put_u16(self.topic.len() as u16);
        dst.extend_from_slice(self.topic.as_bytes());
        if let Some(id) = self.packet_id_to_write() {
            dst.put_u16(id.get());
        }
        if self.version.is_v5() {
            self.write_properties(dst);
        }
        dst.extend_from_slice(self.payload);
        Ok(size)
    }

    fn check(
        &self,
        remaining: usize,
        size: usize,
        maximum: Option<u32>,
    ) -> Result<(), EncodeError> {
        if self.topic.len() > usize::from(u16::MAX) {
            return Err(EncodeError::FieldTooLong {
                field: "topic name",
                length: self.topic.len(),
            });
        }
        if self.qos > Qos::AtMostOnce && self.packet_id.is_none() {
            return Err(EncodeError::PacketIdentifierMissing);
        }
        if let Some(id) = self
            .subscription_ids
            .iter()
            .find(|id| !(1..=VARIABLE_BYTE_INTEGER_MAX).contains(*id))
        {
            return Err(EncodeError::SubscriptionIdentifierOutOfRange(*id));
        }
        check_size(remaining, size, maximum)
    }

    fn remaining_length(&self) -> usize {
        let mut remaining = 2 + self.topic.len() + self.payload.len();
        if self.packet_id_to_write().is_some() {
            remaining += 2;
        }
        if self.version.is_v5() {
            let properties = self.properties_len();
            remaining += variable_byte_integer_len(properties) + properties;
        }
        remaining
    }

    fn properties_len(&self) -> usize {
        let mut length = self.properties.len();
        if self.topic_alias.is_some() {
            length += 3;
        }
        if self.message_expiry.is_some() {
            length += 5;
        }
        for id in self.subscription_ids {
            length += 1 + variable_byte_integer_len(*id as usize);
        }
        length
    }

    fn write_properties(&self, dst: &mut BytesMut) {
        put_variable_byte_integer(self.properties_len() as u32, dst);
        if let Some(alias) = self.topic_alias {
            dst.put_u8(TOPIC_ALIAS);
            dst.put_u16(alias.get());
        }
        if let Some(expiry) = self.message_expiry {
            dst.put_u8(MESSAGE_EXPIRY_INTERVAL);
            dst.put_u32(expiry);
        }
        for id in self.subscription_ids {
            dst.put_u8(SUBSCRIPTION_IDENTIFIER);
            put_variable_byte_integer(*id, dst);
        }
        dst.extend_from_slice(self.properties);
    }

    fn packet_id_to_write(&self) -> Option<PacketId> {
        self.packet_id.filter(|_| self.qos > Qos::AtMostOnce)
    }
}

/// Refuses what is over the client's maximum packet size (MQTT-3.1.2-24) or over the protocol's.
pub(super) fn check_size(
    remaining: usize,
    size: usize,
    maximum: Option<u32>,
) -> Result<(), EncodeError> {
    const LARGEST: usize = VARIABLE_BYTE_INTEGER_MAX as usize;
    let maximum = maximum.map_or(usize::MAX, |maximum| maximum as usize);
    if size > maximum {
        return Err(EncodeError::TooLarge { size, maximum });
    }
    if remaining > LARGEST {
        return Err(EncodeError::TooLarge {
            size,
            maximum: LARGEST + 5,
        });
    }
    Ok(())
}

/// How many bytes a variable byte integer takes (section 1.5.5).
pub(super) fn variable_byte_integer_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Writes a variable byte integer; the caller has made sure that it is at most 268,435,455.
pub(super) fn put_variable_byte_integer(mut value: u32, dst: &mut BytesMut) {
    while value >= 0x80 {
        dst.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    dst.put_u8(value as u8);
}
