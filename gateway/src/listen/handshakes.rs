//! Which TLS handshakes go on? Places for those whose ClientHello has come: a socket that says nothing holds none. One
//! address gets a part of them only, addresses take turns for the rest, and a client that stalls half-way loses its
//! place to who waits.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::prefix::Prefix;
use crate::fair_queue::FairQueue;

/// The places. The limit may change while handshakes run.
#[derive(Default)]
pub struct Handshakes {
    state: Arc<Mutex<State>>,
}

/// One address gets this part of the places.
const ADDRESS_SHARE: usize = 4;

#[derive(Default)]
struct State {
    limit: usize,
    next: u64,
    /// By age.
    running: BTreeMap<u64, Running>,
    /// Only addresses with a handshake that runs are here.
    by_address: HashMap<Prefix, usize>,
    waiting: FairQueue<Prefix, oneshot::Sender<Place>>,
}

struct Running {
    started: Instant,
    address: Prefix,
    stalled: Arc<Notify>,
    told: bool,
}

/// One handshake's place; given back when dropped.
pub struct Place {
    state: Arc<Mutex<State>>,
    /// `None` once it was given back.
    number: Option<u64>,
    stalled: Arc<Notify>,
}

impl Handshakes {
    /// Waits for a place among `limit`. Who has had one for longer than `patience` may be made to leave.
    pub async fn enter(&self, address: Prefix, limit: usize, patience: Duration) -> Place {
        let place = {
            let mut state = self.state.lock();
            state.limit = limit.max(1);
            if state.has_room(&address) {
                return state.start(address, &self.state);
            }
            let (grant, place) = oneshot::channel();
            state.waiting.push(address, grant);
            place
        };
        let mut place = pin!(place);
        loop {
            let next = tokio::time::Instant::from_std(self.tell_stalled(address, patience));
            tokio::select! {
                granted = &mut place => match granted {
                    Ok(place) => return place,
                    // The sender is in the queue, which lives as long as `self`.
                    Err(_) => std::future::pending().await,
                },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Tells the oldest handshake that stands in the way to leave, if it has had its time; when to ask again.
    fn tell_stalled(&self, address: Prefix, patience: Duration) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_full = state.running.len() >= state.limit;
        let mut in_the_way = state
            .running
            .values_mut()
            .filter(|running| !running.told && (is_full || running.address == address));
        match in_the_way.next() {
            Some(oldest) if oldest.started + patience <= now => {
                oldest.told = true;
                oldest.stalled.notify_one();
                now + Duration::from_millis(10)
            }
            Some(oldest) => oldest.started + patience,
            None => now + patience,
        }
    }
}

impl Place {
    /// Returns when somebody waits for this place and its holder has had its time.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else {
            return;
        };
        self.state.lock().finish(number);
        // One at a time, and never with the lock: a place that nobody takes any more is given back here.
        while let Some((grant, place)) = next(&self.state) {
            if let Err(mut place) = grant.send(place)
                && let Some(number) = place.number.take()
            {
                self.state.lock().finish(number);
            }
        }
    }
}

fn next(shared: &Arc<Mutex<State>>) -> Option<(oneshot::Sender<Place>, Place)> {
    let mut guard = shared.lock();
    let state = &mut *guard;
    if state.running.len() >= state.limit {
        return None;
    }
    let share = state.share();
    let by_address = &state.by_address;
    let has_share = |address: &Prefix| by_address.get(address).is_none_or(|here| *here < share);
    let (address, grant) = state.waiting.pop_if(has_share)?;
    Some((grant, state.start(address, shared)))
}

impl State {
    fn share(&self) -> usize {
        (self.limit / ADDRESS_SHARE).max(1)
    }

    fn has_room(&self, address: &Prefix) -> bool {
        let here = self.by_address.get(address).copied().unwrap_or_default();
        self.running.len() < self.limit && here < self.share()
    }

