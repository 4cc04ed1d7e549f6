//! Decisions that were made lately, so that a change of policy can be tried on them.
//!
//! Kept is what was asked, not what was answered: a dry run asks both policies. Each distinct question is kept once, in
//! a ring: when it is full, the one that was first asked longest ago makes room. Whoever decides says so only where a
//! decision is new (a SUBSCRIBE, a will, the first PUBLISH of a connection to a topic), never for each message.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;

use super::{Action, Subject};
use crate::metrics::Metrics;

/// A question that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub realm: Arc<str>,
    pub name: Arc<str>,
    pub client_id: Arc<str>,
    pub device: Option<Arc<str>>,
    pub roles: Arc<[Arc<str>]>,
    pub scopes: Arc<[Arc<str>]>,
    pub action: Action,
    /// A topic name, or a filter without `$share/GROUP/`.
    pub topic: Arc<str>,
    /// How often it was asked. Not the number of messages: a connection asks once for a topic.
    pub count: u64,
    /// Seconds since 1970.
    pub last: i64,
}

impl Asked {
    /// Who asked.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            realm: &self.realm,
            name: &self.name,
            client_id: &self.client_id,
            device: self.device.as_deref(),
            roles: &self.roles,
            scopes: &self.scopes,
        }
    }
}

/// The ring. Memory: about 250 bytes for each question, at most 1.3 KB: longer ones are not kept.
#[derive(Debug)]
pub struct Decisions {
    capacity: AtomicUsize,
    ring: Mutex<Ring>,
    hasher: DefaultHashBuilder,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Ring {
    slots: Vec<(u64, Asked)>,
    /// The slot that is overwritten next, once all are in use.
    next: usize,
    by_key: HashMap<u64, u32>,
}

/// Bytes of all texts of a question together: topic, client identifier, roles and scopes.
const TEXT_MAX: usize = 1_000;
/// Questions that are copied under one lock.
const STEP: usize = 1_000;

impl Decisions {
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Decisions {
        Decisions {
            capacity: AtomicUsize::new(capacity),
            ring: Mutex::default(),
            hasher: DefaultHashBuilder::default(),
            metrics,
        }
    }

    /// Another capacity; what does not fit any more is forgotten, and so is the order of the rest.
    pub fn resize(&self, capacity: usize) {
        if self.capacity.swap(capacity, Relaxed) > capacity {
            let mut ring = self.ring.lock();
            *ring = Ring::default();
            self.metrics.decisions_remembered.set(0);
        }
    }

    /// Whether anything is kept: who would have to find out whether a question is new asks first.
    pub fn is_on(&self) -> bool {
        self.capacity.load(Relaxed) > 0
    }

    /// Remembers a question. Costs a hash and a short lock, and some copies the first time.
    pub fn remember(&self, subject: &Subject, action: Action, topic: &str) {
        let capacity = self.capacity.load(Relaxed).min(u32::MAX as usize);
        if capacity == 0 || text(subject, topic) > TEXT_MAX {
            return;
        }
        let key = self.hasher.hash_one((
            (subject.realm, subject.name, subject.client_id),
            (subject.device, subject.roles, subject.scopes, action, topic),
        ));
        let now = now();
        let mut ring = self.ring.lock();
        if let Some(slot) = ring.by_key.get(&key).copied() {
            let asked = &mut ring.slots[slot as usize].1;
            asked.count += 1;
            asked.last = now;
            return;
        }
        let asked = Asked {
            realm: subject.realm.into(),
            name: subject.name.into(),
            client_id: subject.client_id.into(),
            device: subject.device.map(Arc::from),
            roles: subject.roles.into(),
            scopes: subject.scopes.into(),
            action,
            topic: topic.into(),
            count: 1,
            last: now,
        };
        ring.push(key, asked, capacity);
        self.metrics
            .decisions_remembered
            .set(ring.slots.len() as u64);
    }

