//! How many connections may there be? Places for all of them, for those of one address, and for those of one address
//! that no client has logged in on yet.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use broker_config::Limits;
use parking_lot::{Mutex, MutexGuard};

use super::prefix::Prefix;
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
    /// Those that no client has logged in on, of all addresses.
    connecting: usize,
    /// Only addresses with a connection are here: the map is as large as the number of connections at most.
    by_address: HashMap<Prefix, Here>,
}

#[derive(Default)]
struct Here {
    open: usize,
    /// Those of them that no client has logged in on.
    connecting: usize,
}

/// The place of one connection; given back when dropped.
pub struct Admission {
    admissions: Admissions,
    /// Whose it is. Behind a proxy that is known a little later.
    address: Option<Prefix>,
    connecting: AtomicBool,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("there are limits.max_connections")]
    Total,
    #[error("there are limits.max_connections_per_address")]
    Address,
    #[error("there are limits.max_connecting_per_address")]
    Connecting,
    #[error("half of limits.max_connections have no login yet")]
    AllConnecting,
}

impl Admissions {
    pub fn new(metrics: Arc<Metrics>) -> Admissions {
        Admissions {
            counts: Arc::default(),
            metrics,
        }
    }

    /// A place among all, for a connection whose address is not known yet: [`Admission::settle`] it.
    pub fn admit(&self, limits: &Limits) -> Result<Admission, Full> {
        let mut counts = self.counts.lock();
        if counts.total >= limits.max_connections {
            return Err(Full::Total);
        }
        counts.total += 1;
        self.metrics.connections.set(counts.total as u64);
        Ok(Admission {
            admissions: self.clone(),
            address: None,
            connecting: AtomicBool::new(true),
        })
    }
}

impl Admission {
    /// Takes one of the places of this address too.
    pub fn settle(&mut self, address: Prefix, limits: &Limits) -> Result<(), Full> {
        let mut counts = self.admissions.counts.lock();
        let here = counts.by_address.get(&address);
        let (open, connecting) = here.map_or((0, 0), |here| (here.open, here.connecting));
        if open >= limits.max_connections_per_address {
            return Err(Full::Address);
        }
        if connecting >= limits.max_connecting_per_address {
            return Err(Full::Connecting);
        }
        // However many addresses say nothing, they cannot have every place.
        if counts.connecting >= limits.max_connections.div_ceil(2) {
            return Err(Full::AllConnecting);
        }
        counts.connecting += 1;
        let here = counts.by_address.entry(address).or_default();
        here.open += 1;
        here.connecting += 1;
        drop(counts);
        self.address = Some(address);
        Ok(())
    }

    /// A client has logged in.
    pub fn connected(&self) {
        let mut counts = self.admissions.counts.lock();
        self.leave_connecting(&mut counts);
    }

    fn leave_connecting(&self, counts: &mut MutexGuard<'_, Counts>) {
        if let Some(address) = self.address
            && self.connecting.swap(false, Relaxed)
        {
            counts.connecting -= 1;
            if let Some(here) = counts.by_address.get_mut(&address) {
                here.connecting -= 1;
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.admissions.counts.lock();
        self.leave_connecting(&mut counts);
        counts.total -= 1;
        self.admissions.metrics.connections.set(counts.total as u64);
        if let Some(address) = self.address
            && let Some(here) = counts.by_address.get_mut(&address)
        {
            here.open -= 1;
            if here.open == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn limits(total: usize, address: usize, connecting: usize) -> Limits {
        Limits {
            max_connections: total,
            max_connections_per_address: address,
            max_connecting_per_address: connecting,
            ..Limits::default()
        }
    }

    fn admit(admissions: &Admissions, last: u8, limits: &Limits) -> Result<Admission, Full> {
        let mut admission = admissions.admit(limits)?;
        admission.settle(IpAddr::from([127, 0, 0, last]).into(), limits)?;
        Ok(admission)
    }

    #[test]
    fn connections_are_limited_in_all_and_by_address() {
        let admissions = Admissions::new(Arc::default());
        let limits = limits(3, 2, 9);
        let first = admit(&admissions, 1, &limits).inspect(Admission::connected);
        let second = admit(&admissions, 1, &limits).inspect(Admission::connected);
        assert!(first.is_ok() && second.is_ok());
        let full = admit(&admissions, 1, &limits).err();
        assert_eq!(full, Some(Full::Address));
        let third = admit(&admissions, 2, &limits);
        assert!(third.is_ok(), "what was refused holds no place");
        let full = admit(&admissions, 2, &limits).err();
        assert_eq!(full, Some(Full::Total));
        drop(first);
        assert!(admit(&admissions, 2, &limits).is_ok());
        drop((second, third));
        assert!(admissions.counts.lock().by_address.is_empty());
        assert_eq!(admissions.counts.lock().total, 0);
    }

    #[test]
    fn who_has_not_logged_in_holds_a_place_of_its_own_kind() {
        let admissions = Admissions::new(Arc::default());
        let limits = limits(9, 9, 2);
        let first = admit(&admissions, 1, &limits).unwrap();
        let second = admit(&admissions, 1, &limits).unwrap();
        let full = admit(&admissions, 1, &limits).err();
        assert_eq!(full, Some(Full::Connecting));
        first.connected();
        first.connected();
        let third = admit(&admissions, 1, &limits).unwrap();
        let full = admit(&admissions, 1, &limits).err();
        assert_eq!(full, Some(Full::Connecting), "once for each");
        drop((first, second));
        assert!(admit(&admissions, 1, &limits).is_ok());
        drop(third);
        assert!(admissions.counts.lock().by_address.is_empty());
    }

    #[test]
    fn addresses_that_do_not_log_in_have_half_of_all_places_together() {
        let admissions = Admissions::new(Arc::default());
        let limits = limits(4, 9, 9);
        let silent: Vec<_> = (1..3).map(|n| admit(&admissions, n, &limits)).collect();
        assert!(silent.iter().all(Result::is_ok));
        let full = admit(&admissions, 3, &limits).err();
        assert_eq!(full, Some(Full::AllConnecting));
        silent[0].as_ref().unwrap().connected();
        let third = admit(&admissions, 3, &limits);
        assert!(third.is_ok());
        drop((silent, third));
        assert_eq!(admissions.counts.lock().connecting, 0);
        assert_eq!(admissions.counts.lock().total, 0);
    }
}
