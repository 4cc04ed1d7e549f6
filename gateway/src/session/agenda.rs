//! The agenda: when do sessions expire, delayed wills fall due, and tokens end?
//!
//! One task sleeps until the next moment; a session that is claimed again is forgotten.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{registry::Registry, session::Session};
use crate::routing::endpoint::{Endpoint, SessionId};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    Will,
    Expiry,
    /// The token of its login ends, or its issuer is to be asked about it.
    Token,
}

#[derive(Default)]
pub struct Agenda {
    entries: Mutex<Entries>,
    changed: Notify,
}

#[derive(Default)]
struct Entries {
    by_time: BTreeSet<(Instant, SessionId, Due)>,
    by_session: HashMap<(SessionId, Due), (Instant, Weak<Session>)>,
}

impl Agenda {
    pub fn add(&self, session: &Arc<Session>, due: Due, after: Duration) {
        // A moment that the clock cannot express is never.
        let Some(moment) = Instant::now().checked_add(after) else {
            return;
        };
        self.entries
            .lock()
            .insert(moment, session.id(), due, Arc::downgrade(session));
        self.changed.notify_one();
    }

    pub fn forget(&self, session: SessionId) {
        let mut entries = self.entries.lock();
        entries.remove(session, Due::Will);
        entries.remove(session, Due::Expiry);
        entries.remove(session, Due::Token);
    }

    /// Does what falls due, until the process ends.
    pub async fn run(registry: Arc<Registry>) {
        let agenda = &registry.agenda;
        loop {
            let changed = agenda.changed.notified();
            let next = agenda.entries.lock().take_due(Instant::now());
            match next {
                Next::Due(session, due) => {
                    let Some(session) = session.upgrade() else {
                        continue;
                    };
                    if due == Due::Expiry && session.shared_on_disk().is_some() {
                        // It waits for the disk: the others do not wait for it.
                        let registry = registry.clone();
                        tokio::spawn(async move { registry.due(session, due).await });
                    } else {
                        registry.due(session, due).await;
                    }
                }
                Next::At(moment) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(moment.into()) => {}
                        () = changed => {}
                    }
                }
                Next::Never => changed.await,
            }
        }
    }
}

enum Next {
    Due(Weak<Session>, Due),
    At(Instant),
    Never,
}

impl Entries {
    fn insert(&mut self, moment: Instant, id: SessionId, due: Due, session: Weak<Session>) {
        self.remove(id, due);
        self.by_time.insert((moment, id, due));
        self.by_session.insert((id, due), (moment, session));
    }

    fn remove(&mut self, id: SessionId, due: Due) -> Option<Weak<Session>> {
        let (moment, session) = self.by_session.remove(&(id, due))?;
        self.by_time.remove(&(moment, id, due));
        Some(session)
    }

    fn take_due(&mut self, now: Instant) -> Next {
        let Some((moment, id, due)) = self.by_time.first().copied() else {
            return Next::Never;
        };
        if moment > now {
            return Next::At(moment);
        }
        Next::Due(self.remove(id, due).unwrap_or_default(), due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_one_moment_for_each_thing_and_can_be_forgotten() {
        let (agenda, id) = (Agenda::default(), SessionId(1));
        let now = Instant::now();
        let mut entries = agenda.entries.lock();
        entries.insert(now + Duration::from_secs(100), id, Due::Expiry, Weak::new());
        entries.insert(now, id, Due::Expiry, Weak::new());
        entries.insert(now + Duration::from_secs(50), id, Due::Will, Weak::new());
        assert_eq!(entries.by_time.len(), 2);
        assert!(matches!(entries.take_due(now), Next::Due(_, Due::Expiry)));
        assert!(matches!(entries.take_due(now), Next::At(_)));
        drop(entries);
        agenda.forget(id);
        assert!(matches!(agenda.entries.lock().take_due(now), Next::Never));
    }
}
