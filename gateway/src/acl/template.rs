//! The topic filter of a rule, with its variables `%u` (user), `%c` (client identifier) and `%d` (device).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{AclError, Effect, Subject};

/// A topic filter that may hold `%u`, `%c` and `%d`, each inside a single level; `%%` stands for a percent sign.
///
/// Checked when it is made: what follows the substitution is a valid topic filter (MQTT 5.0 section 4.7).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Template {
    text: Arc<str>,
    has_percent: bool,
}

impl Template {
    /// Longest filter a rule may have, in bytes. MQTT would allow 65,535; the policy is held in memory.
    pub const MAX_BYTES: usize = 1024;

    /// The filter as it was written, variables included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the filter uses the variable, given as `'u'`, `'c'` or `'d'`.
    pub fn uses(&self, variable: char) -> bool {
        self.has_percent
            && pieces(&self.text)
                .any(|piece| matches!(piece, Piece::Variable(name) if name == variable))
    }

    /// The filter for one subject by rule P1, or `None` for an allow that can never match because of a variable's
    /// value. A deny never gets `None`: a level with an unusable value becomes `+`.
    pub(super) fn substitute(&self, subject: &Subject, effect: Effect) -> Option<Arc<str>> {
        if !self.has_percent {
            return Some(self.text.clone());
        }
        let mut filter = String::with_capacity(self.text.len() + 32);
        for (index, level) in self.text.split('/').enumerate() {
            if index > 0 {
                filter.push('/');
            }
            let start = filter.len();
            let usable = push_level(&mut filter, level, subject);
            // A name such as `$SYS` must not open what only an explicit rule opens (P2). For a deny the literal is
            // right: it then denies exactly that subject's own `$` topics.
            let opens_dollar = index == 0 && !level.starts_with('$') && filter.starts_with('$');
            match effect {
                Effect::Allow if !usable || opens_dollar => return None,
                Effect::Deny if !usable => {
                    filter.truncate(start);
                    filter.push('+');
                }
                _ => {}
            }
        }
        Some(filter.into())
    }
}

/// Appends one level with its variables replaced; false if a value cannot stand inside a level.
fn push_level(filter: &mut String, level: &str, subject: &Subject) -> bool {
    let mut usable = true;
    for piece in pieces(level) {
        match piece {
            Piece::Literal(text) => filter.push_str(text),
            Piece::Variable(name) => {
                let value = match name {
                    'u' => subject.name,
                    'c' => subject.client_id,
                    _ => subject.device.unwrap_or(""),
                };
                usable &= !value.is_empty() && !value.contains(['/', '+', '#', '\0']);
                filter.push_str(value);
            }
        }
    }
    usable
}

enum Piece<'a> {
    Literal(&'a str),
    Variable(char),
}

/// Splits checked text at its percent signs.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let Some(after) = rest.strip_prefix('%') {
            let name = after.chars().next()?;
            rest = &after[name.len_utf8()..];
            return Some(if name == '%' {
                Piece::Literal("%")
            } else {
                Piece::Variable(name)
            });
        }
        if rest.is_empty() {
            return None;
        }
        let (literal, tail) = rest.split_at(rest.find('%').unwrap_or(rest.len()));
        rest = tail;
        Some(Piece::Literal(literal))
    })
}

impl FromStr for Template {
    type Err = AclError;

    fn from_str(text: &str) -> Result<Self, AclError> {
        match problem_of(text) {
            Some(problem) => Err(AclError::Filter {
                filter: text.chars().take(120).collect(),
                problem,
            }),
            None => Ok(Template {
                text: text.into(),
                has_percent: text.contains('%'),
            }),
        }
    }
}

