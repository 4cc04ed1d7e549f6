//! What does a load-generating MQTT client say, and what does it understand?
//!
//! The client side of MQTT 3.1.1 and 5.0, as small as a load generator can have it: templates that turn a PUBLISH
//! into two copies, and a decoder that borrows from the read buffer. It is a test tool's codec: it trusts itself, and
//! checks what comes from the broker only as far as it needs to stay safe and honest. Sockets are left to `link`.

use thiserror::Error;

/// Quality of service of a PUBLISH (MQTT-4.3).
pub type QoS = u8;

/// Protocol version spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V311,
    V5,
}

/// What becomes of a session when its connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It ends as well, and begins with nothing.
    Clean,
    /// It is kept for [`SESSION_EXPIRY`] seconds (3.1.1: as long as the broker likes), and taken up if it is there.
    Persistent,
}

/// Session Expiry Interval (MQTT5 3.1.2.11.2) of persistent sessions, in seconds.
const SESSION_EXPIRY: u32 = 3600;

/// What the broker sent that this client cannot accept.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    #[error("the broker sent a malformed {packet}: {what}")]
    Malformed {
        packet: &'static str,
        what: &'static str,
    },
    #[error("the broker sent a packet of {size} bytes, this run accepts at most {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("the broker sent a packet of type {0}, which no server may send")]
    UnexpectedType(u8),
}

/// A packet from the broker, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    ConnAck(ConnAck),
    Publish(Publish<'a>),
    PubAck { id: u16, code: u8 },
    PubRec { id: u16, code: u8 },
    PubRel { id: u16 },
    PubComp { id: u16 },
    SubAck { id: u16, code: u8 },
    PingResp,
    Disconnect { code: u8 },
}

/// CONNACK: the return or reason code and the two limits a client has to obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck {
    pub code: u8,
    /// Session Present.
    pub session_present: bool,
    /// Receive Maximum (MQTT5 3.2.2.3.3), 65,535 where the broker sent none.
    pub receive_maximum: u16,
    /// Server Keep Alive in seconds (MQTT5 3.2.2.3.14).
    pub server_keep_alive: Option<u16>,
}

/// PUBLISH as delivered to a subscriber. The topic is not kept: the payload says which flow it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub qos: QoS,
    pub retain: bool,
    /// 0 at QoS 0.
    pub id: u16,
    pub payload: &'a [u8],
}

/// Appends CONNECT without a will.
pub fn connect(
    out: &mut Vec<u8>,
    version: Version,
    client_id: &str,
    session: Session,
    login: Option<(&str, Option<&[u8]>)>,
    keep_alive: u16,
) {
    let mut body = Vec::with_capacity(64);
    string(&mut body, b"MQTT");
    body.push(if version == Version::V5 { 5 } else { 4 });
    let mut flags = if session == Session::Clean { 0x02 } else { 0 };
    if let Some((_, password)) = login {
        flags |= 0x80;
        if password.is_some() {
            flags |= 0x40;
        }
    }
    body.push(flags);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    match (version, session) {
        (Version::V311, _) => {}
        (Version::V5, Session::Clean) => body.push(0),
        (Version::V5, Session::Persistent) => {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&SESSION_EXPIRY.to_be_bytes());
        }
    }
    string(&mut body, client_id.as_bytes());
    if let Some((user, password)) = login {
        string(&mut body, user.as_bytes());
        if let Some(password) = password {
            string(&mut body, password);
        }
    }
    packet(out, 0x10, &body);
}

/// Appends SUBSCRIBE for one topic filter.
pub fn subscribe(out: &mut Vec<u8>, version: Version, id: u16, filter: &str, qos: QoS) {
    let mut body = Vec::with_capacity(filter.len() + 8);
    body.extend_from_slice(&id.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    string(&mut body, filter.as_bytes());
    body.push(qos);
    packet(out, 0x82, &body);
}

/// First byte of the four acknowledgements; [`acknowledge`] appends them.
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP with success. The four-byte form is valid in 3.1.1 and in 5.0.
pub fn acknowledge(out: &mut Vec<u8>, kind: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind, 2, high, low]);
}

