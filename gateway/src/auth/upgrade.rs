//! Imported hashes become our own when their password is at hand: what is to be stored then, and who stores it.

use std::sync::Arc;

/// A user whose imported hash was verified, and the hash of ours for the same password.
#[derive(Clone)]
pub struct Upgrade {
    pub name: Arc<str>,
    /// The imported hash. If the user has another by now, its password was changed, and this is void.
    pub imported: Arc<str>,
    pub own: Arc<str>,
}

/// Whoever keeps the accounts.
pub trait Upgrades: Send + Sync {
    /// Stores it some time soon; or not at all: the next login offers it again.
    fn upgrade(&self, upgrade: Upgrade);
}
