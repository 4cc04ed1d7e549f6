//! From a stream of bytes to packets: finds the borders of packets, refuses what is too large or cannot be right as
//! early as it shows, and hands each whole packet to the code for its type.

use bytes::{Buf as _, BytesMut};

use super::reader::Reader;
use super::{
    Ack, DecodeError, Disconnect, Packet, ReasonCode, Version, check, connect, library, publish,
};

/// The decoder of one connection, for the packets of its client.
///
/// It is stateless between packets but for the version and the limit: feeding it a packet in pieces gives the same
/// result as feeding it whole. After an error the connection must be closed.
#[derive(Debug, Clone)]
pub struct Decoder {
    maximum: u32,
    version: Option<Version>,
    connected: bool,
}

impl Decoder {
    /// A decoder for a new connection. `first_packet_max` bounds the CONNECT, in bytes with its fixed header.
    pub fn new(first_packet_max: u32) -> Self {
        Decoder {
            maximum: first_packet_max,
            version: None,
            connected: false,
        }
    }

    /// Sets the largest packet taken from now on, in bytes with its fixed header (section 3.2.2.3.6): to be called
    /// once the client has been authenticated, and with the value that the CONNACK announces.
    pub fn set_max_packet_size(&mut self, maximum: u32) {
        self.maximum = maximum;
    }

    /// The version that the CONNECT asked for; known even if the rest of that CONNECT was refused.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes one packet off the front of `src`. `Ok(None)`: more bytes are needed; nothing was consumed, and no
    /// memory was reserved for them.
    ///
    /// # Errors
    /// Whatever the specification forbids a client to send, see [`DecodeError`]. A wrong fixed header and a packet
    /// over the limit are reported before their bodies arrive.
    pub fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(header) = Header::read(src, self.connected, self.version)? else {
            return Ok(None);
        };
        if header.packet_length() > self.maximum {
            return Err(DecodeError::PacketTooLarge {
                packet: header.name(),
                size: header.packet_length(),
                maximum: self.maximum,
            });
        }
        let length = header.packet_length() as usize;
        if src.len() < length {
            return Ok(None);
        }
        let Some(version) = self.version.filter(|_| self.connected) else {
            let connect = self.decode_connect(&header, &src[..length])?;
            src.advance(length);
            return Ok(Some(connect));
        };
        header.check_minimal(version)?;
        if header.packet_type() == PUBLISH {
            src.advance(header.length);
            let body = src.split_to(length - header.length).freeze();
            let publish = publish::decode(version, header.first, body)?;
            return Ok(Some(Packet::Publish(publish)));
        }
        let packet = decode_other(version, &header, &src[..length])?;
        src.advance(length);
        Ok(Some(packet))
    }

    fn decode_connect(&mut self, header: &Header, packet: &[u8]) -> Result<Packet, DecodeError> {
        let version = connect::version(&packet[header.length..])?;
        self.version = Some(version);
        header.check_minimal(version)?;
        let connect = connect::decode(version, packet, header.length)?;
        self.connected = true;
        Ok(Packet::Connect(connect))
    }
}

/// Packets after the first, except PUBLISH. They are decoded from a view: none of them keeps the read buffer.
fn decode_other(version: Version, header: &Header, packet: &[u8]) -> Result<Packet, DecodeError> {
    let name = header.name();
    let body = &packet[header.length..];
    match header.packet_type() {
        PUBACK | PUBREC | PUBREL | PUBCOMP if body.len() == 2 => {
            let ack = Ack::new(Reader::new(name, body).packet_id()?, ReasonCode::Success);
            return Ok(match header.packet_type() {
                PUBACK => Packet::PubAck(ack),
                PUBREC => Packet::PubRec(ack),
                PUBREL => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            });
        }
        PUBACK | PUBREC | PUBREL | PUBCOMP => check::ack(name, body)?,
        SUBSCRIBE => check::subscribe(version, body)?,
        UNSUBSCRIBE => check::unsubscribe(version, body)?,
        PINGREQ => return Ok(Packet::PingReq),
        DISCONNECT if body.is_empty() => {
            return Ok(Packet::Disconnect(Box::new(Disconnect::new(
                ReasonCode::Success,
            ))));
        }
        DISCONNECT => check::disconnect(body)?,
        // Header::read lets no other type through.
        _ => check::auth(body)?,
    }
    library::decode(version, name, packet)
}

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;
const AUTH: u8 = 15;

