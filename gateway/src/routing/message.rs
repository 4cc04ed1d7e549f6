//! A message on its way: what a publisher said, shared by everyone who gets it.
//!
//! All messages of one envelope share one allocation ([`Batch`]); a [`Message`] is an index into it.
//! Who gets a message is the dispatcher's question, how it is sent the session's.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::mqtt::Qos;

/// One application message (MQTT 5 §3.3), cheap to clone.
#[derive(Clone)]
pub struct Message {
    batch: Arc<Batch>,
    index: u32,
}

/// The messages that travelled in one envelope.
pub struct Batch {
    bytes: Bytes,
    records: Vec<Record>,
    /// When the gateway received the messages: their expiry counts from here.
    received: Instant,
}

/// Where the parts of one message lie in its batch, and its publisher's flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub qos: Qos,
    pub retain: bool,
    /// Message expiry interval in seconds.
    pub expiry: Option<u32>,
    pub topic: (u32, u32),
    pub properties: (u32, u32),
    pub payload: (u32, u32),
}

impl Message {
    /// The topic name.
    pub fn topic(&self) -> &str {
        // Topics were validated as UTF-8 by the codec before they entered an envelope;
        // an empty name can only come from a corrupted envelope and matches no filter.
        std::str::from_utf8(self.slice(self.record().topic)).unwrap_or_default()
    }

    pub fn payload(&self) -> &[u8] {
        self.slice(self.record().payload)
    }

    /// The forwardable properties as MQTT 5 property bytes, without a length.
    pub fn properties(&self) -> &[u8] {
        self.slice(self.record().properties)
    }

    /// The QoS it was published at.
    pub fn qos(&self) -> Qos {
        self.record().qos
    }

    /// Whether its publisher set RETAIN.
    pub fn retain(&self) -> bool {
        self.record().retain
    }

    /// The message expiry interval that is left at `now`, in seconds (MQTT 5 §3.3.2.3.3).
    pub fn expiry_left(&self, now: Instant) -> Expiry {
        let Some(seconds) = self.record().expiry else {
            return Expiry::Never;
        };
        let waited = now.saturating_duration_since(self.batch.received);
        match Duration::from_secs(seconds.into()).checked_sub(waited) {
            // Whole seconds waited are subtracted, so that an immediate delivery carries the publisher's value.
            Some(left) if !left.is_zero() => {
                Expiry::Left(seconds.saturating_sub(waited.as_secs() as u32))
            }
            _ => Expiry::Expired,
        }
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.record().expiry.is_some() && matches!(self.expiry_left(now), Expiry::Expired)
    }

    /// When it expires, in seconds since 1970, `now` being the present one.
    pub fn expires_at(&self, now: i64) -> Option<i64> {
        match self.expiry_left(Instant::now()) {
            Expiry::Never => None,
            Expiry::Left(seconds) => Some(now.saturating_add(seconds.into())),
            Expiry::Expired => Some(now),
        }
    }

    /// Bytes that this message accounts for where limits are counted: its content and a fixed overhead.
    pub fn cost(&self) -> usize {
        let record = self.record();
        OVERHEAD + (record.topic.1 + record.properties.1 + record.payload.1) as usize
    }

    /// A copy that no longer keeps its envelope alive, for a message that must wait.
    pub fn detach(&self) -> Message {
        if self.batch.records.len() == 1 {
            return self.clone();
        }
        let record = self.record();
        let parts = [record.topic, record.properties, record.payload];
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.1 as usize).sum());
        let mut place = |part| {
            let start = bytes.len() as u32;
            bytes.extend_from_slice(self.slice(part));
            (start, part.1)
        };
        let [topic, properties, payload] = parts.map(&mut place);
        let record = Record {
            topic,
            properties,
            payload,
            ..*record
        };
        Message::single(bytes.into(), record, self.batch.received)
    }

    pub(super) fn single(bytes: Bytes, record: Record, received: Instant) -> Message {
        Message {
            batch: Arc::new(Batch {
                bytes,
                records: vec![record],
                received,
            }),
            index: 0,
        }
    }

    fn record(&self) -> &Record {
        &self.batch.records[self.index as usize]
    }

    fn slice(&self, (start, len): (u32, u32)) -> &[u8] {
        &self.batch.bytes[start as usize..(start + len) as usize]
    }
}

/// Decides which messages of a line that waits are copied out of their envelopes.
///
/// A message keeps its whole envelope in memory. That is cheap while most of the envelope waits in the same line, and a
/// waste when it does not: until an eighth of an envelope waits here, copies are made.
#[derive(Default)]
pub struct Neighbours {
    /// The envelope of the last message, by its address: only compared, never followed.
    envelope: usize,
    bytes: usize,
}

impl Neighbours {
    /// The message, or its copy.
    pub fn keep(&mut self, message: Message) -> Message {
        let envelope = Arc::as_ptr(&message.batch).addr();
        if envelope != self.envelope {
            *self = Neighbours { envelope, bytes: 0 };
        }
        self.bytes += message.cost();
        match self.bytes < message.batch.bytes.len() / 8 {
            true => message.detach(),
            false => message,
        }
    }
}

/// What is left of a message's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    /// Seconds, never 0.
    Left(u32),
    Expired,
}

impl Expiry {
    /// The value for the Message Expiry Interval property. What expired and is sent all the same, as a retransmission
    /// must be, has nothing left (MQTT-3.3.2-6).
    pub fn property(self) -> Option<u32> {
        match self {
            Expiry::Left(seconds) => Some(seconds),
            Expiry::Expired => Some(0),
            Expiry::Never => None,
        }
    }
}

/// Queue entry, reference counts and record of one message: what it costs beside its bytes.
const OVERHEAD: usize = 96;

impl Batch {
    pub(super) fn new(bytes: Bytes, records: Vec<Record>, received: Instant) -> Arc<Batch> {
        Arc::new(Batch {
            bytes,
            records,
            received,
        })
    }

    pub(super) fn message(self: &Arc<Batch>, index: usize) -> Message {
        debug_assert!(index < self.records.len());
        Message {
            batch: self.clone(),
            index: index as u32,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads may be secrets: never in a log.
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("payload_bytes", &self.payload().len())
            .finish()
    }
}
