//! The mailbox of a session: what the dispatcher and the operator leave for its connection.

use std::{
    ops::{Deref, DerefMut},
    task::Waker,
};

use bytestring::ByteString;
use parking_lot::MutexGuard;

use super::{
    ledger::Ledger,
    queue::{Entry, Queue, QueueLimits},
};
use crate::{metrics::Metrics, mqtt::PacketId, routing::endpoint::Completion};

/// What others leave for the connection.
#[derive(Default)]
pub(super) struct Mailbox {
    pub queue: Queue,
    pub ledger: Ledger,
    /// Packet identifiers that PUBREL has freed and the disk still has.
    pub freed: Vec<PacketId>,
    /// A change is on its way to the disk that has not taken up the session's state yet.
    pub recording: bool,
    pub limits: QueueLimits,
    pub completions: Vec<(u32, Completion)>,
    pub waker: Option<Waker>,
    pub notice: Option<Notice>,
    /// A subscription that a policy change took away while the client was away.
    pub lost: Option<ByteString>,
}

/// The mailbox while it is open; closing it brings the gauges up to date.
pub(super) struct Open<'a> {
    pub mailbox: MutexGuard<'a, Mailbox>,
    pub metrics: &'a Metrics,
}

impl Deref for Open<'_> {
    type Target = Mailbox;

    fn deref(&self) -> &Mailbox {
        &self.mailbox
    }
}

impl DerefMut for Open<'_> {
    fn deref_mut(&mut self) -> &mut Mailbox {
        &mut self.mailbox
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.mailbox.queue.report(self.metrics);
    }
}

/// What a mailbox had for its connection.
#[derive(Default)]
pub struct Mail {
    pub completions: Vec<(u32, Completion)>,
    pub entries: Vec<Entry>,
    pub notice: Option<Notice>,
    /// There is more that may leave.
    pub more: bool,
    /// Changes of the session's state that are on disk: what depends on them may leave.
    pub durable: u64,
    /// What is at QoS 1 and 2 in `entries` leaves when this change is on disk.
    pub behind: Option<u64>,
}

impl Mail {
    pub fn clear(&mut self) {
        self.completions.clear();
        self.entries.clear();
        self.notice = None;
        self.behind = None;
    }
}

impl Notice {
    /// Whether the will of the connection goes with it (P3).
    pub fn takes_will(&self) -> bool {
        matches!(self, Notice::CertificateRevoked | Notice::TokenRevoked)
    }
}

/// Why the gateway ends a connection from outside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Another connection uses the client identifier (MQTT-3.1.4-3).
    TakenOver,
    /// A change of policy took this subscription away (P4).
    SubscriptionLost(ByteString),
    /// The account was disabled or removed, or its credentials changed.
    Disabled,
    /// Its client certificate was revoked, or is not listed any more: no will either (P3).
    CertificateRevoked,
    /// Its client certificate has expired.
    CertificateExpired,
    /// The token of its login has expired.
    TokenExpired,
    /// The issuer of that token does not stand by it any more, or is trusted no more: no will either (P3).
    TokenRevoked,
    /// The gateway is going down.
    ShuttingDown,
    /// The session holds more memory than any other while the gateway has none left (N4).
    OutOfMemory,
}
