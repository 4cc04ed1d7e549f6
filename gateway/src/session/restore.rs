//! What a start finds on disk: sessions that were there before, with everything they are owed.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    agenda::Due, incoming::Received, ledger::Ledger, record::Identity, registry::Registry,
    session::Session,
};
use crate::{
    auth::Principal,
    mqtt::{PacketId, ReasonCode},
    routing::{
        dispatcher::Dispatcher,
        endpoint::{Endpoint, SessionId},
        stored,
    },
    store::messages::{Loaded, LoadedSession, Rows, SessionKey, Timestamp},
    store::writer::{Change, Refusal, Sessions},
};

/// What became of what was on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub sessions: usize,
    pub subscriptions: usize,
    pub retained: usize,
    /// Messages that wait.
    pub messages: u64,
    /// Sessions whose principal may not connect any more, whose row cannot be understood, or that another replaced.
    pub ended: usize,
}

/// What is on disk and not to be there any more.
#[derive(Default)]
struct Cleaning {
    ended: Vec<SessionKey>,
    subscriptions: Vec<(SessionKey, bytestring::ByteString)>,
    retained: Vec<Box<str>>,
    changed: Vec<Arc<Session>>,
    from_backup: bool,
}

impl Registry {
    /// Takes up what was on disk, before anybody connects and before the dispatcher runs. `known` gives a principal
    /// with the roles of today, or `None` if it may not connect any more: its sessions end, without their wills (P3).
    pub fn restore(
        self: &Arc<Self>,
        loaded: Loaded,
        dispatcher: &mut Dispatcher,
        known: impl Fn(Principal) -> Option<Principal>,
    ) -> Restored {
        let now = self.store().now();
        let mut restored = Restored::default();
        let mut cleaning = Cleaning::default();
        self.next.store(loaded.next_session.max(1), Relaxed);
        for (topic, row) in loaded.retained {
            let message = stored::message(&row.message, row.expires, now);
            match message.filter(|_| row.expires.is_none_or(|at| at > now)) {
                Some(message) => {
                    dispatcher.restore_retained(&message);
                    restored.retained += 1;
                }
                None => cleaning.retained.push(topic),
            }
        }
        // The later one is the one that counts: the end of the other did not come to disk any more.
        for found in loaded.sessions.into_iter().rev() {
            let key = found.key;
            let session =
                Identity::restore(&found.row).and_then(|(identity, principal, discredited)| {
                    let before = principal.roles.clone();
                    let principal = known(principal)?;
                    let other_roles = principal.roles != before;
                    let session =
                        self.admit_restored(SessionId(key), &found.row.client_id, principal)?;
                    session.set_limits(self.settings().queue);
                    session.discredited.store(discredited, Relaxed);
                    let taken = take_up(&session, identity, &found, loaded.restored);
                    if taken.is_none() {
                        self.forget_restored(&session);
                    } else if other_roles {
                        session.is_to_be_rechecked();
                    }
                    taken.map(|()| session)
                });
            let Some(session) = session else {
                cleaning.ended.push(key);
                restored.ended += 1;
                continue;
            };
            restored.sessions += 1;
            restored.messages += found.queued.messages;
            restored.subscriptions +=
                self.subscribe_restored(&session, found.subscriptions, dispatcher, &mut cleaning);
            self.remind(&session, now);
            if session.rest().identity.departing {
                self.departures.add(session.id());
            }
            session.rest().identity.changed |= loaded.restored;
            if session.rest().identity.changed {
                cleaning.changed.push(session);
            }
        }
        cleaning.from_backup = loaded.restored;
        self.store().push(Box::new(cleaning));
        restored
    }

    fn subscribe_restored(
        &self,
        session: &Arc<Session>,
        found: Vec<(bytestring::ByteString, Vec<u8>)>,
        dispatcher: &mut Dispatcher,
        cleaning: &mut Cleaning,
    ) -> usize {
        let endpoint: Arc<dyn Endpoint> = session.clone();
        let mut count = 0;
        for (text, options) in found {
            let mut subscription = stored::subscription(&text, &options);
            // The policy may have changed while the gateway was down (P4).
            let allowed = subscription
                .take_if(|subscription| session.subscribe(&text, subscription, usize::MAX).is_ok());
            match allowed {
                Some(subscription) => {
                    dispatcher.restore_subscription(&endpoint, &subscription);
                    count += 1;
                }
                None => {
                    session.lose(text.clone());
                    session.is_to_be_rechecked();
                    cleaning.subscriptions.push((session.id().0, text));
                }
            }
        }
        count
    }

