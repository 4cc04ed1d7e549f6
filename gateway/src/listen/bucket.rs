//! How often may an address do something? A token bucket for each, kept as one point in time.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use super::recent::Recent;

/// `burst` at once, and `per_second` more each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Above 0.
    pub per_second: f64,
    /// At least 1.
    pub burst: u32,
}

/// The buckets. One that is forgotten is full again.
#[derive(Debug)]
pub struct Buckets<K>(Recent<K, Bucket>);

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Buckets(Recent::default())
    }
}

/// The instant at which the bucket will be full again (GCRA's theoretical arrival time); `None`: it is full.
#[derive(Debug, Default, Clone, Copy)]
pub struct Bucket(Option<Instant>);

impl Bucket {
    /// Takes a token, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let interval = Duration::from_secs_f64(1.0 / rate.per_second);
        let full = self.0.map_or(now, |full| full.max(now));
        let missing = full - now;
        if missing > interval * (rate.burst - 1) {
            return false;
        }
        self.0 = Some(full + interval);
        true
    }

    /// Gives a token back.
    pub fn put_back(&mut self, rate: Rate) {
        let interval = Duration::from_secs_f64(1.0 / rate.per_second);
        self.0 = self.0.and_then(|full| full.checked_sub(interval));
    }
}

impl<K: Eq + Hash + Copy> Buckets<K> {
    /// Takes a token of `key`, if there is one. At most `capacity` buckets are remembered.
    pub fn take(&mut self, key: K, rate: Rate, now: Instant, capacity: usize) -> bool {
        self.0.touch(key, capacity).take(rate, now)
    }

    /// Gives a token of `key` back, if its bucket is remembered.
    pub fn put_back(&mut self, key: K, rate: Rate, capacity: usize) {
        if let Some(bucket) = self.0.touch_known(key, capacity) {
            bucket.put_back(rate);
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10.0,
        burst: 5,
    };

    #[test]
    fn a_burst_passes_at_once_and_then_as_many_as_the_rate_says() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        let mut take = |millis| {
            let now = start + Duration::from_millis(millis);
            buckets.take("a", RATE, now, 100)
        };
        assert!((0..5).all(|_| take(0)), "the burst");
        assert!(!take(0) && !take(99));
        assert!(take(100) && !take(100), "one after a tenth of a second");
        assert!(!take(199), "what was refused cost nothing");
        assert_eq!((0..100).filter(|_| take(10_000)).count(), 5, "full again");
    }

    #[test]
    fn what_is_put_back_can_be_taken_again_and_no_more_than_that() {
        let mut buckets = Buckets::default();
        let now = Instant::now();
        let take = |buckets: &mut Buckets<_>| buckets.take("a", RATE, now, 100);
        assert_eq!((0..9).filter(|_| take(&mut buckets)).count(), 5);
        buckets.put_back("a", RATE, 100);
        buckets.put_back("b", RATE, 100);
        assert!(take(&mut buckets) && !take(&mut buckets));
        assert_eq!(buckets.len(), 1, "nobody is remembered for it");
    }

    #[test]
    fn each_key_has_its_own_and_their_number_is_bounded() {
        let mut buckets = Buckets::default();
        let now = Instant::now();
        assert!((0..5).all(|_| buckets.take(1, RATE, now, 10)));
        assert!(!buckets.take(1, RATE, now, 10) && buckets.take(2, RATE, now, 10));
        for key in 0..1_000 {
            buckets.take(key, RATE, now, 10);
            assert!(buckets.len() <= 10);
        }
    }
}
