//! What administration tells the sessions that are running.

use std::sync::Arc;

use futures_util::future::BoxFuture;

/// Whoever holds the live sessions. Each call comes after the new users and the new policy are in force, so that
/// asking again gives the new answer; its future ends when the change has reached every session.
pub trait LiveSessions: Send + Sync {
    /// The rules changed: permissions of an older generation are stale (P4).
    fn policy_changed(&self) -> BoxFuture<'static, ()>;
    /// The principal is disabled or removed: its sessions end now, and its wills are dropped (P3).
    fn principal_disabled(&self, realm: &str, name: &str) -> BoxFuture<'static, ()>;
    /// The principal has other roles now (P3).
    fn roles_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()>;
    /// The principal proves itself by another password or secret now; who is connected used the old one.
    fn password_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()>;
    /// Certificates were revoked, or another revocation list is on disk: sessions that were opened with one that is not good
    /// any more are discredited (P3). `revoked`: SHA-256 of all those of the private CA.
    fn certificates_changed(&self, revoked: Vec<[u8; 32]>) -> BoxFuture<'static, ()>;
    /// What is retained on these topics, as far as it is at most `longest` bytes.
    fn retained_on(
        &self,
        topics: Vec<String>,
        longest: usize,
    ) -> BoxFuture<'static, Vec<Option<Box<[u8]>>>> {
        let _ = longest;
        Box::pin(std::future::ready(vec![None; topics.len()]))
    }
    /// What does not work as it should, in words for the operator.
    fn problems(&self) -> Vec<String>;

    /// The sessions that belong to this principal, connected or not.
    fn sessions_of(&self, _realm: &str, _name: &str) -> Vec<SessionOf> {
        Vec::new()
    }
}

/// What is known of a principal from a session of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOf {
    pub client_id: String,
    /// Those of its last login (P3).
    pub roles: Arc<[Arc<str>]>,
    pub scopes: Arc<[Arc<str>]>,
    pub device: Option<Arc<str>>,
    /// Whether a client certificate said who it is.
    pub by_certificate: bool,
}
