//! "May X do Y, and by which rule": the answer in words, for the operator.

use serde::{Deserialize, Serialize};

use super::permissions::intersection;
use super::{Action, Effect, Permissions, Policy, Reason, Rule, Subject, Who, scope};
use crate::mqtt::covers;

/// A decision with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub allowed: bool,
    /// The decision in one line, as logs and audit entries have it.
    pub decision: String,
    /// The rule that decided, if one did.
    pub rule: Option<i64>,
    /// Why that rule applies to the user, and its filter after replacing variables.
    pub origin: Option<String>,
    /// What of a refused filter would be allowed by itself; nothing if nothing of it is. At most [`Part::MAX`].
    #[serde(default)]
    pub parts: Vec<Part>,
    /// Denies inside an allowed subscription, and allows that a variable's value silenced.
    pub notes: Vec<String>,
}

/// A filter inside a refused one that would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub filter: String,
    /// The rule that allows it; `None`: a scope does.
    pub rule: Option<i64>,
    /// Why that rule applies.
    pub origin: String,
    /// Rules that withhold messages inside it.
    pub withheld_by: Vec<i64>,
}

impl Part {
    pub const MAX: usize = 100;
}

/// Asks the policy the very question a session asks: a topic name for publish, a topic filter for subscribe (a
/// `$share/GROUP/` in front is skipped, as P2 says).
pub fn explain(policy: &Policy, subject: &Subject, action: Action, topic: &str) -> Explanation {
    let permissions = policy.permissions(subject);
    let filter = unshared(topic);
    let decision = match action {
        Action::Publish => permissions.publish(topic),
        Action::Subscribe => permissions.subscribe(filter),
    };
    let rule = match decision.reason {
        Reason::Rule(rule) => Some(rule),
        _ => None,
    };
    let mut notes = Vec::new();
    if action == Action::Subscribe && decision.allowed {
        let denies = permissions.denies_within(filter);
        notes.extend(denies.map(|rule| {
            format!(
                "messages inside it are withheld by rule {}: {rule}",
                rule.id
            )
        }));
    }
    let parts = match action {
        Action::Subscribe if !decision.allowed => parts(&permissions, filter),
        _ => Vec::new(),
    };
    let said = scope::rules(subject.scopes);
    let silenced = said.iter().chain(policy.rules_for(subject)).filter(|rule| {
        rule.action == action
            && rule.effect == Effect::Allow
            && permissions.effective_filter(rule).is_none()
    });
    notes.extend(silenced.map(|rule| {
        format!(
            "{} never matches here, because of the value of a variable: {rule}",
            rule.called()
        )
    }));
    Explanation {
        allowed: decision.allowed,
        decision: decision.to_string(),
        rule: rule.and_then(stored),
        origin: rule.map(|rule| origin(rule, permissions.effective_filter(rule))),
        parts,
        notes,
    }
}

/// The widest filters inside a refused one that would be allowed, each by one rule (P2).
fn parts(permissions: &Permissions, filter: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (allowed, rule) in permissions.allows_within(filter) {
        let Some(common) = intersection(allowed, filter) else {
            continue;
        };
        let known = parts.iter().any(|part| covers(&part.filter, &common));
        // A deny may cover all of it.
        if known || parts.len() >= Part::MAX || !permissions.subscribe(&common).allowed {
            continue;
        }
        parts.retain(|part| !covers(&common, &part.filter));
        let denies = permissions.denies_within(&common);
        parts.push(Part {
            rule: stored(rule),
            origin: origin(rule, permissions.effective_filter(rule)),
            withheld_by: denies.map(|rule| rule.id).collect(),
            filter: common,
        });
    }
    parts
}

/// The number that the operator knows the rule by.
fn stored(rule: &Rule) -> Option<i64> {
    (rule.id != Rule::OF_SCOPE).then_some(rule.id)
}

fn origin(rule: &Rule, effective: Option<&str>) -> String {
    let whom = match &rule.who {
        Who::Everyone => "it is for everyone".to_owned(),
        Who::Role(role) => format!("the user has the role {role}"),
        Who::Scope(scope) => format!("the token has the scope {scope}"),
        Who::User { realm, name } => format!("it is for the user {realm}:{name} itself"),
    };
    match effective {
        Some(filter) if filter != rule.filter.as_str() => {
            format!("{whom}; its filter here is {filter}")
        }
        _ => whom,
    }
}

