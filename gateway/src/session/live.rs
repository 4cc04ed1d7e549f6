//! Changes that reach sessions while they live: policy, roles, accounts (P4).

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
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
            // Tens of thousands of sessions must not keep everybody else waiting.
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
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
        let (mut ended, mut judged, mut discredited) = (0, 0, false);
        for session in self.all() {
            let principal = session.principal();
            let Some(certificate) = &principal.certificate else {
                continue;
            };
            // Each costs a signature, about 0.1 ms.
            judged += 1;
            if judged % 16 == 0 {
                tokio::task::yield_now().await;
            }
            if is_good(certificate) {
                continue;
            }
            let why = "the client certificate is not accepted any more";
            ended += usize::from(session.discredit(Notice::CertificateRevoked, why));
            discredited = true;
        }
        if discredited {
            self.bus().rights().changed();
        }
        ended
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
            session.withdrawn(lost.filter.as_str());
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

impl Session {
    /// What the last login showed was revoked. Its connection ends, its will is not sent (P3), and until its principal comes
    /// back with something better nothing more is delivered to it, once the dispatcher has forgotten whom it may serve. What
    /// waits already stays, and is checked by what the next login entitles to. Whether there was a connection to end.
    pub(super) fn discredit(self: &Arc<Self>, notice: Notice, why: &str) -> bool {
        let absent = {
            let mut rest = self.rest();
            let first = !self.discredited.swap(true, Relaxed);
            let absent = !rest.attached && !rest.ended;
            if absent {
                rest.forget_will();
                rest.identity.changed |= first;
            }
            absent && first
        };
        if absent {
            self.save_soon();
            self.discredited_in_absence(why);
        }
        self.disown(notice, why)
    }
}
