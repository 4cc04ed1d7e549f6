//! When may a client that comes or goes use the processor? Handshakes and logins are the most expensive thing that
//! clients have us do, and in a storm thousands of them are ready to run at once. They take turns for that, so that a
//! client that is connected never waits behind more than a few of them.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

/// The turns: as many at once as there are threads.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Turns(Arc::new(Semaphore::new(threads)))
    }
}

impl Turns {
    /// Runs `work`, each step of which waits for its turn, first come first served. Waiting for the network is no step.
    pub fn take<F: Future>(&self, work: Pin<Box<F>>) -> InTurn<'static, F> {
        InTurn {
            turns: PollSemaphore::new(self.0.clone()),
            work,
            since: None,
            delay: None,
        }
    }

    /// [`Self::take`], and notes how long it waited for turns.
    pub fn take_noting<'a, F: Future>(&self, work: Pin<Box<F>>, delay: &'a Delay) -> InTurn<'a, F> {
        let mut taken: InTurn<'a, F> = self.take(work);
        taken.delay = Some(delay);
        taken
    }
}

/// See [`Turns::take`].
pub struct InTurn<'a, F> {
    turns: PollSemaphore,
    work: Pin<Box<F>>,
    /// Since when it waits for its turn.
    since: Option<Instant>,
    delay: Option<&'a Delay>,
}

/// Time that work waited for its turns.
#[derive(Debug, Default)]
pub struct Delay(AtomicU64);

impl Delay {
    /// So far, once the work is done or dropped.
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }
}

impl<F> InTurn<'_, F> {
    fn note(&mut self) {
        if let (Some(since), Some(delay)) = (self.since.take(), self.delay) {
            let waited = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            delay.0.fetch_add(waited, Relaxed);
        }
    }
}

impl<F> Drop for InTurn<'_, F> {
    fn drop(&mut self) {
        self.note();
    }
}

impl<F: Future> Future for InTurn<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // It is never closed; if it were, nothing would need to wait.
        let Poll::Ready(_turn) = self.turns.poll_acquire(cx) else {
            if self.delay.is_some() {
                self.since.get_or_insert_with(Instant::now);
            }
            return Poll::Pending;
        };
        self.note();
        self.work.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn time_spent_waiting_for_a_turn_is_told_from_time_spent_waiting_for_others() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let (delayed, patient) = (Delay::default(), Delay::default());
        let short = Duration::from_millis(50);
        let slow = turns.take_noting(Box::pin(std::future::pending::<()>()), &patient);
        assert!(tokio::time::timeout(short, slow).await.is_err());
        assert_eq!(patient.get(), Duration::ZERO);
        let all = turns.0.acquire().await.unwrap();
        let waiting = turns.take_noting(Box::pin(async {}), &delayed);
        assert!(tokio::time::timeout(short, waiting).await.is_err());
        assert!(delayed.get() >= short / 2, "{delayed:?}");
        drop(all);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn steps_take_turns_and_waiting_for_something_else_holds_none() {
        let turns = Turns(Arc::new(Semaphore::new(1)));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let step = |now: &AtomicUsize, most: &AtomicUsize| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(Duration::from_micros(50));
            now.fetch_sub(1, SeqCst);
        };
        // All of them are half-way at once: a turn that was kept would stop the others.
        let barrier = Arc::new(tokio::sync::Barrier::new(100));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (now, most, barrier) = (now.clone(), most.clone(), barrier.clone());
            all.spawn(turns.take(Box::pin(async move {
                step(&now, &most);
                barrier.wait().await;
                step(&now, &most);
            })));
        }
        assert_eq!(all.join_all().await.len(), 100);
        assert_eq!(most.load(SeqCst), 1);
        assert_eq!(turns.0.available_permits(), 1);
    }
}
