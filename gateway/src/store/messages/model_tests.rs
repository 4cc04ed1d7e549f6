//! The store against a map: whatever is written, finished, expired, ended and reopened in whatever order, pages and
//! totals say what the map says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{receiver, session_row};
use super::*;

/// What one step does to the store.
#[derive(Clone, Debug)]
enum Step {
    /// A message for these of the sessions.
    Queue {
        sessions: Vec<bool>,
        length: usize,
        expires: Option<Timestamp>,
        times: u8,
    },
    /// The oldest unfinished messages of a session, or a run that leaves a hole before it.
    Done {
        session: usize,
        skip: u8,
        count: u8,
    },
    Retain {
        topic: u8,
        value: Option<u8>,
    },
    Receive {
        session: usize,
        id: u16,
        reason: Option<u8>,
    },
    Subscribe {
        session: usize,
        filter: u8,
        options: Option<u8>,
    },
    /// The session, which another one with its place follows.
    End {
        session: usize,
    },
    Commit,
    /// Commits; then again, as if nobody knew.
    CommitTwice,
    Sweep {
        time: u8,
    },
    Page {
        session: usize,
        skip: u8,
        bytes: usize,
    },
    Restart,
    Shrink,
}

const SESSIONS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS;
    prop_oneof![
        8 => (
            prop::collection::vec(any::<bool>(), SESSIONS),
            prop_oneof![Just(0), Just(10), Just(700), Just(30_000)],
            prop::option::of(0..40i64),
            prop_oneof![Just(1u8), Just(3), Just(200)],
        ).prop_map(|(sessions, length, expires, times)| Step::Queue { sessions, length, expires, times }),
        8 => (session.clone(), 0..4u8, 1..200u8)
            .prop_map(|(session, skip, count)| Step::Done { session, skip, count }),
        2 => (0..4u8, any::<Option<u8>>()).prop_map(|(topic, value)| Step::Retain { topic, value }),
        2 => (session.clone(), 1..4u16, any::<Option<u8>>())
            .prop_map(|(session, id, reason)| Step::Receive { session, id, reason }),
        2 => (session.clone(), 0..4u8, any::<Option<u8>>())
            .prop_map(|(session, filter, options)| Step::Subscribe { session, filter, options }),
        1 => session.clone().prop_map(|session| Step::End { session }),
        8 => Just(Step::Commit),
        2 => Just(Step::CommitTwice),
        3 => (0..50u8).prop_map(|time| Step::Sweep { time }),
        6 => (session, 0..100u8, 1..100_000usize)
            .prop_map(|(session, skip, bytes)| Step::Page { session, skip, bytes }),
        1 => Just(Step::Restart),
        1 => Just(Step::Shrink),
    ]
}

#[derive(Clone, Debug, Default)]
struct Model {
    key: SessionKey,
    next: u64,
    queue: BTreeMap<u64, (Option<Timestamp>, Vec<u8>)>,
    /// What was ever finished or expired: it may turn up again while a segment holds it, but never as anything else.
    finished: BTreeMap<u64, (Option<Timestamp>, Vec<u8>)>,
    received: BTreeMap<u16, u8>,
    subscriptions: BTreeMap<String, Vec<u8>>,
}

struct Run {
    dir: tempfile::TempDir,
    messages: Option<Messages>,
    rows: Rows,
    sessions: Vec<Model>,
    retained: BTreeMap<String, Vec<u8>>,
    next_key: SessionKey,
    body: u8,
}

async fn opened(dir: &tempfile::TempDir) -> Messages {
    let opened = Messages::open(dir.path(), Durability::ProcessCrash).await;
    let (messages, aside) = opened.unwrap();
    assert_eq!(aside, None);
    messages
}

impl Run {
    async fn new() -> Run {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run {
            messages: Some(opened(&dir).await),
            dir,
            rows: Rows::default(),
            sessions: vec![Model::default(); SESSIONS],
            retained: BTreeMap::new(),
            next_key: 1,
            body: 0,
        };
        for place in 0..SESSIONS {
            run.begin(place);
        }
        run
    }

    fn store(&mut self) -> &mut Messages {
        self.messages.as_mut().unwrap()
    }

