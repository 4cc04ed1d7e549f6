//! Who is next? A queue in which parties take turns: whoever waits with a thousand things delays the others by one.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// A lane for each party, first in, first out; the lanes take turns. Not bounded: the caller asks [`Self::len`] first.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    lanes: HashMap<K, VecDeque<T>>,
    /// The parties with something in their lane, in the order of their turns.
    turns: VecDeque<K>,
    len: usize,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        FairQueue {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<K: Eq + Hash + Copy, T> FairQueue<K, T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, party: K, item: T) {
        let lane = self.lanes.entry(party).or_default();
        if lane.is_empty() {
            self.turns.push_back(party);
        }
        lane.push_back(item);
        self.len += 1;
    }

    /// The oldest item of the party whose turn it is.
    pub fn pop(&mut self) -> Option<(K, T)> {
        self.pop_if(|_| true)
    }

    /// [`Self::pop`] among the parties that `may`; the others keep their turns.
    pub fn pop_if(&mut self, mut may: impl FnMut(&K) -> bool) -> Option<(K, T)> {
        let at = self.turns.iter().position(&mut may)?;
        let party = self.turns.remove(at)?;
        let lane = self.lanes.get_mut(&party)?;
        let item = lane.pop_front()?;
        self.len -= 1;
        if lane.is_empty() {
            self.lanes.remove(&party);
        } else {
            self.turns.push_back(party);
        }
        Some((party, item))
    }

    /// Takes the youngest item of the party that waits with most, if that is more than `party` waits with.
    pub fn displace(&mut self, party: &K) -> Option<T> {
        let own = self.lanes.get(party).map_or(0, VecDeque::len);
        let (largest, count) = self
            .lanes
            .iter()
            .map(|(party, lane)| (*party, lane.len()))
            .max_by_key(|(_, count)| *count)?;
        // With one more, this party would have at most as many as the other after losing one.
        if count <= own + 1 {
            return None;
        }
        self.len -= 1;
        self.lanes.get_mut(&largest)?.pop_back()
    }

    /// Drops the items for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for lane in self.lanes.values_mut() {
            lane.retain(&mut keep);
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        let lanes = &self.lanes;
        self.turns.retain(|party| lanes.contains_key(party));
        self.len = self.lanes.values().map(VecDeque::len).sum();
    }

    pub fn clear(&mut self) {
        self.lanes.clear();
        self.turns.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parties_take_turns_however_much_one_of_them_waits_with() {
        let mut queue = FairQueue::default();
        for n in 0..100 {
            queue.push("a", n);
        }
        queue.push("b", 0);
        queue.push("b", 1);
        queue.push("c", 0);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let first = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)];
        assert_eq!(order[..6], first);
        assert_eq!(order.len(), 103);
        assert!(queue.is_empty() && queue.lanes.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn a_party_that_may_not_go_is_passed_over_and_keeps_its_turn() {
        let mut queue = FairQueue::default();
        for party in ["a", "b", "a"] {
            queue.push(party, ());
        }
        assert_eq!(queue.pop_if(|party| *party != "a"), Some(("b", ())));
        assert_eq!(queue.pop_if(|party| *party != "a"), None);
        assert_eq!((queue.pop(), queue.len()), (Some(("a", ())), 1));
    }

    #[test]
    fn who_waits_with_most_makes_room_for_who_waits_with_less() {
        let mut queue = FairQueue::default();
        for n in 0..3 {
            queue.push("a", n);
        }
        assert_eq!(queue.displace(&"a"), None, "not for itself");
        assert_eq!(queue.displace(&"b"), Some(2), "the youngest");
        queue.push("b", 9);
        assert_eq!(queue.displace(&"b"), None, "two and one are near enough");
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn what_is_dropped_leaves_no_empty_lane() {
        let mut queue = FairQueue::default();
        queue.push("a", 1);
        queue.push("b", 2);
        queue.retain(|n| *n != 1);
        assert_eq!((queue.len(), queue.lanes.len()), (1, 1));
        assert_eq!((queue.pop(), queue.pop()), (Some(("b", 2)), None));
    }
}
