//! What do these WebSocket frames carry? Decodes a client's frames in place and encodes ours (RFC
//! 6455, 5). No I/O.

/// The payload bytes that a control frame can have (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;

/// Why a WebSocket is closed (RFC 6455, 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// The session ended as it should.
    Normal = 1000,
    /// The gateway shuts down or drains.
    GoingAway = 1001,
    /// A frame broke RFC 6455.
    ProtocolError = 1002,
    /// A text frame: MQTT travels in binary frames only (MQTT-6.0.0-1).
    Unsupported = 1003,
    /// Text that is not UTF-8, in the reason of a Close.
    InvalidPayload = 1007,
    /// The connection broke a rule of the gateway.
    Policy = 1008,
    /// A message over the limit.
    TooBig = 1009,
    /// The gateway failed.
    InternalError = 1011,
}

impl CloseCode {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        self as u16
    }
}

/// How the client's direction of a WebSocket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A Close frame, with its code if it had one.
    Closed(Option<u16>),
    /// Something that must not be; we close with this code.
    Violation {
        code: CloseCode,
        problem: &'static str,
    },
}

/// What a stretch of bytes turned out to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    /// This many bytes of payload stand at the start of the stretch.
    pub data: usize,
    /// The payload of the last Ping in it. Earlier ones need no answer (RFC 6455, 5.5.3).
    pub ping: Option<Vec<u8>>,
    /// Nothing behind this was looked at.
    pub end: Option<End>,
}

/// The state of the client's direction between two stretches of bytes.
pub(super) struct Decoder {
    max_message: u64,
    /// Payload bytes of the present message, in the frames that have begun.
    message: u64,
    /// A message has begun whose last frame has not.
    unfinished: bool,
    header: [u8; MAX_HEADER],
    header_length: u8,
    /// Inside a payload, these describe its frame.
    frame: Option<Frame>,
    /// The payload of a control frame as far as it came.
    control: Vec<u8>,
}

/// Two octets, eight of length, four of mask.
const MAX_HEADER: usize = 14;

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    last: bool,
    remaining: u64,
    mask: [u8; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Close,
    Ping,
    Pong,
}

impl Decoder {
    pub(super) fn new(max_message: usize) -> Self {
        Self {
            max_message: max_message as u64,
            message: 0,
            unfinished: false,
            header: [0; MAX_HEADER],
            header_length: 0,
            frame: None,
            control: Vec::new(),
        }
    }

    /// Whether the stream may end here without cutting a message.
    pub(super) fn is_between_messages(&self) -> bool {
        self.header_length == 0 && self.frame.is_none() && !self.unfinished
    }

    #[cfg(test)]
    pub(super) fn held_on_heap(&self) -> usize {
        self.control.capacity()
    }

    /// Decodes `bytes`, and moves the data in it to the front. To be called no more once it has
    /// returned an end.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Decoded {
        let mut decoded = Decoded::default();
        let mut at = 0;
        while at < bytes.len() {
            let step = match self.frame {
                None => {
                    at += 1;
                    self.push_header(bytes[at - 1])
                }
                Some(mut frame) => {
                    let available = bytes.len() - at;
                    let length = usize::try_from(frame.remaining)
                        .map_or(available, |remaining| remaining.min(available));
                    if frame.kind == Kind::Data {
                        bytes.copy_within(at..at + length, decoded.data);
                        unmask(
                            &mut bytes[decoded.data..decoded.data + length],
                            &mut frame.mask,
                        );
                        decoded.data += length;
                    } else {
                        unmask(&mut bytes[at..at + length], &mut frame.mask);
                        self.control.extend_from_slice(&bytes[at..at + length]);
                    }
                    at += length;
                    frame.remaining -= length as u64;
                    self.frame = Some(frame);
                    Ok(())
                }
            };
            decoded.end = step.err();
            if decoded.end.is_none() && self.frame.is_some_and(|frame| frame.remaining == 0) {
                decoded.end = self.finish_frame(&mut decoded.ping);
            }
            if decoded.end.is_some() {
                break;
            }
        }
        decoded
    }

    fn push_header(&mut self, octet: u8) -> Result<(), End> {
        let have = usize::from(self.header_length);
        self.header[have] = octet;
        self.header_length += 1;
        let have = have + 1;
        if have < 2 {
            return Ok(());
        }
        if have == 2 {
            self.check_first_octets()?;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if have < 2 + extended + 4 {
            return Ok(());
        }
        self.header_length = 0;
        self.begin_frame(extended)
    }

    fn check_first_octets(&self) -> Result<(), End> {
        let [first, second] = [self.header[0], self.header[1]];
        let (opcode, last, length) = (first & 0x0f, first & 0x80 != 0, second & 0x7f);
        if first & 0x70 != 0 {
            return Err(protocol_error(
                "reserved bits are set, but no extension was agreed on",
            ));
        }
        if second & 0x80 == 0 {
            return Err(protocol_error("a client must mask its frames"));
        }
        match opcode {
            0 if !self.unfinished => Err(protocol_error("a continuation of no message")),
            1 | 2 if self.unfinished => {
                Err(protocol_error("a new message inside a fragmented one"))
            }
            1 => Err(End::Violation {
                code: CloseCode::Unsupported,
                problem: "MQTT needs binary frames, not text",
            }),
            0 | 2 => Ok(()),
            8..=10 if !last => Err(protocol_error("a fragmented control frame")),
            8..=10 if usize::from(length) > MAX_CONTROL => {
                Err(protocol_error("a control frame over 125 bytes"))
            }
            8..=10 => Ok(()),
            _ => Err(protocol_error("an unknown opcode")),
        }
    }

    fn begin_frame(&mut self, extended: usize) -> Result<(), End> {
        let length = match extended {
            0 => u64::from(self.header[1] & 0x7f),
            _ => self.header[2..2 + extended]
                .iter()
                .fold(0, |length, octet| length << 8 | u64::from(*octet)),
        };
        let minimum = match extended {
            0 => 0,
            2 => 126,
            _ => 65_536,
        };
        if length < minimum || length > i64::MAX as u64 {
            return Err(protocol_error(
                "a payload length that is not in its shortest form",
            ));
        }
        let last = self.header[0] & 0x80 != 0;
        let kind = match self.header[0] & 0x0f {
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => Kind::Data,
        };
        if kind == Kind::Data {
            self.message = self.message.saturating_add(length);
            if self.message > self.max_message {
                return Err(End::Violation {
                    code: CloseCode::TooBig,
                    problem: "a message over the limit",
                });
            }
            self.unfinished = !last;
        }
        let mask = &self.header[2 + extended..2 + extended + 4];
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        self.frame = Some(Frame {
            kind,
            last,
            remaining: length,
            mask,
        });
        Ok(())
    }

    fn finish_frame(&mut self, ping: &mut Option<Vec<u8>>) -> Option<End> {
        let frame = self.frame.take()?;
        match frame.kind {
            Kind::Data => {
                if frame.last {
                    self.message = 0;
                }
                None
            }
            Kind::Ping => {
                *ping = Some(std::mem::take(&mut self.control));
                None
            }
            Kind::Pong => {
                self.control = Vec::new();
                None
            }
            Kind::Close => Some(read_close(&std::mem::take(&mut self.control))),
        }
    }
}

