//! What one session may do: the rules that apply to it, compiled once, asked for every message.

use std::fmt;
use std::sync::Arc;

use super::{Action, Effect, Rule, Subject};
use crate::mqtt::{covers, matches};

/// The compiled rules of one subject. Valid for one policy generation; cheap to hold (24 bytes per rule, filters
/// without variables shared with the policy) and to ask (no allocation).
#[derive(Debug, Clone)]
pub struct Permissions {
    generation: u64,
    /// Grouped by `Group`, by rule id inside a group, so that the reason given is always the same one.
    entries: Box<[Entry]>,
    /// Where each group ends in `entries`.
    ends: [u32; 4],
}

#[derive(Debug, Clone)]
struct Entry {
    filter: Arc<str>,
    rule: Arc<Rule>,
}

#[derive(Clone, Copy)]
enum Group {
    PublishDeny,
    PublishAllow,
    SubscribeDeny,
    SubscribeAllow,
}

/// Allowed or not, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'p> {
    pub allowed: bool,
    pub reason: Reason<'p>,
}

/// What made the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'p> {
    /// This rule, allowing or denying.
    Rule(&'p Rule),
    /// No rule allows it.
    NoRule,
    /// No rule denies the delivery; its subscription was allowed when it was made.
    NoDeny,
    /// Clients never publish to `$` topics (P2).
    DollarTopic,
}

impl Permissions {
    pub(super) fn new<'a>(
        generation: u64,
        rules: impl Iterator<Item = &'a Arc<Rule>>,
        subject: &Subject,
    ) -> Self {
        let mut groups: [Vec<Entry>; 4] = Default::default();
        for rule in rules {
            if let Some(filter) = rule.filter.substitute(subject, rule.effect) {
                groups[group_of(rule) as usize].push(Entry {
                    filter,
                    rule: rule.clone(),
                });
            }
        }
        let mut ends = [0; 4];
        let mut entries = Vec::with_capacity(groups.iter().map(Vec::len).sum());
        for (group, end) in groups.iter_mut().zip(&mut ends) {
            group.sort_by_key(|entry| entry.rule.id);
            entries.append(group);
            *end = entries.len() as u32;
        }
        Permissions {
            generation,
            entries: entries.into_boxed_slice(),
            ends,
        }
    }

    /// The generation of the policy these were compiled from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// May it publish to this topic name? Also the question for a will, at CONNECT and when it is sent (S1).
    pub fn publish(&self, topic: &str) -> Decision<'_> {
        if topic.starts_with('$') {
            return Decision {
                allowed: false,
                reason: Reason::DollarTopic,
            };
        }
        let matching = |entry: &&Entry| matches(&entry.filter, topic);
        self.decide(Group::PublishDeny, Group::PublishAllow, matching)
    }

    /// May it subscribe to this topic filter, given without `$share/GROUP/`? One allow must cover the whole filter,
    /// and no deny may (P2). Denies that cover only a part of it are asked per delivery: see [`Self::receive`].
    pub fn subscribe(&self, filter: &str) -> Decision<'_> {
        let covering = |entry: &&Entry| covers(&entry.filter, filter);
        self.decide(Group::SubscribeDeny, Group::SubscribeAllow, covering)
    }

    /// May a message on this topic name be delivered to it, on a subscription that [`Self::subscribe`] allowed?
    pub fn receive(&self, topic: &str) -> Decision<'_> {
        match self
            .group(Group::SubscribeDeny)
            .iter()
            .find(|entry| matches(&entry.filter, topic))
        {
            Some(entry) => Decision {
                allowed: false,
                reason: Reason::Rule(&entry.rule),
            },
            None => Decision {
                allowed: true,
                reason: Reason::NoDeny,
            },
        }
    }

    /// Whether [`Self::receive`] can ever say no.
    pub fn has_receive_denies(&self) -> bool {
        !self.group(Group::SubscribeDeny).is_empty()
    }

    /// The filters of the allows of one action, variables replaced. Denies may take a part of them away.
    pub fn allowed(&self, action: Action) -> impl Iterator<Item = &str> {
        let group = match action {
            Action::Publish => Group::PublishAllow,
            Action::Subscribe => Group::SubscribeAllow,
        };
        self.group(group).iter().map(|entry| entry.filter.as_ref())
    }

    /// The denies that may take messages out of a subscription to `filter`.
    pub fn denies_within(&self, filter: &str) -> impl Iterator<Item = &Rule> {
        let denies = self.group(Group::SubscribeDeny).iter();
        denies
            .filter(move |entry| overlap(&entry.filter, filter))
            .map(|entry| entry.rule.as_ref())
    }

    /// The allowed filters that have something in common with `filter`, each with its rule.
    pub(super) fn allows_within(&self, filter: &str) -> impl Iterator<Item = (&str, &Rule)> {
        let allows = self.group(Group::SubscribeAllow).iter();
        allows
            .filter(move |entry| overlap(&entry.filter, filter))
            .map(|entry| (entry.filter.as_ref(), entry.rule.as_ref()))
    }

    /// Whether something that `before` let the client receive may not be received any more. True also for some changes
    /// that take nothing away, a rule replaced by a wider one for example.
    pub fn takes_from(&self, before: &Permissions) -> bool {
        before.has_more(self, Group::SubscribeAllow) || self.has_more(before, Group::SubscribeDeny)
    }

    /// Whether this group has a filter that the other's has not. Linear as long as most rules are the same.
    fn has_more(&self, other: &Permissions, group: Group) -> bool {
        let (mine, theirs) = (self.group(group), other.group(group));
        let mut rest = theirs.iter().peekable();
        mine.iter().any(|entry| {
            // Both are sorted by rule id.
            while rest
                .next_if(|other| other.rule.id < entry.rule.id)
                .is_some()
            {}
            let same =
                |other: &&Entry| other.rule.id == entry.rule.id && other.filter == entry.filter;
            rest.next_if(same).is_none() && !theirs.iter().any(|other| other.filter == entry.filter)
        })
    }

    /// The filter of a rule after its variables were replaced; `None` if the rule does not apply here.
    pub(super) fn effective_filter(&self, rule: &Rule) -> Option<&str> {
        self.entries
            .iter()
            .find(|entry| *entry.rule == *rule)
            .map(|entry| entry.filter.as_ref())
    }

    fn decide(&self, deny: Group, allow: Group, applies: impl Fn(&&Entry) -> bool) -> Decision<'_> {
        if let Some(entry) = self.group(deny).iter().find(&applies) {
            return Decision {
                allowed: false,
                reason: Reason::Rule(&entry.rule),
            };
        }
        match self.group(allow).iter().find(&applies) {
            Some(entry) => Decision {
                allowed: true,
                reason: Reason::Rule(&entry.rule),
            },
            None => Decision {
                allowed: false,
                reason: Reason::NoRule,
            },
        }
    }

    fn group(&self, group: Group) -> &[Entry] {
        let start = match group as usize {
            0 => 0,
            index => self.ends[index - 1],
        };
        &self.entries[start as usize..self.ends[group as usize] as usize]
    }
}

