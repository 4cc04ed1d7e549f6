//! Stock: which sessions may have messages on disk, and from which serial to which.
//!
//! What clients acknowledge is mostly not on disk, or not any more: this saves a search for each acknowledgement. It
//! may say too much (a transaction that failed), never too little.

use hashbrown::HashMap;

use super::rows::SessionKey;

#[derive(Debug, Default)]
pub(super) struct Stock {
    sessions: HashMap<SessionKey, (u64, u64)>,
}

impl Stock {
    pub(super) fn add(&mut self, session: SessionKey, first: u64, last: u64) {
        let bounds = self.sessions.entry(session).or_insert((first, last));
        *bounds = (bounds.0.min(first), bounds.1.max(last));
    }

    pub(super) fn holds(&self, session: SessionKey) -> bool {
        self.sessions.contains_key(&session)
    }

    pub(super) fn overlaps(&self, session: SessionKey, first: u64, last: u64) -> bool {
        let bounds = self.sessions.get(&session);
        bounds.is_some_and(|bounds| first <= bounds.1 && last >= bounds.0)
    }

    /// These are gone for certain.
    pub(super) fn done(&mut self, session: SessionKey, first: u64, last: u64) {
        let Some(bounds) = self.sessions.get_mut(&session) else {
            return;
        };
        if first <= bounds.0 && last >= bounds.1 {
            self.sessions.remove(&session);
        } else if first <= bounds.0 {
            bounds.0 = bounds.0.max(last.saturating_add(1));
        } else if last >= bounds.1 {
            bounds.1 = bounds.1.min(first - 1);
        }
    }

    pub(super) fn ended(&mut self, session: SessionKey) {
        self.sessions.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_is_what_may_be_there() {
        let mut stock = Stock::default();
        stock.add(1, 10, 20);
        stock.add(1, 21, 30);
        assert!(stock.overlaps(1, 1, 10) && stock.overlaps(1, 30, 40) && stock.overlaps(1, 1, 40));
        assert!(
            !stock.overlaps(1, 1, 9) && !stock.overlaps(1, 31, 40) && !stock.overlaps(2, 1, 40)
        );
        stock.done(1, 1, 12);
        assert!(!stock.overlaps(1, 1, 12) && stock.overlaps(1, 13, 13));
        stock.done(1, 15, 20);
        assert!(stock.overlaps(1, 16, 16), "a hole is not remembered");
        stock.done(1, 25, 40);
        assert!(!stock.overlaps(1, 25, 30) && stock.overlaps(1, 24, 24));
        stock.done(1, 1, 24);
        assert!(!stock.holds(1));
    }
}
