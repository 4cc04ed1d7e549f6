//! How long does a login by token last? It ends with its token, and it is ended when its issuer does not stand by it any more,
//! whether its client is connected or not: one entry of the agenda for each session with a token, and no task while nothing
//! is due.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use super::{
    agenda::Due, entitlement::Change, live::give_way, mailbox::Notice, registry::Registry,
    session::Session,
};
use crate::{
    auth::{Asker, Next, Principal, Refusal, TokenProblem},
    routing::endpoint::Endpoint,
};

impl Registry {
    /// The client of a session has proven anew who it is, on its connection number `epoch`: its session goes on with what the
    /// new token says.
    pub async fn renew_login(
        self: &Arc<Self>,
        session: &Arc<Session>,
        epoch: u32,
        principal: Principal,
    ) {
        if session.epoch() == epoch {
            self.take_over_login(session, Change::Login(principal))
                .await;
        }
    }

    /// Issuers are trusted no more: sessions that a token of theirs opened are discredited. Gives the number of connections
    /// that end.
    pub async fn issuers_changed(&self) -> usize {
        let Some(authenticator) = self.authenticator.get() else {
            return 0;
        };
        let mut ended = 0;
        for (n, session) in self.all().iter().enumerate() {
            give_way(n, 64).await;
            let principal = session.principal();
            if !authenticator.trusts_issuer_of(&principal) {
                ended += usize::from(self.revoke_token(session, &principal));
            }
        }
        ended
    }

    /// What is wrong with issuers, in words for the operator.
    pub fn issuer_problems(&self) -> Vec<String> {
        let authenticator = self.authenticator.get();
        authenticator.map_or(Vec::new(), |authenticator| authenticator.issuer_problems())
    }

    /// Enters into the agenda when something is due about the token of a login, if there is one.
    pub(super) fn watch_token(&self, session: &Arc<Session>) {
        let principal = session.principal.load();
        let Some(login) = &principal.token else {
            return;
        };
        let wait = match login.next(principal.expires_at, session.id().0) {
            Next::Expired | Next::Ask => Duration::ZERO,
            Next::Wait(wait) => wait,
        };
        self.agenda.add(session, Due::Token, wait);
    }

    /// The agenda says that something is due about the token of a session.
    pub(super) fn look_after_token(self: &Arc<Self>, session: &Arc<Session>) {
        let principal = session.principal();
        let Some(login) = &principal.token else {
            return;
        };
        // P3: of a client that is away, too. A token that merely expires takes nothing from it.
        if session.discredited.load(Relaxed) || session.rest().ended {
            return;
        }
        let is_endless = principal.expires_at.is_none();
        match login.next(principal.expires_at, session.id().0) {
            // Nobody is connected by it: what counts is what the issuer says when it speaks again.
            Next::Expired if is_endless && !session.is_online() => {
                self.ask_soon(session, principal)
            }
            Next::Expired => {
                self.expire_token(session, &principal);
                if is_endless {
                    // Its session stays, and its issuer may speak again.
                    self.agenda.add(session, Due::Token, login.retry(None));
                }
            }
            Next::Wait(wait) => self.agenda.add(session, Due::Token, wait),
            Next::Ask => self.ask_soon(session, principal),
        }
    }

    fn ask_soon(self: &Arc<Self>, session: &Arc<Session>, principal: Arc<Principal>) {
        let (registry, session) = (self.clone(), session.clone());
        tokio::spawn(async move { registry.ask_again(&session, &principal).await });
    }

    /// Asks the issuer whether it still stands by the token that `before` logged in with.
    async fn ask_again(self: &Arc<Self>, session: &Arc<Session>, before: &Principal) {
        let (Some(login), Some(authenticator)) = (&before.token, self.authenticator.get()) else {
            return;
        };
        let certificate = before.certificate.as_ref();
        let asker = match session.is_online() {
            true => Asker::Gateway,
            false => Asker::Absent,
        };
        let answer = authenticator.verify_again(login, certificate, asker).await;
        let current = session.principal();
        if !current
            .token
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, login))
        {
            // Another login, with an entry of its own.
            return;
        }
        match answer {
            Ok(now) if now.is_same(before) => {
                let login = login.clone();
                self.take_over_login(session, Change::Verified { login, now })
                    .await;
            }
            Err(Refusal::Token(TokenProblem::Expired)) => self.expire_token(session, before),
            // Sessions stay until their tokens end: its silence is no statement.
            Err(refusal @ (Refusal::Unavailable | Refusal::Busy)) => {
                login.put_off(refusal == Refusal::Busy);
                let wait = login.retry(before.expires_at);
                self.agenda.add(session, Due::Token, wait);
            }
            Ok(_) | Err(_) => {
                self.revoke_token(session, before);
            }
        }
    }

    async fn take_over_login(self: &Arc<Self>, session: &Arc<Session>, change: Change) {
        if change.is_slight(&session.principal()) {
            session.take_up(&change);
        } else {
            // P3: the session goes by the scopes of its last login.
            self.recheck(session, Some(&change)).await;
            self.bus().rights().changed();
        }
        self.catch_up(session).await;
        self.watch_token(session);
    }

    /// The account, or what issuers are trusted, may have changed after the login was looked at and before its session had
    /// it: nobody else tells the session (P4).
    async fn catch_up(self: &Arc<Self>, session: &Arc<Session>) {
        let principal = session.principal();
        let Some(authenticator) = self.authenticator.get() else {
            return;
        };
        if authenticator.is_current(&principal) {
            return;
        }
        if !authenticator.trusts_issuer_of(&principal) {
            self.revoke_token(session, &principal);
            return;
        }
        match authenticator.renew((*principal).clone()) {
            Some(now) => {
                let roles = Change::Account(now.roles);
                self.recheck(session, Some(&roles)).await;
                self.bus().rights().changed();
            }
            None => {
                session.revoke();
                session.notify(Notice::Disabled);
            }
        }
    }

    /// P3: its will is sent.
    fn expire_token(&self, session: &Session, principal: &Principal) {
        let now = SystemTime::now();
        let certificate = principal.certificate.as_ref();
        let (notice, why) =
            match certificate.is_some_and(|certificate| certificate.has_expired(now)) {
                true => (
                    Notice::CertificateExpired,
                    "the client certificate has expired",
                ),
                false => (Notice::TokenExpired, "the token has expired"),
            };
        if session.online.load(Relaxed) && session.disown(notice, why) {
            self.metrics().tokens_expired.add(1);
        }
    }

    /// P3: the session stays with its principal, who may come back with another token. Whether that ends a connection.
    fn revoke_token(&self, session: &Arc<Session>, judged: &Principal) -> bool {
        let is_judged = |now: &Principal| match (&now.token, &judged.token) {
            (Some(now), Some(judged)) => Arc::ptr_eq(now, judged),
            _ => false,
        };
        let why = "the issuer does not stand by the token any more";
        let ended = self.discredit(session, is_judged, Notice::TokenRevoked, why);
        self.metrics().tokens_revoked.add(ended.into());
        ended
    }
}
