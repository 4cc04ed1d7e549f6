//! May this principal do this, and by which rule? Whoever it is: a user, or somebody whom only sessions know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Administration;
use crate::acl::{Action, Explanation, Subject, explain};
use crate::admin::AdminError;
use crate::auth::{LOCAL_REALM, check_role};
use crate::store::StoreError;

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Question {
    pub user: String,
    pub action: Action,
    /// A topic name to publish to, or a topic filter to subscribe to.
    pub topic: String,
    /// `%c`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// `%d`.
    #[serde(default)]
    pub device: Option<String>,
    /// `local` if it is not given.
    #[serde(default)]
    pub realm: Option<String>,
    /// Instead of those that the account has, or that the last login had.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// Of a token, instead of those that the last login had.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
}

impl Question {
    /// About a user with the roles of its account.
    pub fn new(user: &str, action: Action, topic: &str) -> Question {
        Question {
            user: user.to_owned(),
            action,
            topic: topic.to_owned(),
            client_id: None,
            device: None,
            realm: None,
            roles: None,
            scopes: None,
        }
    }
}

impl Administration {
    /// Asks the policy in force. An account has its own roles; a principal without one has those of its sessions.
    pub fn explain(&self, question: Question) -> Result<Explanation, AdminError> {
        let Question {
            user,
            action,
            topic,
            client_id,
            device,
            realm,
            roles,
            scopes,
        } = question;
        let realm = realm.unwrap_or_else(|| LOCAL_REALM.to_owned());
        let account = match realm == LOCAL_REALM {
            true => self.users.find(&user),
            false => None,
        };
        let sessions = self.live.get();
        let sessions = sessions.map_or(Vec::new(), |live| live.sessions_of(&realm, &user));
        let session = match &client_id {
            Some(id) => sessions.iter().find(|session| *session.client_id == **id),
            None => None,
        };
        let session = session.or(sessions.first());
        let mut notes = Vec::new();
        let roles: Arc<[Arc<str>]> = match (roles, &account, session) {
            (Some(given), ..) => {
                given.iter().try_for_each(|role| check_role(role))?;
                given.iter().map(|role| role.as_str().into()).collect()
            }
            (None, Some(account), _) => account.roles.clone(),
            (None, None, Some(session)) => {
                let origin = match session.by_certificate {
                    true => "a client certificate",
                    false => "its last login",
                };
                let roles = spoken(&session.roles);
                notes.push(format!(
                    "there is no account: {roles} of the session {:?}, from {origin}",
                    session.client_id
                ));
                session.roles.clone()
            }
            (None, None, None) if realm == LOCAL_REALM => {
                return Err(StoreError::NoSuchUser(user).into());
            }
            (None, None, None) => {
                notes.push(
                    "it has no session here, so its roles are not known: name them with --role"
                        .to_owned(),
                );
                Arc::default()
            }
        };
        let of_account = account.as_ref().and_then(|account| account.device_id());
        let device = device
            .as_deref()
            .or(of_account.map(|id| &**id))
            .or(session.and_then(|session| session.device.as_deref()));
        let scopes: Arc<[Arc<str>]> = match (scopes, session) {
            (Some(given), _) => given.iter().map(|scope| scope.as_str().into()).collect(),
            (None, Some(session)) => session.scopes.clone(),
            (None, None) => Arc::default(),
        };
        let subject = Subject {
            realm: &realm,
            name: &user,
            client_id: client_id.as_deref().unwrap_or_default(),
            device,
            roles: &roles,
            scopes: &scopes,
        };
        let mut explanation = explain(&self.policy.load(), &subject, action, &topic);
        if account.is_some_and(|account| account.disabled) {
            notes.push("the account is disabled: it cannot connect at all".to_owned());
        }
        explanation.notes.append(&mut notes);
        Ok(explanation)
    }
}

fn spoken(roles: &[Arc<str>]) -> String {
    match roles {
        [] => "no roles".to_owned(),
        [role] => format!("the role {role}"),
        roles => format!("the roles {}", roles.join(", ")),
    }
}