pub fn ping_request(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

pub fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// A PUBLISH to one topic at one QoS, encoded once; each message patches its packet id and the head of its payload.
pub struct Template {
    bytes: Vec<u8>,
    id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// `payload` is the payload's size in bytes, at least the size of the heads that [`Template::append`] is given.
    pub fn new(version: Version, topic: &str, qos: QoS, payload: usize) -> Self {
        let mut body = Vec::with_capacity(topic.len() + payload + 8);
        string(&mut body, topic.as_bytes());
        let id_at = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        let payload_at = body.len();
        body.extend((0..payload).map(|i| b'a' + (i % 26) as u8));
        let mut bytes = Vec::with_capacity(body.len() + 5);
        packet(&mut bytes, 0x30 | (qos << 1), &body);
        let head = bytes.len() - body.len();
        Self {
            bytes,
            id_at: id_at.map(|at| at + head),
            payload_at: payload_at + head,
        }
    }

    /// Appends one message; `id` is ignored at QoS 0.
    pub fn append(&self, out: &mut Vec<u8>, id: u16, head: &[u8]) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.id_at {
            out[start + at..start + at + 2].copy_from_slice(&id.to_be_bytes());
        }
        let at = start + self.payload_at;
        out[at..at + head.len()].copy_from_slice(head);
    }
}

/// The next packet of `bytes` and its length, or `None` if it is not complete yet.
///
/// # Errors
/// [`WireError`] if the bytes are no packet a broker may send, or the packet is larger than `limit` bytes.
pub fn decode(
    version: Version,
    bytes: &[u8],
    limit: usize,
) -> Result<Option<(Packet<'_>, usize)>, WireError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let Some((length, width)) = variable_integer(&bytes[1..], "fixed header")? else {
        return Ok(None);
    };
    let size = 1 + width + length;
    if size > limit {
        return Err(WireError::TooLarge { size, limit });
    }
    if bytes.len() < size {
        return Ok(None);
    }
    let body = &bytes[1 + width..size];
    Ok(Some((decode_body(version, first, body)?, size)))
}

fn decode_body(version: Version, first: u8, body: &[u8]) -> Result<Packet<'_>, WireError> {
    Ok(match first >> 4 {
        2 => Packet::ConnAck(connack(version, body)?),
        3 => Packet::Publish(publish(version, first, body)?),
        4 => Packet::PubAck {
            id: id(body, "PUBACK")?,
            code: reason(body),
        },
        5 => Packet::PubRec {
            id: id(body, "PUBREC")?,
            code: reason(body),
        },
        6 => Packet::PubRel {
            id: id(body, "PUBREL")?,
        },
        7 => Packet::PubComp {
            id: id(body, "PUBCOMP")?,
        },
        9 => Packet::SubAck {
            id: id(body, "SUBACK")?,
            code: *body
                .last()
                .filter(|_| body.len() > 2)
                .ok_or(malformed("SUBACK", "no reason code"))?,
        },
        13 => Packet::PingResp,
        14 => Packet::Disconnect {
            code: body.first().copied().unwrap_or(0),
        },
        other => return Err(WireError::UnexpectedType(other)),
    })
}

fn publish(version: Version, first: u8, body: &[u8]) -> Result<Publish<'_>, WireError> {
    const NAME: &str = "PUBLISH";
    let qos = (first >> 1) & 3;
    if qos == 3 {
        return Err(malformed(NAME, "QoS 3"));
    }
    let mut at = 2 + usize::from(id(body, NAME)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = id(body.get(at..).unwrap_or_default(), NAME)?;
        if packet_id == 0 {
            return Err(malformed(NAME, "packet identifier 0"));
        }
        at += 2;
    }
    if version == Version::V5 {
        let rest = body.get(at..).unwrap_or_default();
        let (length, width) =
            variable_integer(rest, NAME)?.ok_or(malformed(NAME, "no property length"))?;
        at += width + length;
    }
    let payload = body
        .get(at..)
        .ok_or(malformed(NAME, "shorter than its topic and properties"))?;
    Ok(Publish {
        qos,
        retain: first & 1 == 1,
        id: packet_id,
        payload,
    })
}

