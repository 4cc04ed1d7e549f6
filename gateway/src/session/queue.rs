//! The queue of one session: what waits for its client, in order, within limits (D8).
//!
//! Messages at effective QoS 0 and at QoS 1 or 2 wait in lines of their own, each entry numbered, so that the oldest
//! is always known, QoS 0 can be dropped first, and a closed send window holds back only what needs it. What is kept on
//! disk need not be in memory as well: the end of the line is [`Backlog`], which is read page by page when its turn comes.

use std::collections::VecDeque;

use super::{backlog::Backlog, ledger::Ledger};
use crate::{
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode},
    routing::{endpoint::Delivery, message::Neighbours},
    store::messages::Totals,
};

/// How much may wait. Bytes count message content and a fixed overhead for each message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages at QoS 1 and 2.
    pub messages: usize,
    /// Bytes of all messages.
    pub bytes: usize,
}

/// What comes out of the queue.
#[derive(Debug)]
pub enum Entry {
    Message(Delivery),
    SubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
    UnsubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
}

/// What UNSUBACK says where the disk refuses: it knows no "quota exceeded" (MQTT 5 §3.11.3).
pub const REFUSED: ReasonCode = ReasonCode::ImplementationSpecificError;

impl Entry {
    /// The disk does not take what this answer stands for.
    fn refuse(&mut self, reason: ReasonCode) {
        let (reasons, reason) = match self {
            Entry::Message(_) => return,
            Entry::SubAck { reasons, .. } => (reasons, reason),
            Entry::UnsubAck { reasons, .. } => (reasons, REFUSED),
        };
        let granted = reasons.iter_mut().filter(|reason| !reason.is_error());
        granted.for_each(|granted| *granted = reason);
    }
}

/// How a session takes a message.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub limits: QueueLimits,
    /// It is kept on disk; at QoS 2 it leaves when this turn is there.
    pub stored: Option<u64>,
    pub online: bool,
}

#[derive(Default)]
pub struct Queue {
    next: u64,
    /// Effective QoS 0.
    fleeting: VecDeque<Waiting>,
    /// Effective QoS 1 and 2.
    assured: VecDeque<Waiting>,
    aside: VecDeque<(u64, Aside)>,
    /// Younger than `assured`, and only on disk.
    backlog: Backlog,
    /// The last turn of the dispatcher that is on disk.
    stored: u64,
    /// Bytes in memory.
    bytes: usize,
    /// Messages and bytes that the gauges know of, here and on disk.
    reported: [usize; 4],
    neighbours: Neighbours,
    /// Messages were dropped since it was last empty.
    overflowing: bool,
}

struct Waiting {
    number: u64,
    /// It does not leave before this turn of the dispatcher is on disk.
    turn: u64,
    delivery: Delivery,
}

/// What is not a live message and keeps its place among them.
enum Aside {
    /// With the turn that must be on disk first.
    Answer(u64, Entry),
    /// The retained messages of a new subscription, fixed when it was made; nothing newer overtakes them (B7).
    Retained(u64, std::vec::IntoIter<Delivery>),
}

/// Whose turn it is.
enum Next {
    Fleeting,
    Assured,
    Aside,
    Nothing,
}

impl Queue {
    /// Adds a message; what had to be dropped for it is counted. Gives its serial, 0 if it has none.
    pub fn push(
        &mut self,
        mut delivery: Delivery,
        terms: Terms,
        ledger: &mut Ledger,
        metrics: &Metrics,
    ) -> u64 {
        let cost = delivery.message.cost();
        let limits = terms.limits;
        if delivery.qos == Qos::AtMostOnce {
            if self.bytes() + cost > limits.bytes {
                metrics.messages_dropped.add(1);
                return 0;
            }
            self.admit(delivery, 0);
            return 0;
        }
        while self.bytes() + cost > limits.bytes && self.drop_oldest_fleeting(metrics) {}
        while self.assured_len() > 0
            && (self.assured_len() >= limits.messages || self.bytes() + cost > limits.bytes)
        {
            self.drop_oldest_assured(terms.stored.is_some(), ledger, metrics);
        }
        let serial = ledger.number();
        delivery.serial = serial;
        match terms.stored {
            Some(_) if !terms.online || !self.backlog.is_empty() || self.bytes > IN_MEMORY => {
                self.backlog.push(serial, cost);
            }
            Some(turn) if delivery.qos == Qos::ExactlyOnce => self.admit(delivery, turn),
            _ => self.admit(delivery, 0),
        }
        serial
    }

