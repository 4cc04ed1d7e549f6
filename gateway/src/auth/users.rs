//! The users as of the last change, in memory: a login runs no SQL.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use crate::store::User;

/// The snapshot of users that logins read. Reading takes no lock; replacing it is seen by the next login.
#[derive(Debug, Default)]
pub struct Users(ArcSwap<HashMap<Arc<str>, Arc<User>>>);

impl Users {
    pub fn new(users: HashMap<Arc<str>, Arc<User>>) -> Self {
        Users(ArcSwap::from_pointee(users))
    }

    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.0.load().get(name).cloned()
    }

    /// All users, in no order.
    pub fn all(&self) -> Arc<HashMap<Arc<str>, Arc<User>>> {
        self.0.load_full()
    }

    pub fn replace(&self, users: HashMap<Arc<str>, Arc<User>>) {
        self.0.store(Arc::new(users));
    }
}
