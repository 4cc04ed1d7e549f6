//! What the gateway sent, taken apart by hand and not by the codec under test.

use crate::mqtt::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Publish(Message),
    PubAck(u16, u8),
    PubRec(u16, u8),
    PubRel(u16, u8),
    PubComp(u16, u8),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    PingResp,
    /// Reason code and reason string.
    Disconnect(u8, String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    /// 0 at QoS 0.
    pub id: u16,
    pub payload: String,
    pub expiry: Option<u32>,
    pub alias: Option<u16>,
    pub subscription_ids: Vec<u32>,
}

pub fn parse(version: Version, bytes: &[u8]) -> Vec<Sent> {
    let mut rest = Reader(bytes);
    let mut packets = Vec::new();
    while !rest.0.is_empty() {
        let first = rest.byte();
        let length = rest.variable();
        packets.push(packet(version, first, Reader(rest.take(length))));
    }
    packets
}

fn packet(version: Version, first: u8, mut body: Reader<'_>) -> Sent {
    let v5 = version.is_v5();
    match first >> 4 {
        3 => Sent::Publish(message(v5, first, body)),
        kind @ 4..=7 => {
            let id = body.two();
            let reason = if body.0.is_empty() { 0 } else { body.byte() };
            match kind {
                4 => Sent::PubAck(id, reason),
                5 => Sent::PubRec(id, reason),
                6 => Sent::PubRel(id, reason),
                _ => Sent::PubComp(id, reason),
            }
        }
        kind @ (9 | 11) => {
            let id = body.two();
            if v5 {
                let properties = body.variable();
                body.take(properties);
            }
            let reasons = body.0.to_vec();
            if kind == 9 {
                Sent::SubAck(id, reasons)
            } else {
                Sent::UnsubAck(id, reasons)
            }
        }
        13 => Sent::PingResp,
        14 => {
            let reason = body.byte();
            let mut text = String::new();
            if !body.0.is_empty() {
                let length = body.variable();
                let mut properties = Reader(body.take(length));
                while !properties.0.is_empty() {
                    match properties.byte() {
                        0x1F => text = properties.string(),
                        other => panic!("property {other:#x} in DISCONNECT"),
                    }
                }
            }
            Sent::Disconnect(reason, text)
        }
        other => panic!("packet type {other}"),
    }
}

fn message(v5: bool, first: u8, mut body: Reader<'_>) -> Message {
    let mut message = Message {
        dup: first & 8 != 0,
        qos: first >> 1 & 3,
        retain: first & 1 != 0,
        topic: body.string(),
        ..Message::default()
    };
    if message.qos > 0 {
        message.id = body.two();
    }
    if v5 {
        let length = body.variable();
        let mut properties = Reader(body.take(length));
        while !properties.0.is_empty() {
            match properties.byte() {
                0x02 => message.expiry = Some(properties.four()),
                0x0B => message.subscription_ids.push(properties.variable() as u32),
                0x23 => message.alias = Some(properties.two()),
                other => panic!("property {other:#x} in PUBLISH"),
            }
        }
    }
    message.payload = String::from_utf8(body.0.to_vec()).unwrap();
    message
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn variable(&mut self) -> usize {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }

    fn string(&mut self) -> String {
        let length = self.two();
        String::from_utf8(self.take(length.into()).to_vec()).unwrap()
    }
}
