//! Rows: what one transaction of the message store writes.
//!
//! Plain data, collected while the last transaction was being synced, kept until it is on disk, and written again as it
//! is if that failed (D7): every row replaces or removes by its key. Where several changes concern one key, the last
//! counts. What heads, bodies and states mean is known to the rooms that made them.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use hashbrown::{HashMap, HashSet};

use super::entry::{self, Body, Mark};

/// A session for as long as the store lives: never used twice.
pub type SessionKey = u64;
/// Seconds since 1970.
pub type Timestamp = i64;

#[derive(Debug, Default)]
pub struct Rows {
    pub(super) backup_taken_up: bool,
    pub(super) sessions: HashMap<SessionKey, SessionRow>,
    pub(super) progress: HashMap<SessionKey, ProgressRow>,
    /// With everything that is kept for them.
    pub(super) ended: HashSet<SessionKey>,
    /// `None` removes.
    pub(super) subscriptions: HashMap<(SessionKey, ByteString), Option<Vec<u8>>>,
    /// By topic; `None` removes.
    pub(super) retained: HashMap<Box<str>, Option<RetainedRow>>,
    /// Packet identifiers of QoS 2 messages between PUBLISH and PUBREL, with the reason code of their PUBREC.
    pub(super) received: HashMap<(SessionKey, u16), Option<u8>>,
    pub(super) segments: Vec<Segment>,
    /// The segment of each session that still takes entries.
    open: HashMap<SessionKey, usize>,
    pub(super) bodies: Vec<SharedBody>,
    /// Ranges of serials, first and last, that nobody will ask for again.
    pub(super) done: HashMap<SessionKey, Vec<(u64, u64)>>,
    /// Bytes of the retained messages, about.
    retained_bytes: usize,
}

/// Who a session belongs to, and whether its client is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub client_id: ByteString,
    pub realm: Arc<str>,
    pub name: Arc<str>,
    /// What else is to be known of the last login.
    pub login: Vec<u8>,
    /// Session Expiry Interval, seconds.
    pub expiry: u32,
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: Timestamp,
    pub will: Option<WillRow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WillRow {
    pub message: Vec<u8>,
    /// When its delay ends; `None` while the client is connected.
    pub due: Option<Timestamp>,
}

/// How far a session's client has come with its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressRow {
    /// The serial of its next message.
    pub next: u64,
    /// The greatest serial that may have been sent.
    pub sent: u64,
    /// What is finished, and what is between PUBREC and PUBCOMP.
    pub state: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRow {
    pub expires: Option<Timestamp>,
    pub message: Bytes,
}

/// One session that a message waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    pub session: SessionKey,
    /// Its place in the session's queue: greater than any before it.
    pub serial: u64,
    /// What is said of the message to this session only.
    pub head: Vec<u8>,
}

/// Messages of one session with rising serials, stored as one row.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub session: SessionKey,
    pub first: u64,
    pub last: u64,
    pub messages: u32,
    /// When the first of them expires.
    pub expires: Option<Timestamp>,
    /// [`super::entry`]'s form.
    pub entries: Vec<u8>,
    /// The bytes of the shared bodies.
    pub shared: u64,
}

/// A large body that several sessions wait for: stored once.
#[derive(Debug)]
pub(super) struct SharedBody {
    pub body: Vec<u8>,
    /// Session and serial of each.
    pub users: Vec<(SessionKey, u64)>,
}

/// What the row of a retained message costs beside its bytes, about.
const RETAINED: usize = 96;
/// Bodies from this size on are stored once, however many sessions wait for them.
const SHARED: usize = 512;
/// Bytes and messages of a segment at most (a larger message has one to itself): what one message that is not finished
/// can keep on disk of finished ones (D12).
const SEGMENT_BYTES: usize = 64 * 1024;
pub(super) const SEGMENT_MESSAGES: u32 = 1024;

impl Rows {
    pub fn is_empty(&self) -> bool {
        !self.backup_taken_up
            && self.sessions.is_empty()
            && self.progress.is_empty()
            && self.ended.is_empty()
            && self.subscriptions.is_empty()
            && self.retained.is_empty()
            && self.received.is_empty()
            && self.segments.is_empty()
            && self.done.is_empty()
    }

