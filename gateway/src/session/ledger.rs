//! The ledger of one session: which of its messages are finished, which may be in its client's hands.
//!
//! Messages at effective QoS 1 and 2 have serials, from 1 and without gaps, in the order of the session's queue. A packet
//! identifier follows from the serial, so that a message keeps it through a crash without a word on disk, unless the
//! identifier was still in use. What is written is this ledger, once for each transaction, however many messages moved.

use bytes::{Buf, BufMut};
use hashbrown::HashSet;
use smallvec::SmallVec;

use crate::{
    mqtt::PacketId,
    routing::endpoint::Delivery,
    store::messages::{ProgressRow, Rows, SessionKey},
};

#[derive(Debug)]
pub(super) struct Ledger {
    /// The serial of the next message.
    next: u64,
    /// The greatest serial that may have been sent.
    sent: u64,
    done: Ranges,
    /// Between PUBREC and PUBCOMP, in the order of their serials.
    released: Vec<(u64, PacketId)>,
    /// On their way to another member of their shared group: still this session's on disk, and nobody's here (S4).
    moving: HashSet<u64>,
    /// Sent under an identifier that does not follow from the serial.
    odd: Vec<(u64, PacketId)>,
    /// Changes so far, those that a transaction took up, and those that are on disk.
    changed: u64,
    taken: u64,
    durable: u64,
    /// `sent` as the last transaction that is on disk has it, and as the one that is under way has it.
    durable_sent: u64,
    taken_sent: u64,
    /// A serial in each range that grew since the last transaction took them up.
    grown: SmallVec<[u64; 2]>,
}

/// Packet identifiers run from 1 to 65,535.
pub(super) const IDENTIFIERS: u64 = u16::MAX as u64;

/// The packet identifier that a message gets unless it is in use.
pub(super) fn identifier(serial: u64) -> PacketId {
    PacketId::new((serial.wrapping_sub(1) % IDENTIFIERS) as u16 + 1).unwrap_or(PacketId::MAX)
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            next: 1,
            sent: 0,
            done: Ranges::default(),
            released: Vec::new(),
            moving: HashSet::new(),
            odd: Vec::new(),
            changed: 0,
            taken: 0,
            durable: 0,
            durable_sent: 0,
            taken_sent: 0,
            grown: SmallVec::new(),
        }
    }
}

impl Ledger {
    /// The serial of one more message.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// The message may leave from now on. True if the disk does not know that yet.
    pub fn send(&mut self, serial: u64) -> bool {
        if serial > self.sent {
            self.sent = serial;
            self.changed += 1;
        }
        serial > self.durable_sent
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sent under another packet identifier than its own.
    pub fn send_as(&mut self, serial: u64, id: PacketId) {
        self.odd.push((serial, id));
        self.changed += 1;
    }

    /// PUBREC came: the message is the client's, its identifier is not free.
    pub fn release(&mut self, serial: u64, id: PacketId) {
        self.odd.retain(|odd| odd.0 != serial);
        if let Err(place) = self.released.binary_search_by_key(&serial, |held| held.0) {
            self.released.insert(place, (serial, id));
            self.finish(serial);
        }
    }

    /// Nobody will ask for this message again.
    pub fn finish(&mut self, serial: u64) {
        if self.done.insert(serial) {
            self.grew(serial);
            self.changed += 1;
            if !self.odd.is_empty() {
                self.odd.retain(|odd| odd.0 != serial);
            }
        }
    }

    /// PUBCOMP came.
    pub fn complete(&mut self, serial: u64) {
        let before = self.released.len();
        self.released.retain(|held| held.0 != serial);
        if self.released.len() != before {
            self.changed += 1;
        }
    }

    pub fn is_done(&self, serial: u64) -> bool {
        self.done.contains(serial)
    }

    /// The client is gone: nothing from this serial on was sent.
    pub fn unsend(&mut self, serial: u64) {
        if self.sent >= serial {
            self.sent = serial - 1;
            self.changed += 1;
        }
    }

    /// Messages that were taken out for other members of their shared groups.
    pub fn depart<'a>(&mut self, deliveries: impl IntoIterator<Item = &'a Delivery>) {
        let serials = deliveries.into_iter().map(|delivery| delivery.serial);
        self.moving.extend(serials.filter(|serial| *serial > 0));
    }

    /// One that departed has arrived elsewhere, or nowhere.
    pub fn arrive(&mut self, serial: u64) {
        self.moving.remove(&serial);
        self.finish(serial);
    }

    /// One that departed stays after all; false if it had not departed.
    pub fn stay(&mut self, serial: u64) -> bool {
        self.moving.remove(&serial)
    }

