//! What would this change have decided differently? Tried on the decisions that the running gateway remembers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Administration, compile};
use crate::acl::{Action, Asked, DryRun, Effect, Policy, Rule, dry_run};
use crate::admin::AdminError;
use crate::auth::LOCAL_REALM;
use crate::store::StoreError;

/// A change that is only tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "change",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum PolicyChange {
    /// `who` as in [`crate::acl::Who`]'s text form.
    AddRule {
        effect: Effect,
        action: Action,
        filter: String,
        who: String,
    },
    RemoveRule {
        id: i64,
    },
    /// The roles of a user.
    SetRoles {
        name: String,
        roles: Vec<String>,
    },
}

/// What a change would make of the policy.
struct Changed {
    policy: Arc<Policy>,
    /// A user, and its other roles.
    roles: Option<(String, Arc<[Arc<str>]>)>,
}

impl Administration {
    /// Tries a change on the decisions of late. Nothing is changed.
    pub async fn dry_run(&self, change: PolicyChange) -> Result<DryRun, AdminError> {
        if self.live.get().is_none() {
            return Err(AdminError::NoDecisions);
        }
        if !self.decisions.is_on() {
            return Err(AdminError::DecisionsOff);
        }
        let before = self.policy.load();
        let Changed {
            policy: after,
            roles,
        } = self.changed(change, &before)?;
        let decisions = self.decisions.clone();
        let users = self.users.clone();
        let run = move || {
            let mut asked = decisions.all();
            // As it would be asked today: an account may have other roles by now than at its last login.
            for asked in &mut asked {
                let user = users.find(&asked.name);
                if let Some(user) = user.filter(|_| *asked.realm == *LOCAL_REALM) {
                    asked.roles = user.roles.clone();
                }
            }
            let roles_of = |asked: &Asked| match &roles {
                Some((name, roles)) if *asked.realm == *LOCAL_REALM && *asked.name == **name => {
                    roles.clone()
                }
                _ => asked.roles.clone(),
            };
            dry_run(asked, &before, &after, roles_of)
        };
        // Up to a second for a million decisions: no work for an async worker.
        let done = tokio::task::spawn_blocking(run).await;
        done.map_err(|_| AdminError::Died)
    }

    /// The policy after the change, and whose roles are other ones.
    fn changed(&self, change: PolicyChange, before: &Arc<Policy>) -> Result<Changed, AdminError> {
        let by_rules = |policy| Changed {
            policy: Arc::new(policy),
            roles: None,
        };
        let rules = self.in_force.lock().rules.clone();
        match change {
            PolicyChange::AddRule {
                effect,
                action,
                filter,
                who,
            } => {
                let rule = Rule {
                    id: Rule::NEW,
                    effect,
                    action,
                    filter: filter.parse()?,
                    who: who.parse()?,
                };
                let rules = before.rules().cloned().chain([rule]);
                Ok(by_rules(Policy::new(rules)))
            }
            PolicyChange::RemoveRule { id } => {
                let left: Vec<_> = rules.iter().filter(|rule| rule.id != id).cloned().collect();
                match left.len() == rules.len() {
                    true => Err(StoreError::NoSuchRule(id).into()),
                    false => Ok(by_rules(compile(&left)?)),
                }
            }
            PolicyChange::SetRoles { name, roles } => {
                let user = self.users.find(&name);
                user.ok_or_else(|| StoreError::NoSuchUser(name.clone()))?;
                let roles = self.checked_roles(&roles, &mut Vec::new())?;
                Ok(Changed {
                    policy: before.clone(),
                    roles: Some((name, roles.into())),
                })
            }
        }
    }
}
