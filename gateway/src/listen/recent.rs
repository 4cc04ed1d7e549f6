//! What is remembered of those who were here lately, in bounded memory and constant time.

use std::{collections::HashMap, hash::Hash};

/// A table that forgets what was not touched for longest when it is full: two generations, of which the older goes as
/// a whole. At least half of the capacity is always the most recently touched.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Recent {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash + Copy, V> Recent<K, V> {
    /// The value of this key, without keeping it from being forgotten.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// The value of this key, made anew if there is none. The table then has at most `capacity` entries.
    pub fn touch(&mut self, key: K, capacity: usize) -> &mut V
    where
        V: Default,
    {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_default();
            if self.young.len() >= (capacity / 2).max(1) {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(key, value);
        }
        self.young.entry(key).or_default()
    }

    /// [`Self::touch`] for a key that is known; `None` for another, which then stays unknown.
    pub fn touch_known(&mut self, key: K, capacity: usize) -> Option<&mut V>
    where
        V: Default,
    {
        self.peek(&key).is_some().then(|| self.touch(key, capacity))
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.young.iter().chain(&self.old)
    }

    /// Drops the entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.young.retain(&mut keep);
        self.old.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_forgets_what_was_not_touched_for_longest() {
        let mut table = Recent::<u32, u32>::default();
        for key in 0..1_000 {
            *table.touch(key, 100) += 1;
            // Touched again and again: never forgotten.
            *table.touch(0, 100) += 1;
            assert!(table.len() <= 100, "{}", table.len());
        }
        assert_eq!(table.peek(&0), Some(&1_001));
        assert!((951..1_000).all(|key| table.peek(&key) == Some(&1)));
        assert_eq!(table.peek(&800), None);
        assert!(table.touch_known(800, 100).is_none() && table.peek(&800).is_none());
        table.retain(|key, _| *key == 0);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn the_smallest_table_remembers_one() {
        let mut table = Recent::<u32, u32>::default();
        for key in 0..10 {
            *table.touch(key, 0) = key;
            assert_eq!(table.peek(&key), Some(&key));
            assert!(table.len() <= 2);
        }
    }
}
