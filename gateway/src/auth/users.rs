//! The users as of the last change, in memory: a login runs no SQL.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::imported::Efforts;
use super::{LOCAL_REALM, Principal};
use crate::store::{Credential, User};

/// For whom a client identifier is kept, seen from one principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// Whoever comes first may have it.
    None,
    /// It is the identifier of the device that asks.
    Own,
    /// It is the identifier of a device, and somebody else asks.
    Other,
}

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

    /// For whom a client identifier is kept (S5): that of a device is its own.
    pub fn reservation(&self, client_id: &str, principal: &Principal) -> Reservation {
        match self.by_name.load().get(client_id) {
            Some(user) if user.device => {
                let is_own = !principal.anonymous
                    && *principal.realm == *LOCAL_REALM
                    && principal.name == user.name;
                match is_own {
                    true => Reservation::Own,
                    false => Reservation::Other,
                }
            }
            // Its certificate says that it is this device, without an account.
            None if !principal.anonymous
                && *principal.realm == *LOCAL_REALM
                && principal.device.as_deref() == Some(client_id) =>
            {
                Reservation::Own
            }
            _ => Reservation::None,
        }
    }

    /// Whether this principal is a device with an account.
    pub fn is_device(&self, principal: &Principal) -> bool {
        let account = self.find(&principal.name);
        account.is_some_and(|account| account.device)
            && self.reservation(&principal.name, principal) == Reservation::Own
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
