//! The backlog of one session: messages that wait on disk only. From where to where, about how many, how large.
//!
//! Nothing is known of a single message here: some of those between the first serial and the last may be finished or
//! expired. So the range alone says whether there is something to read; counts are for limits and gauges. When the
//! oldest is dropped at a limit, the mean of its neighbours is subtracted; when a page was read, what it held.

use std::collections::VecDeque;

use super::ledger::Ledger;

pub(super) struct Backlog {
    /// The serials of the oldest, or one that is less and finished, and of the youngest: none if `from` is greater.
    from: u64,
    last: u64,
    messages: u64,
    bytes: u64,
    /// Messages and bytes of neighbours, oldest first.
    chunks: VecDeque<(u64, u64)>,
    /// The greatest serial of which the writer knows: those behind it are on their way to it.
    handed_over: u64,
    /// Messages and bytes behind that.
    fresh: (u64, u64),
    /// A page is being read.
    asked: Option<Asked>,
}

/// What a page is read of, and what came behind it since.
#[derive(Clone, Copy)]
struct Asked {
    to: u64,
    messages: u64,
    bytes: u64,
}

/// Messages whose sizes are known together.
const CHUNK: u64 = 64;

impl Default for Backlog {
    fn default() -> Backlog {
        Backlog {
            from: 1,
            last: 0,
            messages: 0,
            bytes: 0,
            chunks: VecDeque::new(),
            handed_over: 0,
            fresh: (0, 0),
            asked: None,
        }
    }
}

impl Backlog {
    pub fn is_empty(&self) -> bool {
        self.from > self.last
    }

    /// About as many as wait.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn from(&self) -> u64 {
        self.from
    }

    pub fn push(&mut self, serial: u64, cost: usize) {
        if self.is_empty() {
            self.set(serial, serial, 0, 0);
        }
        self.last = serial;
        self.messages += 1;
        self.bytes += cost as u64;
        self.fresh = (self.fresh.0 + 1, self.fresh.1 + cost as u64);
        if let Some(asked) = &mut self.asked {
            asked.messages += 1;
            asked.bytes += cost as u64;
        }
        match self.chunks.back_mut().filter(|chunk| chunk.0 < CHUNK) {
            Some(chunk) => *chunk = (chunk.0 + 1, chunk.1 + cost as u64),
            None => self.chunks.push_back((1, cost as u64)),
        }
    }

    /// Messages that were in memory too, older than most others: their serials, ascending, and sizes.
    pub fn put_back(&mut self, kept: &[(u64, usize)]) {
        // A page that was asked for by the connection that has ended is nothing to the next one.
        self.asked = None;
        let (Some((first, _)), Some((last, _))) = (kept.first(), kept.last()) else {
            return;
        };
        if self.is_empty() {
            self.set(*first, *last, 0, 0);
        }
        self.from = self.from.min(*first);
        self.last = self.last.max(*last);
        for (_, cost) in kept.iter().filter(|(serial, _)| *serial > self.handed_over) {
            self.fresh = (self.fresh.0 + 1, self.fresh.1 + *cost as u64);
        }
        for chunk in kept.rchunks(CHUNK as usize) {
            let bytes = chunk.iter().map(|(_, cost)| *cost as u64).sum();
            self.chunks.push_front((chunk.len() as u64, bytes));
            self.messages += chunk.len() as u64;
            self.bytes += bytes;
        }
    }

    /// What a start found on disk.
    pub fn restore(&mut self, from: u64, last: u64, messages: u64, bytes: u64) {
        self.handed_over = last;
        self.set(from, last, messages, bytes);
    }

    /// The serials to read, first and last, unless that is being done.
    pub fn ask(&mut self) -> Option<(u64, u64)> {
        let to = self.handed_over.min(self.last);
        if self.asked.is_some() || self.from > to {
            return None;
        }
        let (messages, bytes) = self.fresh;
        self.asked = Some(Asked {
            to,
            messages,
            bytes,
        });
        Some((self.from, to))
    }

    /// The writer knows of every message up to this serial.
    pub fn hand_over(&mut self, serial: u64) {
        self.handed_over = serial;
        self.fresh = (0, 0);
    }

    pub fn handed_over(&self) -> u64 {
        self.handed_over
    }

    /// What was asked for has come; `next`: where it goes on, `None` if that was all.
    pub fn read(&mut self, messages: u64, bytes: u64, next: Option<u64>) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        match next {
            Some(next) => {
                self.remove(messages, bytes);
                self.from = self.from.max(next);
            }
            // Whatever was counted, only what came since is left.
            None => {
                let from = self.from.max(asked.to + 1);
                self.set(from, self.last, asked.messages, asked.bytes);
            }
        }
    }

    /// What is up to this serial is in flight and does not wait: so many messages of so many bytes.
    pub fn begin_behind(&mut self, sent: u64, messages: u64, bytes: u64) {
        if !self.is_empty() && self.from <= sent {
            self.remove(messages, bytes);
            self.from = sent + 1;
        }
    }

    /// Some have expired and were removed from the disk.
    pub fn swept(&mut self, messages: u64, bytes: u64) {
        self.remove(messages, bytes);
    }

    /// Gives the serial of the oldest that is not in flight, which is to be finished; `None` if there was none after all.
    pub fn drop_oldest(&mut self, ledger: &Ledger) -> Option<u64> {
        // What may have been sent does not wait: its client, or its next connection, has it (D9).
        self.from = self.from.max(ledger.sent() + 1);
        while self.from <= self.last && ledger.is_done(self.from) {
            self.from += 1;
        }
        if self.is_empty() {
            self.set(self.from, self.last, 0, 0);
            return None;
        }
        let serial = self.from;
        self.from += 1;
        let front = self.chunks.front();
        let mean = front.map_or(0, |(count, bytes)| bytes / (*count).max(1));
        self.remove(1, mean);
        Some(serial)
    }

    /// Takes these off the front of the count.
    fn remove(&mut self, mut messages: u64, mut bytes: u64) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.0 > messages {
                *chunk = (chunk.0 - messages, chunk.1.saturating_sub(bytes));
                return;
            }
            messages -= chunk.0;
            bytes = bytes.saturating_sub(chunk.1);
            self.chunks.pop_front();
        }
    }

    fn set(&mut self, from: u64, last: u64, messages: u64, bytes: u64) {
        (self.from, self.last) = (from, last);
        let left = if self.is_empty() {
            (0, 0)
        } else {
            (messages, bytes)
        };
        (self.messages, self.bytes) = left;
        self.chunks.clear();
        if self.messages > 0 {
            self.chunks.push_back(left);
        }
    }
}
