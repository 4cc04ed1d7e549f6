//! What a client can say, in one form for all versions. What MQTT 3 lacks has the value that MQTT 5 gives to an
//! absent property.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{Qos, ReasonCode, Version};

/// A packet identifier (section 2.2.1). Never 0.
pub type PacketId = NonZeroU16;

/// User properties, in the order sent (MQTT-3.3.2-18).
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// A packet that a client may send. Those that only a server may send are refused by the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    Publish(Box<Publish>),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Box<Subscribe>),
    Unsubscribe(Box<Unsubscribe>),
    PingReq,
    Disconnect(Box<Disconnect>),
    Auth(Box<Auth>),
}

impl Packet {
    /// The specification's name of the packet type.
    pub fn name(&self) -> &'static str {
        match self {
            Packet::Connect(_) => "CONNECT",
            Packet::Publish(_) => "PUBLISH",
            Packet::PubAck(_) => "PUBACK",
            Packet::PubRec(_) => "PUBREC",
            Packet::PubRel(_) => "PUBREL",
            Packet::PubComp(_) => "PUBCOMP",
            Packet::Subscribe(_) => "SUBSCRIBE",
            Packet::Unsubscribe(_) => "UNSUBSCRIBE",
            Packet::PingReq => "PINGREQ",
            Packet::Disconnect(_) => "DISCONNECT",
            Packet::Auth(_) => "AUTH",
        }
    }
}

/// CONNECT (section 3.1). Its strings own their memory: they pin no read buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that the rest of the connection speaks.
    pub version: Version,
    /// Clean start; in MQTT 3 clean session, which also ends the session with the connection (`session_expiry`).
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off.
    pub keep_alive: u16,
    /// May be empty: the server then assigns one. MQTT 3.1 limits it to 23 characters; that limit is not enforced,
    /// because the clients of that time exceed it.
    pub client_id: ByteString,
    /// Also absent if an MQTT 3.1 client sets the flag and leaves the field out, as that version allows.
    pub username: Option<ByteString>,
    /// Never printed.
    pub password: Option<Bytes>,
    /// The will, if the will flag is set.
    pub will: Option<Box<Will>>,
    /// Seconds; `u32::MAX` means never. MQTT 3: 0 with clean session, else `u32::MAX`.
    pub session_expiry: u32,
    /// How many QoS 1 and 2 PUBLISHes the client takes unacknowledged; 65,535 if it does not say.
    pub receive_maximum: u16,
    /// The largest packet the client takes, in bytes with fixed header. Never 0.
    pub maximum_packet_size: Option<u32>,
    /// The highest topic alias that the client takes; 0 means none.
    pub topic_alias_maximum: u16,
    /// False: reason strings and user properties only in PUBLISH, CONNACK and DISCONNECT (MQTT-3.1.2-29).
    pub request_problem_information: bool,
    /// True: the CONNACK may carry response information.
    pub request_response_information: bool,
    /// Enhanced authentication (section 4.12).
    pub authentication_method: Option<ByteString>,
    /// Only with a method. Never printed.
    pub authentication_data: Option<Bytes>,
    pub user_properties: UserProperties,
}

/// The will message (sections 3.1.2.5 and 3.1.3.2). Its parts own their memory: they pin no read buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Will {
    /// Not empty, without wildcards.
    pub topic: ByteString,
    pub payload: Bytes,
    pub qos: Qos,
    pub retain: bool,
    /// Will delay interval, seconds.
    pub delay: u32,
    pub properties: PropertyBlock,
    /// Seconds; 0 is legal, and expires before anybody gets it.
    pub message_expiry: Option<u32>,
}

/// PUBLISH (section 3.3). Topic, properties and payload are views into the read buffer: what is kept for long is to
/// be copied, or it pins the whole buffer.
#[derive(Clone, PartialEq, Eq)]
pub struct Publish {
    /// Never with QoS 0.
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    /// Without wildcards and U+0000. Empty only with a topic alias.
    pub topic: ByteString,
    /// Present exactly if QoS is above 0.
    pub packet_id: Option<PacketId>,
    pub payload: Bytes,
    /// Not yet compared with the topic alias maximum.
    pub topic_alias: Option<NonZeroU16>,
    /// Message expiry interval, seconds. 0 is legal.
    pub message_expiry: Option<u32>,
    pub properties: PropertyBlock,
}

