//! Sweep: removes, some at a time, what expired, what ended sessions left, and what finished messages keep on disk
//! beside unfinished ones.

use std::collections::VecDeque;

use hashbrown::HashMap;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::entry::{self, Entry};
use super::rows::{SessionKey, Timestamp, signed};
use super::stock::Stock;
use super::write::{BEGIN, COMMIT};

/// What a sweep removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Expired messages by session: how many, and their bytes as [`super::Totals`] count them.
    pub removed: Vec<(SessionKey, u64, u64)>,
    /// There is more to remove: sweep again soon.
    pub more: bool,
}

/// Messages that are in flight: they do not expire (D9).
pub type Spare<'a> = &'a (dyn Fn(SessionKey, u64) -> bool + Sync);

/// Rows of leftovers, and segments with expired messages and their bytes, looked at in one sweep: some milliseconds.
const LEFTOVERS: i64 = 512;
const EXPIRED: i64 = 64;
const EXPIRED_BYTES: u64 = 4 * 1024 * 1024;
/// Sessions and ranges whose worn segments are looked at in one sweep, and that are remembered at all.
const WORN_SESSIONS: usize = 32;
const WORN_RANGES: usize = 8;
const WORN_MEMORY: usize = 10_000;
/// A segment this small is not worth writing anew.
const WORTH: u64 = 4096;
/// When a segment is looked at again whose expired messages are in flight, seconds.
const AGAIN: Timestamp = 60;

/// What is known to be removable.
#[derive(Debug, Default)]
pub(super) struct Rubbish {
    /// Ended sessions of which something may be left.
    pub leftovers: VecDeque<SessionKey>,
    /// Finished ranges of sessions that still have something on disk.
    worn: HashMap<SessionKey, Vec<(u64, u64)>>,
}

impl Rubbish {
    /// These are finished, but a segment that holds others, too, may keep them on disk.
    pub(super) fn worn(&mut self, session: SessionKey, first: u64, last: u64) {
        if !self.worn.contains_key(&session) && self.worn.len() >= WORN_MEMORY {
            return;
        }
        let ranges = self.worn.entry(session).or_default();
        ranges.retain(|range| range.0 < first || range.1 > last);
        if ranges.len() >= WORN_RANGES {
            ranges.remove(0);
        }
        ranges.push((first, last));
    }

    pub(super) fn ended(&mut self, session: SessionKey) {
        self.worn.remove(&session);
        self.leftovers.push_back(session);
    }

    fn take_worn(&mut self) -> Vec<(SessionKey, Vec<(u64, u64)>)> {
        let keys: Vec<SessionKey> = self.worn.keys().copied().take(WORN_SESSIONS).collect();
        let taken = keys.into_iter();
        taken
            .filter_map(|key| self.worn.remove_entry(&key))
            .collect()
    }
}

pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    rubbish: &mut Rubbish,
    stock: &Stock,
    now: Timestamp,
    spare: Spare<'_>,
) -> Result<Swept, sqlx::Error> {
    let mut swept = Swept::default();
    let expired = expired(connection, now).await?;
    let worn: Vec<_> = rubbish
        .take_worn()
        .into_iter()
        .filter(|(session, _)| stock.holds(*session))
        .collect();
    if rubbish.leftovers.is_empty() && expired.is_empty() && worn.is_empty() {
        return Ok(swept);
    }
    sqlx::query(BEGIN).execute(&mut *connection).await?;
    swept.more |= expired.len() as i64 == EXPIRED;
    let mut bytes = 0;
    for segment in expired {
        if bytes > EXPIRED_BYTES {
            swept.more = true;
            break;
        }
        bytes += segment.bytes;
        expire(connection, segment, now, spare, &mut swept).await?;
    }
    for (session, ranges) in worn {
        for (first, last) in ranges {
            mend(connection, session, first, last).await?;
        }
    }
    // The queue keeps its head until the transaction is written: a sweep that failed has removed nothing.
    let mut left = LEFTOVERS;
    let mut clean = 0;
    for session in &rubbish.leftovers {
        left -= leftovers(connection, *session, left).await?;
        if left <= 0 {
            break;
        }
        clean += 1;
    }
    sqlx::query(COMMIT).execute(connection).await?;
    rubbish.leftovers.drain(..clean);
    swept.more |= !rubbish.leftovers.is_empty() || !rubbish.worn.is_empty();
    Ok(swept)
}

/// Removes up to `limit` rows of a session that is no more, its segments last: by them the rest is found after a
/// restart. Returns how many it removed; fewer than `limit` is all there were.
async fn leftovers(
    connection: &mut SqliteConnection,
    session: SessionKey,
    limit: i64,
) -> Result<i64, sqlx::Error> {
    const TABLES: [&str; 5] = [
        "DELETE FROM body_users WHERE session = ?1 AND serial IN \
            (SELECT serial FROM body_users WHERE session = ?1 ORDER BY serial LIMIT ?2)",
        "DELETE FROM progress WHERE session = ?1 AND ?2 > 0",
        "DELETE FROM subscriptions WHERE session = ?1 AND filter IN \
            (SELECT filter FROM subscriptions WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM received WHERE session = ?1 AND packet_id IN \
            (SELECT packet_id FROM received WHERE session = ?1 LIMIT ?2)",
        "DELETE FROM segments WHERE id IN \
            (SELECT id FROM segments INDEXED BY segments_by_session WHERE session = ?1 LIMIT ?2)",
    ];
    let mut removed = 0;
    for table in TABLES {
        let query = sqlx::query(table)
            .bind(session as i64)
            .bind(limit - removed);
        removed += query.execute(&mut *connection).await?.rows_affected() as i64;
        if removed >= limit {
            break;
        }
    }
    Ok(removed)
}

