//! Whose is a session, and by what is it entitled to what it may? Its last login says so, and the account may change meanwhile.

use std::sync::Arc;

use super::session::Session;
use crate::auth::{Principal, TokenLogin};

/// What replaces the principal of a session.
pub(super) enum Change {
    /// Its client logged in, or proved anew who it is.
    Login(Principal),
    /// The issuer said again what this login entitles to; void after another login.
    Verified {
        login: Arc<TokenLogin>,
        now: Principal,
    },
    /// Its account has these roles; everything else stays that of the last login.
    Account(Arc<[Arc<str>]>),
}

impl Change {
    /// `None`: it does not concern this one.
    fn of(&self, principal: &Principal) -> Option<Principal> {
        match self {
            Change::Login(now) => Some(now.clone()),
            Change::Verified { login, now } => {
                let token = principal.token.as_ref();
                let is_same = token.is_some_and(|token| Arc::ptr_eq(token, login));
                is_same.then(|| now.clone())
            }
            Change::Account(roles) => Some(Principal {
                roles: roles.clone(),
                account: true,
                ..principal.clone()
            }),
        }
    }

    /// Whether it leaves alone what `before` may, and what the disk has to know of it.
    pub fn is_slight(&self, before: &Principal) -> bool {
        let issuer = |principal: &Principal| {
            let login = principal.token.as_ref();
            login.map(|login| (login.issuer().clone(), *login.terms()))
        };
        self.of(before).is_none_or(|now| {
            before.roles == now.roles
                && before.scopes == now.scopes
                && before.device == now.device
                && issuer(before) == issuer(&now)
        })
    }
}

impl Session {
    /// In one step: changes at the same time do not undo one another.
    pub(super) fn take_up(&self, change: &Change) {
        self.principal.rcu(|before| match change.of(before) {
            Some(now) => Arc::new(now),
            None => before.clone(),
        });
    }
}
