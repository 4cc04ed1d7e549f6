//! How long may it take? Deadlines for everything a test waits for; no test sleeps for a fixed time instead.

use std::future::Future;
use std::time::{Duration, Instant};

/// The deadline of a single answer. Generous, because the machine may be busy: it only bounds failures.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Awaits `future`, panicking with `what` after [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_time(what, DEADLINE, future).await
}

/// Awaits `future`, panicking with `what` after `deadline`.
pub async fn within_time<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(deadline, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {deadline:?} in vain for {what}"),
    }
}

/// Asks `condition` again and again until it is true, panicking with `what` after [`DEADLINE`].
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks `attempt` again and again until it yields a value, panicking with `what` after [`DEADLINE`].
pub async fn until_some<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
