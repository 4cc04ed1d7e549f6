//! Which bytes does a client send, and what did the gateway answer? Packets a client writes (as builders, which let
//! every wrong thing through: the tests want to send it) and packets a server writes (taken apart strictly).

use crate::property::{
    Property, Reader, read_properties, write_binary, write_properties, write_variable,
};

/// PINGREQ, in every version.
pub const PINGREQ: [u8; 2] = [0xC0, 0x00];

/// Packet types in the high half of the first byte (MQTT 5.0, table 2-1).
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;

/// Subscription option bits of MQTT 5 (section 3.8.3.1); the two lowest bits are the QoS.
pub const NO_LOCAL: u8 = 0x04;
pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
pub const RETAIN_IF_NEW: u8 = 0x10;
pub const RETAIN_NEVER: u8 = 0x20;

/// The protocol level byte of CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

/// The versions with their differences in CONNECT and nowhere else.
pub const EVERY_VERSION: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[derive(Debug, Clone)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean: bool,
    /// Seconds.
    pub keep_alive: u16,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Will>,
    pub properties: Vec<Property>,
    /// No user name at all, where the harness would otherwise log in as the first account.
    pub anonymous: bool,
}

impl Connect {
    /// A clean start without keep alive.
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.into(),
            clean: true,
            keep_alive: 0,
            username: None,
            password: None,
            will: None,
            properties: Vec::new(),
            anonymous: false,
        }
    }

    pub fn v5(client_id: &str) -> Self {
        Self::new(Version::V5, client_id)
    }

    pub fn v311(client_id: &str) -> Self {
        Self::new(Version::V311, client_id)
    }

    /// A session that outlives the connection by `seconds` (v3: until the gateway's own limit), resumed if it exists.
    pub fn persistent(mut self, seconds: u32) -> Self {
        self.clean = false;
        if self.version == Version::V5 {
            self.properties.push(Property::SessionExpiry(seconds));
        }
        self
    }

    /// Sets the clean start (clean session) flag alone.
    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.username = Some(name.into());
        self.password = Some(password.into());
        self
    }

    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let name: &[u8] = if self.version == Version::V31 {
            b"MQIsdp"
        } else {
            b"MQTT"
        };
        write_binary(&mut body, name);
        body.push(self.version as u8);
        let will = self.will.as_ref();
        let bit = |set: bool, position: u8| u8::from(set) << position;
        body.push(
            bit(self.clean, 1)
                | bit(will.is_some(), 2)
                | will.map_or(0, |w| w.qos << 3)
                | bit(will.is_some_and(|w| w.retain), 5)
                | bit(self.password.is_some(), 6)
                | bit(self.username.is_some(), 7),
        );
        body.extend(self.keep_alive.to_be_bytes());
        let v5 = self.version == Version::V5;
        if v5 {
            write_properties(&mut body, &self.properties);
        }
        write_binary(&mut body, self.client_id.as_bytes());
        if let Some(will) = will {
            if v5 {
                write_properties(&mut body, &will.properties);
            }
            write_binary(&mut body, will.topic.as_bytes());
            write_binary(&mut body, &will.payload);
        }
        if let Some(username) = &self.username {
            write_binary(&mut body, username.as_bytes());
        }
        if let Some(password) = &self.password {
            write_binary(&mut body, password);
        }
        frame(0x10, body)
    }
}

#[derive(Debug, Clone)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<Property>,
}

impl Will {
    /// A QoS 0 will, not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: 0,
            retain: false,
            properties: Vec::new(),
        }
    }

    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

/// A PUBLISH, sent or received. A packet identifier of 0 asks [`crate::Client::publish`] to choose one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub properties: Vec<Property>,
    pub payload: Vec<u8>,
}

impl Publish {
    /// QoS 0, not retained.
    pub fn new(topic: &str, payload: &str) -> Self {
        Self {
            dup: false,
            qos: 0,
            retain: false,
            topic: topic.into(),
            id: 0,
            properties: Vec::new(),
            payload: payload.into(),
        }
    }

    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the tests publish text")
    }

    /// The subscription identifiers, in the order received.
    pub fn subscription_ids(&self) -> Vec<u32> {
        let id = |p: &Property| {
            if let Property::SubscriptionId(id) = p {
                Some(*id)
            } else {
                None
            }
        };
        self.properties.iter().filter_map(id).collect()
    }

    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        write_binary(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            write_properties(&mut body, &self.properties);
        }
        body.extend(&self.payload);
        frame(
            0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain),
            body,
        )
    }

    fn read(flags: u8, version: Version, reader: &mut Reader) -> Self {
        let qos = flags >> 1 & 3;
        let topic = reader.text();
        let id = if qos > 0 { reader.two() } else { 0 };
        assert!(qos == 0 || id != 0, "the gateway sent packet identifier 0");
        let properties = if version == Version::V5 {
            read_properties(reader)
        } else {
            Vec::new()
        };
        let payload = std::mem::take(&mut reader.0).to_vec();
        Self {
            dup: flags & 8 != 0,
            qos,
            retain: flags & 1 != 0,
            topic,
            id,
            properties,
            payload,
        }
    }
}

/// A SUBSCRIBE of one or more filters, each with its option byte.
#[derive(Debug, Clone)]
pub struct Subscribe {
    pub id: u16,
    pub filters: Vec<(String, u8)>,
    pub properties: Vec<Property>,
}

