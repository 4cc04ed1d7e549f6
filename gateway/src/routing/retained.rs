//! Retained messages: what does a new subscription get at once? (MQTT 5 §3.3.1.3)
//!
//! Owned by the dispatcher alone. The store makes them durable; this is what is looked up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hashbrown::HashMap;

use super::message::{Expiry, Message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    pub messages: usize,
    /// Bytes of topic, properties and payload, with a fixed overhead for each message.
    pub bytes: usize,
}

pub struct Retained {
    root: Node,
    limits: RetainedLimits,
    messages: usize,
    bytes: usize,
    /// When the next ones expire. The number keeps moments apart that are equal.
    expiring: BTreeMap<(Instant, u64), Box<str>>,
    next: u64,
}

#[derive(Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    kept: Option<Kept>,
}

struct Kept {
    message: Message,
    expires: Option<(Instant, u64)>,
}

/// The limit that a new retained message would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Retained {
    pub fn new(limits: RetainedLimits) -> Retained {
        Retained {
            root: Node::default(),
            limits,
            messages: 0,
            bytes: 0,
            expiring: BTreeMap::new(),
            next: 0,
        }
    }

    pub fn set_limits(&mut self, limits: RetainedLimits) {
        self.limits = limits;
    }

    /// Whether [`Retained::set`] would find room. Topics of the gateway itself (`$SYS`) always have room.
    pub fn has_room(&self, message: &Message) -> bool {
        let topic = message.topic();
        if !is_limited(topic) || message.payload().is_empty() {
            return true;
        }
        let old = self.root.find(topic).and_then(|node| node.kept.as_ref());
        let messages = self.messages + usize::from(old.is_none());
        let bytes = self.bytes + cost(message) - old.map_or(0, |kept| cost(&kept.message));
        messages <= self.limits.messages && bytes <= self.limits.bytes
    }

    /// Replaces the topic's retained message; an empty payload removes it (MQTT-3.3.1-5 to -7).
    pub fn set(&mut self, message: &Message, now: Instant) -> Result<(), Full> {
        if !self.has_room(message) {
            return Err(Full);
        }
        self.restore(message, now);
        Ok(())
    }

    /// As [`Retained::set`], whatever the limits: what was accepted stays.
    pub fn restore(&mut self, message: &Message, now: Instant) {
        self.remove(message.topic());
        if message.payload().is_empty() {
            return;
        }
        let message = message.detach();
        let expires = match message.expiry_left(now) {
            Expiry::Never => None,
            Expiry::Expired => return,
            Expiry::Left(seconds) => {
                self.next += 1;
                Some((now + Duration::from_secs(seconds.into()), self.next))
            }
        };
        if let Some(moment) = expires {
            self.expiring.insert(moment, message.topic().into());
        }
        if is_limited(message.topic()) {
            self.messages += 1;
            self.bytes += cost(&message);
        }
        let mut node = &mut self.root;
        for level in message.topic().split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        node.kept = Some(Kept { expires, message });
    }

    /// Calls `visit` for each retained message that the filter matches and that has not expired. False if that was not
    /// all of them: `visit` said stop, or more topic levels than `work` would have had to be looked at.
    pub fn matching(
        &self,
        filter: &str,
        now: Instant,
        work: &mut usize,
        visit: &mut dyn FnMut(&Message) -> bool,
    ) -> bool {
        self.root.walk(Some(filter), true, work, &mut |kept| {
            kept.message.is_expired(now) || visit(&kept.message)
        })
    }

    /// Removes what has expired, at most `most` of them, so that nobody waits for it.
    pub fn sweep(&mut self, now: Instant, most: usize, gone: &mut dyn FnMut(Message)) {
        for _ in 0..most {
            let Some(first) = self
                .expiring
                .first_entry()
                .filter(|first| first.key().0 <= now)
            else {
                return;
            };
            let topic = first.remove();
            if let Some(kept) = self.remove(&topic) {
                gone(kept.message);
            }
        }
    }

    pub fn count(&self) -> usize {
        self.messages
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, topic: &str) -> Option<Kept> {
        let kept = self.root.remove(topic)?;
        if is_limited(topic) {
            self.messages -= 1;
            self.bytes -= cost(&kept.message);
        }
        if let Some(moment) = kept.expires {
            self.expiring.remove(&moment);
        }
        Some(kept)
    }
}

impl Node {
    fn find(&self, topic: &str) -> Option<&Node> {
        topic
            .split('/')
            .try_fold(self, |node, level| node.children.get(level))
    }

