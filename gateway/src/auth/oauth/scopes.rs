//! Which of a token's scopes are permissions? All forms become the one that `acl` understands.

use std::sync::Arc;

use broker_config::ScopeForm;

use super::TokenProblem;

/// The form of permissions that `acl` understands: what they begin with.
const PUBLISH_SCOPE: &str = "mqtt:pub:";
const SUBSCRIBE_SCOPE: &str = "mqtt:sub:";

/// Bytes of the longest scope that counts: no rule is for a longer one.
const SCOPE_BYTES_MAX: usize = 1024 + 16;

/// Scopes of one token that count. One that has more is refused: a rule that denies may be for any of them.
const SCOPES_MAX: usize = 128;
/// Bytes of all of them: a session keeps them as long as it lives.
const SCOPES_BYTES_MAX: usize = 16 * 1024;

/// The scopes of a principal: their names, for rules, and those that are permissions in the form
/// `mqtt:pub:FILTER`, `mqtt:sub:FILTER`. A scope of a form that is not asked for is never a permission.
pub(super) fn scopes(
    given: &[&str],
    forms: &[ScopeForm],
    prefix: &str,
) -> Result<Arc<[Arc<str>]>, TokenProblem> {
    let mut scopes: Vec<Arc<str>> = Vec::new();
    let mut add = |scope: String| {
        if is_scope(&scope) && !scopes.iter().any(|known| **known == *scope) {
            scopes.push(scope.into());
        }
    };
    for scope in given.iter().take(2 * SCOPES_MAX) {
        if !is_permission(scope) {
            add((*scope).to_owned());
        }
        let Some(body) = scope.strip_prefix(prefix) else {
            continue;
        };
        if forms.contains(&ScopeForm::Postern) && is_permission(body) {
            add(body.to_owned());
        }
        if forms.contains(&ScopeForm::RabbitMq)
            && let Some(ours) = from_rabbitmq(body)
        {
            add(ours);
        }
    }
    let bytes: usize = scopes.iter().map(|scope| scope.len()).sum();
    match given.len() > SCOPES_MAX || bytes > SCOPES_BYTES_MAX {
        true => Err(TokenProblem::TooMany),
        false => Ok(scopes.into()),
    }
}

/// RFC 6749, 3.3.
fn is_scope(text: &str) -> bool {
    let usable = |b: u8| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    (1..=SCOPE_BYTES_MAX).contains(&text.len()) && text.bytes().all(usable)
}

fn is_permission(scope: &str) -> bool {
    scope.starts_with(PUBLISH_SCOPE) || scope.starts_with(SUBSCRIBE_SCOPE)
}

/// `read:VHOST/EXCHANGE/ROUTING_KEY` and `write:…`, as RabbitMQ's OAuth 2.0 backend has them for topics. MQTT lives in the
/// virtual host `/` and the exchange `amq.topic` there; the levels of a topic have dots between them, and `*` stands for any
/// text, dots included.
///
/// A routing key becomes a topic filter that allows nothing more. `*` at the end is everything below; as a level of its own
/// before that it is one level, although RabbitMQ means any number. What has no such filter (`a*`, `*.b` over several levels)
/// gives nothing.
fn from_rabbitmq(scope: &str) -> Option<String> {
    let (is_write, pattern) = match scope.strip_prefix("write:") {
        Some(pattern) => (true, pattern),
        None => (false, scope.strip_prefix("read:")?),
    };
    // With only two parts it is about exchanges and queues, and no topic.
    let mut parts = pattern.split('/');
    let (vhost, exchange) = (decoded(parts.next()?)?, decoded(parts.next()?)?);
    let key = decoded(parts.next()?)?;
    if parts.next().is_some() || !globs(&vhost, "/") || !globs(&exchange, "amq.topic") {
        return None;
    }
    let levels: Vec<&str> = key.split('.').collect();
    let (last, before) = levels.split_last()?;
    let mut filter = String::new();
    for level in before {
        filter.push_str(level_of(level)?);
        filter.push('/');
    }
    match *last {
        "*" if before.is_empty() => filter.push('#'),
        // "a.*" covers "a.b" and not "a"; but who may read all below "a" may subscribe to "a/#" there.
        "*" if is_write => filter.push_str("+/#"),
        "*" => filter.push('#'),
        last => filter.push_str(level_of(last)?),
    }
    let begin = if is_write {
        PUBLISH_SCOPE
    } else {
        SUBSCRIBE_SCOPE
    };
    Some(format!("{begin}{filter}"))
}

fn level_of(level: &str) -> Option<&str> {
    match level {
        "*" => Some("+"),
        level if level.contains(['*', '/', '+', '#', '\0']) => None,
        level => Some(level),
    }
}

/// Whether a pattern in which `*` is any text matches. Takes no longer than the two are long.
fn globs(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let text = text.strip_prefix(begin);
    let Some(mut text) = text.and_then(|text| text.strip_suffix(end)) else {
        return false;
    };
    // The first place of each is as good as any later one.
    middle.split('*').all(|part| match text.split_once(part) {
        Some((_, after)) => {
            text = after;
            true
        }
        None => false,
    })
}

