//! What does the scope of a token allow by itself? `mqtt:pub:FILTER` and `mqtt:sub:FILTER` are allow rules for whoever has
//! them; every other scope is only a name that stored rules may be for.
//!
//! How a scope of another form becomes one of these is `auth`'s business.

use std::sync::Arc;

use super::{Action, Effect, Rule, Who};

/// What a scope begins with that allows publishing to the filter behind it.
const PUBLISH_SCOPE: &str = "mqtt:pub:";
/// The same for subscribing.
const SUBSCRIBE_SCOPE: &str = "mqtt:sub:";

/// The rules that scopes say. One whose filter is not valid says nothing.
pub(super) fn rules(scopes: &[Arc<str>]) -> Vec<Arc<Rule>> {
    scopes
        .iter()
        .filter_map(|scope| rule(scope).map(Arc::new))
        .collect()
}

fn rule(scope: &Arc<str>) -> Option<Rule> {
    let (action, filter) = match scope.strip_prefix(PUBLISH_SCOPE) {
        Some(filter) => (Action::Publish, filter),
        None => (Action::Subscribe, scope.strip_prefix(SUBSCRIBE_SCOPE)?),
    };
    Some(Rule {
        id: Rule::OF_SCOPE,
        effect: Effect::Allow,
        action,
        filter: filter.parse().ok()?,
        who: Who::Scope(scope.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{Policy, Subject, explain};

    fn subject<'a>(name: &'a str, scopes: &'a [Arc<str>]) -> Subject<'a> {
        Subject {
            realm: "home",
            name,
            client_id: "c",
            device: None,
            roles: &[],
            scopes,
        }
    }

    fn stored(id: i64, effect: Effect, action: Action, filter: &str, scope: &str) -> Rule {
        Rule {
            id,
            effect,
            action,
            filter: filter.parse().unwrap(),
            who: Who::Scope(scope.into()),
        }
    }

    // P1, P2
    #[test]
    fn scopes_allow_what_they_say_with_variables_and_nothing_else() {
        let scopes: Vec<Arc<str>> = [
            "mqtt:pub:devices/%u/#",
            "mqtt:sub:site/+/temp",
            "mqtt:pub:#x",
            "mqtt:pub:",
            "openid",
        ]
        .map(Arc::from)
        .to_vec();
        let may = Policy::new([]).permissions(&subject("d7", &scopes));
        for (topic, allowed) in [
            ("devices/d7/state", true),
            ("devices/d7", true),
            ("devices/d8/state", false),
            ("site/1/temp", false),
            ("openid", false),
        ] {
            assert_eq!(may.publish(topic).allowed, allowed, "{topic}");
        }
        for (filter, allowed) in [
            ("site/+/temp", true),
            ("site/1/temp", true),
            ("site/#", false),
            ("devices/d7/#", false),
        ] {
            assert_eq!(may.subscribe(filter).allowed, allowed, "{filter}");
        }
        let odd = Policy::new([]).permissions(&subject("a/b", &scopes));
        assert!(!odd.publish("devices/a/b/x").allowed);
    }

    #[test]
    fn a_stored_rule_may_be_for_a_scope_and_a_deny_beats_what_a_scope_says() {
        let policy = Policy::new([
            stored(1, Effect::Allow, Action::Subscribe, "public/#", "openid"),
            stored(
                2,
                Effect::Deny,
                Action::Publish,
                "devices/+/lock",
                "mqtt:pub:devices/%u/#",
            ),
        ]);
        let scopes: Vec<Arc<str>> = ["mqtt:pub:devices/%u/#", "openid"].map(Arc::from).to_vec();
        let who = subject("d7", &scopes);
        let may = policy.permissions(&who);
        assert!(may.subscribe("public/#").allowed);
        assert!(may.publish("devices/d7/state").allowed);
        assert!(!may.publish("devices/d7/lock").allowed);
        let nobody = policy.permissions(&subject("d7", &[]));
        assert!(!nobody.subscribe("public/x").allowed);

        let why = explain(&policy, &who, Action::Publish, "devices/d7/state");
        assert_eq!((why.allowed, why.rule), (true, None));
        assert_eq!(
            why.decision,
            "allowed by a scope: allow publish devices/%u/# for scope:mqtt:pub:devices/%u/#"
        );
        assert_eq!(
            why.origin.as_deref(),
            Some("the token has the scope mqtt:pub:devices/%u/#; its filter here is devices/d7/#")
        );
        let why = explain(&policy, &who, Action::Subscribe, "public/1");
        assert_eq!(why.rule, Some(1));
        let odd = subject("a/b", &scopes);
        let why = explain(&policy, &odd, Action::Publish, "devices/a/b");
        assert!(
            why.notes[0].contains("a scope never matches"),
            "{:?}",
            why.notes
        );
    }
}