/// The PUBLISH properties that a server forwards unaltered (payload format indicator, content type, response topic,
/// correlation data, user properties), in the order sent, as encoded MQTT 5 property bytes without the length prefix.
/// Topic alias, message expiry and subscription identifiers are not among them. Empty for MQTT 3.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct PropertyBlock(Bytes);

impl PropertyBlock {
    /// Takes back bytes that came from [`PropertyBlock::as_bytes`], for instance out of the bus or the store. They
    /// are not checked again.
    pub(crate) fn from_bytes(bytes: Bytes) -> Self {
        PropertyBlock(bytes)
    }

    /// The encoded properties, ready for [`super::PublishFrame::properties`].
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub packet_id: PacketId,
    /// Success in MQTT 3.
    pub reason: ReasonCode,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
}

impl Ack {
    /// An acknowledgement without reason string and user properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Ack {
            packet_id,
            reason,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }
}

/// SUBSCRIBE (section 3.8). Its strings own their memory: they pin no read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    /// 1 to 268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// At least one.
    pub filters: Vec<SubscribeFilter>,
    pub user_properties: UserProperties,
}

/// One topic filter of a SUBSCRIBE with its options (section 3.8.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// As sent, `$share/…` included: UTF-8, not empty, without U+0000. Whether it is a valid filter is for
    /// [`super::SubscriptionFilter::parse`] to say, so that each filter gets its own answer in the SUBACK.
    pub filter: ByteString,
    /// The maximum QoS.
    pub qos: Qos,
    /// Never with `$share/…` (MQTT-3.8.3-4).
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When a new subscription gets retained messages (section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    /// At each SUBSCRIBE.
    Send = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// UNSUBSCRIBE (section 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    /// As sent, at least one; see [`SubscribeFilter::filter`].
    pub filters: Vec<ByteString>,
    pub user_properties: UserProperties,
}

/// DISCONNECT in either direction (section 3.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Success means a normal disconnection, the only one after which the will is dropped.
    pub reason: ReasonCode,
    /// Seconds. Only clients send it.
    pub session_expiry: Option<u32>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
    pub server_reference: Option<ByteString>,
}

impl Disconnect {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Disconnect {
            reason,
            session_expiry: None,
            reason_string: None,
            user_properties: UserProperties::new(),
            server_reference: None,
        }
    }
}

/// AUTH in either direction (section 3.15). MQTT 5 only.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// From a client: continue authentication or re-authenticate.
    pub reason: ReasonCode,
    /// Always present in what a client sent.
    pub method: Option<ByteString>,
    /// Never printed.
    pub data: Option<Bytes>,
    pub reason_string: Option<ByteString>,
    pub user_properties: UserProperties,
}

/// Stands for a secret or for bytes that nobody wants in a log.
struct Length(usize);

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

fn length(bytes: &Option<Bytes>) -> Option<Length> {
    bytes.as_ref().map(|bytes| Length(bytes.len()))
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            // Small clients put a token there.
            .field(
                "username",
                &self.username.as_ref().map(|name| Length(name.len())),
            )
            .field("password", &length(&self.password))
            .field("will", &self.will)
            .field("session_expiry", &self.session_expiry)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field(
                "request_problem_information",
                &self.request_problem_information,
            )
            .field(
                "request_response_information",
                &self.request_response_information,
            )
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &length(&self.authentication_data))
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

impl fmt::Debug for Will {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload", &Length(self.payload.len()))
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("delay", &self.delay)
            .field("properties", &self.properties)
            .field("message_expiry", &self.message_expiry)
            .finish()
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("packet_id", &self.packet_id)
            .field("payload", &Length(self.payload.len()))
            .field("topic_alias", &self.topic_alias)
            .field("message_expiry", &self.message_expiry)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for PropertyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Length(self.0.len()).fmt(f)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data", &length(&self.data))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}
