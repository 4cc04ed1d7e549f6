//! How many questions did one address cause that are not answered? A few at once: whoever presents made-up tokens takes no
//! more than its share, and who leaves before the answer does not get it back earlier. All clients that are away have one
//! share together.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Questions under way, by the address that caused them, or `None` for clients that are away: as many entries as there are
/// questions at most.
#[derive(Debug)]
pub(super) struct Origins {
    under_way: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
    most: usize,
}

impl Origins {
    /// At most `most` at once for each.
    pub fn new(most: usize) -> Origins {
        Origins {
            under_way: Arc::default(),
            most,
        }
    }

    /// One more question of this address, or for a client that is away. Gives `None` if there are as many of that kind as may
    /// be. It counts until what this returns is dropped.
    pub fn enter(&self, origin: Option<IpAddr>) -> Option<Share> {
        let mut all = self.under_way.lock();
        let here = all.entry(origin).or_default();
        if *here >= self.most {
            return None;
        }
        *here += 1;
        let under_way = self.under_way.clone();
        Some(Share { under_way, origin })
    }
}

/// A question of one address.
#[derive(Debug)]
pub(super) struct Share {
    under_way: Arc<Mutex<HashMap<Option<IpAddr>, usize>>>,
    origin: Option<IpAddr>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut all = self.under_way.lock();
        if let Some(here) = all.get_mut(&self.origin) {
            *here -= 1;
            if *here == 0 {
                all.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // I4, N1
    #[test]
    fn one_address_has_a_few_questions_and_its_neighbours_have_theirs() {
        let origins = Origins::new(2);
        let [one, other] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        let (first, _second) = (origins.enter(one), origins.enter(one));
        assert!(first.is_some() && origins.enter(one).is_none());
        let there = origins.enter(other);
        assert!(there.is_some());
        drop(first);
        assert!(origins.enter(one).is_some());
        drop(there);
        assert_eq!(origins.under_way.lock().len(), 1, "nothing is remembered");
    }
}
