//! The file of the audit log, apart from the accounts: it changes all the time, and nobody is let in or kept out by it.
//! What becomes an entry, and when it is written, is `audit`'s business.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Connection, QueryBuilder, Row, Sqlite};

use super::StoreError;
use super::open::{connect, open, options, sibling, snapshot_into, sql_error};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite/audit");

/// The audit log of one data directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditFile {
    pool: SqlitePool,
    path: Arc<PathBuf>,
    known: Arc<Mutex<Known>>,
}

/// What the file has, so that it need not be counted for each transaction.
#[derive(Debug, Default)]
struct Known {
    /// Rows of each class, once they were counted.
    counts: Option<Vec<u64>>,
    /// The greatest id.
    last: i64,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub id: i64,
    /// Rows of one class make room only for others of theirs.
    pub class: u8,
    pub kind: String,
    /// Seconds since 1970: the first time.
    pub at: i64,
    /// Seconds since 1970: the last time.
    pub last: i64,
    pub count: i64,
    pub principal: String,
    pub address: String,
    pub client: String,
    pub subject: String,
    pub reason: String,
}

/// Which rows. What is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Seconds since 1970: rows whose last time is not before it.
    pub since: Option<i64>,
    /// `realm:name`, or a name in any realm.
    pub principal: Option<String>,
    pub address: Option<String>,
    pub kind: Option<String>,
    /// Only rows with a smaller id.
    pub before: Option<i64>,
    /// Only rows with a greater id.
    pub after: Option<i64>,
}

