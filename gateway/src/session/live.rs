//! Changes that reach sessions while they live: policy, roles, accounts (P4).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
    time::SystemTime,
};

use bytestring::ByteString;

use super::{
    entitlement::Change,
    mailbox::Notice,
    registry::Registry,
    session::{Lost, Session},
};
use crate::{
    auth::{Certificate, Principal},
    routing::{control::Control, envelope::Envelope},
};

impl Registry {
    /// The policy was replaced: every session, connected or not, is checked against it at once.
    pub async fn policy_changed(self: &Arc<Self>) {
        for (n, session) in self.all().into_iter().enumerate() {
            self.recheck(&session, None).await;
            give_way(n, 64).await;
        }
        self.bus().rights().changed();
    }

    /// The roles of a principal changed.
    pub async fn roles_changed(self: &Arc<Self>, realm: &str, name: &str, roles: Arc<[Arc<str>]>) {
        for session in self.of(realm, name) {
            let roles = Change::Account(roles.clone());
            self.recheck(&session, Some(&roles)).await;
        }
        self.bus().rights().changed();
    }

    /// The principal may not connect any more: its connections end without their wills (P3), and its sessions too.
    pub async fn principal_disabled(self: &Arc<Self>, realm: &str, name: &str) {
        let sessions = self.of(realm, name);
        // All of them, before one has to wait for the disk.
        for session in &sessions {
            session.revoke();
            session.disown(Notice::Disabled, "the account was disabled or removed");
        }
        for session in sessions {
            let idle = {
                let mut rest = session.rest();
                rest.will = None;
                rest.identity.will = None;
                let idle = !rest.attached && !rest.ended;
                rest.attached |= idle;
                idle
            };
            if idle {
                self.end(&session, None).await;
            }
        }
    }

    /// The credentials of a principal changed: whoever is connected with the old ones must show the new ones.
    pub fn credentials_changed(&self, realm: &str, name: &str) {
        for session in self.of(realm, name) {
            session.disown(Notice::Disabled, "the credentials were changed");
        }
    }

    /// Which client certificates are good changed: sessions that were opened with one that is not are discredited. Gives the
    /// number of connections that end.
    pub async fn certificates_changed(
        self: &Arc<Self>,
        is_good: impl Fn(&Certificate) -> bool,
    ) -> usize {
        let (mut ended, mut judged) = (0, 0);
        for session in self.all() {
            let principal = session.principal();
            let Some(certificate) = &principal.certificate else {
                continue;
            };
            // Each costs a signature, about 0.1 ms.
            give_way(judged, 16).await;
            judged += 1;
            if is_good(certificate) {
                continue;
            }
            let why = "the client certificate is not accepted any more";
            let is_judged = |now: &Principal| {
                let now = now.certificate.as_ref();
                now.is_some_and(|now| Arc::ptr_eq(now, certificate))
            };
            let notice = Notice::CertificateRevoked;
            ended += usize::from(self.discredit(&session, is_judged, notice, why));
        }
        ended
    }

    /// A login was let in, and what it showed was revoked before anybody could tell its session (P3).
    pub fn login_was_revoked(&self, session: &Arc<Session>) {
        let why = "the credential was revoked while the client logged in";
        self.discredit(session, |_| true, Notice::TokenRevoked, why);
    }

    /// What the last login of a session showed was revoked, if `is_judged` knows that login: a later one is another matter.
    /// Its connection ends, its will is not sent (P3), and until its principal comes back with something better nothing more
    /// is delivered to it. What waits already stays, and is checked by what the next login entitles to. Whether there was a
    /// connection to end.
    pub(super) fn discredit(
        &self,
        session: &Arc<Session>,
        is_judged: impl FnOnce(&Principal) -> bool,
        notice: Notice,
        why: &str,
    ) -> bool {
        let (online, waker) = {
            let mut rest = session.rest();
            if rest.ended || !is_judged(&session.principal()) {
                return false;
            }
            if session.discredited.swap(true, Relaxed) {
                return false;
            }
            rest.forget_will();
            rest.identity.changed = true;
            match session.online.load(Relaxed) {
                true => (true, session.leave_notice(&rest, notice).0),
                // A client that is on its way has a login of its own.
                false => (false, None),
            }
        };
        self.bus().rights().changed();
        waker.inspect(Waker::wake_by_ref);
        session.save_soon();
        session.was_withdrawn("", why);
        let (principal, client) = (session.principal(), session.client_id());
        tracing::warn!(target: "postern::audit", %principal, ?client, %why, "nothing more is delivered to this session until the next login");
        self.metrics().sessions_discredited.add(1);
        online
    }

    /// Ends connections whose client certificate has expired; their wills are sent (P3). Gives their number.
    pub fn certificates_expired(&self, now: SystemTime) -> usize {
        let expired = |session: &&Arc<Session>| {
            let principal = session.principal.load();
            let certificate = principal.certificate.as_ref();
            session.online.load(Relaxed) && certificate.is_some_and(|one| one.has_expired(now))
        };
        let all = self.all();
        let told = all.iter().filter(expired);
        let why = "the client certificate has expired";
        told.filter(|session| session.disown(Notice::CertificateExpired, why))
            .count()
    }

    pub(super) async fn recheck(self: &Arc<Self>, session: &Arc<Session>, change: Option<&Change>) {
        let Lost {
            subscriptions,
            shared,
        } = session.apply(&self.policy().load(), change);
        for lost in &subscriptions {
            let why = "a change took this subscription away";
            session.was_withdrawn(lost.filter.as_str(), why);
        }
        let first = subscriptions.first();
        let first = first.map(|lost| lost.filter.as_str().into());
        let mut envelope = Envelope::default();
        if !subscriptions.is_empty() {
            envelope.control(Control::Revoke(subscriptions));
        }
        if !shared.is_empty() {
            envelope.control(Control::Redistribute(shared));
        }
        self.send(session, envelope).await;
        // No client goes silently deaf.
        if let Some(first) = first {
            session.notify(Notice::SubscriptionLost(first));
        }
    }

    /// The sessions of a principal: client identifier and last login.
    pub fn principals(&self, realm: &str, name: &str) -> Vec<(ByteString, Arc<Principal>)> {
        let sessions = self.of(realm, name).into_iter();
        sessions
            .map(|session| (session.client_id().clone(), session.principal()))
            .collect()
    }

    fn of(&self, realm: &str, name: &str) -> Vec<Arc<Session>> {
        let mut sessions = self.all();
        sessions.retain(|session| {
            let principal = session.principal();
            *principal.realm == *realm && *principal.name == *name
        });
        sessions
    }
}

/// After `every` sessions in a row, lets others work: tens of thousands must not keep everybody waiting. `done`: how many there
/// were before this one.
pub(super) async fn give_way(done: usize, every: usize) {
    if done % every == every - 1 {
        tokio::task::yield_now().await;
    }
}
