//! Upkeep: checkpoints off the commit path, so that the write-ahead log stays small (D12).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};

use super::super::StoreError;
use super::super::open::{connect, sql_error};

/// A handle for a task of its own: [`Upkeep::run`] every second or so.
#[derive(Debug)]
pub struct Upkeep {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    generation: u64,
    shared: Arc<LogState>,
}

/// What the writer and [`Upkeep`] tell each other.
#[derive(Debug, Default)]
pub(super) struct LogState {
    /// The log is too long: the writer must begin it anew.
    pub pressure: AtomicBool,
    /// Grows when another file takes the place of the one that is open.
    pub generation: AtomicU64,
}

/// Frames of the write-ahead log, a page each: from how many on they are moved, and how many there may be before the
/// writer itself must begin the log anew (4 MiB and 64 MiB).
const MOVE: i64 = 1024;
const LIMIT: i64 = 16 * 1024;

/// The frames of the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    pub frames: u64,
    /// Those of them that are in the database file, too.
    pub moved: u64,
}

impl Upkeep {
    pub(super) fn new(options: SqliteConnectOptions, shared: Arc<LogState>) -> Upkeep {
        Upkeep {
            options,
            connection: None,
            generation: shared.generation.load(Ordering::Acquire),
            shared,
        }
    }

    /// Moves what the write-ahead log holds into the database file if that is much. While it is moved the writer goes
    /// on; it begins the log anew with its next transaction if nothing came in between, and by itself if the log gets
    /// too long all the same.
    ///
    /// An error leaves everything as it was; the next call tries again.
    pub async fn run(&mut self) -> Result<Log, StoreError> {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation
            && let Some(former) = self.connection.take()
        {
            // SQLite sees that its file has another name now, and leaves the log beside the new file alone.
            let _ = former.close().await;
        }
        self.generation = generation;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.options).await?,
        };
        let path = self.options.get_filename();
        let error = |error| sql_error(path, error);
        let mut log = checkpoint(&mut connection, "NOOP").await.map_err(error)?.1;
        if log.frames as i64 >= MOVE && log.moved < log.frames {
            log = checkpoint(&mut connection, "PASSIVE")
                .await
                .map_err(error)?
                .1;
        }
        self.shared
            .pressure
            .store(log.frames as i64 >= LIMIT, Ordering::Release);
        self.connection = Some(connection);
        Ok(log)
    }
}

/// Begins the log anew if nobody reads its end, and without waiting if somebody does: a transaction is to be written.
pub(super) async fn begin_anew(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let timeout =
        |milliseconds: u128| AssertSqlSafe(format!("PRAGMA busy_timeout = {milliseconds}"));
    sqlx::raw_sql(timeout(0)).execute(&mut *connection).await?;
    checkpoint(connection, "TRUNCATE").await?;
    let usual = timeout(super::BUSY.as_millis());
    sqlx::raw_sql(usual).execute(connection).await.map(drop)
}

/// Whether others were in the way, and the log afterwards.
pub(super) async fn checkpoint(
    connection: &mut SqliteConnection,
    mode: &'static str,
) -> Result<(bool, Log), sqlx::Error> {
    let sql = match mode {
        "NOOP" => "PRAGMA wal_checkpoint(NOOP)",
        "PASSIVE" => "PRAGMA wal_checkpoint(PASSIVE)",
        "RESTART" => "PRAGMA wal_checkpoint(RESTART)",
        _ => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let row = sqlx::query(sql).fetch_one(connection).await?;
    let log = Log {
        frames: row.try_get::<i64, _>(1)?.max(0) as u64,
        moved: row.try_get::<i64, _>(2)?.max(0) as u64,
    };
    Ok((row.try_get::<i64, _>(0)? != 0, log))
}
