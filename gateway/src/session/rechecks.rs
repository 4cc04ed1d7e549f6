//! Messages that wait on disk for a client that may not have them any more: a change of policy or roles took the right
//! away (D8). They go at once, and not only when the client comes back.
//!
//! Memory knows nothing of single messages on disk, so they are read page by page, one session after the other, beside
//! everything else: neither the dispatcher nor a change of policy waits for it (B3). Only sessions from whom something
//! was taken are looked at, and only while nobody is connected: a connection checks each page that it reads. What is in
//! flight stays, and is not sent again (D9). A crash in the middle loses no check: what is left is checked when it is read.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    disk::{Unread, Urgency},
    registry::Registry,
    session::Session,
};
use crate::routing::endpoint::{Delivery, Endpoint, SessionId};

/// Sessions whose messages on disk are to be checked anew, each once.
#[derive(Default)]
pub struct Rechecks {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<SessionId>,
    known: HashSet<SessionId>,
    working: bool,
}

/// Pauses after the disk could not be read.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Rechecks {
    pub(super) fn add(&self, session: SessionId) {
        let mut state = self.state.lock();
        if state.known.insert(session) {
            state.waiting.push_back(session);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && !state.working
    }

    /// Checks what there is to check, until the process ends.
    pub async fn run(registry: Arc<Registry>) {
        let rechecks = &registry.rechecks;
        let mut pause = FIRST_PAUSE;
        // What was dropped rides with other transactions, and gets one when there is nothing more to check.
        let mut unsaved = false;
        loop {
            let changed = rechecks.changed.notified();
            let (next, left) = {
                let mut state = rechecks.state.lock();
                let next = state.waiting.pop_front();
                if let Some(id) = &next {
                    state.known.remove(id);
                }
                state.working = next.is_some();
                (next, state.waiting.len())
            };
            let waiting = left + usize::from(next.is_some());
            registry.metrics().rechecks_waiting.set(waiting as u64);
            let Some(id) = next else {
                changed.await;
                continue;
            };
            let Some(session) = registry.by_id(id) else {
                continue;
            };
            match session.recheck_stored().await {
                Ok(dropped) => {
                    pause = FIRST_PAUSE;
                    unsaved |= dropped > 0;
                    if unsaved && left == 0 {
                        registry.store().hurry();
                        unsaved = false;
                    }
                }
                Err(Unread) => {
                    rechecks.add(id);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

impl Session {
    /// A change took something from the session: what waits for it on disk is not checked by it yet.
    pub(super) fn is_to_be_rechecked(&self) {
        if self.is_stored() {
            self.unchecked.store(true, Relaxed);
            self.rechecks.add(self.id());
        }
    }

    /// Its client has left: what was to be checked while it was here is checked now.
    pub(super) fn recheck_after_all(&self) {
        if self.unchecked.load(Relaxed) {
            self.rechecks.add(self.id());
        }
    }

    /// Gives how many messages were dropped.
    async fn recheck_stored(self: &Arc<Self>) -> Result<u64, Unread> {
        if self.is_online() {
            // It checks what it reads; the rest is checked when it leaves.
            return Ok(0);
        }
        self.unchecked.store(false, Relaxed);
        let Some((mut from, to)) = self.backlog() else {
            return Ok(0);
        };
        let mut strays = false;
        let mut dropped = 0;
        let outcome = loop {
            self.handed_over(to).await;
            let (deliveries, next) = match self.read(from, to).await {
                Ok(page) => page,
                Err(unread) => break Err(unread),
            };
            let Some(more) = self.drop_forbidden(&deliveries, &mut strays) else {
                break Ok(dropped);
            };
            dropped += more;
            match next {
                Some(next) => from = next,
                None => break Ok(dropped),
            }
        };
        if strays {
            // S4: what waits for a shared group goes to another member.
            self.lose_strays();
        }
        if outcome.is_err() {
            self.unchecked.store(true, Relaxed);
        }
        outcome
    }

    /// Finishes those that the client may not have, and counts them. `None` if it is here by now.
    fn drop_forbidden(self: &Arc<Self>, page: &[Delivery], strays: &mut bool) -> Option<u64> {
        let stray: Vec<_> = page
            .iter()
            .map(|delivery| self.is_stray(delivery))
            .collect();
        let mut mailbox = self.open();
        if self.is_online() {
            self.unchecked.store(true, Relaxed);
            return None;
        }
        // Under the lock: a connection that begins stores its permissions before it is online.
        let permissions = self.permissions.load();
        let (mut messages, mut bytes) = (0, 0);
        for (delivery, is_stray) in page.iter().zip(stray) {
            let (serial, topic) = (delivery.serial, delivery.message.topic());
            // D9: what may be in the client's hands keeps its packet identifier.
            let is_ours = serial > mailbox.ledger.sent() && !mailbox.ledger.is_gone(serial);
            if is_ours && is_stray {
                *strays = true;
            } else if is_ours && !permissions.subscribe(topic).allowed {
                mailbox.ledger.finish(serial);
                messages += 1;
                bytes += delivery.message.cost() as u64;
            }
        }
        if messages > 0 {
            mailbox.queue.swept(messages, bytes);
            self.metrics.messages_dropped.add(messages);
            self.save(&mut mailbox, Urgency::Later);
        }
        Some(messages)
    }
}
