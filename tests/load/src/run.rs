//! What do the clients of one run share? The clock, the phase, the counters, and the window that keeps each publisher
//! within reach of its subscribers. Who sends and receives is left to `publisher` and `subscriber`, when each phase
//! begins to `traffic`.

use hdrhistogram::Histogram;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};

/// Where a run stands. Loss, duplicates and order count from the first message on; everything else only in `Measure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everyone is connected, nothing is sent yet.
    Ready,
    WarmUp,
    Measure,
    /// Nothing new is sent; what is under way may arrive.
    Drain,
    Close,
}

/// State shared by all clients of a run.
pub struct Run {
    /// Marks the payloads of this run; anything else that arrives is counted as unexpected.
    pub id: u32,
    started: Instant,
    /// Whether latencies are recorded.
    pub measuring: AtomicBool,
    pub latencies: Mutex<Latencies>,
    /// Messages received, by subscriber.
    pub delivered: Box<[AtomicU64]>,
    /// When the last message arrived, in [`Run::now`]'s nanoseconds.
    pub last_delivery: AtomicU64,
}

impl Run {
    pub fn new(subscribers: usize) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            id: since_epoch.subsec_nanos()
                ^ (since_epoch.as_secs() as u32).rotate_left(16)
                ^ std::process::id(),
            started: Instant::now(),
            measuring: AtomicBool::new(false),
            latencies: Mutex::new(Latencies::new()),
            delivered: counters(subscribers),
            last_delivery: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    pub fn total_delivered(&self) -> u64 {
        self.delivered
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .sum()
    }
}

/// Latencies from 100 ns to a minute, to three digits.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    const UNIT: u64 = 100;
    const MAX: u64 = 600_000_000;

    pub fn new() -> Self {
        // The bounds are constants that the constructor accepts: see the test.
        Self(Histogram::new_with_bounds(1, Self::MAX, 3).expect("constant bounds"))
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record((nanoseconds / Self::UNIT).max(1));
    }

    /// Microseconds below which the share `quantile` (0 to 1) of all latencies lies; 0 if there are none.
    pub fn microseconds(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 * Self::UNIT as f64 / 1000.0
    }

    pub fn max_microseconds(&self) -> f64 {
        self.0.max() as f64 * Self::UNIT as f64 / 1000.0
    }
}

/// One publisher's window: it sends message n only while n is less than `window` ahead of what its slowest subscriber
/// has received.
pub struct Flow {
    window: u64,
    /// One past the highest number received, by subscriber of this flow.
    received: Box<[AtomicU64]>,
    /// What is below it is given up: no subscriber has made progress for too long.
    floor: AtomicU64,
    /// The progress a waiting publisher needs, `u64::MAX` while none waits.
    need: AtomicU64,
    pub wake: Notify,
    pub sent: AtomicU64,
    /// The publisher has sent all it had to send, and everything is acknowledged.
    pub settled: AtomicBool,
    /// QoS > 0: sent and not yet acknowledged.
    pub unacknowledged: AtomicU64,
}

impl Flow {
    pub fn new(window: u64, subscribers: usize) -> Self {
        Self {
            window,
            received: counters(subscribers),
            floor: AtomicU64::new(0),
            need: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
            sent: AtomicU64::new(0),
            settled: AtomicBool::new(false),
            unacknowledged: AtomicU64::new(0),
        }
    }

    /// How many messages may be sent from number `next` on. After 0, [`Flow::wake`] is notified as soon as an eighth of
    /// the window is free; until then it stays 0, so that a publisher wakes for a batch and not for each message.
    pub fn room(&self, next: u64) -> u64 {
        let need = self.need.load(Ordering::Relaxed);
        if need != u64::MAX && self.progress() < need {
            return 0;
        }
        self.need.store(u64::MAX, Ordering::Relaxed);
        let room = (self.progress() + self.window).saturating_sub(next);
        if room > 0 {
            return room;
        }
        let need = next + (self.window / 8).max(1) - self.window;
        // Announced first, checked again after: a subscriber that misses the announcement is seen here.
        self.need.store(need, Ordering::SeqCst);
        if self.progress() < need {
            0
        } else {
            self.room(next)
        }
    }