/// The parts are percent-encoded (RFC 3986, 2.1). A percent sign that begins no octet stands for a variable and stays; one
/// that was encoded is doubled, so that it is none.
fn decoded(part: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(part.len());
    let bytes = part.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |n: usize| {
            bytes
                .get(at + n)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                let octet = u8::try_from(high * 16 + low).ok()?;
                octets.push(octet);
                if octet == b'%' {
                    octets.push(octet);
                }
                at += 3;
            }
            _ => {
                octets.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[&str], forms: &[ScopeForm], prefix: &str) -> Vec<String> {
        let scopes = scopes(given, forms, prefix).unwrap();
        scopes.iter().map(|scope| scope.to_string()).collect()
    }

    // P1
    #[test]
    fn what_becomes_of_scopes_is_what_rules_know_as_permissions() {
        use crate::acl::{Policy, Subject};
        let given = ["write:*/*/a", "read:*/*/b"];
        let scopes = scopes(&given, &[ScopeForm::RabbitMq], "").unwrap();
        let may = Policy::new([]).permissions(&Subject {
            realm: "home",
            name: "ann",
            client_id: "c",
            device: None,
            roles: &[],
            scopes: &scopes,
        });
        let publishes = ["a", "b"].map(|topic| may.publish(topic).allowed);
        let subscribes = ["a", "b"].map(|topic| may.subscribe(topic).allowed);
        assert_eq!((publishes, subscribes), ([true, false], [false, true]));
    }

    #[test]
    fn only_the_forms_that_are_asked_for_are_permissions() {
        let given = ["mqtt:pub:a/#", "read:*/*/b.c", "openid", "openid"];
        let (postern, rabbitmq) = (ScopeForm::Postern, ScopeForm::RabbitMq);
        assert_eq!(
            of(&given, &[postern], ""),
            ["mqtt:pub:a/#", "read:*/*/b.c", "openid"]
        );
        assert_eq!(
            of(&given, &[rabbitmq], ""),
            ["read:*/*/b.c", "mqtt:sub:b/c", "openid"]
        );
        assert_eq!(of(&given, &[], ""), ["read:*/*/b.c", "openid"]);
    }

    #[test]
    fn with_a_prefix_only_scopes_that_begin_with_it_are_permissions() {
        let given = ["gw.mqtt:sub:x", "mqtt:sub:y", "other.mqtt:sub:z"];
        assert_eq!(
            of(&given, &[ScopeForm::Postern], "gw."),
            ["gw.mqtt:sub:x", "mqtt:sub:x", "other.mqtt:sub:z"]
        );
    }

    #[test]
    fn rabbitmq_scopes_become_filters_that_allow_nothing_more() {
        for (scope, expected) in [
            ("read:*/*/sensors.kitchen", Some("mqtt:sub:sensors/kitchen")),
            ("write:*/*/*", Some("mqtt:pub:#")),
            ("read:*/*/*", Some("mqtt:sub:#")),
            ("write:%2F/amq.topic/a.*", Some("mqtt:pub:a/+/#")),
            ("read:%2F/amq.*/a.*", Some("mqtt:sub:a/#")),
            ("read:*/*/a.*.c", Some("mqtt:sub:a/+/c")),
            ("write:*/*/devices.%u.*", Some("mqtt:pub:devices/%u/+/#")),
            ("write:*/*/100%25.x", Some("mqtt:pub:100%%/x")),
            ("write:*/*/%c.x", Some("mqtt:pub:%c/x")),
            // Another virtual host, another exchange, no topic, no filter.
            ("read:prod/*/a", None),
            ("read:*/my.exchange/a", None),
            ("read:*/*", None),
            ("read:*/*/a/b", None),
            ("configure:*/*/a", None),
            ("read:*/*/a*", None),
            ("read:*/*/*a.b", None),
            ("read:*/*/a%2Fb", None),
            ("read:*/*/%23", None),
            ("read:*/*/a.%2B", None),
            ("read:*/*/%FF", None),
        ] {
            assert_eq!(from_rabbitmq(scope).as_deref(), expected, "{scope}");
        }
    }

    #[test]
    fn a_token_with_too_many_scopes_is_refused_and_what_is_no_scope_does_not_count() {
        let many: Vec<String> = (0..129).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(scopes(&many, &[], ""), Err(TokenProblem::TooMany));
        let long: Vec<String> = (0..17).map(|n| format!("{n:01000}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        assert_eq!(scopes(&long, &[], ""), Err(TokenProblem::TooMany));
        assert!(scopes(&long[..16], &[], "").is_ok());
        assert_eq!(scopes(&many[..128], &[], "").unwrap().len(), 128);
        assert!(of(&["a b", "", "\"", &"x".repeat(2_000)], &[], "").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_scope_becomes_a_permission_of_known_form_or_none(key in "[a-c*.%+#/u25]{0,12}", write: bool) {
            let verb = if write { "write" } else { "read" };
            if let Some(ours) = from_rabbitmq(&format!("{verb}:*/*/{key}")) {
                let begin = if write { PUBLISH_SCOPE } else { SUBSCRIBE_SCOPE };
                let filter = ours.strip_prefix(begin).expect("of its own kind");
                // Where there is a wildcard, there was a star.
                let wild = filter.matches(['+', '#']).count();
                proptest::prop_assert_eq!(wild > 0, key.contains('*'));
                for (n, level) in filter.split('/').enumerate() {
                    let last = filter.split('/').count() == n + 1;
                    proptest::prop_assert!(level == "+" || (level == "#" && last) || !level.contains(['+', '#']));
                }
            }
        }
    }

    #[test]
    fn stars_in_patterns_are_any_text() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c*", "abbcd", true),
            ("*topic", "amq.topic", true),
            ("amq", "amq.topic", false),
            ("a*c", "ab", false),
            ("ab*ba", "aba", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
            (&"*".repeat(1_000), "amq.topic", true),
            (&("*".repeat(1_000) + "x"), "amq.topic", false),
        ] {
            assert_eq!(globs(pattern, text), expected, "{pattern} {text}");
        }
    }
}
