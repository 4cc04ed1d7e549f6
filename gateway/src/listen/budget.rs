//! What a connection may cost before it has said anything: places for connections, per address and in all, and for
//! TLS handshakes.

use std::{net::IpAddr, sync::Arc};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::metrics::Metrics;

/// Counts open connections.
#[derive(Clone)]
pub struct Admissions {
    counts: Arc<Mutex<Counts>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    /// Only addresses with a connection are here: the map is as large as the number of connections at most.
    by_address: HashMap<IpAddr, usize>,
}

/// The place of one connection; given back when dropped.
pub struct Admission {
    admissions: Admissions,
    address: IpAddr,
}

impl Admissions {
    pub fn new(metrics: Arc<Metrics>) -> Admissions {
        Admissions {
            counts: Arc::default(),
            metrics,
        }
    }

    /// A place for a connection from `address`, if neither limit is reached.
    pub fn admit(&self, address: IpAddr, total: usize, per_address: usize) -> Option<Admission> {
        let mut counts = self.counts.lock();
        if counts.total >= total {
            return None;
        }
        let here = counts.by_address.entry(address).or_default();
        if *here >= per_address {
            return None;
        }
        *here += 1;
        counts.total += 1;
        self.metrics.connections.set(counts.total as u64);
        Some(Admission {
            admissions: self.clone(),
            address,
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.admissions.counts.lock();
        counts.total -= 1;
        self.admissions.metrics.connections.set(counts.total as u64);
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// Places for TLS handshakes under way, of which one address gets a part only: a thousand half-open sockets of one
/// machine do not close the door to the others. The limit may change while handshakes run.
#[derive(Default)]
pub struct Handshakes {
    running: Mutex<usize>,
    freed: Notify,
    /// Only addresses with a handshake under way or waiting are here.
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// One address gets this part of the places.
const ADDRESS_SHARE: usize = 4;

/// One handshake's place.
pub struct Place<'a> {
    handshakes: &'a Handshakes,
    /// Whether it counts among those that run, or still waits.
    runs: bool,
    address: IpAddr,
    here: Option<Arc<Semaphore>>,
}

impl Handshakes {
    /// Waits for a place among `limit`.
    pub async fn enter(&self, address: IpAddr, limit: usize) -> Place<'_> {
        let mut place = Place {
            handshakes: self,
            runs: false,
            address,
            here: None,
        };
        let here = {
            let mut by_address = self.by_address.lock();
            let share = || Arc::new(Semaphore::new((limit / ADDRESS_SHARE).max(1)));
            by_address.entry(address).or_insert_with(share).clone()
        };
        place.here = Some(here.clone());
        // It is never closed. What is taken here is given back when the place is dropped.
        let permit = here.acquire().await;
        loop {
            let freed = self.freed.notified();
            {
                let mut running = self.running.lock();
                if *running < limit {
                    *running += 1;
                    place.runs = true;
                    break;
                }
            }
            freed.await;
        }
        if let Ok(permit) = permit {
            permit.forget();
        }
        place
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.runs {
            *self.handshakes.running.lock() -= 1;
            self.handshakes.freed.notify_one();
            self.here.iter().for_each(|here| here.add_permits(1));
        }
        let mut by_address = self.handshakes.by_address.lock();
        let here = self.here.take();
        // The map's and ours: nobody else is here.
        if here.is_some_and(|here| Arc::strong_count(&here) <= 2) {
            by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, task::Poll};

    use super::*;

    #[test]
    fn both_limits_hold_and_a_closed_connection_frees_its_place() {
        let admissions = Admissions::new(Arc::default());
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = admissions.admit(one, 3, 2);
        let second = admissions.admit(one, 3, 2);
        assert!(first.is_some() && second.is_some());
        assert!(admissions.admit(one, 3, 2).is_none(), "per address");
        let third = admissions.admit(two, 3, 2);
        assert!(third.is_some());
        assert!(admissions.admit(two, 3, 2).is_none(), "in all");
        drop(first);
        assert!(admissions.admit(two, 3, 2).is_some());
        drop((second, third));
        assert!(admissions.counts.lock().by_address.is_empty());
    }

    #[tokio::test]
    async fn handshakes_wait_for_a_place_and_one_address_takes_only_its_share() {
        let handshakes = Handshakes::default();
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = handshakes.enter(one, 4).await;
        let mut second = Box::pin(handshakes.enter(one, 4));
        assert!(waits(&mut second).await, "a quarter of four is one");
        let other = handshakes.enter(two, 4).await;
        drop(first);
        let second = second.await;
        let mut third = Box::pin(handshakes.enter(one, 4));
        assert!(waits(&mut third).await);
        drop((third, second, other));
        assert!(
            handshakes.by_address.lock().is_empty(),
            "nothing is left behind"
        );
        assert_eq!(*handshakes.running.lock(), 0);
    }

    async fn waits(future: &mut (impl Future + Unpin)) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
    }
}