impl Subscribe {
    pub fn to(filter: &str, options: u8) -> Self {
        Self {
            id: 0,
            filters: vec![(filter.into(), options)],
            properties: Vec::new(),
        }
    }

    pub fn and(mut self, filter: &str, options: u8) -> Self {
        self.filters.push((filter.into(), options));
        self
    }

    /// With this subscription identifier.
    pub fn identified(mut self, subscription_id: u32) -> Self {
        self.properties
            .push(Property::SubscriptionId(subscription_id));
        self
    }

    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let mut body = self.id.to_be_bytes().to_vec();
        if version == Version::V5 {
            write_properties(&mut body, &self.properties);
        }
        for (filter, options) in &self.filters {
            write_binary(&mut body, filter.as_bytes());
            body.push(*options);
        }
        frame(0x82, body)
    }
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        write_binary(&mut body, filter.as_bytes());
    }
    frame(0xA2, body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its short form (v5: success) .
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    frame(kind, id.to_be_bytes().to_vec())
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP of MQTT 5 with a reason code.
pub fn ack_with(kind: u8, id: u16, reason: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    frame(kind, vec![high, low, reason])
}

/// DISCONNECT of MQTT 5.
pub fn disconnect(reason: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![reason];
    write_properties(&mut body, properties);
    frame(0xE0, body)
}

/// A packet of any kind: first byte, remaining length, body.
pub fn frame(first: u8, body: Vec<u8>) -> Vec<u8> {
    let mut packet = vec![first];
    write_variable(&mut packet, body.len() as u32);
    packet.extend(body);
    packet
}

/// What a server may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck(Codes),
    UnsubAck(Codes),
    PingResp,
    Disconnect(Reason),
    Auth(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    pub session_present: bool,
    pub code: u8,
    pub properties: Vec<Property>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub id: u16,
    pub code: u8,
    pub properties: Vec<Property>,
}

/// SUBACK, UNSUBACK. MQTT 3 has no codes in UNSUBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    pub id: u16,
    pub codes: Vec<u8>,
    pub properties: Vec<Property>,
}

/// DISCONNECT, AUTH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub code: u8,
    pub properties: Vec<Property>,
}

impl Reason {
    /// The reason string, if there is one.
    pub fn string(&self) -> Option<&str> {
        reason_string(&self.properties)
    }
}

/// The reason string among `properties`.
pub fn reason_string(properties: &[Property]) -> Option<&str> {
    properties.iter().find_map(|p| {
        if let Property::ReasonString(text) = p {
            Some(text.as_str())
        } else {
            None
        }
    })
}

impl Packet {
    /// Takes one packet apart. Panics on anything the specification does not let a server send.
    pub fn parse(version: Version, first: u8, body: &[u8]) -> Self {
        let reader = &mut Reader(body);
        let v5 = version == Version::V5;
        let packet = match first {
            0x20 => {
                let flags = reader.byte();
                assert!(flags <= 1, "reserved CONNACK flags are set: {flags:#04x}");
                let code = reader.byte();
                // A refusal of an unknown version is in the form of the gateway's choice.
                let properties = if v5 && !reader.0.is_empty() {
                    read_properties(reader)
                } else {
                    Vec::new()
                };
                Self::ConnAck(ConnAck {
                    session_present: flags == 1,
                    code,
                    properties,
                })
            }
            0x30..=0x3F => Self::Publish(Publish::read(first & 0x0F, version, reader)),
            PUBACK => Self::PubAck(Ack::read(version, reader)),
            PUBREC => Self::PubRec(Ack::read(version, reader)),
            PUBREL => Self::PubRel(Ack::read(version, reader)),
            PUBCOMP => Self::PubComp(Ack::read(version, reader)),
            0x90 => Self::SubAck(Codes::read(version, reader)),
            0xB0 => Self::UnsubAck(Codes::read(version, reader)),
            0xD0 => Self::PingResp,
            0xE0 => Self::Disconnect(Reason::read(version, reader)),
            0xF0 => Self::Auth(Reason::read(version, reader)),
            _ => panic!(
                "the gateway sent a packet that no server may send: {first:#04x} {body:02x?}"
            ),
        };
        assert!(
            reader.0.is_empty(),
            "{} bytes behind the end of {packet:?}",
            reader.0.len()
        );
        packet
    }
}

impl Ack {
    fn read(version: Version, reader: &mut Reader) -> Self {
        let id = reader.two();
        assert!(
            version == Version::V5 || reader.0.is_empty(),
            "MQTT 3 knows no reason codes"
        );
        let code = if reader.0.is_empty() {
            0
        } else {
            reader.byte()
        };
        let properties = if reader.0.is_empty() {
            Vec::new()
        } else {
            read_properties(reader)
        };
        Self {
            id,
            code,
            properties,
        }
    }
}

impl Codes {
    fn read(version: Version, reader: &mut Reader) -> Self {
        let id = reader.two();
        let properties = if version == Version::V5 {
            read_properties(reader)
        } else {
            Vec::new()
        };
        let codes = std::mem::take(&mut reader.0).to_vec();
        Self {
            id,
            codes,
            properties,
        }
    }
}

impl Reason {
    fn read(version: Version, reader: &mut Reader) -> Self {
        assert!(
            version == Version::V5,
            "MQTT 3 servers send neither DISCONNECT nor AUTH"
        );
        let code = if reader.0.is_empty() {
            0
        } else {
            reader.byte()
        };
        let properties = if reader.0.is_empty() {
            Vec::new()
        } else {
            read_properties(reader)
        };
        Self { code, properties }
    }
}
