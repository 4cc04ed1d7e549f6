//! When may a client that comes or goes use the processor? Handshakes and logins are the most expensive thing that
//! clients have us do, and in a storm thousands of them are ready to run at once. They take turns for that, so that a
//! client that is connected never waits behind more than a few of them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
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
    pub fn take<F: Future>(&self, work: Pin<Box<F>>) -> InTurn<F> {
        InTurn {
            turns: PollSemaphore::new(self.0.clone()),
            work,
        }
    }
}

/// See [`Turns::take`].
pub struct InTurn<F> {
    turns: PollSemaphore,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // It is never closed; if it were, nothing would need to wait.
        let _turn = ready!(self.turns.poll_acquire(cx));
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
