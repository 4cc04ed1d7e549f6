//! The subscription tree: which subscriptions match this topic?
//!
//! Owned by the dispatcher alone, so there is no lock. It leaves permissions and delivery to others.

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    control::{Options, Subscription},
    endpoint::{Endpoint, Extra, Grant, SessionId, ShareKey},
    shared::{Group, GroupId, Groups},
};
use crate::mqtt::{Qos, SubscriptionFilter};

#[derive(Default)]
pub struct Tree {
    root: Node,
    groups: Groups,
    /// Subscriptions, those of shared groups included.
    count: usize,
}

/// What matches one topic.
#[derive(Default)]
pub struct Matched {
    pub targets: Vec<Target>,
    pub groups: Vec<GroupId>,
}

/// One session that a topic reaches, with the merge of its matching subscriptions.
pub struct Target {
    pub endpoint: Arc<dyn Endpoint>,
    pub grant: Grant,
    /// For messages that the session published itself (No Local, MQTT-3.8.3-3).
    pub own: Own,
}

pub enum Own {
    Same,
    Nothing,
    Other(Grant),
}

#[derive(Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    plus: Option<Box<Node>>,
    here: Level,
    hash: Level,
}

#[derive(Default)]
struct Level {
    direct: HashMap<SessionId, (Arc<dyn Endpoint>, Options, u64)>,
    shared: Vec<GroupId>,
}

impl Tree {
    /// Adds or replaces a subscription; true if there was none with this filter (MQTT-3.8.4-3).
    pub fn insert(&mut self, endpoint: &Arc<dyn Endpoint>, subscription: &Subscription) -> bool {
        let level = self.root.level(subscription.matching().as_str());
        let (options, number) = (subscription.options, subscription.number);
        let added = match &subscription.filter.share {
            None => level
                .direct
                .insert(endpoint.id(), (endpoint.clone(), options, number))
                .is_none(),
            Some(_) => {
                let (group, id) = self.groups.entry(share_key(&subscription.filter));
                if !level.shared.contains(&id) {
                    level.shared.push(id);
                }
                group.join(endpoint, options, number)
            }
        };
        self.count += usize::from(added);
        added
    }

    /// The number of the session's subscription with this filter, if it has one.
    pub fn number(&self, session: SessionId, filter: &SubscriptionFilter) -> Option<u64> {
        match &filter.share {
            None => {
                let level = self.root.find(filter.filter.as_str())?;
                level.direct.get(&session).map(|(.., number)| *number)
            }
            Some(_) => self.groups.number(&share_key(filter), session),
        }
    }

    /// Removes a subscription; true if there was one.
    pub fn remove(&mut self, session: SessionId, filter: &SubscriptionFilter) -> bool {
        let path = filter.filter.as_str();
        let removed = match &filter.share {
            None => self
                .root
                .prune(path, &mut |level| level.direct.remove(&session).is_some()),
            Some(_) => match self.groups.leave(&share_key(filter), session) {
                None => false,
                Some(None) => true,
                // The last member left: the group's place in the tree goes too.
                Some(Some(gone)) => {
                    self.root.prune(path, &mut |level| {
                        level.shared.retain(|id| *id != gone);
                        true
                    });
                    true
                }
            },
        };
        self.count -= usize::from(removed);
        removed
    }

    pub fn matching(&self, topic: &str) -> Matched {
        let mut found = Found {
            direct: SmallVec::new(),
            groups: Vec::new(),
        };
        self.root.collect(topic, topic.starts_with('$'), &mut found);
        found.direct.sort_unstable_by_key(|(id, ..)| *id);
        let targets = found
            .direct
            .chunk_by(|a, b| a.0 == b.0)
            .map(merge)
            .collect();
        Matched {
            targets,
            groups: found.groups,
        }
    }

    pub fn group(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get(id)
    }

