//! The answer to "who is this?".

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Certificate, LOCAL_REALM, TokenLogin};
use crate::store::User;

/// An authenticated client (I1). Rules, `%u` and the ownership of sessions go by realm and name, never by the kind of
/// credential.
#[derive(Debug, Clone)]
pub struct Principal {
    /// `local` for our own passwords, device secrets and certificates; one realm for each foreign issuer or CA.
    pub realm: Arc<str>,
    /// Empty for an anonymous client.
    pub name: Arc<str>,
    pub roles: Arc<[Arc<str>]>,
    /// Of the token of this login: names that rules may be for, and permissions in the form that `acl` understands.
    pub scopes: Arc<[Arc<str>]>,
    /// The device id, if this is a device.
    pub device: Option<Arc<str>>,
    /// Whether it has an account, and is nobody without it; a certificate alone vouches for names that have none.
    pub account: bool,
    /// The user whose password or secret was shown just now, until the login is over: it may be another one by then.
    pub shown: Option<Arc<User>>,
    /// When the credential ends, if it does.
    pub expires_at: Option<SystemTime>,
    /// The client certificate of this login, if there was one: its connection ends with it.
    pub certificate: Option<Arc<Certificate>>,
    /// The token of this login, if there was one: its connection ends with it.
    pub token: Option<Arc<TokenLogin>>,
    pub anonymous: bool,
}

impl Principal {
    /// A client that presented nothing, where that is allowed (I5). Its empty name keeps every `%u` allow shut.
    pub(super) fn anonymous(role: &Arc<str>) -> Self {
        Principal {
            realm: LOCAL_REALM.into(),
            name: "".into(),
            roles: [role.clone()].into(),
            scopes: Arc::default(),
            device: None,
            account: false,
            shown: None,
            expires_at: None,
            certificate: None,
            token: None,
            anonymous: true,
        }
    }

    /// The same, for longer than a login: without what it showed.
    pub fn settled(self) -> Principal {
        Principal {
            shown: None,
            ..self
        }
    }

    /// Whether both are the same principal: what owns a session may take it over (S5).
    pub fn is_same(&self, other: &Principal) -> bool {
        self.realm == other.realm && self.name == other.name && self.anonymous == other.anonymous
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.anonymous {
            true => write!(f, "{}:(anonymous)", self.realm),
            false => write!(f, "{}:{}", self.realm, self.name),
        }
    }
}
