//! The rules of the dynamic security plugin as rules of ours.
//!
//! There the first match by priority decides, here a deny beats every allow: what is allowed here matches an allow and no
//! deny, so the first match there was an allow as well. Where an allow had priority over a deny, less is allowed here.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use super::dynsec::{Dynsec, Role};
use super::plan::{Draft, literal};
use crate::acl::{Action, Effect, Who};

/// Adds the rules of all roles, and says which roles each client has.
pub(super) fn add(dynsec: &Dynsec, draft: &mut Draft) {
    let (mut names, mut ours_by_name) = (Names::default(), BTreeMap::new());
    let anonymous = dynsec.roles_of(None).unwrap_or_default();
    for (name, role) in &dynsec.roles {
        let ours = names.role(&draft.choices.role, name);
        let mut whom = vec![Who::Role(ours.as_str().into())];
        if anonymous.contains(name) {
            whom.extend(draft.anonymous_role());
        }
        for who in &whom {
            rules(dynsec, role, who, draft);
        }
        remarks(dynsec, name, role, draft);
        ours_by_name.insert(name.as_str(), ours);
    }
    for (client, known) in &dynsec.clients {
        // A role may be there by a group and again by itself.
        let roles: BTreeSet<&String> = known
            .roles
            .iter()
            .filter_map(|name| ours_by_name.get(name.as_str()))
            .collect();
        let roles = roles.into_iter().cloned().collect();
        draft.roles.insert(client.clone(), roles);
    }
    for who in draft.common() {
        if dynsec.defaults.publish {
            draft.rule(Effect::Allow, Action::Publish, "#", &who, None);
        }
        if dynsec.defaults.subscribe && dynsec.defaults.receive {
            draft.rule(Effect::Allow, Action::Subscribe, "#", &who, None);
            draft.rule(Effect::Allow, Action::Subscribe, "$SYS/#", &who, None);
        }
    }
    let text = "the dynamic security plugin lets the first match by priority decide; here a deny beats every allow: where an \
         allow had priority over a deny, less is allowed, and the replay lists it";
    draft.remark(Kind::Differs, None, text);
}

fn rules(dynsec: &Dynsec, role: &Role, who: &Who, draft: &mut Draft) {
    for acl in role
        .publish
        .iter()
        .filter(|acl| !acl.topic.starts_with('$'))
    {
        draft.rule(
            effect(acl.allow),
            Action::Publish,
            &template(dynsec, &acl.topic),
            who,
            None,
        );
    }
    let denies = role
        .receive
        .iter()
        .chain(&role.subscribe_pattern)
        .filter(|acl| !acl.allow);
    for acl in denies {
        draft.rule(
            Effect::Deny,
            Action::Subscribe,
            &template(dynsec, &acl.topic),
            who,
            None,
        );
    }
    for acl in role.subscribe_literal.iter().filter(|acl| !acl.allow) {
        // One with wildcards refuses that filter alone, and hides nothing that others do not show.
        if !acl.topic.contains(['+', '#']) {
            draft.rule(
                Effect::Deny,
                Action::Subscribe,
                &literal(&acl.topic),
                who,
                None,
            );
        }
    }
    for filter in allowed_filters(dynsec, role) {
        if !filter.starts_with("$CONTROL") {
            draft.rule(Effect::Allow, Action::Subscribe, &filter, who, None);
        }
    }
}

/// What may be subscribed to and is then delivered. Where nothing is delivered by default, that is where an allow to
/// subscribe and an allow to receive meet.
fn allowed_filters(dynsec: &Dynsec, role: &Role) -> BTreeSet<String> {
    let patterns = role.subscribe_pattern.iter().filter(|acl| acl.allow);
    let literals = role.subscribe_literal.iter().filter(|acl| acl.allow);
    let mut subscribed: BTreeSet<String> = patterns
        .map(|acl| template(dynsec, &acl.topic))
        .chain(literals.map(|acl| literal(&acl.topic)))
        .collect();
    if dynsec.defaults.receive {
        return subscribed;
    }
    if dynsec.defaults.subscribe {
        subscribed.extend(["#".to_owned(), "$SYS/#".to_owned()]);
    }
    let received = role.receive.iter().filter(|acl| acl.allow);
    let received: BTreeSet<String> = received.map(|acl| template(dynsec, &acl.topic)).collect();
    let both = |one: &String| -> Vec<String> {
        received
            .iter()
            .filter_map(|other| intersection(one, other))
            .collect()
    };
    subscribed.iter().flat_map(both).collect()
}

