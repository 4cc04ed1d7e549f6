//! Passwords that were verified in this process, as keyed MACs: a network break then costs microseconds, not hashes.

use std::sync::Arc;

use aws_lc_rs::{constant_time, hmac, rand};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::AuthError;

/// The last password each name was verified with, under a key that lives as long as this process (I3).
///
/// The MAC covers name, stored hash and password: when the stored hash changes, what is remembered is worth nothing.
/// It is no account state: whether the user is disabled must be read on every login.
#[derive(Debug)]
pub(super) struct PasswordCache {
    key: hmac::Key,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    by_name: HashMap<Arc<str>, Entry>,
    capacity: usize,
    /// Counts uses; the entry with the lowest count goes first.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    mac: hmac::Tag,
    used: u64,
}

impl PasswordCache {
    /// Remembers at most `capacity` names; 0 remembers nothing.
    pub fn new(capacity: usize) -> Result<Self, AuthError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| AuthError::Random)?;
        Ok(PasswordCache {
            key,
            entries: Mutex::new(Entries {
                by_name: HashMap::new(),
                capacity,
                clock: 0,
            }),
        })
    }

    /// Whether this very password was verified for this name and stored hash before.
    pub fn knows(&self, name: &str, phc: &str, password: &[u8]) -> bool {
        let mac = self.mac(name, phc, password);
        let mut entries = self.entries.lock();
        entries.clock += 1;
        let clock = entries.clock;
        let Some(entry) = entries.by_name.get_mut(name) else {
            return false;
        };
        let known =
            constant_time::verify_slices_are_equal(entry.mac.as_ref(), mac.as_ref()).is_ok();
        if known {
            entry.used = clock;
        }
        known
    }

    /// Remembers a password that was just verified.
    pub fn remember(&self, name: &Arc<str>, phc: &str, password: &[u8]) {
        let mac = self.mac(name, phc, password);
        let mut entries = self.entries.lock();
        entries.clock += 1;
        let used = entries.clock;
        if !entries.by_name.contains_key(name) {
            let capacity = entries.capacity;
            entries.shrink_to(capacity.saturating_sub(1));
            if capacity == 0 {
                return;
            }
        }
        entries.by_name.insert(name.clone(), Entry { mac, used });
    }

    pub fn resize(&self, capacity: usize) {
        let mut entries = self.entries.lock();
        entries.capacity = capacity;
        entries.shrink_to(capacity);
    }

    fn mac(&self, name: &str, phc: &str, password: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), phc.as_bytes(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

impl Entries {
    /// Drops the entries that were not used for longest. A scan, but one that follows a hash of 20 ms.
    fn shrink_to(&mut self, length: usize) {
        while self.by_name.len() > length {
            let oldest = self
                .by_name
                .iter()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(name, _)| name.clone());
            let Some(name) = oldest else { return };
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // I3
    #[test]
    fn only_the_same_name_hash_and_password_are_known() {
        let cache = PasswordCache::new(10).unwrap();
        cache.remember(&"ann".into(), "hash", b"secret");
        assert!(cache.knows("ann", "hash", b"secret"));
        assert!(!cache.knows("bob", "hash", b"secret"));
        assert!(
            !cache.knows("ann", "other", b"secret"),
            "the stored hash changed"
        );
        assert!(!cache.knows("ann", "hash", b"secre"));
        assert!(
            !cache.knows("ann", "hashs", b"ecret"),
            "parts do not run into each other"
        );
    }

    #[test]
    fn keys_are_each_process_its_own() {
        let (one, other) = (
            PasswordCache::new(1).unwrap(),
            PasswordCache::new(1).unwrap(),
        );
        assert_ne!(
            one.mac("a", "b", b"c").as_ref(),
            other.mac("a", "b", b"c").as_ref()
        );
    }

    #[test]
    fn the_name_used_longest_ago_makes_room() {
        let cache = PasswordCache::new(2).unwrap();
        for name in ["a", "b"] {
            cache.remember(&name.into(), "h", b"p");
        }
        assert!(cache.knows("a", "h", b"p"));
        assert!(!cache.knows("b", "h", b"wrong"), "a failure is no use");
        cache.remember(&"c".into(), "h", b"p");
        assert!(
            cache.knows("a", "h", b"p")
                && cache.knows("c", "h", b"p")
                && !cache.knows("b", "h", b"p")
        );
        cache.resize(1);
        assert!(cache.knows("c", "h", b"p") && !cache.knows("a", "h", b"p"));
        cache.resize(0);
        cache.remember(&"d".into(), "h", b"p");
        assert!(!cache.knows("c", "h", b"p") && !cache.knows("d", "h", b"p"));
    }
}