    fn begin(&mut self, place: usize) {
        let key = self.next_key;
        self.next_key += 1;
        self.sessions[place] = Model {
            key,
            next: 1,
            ..Model::default()
        };
        self.rows
            .session(key, session_row(&format!("client-{key}")));
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Queue {
                sessions,
                length,
                expires,
                times,
            } => {
                for _ in 0..times {
                    self.queue(&sessions, length, expires);
                }
            }
            Step::Done {
                session,
                skip,
                count,
            } => self.done(session, skip, count),
            Step::Retain { topic, value } => {
                let topic = format!("topic/{topic}");
                let row = value.map(|value| RetainedRow {
                    expires: None,
                    message: vec![value; 9].into(),
                });
                self.rows.retained(&topic, row);
                match value {
                    Some(value) => self.retained.insert(topic, vec![value; 9]),
                    None => self.retained.remove(&topic),
                };
            }
            Step::Receive {
                session,
                id,
                reason,
            } => {
                let session = &mut self.sessions[session];
                self.rows.received(session.key, id, reason);
                match reason {
                    Some(reason) => session.received.insert(id, reason),
                    None => session.received.remove(&id),
                };
            }
            Step::Subscribe {
                session,
                filter,
                options,
            } => {
                let session = &mut self.sessions[session];
                let filter = format!("filter/{filter}");
                let options = options.map(|options| vec![options]);
                self.rows
                    .subscription(session.key, filter.as_str().into(), options.clone());
                match options {
                    Some(options) => session.subscriptions.insert(filter, options),
                    None => session.subscriptions.remove(&filter),
                };
            }
            Step::End { session } => {
                self.rows.ended(self.sessions[session].key);
                self.begin(session);
            }
            Step::Commit => self.commit().await,
            Step::CommitTwice => {
                let rows = std::mem::take(&mut self.rows);
                self.store().write(&rows, 1).await.unwrap();
                self.store().reopen().await.unwrap();
                self.rows = rows;
                self.commit().await;
            }
            Step::Sweep { time } => self.sweep(time.into()).await,
            Step::Page {
                session,
                skip,
                bytes,
            } => self.page(session, skip, bytes).await,
            Step::Restart => self.restart().await,
            Step::Shrink => {
                self.store().shrink().await.unwrap();
            }
        }
    }

    async fn commit(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        self.store().write(&rows, 1).await.unwrap();
    }

    fn queue(&mut self, sessions: &[bool], length: usize, expires: Option<Timestamp>) {
        self.body = self.body.wrapping_add(1);
        let body = vec![self.body; length];
        let mut receivers = Vec::new();
        for (session, _) in self
            .sessions
            .iter_mut()
            .zip(sessions)
            .filter(|(_, yes)| **yes)
        {
            receivers.push(receiver(session.key, session.next));
            session.queue.insert(session.next, (expires, body.clone()));
            session.next += 1;
        }
        self.rows.queued(&body, expires, &receivers);
    }

    fn done(&mut self, session: usize, skip: u8, count: u8) {
        let session = &mut self.sessions[session];
        let serials: Vec<u64> = session.queue.keys().copied().collect();
        let run = serials.iter().skip(skip.into()).take(count.into());
        let run: Vec<u64> = run.copied().collect();
        for serial in &run {
            let message = session.queue.remove(serial).unwrap();
            session.finished.insert(*serial, message);
        }
        let Some(serial) = run.first() else {
            return;
        };
        // The widest range without an unfinished message.
        let before = session.queue.range(..serial).next_back();
        let after = session.queue.range(serial..).next();
        let first = before.map_or(1, |(serial, _)| serial + 1);
        let last = after.map_or(session.next - 1, |(serial, _)| serial - 1);
        self.rows.done(session.key, first, last);
    }

    /// Messages with an even serial are in flight.
    async fn sweep(&mut self, time: Timestamp) {
        self.commit().await;
        let mut removed = 0;
        loop {
            let in_flight = |_, serial| serial % 2 == 0;
            let swept = self.store().sweep(time, &in_flight).await.unwrap();
            removed += swept
                .removed
                .iter()
                .map(|(_, messages, _)| messages)
                .sum::<u64>();
            if !swept.more {
                break;
            }
        }
        let mut expired = 0;
        for session in &mut self.sessions {
            let is_expired = |serial: &u64, expires: Option<Timestamp>| {
                serial % 2 == 1 && expires.is_some_and(|expires| expires <= time)
            };
            let queue = std::mem::take(&mut session.queue);
            for (serial, message) in queue {
                if is_expired(&serial, message.0) {
                    expired += 1;
                    session.finished.insert(serial, message);
                } else {
                    session.queue.insert(serial, message);
                }
            }
        }
        // Finished messages that were still in a segment may be counted, too.
        assert!(removed >= expired, "{removed} < {expired}");
    }

    /// Every unfinished message is there, in order, as it was queued.
    async fn page(&mut self, session: usize, skip: u8, bytes: usize) {
        self.commit().await;
        let model = self.sessions[session].clone();
        let from = model.queue.keys().nth(skip.into()).copied().unwrap_or(1);
        let mut expected = model.queue.range(from..);
        let mut at = Some(from);
        let mut last = 0;
        while let Some(from) = at {
            let page = self
                .store()
                .page(model.key, from, u64::MAX, bytes)
                .await
                .unwrap();
            assert_eq!(page.lost, 0);
            assert!(!page.entries.is_empty() || page.next.is_none());
            let sum: usize = page
                .entries
                .iter()
                .skip(1)
                .map(|entry| entry.body.len())
                .sum();
            assert!(sum <= bytes);
            for entry in &page.entries {
                assert!(entry.serial >= from && entry.serial > last);
                last = entry.serial;
                let stored = (entry.expires, entry.body.to_vec());
                if model.finished.get(&entry.serial) == Some(&stored) {
                    continue;
                }
                assert_eq!(entry.head, receiver(model.key, entry.serial).head);
                assert_eq!(expected.next(), Some((&entry.serial, &stored)));
            }
            assert!(page.next.is_none_or(|next| next > last));
            at = page.next;
        }
        assert_eq!(expected.next(), None);
    }

    async fn restart(&mut self) {
        self.commit().await;
        self.messages.take().unwrap().close().await;
        self.messages = Some(opened(&self.dir).await);
        let loaded = self.store().load().await.unwrap();
        assert_eq!((loaded.lost, loaded.restored), (0, false));
        assert_eq!(loaded.next_session, self.next_key);
        let mut retained: Vec<_> = loaded.retained.into_iter().collect();
        retained.sort_by(|one, other| one.0.cmp(&other.0));
        let retained = retained
            .into_iter()
            .map(|(topic, row)| (topic.into(), row.message.to_vec()));
        assert_eq!(retained.collect::<BTreeMap<String, _>>(), self.retained);
        let mut models = self.sessions.clone();
        models.sort_by_key(|session| session.key);
        assert_eq!(loaded.sessions.len(), models.len());
        for (loaded, model) in loaded.sessions.into_iter().zip(models) {
            assert_eq!(loaded.key, model.key);
            assert_eq!(
                loaded.received.into_iter().collect::<BTreeMap<_, _>>(),
                model.received
            );
            let subscriptions = loaded.subscriptions.into_iter();
            let subscriptions =
                subscriptions.map(|(filter, options)| (filter.to_string(), options));
            assert_eq!(
                subscriptions.collect::<BTreeMap<_, _>>(),
                model.subscriptions
            );
            let queued = loaded.queued;
            let unfinished = model.queue.len() as u64;
            assert!(queued.messages >= unfinished && queued.messages < model.next);
            if let Some((first, _)) = model.queue.first_key_value() {
                let (last, _) = model.queue.last_key_value().unwrap();
                assert!(queued.first <= *first && queued.last >= *last);
                assert!(loaded.progress.next > *last);
            }
        }
    }

    /// When every message is finished nothing is left of any.
    async fn finish(&mut self) {
        for place in 0..SESSIONS {
            self.done(place, 0, u8::MAX);
            while !self.sessions[place].queue.is_empty() {
                self.done(place, 0, u8::MAX);
            }
            let session = &self.sessions[place];
            if session.next > 1 {
                self.rows.done(session.key, 1, session.next - 1);
            }
        }
        self.commit().await;
        while self.store().sweep(0, &|_, _| true).await.unwrap().more {}
        for table in ["segments", "body_users", "bodies"] {
            let connection = self.store().connection.as_mut().unwrap();
            let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
            let left: i64 = sqlx::query_scalar(sql).fetch_one(connection).await.unwrap();
            assert_eq!(left, 0, "{table}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    // D7, D9, D12
    #[test]
    fn the_store_says_what_a_map_says(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in steps {
                run.step(step).await;
            }
            for session in 0..SESSIONS {
                run.page(session, 0, 50_000).await;
            }
            run.restart().await;
            run.finish().await;
        });
    }
}