    /// Whether the session itself has nothing to do with this message any more.
    pub fn is_gone(&self, serial: u64) -> bool {
        self.is_done(serial) || self.moving.contains(&serial)
    }

    /// Whether a message may be in the client's hands.
    pub fn is_in_flight(&self, serial: u64) -> bool {
        serial <= self.sent && !self.is_done(serial)
    }

    /// The least serial that may be in the client's hands.
    pub fn first_in_flight(&self) -> Option<u64> {
        Some(self.first_unfinished()).filter(|serial| *serial <= self.sent)
    }

    /// The least serial that is not finished.
    pub fn first_unfinished(&self) -> u64 {
        self.done.first_gap()
    }

    pub fn released(&self) -> &[(u64, PacketId)] {
        &self.released
    }

    /// The identifier under which a message was sent.
    pub fn identifier(&self, serial: u64) -> PacketId {
        let odd = self.odd.iter().find(|odd| odd.0 == serial);
        odd.map_or_else(|| identifier(serial), |odd| odd.1)
    }

    /// Number of the last change: what depends on it may leave when [`Ledger::durable`] has reached it.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether the transaction that begins now, or one before it, has all changes.
    pub fn is_taken(&self) -> bool {
        self.taken == self.changed
    }

    /// Something besides the messages changed that must be on disk too.
    pub fn touch(&mut self) -> u64 {
        self.changed += 1;
        self.changed
    }

    /// Adds what changed to the transaction that begins now.
    pub fn record(&mut self, session: SessionKey, rows: &mut Rows) {
        if self.taken == self.changed {
            return;
        }
        for serial in std::mem::take(&mut self.grown) {
            if let Some((first, last)) = self.done.around(serial) {
                rows.done(session, first, last);
            }
        }
        rows.progress(
            session,
            ProgressRow {
                next: self.next,
                sent: self.sent,
                state: self.encode(),
            },
        );
        (self.taken, self.taken_sent) = (self.changed, self.sent);
    }

    /// The last transaction is on disk.
    pub fn stored(&mut self) {
        (self.durable, self.durable_sent) = (self.taken, self.taken_sent);
    }

    /// What a start finds on disk; `last` is the greatest serial of a message there. `None`: not a ledger.
    pub fn restore(row: &ProgressRow, last: u64) -> Option<Ledger> {
        let mut state = &row.state[..];
        let mut ledger = Ledger {
            next: row.next.max(last + 1).max(row.sent + 1),
            sent: row.sent,
            durable_sent: row.sent,
            taken_sent: row.sent,
            ..Ledger::default()
        };
        if !state.is_empty() && state.try_get_u8().ok()? != FORM {
            return None;
        }
        if !state.is_empty() {
            for _ in 0..state.try_get_u32_le().ok()? {
                let (first, last) = (state.try_get_u64_le().ok()?, state.try_get_u64_le().ok()?);
                ledger.done.push(first, last)?;
            }
            for list in [&mut ledger.released, &mut ledger.odd] {
                for _ in 0..state.try_get_u32_le().ok()? {
                    let serial = state.try_get_u64_le().ok()?;
                    list.push((serial, PacketId::new(state.try_get_u16_le().ok()?)?));
                }
            }
        }
        let known = ledger
            .done
            .last()
            .max(ledger.released.last().map_or(0, |held| held.0));
        ledger.next = ledger.next.max(known + 1);
        Some(ledger)
    }

    /// A restored file: packet identifiers mean nothing to the client any more (D11).
    pub fn forget_identifiers(&mut self) {
        self.released.clear();
        self.odd.clear();
        (self.sent, self.durable_sent, self.taken_sent) = (0, 0, 0);
        self.changed += 1;
    }

    fn encode(&self) -> Vec<u8> {
        let ranges = self.done.as_slice();
        let pairs = self.released.len() + self.odd.len();
        let mut out = Vec::with_capacity(13 + ranges.len() * 16 + pairs * 10);
        out.put_u8(FORM);
        out.put_u32_le(ranges.len() as u32);
        for (first, last) in ranges {
            out.put_u64_le(*first);
            out.put_u64_le(*last);
        }
        for list in [&self.released, &self.odd] {
            out.put_u32_le(list.len() as u32);
            for (serial, id) in list {
                out.put_u64_le(*serial);
                out.put_u16_le(id.get());
            }
        }
        out
    }

    fn grew(&mut self, serial: u64) {
        // Neighbours share a range: one of them stands for all.
        if let Some(last) = self
            .grown
            .last_mut()
            .filter(|last| serial.abs_diff(**last) == 1)
        {
            *last = serial;
        } else if self.grown.len() < MOST_GROWN {
            self.grown.push(serial);
        }
        // Otherwise the file keeps some rows longer than it must: the next change of their range removes them.
    }
}