/// The filter that matches what both match, if there is one.
fn intersection(one: &str, other: &str) -> Option<String> {
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    if one.starts_with('$') && wild(other) || other.starts_with('$') && wild(one) {
        return None;
    }
    let (mut left, mut right) = (one.split('/'), other.split('/'));
    let mut levels: Vec<&str> = Vec::new();
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some("#"), None) | (None, Some("#")) => break,
            (Some("#"), Some(level)) => {
                levels.push(level);
                levels.extend(right.by_ref());
                break;
            }
            (Some(level), Some("#")) => {
                levels.push(level);
                levels.extend(left.by_ref());
                break;
            }
            (Some(level), Some("+")) | (Some("+"), Some(level)) => levels.push(level),
            (Some(level), Some(same)) if level == same => levels.push(level),
            _ => return None,
        }
    }
    Some(levels.join("/"))
}

fn remarks(dynsec: &Dynsec, name: &str, role: &Role, draft: &mut Draft) {
    if role.no_wildcards {
        let text = format!(
            "the role {name:?} forbids wildcards in subscriptions; here they are allowed inside what may be read"
        );
        draft.remark(Kind::Wider, None, text);
    }
    let lists = [
        &role.publish,
        &role.receive,
        &role.subscribe_pattern,
        &role.subscribe_literal,
    ];
    let topics = || lists.iter().flat_map(|acls| acls.iter());
    if role
        .publish
        .iter()
        .any(|acl| acl.allow && acl.topic.starts_with('$'))
    {
        let text = format!(
            "the role {name:?} may publish to $ topics ($CONTROL among them); clients never do here, and accounts are \
             changed with postern user and postern acl"
        );
        draft.remark(Kind::Unmapped, None, text);
    }
    let variable = |topic: &str| topic.split('/').any(|level| matches!(level, "%u" | "%c"));
    if !dynsec.substitutes && topics().any(|acl| variable(&acl.topic)) {
        let text = format!(
            "the role {name:?} has topics with %u or %c, which the plugin takes literally before Mosquitto 2.1, and this file \
             was written by such a one: so they are imported; add rules with the variables if they were meant"
        );
        draft.remark(Kind::Differs, None, text);
    }
    if role
        .subscribe_literal
        .iter()
        .any(|acl| !acl.allow && acl.topic.contains(['+', '#']))
    {
        let text = format!(
            "the role {name:?} denies subscribing to one literal filter with wildcards, which hides nothing that narrower \
             filters do not show: left out"
        );
        draft.remark(Kind::Differs, None, text);
    }
}

fn effect(allow: bool) -> Effect {
    match allow {
        true => Effect::Allow,
        false => Effect::Deny,
    }
}

/// Levels that are exactly a variable stay one, if the plugin replaces them.
fn template(dynsec: &Dynsec, topic: &str) -> String {
    let level = |level: &str| match level {
        "%u" | "%c" if dynsec.substitutes => level.to_owned(),
        other => literal(other),
    };
    topic.split('/').map(level).collect::<Vec<_>>().join("/")
}

/// Names that roles may have here, each once.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    const MAX: usize = 64;

    fn role(&mut self, prefix: &str, name: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let plain: String = name
            .chars()
            .map(|c| if fits(c) { c } else { '-' })
            .collect();
        let base = format!("{prefix}.{plain}");
        let base = &base[..base.len().min(Self::MAX - 6)];
        let mut unique = base.to_owned();
        let mut number = 1;
        while !self.0.insert(unique.clone()) {
            number += 1;
            unique = format!("{base}-{number}");
        }
        unique
    }
}

#[cfg(test)]
mod tests {
    use super::intersection;

    #[test]
    fn two_filters_meet_in_one_filter_or_not_at_all() {
        for (one, other, both) in [
            ("a/#", "a/b", Some("a/b")),
            ("a/#", "a", Some("a")),
            ("#", "a/+", Some("a/+")),
            ("+/b", "a/+", Some("a/b")),
            ("a/+/#", "a/b/+/c", Some("a/b/+/c")),
            ("%u/+", "%u/x", Some("%u/x")),
            ("%u/+", "+/x", Some("%u/x")),
            ("a/#", "b/#", None),
            ("a/b", "a/b/c", None),
            ("#", "$SYS/#", None),
            ("$SYS/#", "$SYS/broker/+", Some("$SYS/broker/+")),
        ] {
            assert_eq!(intersection(one, other).as_deref(), both, "{one} {other}");
            assert_eq!(intersection(other, one).as_deref(), both, "{other} {one}");
        }
    }
}
