//! Messages of shared groups that wait on disk and leave their session: it ends, it left the group, or its client may not
//! have them any more (S4).
//!
//! They are read page by page and given to the dispatcher, which decides who gets them and moves each in one transaction.
//! What is in memory leaves with the dispatcher at once. A session that stays remembers on disk that some are to leave,
//! so that a crash in the middle loses none to a client that never comes back.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    disk::{Unread, Urgency},
    registry::Registry,
    session::Session,
};
use crate::{
    mqtt::Qos,
    routing::{
        control::{Control, Subscription},
        endpoint::{Delivery, Endpoint, SessionId},
        envelope::Envelope,
    },
};

/// Sessions that stay and have something to give away, each once.
#[derive(Default)]
pub struct Departures {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<SessionId>,
    /// Those that end: they give away everything by themselves.
    ending: HashSet<SessionId>,
    /// Whose messages are on their way now.
    current: Option<SessionId>,
    /// Those that are to end, and could not because the disk did not give what waits there for their shared groups.
    unfinished: VecDeque<Arc<Session>>,
    /// Those among `ending` that had to wait for the disk once.
    delayed: HashSet<SessionId>,
}

/// Pauses after the disk could not be read.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Which messages of shared groups are to leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The session ends: all, but those at QoS 2 that were sent.
    All,
    /// It stays: those it should not have, and whose client has not got them.
    Strays,
}

