//! The users as of the last change, in memory: a login runs no SQL.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::imported::Efforts;
use crate::store::{Credential, User};

/// The snapshot of users that logins read. Reading takes no lock; replacing it is seen by the next login.
#[derive(Debug, Default)]
pub struct Users {
    by_name: ArcSwap<HashMap<Arc<str>, Arc<User>>>,
    /// What the imported hashes among them cost.
    efforts: ArcSwap<Efforts>,
}

impl Users {
    pub fn new(users: HashMap<Arc<str>, Arc<User>>) -> Self {
        let all = Users::default();
        all.replace(users);
        all
    }

    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.by_name.load().get(name).cloned()
    }

    /// All users, in no order.
    pub fn all(&self) -> Arc<HashMap<Arc<str>, Arc<User>>> {
        self.by_name.load_full()
    }

    pub fn replace(&self, users: HashMap<Arc<str>, Arc<User>>) {
        let hashes = users.values().filter_map(|user| match &user.credential {
            Credential::Chosen(phc) => Some(&**phc),
            Credential::Generated(_) => None,
        });
        self.efforts.store(Arc::new(Efforts::of(hashes)));
        self.by_name.store(Arc::new(users));
    }

    /// What a wrong password still has to cost after it was verified against `stored` (I2): see [`Efforts`].
    pub(super) fn efforts(&self) -> Arc<Efforts> {
        self.efforts.load_full()
    }
}
