//! Salvage: what can still be read of a damaged file, into a new one (D11).
//!
//! Each table is walked forwards by its key until SQLite finds damage, and then backwards from its end. Rows that can
//! be read but are not what was written, and rows of sessions that cannot be read, are dropped.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::TryStreamExt;
use hashbrown::{HashMap, HashSet};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row};

use super::super::StoreError;
use super::super::open::{connect, sql_error, sqlite_code};
use super::aside::SetAside;
use super::load::{self, Texts};
use super::rows::{ProgressRow, RetainedRow, Rows, Segment, SessionKey, SharedBody};
use super::stock::Stock;
use super::{entry, write};

/// Copies what is readable. `to` is a new, empty database.
pub(super) async fn salvage(
    from: &SqliteConnectOptions,
    to: &mut SqliteConnection,
    to_path: &Path,
    found: &mut SetAside,
) -> Result<(), StoreError> {
    // Read-only, and without the usual pragmas, which may write: what is set aside stays as it was.
    let from = SqliteConnectOptions::new()
        .filename(from.get_filename())
        .read_only(true)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging();
    let mut reading = match connect(&from).await {
        Ok(connection) => connection,
        Err(StoreError::Sql { source, .. }) if means_damage(&source) => return Ok(()),
        Err(error) if error.is_damage() => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut salvage = Salvage {
        to,
        to_path,
        from_path: from.get_filename(),
        found,
        rows: Rows::default(),
        count: 0,
        bytes: 0,
        next_body: 1,
        sessions: HashSet::new(),
        users: HashMap::new(),
        texts: Texts::default(),
    };
    let result = salvage.all(&mut reading).await;
    // It only read.
    let _ = reading.close().await;
    result
}

struct Salvage<'a> {
    to: &'a mut SqliteConnection,
    to_path: &'a Path,
    from_path: &'a Path,
    found: &'a mut SetAside,
    rows: Rows,
    /// What `rows` holds.
    count: usize,
    bytes: usize,
    next_body: i64,
    sessions: HashSet<SessionKey>,
    /// Of each body.
    users: HashMap<i64, Vec<(SessionKey, u64)>>,
    texts: Texts,
}

/// What is collected before it is written.
const ROWS: usize = 4096;
const BYTES: usize = 4 * 1024 * 1024;

/// Both directions of a table, and how a row of it is taken: `None` if it is not what was written.
struct Table {
    forwards: &'static str,
    backwards: &'static str,
    take: fn(&mut Salvage<'_>, &SqliteRow) -> Option<()>,
}

/// Sessions first, then what belongs to them; users before their bodies.
const TABLES: [Table; 8] = [
    Table {
        forwards: "SELECT id, client_id, realm, name, login, expiry, connected, since, will, will_due \
                   FROM sessions NOT INDEXED ORDER BY id",
        backwards: "SELECT id, client_id, realm, name, login, expiry, connected, since, will, will_due \
                    FROM sessions NOT INDEXED ORDER BY id DESC",
        take: session,
    },
    Table {
        forwards: "SELECT session, next, sent, state FROM progress NOT INDEXED ORDER BY session",
        backwards: "SELECT session, next, sent, state FROM progress NOT INDEXED ORDER BY session DESC",
        take: progress,
    },
    Table {
        forwards: "SELECT session, filter, options FROM subscriptions ORDER BY session, filter",
        backwards: "SELECT session, filter, options FROM subscriptions ORDER BY session DESC, filter DESC",
        take: subscription,
    },
    Table {
        forwards: "SELECT session, packet_id, reason FROM received ORDER BY session, packet_id",
        backwards: "SELECT session, packet_id, reason FROM received ORDER BY session DESC, packet_id DESC",
        take: received,
    },
    Table {
        forwards: "SELECT topic, expires, message FROM retained NOT INDEXED ORDER BY rowid",
        backwards: "SELECT topic, expires, message FROM retained NOT INDEXED ORDER BY rowid DESC",
        take: retained,
    },
    Table {
        forwards: "SELECT session, first, entries FROM segments NOT INDEXED ORDER BY id",
        backwards: "SELECT session, first, entries FROM segments NOT INDEXED ORDER BY id DESC",
        take: segment,
    },
    Table {
        forwards: "SELECT session, serial, body FROM body_users ORDER BY session, serial",
        backwards: "SELECT session, serial, body FROM body_users ORDER BY session DESC, serial DESC",
        take: user,
    },
    Table {
        forwards: "SELECT id, body FROM bodies NOT INDEXED ORDER BY id",
        backwards: "SELECT id, body FROM bodies NOT INDEXED ORDER BY id DESC",
        take: body,
    },
];

impl Salvage<'_> {
    async fn all(&mut self, reading: &mut SqliteConnection) -> Result<(), StoreError> {
        for table in &TABLES {
            let whole = self.walk(reading, table.forwards, table.take).await?;
            if !whole {
                self.found.incomplete = true;
                self.walk(reading, table.backwards, table.take).await?;
            }
            self.flush().await?;
        }
        let state = self.state(reading).await?;
        sqlx::query(
            "UPDATE state SET last_commit = max(last_commit, ?), next_session = max(next_session, ?), restored = ?",
        )
        .bind(state.0)
        .bind(state.1)
        .bind(state.2)
        .execute(&mut *self.to)
        .await
        .map(drop)
        .map_err(|error| sql_error(self.to_path, error))
    }