    /// When its will is due, and when it ends.
    fn remind(&self, session: &Arc<Session>, now: Timestamp) {
        let grace = self.settings().restart_will_grace;
        let mut rest = session.rest();
        let identity = &mut rest.identity;
        let was_connected = std::mem::replace(&mut identity.connected, false);
        if was_connected {
            // Its client was there until the last commit, as far as is known.
            identity.since = now;
            identity.changed = true;
        }
        let left = identity.left(now);
        let was_lost = identity.will.is_some() && identity.will_due.is_none();
        let wait = identity.will.as_ref().map(|will| match identity.will_due {
            Some(due) => Duration::from_secs(u64::try_from(due - now).unwrap_or(0)),
            None => will.delay(),
        });
        let wait = wait.map(|wait| wait.max(grace));
        // A client that was connected counts as lost, and may return first (D10).
        rest.was_lost = was_lost;
        drop(rest);
        match wait {
            // A session that was kept for its will only ends with it.
            Some(wait) if left.is_zero() => self.agenda.add(session, Due::Expiry, wait),
            Some(wait) => {
                self.agenda
                    .add(session, Due::Will, wait.min(left.max(grace)));
                self.agenda.add(session, Due::Expiry, left);
            }
            None => self.agenda.add(session, Due::Expiry, left),
        }
    }
}

/// `None`: its row is not one of ours.
fn take_up(
    session: &Arc<Session>,
    mut identity: Identity,
    found: &LoadedSession,
    from_backup: bool,
) -> Option<()> {
    let mut ledger = Ledger::restore(&found.progress, found.queued.last)?;
    let mut received = Received::default();
    if from_backup {
        // D11: packet identifiers in both directions mean nothing to clients any more.
        ledger.forget_identifiers();
    } else {
        let ids = found.received.iter().filter_map(|(id, reason)| {
            let reason = ReasonCode::try_from(*reason).unwrap_or(ReasonCode::Success);
            Some((PacketId::new(*id)?, reason))
        });
        received = Received::restore(ids);
    }
    identity.from_backup |= from_backup;
    let subscribed = !found.subscriptions.is_empty();
    session.restore(identity, ledger, received, found.queued, subscribed);
    Some(())
}

impl Change for Cleaning {
    fn rows(&mut self, rows: &mut Rows, now: Timestamp) {
        for session in self.ended.drain(..) {
            rows.ended(session);
        }
        for (session, filter) in self.subscriptions.drain(..) {
            rows.subscription(session, filter, None);
        }
        for topic in self.retained.drain(..) {
            rows.retained(&topic, None);
        }
        for session in &self.changed {
            session.record(rows, now);
        }
        if self.from_backup {
            // Every session says so itself from here on.
            rows.backup_taken_up();
        }
    }

    fn done(self: Box<Self>) {
        self.changed.iter().for_each(|session| session.recorded());
    }

    fn refused(&mut self, _: &mut Refusal) -> bool {
        true
    }
}

impl Sessions for Registry {
    fn is_in_flight(&self, session: SessionKey, serial: u64) -> bool {
        let session = self.by_id(SessionId(session));
        session.is_some_and(|session| session.is_in_flight(serial))
    }

    fn swept(&self, session: SessionKey, messages: u64, bytes: u64) {
        self.metrics().messages_expired.add(messages);
        if let Some(session) = self.by_id(SessionId(session)) {
            session.swept(messages, bytes);
        }
    }

    fn write_anew(&self) {
        self.store().push(Box::new(Anew(self.all())));
    }
}

/// Everything that memory knows of these sessions.
struct Anew(Vec<Arc<Session>>);

impl Change for Anew {
    fn rows(&mut self, rows: &mut Rows, now: Timestamp) {
        for session in &self.0 {
            session.write_anew(rows, now);
        }
    }

    fn done(self: Box<Self>) {
        self.0.iter().for_each(|session| session.recorded());
    }

    fn refused(&mut self, _: &mut Refusal) -> bool {
        true
    }
}