/// Rows of one statement. A statement is put together on the threads that serve clients: while thousands of logins are
/// written down, nobody waits for more than this.
const ROWS_AT_ONCE: usize = 50;

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
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options);
        let pool = pool.await.map_err(error)?;
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

    /// Writes rows in one transaction, on disk when this returns; one whose id is there already gets its count and last
    /// time from the new one. Removes the oldest rows of each class beyond what `keep` says; gives how many each has.
    /// Nothing to write and nothing to remove is no transaction, and gives `None`.
    ///
    /// One call at a time, and a row that is new has a greater id than any that is there.
    pub async fn write(
        &self,
        rows: &[AuditRow],
        keep: &[u64],
    ) -> Result<Option<Vec<u64>>, StoreError> {
        let (known, last) = {
            let known = self.known.lock();
            (known.counts.clone(), known.last)
        };
        let counted = match known {
            Some(counts) => Ok((counts, last)),
            None => self.counted(keep.len()).await,
        };
        let (mut counts, last) = counted.map_err(|error| self.error(error))?;
        for row in rows.iter().filter(|row| row.id > last) {
            if let Some(count) = counts.get_mut(usize::from(row.class)) {
                *count += 1;
            }
        }
        let over: Vec<u64> = counts
            .iter()
            .zip(keep)
            .map(|(count, keep)| count.saturating_sub(*keep))
            .collect();
        if rows.is_empty() && over.iter().all(|over| *over == 0) {
            return Ok(None);
        }
        // After a failure nobody knows what is there.
        self.known.lock().counts = None;
        let written = self.run(rows, &over).await;
        written.map_err(|error| self.error(error))?;
        for (count, over) in counts.iter_mut().zip(over) {
            *count -= over;
        }
        let last = rows.iter().map(|row| row.id).fold(last, i64::max);
        *self.known.lock() = Known {
            counts: Some(counts.clone()),
            last,
        };
        Ok(Some(counts))
    }

    /// The rows of each class, and the greatest id.
    async fn counted(&self, classes: usize) -> Result<(Vec<u64>, i64), sqlx::Error> {
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
        Ok((counts, last))
    }

    /// Up to `limit` rows, the newest ones, by descending id.
    pub async fn find(
        &self,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, class, kind, at, last, count, principal, address, client, subject, reason FROM entries WHERE id > ",
        );
        query.push_bind(filter.after.unwrap_or(i64::MIN));
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        if let Some(since) = filter.since {
            query.push(" AND last >= ").push_bind(since);
        }
        if let Some(principal) = &filter.principal {
            query.push(" AND (principal = ").push_bind(principal);
            // A realm may have colons, a name may have colons: both ends are tried.
            query
                .push(" OR substr(principal, -length(")
                .push_bind(principal)
                .push(") - 1) = ':' || ")
                .push_bind(principal)
                .push(")");
        }
        if let Some(address) = &filter.address {
            query.push(" AND address = ").push_bind(address);
        }
        if let Some(kind) = &filter.kind {
            query.push(" AND kind = ").push_bind(kind);
        }
        query
            .push(" ORDER BY id DESC LIMIT ")
            .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| self.error(error))?;
        let read: Result<_, _> = rows.iter().map(row).collect();
        read.map_err(|error| self.error(error))
    }

    async fn run(&self, rows: &[AuditRow], over: &[u64]) -> Result<(), sqlx::Error> {
        let mut writing = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let mut insert = QueryBuilder::<Sqlite>::new(
                "INSERT INTO entries (id, class, kind, at, last, count, principal, address, client, subject, reason) ",
            );
            insert.push_values(rows, |mut values, row| {
                values
                    .push_bind(row.id)
                    .push_bind(row.class)
                    .push_bind(&row.kind)
                    .push_bind(row.at)
                    .push_bind(row.last)
                    .push_bind(row.count)
                    .push_bind(&row.principal)
                    .push_bind(&row.address)
                    .push_bind(&row.client)
                    .push_bind(&row.subject)
                    .push_bind(&row.reason);
            });
            insert.push(
                " ON CONFLICT (id) DO UPDATE SET count = excluded.count, last = excluded.last",
            );
            // Batches have any size: their statements are not worth keeping.
            insert
                .build()
                .persistent(false)
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

fn row(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        id: row.try_get(0)?,
        class: row.try_get(1)?,
        kind: row.try_get(2)?,
        at: row.try_get(3)?,
        last: row.try_get(4)?,
        count: row.try_get(5)?,
        principal: row.try_get(6)?,
        address: row.try_get(7)?,
        client: row.try_get(8)?,
        subject: row.try_get(9)?,
        reason: row.try_get(10)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, class: u8, principal: &str) -> AuditRow {
        AuditRow {
            id,
            class,
            kind: ["login", "login-failed"][usize::from(class)].to_owned(),
            at: id,
            last: id,
            count: 1,
            principal: principal.to_owned(),
            address: "192.0.2.1".to_owned(),
            client: String::new(),
            subject: String::new(),
            reason: "x".to_owned(),
        }
    }

    fn ids(rows: &[AuditRow]) -> Vec<i64> {
        rows.iter().map(|row| row.id).collect()
    }

    #[tokio::test]
    async fn each_class_keeps_its_newest_rows_and_none_pushes_out_those_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let (file, aside) = AuditFile::open(directory.path()).await.unwrap();
        assert_eq!((file.last_id().await.unwrap(), aside), (0, None));
        let mut rows: Vec<_> = (1..=5).map(|id| row(id, 0, "local:ann")).collect();
        rows.extend((6..3_000).map(|id| row(id, 1, "bob")));
        let write = async |file: &AuditFile, rows: &[AuditRow], keep: [u64; 2]| {
            file.write(rows, &keep).await.unwrap()
        };
        assert_eq!(write(&file, &rows, [10, 3]).await, Some(vec![5, 3]));
        let all = file.find(&AuditFilter::default(), 100).await.unwrap();
        assert_eq!(ids(&all), [2_999, 2_998, 2_997, 5, 4, 3, 2, 1]);
        assert_eq!(write(&file, &[], [5, 3]).await, None);
        assert_eq!(write(&file, &[], [2, 3]).await, Some(vec![2, 3]));
        // One that is written again is not one more.
        assert_eq!(
            write(&file, &[row(5, 0, "x")], [2, 3]).await,
            Some(vec![2, 3])
        );
        file.close().await;
        let (file, _) = AuditFile::open(directory.path()).await.unwrap();
        assert_eq!(file.last_id().await.unwrap(), 2_999);
        let more = row(3_000, 0, "x");
        assert_eq!(write(&file, &[more], [9, 9]).await, Some(vec![3, 3]));
    }

    #[tokio::test]
    async fn a_row_that_is_written_again_is_counted_and_rows_are_found_by_what_they_say() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = AuditFile::open(directory.path()).await.unwrap();
        let mut first = row(1, 0, "https://id.example:8443:ann");
        file.write(&[first.clone(), row(2, 1, "ann")], &[9, 9])
            .await
            .unwrap();
        (first.count, first.last) = (7, 60);
        file.write(std::slice::from_ref(&first), &[9, 9])
            .await
            .unwrap();
        let find = async |filter: AuditFilter| ids(&file.find(&filter, 10).await.unwrap());
        let filter = AuditFilter::default;
        let all = file.find(&filter(), 10).await.unwrap();
        assert_eq!(all[1], first);
        let principal = |text: &str| Some(text.to_owned());
        for (filter, expected) in [
            (
                AuditFilter {
                    principal: principal("ann"),
                    ..filter()
                },
                &[2, 1][..],
            ),
            (
                AuditFilter {
                    principal: principal("https://id.example:8443:ann"),
                    ..filter()
                },
                &[1],
            ),
            (
                AuditFilter {
                    principal: principal("nn"),
                    ..filter()
                },
                &[],
            ),
            (
                AuditFilter {
                    kind: principal("login"),
                    ..filter()
                },
                &[1],
            ),
            (
                AuditFilter {
                    since: Some(50),
                    ..filter()
                },
                &[1],
            ),
            (
                AuditFilter {
                    before: Some(2),
                    ..filter()
                },
                &[1],
            ),
            (
                AuditFilter {
                    after: Some(1),
                    ..filter()
                },
                &[2],
            ),
            (
                AuditFilter {
                    address: principal("192.0.2.2"),
                    ..filter()
                },
                &[],
            ),
        ] {
            assert_eq!(find(filter.clone()).await, expected, "{filter:?}");
        }
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