    /// Takes rows until the end or the first damage; whether it was the end.
    async fn walk(
        &mut self,
        reading: &mut SqliteConnection,
        sql: &'static str,
        take: fn(&mut Salvage<'_>, &SqliteRow) -> Option<()>,
    ) -> Result<bool, StoreError> {
        // Unprepared: each is used once.
        let mut rows = sqlx::query(sql).persistent(false).fetch(reading);
        loop {
            match rows.try_next().await {
                Ok(Some(row)) => {
                    if take(self, &row).is_none() {
                        self.found.dropped += 1;
                    }
                    self.count += 1;
                    if self.count >= ROWS || self.bytes >= BYTES {
                        self.flush().await?;
                    }
                }
                Ok(None) => return Ok(true),
                Err(error) if means_damage(&error) => return Ok(false),
                Err(error) => return Err(sql_error(self.from_path, error)),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.rows);
        self.count = 0;
        self.bytes = 0;
        let context = write::Context {
            now: 0,
            state: (0, 0),
            stock: &Stock::default(),
            next_body: self.next_body,
            again: false,
        };
        self.next_body += rows.bodies.len() as i64;
        let script = write::script(&rows, &context);
        let written = script.run(self.to).await;
        written.map_err(|error| sql_error(self.to_path, error))
    }

    /// What is known of the last commit and the next session; if nothing is, safe values.
    async fn state(
        &mut self,
        reading: &mut SqliteConnection,
    ) -> Result<(i64, i64, bool), StoreError> {
        const STATE: &str = "SELECT last_commit, next_session, restored FROM state";
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |elapsed| elapsed.as_secs() as i64);
        let row = match sqlx::query(STATE).fetch_optional(reading).await {
            Ok(row) => row,
            Err(error) if means_damage(&error) => None,
            Err(error) => return Err(sql_error(self.from_path, error)),
        };
        let read = row.and_then(|row| {
            let last_commit: i64 = row.try_get(0).ok()?;
            let next_session: i64 = row.try_get(1).ok()?;
            // A time in the future would expire everything, a number at the end of all leave none.
            let sane = last_commit <= now && next_session < load::IMPLAUSIBLE as i64;
            sane.then_some((last_commit, next_session, row.try_get(2).ok()?))
        });
        Ok(read.unwrap_or((0, 1, false)))
    }

    fn known(&self, session: i64) -> Option<SessionKey> {
        let key = u64::try_from(session).ok()?;
        self.sessions.contains(&key).then_some(key)
    }
}

fn session(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let key = u64::try_from(row.try_get::<i64, _>(0).ok()?).ok()?;
    if key >= load::IMPLAUSIBLE {
        return None;
    }
    let session = load::session(row, &mut salvage.texts).ok()?;
    if salvage.sessions.insert(key) {
        salvage.found.sessions += 1;
    }
    salvage.rows.session(key, session);
    Some(())
}

fn progress(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let session = salvage.known(row.try_get(0).ok()?)?;
    let progress = ProgressRow {
        next: u64::try_from(row.try_get::<i64, _>(1).ok()?).ok()?,
        sent: u64::try_from(row.try_get::<i64, _>(2).ok()?).ok()?,
        state: row.try_get(3).ok()?,
    };
    salvage.rows.progress(session, progress);
    Some(())
}

fn subscription(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let session = salvage.known(row.try_get(0).ok()?)?;
    let filter = row.try_get::<&str, _>(1).ok()?.into();
    let options = row.try_get(2).ok()?;
    salvage.rows.subscription(session, filter, Some(options));
    salvage.found.subscriptions += 1;
    Some(())
}

fn received(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let session = salvage.known(row.try_get(0).ok()?)?;
    let packet_id = row.try_get(1).ok()?;
    let reason = row.try_get(2).ok()?;
    salvage.rows.received(session, packet_id, Some(reason));
    Some(())
}

fn retained(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let topic: &str = row.try_get(0).ok()?;
    let message = entry::open_retained(topic, row.try_get(2).ok()?)?;
    salvage.bytes += message.len();
    let retained = RetainedRow {
        expires: row.try_get(1).ok()?,
        message: Bytes::copy_from_slice(message),
    };
    salvage.rows.retained(topic, Some(retained));
    salvage.found.retained += 1;
    Some(())
}

/// The other columns are made anew from the entries, which have a checksum.
fn segment(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let session = salvage.known(row.try_get(0).ok()?)?;
    let first = u64::try_from(row.try_get::<i64, _>(1).ok()?).ok()?;
    let blob: &[u8] = row.try_get(2).ok()?;
    let entries = entry::read(session, first, blob)?;
    salvage.bytes += blob.len();
    let segment = Segment {
        session,
        first,
        last: entries.last()?.serial,
        messages: entries.len() as u32,
        expires: entries.iter().filter_map(|entry| entry.expires).min(),
        entries: entry::unsealed(blob).to_vec(),
        shared: entries
            .iter()
            .map(|entry| entry.bytes() - entry.stored as u64)
            .sum(),
    };
    salvage.found.messages += u64::from(segment.messages);
    salvage.rows.segments.push(segment);
    Some(())
}

fn user(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let session = salvage.known(row.try_get(0).ok()?)?;
    let serial = u64::try_from(row.try_get::<i64, _>(1).ok()?).ok()?;
    let body = row.try_get(2).ok()?;
    let users = salvage.users.entry(body).or_default();
    users.push((session, serial));
    Some(())
}

fn body(salvage: &mut Salvage<'_>, row: &SqliteRow) -> Option<()> {
    let users = salvage.users.remove(&row.try_get::<i64, _>(0).ok()?)?;
    let body: Vec<u8> = row.try_get(1).ok()?;
    salvage.bytes += body.len();
    salvage.rows.bodies.push(SharedBody { body, users });
    Some(())
}

/// Whether SQLite says that what it reads makes no sense. That a fixed statement has an error in it says so, too: the
/// schema is not the one it was written for.
pub(super) fn means_damage(error: &sqlx::Error) -> bool {
    const SQLITE_ERROR: u32 = 1;
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_MISMATCH: u32 = 20;
    const SQLITE_FORMAT: u32 = 24;
    const SQLITE_NOTADB: u32 = 26;
    match sqlite_code(error) {
        Some(code) => matches!(
            code,
            SQLITE_ERROR | SQLITE_CORRUPT | SQLITE_MISMATCH | SQLITE_FORMAT | SQLITE_NOTADB
        ),
        None => matches!(
            error,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        ),
    }
}
