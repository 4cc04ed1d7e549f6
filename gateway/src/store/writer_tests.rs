//! What becomes of changes while the disk refuses (D7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Change, Refusal, Store};
use crate::{
    metrics::Metrics,
    mqtt::ReasonCode,
    store::{
        messages::{ProgressRow, Rows, SessionKey, Timestamp},
        testing::{self, Obstacle},
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

/// What happened to changes.
#[derive(Default)]
struct Fate {
    refused: AtomicUsize,
    done: AtomicUsize,
    dropped: AtomicUsize,
}

/// The state of a session.
struct State(SessionKey, Arc<Fate>);

impl Change for State {
    fn rows(&mut self, rows: &mut Rows, _: Timestamp) {
        let row = ProgressRow {
            next: 1,
            sent: 0,
            state: Vec::new(),
        };
        rows.progress(self.0, row);
    }

    fn done(self: Box<Self>) {
        self.1.done.fetch_add(1, Relaxed);
    }

    fn refused(&mut self, refusal: &mut Refusal) -> bool {
        assert_eq!(
            refusal.failure.reason(),
            ReasonCode::ImplementationSpecificError
        );
        self.1.refused.fetch_add(1, Relaxed);
        refusal.is_first(self.0)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.1.dropped.fetch_add(1, Relaxed);
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A store that fails, with one change of session 1 in it.
async fn failing() -> (Arc<Store>, Arc<Fate>, Obstacle, tempfile::TempDir) {
    let (store, directory) = testing::start(&Arc::new(Metrics::default()));
    let obstacle = Obstacle::put(directory.path()).await;
    let fate = Arc::new(Fate::default());
    store.push(Box::new(State(1, fate.clone())));
    until("the store does not fail", || store.is_failing()).await;
    (store, fate, obstacle, directory)
}

#[tokio::test]
async fn while_the_disk_refuses_one_change_of_a_session_is_kept_and_the_rest_refused_at_once() {
    let (store, fate, obstacle, _directory) = failing().await;
    for _ in 0..100 {
        store.push(Box::new(State(1, fate.clone())));
    }
    store.push(Box::new(State(2, fate.clone())));
    until("they are not refused", || fate.refused.load(Relaxed) == 102).await;
    assert_eq!(fate.done.load(Relaxed), 0);
    until("they pile up", || fate.dropped.load(Relaxed) == 100).await;
    obstacle.remove().await;
    until("the kept ones are not done", || {
        fate.done.load(Relaxed) == 2
    })
    .await;
    assert!(!store.is_failing());
    store.push(Box::new(State(1, fate.clone())));
    until("nothing is done any more", || fate.done.load(Relaxed) == 3).await;
    assert_eq!(fate.refused.load(Relaxed), 102);
}

#[tokio::test]
async fn what_is_not_on_disk_when_the_gateway_stops_is_never_called_done() {
    let (store, fate, _obstacle, _directory) = failing().await;
    store.push(Box::new(State(2, fate.clone())));
    store.close();
    until("the writer does not stop", || {
        fate.dropped.load(Relaxed) == 2
    })
    .await;
    assert_eq!(fate.done.load(Relaxed), 0);
}