fn unshared(topic: &str) -> &str {
    topic
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn policy(rules: &[(Effect, Action, &str, Who)]) -> Policy {
        Policy::new(
            rules
                .iter()
                .zip(1..)
                .map(|((effect, action, filter, who), id)| Rule {
                    id,
                    effect: *effect,
                    action: *action,
                    filter: filter.parse().unwrap(),
                    who: who.clone(),
                }),
        )
    }

    #[test]
    fn an_explanation_names_the_rule_where_it_came_from_and_its_filter() {
        let policy = policy(&[
            (
                Effect::Allow,
                Action::Subscribe,
                "home/%u/#",
                Who::Role("family".into()),
            ),
            (
                Effect::Deny,
                Action::Subscribe,
                "home/+/safe",
                Who::Everyone,
            ),
            (Effect::Allow, Action::Subscribe, "dev/%d", Who::Everyone),
        ]);
        let roles: [Arc<str>; 1] = ["family".into()];
        let who = Subject {
            realm: "local",
            name: "ann",
            client_id: "c",
            device: None,
            roles: &roles,
            scopes: &[],
        };
        let answer = explain(&policy, &who, Action::Subscribe, "$share/g/home/ann/#");
        assert!(answer.allowed);
        assert_eq!(answer.rule, Some(1));
        assert_eq!(
            answer.origin.as_deref(),
            Some("the user has the role family; its filter here is home/ann/#")
        );
        assert_eq!(answer.notes.len(), 2, "{:?}", answer.notes);
        assert!(answer.notes[0].contains("rule 2") && answer.notes[1].contains("rule 3"));

        let answer = explain(&policy, &who, Action::Subscribe, "#");
        assert!(!answer.allowed);
        let part = Part {
            filter: "home/ann/#".to_owned(),
            rule: Some(1),
            origin: "the user has the role family; its filter here is home/ann/#".to_owned(),
            withheld_by: vec![2],
        };
        assert_eq!(answer.parts, [part]);

        let answer = explain(&policy, &who, Action::Publish, "home/ann/x");
        assert_eq!(
            (answer.allowed, answer.rule, answer.decision.as_str()),
            (false, None, "denied: no rule allows it")
        );
    }

    #[test]
    fn of_a_refused_filter_the_widest_allowed_parts_are_told_and_no_denied_one() {
        let allow = |filter| (Effect::Allow, Action::Subscribe, filter, Who::Everyone);
        let deny = |filter| (Effect::Deny, Action::Subscribe, filter, Who::Everyone);
        let policy = policy(&[
            allow("home/+/x"),
            allow("home/kitchen/x"),
            allow("garden/#"),
            allow("home/bath/#"),
            allow("$SYS/#"),
            allow("cellar/+"),
            deny("home/bath/#"),
            deny("cellar/safe"),
        ]);
        let who = Subject {
            realm: "local",
            name: "ann",
            client_id: "c",
            device: None,
            roles: &[],
            scopes: &[],
        };
        for (asked, expected) in [
            ("home/#", &["home/+/x"][..]),
            ("#", &["home/+/x", "garden/#", "cellar/+"]),
            ("$share/g/home/#", &["home/+/x"]),
            (
                "+/kitchen/#",
                &["home/kitchen/x", "garden/kitchen/#", "cellar/kitchen"],
            ),
            ("cellar/safe", &[]),
            ("attic/#", &[]),
        ] {
            let answer = explain(&policy, &who, Action::Subscribe, asked);
            let parts: Vec<_> = answer.parts.iter().map(|part| &*part.filter).collect();
            assert_eq!((answer.allowed, &*parts), (false, expected), "{asked}");
        }
        let answer = explain(&policy, &who, Action::Subscribe, "#");
        assert_eq!(answer.parts[2].withheld_by, [8]);
        assert_eq!(
            explain(&policy, &who, Action::Subscribe, "garden/#").parts,
            []
        );
    }
}