/// A segment without its blob.
struct Stored {
    id: i64,
    session: SessionKey,
    first: u64,
    last: u64,
    messages: u64,
    bytes: u64,
    expires: Option<Timestamp>,
}

impl Stored {
    fn read(row: SqliteRow) -> Result<Stored, sqlx::Error> {
        Ok(Stored {
            id: row.try_get(0)?,
            session: row.try_get::<i64, _>(1)? as SessionKey,
            first: row.try_get::<i64, _>(2)? as u64,
            last: row.try_get::<i64, _>(3)? as u64,
            messages: row.try_get::<i64, _>(4)? as u64,
            bytes: row.try_get::<i64, _>(5)? as u64,
            expires: row.try_get(6)?,
        })
    }

    /// `None` if they are not what was written.
    async fn entries(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Vec<Entry>>, sqlx::Error> {
        let query = sqlx::query_scalar("SELECT entries FROM segments WHERE id = ?").bind(self.id);
        let blob: Vec<u8> = query.fetch_one(connection).await?;
        Ok(entry::read(self.session, self.first, &blob))
    }
}

async fn expired(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<Vec<Stored>, sqlx::Error> {
    const SEGMENTS: &str = "SELECT id, session, first, last, messages, bytes, expires FROM segments \
        WHERE expires <= ? ORDER BY expires LIMIT ?";
    let rows = sqlx::query(SEGMENTS).bind(now).bind(EXPIRED);
    let rows = rows.fetch_all(connection).await?;
    rows.into_iter().map(Stored::read).collect()
}

async fn expire(
    connection: &mut SqliteConnection,
    segment: Stored,
    now: Timestamp,
    spare: Spare<'_>,
    swept: &mut Swept,
) -> Result<(), sqlx::Error> {
    let session = segment.session;
    let Some(entries) = segment.entries(connection).await? else {
        // No expiry can be read from it, and no message: a page would count it as lost.
        swept
            .removed
            .push((session, segment.messages, segment.bytes));
        remove_users(connection, session, segment.first, segment.last).await?;
        return delete(connection, segment.id).await;
    };
    let is_expired = |entry: &Entry| entry.expires.is_some_and(|expires| expires <= now);
    let (gone, kept): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .partition(|entry| is_expired(entry) && !spare(session, entry.serial));
    // What is in flight is not looked at again and again.
    let again = |expires| if expires <= now { now + AGAIN } else { expires };
    let expires = kept
        .iter()
        .filter_map(|entry| entry.expires.map(again))
        .min();
    if !gone.is_empty() {
        let bytes = gone.iter().map(Entry::bytes).sum();
        swept.removed.push((session, gone.len() as u64, bytes));
    }
    for entry in &gone {
        if matches!(entry.body, entry::Body::Shared(_)) {
            remove_users(connection, session, entry.serial, entry.serial).await?;
        }
    }
    if gone.is_empty() {
        const LATER: &str = "UPDATE segments SET expires = ? WHERE id = ?";
        let query = sqlx::query(LATER).bind(expires).bind(segment.id);
        return query.execute(connection).await.map(drop);
    }
    rewrite(connection, session, segment.id, &kept, expires).await
}

/// Writes the segments anew that hold finished messages of this range beside others, if they are mostly finished.
async fn mend(
    connection: &mut SqliteConnection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> Result<(), sqlx::Error> {
    // The segment with the first of them, and the one with the last; what lies between was removed when they finished.
    const SEGMENT: &str = "SELECT id, session, first, last, messages, bytes, expires FROM segments \
        INDEXED BY segments_by_session WHERE session = ? AND first <= ? ORDER BY first DESC LIMIT 1";
    for edge in [first, last] {
        let query = sqlx::query(SEGMENT).bind(session as i64).bind(signed(edge));
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            continue;
        };
        let segment = Stored::read(row)?;
        if segment.last < edge || segment.messages < 2 || segment.bytes < WORTH {
            continue;
        }
        let Some(entries) = segment.entries(connection).await? else {
            continue;
        };
        let (dead, live): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|entry| (first..=last).contains(&entry.serial));
        let stored = |entries: &[Entry]| entries.iter().map(|entry| entry.stored).sum::<usize>();
        if stored(&dead) >= stored(&live) * 3 {
            rewrite(connection, session, segment.id, &live, segment.expires).await?;
        }
    }
    Ok(())
}

/// Gives a segment just these entries; without any it goes.
async fn rewrite(
    connection: &mut SqliteConnection,
    session: SessionKey,
    id: i64,
    entries: &[Entry],
    expires: Option<Timestamp>,
) -> Result<(), sqlx::Error> {
    const REWRITE: &str = "UPDATE segments SET first = ?, last = ?, messages = ?, bytes = ?, expires = ?, entries = ? \
        WHERE id = ?";
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return delete(connection, id).await;
    };
    sqlx::query(REWRITE)
        .bind(first.serial as i64)
        .bind(last.serial as i64)
        .bind(entries.len() as i64)
        .bind(entries.iter().map(Entry::bytes).sum::<u64>() as i64)
        .bind(expires)
        .bind(entry::reseal(session, first.serial, entries.iter()))
        .bind(id)
        .execute(connection)
        .await
        .map(drop)
}

async fn delete(connection: &mut SqliteConnection, id: i64) -> Result<(), sqlx::Error> {
    let query = sqlx::query("DELETE FROM segments WHERE id = ?").bind(id);
    query.execute(connection).await.map(drop)
}

async fn remove_users(
    connection: &mut SqliteConnection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query("DELETE FROM body_users WHERE session = ? AND serial BETWEEN ? AND ?")
        .bind(session as i64)
        .bind(first as i64)
        .bind(last as i64);
    query.execute(connection).await.map(drop)
}