    pub fn group_of(&mut self, key: &ShareKey) -> Option<&mut Group> {
        self.groups.find(key)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The group of a shared subscription.
pub(super) fn share_key(filter: &SubscriptionFilter) -> ShareKey {
    let group = filter.share.as_deref().unwrap_or_default();
    ShareKey {
        group: group.into(),
        filter: filter.filter.as_str().into(),
    }
}

type Entry<'a> = (SessionId, &'a Arc<dyn Endpoint>, &'a Options);

struct Found<'a> {
    direct: SmallVec<[Entry<'a>; 16]>,
    groups: Vec<GroupId>,
}

impl<'a> Found<'a> {
    fn take(&mut self, level: &'a Level) {
        self.direct.extend(
            level
                .direct
                .iter()
                .map(|(id, (endpoint, options, _))| (*id, endpoint, options)),
        );
        self.groups.extend(&level.shared);
    }
}

/// Several subscriptions of one session become one delivery at the greatest QoS, with all their identifiers.
fn merge(entries: &[Entry<'_>]) -> Target {
    let everything = grant(entries.iter().map(|(.., options)| *options));
    let own = if entries.iter().all(|(.., options)| !options.no_local) {
        Own::Same
    } else if entries.iter().all(|(.., options)| options.no_local) {
        Own::Nothing
    } else {
        Own::Other(grant(
            entries
                .iter()
                .map(|(.., options)| *options)
                .filter(|options| !options.no_local),
        ))
    };
    Target {
        endpoint: entries[0].1.clone(),
        grant: everything,
        own,
    }
}

fn grant<'a>(options: impl Iterator<Item = &'a Options>) -> Grant {
    let mut grant = Grant {
        qos: Qos::AtMostOnce,
        retain_as_published: false,
        extra: None,
    };
    let mut ids = SmallVec::<[u32; 2]>::new();
    for options in options {
        grant.qos = grant.qos.max(options.qos);
        grant.retain_as_published |= options.retain_as_published;
        ids.extend(options.id);
    }
    if !ids.is_empty() {
        // The same identifier on two subscriptions is sent once for each (MQTT 5 §3.3.4): kept.
        grant.extra = Some(Arc::new(Extra {
            subscription_ids: ids,
            share: None,
        }));
    }
    grant
}

impl Node {
    fn level(&mut self, filter: &str) -> &mut Level {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.hash,
                "+" => node.plus.get_or_insert_default(),
                name => node.children.entry(name.into()).or_default(),
            };
        }
        &mut node.here
    }

    fn find(&self, filter: &str) -> Option<&Level> {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return Some(&node.hash),
                "+" => node.plus.as_deref()?,
                name => node.children.get(name)?,
            };
        }
        Some(&node.here)
    }

    fn collect<'a>(&'a self, rest: &str, dollar: bool, found: &mut Found<'a>) {
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        // A leading wildcard never matches a topic that begins with $ (MQTT-4.7.2-1); `dollar` is true on the first level only.
        if !dollar {
            found.take(&self.hash);
        }
        let plus = self.plus.as_deref().filter(|_| !dollar);
        for child in self.children.get(level).into_iter().chain(plus) {
            match rest {
                Some(rest) => child.collect(rest, false, found),
                None => {
                    found.take(&child.here);
                    found.take(&child.hash);
                }
            }
        }
    }

    /// Applies `change` where the filter ends and removes the nodes that this emptied.
    fn prune(&mut self, filter: &str, change: &mut dyn FnMut(&mut Level) -> bool) -> bool {
        let (level, rest) = match filter.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (filter, None),
        };
        if level == "#" {
            return change(&mut self.hash);
        }
        let child = match level {
            "+" => self.plus.as_deref_mut(),
            name => self.children.get_mut(name),
        };
        let Some(child) = child else { return false };
        let changed = match rest {
            Some(rest) => child.prune(rest, change),
            None => change(&mut child.here),
        };
        if child.is_empty() {
            match level {
                "+" => self.plus = None,
                name => drop(self.children.remove(name)),
            }
        }
        changed
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.here.is_empty()
            && self.hash.is_empty()
    }
}

