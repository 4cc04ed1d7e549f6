//! A message store for the tests of other rooms.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tempfile::TempDir;

use super::{
    StoreError,
    messages::{Durability, Loaded, Messages, SessionKey},
    open::sqlite_code,
    writer::{Sessions, Settings, Store},
};
use crate::metrics::Metrics;

/// Opens the store of a directory and reads it; must not be awaited, so that tests can do it anywhere.
pub fn open(directory: &Path) -> (Messages, Loaded) {
    let opened = async || {
        let (mut messages, _) =
            patient(|| Messages::open(directory, Durability::ProcessCrash)).await;
        let loaded = messages.load().await.unwrap();
        (messages, loaded)
    };
    std::thread::scope(|scope| {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
        };
        let thread = scope.spawn(move || runtime().unwrap().block_on(opened()));
        thread.join().unwrap()
    })
}

/// Tries until nobody else has the file. A process that dies takes its locks with it; a store that is dropped has a thread
/// that closes the file in its own time, with all that a slow disk needs to move the log into it.
async fn patient<T>(open: impl AsyncFn() -> Result<T, StoreError>) -> T {
    const DEADLINE: Duration = Duration::from_secs(60);
    let start = Instant::now();
    loop {
        match open().await {
            Err(StoreError::Sql { source, .. })
                if sqlite_code(&source) == Some(SQLITE_BUSY) && start.elapsed() < DEADLINE => {}
            opened => return opened.unwrap(),
        }
    }
}

const SQLITE_BUSY: u32 = 5;

/// A store that works as long as the runtime of the test does. The directory is to be kept.
pub fn start(metrics: &Arc<Metrics>) -> (Arc<Store>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (messages, _) = open(directory.path());
    let (store, writer) = Store::new(messages, SETTINGS, 0, metrics.clone());
    tokio::spawn(writer.run(Arc::new(Nobody)));
    (store, directory)
}

pub const SETTINGS: Settings = Settings {
    durability: Durability::ProcessCrash,
    retry: Duration::from_millis(100),
    credit: 1 << 20,
};

/// Keeps the store of a directory from writing until [`Obstacle::remove`], as long as the runtime of the test works.
pub struct Obstacle(SqliteConnection);

impl Obstacle {
    pub async fn put(directory: &Path) -> Obstacle {
        let options = SqliteConnectOptions::new().filename(directory.join(Messages::FILE));
        let mut lock = options.connect().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut lock)
            .await
            .unwrap();
        Obstacle(lock)
    }

    pub async fn remove(self) {
        self.0.close().await.unwrap();
    }
}

struct Nobody;

impl Sessions for Nobody {
    fn is_in_flight(&self, _: SessionKey, _: u64) -> bool {
        false
    }

    fn swept(&self, _: SessionKey, _: u64, _: u64) {}

    fn write_anew(&self) {}
}