fn connack(version: Version, body: &[u8]) -> Result<ConnAck, WireError> {
    const NAME: &str = "CONNACK";
    let &[flags, code, ref rest @ ..] = body else {
        return Err(malformed(NAME, "shorter than two bytes"));
    };
    let mut ack = ConnAck {
        code,
        session_present: flags & 1 != 0,
        receive_maximum: u16::MAX,
        server_keep_alive: None,
    };
    // A 5.0 broker that refuses the version itself answers in the form of 3.1.1, without properties.
    if version == Version::V311 || rest.is_empty() {
        return Ok(ack);
    }
    let (length, width) =
        variable_integer(rest, NAME)?.ok_or(malformed(NAME, "no property length"))?;
    let mut properties = rest
        .get(width..width + length)
        .ok_or(malformed(NAME, "properties cut short"))?;
    while let Some((&kind, rest)) = properties.split_first() {
        let size = property_size(kind, rest).ok_or(malformed(NAME, "unknown property"))?;
        let value = rest
            .get(..size)
            .ok_or(malformed(NAME, "property cut short"))?;
        match (kind, value) {
            (0x21, &[high, low]) => ack.receive_maximum = u16::from_be_bytes([high, low]).max(1),
            (0x13, &[high, low]) => ack.server_keep_alive = Some(u16::from_be_bytes([high, low])),
            _ => {}
        }
        properties = &rest[size..];
    }
    Ok(ack)
}