    fn start(&mut self, address: Prefix, shared: &Arc<Mutex<State>>) -> Place {
        let (number, stalled) = (self.next, Arc::new(Notify::new()));
        self.next += 1;
        *self.by_address.entry(address).or_default() += 1;
        let running = Running {
            started: Instant::now(),
            address,
            stalled: stalled.clone(),
            told: false,
        };
        self.running.insert(number, running);
        Place {
            state: shared.clone(),
            number: Some(number),
            stalled,
        }
    }

    fn finish(&mut self, number: u64) {
        let Some(running) = self.running.remove(&number) else {
            return;
        };
        if let Some(here) = self.by_address.get_mut(&running.address) {
            *here -= 1;
            if *here == 0 {
                self.by_address.remove(&running.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, net::IpAddr, pin::Pin, task::Poll};

    use futures_util::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn address(last: u8) -> Prefix {
        IpAddr::from([127, 0, 0, last]).into()
    }

    async fn waits(future: &mut (impl Future + Unpin)) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn handshakes_wait_for_a_place_and_one_address_takes_only_its_share() {
        let handshakes = Handshakes::default();
        let first = handshakes.enter(address(1), 4, LONG).await;
        let mut second = Box::pin(handshakes.enter(address(1), 4, LONG));
        assert!(waits(&mut second).await, "a quarter of four is one");
        let other = handshakes.enter(address(2), 4, LONG).await;
        drop(first);
        let second = second.await;
        let mut third = Box::pin(handshakes.enter(address(1), 4, LONG));
        assert!(waits(&mut third).await);
        drop((third, second, other));
        let state = handshakes.state.lock();
        assert!(state.running.is_empty() && state.by_address.is_empty());
    }

    #[tokio::test]
    async fn addresses_take_turns_however_many_of_one_wait() {
        let handshakes = Handshakes::default();
        let running = handshakes.enter(address(1), 1, LONG).await;
        let mut many: Vec<_> = (0..50)
            .map(|_| Box::pin(handshakes.enter(address(1), 1, LONG)))
            .collect();
        for one in &mut many {
            assert!(waits(one).await);
        }
        let mut other = Box::pin(handshakes.enter(address(2), 1, LONG));
        assert!(waits(&mut other).await);
        drop(running);
        let first = many.remove(0).now_or_never().expect("it came first");
        assert!(waits(&mut other).await);
        drop(first);
        assert!(other.now_or_never().is_some(), "not behind the other 49");
    }

    #[tokio::test]
    async fn places_of_those_who_left_while_they_waited_go_to_the_next() {
        let handshakes = Handshakes::default();
        let running = handshakes.enter(address(1), 1, LONG).await;
        let mut left: Vec<_> = (0..10_000)
            .map(|_| Box::pin(handshakes.enter(address(2), 1, LONG)))
            .collect();
        for one in &mut left {
            assert!(waits(one).await);
        }
        let mut last = Box::pin(handshakes.enter(address(2), 1, LONG));
        assert!(waits(&mut last).await);
        drop(left);
        drop(running);
        drop(last.now_or_never().expect("the only one still there"));
        assert!(handshakes.state.lock().running.is_empty());
    }

    #[tokio::test]
    async fn who_stalls_loses_its_place_to_who_waits() {
        let handshakes = Handshakes::default();
        let patience = Duration::from_millis(1);
        let stalled = handshakes.enter(address(1), 1, patience).await;
        assert!(stalled.stalled().now_or_never().is_none(), "nobody waits");
        let leaving = async {
            stalled.stalled().await;
            drop(stalled);
        };
        let (place, ()) = tokio::join!(handshakes.enter(address(2), 1, patience), leaving);
        assert!(place.stalled().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_larger_limit_lets_more_in_at_once() {
        let handshakes = Handshakes::default();
        let places = [
            handshakes.enter(address(1), 1, LONG).await,
            handshakes.enter(address(1), 8, LONG).await,
        ];
        assert_eq!(handshakes.state.lock().running.len(), places.len());
    }
}