    fn admit(&mut self, delivery: Delivery, turn: u64) {
        let cost = delivery.message.cost();
        self.bytes += cost;
        let number = self.number();
        let message = match self.len() > WAITING {
            true => self.neighbours.keep(delivery.message),
            false => delivery.message,
        };
        let delivery = Delivery {
            message,
            ..delivery
        };
        let line = match delivery.qos {
            Qos::AtMostOnce => &mut self.fleeting,
            _ => &mut self.assured,
        };
        self.overflowing &= !line.is_empty();
        line.push_back(Waiting {
            number,
            turn,
            delivery,
        });
    }

    /// An answer that keeps its place, once `turn` is on disk.
    pub fn answer(&mut self, answer: Entry, turn: u64) {
        let number = self.number();
        self.aside.push_back((number, Aside::Answer(turn, answer)));
    }

    /// The retained messages of a new subscription, behind its SUBACK. Those that are on disk wait there if older ones do.
    pub fn retained(&mut self, mut retained: Vec<Delivery>, turn: u64) {
        if !self.backlog.is_empty() {
            for delivery in retained.extract_if(.., |delivery| delivery.serial > 0) {
                self.backlog.push(delivery.serial, delivery.message.cost());
            }
        }
        if retained.is_empty() {
            return;
        }
        let number = self.number();
        self.bytes += retained.len() * POINTER;
        self.aside
            .push_back((number, Aside::Retained(turn, retained.into_iter())));
    }

    /// Retained messages for a client that left before its SUBACK: on disk like everything that waits for it.
    pub fn retained_in_absence(&mut self, retained: &[Delivery]) {
        for delivery in retained.iter().filter(|delivery| delivery.serial > 0) {
            self.backlog.push(delivery.serial, delivery.message.cost());
        }
    }

    /// The disk refuses this turn: its answers say so and wait no longer, and the retained messages of its subscriptions
    /// are not owed (D7).
    pub fn refuse(&mut self, turn: u64, reason: ReasonCode) {
        for (_, aside) in &mut self.aside {
            match aside {
                Aside::Answer(waits, answer) if *waits == turn => {
                    *waits = 0;
                    answer.refuse(reason);
                }
                Aside::Retained(waits, deliveries) if *waits == turn => {
                    self.bytes -= deliveries.len() * POINTER;
                    *deliveries = Vec::new().into_iter();
                }
                _ => {}
            }
        }
    }

    /// A turn of the dispatcher is on disk.
    pub fn stored(&mut self, turn: u64) {
        self.stored = self.stored.max(turn);
    }

    /// The next entry, if there is one that may leave; `window` says whether a message at QoS 1 or 2 may.
    pub fn pop(&mut self, window: bool) -> Option<Entry> {
        loop {
            let line = match self.next(window) {
                Next::Nothing => return None,
                Next::Aside => match self.pop_aside(window)? {
                    Some(entry) => return Some(entry),
                    None => continue,
                },
                Next::Fleeting => &mut self.fleeting,
                Next::Assured => &mut self.assured,
            };
            let waiting = line.pop_front()?;
            relieve(line);
            self.bytes -= waiting.delivery.message.cost();
            return Some(Entry::Message(waiting.delivery));
        }
    }

    /// Whether [`Queue::pop`] would give something.
    pub fn is_ready(&self, window: bool) -> bool {
        !matches!(self.next(window), Next::Nothing)
    }

    /// The serials of which messages are to be read from disk now, if they are; told once.
    pub fn wants_page(&mut self) -> Option<(u64, u64)> {
        match self.bytes > LOW_WATER {
            true => None,
            false => self.backlog.ask(),
        }
    }

    /// The writer knows of every message up to this serial.
    pub fn hand_over(&mut self, serial: u64) {
        self.backlog.hand_over(serial);
    }

    pub fn handed_over(&self) -> u64 {
        self.backlog.handed_over()
    }

