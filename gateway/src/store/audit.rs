//! The file of the audit log, apart from the accounts: it changes all the time, and nobody is let in or kept out by it.
//! What becomes an entry, and when it is written, is `audit`'s business.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::types::Json;
use sqlx::{Connection, QueryBuilder, Row, Sqlite};

use super::StoreError;
use super::open::{connect, open, options, pool, sibling, snapshot_into, sql_error};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite/audit");

/// The audit log of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditFile {
    pool: SqlitePool,
    path: Arc<PathBuf>,
    /// `None`: it has to be counted, which is not done for each transaction.
    known: Arc<Mutex<Option<Known>>>,
}

/// What the file has.
#[derive(Debug, Clone)]
struct Known {
    /// Entries of each class.
    counts: Vec<u64>,
    /// The greatest id.
    last: i64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuditEntry {
    pub id: i64,
    pub kind: String,
    /// Seconds since 1970: the first time.
    pub at: i64,
    /// Seconds since 1970: the last time.
    pub last: i64,
    pub count: i64,
    /// `realm:name`, a claimed name, or an operator.
    pub principal: String,
    pub address: String,
    /// The client identifier.
    pub client: String,
    /// A topic, a filter, or what was changed.
    pub subject: String,
    pub reason: String,
}

/// What is to be written together.
#[derive(Debug, Default)]
pub struct AuditBatch {
    /// By ascending id, each greater than any that is on disk.
    pub new: Vec<NewEntry>,
    /// Entries that happened again, new ones among them.
    pub again: Vec<Again>,
}

/// An entry that is not on disk.
#[derive(Debug, Clone, Serialize)]
pub struct NewEntry {
    /// Entries of one class make room only for others of theirs.
    pub class: u8,
    #[serde(flatten)]
    pub entry: AuditEntry,
}

/// How often an entry has happened by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Again {
    pub id: i64,
    pub count: i64,
    pub last: i64,
}

/// Which entries are wanted. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AuditQuery {
    /// Seconds since 1970: entries whose last time is not before it.
    #[serde(default)]
    pub since: Option<i64>,
    /// `realm:name`, or a name in any realm.
    #[serde(default)]
    pub principal: Option<String>,
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    /// Only entries with a smaller id.
    #[serde(default)]
    pub before: Option<i64>,
    /// Only entries with a greater id.
    #[serde(default)]
    pub after: Option<i64>,
    /// As many, the newest.
    pub limit: usize,
}

impl AuditQuery {
    /// Entries in one answer to an operator: with the longest texts still about a megabyte.
    pub const MAX: usize = 1_000;
}

impl AuditBatch {
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.again.is_empty()
    }
}

/// Entries of one statement. They are put together on the threads that serve clients: while thousands of logins are
/// written down, nobody waits for more than this.
const AT_ONCE: usize = 100;

/// One that is there was written by a transaction that seemed to fail.
const INSERT: &str = "INSERT INTO entries (id, class, kind, at, last, count, principal, address, client, subject, reason)
    SELECT value ->> 'id', value ->> 'class', value ->> 'kind', value ->> 'at', value ->> 'last', value ->> 'count',
           value ->> 'principal', value ->> 'address', value ->> 'client', value ->> 'subject', value ->> 'reason'
    FROM json_each(?) WHERE true ON CONFLICT (id) DO NOTHING";
const COUNT: &str = "UPDATE entries SET count = new.value ->> 'count', last = new.value ->> 'last'
    FROM json_each(?) AS new WHERE entries.id = new.value ->> 'id'";

impl AuditFile {
    /// The name of the file in the data directory.
    pub const FILE: &'static str = "audit.db";

