//! Which sessions, queued and retained messages must survive, and how they lie in `messages.db`?
//!
//! One [`Messages`] owns the one connection that writes. It takes plain rows and gives plain rows; when to write, what
//! to do while that fails, and what heads, bodies and states mean is left to others.
//!
//! - [`rows`]: what one transaction writes; [`entry`]: how messages lie in a segment.
//! - [`write`] with [`script`] and [`stock`]: rows to SQL; [`load`] and [`page`]: SQL to rows.
//! - [`aside`] and [`salvage`]: a damaged file; [`copy`]: backup and restore.
//! - [`sweep`]: what expired or was left over; [`upkeep`]: checkpoints, and giving space back.

mod aside;
mod copy;
mod entry;
mod load;
mod page;
mod rows;
mod salvage;
mod script;
mod stock;
mod sweep;
mod upkeep;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection};

pub use aside::SetAside;
pub use load::{Loaded, LoadedSession, Totals};
pub use page::{Page, Queued};
pub use rows::{
    ProgressRow, Receiver, RetainedRow, Rows, SessionKey, SessionRow, Timestamp, WillRow,
};
pub use sweep::{Spare, Swept};
pub use upkeep::{Log, Upkeep};

use super::StoreError;
use super::open::{connect, expect_schema, open, options, sql_error};
use load::Contents;
use stock::Stock;
use sweep::Rubbish;
use upkeep::LogState;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite/messages");

/// What a commit waits for (D6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disk: what was written survives a loss of power.
    PowerLoss,
    /// The kernel: what was written survives the end of the process.
    ProcessCrash,
    /// As [`Durability::ProcessCrash`]; whoever writes does not even wait for that.
    Nothing,
}

/// The message store of one data directory.
///
/// Its calls are not cancellable: a future that is dropped half-way leaves a transaction open, which the next call
/// ends with an error, as after any failure.
#[derive(Debug)]
pub struct Messages {
    options: SqliteConnectOptions,
    durability: Durability,
    /// `None` after a failure.
    connection: Option<SqliteConnection>,
    /// What `open` read, until it is asked for.
    contents: Option<Loaded>,
    stock: Stock,
    rubbish: Rubbish,
    next_body: i64,
    /// Last commit and next session as the disk has them, at least.
    state: (Timestamp, SessionKey),
    /// Set after a failure: the rows that come next may be there already.
    again: bool,
    /// What SQLite said when it found damage: the next opening sets the file aside.
    damage: Option<String>,
    /// Set when that happened while running, until somebody asks.
    replaced: Option<SetAside>,
    log: Arc<LogState>,
}

/// Transactions repeat in form, if not in size.
const STATEMENTS: usize = 128;
/// How long the writer waits for somebody else's lock.
const BUSY: Duration = Duration::from_secs(2);
/// Pages that one [`Messages::shrink`] gives back to the file system at most, and unused ones that it leaves for what
/// comes next: 1 MiB.
const SHRINK: i64 = 256;
const SLACK: i64 = 256;

impl Messages {
    /// The name of the database file in the data directory.
    pub const FILE: &'static str = "messages.db";

    /// Opens `messages.db` in the data directory, and makes it (0600) if it is missing. A damaged file is set aside
    /// and what can be read of it is salvaged (D11); any other error is returned, and nothing is changed.
    pub async fn open(
        directory: &Path,
        durability: Durability,
    ) -> Result<(Messages, Option<SetAside>), StoreError> {
        let options = tuned(&directory.join(Self::FILE), durability);
        let earlier = aside::finish_exchange(options.get_filename())?;
        let (opened, aside) = match opened(&options).await {
            Ok(opened) => (opened, earlier),
            Err(error) => {
                let detail = damage(error)?;
                let aside = aside::set_aside(&options, &MIGRATIONS, detail).await?;
                (opened(&options).await?, Some(aside))
            }
        };
        let mut messages = Messages {
            options,
            durability,
            connection: Some(opened.0),
            contents: None,
            stock: Stock::default(),
            rubbish: Rubbish::default(),
            next_body: 1,
            state: (0, 0),
            again: false,
            damage: None,
            replaced: None,
            log: Arc::default(),
        };
        messages.know(opened.1);
        Ok((messages, aside))
    }