fn group_of(rule: &Rule) -> Group {
    match (rule.action, rule.effect) {
        (Action::Publish, Effect::Deny) => Group::PublishDeny,
        (Action::Publish, Effect::Allow) => Group::PublishAllow,
        (Action::Subscribe, Effect::Deny) => Group::SubscribeDeny,
        (Action::Subscribe, Effect::Allow) => Group::SubscribeAllow,
    }
}

/// The filter that matches what both match, if there is anything.
pub(super) fn intersection(one: &str, other: &str) -> Option<String> {
    if !overlap(one, other) {
        return None;
    }
    let mut common: Vec<&str> = Vec::new();
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // "#" also stands for no level at all.
            (None, _) | (_, None) => break,
            (Some("#"), Some(level)) => {
                common.push(level);
                common.extend(other);
                break;
            }
            (Some(level), Some("#")) => {
                common.push(level);
                common.extend(one);
                break;
            }
            (Some("+"), Some(level)) | (Some(level), Some(_)) => common.push(level),
        }
    }
    Some(common.join("/"))
}

/// Whether some topic name matches both filters.
fn overlap(one: &str, other: &str) -> bool {
    let dollar = |a: &str, b: &str| a.starts_with('$') && b.starts_with(['+', '#']);
    if dollar(one, other) || dollar(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // "#" also stands for no level at all.
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed" } else { "denied" })?;
        match self.reason {
            Reason::Rule(rule) => write!(f, " by {}: {rule}", rule.called()),
            Reason::NoRule => f.write_str(": no rule allows it"),
            Reason::NoDeny => f.write_str(": no rule denies it"),
            Reason::DollarTopic => f.write_str(": clients never publish to $ topics"),
        }
    }
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