    /// Messages that were read from disk, oldest first, without those that nobody wants any more. `next`: where the
    /// next page begins, `None` if nothing is left.
    pub fn thaw(&mut self, page: Vec<Delivery>, next: Option<u64>) {
        let costs = page.iter().map(|delivery| delivery.message.cost() as u64);
        self.backlog.read(page.len() as u64, costs.sum(), next);
        for delivery in page {
            self.admit(delivery, 0);
        }
    }

    /// The client is gone: what only a connection could take goes with it. The rest is on disk, or on its way there.
    pub fn disconnect(&mut self) {
        self.fleeting = VecDeque::new();
        let mut kept: Vec<_> = std::mem::take(&mut self.assured)
            .into_iter()
            .map(|waiting| (waiting.delivery.serial, waiting.delivery.message.cost()))
            .collect();
        for (_, aside) in std::mem::take(&mut self.aside) {
            if let Aside::Retained(_, deliveries) = aside {
                let stored = deliveries.filter(|delivery| delivery.serial > 0);
                kept.extend(stored.map(|delivery| (delivery.serial, delivery.message.cost())));
            }
        }
        self.bytes = 0;
        kept.sort_unstable();
        self.backlog.put_back(&kept);
    }

    /// A new connection: what may have been sent, up to this serial, is in its window. `in_flight` of it were on disk.
    pub fn resume(&mut self, sent: u64, in_flight: &[Delivery]) {
        let costs = in_flight
            .iter()
            .map(|delivery| delivery.message.cost() as u64);
        self.backlog
            .begin_behind(sent, in_flight.len() as u64, costs.sum());
    }

    /// Whether a message that is put in now waits in memory, behind few others.
    pub fn leaves_soon(&self) -> bool {
        self.backlog.is_empty() && self.assured.len() <= WAITING && self.aside.is_empty()
    }

    /// Whether messages were dropped since it was last empty.
    pub fn is_overflowing(&self) -> bool {
        self.overflowing
    }

    /// Messages that are on disk from before the gateway was started, the oldest that is not finished under `from`.
    pub fn restore(&mut self, from: u64, queued: &Totals) {
        let Totals {
            messages,
            bytes,
            last,
            ..
        } = *queued;
        self.backlog.restore(from, last, messages, bytes);
    }

    /// Some on disk have expired and were removed.
    pub fn swept(&mut self, messages: u64, bytes: u64) {
        self.backlog.swept(messages, bytes);
    }

    /// A message that was taken out stays after all, in its place: nobody else wants it.
    pub fn put_back(&mut self, delivery: &Delivery) {
        let cost = delivery.message.cost();
        self.backlog.put_back(&[(delivery.serial, cost)]);
    }

    /// What is on disk only, from this serial on.
    pub fn backlog_from(&self) -> Option<u64> {
        (!self.backlog.is_empty()).then(|| self.backlog.from())
    }

    /// Keeps only the messages in memory that `keep` wants; gives back the others.
    pub fn take_out(&mut self, keep: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut out = Vec::new();
        for line in [&mut self.fleeting, &mut self.assured] {
            for waiting in std::mem::take(line) {
                if keep(&waiting.delivery) {
                    line.push_back(waiting);
                } else {
                    self.bytes -= waiting.delivery.message.cost();
                    out.push(waiting.delivery);
                }
            }
        }
        for (_, aside) in &mut self.aside {
            if let Aside::Retained(_, deliveries) = aside {
                let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(deliveries).partition(&keep);
                self.bytes -= gone.len() * POINTER;
                *deliveries = kept.into_iter();
                // Those at QoS 0 are the retained set's: nothing is lost with them here.
                out.extend(gone.into_iter().filter(|delivery| delivery.serial > 0));
            }
        }
        out
    }

    /// Brings the gauges up to date: once for a whole round of changes.
    pub fn report(&mut self, metrics: &Metrics) {
        let backlog = &self.backlog;
        let now = [
            self.len(),
            self.bytes,
            backlog.messages() as usize,
            backlog.bytes() as usize,
        ];
        let was = std::mem::replace(&mut self.reported, now);
        let gauges = [
            &metrics.messages_queued,
            &metrics.bytes_queued,
            &metrics.messages_stored,
            &metrics.bytes_stored,
        ];
        for (gauge, (was, now)) in gauges.into_iter().zip(was.into_iter().zip(now)) {
            gauge.shift(was, now);
        }
    }

