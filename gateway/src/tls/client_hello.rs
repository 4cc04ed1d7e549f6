//! What did the client ask for that rustls does not tell us? Reads key shares and `max_fragment_length` from the bytes
//! of a ClientHello. rustls has validated the message by the time this is asked; anything odd here counts as not said.

use rustls::{CipherSuite, NamedGroup};

use super::server_config::CHACHA20;

/// What decides between the configurations of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHelloFacts {
    /// The groups that the client sent a key share for (RFC 8446, 4.2.8), if it speaks TLS 1.3.
    pub key_shares: Vec<NamedGroup>,
    /// The plaintext bytes of a record that the client can take (RFC 6066, 4): 512, 1024, 2048 or 4096.
    pub max_fragment_length: Option<usize>,
    /// Whether the client's first AEAD is ChaCha20-Poly1305, as with devices that have no AES in hardware.
    pub prefers_chacha20: bool,
}

/// Reads the facts from the start of a TLS connection's bytes: one or more records with a ClientHello. Bytes after it
/// are ignored. What is malformed or cut short yields the default, which suits every client.
pub fn client_hello_facts(records: &[u8]) -> ClientHelloFacts {
    handshake_bytes(records)
        .and_then(|message| parse(&message))
        .unwrap_or_default()
}

/// A key share list has one entry per group; there are a dozen groups.
const MAX_KEY_SHARES: usize = 16;
const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_MAX_FRAGMENT_LENGTH: u16 = 1;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const EXTENSION_KEY_SHARE: u16 = 51;
const TLS13: u16 = 0x0304;

/// Joins the first handshake message, which may span records.
fn handshake_bytes(records: &[u8]) -> Option<Vec<u8>> {
    let mut input = Input(records);
    let mut message = Vec::new();
    loop {
        if input.u8()? != HANDSHAKE_RECORD {
            return None;
        }
        input.take(2)?;
        let fragment = input.vector16()?;
        message.extend_from_slice(fragment.0);
        let mut header = Input(&message);
        let Some((kind, length)) = header.u8().zip(header.u24()) else {
            continue;
        };
        if kind != CLIENT_HELLO {
            return None;
        }
        if header.0.len() >= length {
            message.truncate(4 + length);
            message.drain(..4);
            return Some(message);
        }
    }
}

/// `ClientHello` of RFC 8446, 4.1.2.
fn parse(message: &[u8]) -> Option<ClientHelloFacts> {
    let mut input = Input(message);
    input.take(2 + 32)?;
    input.vector8()?;
    let mut cipher_suites = input.vector16()?;
    input.vector8()?;

    let mut facts = ClientHelloFacts::default();
    while let Some(suite) = cipher_suites.u16() {
        if is_signalling_or_grease(suite) {
            continue;
        }
        facts.prefers_chacha20 = CHACHA20.contains(&CipherSuite::from(suite));
        break;
    }
    let Some(mut extensions) = input.vector16() else {
        return Some(facts);
    };
    let mut speaks_tls13 = false;
    while let Some(kind) = extensions.u16() {
        let mut body = extensions.vector16()?;
        match kind {
            EXTENSION_MAX_FRAGMENT_LENGTH => {
                facts.max_fragment_length = match body.u8()? {
                    code @ 1..=4 => Some(256 << code),
                    _ => None,
                }
            }
            EXTENSION_SUPPORTED_VERSIONS => {
                let mut versions = body.vector8()?;
                while let Some(version) = versions.u16() {
                    speaks_tls13 |= version == TLS13;
                }
            }
            EXTENSION_KEY_SHARE => {
                let mut shares = body.vector16()?;
                while let Some(group) = shares.u16() {
                    shares.vector16()?;
                    if facts.key_shares.len() < MAX_KEY_SHARES {
                        facts.key_shares.push(NamedGroup::from(group));
                    }
                }
            }
            _ => {}
        }
    }
    if !speaks_tls13 {
        facts.key_shares.clear();
    }
    Some(facts)
}

/// GREASE (RFC 8701) and the two signalling suites (RFC 5746, RFC 7507) say nothing about a preference.
fn is_signalling_or_grease(suite: u16) -> bool {
    let [high, low] = suite.to_be_bytes();
    (high == low && high & 0x0f == 0x0a) || suite == 0x00ff || suite == 0x5600
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, octets: usize) -> Option<usize> {
        Some(
            self.take(octets)?
                .iter()
                .fold(0, |number, octet| number << 8 | usize::from(*octet)),
        )
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn u24(&mut self) -> Option<usize> {
        self.number(3)
    }

    fn vector8(&mut self) -> Option<Input<'a>> {
        let length = self.number(1)?;
        self.take(length).map(Input)
    }

    fn vector16(&mut self) -> Option<Input<'a>> {
        let length = self.number(2)?;
        self.take(length).map(Input)
    }
}