impl Level {
    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mqtt::{RetainHandling, matches},
        routing::testing::Sink,
    };
    use proptest::prelude::*;

    const LEVELS: usize = 64;

    fn subscription(filter: &str, options: Options) -> Subscription {
        Subscription {
            filter: SubscriptionFilter::parse(filter, LEVELS).unwrap(),
            options,
            number: 1,
        }
    }

    fn options(qos: Qos) -> Options {
        Options {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            id: None,
        }
    }

    #[test]
    fn overlapping_subscriptions_are_one_delivery_at_the_greatest_qos_with_all_identifiers() {
        let mut tree = Tree::default();
        let one = Sink::endpoint(1);
        tree.insert(
            &one,
            &subscription(
                "a/+",
                Options {
                    id: Some(5),
                    ..options(Qos::AtMostOnce)
                },
            ),
        );
        tree.insert(
            &one,
            &subscription(
                "a/#",
                Options {
                    id: Some(9),
                    ..options(Qos::ExactlyOnce)
                },
            ),
        );
        let matched = tree.matching("a/b");
        assert_eq!(matched.targets.len(), 1);
        let grant = &matched.targets[0].grant;
        assert_eq!(grant.qos, Qos::ExactlyOnce);
        let mut ids = grant.extra.as_ref().unwrap().subscription_ids.to_vec();
        ids.sort_unstable();
        assert_eq!(ids, [5, 9]);
    }

    #[test]
    fn no_local_keeps_only_its_own_subscription_from_an_own_message() {
        let mut tree = Tree::default();
        let one = Sink::endpoint(1);
        tree.insert(
            &one,
            &subscription(
                "a",
                Options {
                    no_local: true,
                    ..options(Qos::ExactlyOnce)
                },
            ),
        );
        assert!(matches!(tree.matching("a").targets[0].own, Own::Nothing));
        tree.insert(&one, &subscription("#", options(Qos::AtLeastOnce)));
        let matched = tree.matching("a");
        let Own::Other(grant) = &matched.targets[0].own else {
            panic!("an own grant")
        };
        assert_eq!(grant.qos, Qos::AtLeastOnce);
    }

    #[test]
    fn an_empty_tree_is_left_when_every_subscription_is_gone() {
        let mut tree = Tree::default();
        let one = Sink::endpoint(1);
        let filters = [
            "a/b/c",
            "a/+/c",
            "#",
            "+",
            "$share/g/a/b",
            "$SYS/#",
            "a//b",
            "/",
        ];
        for filter in filters {
            assert!(tree.insert(&one, &subscription(filter, options(Qos::AtMostOnce))));
            assert!(
                !tree.insert(&one, &subscription(filter, options(Qos::AtLeastOnce))),
                "{filter} is there"
            );
        }
        assert_eq!(tree.len(), filters.len());
        for filter in filters {
            let filter = SubscriptionFilter::parse(filter, LEVELS).unwrap();
            assert_eq!(tree.number(SessionId(1), &filter), Some(1));
            assert_eq!(tree.number(SessionId(2), &filter), None);
            assert!(tree.remove(SessionId(1), &filter));
            assert_eq!(tree.number(SessionId(1), &filter), None);
            assert!(!tree.remove(SessionId(1), &filter));
        }
        assert!(tree.is_empty() && tree.root.is_empty());
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_a_naive_matcher(
            filters in proptest::collection::vec("(\\$)?[ab+]?(/[ab+]?){0,3}(/#)?", 1..30),
            topics in proptest::collection::vec("(\\$)?[ab]?(/[ab]?){0,4}", 1..20),
        ) {
            let mut tree = Tree::default();
            let mut kept = Vec::new();
            for (n, filter) in filters.iter().enumerate() {
                if SubscriptionFilter::parse(filter.as_str(), LEVELS).is_ok() && !filter.starts_with("$share/") {
                    let endpoint = Sink::endpoint(n as u64);
                    tree.insert(&endpoint, &subscription(filter, options(Qos::AtMostOnce)));
                    kept.push((n as u64, filter));
                }
            }
            for topic in topics.iter().filter(|topic| !topic.is_empty()) {
                let found: Vec<u64> = tree.matching(topic).targets.iter().map(|t| t.endpoint.id().0).collect();
                let expected: Vec<u64> =
                    kept.iter().filter(|(_, filter)| matches(filter, topic)).map(|(n, _)| *n).collect();
                prop_assert_eq!(found, expected, "topic {}", topic);
            }
        }
    }
}
