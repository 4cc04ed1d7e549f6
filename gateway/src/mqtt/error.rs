//! What can be wrong with bytes that came in, and with a packet that is to go out.

use super::{ReasonCode, Version};

/// Why a packet was refused. The connection is lost in every case: the stream cannot be read on.
///
/// The texts name packet types, fields and sizes, never contents: a CONNECT may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// MQTT-3.1.0-1.
    #[error("the first packet of a connection must be CONNECT, not {found}")]
    FirstPacketNotConnect {
        /// The packet type that came instead.
        found: &'static str,
    },
    /// MQTT-3.1.2-1, MQTT-3.1.2-2.
    #[error("protocol level {level} is not spoken here; MQTT 3.1 (3), 3.1.1 (4) and 5.0 (5) are")]
    UnsupportedProtocolVersion {
        /// The level as sent.
        level: u8,
        /// The version in which a CONNACK can be understood: an older client looks for return code 1, a newer
        /// one for reason code 0x84.
        answer_in: Version,
    },
    /// The protocol name is not MQTT's: no CONNACK need be sent (MQTT-3.1.2-1).
    #[error("the protocol name in CONNECT is neither \"MQTT\" nor \"MQIsdp\"")]
    UnknownProtocolName,
    /// MQTT-3.2.2-15 and the limit on the first packet.
    #[error("{packet} of {size} bytes is over the limit of {maximum} bytes")]
    PacketTooLarge {
        /// The packet type.
        packet: &'static str,
        /// Its whole size, fixed header included.
        size: u32,
        /// The limit it exceeds.
        maximum: u32,
    },
    /// The bytes cannot be parsed (section 1.2, Malformed Packet).
    #[error("malformed {packet}: {why}")]
    Malformed {
        /// The packet type.
        packet: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The bytes can be parsed and are not allowed (section 1.2, Protocol Error).
    #[error("protocol error in {packet}: {why}")]
    Protocol {
        /// The packet type.
        packet: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An empty client identifier where the version demands one (MQTT-3.1.3-8 of 3.1.1).
    #[error("an empty client identifier needs clean_session=1 (MQTT 3.1.1) or MQTT 5")]
    ClientIdentifierNotValid,
    /// A topic name that no message can have (section 4.7).
    #[error("topic name in {packet} is invalid: {why}")]
    TopicNameInvalid {
        /// The packet type.
        packet: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// MQTT-3.3.2-8.
    #[error("topic alias 0 in PUBLISH")]
    TopicAliasInvalid,
}

impl DecodeError {
    /// The reason code for the DISCONNECT, or for the CONNACK if the CONNECT itself was refused.
    pub fn reason(&self) -> ReasonCode {
        match self {
            DecodeError::FirstPacketNotConnect { .. } | DecodeError::Protocol { .. } => {
                ReasonCode::ProtocolError
            }
            DecodeError::UnsupportedProtocolVersion { .. } | DecodeError::UnknownProtocolName => {
                ReasonCode::UnsupportedProtocolVersion
            }
            DecodeError::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            DecodeError::Malformed { .. } => ReasonCode::MalformedPacket,
            DecodeError::ClientIdentifierNotValid => ReasonCode::ClientIdentifierNotValid,
            DecodeError::TopicNameInvalid { .. } => ReasonCode::TopicNameInvalid,
            DecodeError::TopicAliasInvalid => ReasonCode::TopicAliasInvalid,
        }
    }
}

/// Why a packet cannot be written. Nothing has been written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// MQTT-3.1.2-24: the packet must not be sent at all.
    #[error(
        "packet of {size} bytes is over the {maximum} bytes that the client or the protocol allows"
    )]
    TooLarge {
        /// The size it would have, fixed header included.
        size: usize,
        /// The client's maximum packet size, or that of the protocol.
        maximum: usize,
    },
    /// A string or binary field of more than 65,535 bytes (section 1.5).
    #[error("{field} of {length} bytes is over the 65535 bytes that a string may have")]
    FieldTooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// QoS above 0 needs a packet identifier (MQTT-2.2.1-3).
    #[error("a PUBLISH with QoS above 0 needs a packet identifier")]
    PacketIdentifierMissing,
    /// Subscription identifiers are 1 to 268,435,455 (section 3.8.2.1.2).
    #[error("subscription identifier {0} is outside 1 to 268435455")]
    SubscriptionIdentifierOutOfRange(u32),
    /// MQTT 3.1 has no way to refuse a subscription: the connection must be closed instead.
    #[error("MQTT 3.1 cannot refuse a subscription in SUBACK")]
    NoRefusalInMqtt31,
}