impl Departures {
    /// Some messages of a session are to leave it.
    pub(super) fn add(&self, session: SessionId) {
        let mut state = self.state.lock();
        if !state.waiting.contains(&session) && !state.ending.contains(&session) {
            state.waiting.push_back(session);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.current.is_none() && state.unfinished.is_empty()
    }

    /// The session ends as soon as the disk can be read. It is attached, so that nobody has it until then.
    pub(super) fn end_later(&self, session: &Arc<Session>) {
        {
            let mut state = self.state.lock();
            state.delayed.insert(session.id());
            state.unfinished.push_back(session.clone());
        }
        self.changed.notify_one();
    }

    /// Whether the session is to end as soon as the disk can be read.
    pub(super) fn ends_later(&self, session: SessionId) -> bool {
        self.state.lock().delayed.contains(&session)
    }

    /// Sees messages off, until the process ends.
    pub async fn run(registry: Arc<Registry>) {
        let departures = &registry.departures;
        let mut pause = FIRST_PAUSE;
        loop {
            let changed = departures.changed.notified();
            let (next, unfinished) = {
                let mut state = departures.state.lock();
                state.current = state.waiting.pop_front();
                let unfinished = match state.current {
                    Some(_) => None,
                    None => state.unfinished.pop_front(),
                };
                (state.current, unfinished)
            };
            let done = match (next, unfinished) {
                (Some(id), _) => match registry.by_id(id) {
                    Some(session) => registry.see_off_strays(&session).await.is_ok(),
                    None => true,
                },
                (None, Some(session)) => registry.end(&session, None).await,
                (None, None) => {
                    changed.await;
                    continue;
                }
            };
            if done {
                pause = FIRST_PAUSE;
                continue;
            }
            if let Some(id) = next {
                departures.put_back(id);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What is to leave a session could not be read: others first, then this one again.
    fn put_back(&self, session: SessionId) {
        let mut state = self.state.lock();
        state.current = None;
        if !state.ending.contains(&session) && !state.waiting.contains(&session) {
            state.waiting.push_back(session);
        }
    }

    /// The session has ended, and nobody finds it any more.
    pub(super) fn forget(&self, session: SessionId) {
        let mut state = self.state.lock();
        state.ending.remove(&session);
        state.delayed.remove(&session);
    }

    /// The session ends; true while strays of it are on their way.
    fn end(&self, session: SessionId) -> bool {
        let mut state = self.state.lock();
        state.waiting.retain(|waits| *waits != session);
        state.ending.insert(session);
        state.current == Some(session)
    }

    fn is_waiting(&self, session: SessionId) -> bool {
        self.state.lock().waiting.contains(&session)
    }
}

impl Registry {
    /// The session ends: what waits on disk for its shared groups goes to other members.
    pub(super) async fn see_off_all(&self, session: &Arc<Session>) -> Result<(), Unread> {
        // What is on its way must have arrived before the end, which takes everything from the disk.
        while self.departures.end(session.id()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Some(range) = session.shared_on_disk() else {
            return Ok(());
        };
        session.retire();
        self.see_off(session, range, Who::All).await
    }

    async fn see_off_strays(&self, session: &Arc<Session>) -> Result<(), Unread> {
        if let Some(range) = session.backlog() {
            self.see_off(session, range, Who::Strays).await?;
        }
        if !self.departures.is_waiting(session.id()) {
            session.saw_off();
        }
        // It may wait for a page that held them.
        session.wake();
        Ok(())
    }

    async fn see_off(
        &self,
        session: &Arc<Session>,
        (mut from, to): (u64, u64),
        who: Who,
    ) -> Result<(), Unread> {
        loop {
            let (leaving, next) = session.depart(from, to, who).await?;
            if !leaving.is_empty() {
                let mut envelope = Envelope::default();
                envelope.control(Control::Redistribute(leaving));
                self.send(session, envelope).await;
            }
            let Some(next) = next else { return Ok(()) };
            from = next;
            // B2: no more than the disk can follow.
            while self.store().is_full(None) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

impl Session {
    /// Whether it should not have a message of a shared group: it is no member, or may not read the topic.
    pub(super) fn is_stray(&self, delivery: &Delivery) -> bool {
        let Some(share) = delivery.share() else {
            return false;
        };
        let filter = format!("$share/{}/{}", share.group, share.filter);
        !self.subscriptions.lock().contains_key(filter.as_str())
            || !self.may_subscribe(delivery.message.topic())
    }

    /// Messages of shared groups, on disk, are to leave.
    pub(super) fn lose_strays(&self) {
        {
            let mut rest = self.rest.lock();
            rest.identity.departing = true;
            rest.identity.changed = true;
        }
        self.departures.add(self.id);
    }

    /// They have left.
    fn saw_off(self: &Arc<Self>) {
        let before = {
            let mut rest = self.rest.lock();
            rest.identity.changed |= rest.identity.departing;
            std::mem::take(&mut rest.identity.departing)
        };
        if before {
            self.change(Urgency::Later, |mailbox| {
                mailbox.ledger.touch();
            });
        }
    }

    /// The serials, first and last, of what waits on disk only.
    pub(super) fn backlog(&self) -> Option<(u64, u64)> {
        let mailbox = self.open();
        let from = mailbox.queue.backlog_from()?;
        Some((from, mailbox.ledger.next() - 1))
    }

    /// The serials, first and last, among which messages of shared groups may wait on disk; `None` if there are none.
    pub(super) fn shared_on_disk(&self) -> Option<(u64, u64)> {
        let is_member = |subscription: &Subscription| subscription.filter.share.is_some();
        let has_some = self.rest.lock().identity.departing
            || self.subscriptions.lock().values().any(is_member);
        if !self.is_stored() || !has_some {
            return None;
        }
        let mailbox = self.open();
        let in_flight = mailbox.ledger.first_in_flight();
        let from = in_flight.or(mailbox.queue.backlog_from())?;
        Some((from, mailbox.ledger.next() - 1))
    }

    /// A page of messages that leave, and where the next page begins.
    async fn depart(
        self: &Arc<Self>,
        from: u64,
        to: u64,
        who: Who,
    ) -> Result<(Vec<Delivery>, Option<u64>), Unread> {
        self.handed_over(to).await;
        let (mut deliveries, next) = self.read(from, to).await?;
        deliveries.retain(|delivery| match who {
            Who::All => delivery.share().is_some(),
            Who::Strays => self.is_stray(delivery),
        });
        let mut mailbox = self.open();
        let ledger = &mut mailbox.ledger;
        deliveries.retain(|delivery| {
            let sent = delivery.serial <= ledger.sent();
            let stays = match who {
                // A message at QoS 2 that was sent never moves (S4).
                Who::All => sent && delivery.qos == Qos::ExactlyOnce,
                Who::Strays => sent,
            };
            !stays && !ledger.is_gone(delivery.serial)
        });
        ledger.depart(&deliveries);
        let costs = deliveries.iter().map(|left| left.message.cost() as u64);
        mailbox.queue.swept(deliveries.len() as u64, costs.sum());
        Ok((deliveries, next))
    }
}
