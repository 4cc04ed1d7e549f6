//! What a connection may cost before it has said anything: places for connections, per address and in all, and for
//! TLS handshakes.

use std::{net::IpAddr, sync::Arc};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

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

/// Places for TLS handshakes under way. The limit may change while they run.
#[derive(Default)]
pub struct Handshakes {
    running: Mutex<usize>,
    freed: Notify,
}

/// One handshake's place.
pub struct Place<'a>(&'a Handshakes);

impl Handshakes {
    /// Waits for a place among `limit`.
    pub async fn enter(&self, limit: usize) -> Place<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut running = self.running.lock();
                if *running < limit {
                    *running += 1;
                    return Place(self);
                }
            }
            freed.await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.running.lock() -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

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
    async fn handshakes_wait_for_a_place() {
        let handshakes = Handshakes::default();
        let first = handshakes.enter(1).await;
        let mut second = std::pin::pin!(handshakes.enter(1));
        let waits = std::future::poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending()));
        assert!(waits.await);
        drop(first);
        second.await;
    }
}