const NAMES: [&str; 16] = [
    "packet of reserved type 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

/// A fixed header (section 2.1).
struct Header {
    first: u8,
    /// Of the fixed header itself: 2 to 5 bytes.
    length: usize,
    /// Remaining length.
    remaining: u32,
    /// The remaining length uses no needless bytes.
    minimal: bool,
}

impl Header {
    /// Reads the fixed header as far as it is there, and refuses what is already known to be wrong.
    fn read(
        src: &[u8],
        connected: bool,
        version: Option<Version>,
    ) -> Result<Option<Header>, DecodeError> {
        let Some((&first, rest)) = src.split_first() else {
            return Ok(None);
        };
        let version = version.filter(|_| connected);
        check_first_byte(first, version)?;
        let mut remaining = 0;
        for (i, &byte) in rest.iter().take(4).enumerate() {
            remaining |= u32::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                let header = Header {
                    first,
                    length: i + 2,
                    remaining,
                    minimal: byte != 0 || i == 0,
                };
                header.check_length(version)?;
                return Ok(Some(header));
            }
        }
        if rest.len() >= 4 {
            return Err(DecodeError::Malformed {
                packet: NAMES[usize::from(first >> 4)],
                why: "the remaining length has more than 4 bytes",
            });
        }
        Ok(None)
    }

    fn packet_type(&self) -> u8 {
        self.first >> 4
    }

    fn name(&self) -> &'static str {
        NAMES[usize::from(self.packet_type())]
    }

    /// The whole packet in bytes; at most 268,435,460.
    fn packet_length(&self) -> u32 {
        self.length as u32 + self.remaining
    }

    /// Some packets have lengths that are wrong whatever their bodies say.
    fn check_length(&self, version: Option<Version>) -> Result<(), DecodeError> {
        let Some(version) = version else {
            return Ok(());
        };
        let fits = match self.packet_type() {
            PINGREQ => self.remaining == 0,
            DISCONNECT if !version.is_v5() => self.remaining == 0,
            PUBACK | PUBREC | PUBREL | PUBCOMP if !version.is_v5() => self.remaining == 2,
            _ => true,
        };
        if fits {
            Ok(())
        } else {
            Err(DecodeError::Malformed {
                packet: self.name(),
                why: "its remaining length is not that of its type",
            })
        }
    }

    /// MQTT-1.5.5-1. MQTT 3 does not ask for the shortest form, and modem firmware exists that uses another.
    fn check_minimal(&self, version: Version) -> Result<(), DecodeError> {
        if self.minimal || !version.is_v5() {
            return Ok(());
        }
        Err(DecodeError::Malformed {
            packet: self.name(),
            why: "the remaining length has needless bytes",
        })
    }
}

/// Type and flags (sections 2.1.2 and 2.1.3). `version` is that of a connection past its CONNECT.
fn check_first_byte(first: u8, version: Option<Version>) -> Result<(), DecodeError> {
    let packet = NAMES[usize::from(first >> 4)];
    let flags = first & 0x0F;
    let Some(version) = version else {
        return match (first >> 4, flags) {
            (CONNECT, 0) => Ok(()),
            (CONNECT, _) => Err(reserved_flags(packet)),
            _ => Err(DecodeError::FirstPacketNotConnect { found: packet }),
        };
    };
    let fits = match first >> 4 {
        // MQTT-3.1.0-2.
        CONNECT => {
            return Err(DecodeError::Protocol {
                packet,
                why: "a second CONNECT",
            });
        }
        CONNACK | SUBACK | UNSUBACK | PINGRESP => {
            return Err(DecodeError::Protocol {
                packet,
                why: "only a server sends it",
            });
        }
        PUBLISH => return publish::check_flags(first),
        // MQTT 3.1 sets DUP when these are sent again.
        PUBREL | SUBSCRIBE | UNSUBSCRIBE if version == Version::V31 => flags & 0b0111 == 0b0010,
        // MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1.
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => flags == 0b0010,
        PUBACK | PUBREC | PUBCOMP | PINGREQ | DISCONNECT => flags == 0,
        AUTH if version.is_v5() => flags == 0,
        _ => {
            return Err(DecodeError::Malformed {
                packet,
                why: "this version has no such packet",
            });
        }
    };
    if fits {
        Ok(())
    } else {
        Err(reserved_flags(packet))
    }
}

/// MQTT-2.1.3-1.
fn reserved_flags(packet: &'static str) -> DecodeError {
    DecodeError::Malformed {
        packet,
        why: "the reserved flags of the fixed header are not as required",
    }
}
