use std::sync::Arc;

use proptest::prelude::*;

use super::{intersection, overlap};
use crate::acl::{Action, Effect, Policy, PolicyHandle, Reason, Rule, Subject, Who};
use crate::mqtt::{covers, matches};

fn rule(id: i64, effect: Effect, action: Action, filter: &str, who: Who) -> Rule {
    Rule {
        id,
        effect,
        action,
        filter: filter.parse().unwrap(),
        who,
    }
}

fn alice(roles: &[Arc<str>]) -> Subject<'_> {
    Subject {
        realm: "local",
        name: "alice",
        client_id: "c1",
        device: None,
        roles,
        scopes: &[],
    }
}

use Action::{Publish, Subscribe};
use Effect::{Allow, Deny};

#[test]
fn what_no_rule_allows_is_denied() {
    let permissions = Policy::new([]).permissions(&alice(&[]));
    assert_eq!(permissions.publish("a").reason, Reason::NoRule);
    assert!(!permissions.publish("a").allowed && !permissions.subscribe("a").allowed);
}

#[test]
fn a_deny_beats_an_allow_whatever_the_order() {
    for (first, second) in [(Allow, Deny), (Deny, Allow)] {
        let policy = Policy::new([
            rule(1, first, Publish, "a/#", Who::Everyone),
            rule(
                2,
                second,
                Publish,
                "a/#",
                Who::User {
                    realm: "local".into(),
                    name: "alice".into(),
                },
            ),
        ]);
        assert!(!policy.permissions(&alice(&[])).publish("a/b").allowed);
    }
}

#[test]
fn rules_apply_to_their_user_their_role_or_everyone_and_to_nobody_else() {
    let user = |realm: &str, name: &str| Who::User {
        realm: realm.into(),
        name: name.into(),
    };
    let policy = Policy::new([
        rule(1, Allow, Publish, "mine", user("local", "alice")),
        rule(2, Allow, Publish, "other", user("local", "bob")),
        rule(
            3,
            Allow,
            Publish,
            "realm",
            user("https://id.example", "alice"),
        ),
        rule(4, Allow, Publish, "role", Who::Role("staff".into())),
        rule(5, Allow, Publish, "foreign-role", Who::Role("guest".into())),
        rule(6, Allow, Publish, "all", Who::Everyone),
    ]);
    let roles: [Arc<str>; 2] = ["staff".into(), "staff".into()];
    let permissions = policy.permissions(&alice(&roles));
    for (topic, allowed) in [
        ("mine", true),
        ("other", false),
        ("realm", false),
        ("role", true),
        ("foreign-role", false),
        ("all", true),
    ] {
        assert_eq!(permissions.publish(topic).allowed, allowed, "{topic}");
    }
}

// P2
#[test]
fn clients_never_publish_to_dollar_topics_even_when_a_rule_says_so() {
    let policy = Policy::new([
        rule(1, Allow, Publish, "#", Who::Everyone),
        rule(2, Allow, Publish, "$SYS/#", Who::Everyone),
        rule(3, Allow, Publish, "$x/y", Who::Everyone),
    ]);
    let permissions = policy.permissions(&alice(&[]));
    for topic in ["$SYS/broker/uptime", "$x/y", "$"] {
        assert_eq!(permissions.publish(topic).reason, Reason::DollarTopic);
        assert!(!permissions.publish(topic).allowed);
    }
    assert!(permissions.publish("a/$x").allowed);
}

// P2
#[test]
fn one_allow_must_cover_the_whole_filter_by_itself() {
    let policy = Policy::new([
        rule(1, Allow, Subscribe, "a/b", Who::Everyone),
        rule(2, Allow, Subscribe, "a/+/c", Who::Everyone),
        rule(3, Allow, Subscribe, "d/#", Who::Everyone),
        rule(4, Allow, Subscribe, "e", Who::Everyone),
        rule(5, Allow, Subscribe, "e/#", Who::Everyone),
    ]);
    let permissions = policy.permissions(&alice(&[]));
    for (filter, allowed) in [
        ("a/b", true),
        ("a/+", false),
        ("a/#", false),
        ("a/x/c", true),
        ("a/+/c", true),
        ("+/+/c", false),
        ("d", true),
        ("d/#", true),
        ("d/+/x/#", true),
        ("#", false),
        ("+", false),
    ] {
        assert_eq!(permissions.subscribe(filter).allowed, allowed, "{filter}");
    }
}