    /// Opens `audit.db` in the data directory, and makes it (0600) if it is missing. A damaged one is set aside, for
    /// nothing depends on it; gives its new name then.
    pub async fn open(directory: &Path) -> Result<(AuditFile, Option<PathBuf>), StoreError> {
        let path = directory.join(Self::FILE);
        let options = options(&path);
        let mut aside = None;
        let checked = match open(&options, &MIGRATIONS).await {
            Err(error) if error.is_damage() => {
                aside = Some(set_aside(&path)?);
                open(&options, &MIGRATIONS).await?
            }
            opened => opened?,
        };
        let error = |error| sql_error(&path, error);
        checked.close().await.map_err(error)?;
        let pool = pool(options).await.map_err(error)?;
        let file = AuditFile {
            pool,
            path: Arc::new(path),
            known: Arc::default(),
        };
        Ok((file, aside))
    }

    /// Writes a consistent copy of the directory's `audit.db` to `into`, which must not exist; the gateway may be running.
    /// The copy is synced.
    pub async fn snapshot(directory: &Path, into: &Path) -> Result<(), StoreError> {
        let path = directory.join(Self::FILE);
        let mut connection = connect(&options(&path)).await?;
        let result = snapshot_into(&mut connection, &path, into).await;
        // It only read.
        let _ = connection.close().await;
        result
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The greatest id.
    pub async fn last_id(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT ifnull(max(id), 0) FROM entries")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| self.error(error))
    }

    /// Writes a batch in one transaction, on disk when this returns. Removes the oldest entries of each class beyond what
    /// `keep` says; gives how many each has. Nothing to write and nothing to remove is no transaction, and gives `None`.
    ///
    /// One call at a time.
    pub async fn write(
        &self,
        batch: &AuditBatch,
        keep: &[u64],
    ) -> Result<Option<Vec<u64>>, StoreError> {
        let known = self.known.lock().clone();
        let Known { mut counts, last } = match known {
            Some(known) => known,
            None => {
                let counted = self.counted(keep.len()).await;
                counted.map_err(|error| self.error(error))?
            }
        };
        // One that is there was written by a transaction that seemed to fail.
        for new in batch.new.iter().filter(|new| new.entry.id > last) {
            if let Some(count) = counts.get_mut(usize::from(new.class)) {
                *count += 1;
            }
        }
        let over: Vec<u64> = counts
            .iter()
            .zip(keep)
            .map(|(count, keep)| count.saturating_sub(*keep))
            .collect();
        if batch.is_empty() && over.iter().all(|over| *over == 0) {
            return Ok(None);
        }
        // After a failure nobody knows what is there.
        *self.known.lock() = None;
        let written = self.run(batch, &over).await;
        written.map_err(|error| self.error(error))?;
        for (count, over) in counts.iter_mut().zip(over) {
            *count -= over;
        }
        let newest = batch.new.last().map_or(last, |new| new.entry.id);
        *self.known.lock() = Some(Known {
            counts: counts.clone(),
            last: last.max(newest),
        });
        Ok(Some(counts))
    }

    async fn counted(&self, classes: usize) -> Result<Known, sqlx::Error> {
        let mut counts = Vec::new();
        for class in 0..classes {
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM entries WHERE class = ?")
                .bind(class as i64)
                .fetch_one(&self.pool)
                .await?;
            counts.push(count as u64);
        }
        let last = sqlx::query_scalar("SELECT ifnull(max(id), 0) FROM entries")
            .fetch_one(&self.pool)
            .await?;
        Ok(Known { counts, last })
    }

    /// What is asked for, by descending id.
    pub async fn find(&self, wanted: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, kind, at, last, count, principal, address, client, subject, reason FROM entries WHERE id > ",
        );
        query.push_bind(wanted.after.unwrap_or(i64::MIN));
        if let Some(before) = wanted.before {
            query.push(" AND id < ").push_bind(before);
        }
        if let Some(since) = wanted.since {
            query.push(" AND last >= ").push_bind(since);
        }
        if let Some(principal) = &wanted.principal {
            query.push(" AND (principal = ").push_bind(principal);
            // A realm may have colons, a name may have colons: both ends are tried.
            query
                .push(" OR substr(principal, -length(")
                .push_bind(principal)
                .push(") - 1) = ':' || ")
                .push_bind(principal)
                .push(")");
        }
        if let Some(address) = &wanted.address {
            query.push(" AND address = ").push_bind(address);
        }
        if let Some(kind) = &wanted.kind {
            query.push(" AND kind = ").push_bind(kind);
        }
        query
            .push(" ORDER BY id DESC LIMIT ")
            .push_bind(i64::try_from(wanted.limit).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(entry).collect();
        read.map_err(|error| self.error(error))
    }

    async fn run(&self, batch: &AuditBatch, over: &[u64]) -> Result<(), sqlx::Error> {
        let mut writing = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for new in batch.new.chunks(AT_ONCE) {
            sqlx::query(INSERT)
                .bind(Json(new))
                .execute(&mut *writing)
                .await?;
        }
        for again in batch.again.chunks(AT_ONCE) {
            sqlx::query(COUNT)
                .bind(Json(again))
                .execute(&mut *writing)
                .await?;
        }
        for (class, over) in over.iter().enumerate().filter(|(_, over)| **over > 0) {
            let sql = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE class = ? ORDER BY id LIMIT ?)";
            sqlx::query(sql)
                .bind(class as i64)
                .bind(*over as i64)
                .execute(&mut *writing)
                .await?;
        }
        writing.commit().await
    }

