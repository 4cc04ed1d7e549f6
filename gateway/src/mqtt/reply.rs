//! What the server can say apart from PUBLISH, in one form for all versions.

use bytes::Bytes;
use bytestring::ByteString;

use super::{Ack, Auth, Disconnect, PacketId, Qos, ReasonCode, UserProperties};

/// A packet from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    ConnAck(Box<ConnAck>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    /// One reason code per topic filter, in their order (MQTT-3.8.4-6).
    SubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        reason_string: Option<ByteString>,
        user_properties: UserProperties,
    },
    /// One reason code per topic filter, in their order (MQTT-3.11.3-1).
    UnsubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        reason_string: Option<ByteString>,
        user_properties: UserProperties,
    },
    PingResp,
    Disconnect(Disconnect),
    Auth(Auth),
}

/// CONNACK (section 3.2). The default accepts with everything available and no property written.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnAck {
    /// Written as 0 if the reason is an error (MQTT-3.2.2-6).
    pub session_present: bool,
    pub reason: ReasonCode,
    /// Seconds, if not what the client asked for.
    pub session_expiry: Option<u32>,
    /// How many unacknowledged QoS 1 and 2 PUBLISHes the server takes; absent means 65,535. Never 0.
    pub receive_maximum: Option<u16>,
    pub maximum_qos: Qos,
    pub retain_available: bool,
    /// The largest packet that the server takes, in bytes. Never 0.
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<ByteString>,
    /// The highest topic alias that the server takes; 0 means none.
    pub topic_alias_maximum: u16,
    pub reason_string: Option<ByteString>,
    pub wildcard_subscription_available: bool,
    pub subscription_identifiers_available: bool,
    pub shared_subscription_available: bool,
    /// Seconds, if not what the client asked for.
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<ByteString>,
    pub server_reference: Option<ByteString>,
    pub authentication_method: Option<ByteString>,
    /// Never printed.
    pub authentication_data: Option<Bytes>,
    pub user_properties: UserProperties,
}

impl ConnAck {
    /// A CONNACK without properties.
    pub fn new(reason: ReasonCode) -> Self {
        ConnAck {
            session_present: false,
            reason,
            session_expiry: None,
            receive_maximum: None,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
            user_properties: UserProperties::new(),
        }
    }

    /// The return code of MQTT 3 (table 3.1 of 3.1.1): 0 accepted, 1 protocol version, 2 identifier rejected,
    /// 3 unavailable, 4 bad user name or password, 5 not authorized. What may pass by itself is 3, the rest 5.
    pub fn return_code(&self) -> u8 {
        match self.reason {
            reason if !reason.is_error() => 0,
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded => 3,
            ReasonCode::BadUserNameOrPassword => 4,
            _ => 5,
        }
    }
}

impl Default for ConnAck {
    fn default() -> Self {
        ConnAck::new(ReasonCode::Success)
    }
}

impl std::fmt::Debug for ConnAck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnAck")
            .field("session_present", &self.session_present)
            .field("reason", &self.reason)
            .field("session_expiry", &self.session_expiry)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("assigned_client_id", &self.assigned_client_id)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("server_keep_alive", &self.server_keep_alive)
            .field("authentication_method", &self.authentication_method)
            .field("user_properties", &self.user_properties)
            .finish_non_exhaustive()
    }
}

/// What the client said about the packets it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// In bytes, fixed header included; from CONNECT.
    pub maximum_packet_size: Option<u32>,
    /// From CONNECT. False: reason strings and user properties are left out of all but CONNACK and DISCONNECT
    /// (MQTT-3.1.2-29).
    pub problem_information: bool,
}

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            maximum_packet_size: None,
            problem_information: true,
        }
    }
}
