//! One rule of the policy: what it says, whom it is for, and what an operator should know about it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AclError, Template};
use crate::store::StoredRule;

/// Allow or deny one action on the topics of a filter, for a user, a role, an OAuth2 scope or everyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The number the operator sees and removes it by; [`Rule::OF_SCOPE`] if it is not stored but said by a scope.
    pub id: i64,
    pub effect: Effect,
    pub action: Action,
    pub filter: Template,
    pub who: Who,
}

impl Rule {
    /// In place of a number, where the scope of a token is itself the rule.
    pub const OF_SCOPE: i64 = 0;
    /// The [`id`](Self::id) of a rule that there is not yet: a dry run asks what it would do.
    pub const NEW: i64 = -1;

    /// What an operator calls it.
    pub fn called(&self) -> Cow<'static, str> {
        match self.id {
            Rule::OF_SCOPE => "a scope".into(),
            Rule::NEW => "the new rule".into(),
            id => format!("rule {id}").into(),
        }
    }

    /// What an operator should know before relying on this rule; empty for most rules.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.effect == Effect::Allow && self.filter.uses('c') {
            // P1
            warnings.push(
                "%c is the client identifier, which every client chooses for itself: it keeps nobody out".to_owned(),
            );
        }
        if self.action == Action::Publish && self.filter.as_str().starts_with('$') {
            // P2
            warnings
                .push("clients never publish to $ topics, so this rule never matches".to_owned());
        }
        warnings
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} for {}",
            self.effect, self.action, self.filter, self.who
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Publish,
    Subscribe,
}

/// Whom a rule is for. Its text form, `user:REALM:NAME`, `role:NAME`, `scope:NAME` or `everyone`, parses back to the same
/// value; a realm that contains a colon has it written as `%3A`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    User {
        realm: Arc<str>,
        name: Arc<str>,
    },
    Role(Arc<str>),
    /// Whoever's token has this scope (RFC 6749, 3.3).
    Scope(Arc<str>),
    Everyone,
}

impl TryFrom<&StoredRule> for Rule {
    type Error = AclError;

    /// A stored rule that cannot be understood is an error and never skipped: it may be a deny.
    fn try_from(stored: &StoredRule) -> Result<Self, AclError> {
        let text = &stored.rule;
        let parse = || {
            let who = match text.who_kind.as_str() {
                "user" => Who::User {
                    realm: text.realm.as_str().into(),
                    name: text.who.as_str().into(),
                },
                "role" => Who::Role(text.who.as_str().into()),
                "scope" => Who::Scope(text.who.as_str().into()),
                "everyone" => Who::Everyone,
                other => return Err(AclError::Who(other.to_owned())),
            };
            let (effect, action) = (text.effect.parse()?, text.action.parse()?);
            Ok(Rule {
                id: stored.id,
                effect,
                action,
                filter: text.filter.parse()?,
                who,
            })
        };
        parse().map_err(|source| AclError::Stored {
            id: stored.id,
            source: Box::new(source),
        })
    }
}

macro_rules! words {
    ($type:ty, $error:expr, $($variant:path => $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = AclError;

            fn from_str(text: &str) -> Result<Self, AclError> {
                match text {
                    $($word => Ok($variant),)+
                    _ => Err($error(text.to_owned())),
                }
            }
        }
    };
}

words!(Effect, AclError::Effect, Effect::Allow => "allow", Effect::Deny => "deny");
words!(Action, AclError::Action, Action::Publish => "publish", Action::Subscribe => "subscribe");

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::User { realm, name } => {
                write!(
                    f,
                    "user:{}:{name}",
                    realm.replace('%', "%25").replace(':', "%3A")
                )
            }
            Who::Role(role) => write!(f, "role:{role}"),
            Who::Scope(scope) => write!(f, "scope:{scope}"),
            Who::Everyone => f.write_str("everyone"),
        }
    }
}

impl FromStr for Who {
    type Err = AclError;

    fn from_str(text: &str) -> Result<Self, AclError> {
        let refused = || AclError::Who(text.to_owned());
        if text == "everyone" {
            return Ok(Who::Everyone);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(refused)?;
        match kind {
            "role" if !rest.is_empty() => Ok(Who::Role(rest.into())),
            "scope" if is_scope(rest) => Ok(Who::Scope(rest.into())),
            "user" => match rest.split_once(':') {
                Some((realm, name)) if !realm.is_empty() && !name.is_empty() => Ok(Who::User {
                    realm: realm.replace("%3A", ":").replace("%25", "%").into(),
                    name: name.into(),
                }),
                _ => Err(refused()),
            },
            _ => Err(refused()),
        }
    }
}

/// The longest scope that counts, in bytes.
const SCOPE_MAX: usize = 1024 + 16;

/// Whether this is a scope (RFC 6749, 3.3) of a length that counts.
fn is_scope(text: &str) -> bool {
    let usable = |b: u8| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    (1..=SCOPE_MAX).contains(&text.len()) && text.bytes().all(usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(effect: Effect, action: Action, filter: &str) -> Rule {
        Rule {
            id: 1,
            effect,
            action,
            filter: filter.parse().unwrap(),
            who: Who::Everyone,
        }
    }

    #[test]
    fn whom_a_rule_is_for_survives_its_text_form() {
        for who in [
            Who::Everyone,
            Who::Role("admin".into()),
            Who::Scope("mqtt:read".into()),
            Who::User {
                realm: "local".into(),
                name: "a:b".into(),
            },
            Who::User {
                realm: "https://id.example:8443/%3A".into(),
                name: "x".into(),
            },
        ] {
            assert_eq!(who.to_string().parse::<Who>(), Ok(who));
        }
        for bad in [
            "",
            "user",
            "user:",
            "user:alice",
            "user::x",
            "role:",
            "scope:",
            "scope:a b",
            "scope:\"",
            "group:x",
            "Everyone",
        ] {
            assert!(bad.parse::<Who>().is_err(), "{bad:?}");
        }
    }

    // P1
    #[test]
    fn an_allow_by_client_identifier_warns_that_clients_choose_it() {
        assert_eq!(
            rule(Effect::Allow, Action::Publish, "x/%c")
                .warnings()
                .len(),
            1
        );
        assert!(
            rule(Effect::Deny, Action::Publish, "x/%c")
                .warnings()
                .is_empty()
        );
        assert!(
            rule(Effect::Allow, Action::Publish, "x/%%c/%u")
                .warnings()
                .is_empty()
        );
    }

    // P2
    #[test]
    fn a_publish_rule_for_a_dollar_topic_warns_that_it_never_matches() {
        assert_eq!(
            rule(Effect::Allow, Action::Publish, "$SYS/x")
                .warnings()
                .len(),
            1
        );
        assert!(
            rule(Effect::Allow, Action::Subscribe, "$SYS/x")
                .warnings()
                .is_empty()
        );
    }
}
