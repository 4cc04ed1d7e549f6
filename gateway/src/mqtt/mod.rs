//! What do these bytes say? The MQTT codec for versions 3.1, 3.1.1 and 5.0, and the rules for topic names and topic
//! filters. No I/O, no state beyond one connection's version and size limit.
//!
//! [`Decoder`] turns the bytes of a client into [`Packet`]s that look alike in all versions, and refuses whatever the
//! specification forbids a client to send, so that nobody above has to look again. [`encode`] and [`PublishFrame`]
//! write what the server says.
//!
//! Left to others: whether a packet fits the state of the session (packet identifiers in use, topic aliases, receive
//! maximum, a second AUTH exchange), and whether the client may do what it asks for.

#[doc(hidden)]
pub mod cases;
mod check;
mod connect;
mod decode;
mod encode;
mod error;
pub mod filter;
mod frame;
mod library;
mod packet;
mod properties;
mod publish;
mod reader;
mod reason;
mod reply;
#[cfg(test)]
mod tests;
pub mod topic;

pub use decode::Decoder;
pub use encode::encode;
pub use error::{DecodeError, EncodeError};
pub use filter::{Filter, SubscriptionFilter, covers, matches};
pub use frame::PublishFrame;
pub use packet::{
    Ack, Auth, Connect, Disconnect, Packet, PacketId, PropertyBlock, Publish, RetainHandling,
    Subscribe, SubscribeFilter, Unsubscribe, UserProperties, Will,
};
pub use reason::ReasonCode;
pub use reply::{ConnAck, PeerLimits, Reply};
pub use topic::{TopicError, validate_topic_name};

/// The protocol version of a connection, fixed by its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0, level 5.
    V5,
}

impl Version {
    /// True for MQTT 5.0: it has properties, reason codes and server-sent DISCONNECT.
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Version::V31 => "3.1",
            Version::V311 => "3.1.1",
            Version::V5 => "5.0",
        })
    }
}

/// Quality of service (section 4.3), ordered: the effective QoS of a delivery is the `min` of two.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Qos {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl TryFrom<u8> for Qos {
    type Error = u8;

    /// # Errors
    /// The byte itself, if it is above 2.
    fn try_from(byte: u8) -> Result<Self, u8> {
        match byte {
            0 => Ok(Qos::AtMostOnce),
            1 => Ok(Qos::AtLeastOnce),
            2 => Ok(Qos::ExactlyOnce),
            other => Err(other),
        }
    }
}