/// Bytes the value of a CONNACK property takes (MQTT5 2.2.2.2).
fn property_size(kind: u8, value: &[u8]) -> Option<usize> {
    let string = |at: usize| {
        let length = value.get(at..at + 2)?;
        Some(at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
    };
    match kind {
        0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Some(1),
        0x13 | 0x21 | 0x22 => Some(2),
        0x11 | 0x27 => Some(4),
        0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string(0),
        0x26 => string(string(0)?),
        _ => None,
    }
}

fn id(body: &[u8], packet: &'static str) -> Result<u16, WireError> {
    match body {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(malformed(packet, "shorter than two bytes")),
    }
}

fn reason(body: &[u8]) -> u8 {
    body.get(2).copied().unwrap_or(0)
}

fn malformed(packet: &'static str, what: &'static str) -> WireError {
    WireError::Malformed { packet, what }
}

fn string(out: &mut Vec<u8>, value: &[u8]) {
    // Callers bound every string far below 65,536 bytes when the options are read.
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    let mut length = body.len();
    loop {
        let low = (length & 0x7F) as u8;
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

fn variable_integer(
    bytes: &[u8],
    packet: &'static str,
) -> Result<Option<(usize, usize)>, WireError> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= 4 {
        Err(malformed(packet, "variable byte integer over four bytes"))
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_made_from_a_template_reads_back_at_every_qos_and_version() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..=2 {
                for payload in [24, 200, 70_000] {
                    let template = Template::new(version, "load/7", qos, payload);
                    let mut out = Vec::new();
                    template.append(&mut out, 0x1234, b"head");
                    assert_eq!(out.len(), template.bytes.len());
                    let (packet, size) = decode(version, &out, 1 << 20).unwrap().unwrap();
                    assert_eq!(size, out.len());
                    let Packet::Publish(publish) = packet else {
                        panic!("{packet:?}")
                    };
                    assert_eq!((publish.qos, publish.retain), (qos, false));
                    assert_eq!(publish.id, if qos > 0 { 0x1234 } else { 0 });
                    assert_eq!(publish.payload.len(), payload);
                    assert_eq!(&publish.payload[..5], b"heade");
                }
            }
        }
    }

    #[test]
    fn a_packet_cut_anywhere_is_incomplete_and_never_an_error() {
        let mut out = Vec::new();
        Template::new(Version::V5, "a/b", 1, 300).append(&mut out, 9, b"x");
        for cut in 0..out.len() {
            assert_eq!(
                decode(Version::V5, &out[..cut], 4096),
                Ok(None),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn named_byte_cases_decode_as_the_specification_says() {
        type Case<'a> = (&'a str, Version, &'a [u8], Result<Packet<'a>, WireError>);
        let cases: &[Case<'_>] = &[
            (
                "3.1.1 refusal",
                Version::V311,
                &[0x20, 2, 0, 5],
                Ok(connack_of(5, u16::MAX, None)),
            ),
            (
                "a session that was kept",
                Version::V311,
                &[0x20, 2, 1, 0],
                Ok(Packet::ConnAck(ConnAck {
                    session_present: true,
                    code: 0,
                    receive_maximum: u16::MAX,
                    server_keep_alive: None,
                })),
            ),
            (
                "5.0 limits",
                Version::V5,
                &[
                    0x20, 14, 0, 0, 11, 0x21, 0, 20, 0x13, 0, 60, 0x12, 0, 2, b'i', b'd',
                ],
                Ok(connack_of(0, 20, Some(60))),
            ),
            (
                "5.0 refusal of the version",
                Version::V5,
                &[0x20, 2, 0, 1],
                Ok(connack_of(1, u16::MAX, None)),
            ),
            (
                "unknown property",
                Version::V5,
                &[0x20, 5, 0, 0, 2, 0x7E, 0],
                Err(malformed("CONNACK", "unknown property")),
            ),
            (
                "PUBACK with reason",
                Version::V5,
                &[0x40, 3, 0, 1, 0x87],
                Ok(Packet::PubAck { id: 1, code: 0x87 }),
            ),
            (
                "SUBACK 3.1.1",
                Version::V311,
                &[0x90, 3, 0, 1, 0x80],
                Ok(Packet::SubAck { id: 1, code: 0x80 }),
            ),
            (
                "SUBACK 5.0",
                Version::V5,
                &[0x90, 4, 0, 1, 0, 2],
                Ok(Packet::SubAck { id: 1, code: 2 }),
            ),
            (
                "SUBACK without codes",
                Version::V311,
                &[0x90, 2, 0, 1],
                Err(malformed("SUBACK", "no reason code")),
            ),
            (
                "DISCONNECT 5.0",
                Version::V5,
                &[0xE0, 1, 0x8E],
                Ok(Packet::Disconnect { code: 0x8E }),
            ),
            (
                "QoS 3",
                Version::V311,
                &[0x36, 2, 0, 0],
                Err(malformed("PUBLISH", "QoS 3")),
            ),
            (
                "packet identifier 0",
                Version::V311,
                &[0x32, 5, 0, 1, b'a', 0, 0],
                Err(malformed("PUBLISH", "packet identifier 0")),
            ),
            (
                "topic longer than the packet",
                Version::V311,
                &[0x30, 3, 0, 9, b'a'],
                Err(malformed(
                    "PUBLISH",
                    "shorter than its topic and properties",
                )),
            ),
            (
                "CONNECT from a server",
                Version::V311,
                &[0x10, 0],
                Err(WireError::UnexpectedType(1)),
            ),
            (
                "length over four bytes",
                Version::V311,
                &[0x30, 0xFF, 0xFF, 0xFF, 0xFF],
                Err(malformed(
                    "fixed header",
                    "variable byte integer over four bytes",
                )),
            ),
            (
                "over the limit",
                Version::V311,
                &[0x30, 0x80, 0x10],
                Err(WireError::TooLarge {
                    size: 2051,
                    limit: 1024,
                }),
            ),
        ];
        for (name, version, bytes, expected) in cases {
            let found = decode(*version, bytes, 1024).map(|packet| packet.expect(name).0);
            assert_eq!(&found, expected, "{name}");
        }
    }

    #[test]
    fn connect_and_subscribe_have_the_bytes_of_the_specification() {
        let mut out = Vec::new();
        connect(
            &mut out,
            Version::V311,
            "c",
            Session::Clean,
            Some(("u", Some(b"p"))),
            60,
        );
        assert_eq!(
            out,
            [
                0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xC2, 0, 60, 0, 1, b'c', 0, 1, b'u', 0,
                1, b'p'
            ]
        );
        out.clear();
        connect(&mut out, Version::V5, "c", Session::Clean, None, 0);
        assert_eq!(
            out,
            [
                0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x02, 0, 0, 0, 0, 1, b'c'
            ]
        );
        for (version, length, expiry) in [
            (Version::V311, 13, &[][..]),
            (Version::V5, 19, &[5, 0x11, 0, 0, 0x0E, 0x10]),
        ] {
            out.clear();
            connect(&mut out, version, "c", Session::Persistent, None, 0);
            let level = if version == Version::V5 { 5 } else { 4 };
            let head = [0x10, length, 0, 4, b'M', b'Q', b'T', b'T', level, 0, 0, 0];
            assert_eq!(out, [&head[..], expiry, &[0, 1, b'c']].concat());
        }
        out.clear();
        subscribe(&mut out, Version::V5, 7, "a/+", 2);
        assert_eq!(out, [0x82, 9, 0, 7, 0, 0, 3, b'a', b'/', b'+', 2]);
    }

    fn connack_of(
        code: u8,
        receive_maximum: u16,
        server_keep_alive: Option<u16>,
    ) -> Packet<'static> {
        Packet::ConnAck(ConnAck {
            session_present: false,
            code,
            receive_maximum,
            server_keep_alive,
        })
    }
}
