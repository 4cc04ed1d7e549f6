//! The same questions to both: what Mosquitto's files mean, and what our rules decide.
//!
//! Asked is for every user that is imported, and for anonymous clients: publishing to topics, receiving messages on them by
//! any subscription that is granted, and subscribing to filters. The topics and filters are made from those of the rules
//! ([`super::probes`]).

use std::sync::Arc;

use serde::Serialize;

use super::meaning::Asker;
use super::plan::Plan;
use super::probes::Probes;
use crate::acl::{Permissions, Policy, Rule, Subject};
use crate::admin::RuleLine;
use crate::auth::LOCAL_REALM;
use crate::mqtt::matches;

/// The client identifier of the clients in the replay.
const CLIENT_ID: &str = "probe-client";
/// Comparisons of a topic with a filter that a replay may take: some seconds.
const EFFORT: usize = 40_000_000;

/// What the replay found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replay {
    pub users: usize,
    /// Users that were left out, evenly, because there are too many.
    pub users_left_out: usize,
    pub decisions: usize,
    /// What is allowed here and was not there.
    pub wider: usize,
    /// What was allowed there and is not here.
    pub narrower: usize,
    /// SUBSCRIBE: granted there and refused here. What of it was delivered can be had by other filters.
    pub refused: usize,
    /// SUBSCRIBE: granted there, though nothing was ever delivered, and refused here. Only counted.
    pub empty: usize,
    /// SUBSCRIBE: refused there and granted here. What of it is delivered could be had by other filters.
    pub granted: usize,
    /// The first of each.
    pub differences: Vec<Difference>,
}

/// A decision that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    pub class: Class,
    /// `None` for an anonymous client.
    pub user: Option<String>,
    /// `publish`, `receive` or `subscribe`.
    pub action: &'static str,
    /// A topic name, or for `subscribe` a topic filter.
    pub topic: String,
    /// Why it is decided so here.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Wider,
    Narrower,
    Refused,
    Granted,
}

impl Replay {
    /// Differences of each class that are kept.
    const KEPT: usize = 200;

    fn differs(
        &mut self,
        class: Class,
        who: Asker,
        action: &'static str,
        topic: &str,
        reason: String,
    ) {
        let count = match class {
            Class::Wider => &mut self.wider,
            Class::Narrower => &mut self.narrower,
            Class::Refused => &mut self.refused,
            Class::Granted => &mut self.granted,
        };
        *count += 1;
        if *count <= Self::KEPT {
            self.differences.push(Difference {
                class,
                user: who.name.map(str::to_owned),
                action,
                topic: topic.to_owned(),
                reason,
            });
        }
    }
}

/// Replays against the planned rules and those that are in force already.
pub fn replay(plan: &Plan, in_force: &[RuleLine]) -> Replay {
    let policy = policy(plan, in_force);
    let mut clients: Vec<(Option<&str>, Vec<Arc<str>>)> = Vec::new();
    for user in plan.import.users.iter().filter(|user| !user.disabled) {
        let roles = user.roles.iter().map(|role| role.as_str().into()).collect();
        clients.push((Some(&user.name), roles));
    }
    if plan.anonymous {
        clients.push((None, vec![plan.anonymous_role.as_str().into()]));
    }
    let mut replay = Replay::default();
    let mut spent = 0;
    // Half of the effort may go into topics of others; there are somewhat more filters than topics.
    let others = (EFFORT / 3 / clients.len().max(1)).isqrt();
    // Were all as costly as the most costly one so far, would the rest be too much? Then every second is left out.
    let (mut step, mut at) = (1, 0);
    while at < clients.len() {
        let (name, roles) = &clients[at];
        let who = Asker {
            name: *name,
            client_id: CLIENT_ID,
        };
        let subject = Subject {
            realm: LOCAL_REALM,
            name: name.unwrap_or_default(),
            client_id: CLIENT_ID,
            device: None,
            roles,
            scopes: &[],
        };
        let probes = Probes::of(&plan.meaning, who, others);
        spent += probes.topics.len() * probes.filters.len();
        one(
            plan,
            who,
            &policy.permissions(&subject),
            &probes,
            &mut replay,
        );
        replay.users += 1;
        let left = (clients.len() - at) / step;
        if spent / replay.users * left > EFFORT.saturating_sub(spent) {
            step *= 2;
        }
        at += step;
    }
    replay.users_left_out = clients.len() - replay.users;
    replay
}

fn policy(plan: &Plan, in_force: &[RuleLine]) -> Policy {
    let lines = in_force.iter().chain(&plan.import.rules);
    let rules = lines.zip(1..).filter_map(|(line, number)| {
        Some(Rule {
            // A rule that is planned has no number yet.
            id: if line.id > 0 { line.id } else { -number },
            effect: line.effect,
            action: line.action,
            filter: line.filter.parse().ok()?,
            who: line.who.parse().ok()?,
        })
    });
    Policy::new(rules)
}

fn one(plan: &Plan, who: Asker, ours: &Permissions, probes: &Probes, replay: &mut Replay) {
    let meaning = &plan.meaning;
    for topic in &probes.topics {
        let (there, here) = (meaning.publish(who, topic), ours.publish(topic));
        replay.decisions += 1;
        if let Some(class) = class(there, here.allowed) {
            replay.differs(class, who, "publish", topic, reason(here));
        }
    }
    let filters: Vec<(&str, bool, bool)> = probes
        .filters
        .iter()
        .map(|filter| {
            (
                filter.as_str(),
                meaning.subscribe(who, filter),
                ours.subscribe(filter).allowed,
            )
        })
        .collect();
    let reached = |topic: &str, which: fn(&(&str, bool, bool)) -> bool| {
        filters
            .iter()
            .any(|filter| which(filter) && matches(filter.0, topic))
    };
    for topic in &probes.topics {
        let there = meaning.receive(who, topic)
            && (meaning.subscribe(who, topic) || reached(topic, |(_, there, _)| *there));
        let decision = ours.receive(topic);
        let own = ours.subscribe(topic);
        let here = decision.allowed && (own.allowed || reached(topic, |(_, _, here)| *here));
        replay.decisions += 1;
        if let Some(class) = class(there, here) {
            let why = if decision.allowed { own } else { decision };
            replay.differs(class, who, "receive", topic, reason(why));
        }
    }
    let delivers = |filter: &str| {
        let mut topics = probes.topics.iter();
        topics.any(|topic| matches(filter, topic) && meaning.receive(who, topic))
    };
    for (filter, there, here) in &filters {
        replay.decisions += 1;
        let class = match (there, here) {
            (true, false) if !delivers(filter) => {
                replay.empty += 1;
                continue;
            }
            (true, false) => Class::Refused,
            (false, true) => Class::Granted,
            _ => continue,
        };
        replay.differs(
            class,
            who,
            "subscribe",
            filter,
            reason(ours.subscribe(filter)),
        );
    }
}

fn class(there: bool, here: bool) -> Option<Class> {
    match (there, here) {
        (false, true) => Some(Class::Wider),
        (true, false) => Some(Class::Narrower),
        _ => None,
    }
}

/// A planned rule has no number: its text alone is told.
fn reason(decision: crate::acl::Decision) -> String {
    match decision.reason {
        crate::acl::Reason::Rule(rule) if rule.id < 0 => {
            let effect = if decision.allowed {
                "allowed"
            } else {
                "denied"
            };
            format!("{effect} by: {rule}")
        }
        _ => decision.to_string(),
    }
}