const FORM: u8 = 1;
/// Ranges that one transaction looks at.
const MOST_GROWN: usize = 1024;

/// Sets of serials as ranges: finished ones are neighbours, nearly always.
#[derive(Debug, Default)]
struct Ranges {
    /// First and last of each, ascending, with a gap between any two.
    ranges: SmallVec<[(u64, u64); 2]>,
}

impl Ranges {
    /// True if it was not there.
    fn insert(&mut self, serial: u64) -> bool {
        // The place of the first range that begins behind it.
        let place = match self.ranges.last() {
            Some(last) if last.0 <= serial => self.ranges.len(),
            _ => self.ranges.partition_point(|range| range.0 <= serial),
        };
        let joins_next = self
            .ranges
            .get(place)
            .is_some_and(|next| next.0 == serial + 1);
        if let Some(before) = place.checked_sub(1).map(|before| &mut self.ranges[before]) {
            if before.1 >= serial {
                return false;
            }
            if before.1 + 1 == serial {
                before.1 = serial;
                if joins_next {
                    self.ranges[place - 1].1 = self.ranges[place].1;
                    self.ranges.remove(place);
                }
                return true;
            }
        }
        if joins_next {
            self.ranges[place].0 = serial;
        } else {
            self.ranges.insert(place, (serial, serial));
        }
        true
    }

    fn contains(&self, serial: u64) -> bool {
        self.around(serial).is_some()
    }

    /// The range that holds it.
    fn around(&self, serial: u64) -> Option<(u64, u64)> {
        let place = self.ranges.partition_point(|range| range.0 <= serial);
        let range = *self.ranges.get(place.checked_sub(1)?)?;
        (range.1 >= serial).then_some(range)
    }

    /// The least serial, from 1, that is not there.
    fn first_gap(&self) -> u64 {
        match self.ranges.first() {
            Some((1, last)) => last + 1,
            _ => 1,
        }
    }

    fn last(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.1)
    }

    /// Adds a range behind all others. `None` if it is not behind them.
    fn push(&mut self, first: u64, last: u64) -> Option<()> {
        let free = self.ranges.last().map_or(1, |range| range.1 + 2);
        (first >= free && last >= first && last < u64::MAX - 1)
            .then(|| self.ranges.push((first, last)))
    }

    fn as_slice(&self) -> &[(u64, u64)] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packet_identifiers_follow_serials_and_never_are_0() {
        assert_eq!(identifier(1).get(), 1);
        assert_eq!(identifier(65_535).get(), 65_535);
        assert_eq!(identifier(65_536).get(), 1);
    }

    #[test]
    fn what_is_recorded_comes_back() {
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            ledger.number();
        }
        ledger.send(6);
        for serial in [1, 2, 4] {
            ledger.finish(serial);
        }
        ledger.release(5, identifier(5));
        ledger.send_as(6, PacketId::MAX);
        let mut rows = Rows::default();
        ledger.record(1, &mut rows);
        assert!(ledger.is_taken());
        let row = ProgressRow {
            next: ledger.next,
            sent: ledger.sent,
            state: ledger.encode(),
        };
        let back = Ledger::restore(&row, 10).unwrap();
        assert_eq!((back.next(), back.sent()), (11, 6));
        assert_eq!(back.released(), [(5, identifier(5))]);
        assert_eq!(back.identifier(6), PacketId::MAX);
        assert_eq!(back.first_in_flight(), Some(3));
        let in_flight: Vec<_> = (1..=10).filter(|s| back.is_in_flight(*s)).collect();
        assert_eq!(in_flight, [3, 6]);
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(serials in proptest::collection::vec(1u64..60, 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for serial in serials {
                prop_assert_eq!(ranges.insert(serial), set.insert(serial));
                let sound = ranges.as_slice().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
                prop_assert!(sound, "{:?}", ranges);
            }
            for serial in 1..61 {
                prop_assert_eq!(ranges.contains(serial), set.contains(&serial));
            }
            prop_assert_eq!(ranges.first_gap(), (1..).find(|serial| !set.contains(serial)).unwrap());
        }

        #[test]
        fn arbitrary_states_are_refused_or_sound(state in proptest::collection::vec(any::<u8>(), 0..80)) {
            let row = ProgressRow { next: 3, sent: 2, state };
            if let Some(ledger) = Ledger::restore(&row, 7) {
                prop_assert!(ledger.next() > 7);
            }
        }
    }
}
