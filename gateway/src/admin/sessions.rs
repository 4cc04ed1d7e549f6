//! How administration reaches the sessions that are running: the registry, told without blocking.

use std::sync::Arc;

use super::LiveSessions;
use crate::{auth::Users, session::registry::Registry};

/// Passes changes on to the session registry. Each is a task of its own: the control socket waits for none.
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
    fn policy_changed(&self) {
        let registry = self.registry.clone();
        tokio::spawn(async move { registry.policy_changed().await });
    }

    fn principal_disabled(&self, realm: &str, name: &str) {
        let (registry, realm, name) = (self.registry.clone(), realm.to_owned(), name.to_owned());
        tokio::spawn(async move { registry.principal_disabled(&realm, &name).await });
    }

    fn roles_changed(&self, realm: &str, name: &str) {
        let Some(user) = self.users.find(name) else {
            return;
        };
        let (registry, realm, name) = (self.registry.clone(), realm.to_owned(), name.to_owned());
        let roles = user.roles.iter().cloned().collect();
        tokio::spawn(async move { registry.roles_changed(&realm, &name, roles).await });
    }

    fn password_changed(&self, realm: &str, name: &str) {
        self.registry.credentials_changed(realm, name);
    }
}