    /// Writes the rows as one transaction. As often as this fails the same rows may be written again, more rows with
    /// them, and nothing is there twice.
    ///
    /// After an error [`Messages::reopen`] comes first; otherwise the next call does it.
    pub async fn write(&mut self, rows: &Rows, now: Timestamp) -> Result<(), StoreError> {
        self.put(rows, now, true).await
    }

    /// As [`Messages::write`], but the disk need not have them when this returns, whatever the durability: they ride with
    /// the next transaction that has (D5).
    pub async fn write_unsynced(&mut self, rows: &Rows, now: Timestamp) -> Result<(), StoreError> {
        self.put(rows, now, false).await
    }

    /// Syncs what [`Messages::write_unsynced`] left to the next transaction, for when there is none.
    pub async fn sync(&mut self) -> Result<(), StoreError> {
        let mut log = self.options.get_filename().as_os_str().to_owned();
        log.push("-wal");
        let path = PathBuf::from(log);
        let file = path.clone();
        let synced = tokio::task::spawn_blocking(move || File::open(file)?.sync_data()).await;
        let synced = synced.unwrap_or_else(|died| Err(std::io::Error::other(died)));
        synced.map_err(|source| StoreError::File {
            action: "sync",
            path,
            source,
        })
    }

    async fn put(&mut self, rows: &Rows, now: Timestamp, sync: bool) -> Result<(), StoreError> {
        self.contents = None;
        self.begin_log_anew().await?;
        // Before the transaction: if it fails, nobody knows whether they are there.
        for segment in &rows.segments {
            self.stock.add(segment.session, segment.first, segment.last);
        }
        // Before the script, too: another file may be open now.
        let mut connection = self.take().await?;
        let context = write::Context {
            now,
            state: self.state,
            stock: &self.stock,
            next_body: self.next_body,
            again: self.again,
        };
        let script = write::script(rows, &context);
        let state = write::state(rows, &context);
        let lax = !sync && self.durability == Durability::PowerLoss;
        let result = async {
            if lax {
                pragma(&mut connection, "PRAGMA synchronous = NORMAL").await?;
            }
            script.run(&mut connection).await?;
            if lax {
                pragma(&mut connection, "PRAGMA synchronous = FULL").await?;
            }
            Ok(())
        }
        .await;
        self.settle(connection, result).await?;
        self.again = false;
        self.state = state;
        self.next_body += rows.bodies.len() as i64;
        self.written(rows);
        Ok(())
    }

    /// Opens the database anew after a failure. The kernel forgets what it could not write, and what is read back
    /// from it may be on no disk: everything of the write-ahead log is written once more, into the database file, and
    /// synced (D7).
    ///
    /// If the failure was damage, the file is set aside as by [`Messages::open`]: it would not heal.
    pub async fn reopen(&mut self) -> Result<(), StoreError> {
        self.again = true;
        if let Some(connection) = self.connection.take() {
            // What it could not do is of no interest any more.
            let _ = connection.close().await;
        }
        if let Some(detail) = self.damage.clone() {
            return self.start_over(detail).await;
        }
        let mut connection = connect(&self.options).await?;
        let result = upkeep::checkpoint(&mut connection, "TRUNCATE").await;
        let (busy, _) = self.settle(connection, result).await?;
        if busy {
            self.connection = None;
            return Err(StoreError::Busy {
                path: self.options.get_filename().into(),
            });
        }
        Ok(())
    }

