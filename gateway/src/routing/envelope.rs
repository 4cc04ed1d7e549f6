//! The envelope: everything that one read of one socket yielded, as one message on the bus.
//!
//! Byte form: `link: u8, sequence: u64`, then records. A record is a flags byte and, by its flags, the
//! parts of a PUBLISH ([`Envelope::publish`]), or [`CONTROL`]: "take the next control". Controls hold
//! references to sessions and therefore travel beside the envelope, in the bus's table of what is in flight.
//! Numbers are little endian: no other machine reads them.

use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    control::Control,
    message::{Batch, Message, Record},
};
use crate::mqtt::{PacketId, Qos};

/// Bytes in front of the first record.
const HEADER: usize = 1 + 8;

const QOS: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const EXPIRY: u8 = 0b0000_1000;
const PROPERTIES: u8 = 0b0001_0000;
/// The payload's length takes four bytes instead of two.
const LONG: u8 = 0b0010_0000;
/// Instead of flags: the next control has its place here.
const CONTROL: u8 = 0xff;

/// One PUBLISH, as [`Envelope::publish`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    /// MQTT 5 property bytes to forward, without a length.
    pub properties: &'a [u8],
    pub qos: Qos,
    pub retain: bool,
    /// Message expiry interval, seconds.
    pub expiry: Option<u32>,
    /// The publisher's packet identifier, where it waits for a completion.
    pub packet_id: Option<PacketId>,
}

/// Collects what one read yielded.
#[derive(Default)]
pub struct Envelope {
    bytes: BytesMut,
    controls: Vec<Control>,
    /// Bytes that the controls hold beside the envelope.
    held: usize,
    room: usize,
}

impl Envelope {
    /// An envelope for what `bytes` of packets may yield. Nothing is allocated before something goes in.
    pub fn with_room(bytes: usize) -> Envelope {
        Envelope {
            room: bytes + bytes / 4,
            ..Envelope::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes it takes of the bus's permits.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.held
    }

    pub fn publish(&mut self, message: Outgoing<'_>) {
        let Outgoing {
            topic,
            payload,
            properties,
            qos,
            retain,
            expiry,
            packet_id,
        } = message;
        self.begin(32 + topic.len() + properties.len() + payload.len());
        let long = payload.len() > usize::from(u16::MAX);
        let mut flags = qos as u8;
        for (bit, on) in [
            (RETAIN, retain),
            (EXPIRY, expiry.is_some()),
            (PROPERTIES, !properties.is_empty()),
            (LONG, long),
        ] {
            flags |= if on { bit } else { 0 };
        }
        let out = &mut self.bytes;
        out.put_u8(flags);
        if qos != Qos::AtMostOnce {
            out.put_u16_le(packet_id.map_or(0, PacketId::get));
        }
        if let Some(seconds) = expiry {
            out.put_u32_le(seconds);
        }
        out.put_u16_le(topic.len() as u16);
        if !properties.is_empty() {
            out.put_u32_le(properties.len() as u32);
        }
        if long {
            out.put_u32_le(payload.len() as u32);
        } else {
            out.put_u16_le(payload.len() as u16);
        }
        out.put_slice(topic.as_bytes());
        out.put_slice(properties);
        out.put_slice(payload);
    }

    pub fn control(&mut self, control: Control) {
        self.begin(1);
        self.bytes.put_u8(CONTROL);
        self.held += control.weight();
        self.controls.push(control);
    }

    /// Closes the envelope: its bytes for the bus, and the controls that stay behind.
    pub(super) fn seal(mut self, link: u8, sequence: u64) -> (Bytes, Vec<Control>) {
        self.begin(0);
        let mut header = &mut self.bytes[..HEADER];
        header.put_u8(link);
        header.put_u64_le(sequence);
        (self.bytes.freeze(), self.controls)
    }

    fn begin(&mut self, more: usize) {
        if self.bytes.is_empty() {
            self.bytes.reserve(HEADER + more.max(self.room));
            self.bytes.put_bytes(0, HEADER);
        }
    }
}

/// One thing of an opened envelope, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The message with this index, and its publisher's packet identifier where it waits for a completion.
    Publish {
        index: usize,
        packet_id: Option<PacketId>,
    },
    /// The next control.
    Control,
}

/// Reads `link` and `sequence` of an envelope; `None` if these bytes are not one.
pub(super) fn address(bytes: &Bytes) -> Option<(u8, u64)> {
    let mut header = bytes.get(..HEADER)?;
    Some((header.get_u8(), header.get_u64_le()))
}

