//! What would another policy, or other roles, have decided differently?

use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{Action, Asked, Permissions, Policy, Rule};

/// What a change would have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DryRun {
    /// Distinct decisions that were looked at.
    pub looked_at: u64,
    /// Seconds since 1970: when the oldest of them was made last.
    pub since: Option<i64>,
    /// The most frequent first.
    pub differences: Vec<Difference>,
    /// Further ones that are not listed.
    pub more: u64,
}

/// A decision that would be another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// `realm:name`.
    pub principal: String,
    pub action: Action,
    pub topic: String,
    pub effect: Turn,
    /// The decision of today, in words.
    pub was: String,
    pub would: String,
    /// Client identifiers with it, each counted once.
    pub clients: u64,
    /// How often it was decided.
    pub count: u64,
    /// Seconds since 1970: the last time.
    pub last: i64,
}

/// How the decision turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    Denied,
    /// Allowed as before, but some messages inside the filter are withheld.
    Narrowed,
    /// Allowed as before, and fewer messages inside the filter are withheld.
    Widened,
    Allowed,
}

impl Turn {
    pub fn as_str(self) -> &'static str {
        match self {
            Turn::Denied => "denied",
            Turn::Narrowed => "narrowed",
            Turn::Widened => "widened",
            Turn::Allowed => "allowed",
        }
    }
}

/// Differences that are told.
const TOLD: usize = 500;

/// Realm, name, action, topic, turn: differences that are told as one.
type Same = (Arc<str>, Arc<str>, Action, Arc<str>, Turn);

/// Asks both policies what was asked before, the second for the roles that `roles` gives.
pub fn dry_run(
    mut asked: Vec<Asked>,
    before: &Policy,
    after: &Policy,
    roles: impl Fn(&Asked) -> Arc<[Arc<str>]>,
) -> DryRun {
    // Those of one client together: its rules are compiled once.
    let client = |asked: &Asked| {
        let Asked {
            realm,
            name,
            client_id,
            device,
            roles,
            scopes,
            ..
        } = asked.clone();
        (realm, name, client_id, device, roles, scopes)
    };
    asked.sort_by_cached_key(client);
    // With the client that was counted last: those of one principal come in the order of their clients.
    let mut found: HashMap<Same, (Difference, Option<Arc<str>>)> = HashMap::new();
    for same in asked.chunk_by(|one, other| client(one) == client(other)) {
        let subject = same[0].subject();
        let other_roles = roles(&same[0]);
        let mut changed = subject;
        changed.roles = &other_roles;
        let (then, now) = (before.permissions(&subject), after.permissions(&changed));
        for asked in same {
            let Some((turn, was, would)) = turn(&then, &now, asked) else {
                continue;
            };
            let key = (
                asked.realm.clone(),
                asked.name.clone(),
                asked.action,
                asked.topic.clone(),
                turn,
            );
            let (difference, counted) = found.entry(key).or_insert_with(|| {
                let difference = Difference {
                    principal: format!("{}:{}", asked.realm, asked.name),
                    action: asked.action,
                    topic: asked.topic.to_string(),
                    effect: turn,
                    was,
                    would,
                    clients: 0,
                    count: 0,
                    last: asked.last,
                };
                (difference, None)
            });
            if counted.as_ref() != Some(&asked.client_id) {
                *counted = Some(asked.client_id.clone());
                difference.clients += 1;
            }
            difference.count += asked.count;
            difference.last = difference.last.max(asked.last);
        }
    }
    let mut differences: Vec<_> = found
        .into_values()
        .map(|(difference, _)| difference)
        .collect();
    differences.sort_by(|one, other| {
        let order = |it: &Difference| (it.effect, std::cmp::Reverse(it.count), it.topic.clone());
        order(one)
            .cmp(&order(other))
            .then_with(|| one.principal.cmp(&other.principal))
    });
    let more = differences.len().saturating_sub(TOLD) as u64;
    differences.truncate(TOLD);
    DryRun {
        looked_at: asked.len() as u64,
        since: asked.iter().map(|asked| asked.last).min(),
        differences,
        more,
    }
}

fn turn(then: &Permissions, now: &Permissions, asked: &Asked) -> Option<(Turn, String, String)> {
    let topic = &*asked.topic;
    let decide = |permissions: &Permissions| match asked.action {
        Action::Publish => (
            permissions.publish(topic).allowed,
            permissions.publish(topic).to_string(),
        ),
        Action::Subscribe => (
            permissions.subscribe(topic).allowed,
            permissions.subscribe(topic).to_string(),
        ),
    };
    let ((was_allowed, was), (allowed, would)) = (decide(then), decide(now));
    match (was_allowed, allowed) {
        (true, false) => return Some((Turn::Denied, was, would)),
        (false, true) => return Some((Turn::Allowed, was, would)),
        (false, false) => return None,
        (true, true) if asked.action == Action::Publish => return None,
        (true, true) => {}
    }
    let within = |permissions: &Permissions| -> Vec<Rule> {
        permissions.denies_within(topic).cloned().collect()
    };
    let (then, now) = (within(then), within(now));
    let same = |one: &Rule, other: &Rule| one.id == other.id;
    let added = now
        .iter()
        .find(|rule| !then.iter().any(|known| same(known, rule)));
    let gone = then
        .iter()
        .find(|rule| !now.iter().any(|left| same(left, rule)));
    match (added, gone) {
        (Some(added), _) => {
            let would = format!("withheld inside it by {}", named(added));
            Some((Turn::Narrowed, was, would))
        }
        (None, Some(gone)) => {
            let would = format!("not withheld any more by {}", named(gone));
            Some((Turn::Widened, was, would))
        }
        (None, None) => None,
    }
}