    /// The subscriber in `slot` has received everything below `number` that will come.
    pub fn advance(&self, slot: usize, number: u64) {
        let before = self.received[slot].swap(number, Ordering::SeqCst);
        let need = self.need.load(Ordering::SeqCst);
        if before < need && number >= need {
            self.wake.notify_one();
        }
    }

    /// Whether a publisher waits for progress.
    pub fn is_waited_for(&self) -> bool {
        self.need.load(Ordering::SeqCst) != u64::MAX
    }

    /// Sum over all subscribers: whether anything moves.
    pub fn received_in_all(&self) -> u64 {
        self.received
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .sum()
    }

    /// Stops waiting for everything that was sent so far.
    pub fn give_up(&self) {
        self.floor
            .store(self.sent.load(Ordering::SeqCst), Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn progress(&self) -> u64 {
        let slowest = self
            .received
            .iter()
            .map(|n| n.load(Ordering::SeqCst))
            .min()
            .unwrap_or(0);
        slowest.max(self.floor.load(Ordering::SeqCst))
    }
}

/// Ticks at which a client has to send PINGREQ; with keep alive 0 they are so rare that they do no harm.
pub fn ping_ticker(keep_alive: u16) -> Interval {
    let every = if keep_alive == 0 {
        Duration::from_secs(3600)
    } else {
        Duration::from_secs(u64::from(keep_alive)) / 2
    };
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// A set of packet identifiers.
pub struct PacketIds(Box<[u64; 1024]>);

impl PacketIds {
    pub fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    /// False if it was in the set already.
    pub fn insert(&mut self, id: u16) -> bool {
        let (word, bit) = Self::place(id);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// False if it was not in the set.
    pub fn remove(&mut self, id: u16) -> bool {
        let (word, bit) = Self::place(id);
        let was = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        was
    }

    fn place(id: u16) -> (usize, u64) {
        (usize::from(id >> 6), 1 << (id & 63))
    }
}

fn counters(n: usize) -> Box<[AtomicU64]> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_never_gets_further_ahead_than_its_window() {
        let flow = Flow::new(16, 2);
        assert_eq!(flow.room(0), 16);
        assert_eq!(flow.room(10), 6);
        assert_eq!(flow.room(16), 0);
        flow.advance(0, 16);
        assert_eq!(flow.room(16), 0, "the slowest subscriber counts");
        flow.advance(1, 1);
        assert_eq!(
            flow.room(16),
            0,
            "less than an eighth of the window is free"
        );
        flow.advance(1, 2);
        assert_eq!(flow.room(16), 2);
    }

    #[test]
    fn a_window_of_one_opens_with_each_message() {
        let flow = Flow::new(1, 1);
        for n in 0..5 {
            assert_eq!(flow.room(n), 1);
            assert_eq!(flow.room(n + 1), 0);
            flow.advance(0, n + 1);
        }
    }

    #[tokio::test]
    async fn the_progress_a_publisher_waits_for_wakes_it() {
        let flow = Flow::new(8, 1);
        assert_eq!(flow.room(8), 0);
        flow.advance(0, 1);
        tokio::time::timeout(Duration::from_secs(5), flow.wake.notified())
            .await
            .unwrap();
        assert_eq!(flow.room(8), 1);
    }

    #[test]
    fn what_is_given_up_no_longer_closes_the_window() {
        let flow = Flow::new(8, 1);
        flow.sent.store(8, Ordering::SeqCst);
        assert_eq!(flow.room(8), 0);
        assert!(flow.is_waited_for());
        flow.give_up();
        assert_eq!(flow.room(8), 8);
        assert!(!flow.is_waited_for());
    }

    #[test]
    fn latencies_are_kept_to_three_digits_and_saturate() {
        let mut latencies = Latencies::new();
        (1..=1000).for_each(|n| latencies.record(n * 1_000_000));
        assert!((latencies.microseconds(0.5) / 500_000.0 - 1.0).abs() < 0.002);
        assert!((latencies.microseconds(0.99) / 990_000.0 - 1.0).abs() < 0.002);
        latencies.record(u64::MAX);
        assert!(latencies.max_microseconds() >= 59_000_000.0);
    }

    #[test]
    fn packet_identifiers_are_a_set() {
        let mut ids = PacketIds::new();
        for id in [1, 63, 64, u16::MAX] {
            assert!(ids.insert(id));
            assert!(!ids.insert(id));
            assert!(ids.remove(id));
            assert!(!ids.remove(id));
        }
    }
}
