//! Answers about tokens that were given before, by the SHA-256 of the token: no token is kept here (I4).

use std::time::Instant;

use hashbrown::HashMap;

use super::introspection::Answer;

/// A bounded number of answers; those not used for longest make room.
pub(super) struct Answers {
    by_digest: HashMap<[u8; 32], Entry>,
    capacity: usize,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    answer: Answer,
    until: Instant,
    used: u64,
}

impl Answers {
    /// At most `capacity`; 0 remembers nothing.
    pub fn new(capacity: usize) -> Answers {
        Answers {
            by_digest: HashMap::new(),
            capacity,
            clock: 0,
        }
    }

    pub fn find(&mut self, digest: &[u8; 32], now: Instant) -> Option<Answer> {
        self.clock += 1;
        let entry = self.by_digest.get_mut(digest)?;
        if entry.until <= now {
            self.by_digest.remove(digest);
            return None;
        }
        entry.used = self.clock;
        Some(entry.answer.clone())
    }

    pub fn insert(&mut self, digest: [u8; 32], answer: Answer, until: Instant) {
        if self.capacity == 0 {
            return;
        }
        if self.by_digest.len() >= self.capacity && !self.by_digest.contains_key(&digest) {
            self.make_room();
        }
        self.clock += 1;
        let used = self.clock;
        let entry = Entry {
            answer,
            until,
            used,
        };
        self.by_digest.insert(digest, entry);
    }

    /// A scan, but one that follows a question to an issuer; an eighth goes at once. Tokens that do not count go first: anybody
    /// can make those up.
    fn make_room(&mut self) {
        let now = Instant::now();
        self.by_digest.retain(|_, entry| entry.until > now);
        let spare = self.capacity - (self.capacity / 8).max(1);
        if self.by_digest.len() <= spare {
            return;
        }
        let rank = |entry: &Entry| (entry.answer.claims.is_some(), entry.used);
        let mut ranks: Vec<_> = self.by_digest.values().map(rank).collect();
        ranks.sort_unstable();
        let least = ranks[ranks.len() - spare.max(1)];
        let keep = |entry: &Entry| spare > 0 && rank(entry) >= least;
        self.by_digest.retain(|_, entry| keep(entry));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn answer(active: bool) -> Answer {
        Answer {
            claims: active.then(Arc::default),
            at: Instant::now(),
        }
    }

    // I4
    #[test]
    fn answers_are_bounded_and_end_and_made_up_tokens_displace_none_that_counts() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3_600));
        let mut answers = Answers::new(100);
        for n in 0..60u8 {
            answers.insert([n; 32], answer(true), now + hour);
        }
        for n in 0..10_000u32 {
            let mut digest = [255; 32];
            digest[..4].copy_from_slice(&n.to_le_bytes());
            answers.insert(digest, answer(false), now + hour);
            assert!(answers.by_digest.len() <= 100);
        }
        assert!((0..60u8).all(|n| answers.find(&[n; 32], now).is_some()));
        assert!(answers.find(&[0; 32], now + hour).is_none());
        assert!(
            answers.find(&[0; 32], now).is_none(),
            "what has ended is forgotten"
        );

        let mut few = Answers::new(1);
        few.insert([1; 32], answer(true), now + hour);
        few.insert([2; 32], answer(true), now + hour);
        assert!(few.find(&[1; 32], now).is_none() && few.find(&[2; 32], now).is_some());
        let mut none = Answers::new(0);
        none.insert([1; 32], answer(true), now + hour);
        assert!(none.find(&[1; 32], now).is_none());
    }
}
