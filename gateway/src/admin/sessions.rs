//! How administration reaches the sessions that are running: the registry, told what changed.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use hashbrown::HashSet;
use rustls_pki_types::UnixTime;

use super::{LiveSessions, SessionOf};
use crate::{
    auth::{Certificate, Users},
    session::registry::Registry,
    store::writer::Failure,
    tls::ClientTrusts,
};

/// Passes changes on to the session registry.
pub struct Sessions {
    registry: Arc<Registry>,
    users: Arc<Users>,
    trusts: Arc<ClientTrusts>,
}

impl Sessions {
    pub fn new(registry: Arc<Registry>, users: Arc<Users>, trusts: Arc<ClientTrusts>) -> Sessions {
        Sessions {
            registry,
            users,
            trusts,
        }
    }
}

/// Discredits the sessions of all certificates that do not pass at this moment. `revoked`: SHA-256 of those that are known to
/// be, for sessions of before the start, of whose certificate nothing else is left.
pub async fn end_certificates(
    registry: &Arc<Registry>,
    trusts: &ClientTrusts,
    revoked: &HashSet<[u8; 32]>,
) {
    let now = UnixTime::now();
    let is_good = |certificate: &Certificate| match trusts.of(&certificate.listener) {
        // Expired ones end in their own way (P3).
        Some(trust) => {
            certificate.has_expired(SystemTime::now()) || {
                trust.identify(&certificate.chain, now).is_ok()
            }
        }
        // Of an earlier process, or of a listener that is gone.
        None => !revoked.contains(&certificate.fingerprint),
    };
    let ended = registry.certificates_changed(is_good).await;
    if ended > 0 {
        let metrics = registry.metrics();
        metrics.client_certificates_ended.add(ended as u64);
        tracing::warn!(target: "postern::audit", connections = ended, "ended: their client certificates are not accepted any more");
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

    fn certificates_changed(&self, revoked: Vec<[u8; 32]>) -> BoxFuture<'static, ()> {
        let (registry, trusts) = (self.registry.clone(), self.trusts.clone());
        Box::pin(async move {
            if !trusts.is_empty() {
                let reading = trusts.clone();
                // File I/O. Somebody else may have read the list already, and may not be done with the sessions.
                let _ = tokio::task::spawn_blocking(move || reading.refresh()).await;
            }
            let revoked = revoked.into_iter().collect();
            end_certificates(&registry, &trusts, &revoked).await;
        })
    }

    fn retained_on(
        &self,
        topics: Vec<String>,
        longest: usize,
    ) -> BoxFuture<'static, Vec<Option<Box<[u8]>>>> {
        let registry = self.registry.clone();
        Box::pin(async move { registry.retained_on(topics, longest).await })
    }

    fn sessions_of(&self, realm: &str, name: &str) -> Vec<SessionOf> {
        let sessions = self.registry.principals(realm, name).into_iter();
        let sessions = sessions.map(|(client_id, principal)| SessionOf {
            client_id: client_id.to_string(),
            roles: principal.roles.clone(),
            scopes: principal.scopes.clone(),
            device: principal.device.clone(),
            by_certificate: principal.certificate.is_some(),
        });
        sessions.collect()
    }

    fn problems(&self) -> Vec<String> {
        let failure = self.registry.store_failure().map(|failure| match failure {
            Failure::Full => "the disk of the message store is full: free some space",
            Failure::Broken => "the disk of the message store fails: the log says how",
        });
        let refused = "; until it can write again, QoS 1 and 2 and persistent sessions are refused";
        let failure = failure.map(|failure| format!("{failure}{refused}"));
        let issuers = self.registry.issuer_problems();
        let problems = failure.into_iter().chain(self.trusts.problems());
        problems.chain(issuers).collect()
    }
}
