//! A cursor over the bytes of one packet that reads the data types of section 1.5 and refuses what they forbid.

use super::DecodeError;

/// The largest value of a variable byte integer (section 1.5.5).
pub(super) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

pub(super) struct Reader<'a> {
    packet: &'static str,
    bytes: &'a [u8],
    at: usize,
}

type Read<T> = Result<T, DecodeError>;

impl<'a> Reader<'a> {
    /// `packet` is the packet type that errors name.
    pub(super) fn new(packet: &'static str, bytes: &'a [u8]) -> Self {
        Reader {
            packet,
            bytes,
            at: 0,
        }
    }

    /// Where the next byte is read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes not yet read.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn malformed(&self, why: &'static str) -> DecodeError {
        DecodeError::Malformed {
            packet: self.packet,
            why,
        }
    }

    pub(super) fn protocol_error(&self, why: &'static str) -> DecodeError {
        DecodeError::Protocol {
            packet: self.packet,
            why,
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        if length > self.remaining() {
            return Err(self.malformed("it ends inside a field"));
        }
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn two_byte(&mut self) -> Read<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn four_byte(&mut self) -> Read<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A variable byte integer, in as few bytes as its value needs (MQTT-1.5.5-1).
    pub(super) fn variable_byte_integer(&mut self) -> Read<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.malformed("a variable byte integer has needless bytes"));
                }
                return Ok(value);
            }
        }
        Err(self.malformed("a variable byte integer has more than 4 bytes"))
    }

    /// Binary data (section 1.5.6).
    pub(super) fn binary(&mut self) -> Read<&'a [u8]> {
        let length = self.two_byte()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 encoded string (section 1.5.4): no surrogates (MQTT-1.5.4-1), no U+0000 (MQTT-1.5.4-2).
    pub(super) fn string(&mut self) -> Read<&'a str> {
        let bytes = self.binary()?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| self.malformed("a string is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(self.malformed("a string contains U+0000"));
        }
        Ok(text)
    }

    /// A packet identifier; 0 is reserved (MQTT-2.2.1-3).
    pub(super) fn packet_id(&mut self) -> Read<super::PacketId> {
        let id = self.two_byte()?;
        super::PacketId::new(id).ok_or(self.protocol_error("packet identifier 0"))
    }

    /// The packet must end here.
    pub(super) fn end(&self) -> Read<()> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("it has bytes after its last field"))
        }
    }
}
