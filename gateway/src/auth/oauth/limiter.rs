//! How often may an issuer be asked? A bucket of permits that fills evenly.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

#[derive(Debug)]
pub(super) struct Limiter {
    per_second: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl Limiter {
    /// Full at the beginning. `per_second` is above 0, `burst` is 1 or more.
    pub fn new(per_second: f64, burst: f64) -> Limiter {
        Limiter {
            per_second,
            burst,
            state: Mutex::new((burst, Instant::now())),
        }
    }

    /// Takes a permit, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.reserve(now, Duration::ZERO, 0.0).is_some()
    }

    /// Takes a permit that will be there after the time given, if that is no longer than `patience`; leaves a part `kept` of
    /// the bucket to others, but never so much that no permit is left.
    pub fn reserve(&self, now: Instant, patience: Duration, kept: f64) -> Option<Duration> {
        let mut state = self.state.lock();
        let (permits, at) = &mut *state;
        let passed = now.saturating_duration_since(*at).as_secs_f64();
        *permits = (*permits + passed * self.per_second).min(self.burst);
        *at = now.max(*at);
        let kept = (kept * self.burst).min(self.burst - 1.0);
        let missing = 1.0 + kept - *permits;
        let wait = Duration::from_secs_f64(missing.max(0.0) / self.per_second);
        if wait > patience {
            return None;
        }
        *permits -= 1.0;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // I4
    #[test]
    fn permits_come_evenly_and_who_waits_has_reserved_his() {
        let limiter = Limiter::new(10.0, 2.0);
        let start = Instant::now();
        assert!(limiter.take(start) && limiter.take(start) && !limiter.take(start));
        let later = start + Duration::from_millis(100);
        assert!(limiter.take(later) && !limiter.take(later));
        let patience = Duration::from_millis(250);
        let waits: Vec<_> = (0..3)
            .map(|_| limiter.reserve(later, patience, 0.0))
            .collect();
        let close = |wait: Option<Duration>, millis: u64| {
            wait.is_some_and(|wait| {
                wait.abs_diff(Duration::from_millis(millis)) < Duration::from_millis(2)
            })
        };
        assert!(close(waits[0], 100) && close(waits[1], 200), "{waits:?}");
        assert_eq!(waits[2], None);
        assert!(
            !limiter.take(later + Duration::from_millis(100)),
            "those are taken"
        );
        // What is kept is for those who may take all.
        let limiter = Limiter::new(10.0, 4.0);
        let start = Instant::now();
        let first = (0..4).filter(|_| limiter.reserve(start, Duration::ZERO, 0.25).is_some());
        assert_eq!(first.count(), 3);
        assert!(limiter.take(start) && !limiter.take(start));
        // Of one permit nothing can be kept.
        let limiter = Limiter::new(1.0, 1.0);
        let start = Instant::now();
        let first = || limiter.reserve(start, Duration::ZERO, 0.5).is_some();
        assert!(first() && !first());
    }
}