/// What is wrong with a rule's filter, as a sentence that ends in the remedy.
fn problem_of(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty; write \"#\" for every topic");
    }
    if text.len() > Template::MAX_BYTES {
        return Some("it is longer than 1024 bytes; shorten it with a wildcard");
    }
    if text.contains('\0') {
        return Some("it contains U+0000, which no topic may; remove it");
    }
    if text == "$share" || text.starts_with("$share/") {
        return Some(
            "rules are checked on the filter of a shared subscription; leave out \"$share/GROUP/\"",
        );
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Some("\"#\" must be alone in the last level");
        }
        if level.contains('+') && level != "+" {
            return Some("\"+\" must be alone in its level");
        }
    }
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        if character == '%' && !matches!(chars.next(), Some('u' | 'c' | 'd' | '%')) {
            return Some(
                "\"%\" must be followed by u (user), c (client identifier), d (device) or %",
            );
        }
    }
    None
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(name: &'a str, client_id: &'a str, device: Option<&'a str>) -> Subject<'a> {
        Subject {
            realm: "local",
            name,
            client_id,
            device,
            roles: &[],
            scopes: &[],
        }
    }

    fn substituted(template: &str, subject: &Subject, effect: Effect) -> Option<String> {
        let template: Template = template.parse().unwrap();
        template
            .substitute(subject, effect)
            .map(|filter| filter.to_string())
    }

    // P1
    #[test]
    fn variables_are_replaced_literally_inside_one_level() {
        let who = subject("alice", "c-1", Some("d7"));
        for (template, expected) in [
            ("sensors/%u/#", "sensors/alice/#"),
            ("%u/%c/%d", "alice/c-1/d7"),
            ("a/x-%u-%c/b", "a/x-alice-c-1/b"),
            ("100%%/%u", "100%/alice"),
            ("100%%u", "100%u"),
            ("plain/+/x", "plain/+/x"),
        ] {
            for effect in [Effect::Allow, Effect::Deny] {
                assert_eq!(
                    substituted(template, &who, effect).as_deref(),
                    Some(expected),
                    "{template}"
                );
            }
        }
    }

    // P1
    #[test]
    fn a_value_that_is_not_one_level_silences_an_allow_and_widens_a_deny_to_plus() {
        for bad in ["", "a/b", "/", "+", "x+", "#", "a#b", "a\0b"] {
            for who in [
                subject(bad, "c", Some("d")),
                subject("%u", bad, Some("d")),
                subject("u", "c", Some(bad)),
            ] {
                let template = if who.name == bad {
                    "t/x-%u/y"
                } else if who.client_id == bad {
                    "t/x-%c/y"
                } else {
                    "t/x-%d/y"
                };
                assert_eq!(substituted(template, &who, Effect::Allow), None, "{bad:?}");
                assert_eq!(
                    substituted(template, &who, Effect::Deny).as_deref(),
                    Some("t/+/y"),
                    "{bad:?}"
                );
            }
        }
    }

    // P1
    #[test]
    fn the_device_variable_is_unset_for_what_is_not_a_device() {
        let who = subject("alice", "c", None);
        assert_eq!(substituted("dev/%d", &who, Effect::Allow), None);
        assert_eq!(
            substituted("dev/%d", &who, Effect::Deny).as_deref(),
            Some("dev/+")
        );
    }

    // P2
    #[test]
    fn a_variable_never_opens_a_dollar_topic() {
        let who = subject("$SYS", "$SYS", Some("$SYS"));
        for template in ["%u/#", "%c/broker/clients", "%d/+", "%u%c/#"] {
            assert_eq!(
                substituted(template, &who, Effect::Allow),
                None,
                "{template}"
            );
        }
        assert_eq!(
            substituted("%u/#", &who, Effect::Deny).as_deref(),
            Some("$SYS/#")
        );
        assert_eq!(
            substituted("a/%u", &who, Effect::Allow).as_deref(),
            Some("a/$SYS")
        );
        assert_eq!(
            substituted("$SYS/%u", &who, Effect::Allow).as_deref(),
            Some("$SYS/$SYS")
        );
    }

    #[test]
    fn values_are_never_scanned_for_variables_again() {
        assert_eq!(
            substituted("%u/x", &subject("%c", "c", None), Effect::Allow).as_deref(),
            Some("%c/x")
        );
    }

    #[test]
    fn an_invalid_filter_is_refused_with_its_remedy() {
        for (text, word) in [
            ("", "empty"),
            ("a/#/b", "last level"),
            ("a#", "alone in the last level"),
            ("a/b+", "alone in its level"),
            ("a/%x", "followed by"),
            ("a/%", "followed by"),
            ("$share/g/a", "leave out"),
            ("a\0b", "U+0000"),
        ] {
            let error = text.parse::<Template>().unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        assert!("a".repeat(1025).parse::<Template>().is_err());
        assert!("a".repeat(1024).parse::<Template>().is_ok());
    }
}