/// Appends the header of an unmasked, unfragmented binary frame of at most 65,535 bytes.
pub(super) fn binary_header(length: u16) -> ([u8; 4], usize) {
    const LAST_BINARY: u8 = 0x82;
    match u8::try_from(length) {
        Ok(short @ 0..126) => ([LAST_BINARY, short, 0, 0], 2),
        _ => {
            let [high, low] = length.to_be_bytes();
            ([LAST_BINARY, 126, high, low], 4)
        }
    }
}

/// Appends the Pong that answers a Ping.
pub(super) fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
    push_control(out, 0x8a, payload);
}

/// Appends a Close; without a code it has no payload.
pub(super) fn push_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::with_capacity(2 + reason.len());
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    push_control(out, 0x88, &payload);
}

fn push_control(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    // Payloads come from control frames we received and from our own short texts.
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    out.push(first);
    out.push(payload.len() as u8);
    out.extend_from_slice(payload);
}

fn read_close(payload: &[u8]) -> End {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => End::Closed(None),
            _ => protocol_error("a Close with half a code"),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return protocol_error("a Close with a code that must not be sent");
    }
    if std::str::from_utf8(reason).is_err() {
        return End::Violation {
            code: CloseCode::InvalidPayload,
            problem: "the reason of a Close is not UTF-8",
        };
    }
    End::Closed(Some(code))
}

fn protocol_error(problem: &'static str) -> End {
    End::Violation {
        code: CloseCode::ProtocolError,
        problem,
    }
}

/// Removes the mask (RFC 6455, 5.3), and turns it to where the next stretch of the payload begins.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let length = bytes.len();
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut octets = [0; 8];
        octets.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(octets) ^ wide).to_ne_bytes());
    }
    for (octet, key) in chunks
        .into_remainder()
        .iter_mut()
        .zip([a, b, c, d, a, b, c])
    {
        *octet ^= key;
    }
    mask.rotate_left(length % 4);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Frames as a client sends them, and what they carry.
    fn encode(messages: &[(Vec<u8>, bool)], mask: [u8; 4]) -> (Vec<u8>, Vec<u8>) {
        let (mut wire, mut data) = (Vec::new(), Vec::new());
        for (payload, with_ping) in messages {
            if *with_ping {
                wire.extend_from_slice(&[0x89, 0x80]);
                wire.extend_from_slice(&mask);
            }
            wire.push(0x82);
            match u8::try_from(payload.len()) {
                Ok(short @ 0..126) => wire.push(0x80 | short),
                _ => {
                    wire.push(0x80 | 126);
                    wire.extend_from_slice(&(payload.len() as u16).to_be_bytes());
                }
            }
            wire.extend_from_slice(&mask);
            wire.extend(
                payload
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(octet, key)| octet ^ key),
            );
            data.extend_from_slice(payload);
        }
        (wire, data)
    }

    proptest! {
        #[test]
        fn frames_decode_to_the_same_bytes_however_the_stream_is_cut(
            messages in vec((vec(any::<u8>(), 0..300), any::<bool>()), 0..8),
            mask in any::<[u8; 4]>(),
            cuts in vec(1usize..40, 1..200),
        ) {
            let (wire, data) = encode(&messages, mask);
            let mut decoder = Decoder::new(1 << 16);
            let (mut got, mut rest, mut cuts) = (Vec::new(), &wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (mut piece, tail) = {
                    let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                    (piece.to_vec(), tail)
                };
                let decoded = decoder.decode(&mut piece);
                prop_assert_eq!(decoded.end, None);
                got.extend_from_slice(&piece[..decoded.data]);
                rest = tail;
            }
            prop_assert_eq!(got, data);
            prop_assert!(decoder.is_between_messages());
        }

        #[test]
        fn arbitrary_bytes_never_yield_more_than_they_are(
            mut bytes in vec(any::<u8>(), 0..400),
        ) {
            let length = bytes.len();
            let decoded = Decoder::new(1000).decode(&mut bytes);
            prop_assert!(decoded.data <= length);
        }
    }
}