    /// What a restored backup asks of the first start with it is done (D11).
    pub fn backup_taken_up(&mut self) {
        self.backup_taken_up = true;
    }

    pub fn session(&mut self, session: SessionKey, row: SessionRow) {
        self.sessions.insert(session, row);
    }

    pub fn progress(&mut self, session: SessionKey, row: ProgressRow) {
        self.progress.insert(session, row);
    }

    /// The session is over: nothing of it is kept.
    pub fn ended(&mut self, session: SessionKey) {
        self.ended.insert(session);
    }

    /// `options`: `None` if the subscription is gone.
    pub fn subscription(
        &mut self,
        session: SessionKey,
        filter: ByteString,
        options: Option<Vec<u8>>,
    ) {
        self.subscriptions.insert((session, filter), options);
    }

    pub fn retained(&mut self, topic: &str, row: Option<RetainedRow>) {
        let cost = |row: &Option<RetainedRow>| {
            RETAINED + topic.len() + row.as_ref().map_or(0, |row| row.message.len())
        };
        self.retained_bytes += cost(&row);
        if let Some(former) = self.retained.insert(topic.into(), row) {
            self.retained_bytes -= cost(&former);
        }
    }

    /// Bytes of its retained messages, about: the rows of which there may be any number while the disk refuses
    /// everything that has to be acknowledged.
    pub fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }

    /// `reason`: `None` after PUBREL.
    pub fn received(&mut self, session: SessionKey, packet_id: u16, reason: Option<u8>) {
        self.received.insert((session, packet_id), reason);
    }

    /// A message waits for these sessions.
    pub fn queued(&mut self, body: &[u8], expires: Option<Timestamp>, receivers: &[Receiver]) {
        let shared = (body.len() >= SHARED && receivers.len() > 1).then(|| Mark::of(body));
        if shared.is_some() {
            self.bodies.push(SharedBody {
                body: body.to_vec(),
                users: receivers.iter().map(|r| (r.session, r.serial)).collect(),
            });
        }
        for receiver in receivers {
            let body = shared.map_or(Body::Inline(body), Body::Shared);
            let segment = self.segment_for(receiver, &body);
            segment.shared += shared.map_or(0, |mark| mark.length);
            segment.last = receiver.serial;
            segment.messages += 1;
            segment.expires = match (segment.expires, expires) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            entry::write(&mut segment.entries, receiver, expires, body);
        }
    }

    /// These serials, first to last, are finished: acknowledged, dropped, moved. Give the widest range that is.
    pub fn done(&mut self, session: SessionKey, first: u64, last: u64) {
        let ranges = self.done.entry(session).or_default();
        // A range that grew meanwhile replaces its former self.
        ranges.retain(|range| range.0 < first || range.1 > last);
        ranges.push((first, last));
    }

    fn segment_for(&mut self, receiver: &Receiver, body: &Body<&[u8]>) -> &mut Segment {
        let open = self.open.get(&receiver.session).copied();
        let inline = match body {
            Body::Inline(body) => body.len(),
            Body::Shared(_) => 0,
        };
        let length = entry::OVERHEAD + receiver.head.len() + inline;
        let fits = |segment: &Segment| {
            segment.entries.len() + length <= SEGMENT_BYTES
                && segment.messages < SEGMENT_MESSAGES
                && segment.last < receiver.serial
        };
        let place = match open.filter(|place| fits(&self.segments[*place])) {
            Some(place) => place,
            None => {
                self.segments.push(Segment {
                    session: receiver.session,
                    first: receiver.serial,
                    ..Segment::default()
                });
                let place = self.segments.len() - 1;
                self.open.insert(receiver.session, place);
                place
            }
        };
        &mut self.segments[place]
    }
}

/// SQLite's integers end at 2^63 - 1: serials do not get there, bounds like `u64::MAX` do.
pub(super) fn signed(serial: u64) -> i64 {
    i64::try_from(serial).unwrap_or(i64::MAX)
}
