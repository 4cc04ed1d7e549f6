//! One question at a time about each thing: who asks while the same question is under way gets its answer.

use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hashbrown::HashMap;
use parking_lot::Mutex;

type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

/// Questions under way, by what they are about.
pub(super) struct Flights<K, T: Clone> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    most: usize,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// As many questions as may be are under way.
    Full,
    /// The question was not begun.
    NotBegun,
    /// The one who asked died.
    Died,
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Copy + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// At most `most` at once.
    pub fn new(most: usize) -> Self {
        Flights {
            under_way: Arc::default(),
            most,
        }
    }

    /// The answer about `key`: of the question under way, or of the one that `begin` gives, which goes on even if nobody waits
    /// for it any more. `begin` is asked only where there is room, `kept` places being left to others; it must not block.
    pub async fn join<F>(
        &self,
        key: K,
        kept: usize,
        begin: impl FnOnce() -> Option<F>,
    ) -> Result<T, Lost>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut under_way = self.under_way.lock();
            match under_way.get(&key) {
                Some(flight) => flight.clone(),
                None if under_way.len() + kept >= self.most => return Err(Lost::Full),
                None => {
                    let question = begin().ok_or(Lost::NotBegun)?;
                    let landing = Landing {
                        under_way: self.under_way.clone(),
                        key,
                    };
                    let task = tokio::spawn(async move {
                        let _landing = landing;
                        question.await
                    });
                    let flight = task.map(Result::ok).boxed().shared();
                    under_way.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await.ok_or(Lost::Died)
    }

    #[cfg(test)]
    pub fn is_under_way(&self, key: &K) -> bool {
        self.under_way.lock().contains_key(key)
    }
}

/// Ends the flight, however it ends.
struct Landing<K: Hash + Eq, T: Clone> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
}

impl<K: Hash + Eq, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        // Not under the lock: the last share of the flight may go with it.
        let flight = self.under_way.lock().remove(&self.key);
        drop(flight);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    // I4
    #[tokio::test]
    async fn concurrent_questions_about_one_thing_are_one_and_their_number_is_bounded() {
        let flights = Arc::new(Flights::<u8, u32>::new(2));
        let (asked, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let ask = |key: u8| {
            let (flights, asked, gate) = (flights.clone(), asked.clone(), gate.clone());
            tokio::spawn(async move {
                let question = async move {
                    let number = asked.fetch_add(1, Ordering::SeqCst);
                    let _ = gate.acquire().await;
                    number
                };
                flights.join(key, 0, || Some(question)).await
            })
        };
        let waiting: Vec<_> = (0..50).map(|_| ask(1)).collect();
        let other = ask(2);
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(3).await.unwrap(), Err(Lost::Full));
        // Nobody waits for it: it goes on.
        other.abort();
        gate.add_permits(100);
        let mut answers = Vec::new();
        for one in waiting {
            answers.push(one.await.unwrap());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        while flights.is_under_way(&2) || flights.is_under_way(&1) {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert_eq!(ask(1).await.unwrap(), Ok(2), "what is over is asked anew");
    }

    // I4
    #[tokio::test]
    async fn some_places_are_left_to_others_and_without_one_nothing_is_begun() {
        let flights = Arc::new(Flights::<u8, u32>::new(3));
        let gate = Arc::new(Semaphore::new(0));
        let begun = AtomicU32::new(0);
        let ask = |key: u8, kept: usize| {
            flights.join(key, kept, || {
                begun.fetch_add(1, Ordering::SeqCst);
                let gate = gate.clone();
                Some(async move { gate.acquire().await.map_or(0, |_| 1) })
            })
        };
        let mut waiting: Vec<_> = [ask(1, 1), ask(2, 1)].into_iter().map(Box::pin).collect();
        for one in &mut waiting {
            assert!(one.now_or_never().is_none());
        }
        assert_eq!(ask(3, 1).await, Err(Lost::Full));
        assert_eq!(begun.load(Ordering::SeqCst), 2, "it costs nothing");
        let mut kept = Box::pin(ask(3, 0));
        assert!((&mut kept).now_or_never().is_none(), "there is a place");
        assert_eq!(ask(4, 0).await, Err(Lost::Full));
        gate.add_permits(10);
        assert_eq!(kept.await, Ok(1));
        let never = || None::<std::future::Ready<u32>>;
        while flights.is_under_way(&1) || flights.is_under_way(&2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(flights.join(5, 0, never).await, Err(Lost::NotBegun));
        assert!(!flights.is_under_way(&5));
    }

    #[tokio::test]
    async fn a_question_that_dies_is_over() {
        let flights = Flights::<u8, u32>::new(1);
        let died = flights
            .join(1, 0, || Some(async { panic!("a test") }))
            .await;
        assert_eq!(died, Err(Lost::Died));
        assert_eq!(flights.join(2, 0, || Some(async { 7 })).await, Ok(7));
    }
}