    fn error(&self, source: sqlx::Error) -> StoreError {
        sql_error(&self.path, source)
    }
}

/// Gives the damaged file and its companions another name.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let aside = sibling(path, &format!(".damaged-{}", super::accounts::now()));
    let rename = |from: &Path, to: &Path| match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(super::open::file_error("rename", from, source)),
        Ok(()) => Ok(()),
    };
    for suffix in ["-wal", "-shm"] {
        rename(&sibling(path, suffix), &sibling(&aside, suffix))?;
    }
    rename(path, &aside)?;
    Ok(aside)
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, sqlx::Error> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        at: row.try_get(2)?,
        last: row.try_get(3)?,
        count: row.try_get(4)?,
        principal: row.try_get(5)?,
        address: row.try_get(6)?,
        client: row.try_get(7)?,
        subject: row.try_get(8)?,
        reason: row.try_get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: i64, class: u8, principal: &str) -> NewEntry {
        NewEntry {
            class,
            entry: AuditEntry {
                id,
                kind: ["login", "login-failed"][usize::from(class)].to_owned(),
                at: id,
                last: id,
                count: 1,
                principal: principal.to_owned(),
                address: "192.0.2.1".to_owned(),
                client: String::new(),
                subject: "\"t\"/\u{1}".to_owned(),
                reason: "x".to_owned(),
            },
        }
    }

    fn batch(new: Vec<NewEntry>) -> AuditBatch {
        AuditBatch {
            new,
            again: Vec::new(),
        }
    }

    fn all() -> AuditQuery {
        AuditQuery {
            limit: 100,
            ..AuditQuery::default()
        }
    }

    fn ids(entries: &[AuditEntry]) -> Vec<i64> {
        entries.iter().map(|entry| entry.id).collect()
    }

    #[tokio::test]
    async fn each_class_keeps_its_newest_rows_and_none_pushes_out_those_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let (file, aside) = AuditFile::open(directory.path()).await.unwrap();
        assert_eq!((file.last_id().await.unwrap(), aside), (0, None));
        let mut entries: Vec<_> = (1..=5).map(|id| new(id, 0, "local:ann")).collect();
        entries.extend((6..3_000).map(|id| new(id, 1, "bob")));
        let write = async |file: &AuditFile, new: Vec<NewEntry>, keep: [u64; 2]| {
            file.write(&batch(new), &keep).await.unwrap()
        };
        assert_eq!(write(&file, entries, [10, 3]).await, Some(vec![5, 3]));
        let kept = file.find(&all()).await.unwrap();
        assert_eq!(ids(&kept), [2_999, 2_998, 2_997, 5, 4, 3, 2, 1]);
        assert_eq!(write(&file, vec![], [5, 3]).await, None);
        assert_eq!(write(&file, vec![], [2, 3]).await, Some(vec![2, 3]));
        file.close().await;
        let (file, _) = AuditFile::open(directory.path()).await.unwrap();
        assert_eq!(file.last_id().await.unwrap(), 2_999);
        let more = vec![new(3_000, 0, "x")];
        assert_eq!(write(&file, more, [9, 9]).await, Some(vec![3, 3]));
    }

    #[tokio::test]
    async fn what_happens_again_is_counted_and_entries_are_found_by_what_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = AuditFile::open(directory.path()).await.unwrap();
        let mut first = new(1, 0, "https://id.example:8443:ann");
        let again = |id, count, last| Again { id, count, last };
        let both = AuditBatch {
            new: vec![first.clone(), new(2, 1, "ann")],
            // What was removed meanwhile is nothing to it.
            again: vec![again(1, 3, 50), again(77, 1, 1)],
        };
        file.write(&both, &[9, 9]).await.unwrap();
        let later = AuditBatch {
            new: Vec::new(),
            again: vec![again(1, 7, 60)],
        };
        let counts = file.write(&later, &[9, 9]).await.unwrap();
        assert_eq!(counts, Some(vec![1, 1]));
        (first.entry.count, first.entry.last) = (7, 60);
        // A transaction that took place and was said to have failed: what is there is counted anew.
        *file.known.lock() = None;
        let again = batch(vec![first.clone(), new(2, 1, "ann")]);
        let counts = file.write(&again, &[9, 9]).await.unwrap();
        assert_eq!(counts, Some(vec![1, 1]));
        assert_eq!(file.find(&all()).await.unwrap()[1], first.entry);
        let text = |text: &str| Some(text.to_owned());
        let by = |fill: fn(&mut AuditQuery, Option<String>), value: &str| {
            let mut query = all();
            fill(&mut query, text(value));
            query
        };
        let principal = |query: &mut AuditQuery, text| query.principal = text;
        for (wanted, expected) in [
            (by(principal, "ann"), &[2, 1][..]),
            (by(principal, "https://id.example:8443:ann"), &[1]),
            (by(principal, "nn"), &[]),
            (by(|query, kind| query.kind = kind, "login"), &[1]),
            (by(|query, text| query.address = text, "192.0.2.2"), &[]),
            (by(|query, _| query.since = Some(50), ""), &[1]),
            (by(|query, _| query.before = Some(2), ""), &[1]),
            (by(|query, _| query.after = Some(1), ""), &[2]),
            (by(|query, _| query.limit = 1, ""), &[2]),
        ] {
            let found = file.find(&wanted).await.unwrap();
            assert_eq!(ids(&found), expected, "{wanted:?}");
        }
    }

    // N1: a count is looked up by its id, however many entries there are.
    #[tokio::test]
    async fn counting_searches_no_table() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = AuditFile::open(directory.path()).await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {COUNT}"));
        let steps = sqlx::query(explain).bind("[]").fetch_all(&file.pool).await;
        let plan: Vec<String> = steps
            .unwrap()
            .iter()
            .map(|step| step.get("detail"))
            .collect();
        assert!(
            plan.iter()
                .any(|step| step.contains("SEARCH entries USING INTEGER PRIMARY KEY")),
            "{plan:?}"
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_set_aside_and_a_new_one_begins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(AuditFile::FILE);
        std::fs::write(&path, "this is no database, however long it is").unwrap();
        let (file, aside) = AuditFile::open(directory.path()).await.unwrap();
        assert_eq!(file.last_id().await.unwrap(), 0);
        let kept = std::fs::read_to_string(aside.unwrap()).unwrap();
        assert!(kept.starts_with("this is no database"));
    }
}
