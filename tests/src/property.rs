//! What does an MQTT 5 property look like on the wire? All 27 of them (MQTT 5.0, section 2.2.2.2).

/// One property, in the order of table 2-4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthenticationMethod(String),
    AuthenticationData(Vec<u8>),
    RequestProblemInformation(u8),
    WillDelay(u32),
    RequestResponseInformation(u8),
    ResponseInformation(String),
    ServerReference(String),
    ReasonString(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(u8),
    User(String, String),
    MaximumPacketSize(u32),
    WildcardAvailable(u8),
    SubscriptionIdAvailable(u8),
    SharedAvailable(u8),
}

use Property as P;

impl Property {
    /// A user property.
    pub fn user(name: &str, value: &str) -> Self {
        P::User(name.into(), value.into())
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            P::PayloadFormat(v) => out.extend([0x01, *v]),
            P::MessageExpiry(v) => four(out, 0x02, *v),
            P::ContentType(v) => text(out, 0x03, v),
            P::ResponseTopic(v) => text(out, 0x08, v),
            P::CorrelationData(v) => binary(out, 0x09, v),
            P::SubscriptionId(v) => {
                out.push(0x0B);
                write_variable(out, *v);
            }
            P::SessionExpiry(v) => four(out, 0x11, *v),
            P::AssignedClientId(v) => text(out, 0x12, v),
            P::ServerKeepAlive(v) => two(out, 0x13, *v),
            P::AuthenticationMethod(v) => text(out, 0x15, v),
            P::AuthenticationData(v) => binary(out, 0x16, v),
            P::RequestProblemInformation(v) => out.extend([0x17, *v]),
            P::WillDelay(v) => four(out, 0x18, *v),
            P::RequestResponseInformation(v) => out.extend([0x19, *v]),
            P::ResponseInformation(v) => text(out, 0x1A, v),
            P::ServerReference(v) => text(out, 0x1C, v),
            P::ReasonString(v) => text(out, 0x1F, v),
            P::ReceiveMaximum(v) => two(out, 0x21, *v),
            P::TopicAliasMaximum(v) => two(out, 0x22, *v),
            P::TopicAlias(v) => two(out, 0x23, *v),
            P::MaximumQos(v) => out.extend([0x24, *v]),
            P::RetainAvailable(v) => out.extend([0x25, *v]),
            P::User(name, value) => {
                text(out, 0x26, name);
                write_binary(out, value.as_bytes());
            }
            P::MaximumPacketSize(v) => four(out, 0x27, *v),
            P::WildcardAvailable(v) => out.extend([0x28, *v]),
            P::SubscriptionIdAvailable(v) => out.extend([0x29, *v]),
            P::SharedAvailable(v) => out.extend([0x2A, *v]),
        }
    }

    fn read(reader: &mut Reader) -> Self {
        match reader.byte() {
            0x01 => P::PayloadFormat(reader.byte()),
            0x02 => P::MessageExpiry(reader.four()),
            0x03 => P::ContentType(reader.text()),
            0x08 => P::ResponseTopic(reader.text()),
            0x09 => P::CorrelationData(reader.binary()),
            0x0B => P::SubscriptionId(reader.variable()),
            0x11 => P::SessionExpiry(reader.four()),
            0x12 => P::AssignedClientId(reader.text()),
            0x13 => P::ServerKeepAlive(reader.two()),
            0x15 => P::AuthenticationMethod(reader.text()),
            0x16 => P::AuthenticationData(reader.binary()),
            0x17 => P::RequestProblemInformation(reader.byte()),
            0x18 => P::WillDelay(reader.four()),
            0x19 => P::RequestResponseInformation(reader.byte()),
            0x1A => P::ResponseInformation(reader.text()),
            0x1C => P::ServerReference(reader.text()),
            0x1F => P::ReasonString(reader.text()),
            0x21 => P::ReceiveMaximum(reader.two()),
            0x22 => P::TopicAliasMaximum(reader.two()),
            0x23 => P::TopicAlias(reader.two()),
            0x24 => P::MaximumQos(reader.byte()),
            0x25 => P::RetainAvailable(reader.byte()),
            0x26 => P::User(reader.text(), reader.text()),
            0x27 => P::MaximumPacketSize(reader.four()),
            0x28 => P::WildcardAvailable(reader.byte()),
            0x29 => P::SubscriptionIdAvailable(reader.byte()),
            0x2A => P::SharedAvailable(reader.byte()),
            other => panic!("the gateway sent the unknown property {other:#04x}"),
        }
    }
}

/// Writes a property section with its length.
pub fn write_properties(out: &mut Vec<u8>, properties: &[Property]) {
    let mut section = Vec::new();
    for property in properties {
        property.write(&mut section);
    }
    write_variable(out, section.len() as u32);
    out.extend(section);
}

/// Reads a property section with its length.
pub fn read_properties(reader: &mut Reader) -> Vec<Property> {
    let length = reader.variable() as usize;
    let mut section = Reader(reader.take(length));
    let mut properties = Vec::new();
    while !section.0.is_empty() {
        properties.push(Property::read(&mut section));
    }
    properties
}

fn two(out: &mut Vec<u8>, id: u8, value: u16) {
    out.push(id);
    out.extend(value.to_be_bytes());
}

fn four(out: &mut Vec<u8>, id: u8, value: u32) {
    out.push(id);
    out.extend(value.to_be_bytes());
}

fn text(out: &mut Vec<u8>, id: u8, value: &str) {
    binary(out, id, value.as_bytes());
}

fn binary(out: &mut Vec<u8>, id: u8, value: &[u8]) {
    out.push(id);
    write_binary(out, value);
}

/// Two bytes of length, then the bytes.
pub fn write_binary(out: &mut Vec<u8>, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("at most 65,535 bytes");
    out.extend(length.to_be_bytes());
    out.extend(value);
}

/// A variable byte integer (MQTT 5.0, section 1.5.5).
pub fn write_variable(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// Takes a received packet apart. Panics on bytes that are not MQTT: the gateway never sends such.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        assert!(
            self.0.len() >= n,
            "a packet of the gateway ends early: {n} more bytes wanted, {:02x?} left",
            self.0
        );
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn four(&mut self) -> u32 {
        u32::from(self.two()) << 16 | u32::from(self.two())
    }

    pub fn binary(&mut self) -> Vec<u8> {
        let length = self.two();
        self.take(length.into()).to_vec()
    }

    pub fn text(&mut self) -> String {
        String::from_utf8(self.binary()).expect("the gateway sends UTF-8 strings")
    }

    pub fn variable(&mut self) -> u32 {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!("the gateway sent a variable byte integer of more than four bytes");
    }
}