    /// Sets the damaged file aside and goes on with what was salvaged.
    async fn start_over(&mut self, detail: String) -> Result<(), StoreError> {
        let options = self.options.clone();
        let path = options.get_filename().to_path_buf();
        // On a thread of its own: it takes as long as the file is large, and the compiler does not see that what sqlx
        // migrates with may move between threads.
        let runtime = tokio::runtime::Handle::current();
        let work = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let aside = aside::set_aside(&options, &MIGRATIONS, detail).await?;
                Ok((aside, opened(&options).await?))
            })
        });
        let result: Result<_, StoreError> = work.await.map_err(|_| StoreError::Busy { path })?;
        let (aside, (connection, contents)) = result?;
        self.damage = None;
        self.replaced = Some(aside);
        // Whoever still has the old file open must not touch the new one's log.
        self.log.generation.fetch_add(1, Ordering::AcqRel);
        self.connection = Some(connection);
        let asked_for = self.contents.is_none();
        self.know(contents);
        if asked_for {
            self.contents = None;
        }
        Ok(())
    }

    /// Everything but the messages that wait.
    pub async fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut connection = self.take().await?;
        let loaded = match self.contents.take() {
            Some(loaded) => loaded,
            None => match load::load(&mut connection).await {
                Ok(contents) => {
                    self.know(contents);
                    self.contents.take().unwrap_or_default()
                }
                Err(error) => return self.settle(connection, Err(error)).await,
            },
        };
        self.connection = Some(connection);
        Ok(loaded)
    }

    /// Messages of a session with serials in `from..=to`, ascending, of about `bytes` at most, but at least one if
    /// there is one. Finished ones may be among them, if they lie in one segment with others.
    pub async fn page(
        &mut self,
        session: SessionKey,
        from: u64,
        to: u64,
        bytes: usize,
    ) -> Result<Page, StoreError> {
        let mut connection = self.take().await?;
        let result = page::page(&mut connection, session, from, to, bytes).await;
        self.settle(connection, result).await
    }

    /// Removes some expired messages, unless `spare` says they are in flight (D9), some of what ended sessions left,
    /// and some of what finished messages still take (D12).
    pub async fn sweep(&mut self, now: Timestamp, spare: Spare<'_>) -> Result<Swept, StoreError> {
        let mut connection = self.take().await?;
        self.contents = None;
        let rubbish = &mut self.rubbish;
        let result = sweep::sweep(&mut connection, rubbish, &self.stock, now, spare).await;
        self.settle(connection, result).await
    }

    /// The handle for checkpoints, with a connection of its own (D12).
    pub fn upkeep(&self) -> Upkeep {
        let patient = self.options.clone().busy_timeout(Duration::from_secs(5));
        Upkeep::new(patient, self.log.clone())
    }

    /// Gives some unused pages back to the file system (D12), all but a MiB in the end; whether there are more.
    pub async fn shrink(&mut self) -> Result<bool, StoreError> {
        let mut connection = self.take().await?;
        let result = shrink(&mut connection).await;
        self.settle(connection, result).await
    }

    /// A file that was set aside since the store was opened; told once. Rows that could not be salvaged are missing
    /// until they are written again: whoever knows them should.
    pub fn set_aside(&mut self) -> Option<SetAside> {
        self.replaced.take()
    }

    /// Closes the file; the write-ahead log goes into it.
    pub async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            // Nothing is lost by an error: the write-ahead log stays where it is.
            let _ = connection.close().await;
        }
    }

    async fn take(&mut self) -> Result<SqliteConnection, StoreError> {
        if self.connection.is_none() {
            self.reopen().await?;
        }
        self.connection.take().ok_or_else(|| StoreError::Busy {
            path: self.options.get_filename().into(),
        })
    }

    /// Keeps the connection for the next call, or closes it if it failed: its transaction may be open.
    async fn settle<T>(
        &mut self,
        connection: SqliteConnection,
        result: Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        match result {
            Ok(value) => {
                self.connection = Some(connection);
                Ok(value)
            }
            Err(error) => {
                let _ = connection.close().await;
                if salvage::means_damage(&error) {
                    self.damage = Some(error.to_string());
                }
                Err(sql_error(self.options.get_filename(), error))
            }
        }
    }

    /// If it is too long, and nobody reads its end: with what [`Upkeep`] moved before, there is little left to move.
    async fn begin_log_anew(&mut self) -> Result<(), StoreError> {
        if !self.log.pressure.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut connection = self.take().await?;
        let result = upkeep::begin_anew(&mut connection).await;
        self.settle(connection, result).await
    }

    fn know(&mut self, contents: Contents) {
        for session in &contents.loaded.sessions {
            let queued = session.queued;
            if queued.messages > 0 {
                self.stock.add(session.key, queued.first, queued.last);
            }
        }
        self.rubbish.leftovers = contents.leftovers.into();
        self.next_body = contents.next_body;
        self.state = (contents.loaded.last_commit, 0);
        self.contents = Some(contents.loaded);
    }

    fn written(&mut self, rows: &Rows) {
        for session in &rows.ended {
            if self.stock.holds(*session) {
                self.rubbish.ended(*session);
            }
            self.stock.ended(*session);
        }
        for (session, ranges) in &rows.done {
            for (first, last) in ranges {
                if self.stock.overlaps(*session, *first, *last) {
                    self.stock.done(*session, *first, *last);
                    if self.stock.holds(*session) {
                        self.rubbish.worn(*session, *first, *last);
                    }
                }
            }
        }
    }
}

