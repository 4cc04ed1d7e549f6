//! May it? Decides by an immutable policy of allow and deny rules, and names the rule that decided.
//!
//! Everything here is synchronous and free of I/O. Where rules are kept is `store`'s business, who a client is comes
//! from `auth`, and acting on a decision (reason codes, dropped deliveries, closed sessions) is `session`'s.
//!
//! The semantics are those of rules P1 and P2: deny by default, a deny beats an allow whatever the order, one allow
//! must cover a requested topic filter by itself, and clients never publish to `$` topics.

mod decisions;
mod dry_run;
mod explain;
mod permissions;
mod policy;
mod rule;
mod scope;
mod template;

pub use decisions::{Asked, Decisions};
pub use dry_run::{Difference, DryRun, Turn, dry_run};
pub use explain::{Explanation, Part, explain};
pub use permissions::{Decision, Permissions, Reason};
pub use policy::{Policy, PolicyHandle, Subject};
pub use rule::{Action, Effect, Rule, Who};
pub use template::Template;

/// Why a rule could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AclError {
    #[error("{0:?} is not an effect; use \"allow\" or \"deny\"")]
    Effect(String),
    #[error("{0:?} is not an action; use \"publish\" or \"subscribe\"")]
    Action(String),
    #[error(
        "{0:?} does not say whom a rule is for; use \"user:REALM:NAME\", \"role:NAME\", \"scope:NAME\" or \
         \"everyone\""
    )]
    Who(String),
    #[error("topic filter {filter:?}: {problem}")]
    Filter {
        filter: String,
        problem: &'static str,
    },
    #[error(
        "stored rule {id} cannot be read: {source}; remove it or correct it in the accounts database"
    )]
    Stored { id: i64, source: Box<AclError> },
}