    /// Messages that wait in memory.
    pub fn len(&self) -> usize {
        self.fleeting.len() + self.assured.len()
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.aside.is_empty()
    }

    /// Bytes that wait, in memory and on disk.
    pub fn bytes(&self) -> usize {
        self.bytes + self.backlog.bytes() as usize
    }

    /// Bytes that wait in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.bytes
    }

    /// Empties it, at the end of its session.
    pub fn clear(&mut self) {
        self.disconnect();
        let handed_over = self.backlog.handed_over();
        self.backlog = Backlog::default();
        self.backlog.hand_over(handed_over);
    }

    fn assured_len(&self) -> usize {
        self.assured.len() + self.backlog.messages() as usize
    }

    fn next(&self, window: bool) -> Next {
        let fleeting = front(&self.fleeting);
        let assured = match self.assured.front() {
            Some(waiting) if window && waiting.turn <= self.stored => waiting.number,
            _ => NONE,
        };
        let oldest = fleeting.min(assured);
        match self.aside.front() {
            // What stands aside holds back everything younger, and is held back by nothing older that may not leave.
            Some((number, aside)) if oldest >= *number => {
                let ready = match aside {
                    Aside::Answer(turn, _) => *turn <= self.stored,
                    Aside::Retained(turn, deliveries) => {
                        deliveries.as_slice().first().is_none_or(|next| {
                            next.qos == Qos::AtMostOnce || (window && *turn <= self.stored)
                        })
                    }
                };
                if ready { Next::Aside } else { Next::Nothing }
            }
            _ if oldest == NONE => Next::Nothing,
            _ if oldest == fleeting => Next::Fleeting,
            _ => Next::Assured,
        }
    }

    /// `None`: nothing may leave. `Some(None)`: a retained set is through, look again.
    fn pop_aside(&mut self, window: bool) -> Option<Option<Entry>> {
        let (number, aside) = self.aside.pop_front()?;
        match aside {
            Aside::Answer(_, answer) => Some(Some(answer)),
            Aside::Retained(turn, mut deliveries) => {
                let Some(next) = deliveries.as_slice().first() else {
                    return Some(None);
                };
                let taken = if next.qos == Qos::AtMostOnce || window {
                    self.bytes -= POINTER;
                    deliveries.next()
                } else {
                    None
                };
                self.aside
                    .push_front((number, Aside::Retained(turn, deliveries)));
                taken.map(|delivery| Some(Entry::Message(delivery)))
            }
        }
    }

    fn drop_oldest_fleeting(&mut self, metrics: &Metrics) -> bool {
        let Some(waiting) = self.fleeting.pop_front() else {
            return false;
        };
        self.bytes -= waiting.delivery.message.cost();
        metrics.messages_dropped.add(1);
        true
    }

    fn drop_oldest_assured(&mut self, stored: bool, ledger: &mut Ledger, metrics: &Metrics) {
        let serial = match self.assured.pop_front() {
            Some(waiting) => {
                self.bytes -= waiting.delivery.message.cost();
                Some(waiting.delivery.serial)
            }
            None => self.backlog.drop_oldest(ledger),
        };
        let Some(serial) = serial else { return };
        if stored {
            ledger.finish(serial);
        }
        self.overflowing = true;
        metrics.messages_dropped.add(1);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Messages in a queue from which on new ones are copied out of their envelopes.
const WAITING: usize = 32;
/// Bytes of one retained message on its way: the message itself is the retained set's.
const POINTER: usize = size_of::<Delivery>();
/// Entries an empty line may keep room for.
const SPARE: usize = 128;
/// The number of an entry that is not there.
const NONE: u64 = u64::MAX;
/// Bytes in memory from which on what is on disk anyway waits only there.
const IN_MEMORY: usize = 256 * 1024;
/// Bytes in memory below which more is read from disk.
const LOW_WATER: usize = 16 * 1024;

fn front(line: &VecDeque<Waiting>) -> u64 {
    line.front().map_or(NONE, |waiting| waiting.number)
}

/// A line that was long and is empty gives its memory back.
fn relieve<T>(line: &mut VecDeque<T>) {
    if line.is_empty() && line.capacity() > SPARE {
        line.shrink_to(0);
    }
}