// P2
#[test]
fn reading_sys_needs_an_explicit_allow() {
    let everything = Policy::new([rule(1, Allow, Subscribe, "#", Who::Everyone)]);
    let permissions = everything.permissions(&alice(&[]));
    assert!(permissions.subscribe("#").allowed);
    assert!(!permissions.subscribe("$SYS/#").allowed);
    assert!(!permissions.subscribe("$SYS/broker/uptime").allowed);
    let explicit = Policy::new([rule(1, Allow, Subscribe, "$SYS/#", Who::Everyone)]);
    assert!(
        explicit
            .permissions(&alice(&[]))
            .subscribe("$SYS/broker/+")
            .allowed
    );
}

#[test]
fn a_deny_that_covers_the_filter_refuses_it_and_a_deny_inside_it_is_asked_per_delivery() {
    let policy = Policy::new([
        rule(1, Allow, Subscribe, "home/#", Who::Everyone),
        rule(2, Deny, Subscribe, "home/safe/#", Who::Everyone),
    ]);
    let permissions = policy.permissions(&alice(&[]));
    assert!(permissions.has_receive_denies());
    assert!(permissions.subscribe("home/#").allowed);
    assert!(!permissions.subscribe("home/safe/code").allowed);
    assert!(permissions.receive("home/door").allowed);
    assert!(
        !permissions.receive("home/safe").allowed && !permissions.receive("home/safe/code").allowed
    );
    assert_eq!(
        permissions
            .denies_within("home/+/code")
            .map(|rule| rule.id)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(permissions.denies_within("home/door/#").count(), 0);
    let reason = permissions.receive("home/safe").to_string();
    assert_eq!(
        reason,
        "denied by rule 2: deny subscribe home/safe/# for everyone"
    );
}

// P1
#[test]
fn a_deny_with_an_unusable_variable_denies_every_value_of_its_level() {
    let policy = Policy::new([
        rule(1, Allow, Publish, "#", Who::Everyone),
        rule(2, Deny, Publish, "cmd/%c/stop", Who::Everyone),
        rule(3, Allow, Publish, "own/%c", Who::Everyone),
    ]);
    let mut subject = alice(&[]);
    assert!(
        policy
            .permissions(&subject)
            .publish("cmd/other/stop")
            .allowed
    );
    assert!(!policy.permissions(&subject).publish("cmd/c1/stop").allowed);
    subject.client_id = "x/#";
    assert!(
        !policy
            .permissions(&subject)
            .publish("cmd/other/stop")
            .allowed
    );
    assert!(!policy.permissions(&subject).publish("cmd/c1/stop").allowed);
}

#[test]
fn a_replaced_policy_has_a_higher_generation_and_old_permissions_keep_theirs() {
    let handle = PolicyHandle::new(Policy::new([]));
    let before = handle.load().permissions(&alice(&[]));
    assert_eq!(before.generation(), handle.generation());
    handle.replace(Policy::new([rule(1, Allow, Publish, "a", Who::Everyone)]));
    assert!(handle.generation() > before.generation());
    assert!(
        !before.publish("a").allowed && handle.load().permissions(&alice(&[])).publish("a").allowed
    );
}

/// A few names on few levels, so that filters and topics meet often; `$s` and bad variable values included.
fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$s", "+", "%u", "%c", "%d", "x%u"])
}

fn template() -> impl Strategy<Value = String> {
    (prop::collection::vec(level(), 1..4), any::<bool>()).prop_filter_map(
        "empty filter",
        |(levels, hash)| {
            let mut text = levels.join("/");
            if hash {
                text.push_str("/#");
            }
            (!text.is_empty()).then_some(text)
        },
    )
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "", "$s", "u1", "xu1"]),
        1..5,
    )
    .prop_map(|levels| levels.join("/"))
    .prop_filter("a topic name is not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    (
        prop::collection::vec(prop::sample::select(vec!["a", "b", "+", "u1", "$s"]), 0..4),
        any::<bool>(),
    )
        .prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["u1", "a", "", "a/b", "+", "#", "$s", "x\0"])
}

