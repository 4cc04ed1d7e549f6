//! Entries: how the messages of a segment lie in its blob, and whether they still are what was written.
//!
//! A blob is a CRC-32 (4 bytes, little-endian) over the segment's key and its entries, and then the entries. SQLite
//! checks the form of its pages and not what they hold: a flipped bit must not become a message. One entry:
//!
//! ```text
//! serial      varint
//! flags       u8        1: expires, 2: the body is shared
//! expires     i64 LE    only if flagged: seconds since 1970
//! head length varint
//! body length varint
//! body CRC-32 u32 LE    only if shared
//! head, then the body unless it is shared
//! ```

use bytes::Bytes;

use super::rows::{Receiver, SessionKey, Timestamp};

/// Where an entry's body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body<T> {
    Inline(T),
    /// In the table of shared bodies.
    Shared(Mark),
}

/// By what a shared body is known to be the one that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub length: u64,
    crc: u32,
}

impl Mark {
    pub(super) fn of(body: &[u8]) -> Mark {
        Mark {
            length: body.len() as u64,
            crc: crc32fast::hash(body),
        }
    }
}

/// One message as it was read. Head and an inline body share one allocation of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub serial: u64,
    pub expires: Option<Timestamp>,
    pub head: Bytes,
    pub body: Body<Bytes>,
    /// How much of the blob it takes.
    pub stored: usize,
}

const CRC: usize = 4;
const EXPIRES: u8 = 1;
const SHARED: u8 = 2;

impl Entry {
    /// What it counts for in the `bytes` of its segment.
    pub(super) fn bytes(&self) -> u64 {
        let shared = match self.body {
            Body::Shared(mark) => mark.length,
            Body::Inline(_) => 0,
        };
        self.stored as u64 + shared
    }
}

/// Appends one message to a segment's entries.
pub(super) fn write(
    entries: &mut Vec<u8>,
    receiver: &Receiver,
    expires: Option<Timestamp>,
    body: Body<&[u8]>,
) {
    append(entries, receiver.serial, expires, &receiver.head, body);
}

/// The blob of a segment that begins with serial `first`.
pub(super) fn seal(session: SessionKey, first: u64, entries: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(CRC + entries.len());
    blob.extend_from_slice(&checksum(session, first, entries).to_le_bytes());
    blob.extend_from_slice(entries);
    blob
}

/// The entries of a blob, as [`write`] appended them; `None` if the blob is not what was written.
pub(super) fn read(session: SessionKey, first: u64, blob: &[u8]) -> Option<Vec<Entry>> {
    let (crc, mut rest) = blob.split_first_chunk::<CRC>()?;
    if u32::from_le_bytes(*crc) != checksum(session, first, rest) {
        return None;
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(take(&mut rest)?);
    }
    Some(entries)
}

/// The entries of a blob without their checksum.
pub(super) fn unsealed(blob: &[u8]) -> &[u8] {
    blob.get(CRC..).unwrap_or_default()
}

/// The blob that holds these entries of one segment.
pub(super) fn reseal<'a>(
    session: SessionKey,
    first: u64,
    entries: impl Iterator<Item = &'a Entry>,
) -> Vec<u8> {
    let mut written = Vec::new();
    for entry in entries {
        let body = match &entry.body {
            Body::Inline(body) => Body::Inline(&body[..]),
            Body::Shared(mark) => Body::Shared(*mark),
        };
        append(&mut written, entry.serial, entry.expires, &entry.head, body);
    }
    seal(session, first, &written)
}

/// A retained message as it is stored: with a checksum before it.
pub(super) fn seal_retained(topic: &str, message: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(CRC + message.len());
    blob.extend_from_slice(&retained_checksum(topic, message).to_le_bytes());
    blob.extend_from_slice(message);
    blob
}

/// The message that [`seal_retained`] sealed; `None` if it is not what was written.
pub(super) fn open_retained<'a>(topic: &str, blob: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, message) = blob.split_first_chunk::<CRC>()?;
    (u32::from_le_bytes(*crc) == retained_checksum(topic, message)).then_some(message)
}

/// At most this many bytes are an entry without head and body.
pub(super) const OVERHEAD: usize = 10 + 1 + 8 + 10 + 10 + 4;

