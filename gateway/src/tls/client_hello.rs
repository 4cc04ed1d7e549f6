//! What did the client ask for that rustls does not tell us? Reads key shares and
//! `max_fragment_length` from the bytes of a ClientHello. rustls has validated the message by the
//! time this is asked; anything odd here counts as not said.

use rustls::{CipherSuite, NamedGroup};

/// What decides between the configurations of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHelloFacts {
    /// The groups that the client sent a key share for (RFC 8446, 4.2.8), if it speaks TLS 1.3.
    pub key_shares: Vec<NamedGroup>,
    /// The plaintext bytes of a record that the client can take (RFC 6066, 4): 512, 1024, 2048 or
    /// 4096.
    pub max_fragment_length: Option<usize>,
    /// Whether the client's first AEAD is ChaCha20-Poly1305, as with devices that have no AES in
    /// hardware.
    pub prefers_chacha20: bool,
}

/// Reads the facts from the start of a TLS connection's bytes: one or more records with a
/// ClientHello. Bytes after it are ignored. What is malformed or cut short yields the default,
/// which suits every client.
pub fn client_hello_facts(records: &[u8]) -> ClientHelloFacts {
    handshake_bytes(records)
        .and_then(|message| parse(&message))
        .unwrap_or_default()
}

/// The ChaCha20-Poly1305 suites of both versions.
pub(super) const CHACHA20: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

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

/// GREASE (RFC 8701) and the two signalling suites (RFC 5746, RFC 7507) say nothing about a
/// preference.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn vector16(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u16).to_be_bytes()[..], body].concat()
    }

    pub(in crate::tls) fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(body)].concat()
    }

    /// The handshake message of a ClientHello.
    pub(in crate::tls) fn message(suites: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
        let suites: Vec<u8> = suites
            .iter()
            .flat_map(|suite| suite.to_be_bytes())
            .collect();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend(vector16(&suites));
        body.extend([1, 0]);
        if !extensions.is_empty() {
            body.extend(vector16(&extensions.concat()));
        }
        [&[1, 0][..], &vector16(&body)].concat()
    }

    pub(in crate::tls) fn record(fragment: &[u8]) -> Vec<u8> {
        [&[22, 3, 1][..], &vector16(fragment)].concat()
    }

    pub(in crate::tls) fn key_share(groups: &[u16]) -> Vec<u8> {
        let shares: Vec<u8> = groups
            .iter()
            .flat_map(|group| [&group.to_be_bytes()[..], &vector16(&[9; 32])].concat())
            .collect();
        extension(EXTENSION_KEY_SHARE, &vector16(&shares))
    }

    pub(in crate::tls) fn versions(versions: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = versions
            .iter()
            .flat_map(|version| version.to_be_bytes())
            .collect();
        extension(
            EXTENSION_SUPPORTED_VERSIONS,
            &[&[list.len() as u8][..], &list].concat(),
        )
    }

    #[test]
    fn the_facts_are_what_the_client_said() {
        let hello = message(
            &[0x1a1a, 0x00ff, 0x1303, 0x1301],
            &[
                key_share(&[0x11ec, 0x001d]),
                extension(EXTENSION_MAX_FRAGMENT_LENGTH, &[1]),
                versions(&[TLS13, 0x0303]),
            ],
        );
        let expected = ClientHelloFacts {
            key_shares: vec![NamedGroup::X25519MLKEM768, NamedGroup::X25519],
            max_fragment_length: Some(512),
            prefers_chacha20: true,
        };
        assert_eq!(client_hello_facts(&record(&hello)), expected);
        let (a, b) = hello.split_at(3);
        let (b, c) = b.split_at(40);
        let split = [
            record(a),
            record(b),
            record(c),
            b"\x14\x03\x03\x00\x01\x01".to_vec(),
        ]
        .concat();
        assert_eq!(
            client_hello_facts(&split),
            expected,
            "over three records, with more behind"
        );
    }

    #[test]
    fn a_share_of_a_client_without_tls_1_3_does_not_count() {
        let hello = message(&[0xc02b], &[key_share(&[0x001d]), versions(&[0x0303])]);
        assert_eq!(client_hello_facts(&record(&hello)).key_shares, []);
    }

    #[test]
    fn every_max_fragment_length_has_its_size_and_others_have_none() {
        for (code, size) in [
            (0, None),
            (1, Some(512)),
            (2, Some(1024)),
            (3, Some(2048)),
            (4, Some(4096)),
            (5, None),
        ] {
            let hello = message(
                &[0xc02b],
                &[extension(EXTENSION_MAX_FRAGMENT_LENGTH, &[code])],
            );
            assert_eq!(
                client_hello_facts(&record(&hello)).max_fragment_length,
                size,
                "{code}"
            );
        }
    }

    #[test]
    fn a_hello_cut_anywhere_or_garbled_yields_no_facts_and_no_panic() {
        let hello = record(&message(
            &[0x1303],
            &[key_share(&[0x001d]), versions(&[TLS13])],
        ));
        for length in 0..hello.len() {
            assert_eq!(
                client_hello_facts(&hello[..length]),
                ClientHelloFacts::default(),
                "{length}"
            );
        }
        for at in 0..hello.len() {
            for value in [0x00, 0x7f, 0xff] {
                let mut garbled = hello.clone();
                garbled[at] = value;
                client_hello_facts(&garbled);
            }
        }
    }
}