/// Rule P1, word by word and slowly: what one rule's filter is for these values.
fn naive_filter(
    effect: Effect,
    template: &str,
    user: &str,
    client: &str,
    device: Option<&str>,
) -> Option<String> {
    let mut levels: Vec<String> = Vec::new();
    for level in template.split('/') {
        let mut bad = false;
        let mut text = level.to_owned();
        for (variable, value) in [("%u", user), ("%c", client), ("%d", device.unwrap_or(""))] {
            if level.contains(variable) {
                bad |= value.is_empty() || value.chars().any(|c| "/+#\0".contains(c));
                text = text.replace(variable, value);
            }
        }
        bad |=
            effect == Allow && levels.is_empty() && level.starts_with('%') && text.starts_with('$');
        match (bad, effect) {
            (false, _) => levels.push(text),
            (true, Deny) => levels.push("+".to_owned()),
            (true, Allow) => return None,
        }
    }
    Some(levels.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // P1, P2
    #[test]
    fn every_decision_is_the_one_a_naive_reading_of_the_rules_gives(
        rules in prop::collection::vec((any::<bool>(), any::<bool>(), template(), 0..3u8), 0..8),
        user in value(), client in value(), device in prop::option::of(value()),
        topic in topic(), filter in filter(),
    ) {
        let built: Vec<Rule> = rules.iter().zip(1..).map(|((deny, publish, filter, who), id)| rule(
            id,
            if *deny { Deny } else { Allow },
            if *publish { Publish } else { Subscribe },
            filter,
            match who { 0 => Who::Everyone, 1 => Who::Role("r".into()), _ => Who::Role("absent".into()) },
        )).collect();
        let roles: [Arc<str>; 1] = ["r".into()];
        let subject = Subject { realm: "local", name: user, client_id: client, device, roles: &roles, scopes: &[] };
        let permissions = Policy::new(built.clone()).permissions(&subject);

        let any = |effect: Effect, action: Action, test: &dyn Fn(&str) -> bool| built.iter().any(|rule| {
            rule.effect == effect && rule.action == action && rule.who != Who::Role("absent".into())
                && naive_filter(effect, rule.filter.as_str(), user, client, device).is_some_and(|filter| test(&filter))
        });
        let publish = !topic.starts_with('$')
            && any(Allow, Publish, &|rule| matches(rule, &topic)) && !any(Deny, Publish, &|rule| matches(rule, &topic));
        prop_assert_eq!(permissions.publish(&topic).allowed, publish);
        let subscribe = any(Allow, Subscribe, &|rule| covers(rule, &filter))
            && !any(Deny, Subscribe, &|rule| covers(rule, &filter));
        prop_assert_eq!(permissions.subscribe(&filter).allowed, subscribe);
        prop_assert_eq!(permissions.receive(&topic).allowed, !any(Deny, Subscribe, &|rule| matches(rule, &topic)));
    }

    #[test]
    fn the_intersection_of_two_filters_matches_what_both_match_and_nothing_else(
        one in filter(), other in filter(), topic in topic(),
    ) {
        let both = matches(&one, &topic) && matches(&other, &topic);
        let common = intersection(&one, &other);
        prop_assert_eq!(common.as_deref().is_some_and(|common| matches(common, &topic)), both);
        prop_assert_eq!(common.is_some(), overlap(&one, &other));
    }

    #[test]
    fn two_filters_that_match_one_topic_overlap(one in filter(), other in filter(), topic in topic()) {
        if matches(&one, &topic) && matches(&other, &topic) {
            prop_assert!(overlap(&one, &other) && overlap(&other, &one));
        }
    }
}

#[test]
fn filters_without_a_common_topic_do_not_overlap() {
    for (one, other) in [
        ("a/b", "a/c"),
        ("a", "a/+"),
        ("a/+", "b/#"),
        ("$s/a", "#"),
        ("$s/a", "+/a"),
        ("a/b/c", "+/+"),
    ] {
        assert!(
            !overlap(one, other) && !overlap(other, one),
            "{one} {other}"
        );
    }
}

#[test]
fn permissions_take_something_when_an_allow_is_gone_or_a_deny_is_new() {
    let allow = |id, filter| rule(id, Allow, Subscribe, filter, Who::Everyone);
    let deny = |id, filter| rule(id, Deny, Subscribe, filter, Who::Everyone);
    let permissions = |rules: &[Rule]| Policy::new(rules.to_vec()).permissions(&alice(&[]));
    let before = permissions(&[allow(1, "a/%u"), deny(2, "a/b")]);
    for (after, takes) in [
        (&[allow(1, "a/%u"), deny(2, "a/b")][..], false),
        (&[allow(7, "a/alice"), deny(2, "a/b")], false),
        (&[allow(1, "a/%u"), allow(3, "#")], false),
        (&[deny(2, "a/b")], true),
        (&[allow(1, "a/%u"), deny(2, "a/b"), deny(3, "x")], true),
        (&[allow(1, "a/%u"), deny(2, "a/c")], true),
        (
            &[
                allow(1, "a/%u"),
                deny(2, "a/b"),
                rule(3, Deny, Publish, "#", Who::Everyone),
            ],
            false,
        ),
    ] {
        assert_eq!(permissions(after).takes_from(&before), takes, "{after:?}");
    }
}