fn named(rule: &Rule) -> String {
    format!("{}: {rule}", rule.called())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{Effect, Who};

    fn rule(id: i64, effect: Effect, action: Action, filter: &str, who: Who) -> Rule {
        Rule {
            id,
            effect,
            action,
            filter: filter.parse().unwrap(),
            who,
        }
    }

    fn asked(name: &str, client_id: &str, action: Action, topic: &str, count: u64) -> Asked {
        Asked {
            realm: "local".into(),
            name: name.into(),
            client_id: client_id.into(),
            device: None,
            roles: ["family".into()].into(),
            scopes: [].into(),
            action,
            topic: topic.into(),
            count,
            last: 100 + count as i64,
        }
    }

    fn same(asked: &Asked) -> Arc<[Arc<str>]> {
        asked.roles.clone()
    }

    use Action::{Publish, Subscribe};
    use Effect::{Allow, Deny};

    fn rules() -> Vec<Rule> {
        vec![
            rule(1, Allow, Publish, "home/#", Who::Role("family".into())),
            rule(2, Allow, Subscribe, "home/#", Who::Role("family".into())),
            rule(3, Deny, Subscribe, "home/safe", Who::Everyone),
        ]
    }

    #[test]
    fn a_new_deny_tells_whom_it_would_stop_how_often_and_by_what() {
        let mut changed = rules();
        changed.push(rule(Rule::NEW, Deny, Publish, "home/door", Who::Everyone));
        let decisions = vec![
            asked("ann", "a1", Publish, "home/door", 2),
            asked("ann", "a2", Publish, "home/door", 3),
            asked("bob", "b", Publish, "home/door", 1),
            asked("bob", "b", Publish, "home/lamp", 9),
            asked("eve", "e", Publish, "garden", 9),
            asked("ann", "a1", Subscribe, "home/#", 9),
        ];
        let run = dry_run(
            decisions,
            &Policy::new(rules()),
            &Policy::new(changed),
            same,
        );
        assert_eq!((run.looked_at, run.since, run.more), (6, Some(101), 0));
        let [ann, bob] = &run.differences[..] else {
            panic!("{run:?}");
        };
        assert_eq!(
            (&*ann.principal, ann.clients, ann.count),
            ("local:ann", 2, 5)
        );
        assert_eq!((ann.effect, ann.last), (Turn::Denied, 103));
        assert!(ann.was.starts_with("allowed by rule 1: "), "{}", ann.was);
        assert!(
            ann.would
                .starts_with("denied by the new rule: deny publish"),
            "{}",
            ann.would
        );
        assert_eq!((&*bob.principal, bob.count), ("local:bob", 1));
    }

    #[test]
    fn what_is_withheld_inside_a_subscription_counts_as_a_difference() {
        let mut narrower = rules();
        narrower.push(rule(Rule::NEW, Deny, Subscribe, "+/door", Who::Everyone));
        let mut wider = rules();
        wider.remove(2);
        let decisions = vec![asked("ann", "a", Subscribe, "home/#", 1)];
        for (other, effect, word) in [
            (
                narrower,
                Turn::Narrowed,
                "withheld inside it by the new rule",
            ),
            (wider, Turn::Widened, "not withheld any more by rule 3"),
        ] {
            let run = dry_run(
                decisions.clone(),
                &Policy::new(rules()),
                &Policy::new(other),
                same,
            );
            assert_eq!(run.differences[0].effect, effect);
            assert!(run.differences[0].would.contains(word), "{run:?}");
        }
    }

    #[test]
    fn a_client_that_asked_with_several_roles_is_one_client() {
        let with = |client_id, role: &str| Asked {
            roles: ["family".into(), role.into()].into(),
            ..asked("ann", client_id, Publish, "home/x", 1)
        };
        let decisions = vec![
            with("a1", "cook"),
            with("a2", "cook"),
            with("a1", "guard"),
            with("a1", "nurse"),
        ];
        let run = dry_run(decisions, &Policy::new(rules()), &Policy::new([]), same);
        assert_eq!(run.differences.len(), 1, "{run:?}");
        let difference = &run.differences[0];
        assert_eq!((difference.clients, difference.count), (2, 4));
    }

    #[test]
    fn other_roles_are_asked_about_and_nothing_else_is() {
        let policy = Policy::new(rules());
        let decisions = vec![
            asked("ann", "a", Publish, "home/x", 1),
            asked("bob", "b", Publish, "home/x", 1),
        ];
        let none_for_ann = |asked: &Asked| match &*asked.name {
            "ann" => [].into(),
            _ => asked.roles.clone(),
        };
        let run = dry_run(decisions.clone(), &policy, &policy, none_for_ann);
        assert_eq!(run.differences.len(), 1, "{run:?}");
        assert_eq!(run.differences[0].would, "denied: no rule allows it");
        assert_eq!(dry_run(decisions, &policy, &policy, same).differences, []);
    }

    #[test]
    fn no_more_than_some_are_told_and_the_rest_is_counted() {
        let decisions = (0..TOLD + 7)
            .map(|n| asked("ann", "a", Publish, &format!("home/{n}"), 1))
            .collect();
        let run = dry_run(decisions, &Policy::new(rules()), &Policy::new([]), same);
        assert_eq!((run.differences.len(), run.more), (TOLD, 7));
    }
}