/// The messages of an envelope and the order of its items. `None` if the bytes are not an envelope,
/// which would be a bug: nobody else publishes on the bus.
pub(super) fn open(bytes: Bytes, received: Instant) -> Option<(std::sync::Arc<Batch>, Vec<Item>)> {
    let mut records = Vec::new();
    let mut items = Vec::new();
    let mut rest = Reader {
        bytes: &bytes,
        at: HEADER,
    };
    while rest.at < bytes.len() {
        let flags = rest.u8()?;
        if flags == CONTROL {
            items.push(Item::Control);
            continue;
        }
        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
            .get(usize::from(flags & QOS))
            .copied()?;
        let packet_id = if qos == Qos::AtMostOnce {
            None
        } else {
            PacketId::new(rest.u16()?)
        };
        let expiry = if flags & EXPIRY != 0 {
            Some(rest.u32()?)
        } else {
            None
        };
        let topic = u32::from(rest.u16()?);
        let properties = if flags & PROPERTIES != 0 {
            rest.u32()?
        } else {
            0
        };
        let payload = if flags & LONG != 0 {
            rest.u32()?
        } else {
            u32::from(rest.u16()?)
        };
        items.push(Item::Publish {
            index: records.len(),
            packet_id,
        });
        records.push(Record {
            qos,
            retain: flags & RETAIN != 0,
            expiry,
            topic: rest.part(topic)?,
            properties: rest.part(properties)?,
            payload: rest.part(payload)?,
        });
    }
    Some((Batch::new(bytes.clone(), records, received), items))
}

/// A message that is made here rather than received: retained snapshots in tests, `$SYS`.
pub fn message(outgoing: Outgoing<'_>, received: Instant) -> Option<Message> {
    let mut envelope = Envelope::default();
    envelope.publish(outgoing);
    let (batch, _) = open(envelope.seal(0, 0).0, received)?;
    Some(batch.message(0))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn part(&mut self, len: u32) -> Option<(u32, u32)> {
        let start = u32::try_from(self.at).ok()?;
        self.bytes.get(self.at..self.at + len as usize)?;
        self.at += len as usize;
        Some((start, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::message::Expiry;
    use proptest::prelude::*;

    fn outgoing<'a>(topic: &'a str, payload: &'a [u8], properties: &'a [u8]) -> Outgoing<'a> {
        Outgoing {
            topic,
            payload,
            properties,
            qos: Qos::AtMostOnce,
            retain: false,
            expiry: None,
            packet_id: None,
        }
    }

    #[test]
    fn an_envelope_keeps_the_order_of_messages_and_controls() {
        let mut envelope = Envelope::default();
        envelope.publish(outgoing("a", b"1", b""));
        envelope.control(Control::WillSent);
        envelope.publish(Outgoing {
            qos: Qos::AtLeastOnce,
            packet_id: PacketId::new(7),
            ..outgoing("b", b"2", b"")
        });
        let (bytes, controls) = envelope.seal(3, 99);
        assert_eq!(address(&bytes), Some((3, 99)));
        assert_eq!(controls.len(), 1);
        let (batch, items) = open(bytes, Instant::now()).unwrap();
        assert_eq!(
            items,
            [
                Item::Publish {
                    index: 0,
                    packet_id: None
                },
                Item::Control,
                Item::Publish {
                    index: 1,
                    packet_id: PacketId::new(7)
                }
            ]
        );
        assert_eq!(batch.message(1).topic(), "b");
    }

    #[test]
    fn a_detached_message_is_the_same_message() {
        let mut envelope = Envelope::default();
        envelope.publish(outgoing("other", &[0; 1000], b""));
        envelope.publish(Outgoing {
            retain: true,
            expiry: Some(9),
            ..outgoing("t/ä", b"payload", b"props")
        });
        let (batch, _) = open(envelope.seal(0, 1).0, Instant::now()).unwrap();
        let copy = batch.message(1).detach();
        assert_eq!(
            (copy.topic(), copy.payload(), copy.properties()),
            ("t/ä", &b"payload"[..], &b"props"[..])
        );
        assert!(copy.retain());
        assert_eq!(copy.expiry_left(Instant::now()), Expiry::Left(9));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            topic in "[a-zä/]{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..70_000),
            properties in proptest::collection::vec(any::<u8>(), 0..50),
            qos in 0u8..3, retain: bool, expiry: Option<u32>, id in 1u16..,
        ) {
            let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)];
            let mut envelope = Envelope::default();
            envelope.publish(Outgoing {
                topic: &topic, payload: &payload, properties: &properties, qos, retain, expiry,
                packet_id: PacketId::new(id),
            });
            let (batch, items) = open(envelope.seal(0, 0).0, Instant::now()).unwrap();
            let message = batch.message(0);
            prop_assert_eq!(message.topic(), &topic);
            prop_assert_eq!(message.payload(), &payload[..]);
            prop_assert_eq!(message.properties(), &properties[..]);
            prop_assert_eq!((message.qos(), message.retain()), (qos, retain));
            let packet_id = if qos == Qos::AtMostOnce { None } else { PacketId::new(id) };
            prop_assert_eq!(items, vec![Item::Publish { index: 0, packet_id }]);
        }

        #[test]
        fn arbitrary_bytes_are_no_envelope_or_a_sound_one(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some((batch, items)) = open(bytes.into(), Instant::now()) {
                for item in items {
                    if let Item::Publish { index, .. } = item {
                        let _ = (batch.message(index).topic(), batch.message(index).payload());
                    }
                }
            }
        }
    }
}