    /// All that is remembered. In steps: nobody who decides waits long for it.
    pub fn all(&self) -> Vec<Asked> {
        let mut all = Vec::new();
        loop {
            let ring = self.ring.lock();
            let from = all.len().min(ring.slots.len());
            let to = (from + STEP).min(ring.slots.len());
            all.extend(ring.slots[from..to].iter().map(|(_, asked)| asked.clone()));
            if from == to {
                return all;
            }
        }
    }
}

impl Ring {
    fn push(&mut self, key: u64, asked: Asked, capacity: usize) {
        let slot = if self.slots.len() < capacity {
            self.slots.push((key, asked));
            self.slots.len() - 1
        } else {
            let slot = self.next % self.slots.len();
            let (before, _) = std::mem::replace(&mut self.slots[slot], (key, asked));
            self.by_key.remove(&before);
            self.next = slot + 1;
            slot
        };
        self.by_key.insert(key, slot as u32);
    }
}

fn text(subject: &Subject, topic: &str) -> usize {
    let names = subject.roles.iter().chain(subject.scopes);
    // A reference to each of them is kept, too.
    let names: usize = names.map(|name| name.len() + size_of::<Arc<str>>()).sum();
    topic.len() + subject.client_id.len() + names
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject<'_> {
        Subject {
            realm: "local",
            name,
            client_id: "c",
            device: None,
            roles: &[],
            scopes: &[],
        }
    }

    #[test]
    fn a_question_is_kept_once_and_the_oldest_makes_room() {
        let metrics = Arc::new(Metrics::default());
        let decisions = Decisions::new(100, metrics.clone());
        for topic in 0..1_000 {
            for _ in 0..3 {
                decisions.remember(&subject("ann"), Action::Publish, &topic.to_string());
            }
        }
        let mut all = decisions.all();
        all.sort_by_key(|asked| asked.topic.parse::<u32>().unwrap());
        assert_eq!(all.len(), 100);
        assert_eq!((&*all[0].topic, all[0].count), ("900", 3));
        assert_eq!(metrics.decisions_remembered.get(), 100);
        assert_eq!(decisions.ring.lock().by_key.len(), 100);
    }

    #[test]
    fn other_names_actions_roles_and_clients_are_other_questions() {
        let decisions = Decisions::new(100, Arc::default());
        let roles: [Arc<str>; 1] = ["r".into()];
        for subject in [
            subject("ann"),
            subject("bob"),
            Subject {
                roles: &roles,
                ..subject("ann")
            },
            Subject {
                scopes: &roles,
                ..subject("ann")
            },
            Subject {
                client_id: "d",
                ..subject("ann")
            },
            Subject {
                device: Some("d"),
                ..subject("ann")
            },
        ] {
            for action in [Action::Publish, Action::Subscribe] {
                decisions.remember(&subject, action, "t");
                decisions.remember(&subject, action, "t");
            }
        }
        let all = decisions.all();
        assert_eq!(all.len(), 12);
        assert!(all.iter().all(|asked| asked.count == 2));
    }

    #[test]
    fn nothing_is_kept_when_off_and_nothing_longer_than_the_bound() {
        let decisions = Decisions::new(0, Arc::default());
        decisions.remember(&subject("ann"), Action::Publish, "t");
        assert!(!decisions.is_on() && decisions.all().is_empty());
        decisions.resize(10);
        decisions.remember(&subject("ann"), Action::Publish, &"t".repeat(1_001));
        let scopes: Vec<Arc<str>> = (0..100).map(|n| format!("scope-{n}").into()).collect();
        let wordy = Subject {
            scopes: &scopes,
            ..subject("ann")
        };
        decisions.remember(&wordy, Action::Publish, "t");
        assert!(decisions.is_on() && decisions.all().is_empty());
        for topic in ["a", "b", "c"] {
            decisions.remember(&subject("ann"), Action::Publish, topic);
        }
        decisions.resize(2);
        assert!(decisions.all().is_empty());
        for topic in ["a", "b", "c"] {
            decisions.remember(&subject("ann"), Action::Publish, topic);
        }
        assert_eq!(decisions.all().len(), 2);
    }

    #[test]
    fn more_than_one_step_is_given_whole() {
        let decisions = Decisions::new(5_000, Arc::default());
        for topic in 0..2_500 {
            decisions.remember(&subject("ann"), Action::Publish, &topic.to_string());
        }
        assert_eq!(decisions.all().len(), 2_500);
    }
}