fn append(
    entries: &mut Vec<u8>,
    serial: u64,
    expires: Option<Timestamp>,
    head: &[u8],
    body: Body<&[u8]>,
) {
    let (length, inline, crc, shared) = match body {
        Body::Inline(body) => (body.len() as u64, body, None, 0),
        Body::Shared(mark) => (mark.length, &[][..], Some(mark.crc), SHARED),
    };
    entries.reserve(OVERHEAD + head.len() + inline.len());
    append_varint(entries, serial);
    entries.push(shared | if expires.is_some() { EXPIRES } else { 0 });
    if let Some(expires) = expires {
        entries.extend_from_slice(&expires.to_le_bytes());
    }
    append_varint(entries, head.len() as u64);
    append_varint(entries, length);
    if let Some(crc) = crc {
        entries.extend_from_slice(&crc.to_le_bytes());
    }
    entries.extend_from_slice(head);
    entries.extend_from_slice(inline);
}

fn take(rest: &mut &[u8]) -> Option<Entry> {
    let before = rest.len();
    let serial = take_varint(rest)?;
    let flags = take_bytes(rest, 1)?[0];
    let expires = match flags & EXPIRES {
        0 => None,
        _ => Some(Timestamp::from_le_bytes(
            take_bytes(rest, 8)?.try_into().ok()?,
        )),
    };
    let head = take_varint(rest)?;
    let body = take_varint(rest)?;
    let mark = match flags & SHARED {
        0 => None,
        _ => Some(Mark {
            length: body,
            crc: u32::from_le_bytes(take_bytes(rest, 4)?.try_into().ok()?),
        }),
    };
    let inline = if mark.is_some() { 0 } else { body };
    let bytes = take_bytes(rest, head.checked_add(inline)?)?;
    let head_and_body = Bytes::copy_from_slice(bytes);
    let head = head as usize;
    Some(Entry {
        serial,
        expires,
        head: head_and_body.slice(..head),
        body: match mark {
            Some(mark) => Body::Shared(mark),
            None => Body::Inline(head_and_body.slice(head..)),
        },
        stored: before - rest.len(),
    })
}

fn take_bytes<'a>(rest: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(usize::try_from(count).ok()?)?;
    *rest = left;
    Some(taken)
}

/// LEB128.
fn append_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_bytes(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn checksum(session: SessionKey, first: u64, entries: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // A blob under another key is as wrong as a changed one.
    hasher.update(&session.to_le_bytes());
    hasher.update(&first.to_le_bytes());
    hasher.update(entries);
    hasher.finalize()
}

fn retained_checksum(topic: &str, message: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(topic.as_bytes());
    // No topic has this byte in it (MQTT-1.5.4-1): the topic cannot end elsewhere.
    hasher.update(&[0xff]);
    hasher.update(message);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receiver(serial: u64, head: &[u8]) -> Receiver {
        Receiver {
            session: 7,
            serial,
            head: head.to_vec(),
        }
    }

    fn sealed() -> Vec<u8> {
        let mut entries = Vec::new();
        write(
            &mut entries,
            &receiver(5, b"head"),
            Some(99),
            Body::Inline(b"body"),
        );
        write(
            &mut entries,
            &receiver(300, b""),
            None,
            Body::Shared(Mark::of(&[1; 1000])),
        );
        seal(7, 5, &entries)
    }

    #[test]
    fn entries_read_as_they_were_written() {
        let entries = read(7, 5, &sealed()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].serial, entries[0].expires), (5, Some(99)));
        assert_eq!(&entries[0].head[..], b"head");
        assert_eq!(entries[0].body, Body::Inline(Bytes::from_static(b"body")));
        assert_eq!((entries[1].serial, entries[1].expires), (300, None));
        assert_eq!(entries[1].body, Body::Shared(Mark::of(&[1; 1000])));
        assert_eq!(
            entries[1].bytes(),
            1000 + sealed().len() as u64 - 4 - entries[0].bytes()
        );
        assert_eq!(reseal(7, 5, entries.iter()), sealed());
    }

    // D11
    #[test]
    fn a_flipped_bit_a_missing_end_and_a_wrong_place_are_found() {
        let blob = sealed();
        for bit in 0..blob.len() * 8 {
            let mut flipped = blob.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(7, 5, &flipped), None, "bit {bit}");
        }
        for length in 0..blob.len() {
            assert_eq!(read(7, 5, &blob[..length]), None, "length {length}");
        }
        assert_eq!(read(8, 5, &blob), None);
        assert_eq!(read(7, 6, &blob), None);
    }

    proptest! {
        // D11
        #[test]
        fn no_bytes_with_a_right_checksum_make_reading_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(1, 1, &seal(1, 1, &noise));
        }
    }
}