    /// False: stopped before the end.
    fn walk(
        &self,
        filter: Option<&str>,
        first: bool,
        work: &mut usize,
        visit: &mut dyn FnMut(&Kept) -> bool,
    ) -> bool {
        let Some(left) = work.checked_sub(1) else {
            return false;
        };
        *work = left;
        let Some(filter) = filter else {
            return self.kept.as_ref().is_none_or(visit);
        };
        let (level, rest) = match filter.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (filter, None),
        };
        // A leading wildcard never matches a topic that begins with $ (MQTT-4.7.2-1).
        let shown = |name: &str| !(first && name.starts_with('$'));
        let mut children = self.children.iter().filter(|(name, _)| shown(name));
        match level {
            // `a/#` matches `a` too.
            "#" => {
                (first || self.kept.as_ref().is_none_or(&mut *visit))
                    && children.all(|(_, child)| child.walk(Some("#"), false, work, visit))
            }
            "+" => children.all(|(_, child)| child.walk(rest, false, work, visit)),
            name => self
                .children
                .get(name)
                .is_none_or(|child| child.walk(rest, false, work, visit)),
        }
    }

    fn remove(&mut self, topic: &str) -> Option<Kept> {
        let (level, rest) = match topic.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (topic, None),
        };
        let child = self.children.get_mut(level)?;
        let kept = match rest {
            Some(rest) => child.remove(rest),
            None => child.kept.take(),
        };
        if child.kept.is_none() && child.children.is_empty() {
            self.children.remove(level);
        }
        kept
    }
}

/// Topics of the gateway itself (`$SYS`) are few and its own: they count in no limit.
fn is_limited(topic: &str) -> bool {
    !topic.starts_with('$')
}

/// Bytes that a retained message takes up, its place in the tree included.
fn cost(message: &Message) -> usize {
    message.cost() + LEVEL * message.topic().split('/').count()
}

/// Bytes of one node of the tree, about.
const LEVEL: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mqtt::{Filter, Qos, matches},
        routing::envelope::{Outgoing, message},
    };
    use proptest::prelude::*;

    fn retained(topic: &str, payload: &[u8], expiry: Option<u32>) -> Message {
        let outgoing = Outgoing {
            topic,
            payload,
            properties: b"",
            qos: Qos::AtLeastOnce,
            retain: true,
            expiry,
            packet_id: None,
        };
        message(outgoing, Instant::now()).unwrap()
    }

    fn topics(retained: &Retained, filter: &str, now: Instant) -> Vec<String> {
        let mut found = Vec::new();
        let all = retained.matching(filter, now, &mut usize::MAX.clone(), &mut |message| {
            found.push(message.topic().to_owned());
            true
        });
        assert!(all);
        found.sort();
        found
    }

    const ROOMY: RetainedLimits = RetainedLimits {
        messages: 1000,
        bytes: 1 << 20,
    };

    #[test]
    fn an_empty_retained_payload_deletes_and_leaves_nothing_behind() {
        let mut kept = Retained::new(ROOMY);
        let now = Instant::now();
        kept.set(&retained("a/b", b"1", Some(60)), now).unwrap();
        kept.set(&retained("a/b", b"", None), now).unwrap();
        assert_eq!((kept.count(), kept.bytes()), (0, 0));
        assert!(kept.root.children.is_empty() && kept.expiring.is_empty());
    }

    #[test]
    fn an_expired_message_is_not_found_and_is_swept() {
        let mut kept = Retained::new(ROOMY);
        let now = Instant::now();
        kept.set(&retained("a", b"1", Some(1)), now).unwrap();
        kept.set(&retained("b", b"1", Some(100)), now).unwrap();
        let later = now + Duration::from_secs(2);
        assert_eq!(topics(&kept, "#", later), ["b"]);
        let mut gone = Vec::new();
        kept.sweep(later, 10, &mut |message| gone.push(message));
        assert_eq!(gone.len(), 1);
        assert_eq!(kept.count(), 1);
    }

    #[test]
    fn over_a_limit_a_new_topic_is_refused_and_a_known_one_replaced() {
        let mut kept = Retained::new(RetainedLimits {
            messages: 2,
            bytes: 1 << 20,
        });
        let now = Instant::now();
        kept.set(&retained("a", b"1", None), now).unwrap();
        kept.set(&retained("b", b"1", None), now).unwrap();
        assert_eq!(kept.set(&retained("c", b"1", None), now), Err(Full));
        kept.set(&retained("b", b"2", None), now).unwrap();
        kept.set(&retained("$SYS/x", b"2", None), now).unwrap();
        let mut tight = Retained::new(RetainedLimits {
            messages: 9,
            bytes: 600,
        });
        assert_eq!(tight.set(&retained("a", &[0; 600], None), now), Err(Full));
    }

    proptest! {
        #[test]
        fn a_filter_finds_what_it_matches(
            filter in "(\\$)?[ab+]?(/[ab+]?){0,3}(/#)?", names in proptest::collection::vec("(\\$)?[ab]?(/[ab]?){0,4}", 1..20),
        ) {
            prop_assume!(Filter::parse(filter.as_str(), 64).is_ok());
            let mut kept = Retained::new(ROOMY);
            let now = Instant::now();
            let mut names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
            names.sort();
            names.dedup();
            for name in &names {
                kept.set(&retained(name, b"1", None), now).unwrap();
            }
            names.retain(|name| matches(&filter, name));
            prop_assert_eq!(topics(&kept, &filter, now), names);
        }
    }
}
