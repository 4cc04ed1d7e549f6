//! The table of named byte cases: what a client may send and may not, and what the server writes, as bytes. The
//! decode, encode and live-server tests all run it. When a bug is found, its bytes join the table.

mod acks;
mod connect;
mod connect_refused;
mod control;
mod publish;
mod replies;
mod subscribe;

pub use replies::{FrameCase, ReplyCase, frames, replies};

use super::{Packet, ReasonCode, Version};

/// Bytes from a client and what becomes of them.
#[derive(Debug)]
pub struct Case {
    /// Names the rule or the boundary; unique.
    pub name: &'static str,
    /// The version of the connection; of a CONNECT, the one it asks for.
    pub version: Version,
    /// When the bytes are sent.
    pub stage: Stage,
    /// One packet, or the part of it that is enough for the verdict.
    pub bytes: Vec<u8>,
    /// The verdict.
    pub expect: Expect,
}

/// Where in a connection the bytes of a case stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// They are the first of the connection.
    First,
    /// A CONNECT of the case's version has been accepted before them.
    Connected,
}

/// What the decoder makes of a case.
#[derive(Debug)]
pub enum Expect {
    /// It is this packet.
    Packet(Packet),
    /// It ends the connection, for this reason.
    Refused(ReasonCode),
    /// It is a packet that has not ended.
    Incomplete,
}

/// The largest packet that the cases need a decoder to take, in bytes; one case is a byte larger.
pub const MAXIMUM_PACKET_SIZE: u32 = 200_000;

/// All cases of bytes from a client.
pub fn all() -> Vec<Case> {
    [
        connect::cases(),
        publish::cases(),
        acks::cases(),
        subscribe::cases(),
        control::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A plain valid CONNECT of this version with the client identifier `c`, clean start and keep alive 60 s.
pub fn plain_connect(version: Version) -> &'static [u8] {
    match version {
        Version::V31 => b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c",
        Version::V311 => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c",
        Version::V5 => b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c",
    }
}

/// A packet with its fixed header: `first` byte, remaining length, `body`.
fn packet(first: u8, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    packet
}

/// A case after CONNECT that yields a packet.
fn good(name: &'static str, version: Version, bytes: Vec<u8>, packet: Packet) -> Case {
    Case {
        name,
        version,
        stage: Stage::Connected,
        bytes,
        expect: Expect::Packet(packet),
    }
}

/// A case after CONNECT that ends the connection.
fn bad(name: &'static str, version: Version, bytes: Vec<u8>, reason: ReasonCode) -> Case {
    Case {
        name,
        version,
        stage: Stage::Connected,
        bytes,
        expect: Expect::Refused(reason),
    }
}

fn id(id: u16) -> super::PacketId {
    super::PacketId::new(id).unwrap_or(super::PacketId::MIN)
}

use ReasonCode::{
    ClientIdentifierNotValid, MalformedPacket, PacketTooLarge, ProtocolError, TopicAliasInvalid,
    TopicNameInvalid, UnsupportedProtocolVersion,
};
use Version::{V5, V31, V311};
