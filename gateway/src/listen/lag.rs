//! Can the gateway take more? Measures how late the event loop is, and says when new connections have to wait: what
//! is connected already comes first.
//!
//! The measure is how much later than it asked for a task gets to run, plus one turn through the queue of tasks that
//! are ready: what any client's message waits too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::metrics::Metrics;

/// What is to be done with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Accept them.
    Accept,
    /// Leave them where they wait, in the kernel: this may be over in a moment.
    Wait,
    /// Close them: it was not over in a moment, and who is told can try again later.
    Close,
}

/// Time between two measurements.
const INTERVAL: Duration = Duration::from_millis(50);
/// As often as the limit in a row, and connections are closed.
const PATIENCE: u32 = 4;

/// Measures for ever. `limit` is asked each time; zero means never to hold anything back.
pub async fn watch(
    verdict: watch::Sender<Verdict>,
    metrics: Arc<Metrics>,
    limit: impl Fn() -> Duration,
) {
    let mut controller = Controller::default();
    loop {
        let before = Instant::now();
        tokio::time::sleep(INTERVAL).await;
        tokio::task::yield_now().await;
        let now = Instant::now();
        let lag = (now - before).saturating_sub(INTERVAL);
        metrics.lag_us.set(lag.as_micros() as u64);
        let decided = controller.decide(lag, limit(), now);
        verdict.send_if_modified(|verdict| {
            let changed = *verdict != decided;
            *verdict = decided;
            changed
        });
    }
}

/// Turns measurements into verdicts.
#[derive(Debug, Default)]
struct Controller {
    /// When the lag rose above the limit.
    since: Option<Instant>,
}

impl Controller {
    fn decide(&mut self, lag: Duration, limit: Duration, now: Instant) -> Verdict {
        // Half of the limit ends it, so that it does not end and begin with every measurement.
        let late = lag >= limit || (self.since.is_some() && lag > limit / 2);
        if limit.is_zero() || !late {
            self.since = None;
            return Verdict::Accept;
        }
        let since = *self.since.get_or_insert(now);
        match now - since >= limit * PATIENCE {
            true => Verdict::Close,
            false => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    struct World {
        controller: Controller,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            World {
                controller: Controller::default(),
                now: Instant::now(),
            }
        }

        /// One measurement, as late as it says.
        fn measure(&mut self, lag: u64) -> Verdict {
            let lag = Duration::from_millis(lag);
            self.now += INTERVAL + lag;
            self.controller.decide(lag, LIMIT, self.now)
        }
    }

    #[test]
    fn a_stall_makes_new_connections_wait_and_only_one_that_lasts_closes_them() {
        let mut world = World::new();
        assert_eq!(world.measure(99), Verdict::Accept);
        assert_eq!(world.measure(5_000), Verdict::Wait, "one stall, over now");
        assert_eq!(world.measure(0), Verdict::Accept);
        let verdicts: Vec<_> = (0..5).map(|_| world.measure(110)).collect();
        let (wait, close) = (Verdict::Wait, Verdict::Close);
        assert_eq!(verdicts, [wait, wait, wait, close, close]);
    }

    #[test]
    fn it_is_over_when_half_of_the_limit_is_kept() {
        let mut world = World::new();
        for _ in 0..10 {
            world.measure(200);
        }
        assert_eq!(world.measure(60), Verdict::Close);
        assert_eq!(world.measure(50), Verdict::Accept);
        assert_eq!(world.measure(60), Verdict::Accept);
    }

    #[test]
    fn a_limit_of_zero_holds_nothing_back() {
        let mut controller = Controller::default();
        let verdict = controller.decide(Duration::from_secs(9), Duration::ZERO, Instant::now());
        assert_eq!(verdict, Verdict::Accept);
    }

    #[tokio::test]
    async fn a_busy_event_loop_is_noticed_and_its_end_too() {
        let (sender, mut verdict) = watch::channel(Verdict::Accept);
        let metrics = Arc::new(Metrics::default());
        let watching = tokio::spawn(watch(sender, metrics.clone(), || LIMIT));
        // This thread is the whole event loop: nothing else runs meanwhile.
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(300));
        verdict.wait_for(|v| *v == Verdict::Wait).await.unwrap();
        assert!(metrics.lag_us.get() >= 100_000);
        verdict.wait_for(|v| *v == Verdict::Accept).await.unwrap();
        watching.abort();
    }
}