/// Opens and reads the file as it is.
async fn opened(
    options: &SqliteConnectOptions,
) -> Result<(SqliteConnection, Contents), StoreError> {
    let path = options.get_filename();
    let mut connection = open(options, &MIGRATIONS).await?;
    let read = async {
        expect_schema(&mut connection, &MIGRATIONS, path).await?;
        let contents = load::load(&mut connection).await;
        contents.map_err(|error| sql_error(path, error))
    };
    match read.await {
        Ok(contents) => Ok((connection, contents)),
        Err(error) => {
            let _ = connection.close().await;
            Err(error)
        }
    }
}

/// What is wrong with the file, if the error means damage: corrupt, not a database, or with another schema than this
/// version makes, which nothing but damage explains as long as it is not a newer one (D11).
fn damage(error: StoreError) -> Result<String, StoreError> {
    match error {
        StoreError::Damaged { detail, .. } => Ok(detail),
        StoreError::ForeignSchema { .. } => Ok(error.to_string()),
        StoreError::Sql { source, .. } if salvage::means_damage(&source) => Ok(source.to_string()),
        other => Err(other),
    }
}

fn tuned(path: &Path, durability: Durability) -> SqliteConnectOptions {
    let synchronous = match durability {
        Durability::PowerLoss => SqliteSynchronous::Full,
        Durability::ProcessCrash | Durability::Nothing => SqliteSynchronous::Normal,
    };
    options(path)
        .synchronous(synchronous)
        // No other connection writes: whoever is in the way now would be so for long.
        .busy_timeout(BUSY)
        .statement_cache_capacity(STATEMENTS)
        // Checkpoints are made by `Upkeep`, not by whoever commits (D12).
        .pragma("wal_autocheckpoint", "0")
        .pragma("cache_size", "-4096")
}

/// Runs a pragma. Not as a prepared statement: those take effect when they are prepared, and not when they are run again.
async fn pragma(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop)
}

async fn shrink(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let free = sqlx::query_scalar("PRAGMA freelist_count");
    let free: i64 = free.fetch_one(&mut *connection).await?;
    let spare = (free - SLACK).clamp(0, SHRINK);
    if spare > 0 {
        let vacuum = AssertSqlSafe(format!("PRAGMA incremental_vacuum({spare})"));
        sqlx::raw_sql(vacuum).execute(connection).await?;
    }
    Ok(free - SLACK > SHRINK)
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;
