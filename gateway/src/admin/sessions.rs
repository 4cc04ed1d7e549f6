//! How administration reaches the sessions that are running: the registry, told what changed.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::LiveSessions;
use crate::{auth::Users, session::registry::Registry, store::writer::Failure};

/// Passes changes on to the session registry.
pub struct Sessions {
    registry: Arc<Registry>,
    users: Arc<Users>,
}

impl Sessions {
    pub fn new(registry: Arc<Registry>, users: Arc<Users>) -> Sessions {
        Sessions { registry, users }
    }
}

impl LiveSessions for Sessions {
    fn policy_changed(&self) -> BoxFuture<'static, ()> {
        let registry = self.registry.clone();
        Box::pin(async move { registry.policy_changed().await })
    }

    fn principal_disabled(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        let (registry, realm, name) = (self.registry.clone(), realm.to_owned(), name.to_owned());
        Box::pin(async move { registry.principal_disabled(&realm, &name).await })
    }

    fn roles_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        let (registry, realm, name) = (self.registry.clone(), realm.to_owned(), name.to_owned());
        let users = self.users.clone();
        Box::pin(async move {
            // Read at the last moment: a later change must not be undone by an earlier one that was slow.
            if let Some(user) = users.find(&name) {
                registry
                    .roles_changed(&realm, &name, user.roles.clone())
                    .await;
            }
        })
    }

    fn password_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        self.registry.credentials_changed(realm, name);
        Box::pin(std::future::ready(()))
    }

    fn problems(&self) -> Vec<String> {
        let failure = self.registry.store_failure().map(|failure| match failure {
            Failure::Full => "the disk of the message store is full: free some space",
            Failure::Broken => "the disk of the message store fails: the log says how",
        });
        let refused = "; until it can write again, QoS 1 and 2 and persistent sessions are refused";
        failure
            .map(|failure| format!("{failure}{refused}"))
            .into_iter()
            .collect()
    }
}
