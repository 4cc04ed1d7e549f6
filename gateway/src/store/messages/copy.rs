//! Copy: the message store as part of a backup, and as what is left of it after a restore (D11).

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection};

use super::super::StoreError;
use super::super::open::{connect, open, options, snapshot_into, sql_error};
use super::{MIGRATIONS, Messages};

impl Messages {
    /// Writes a consistent copy of the directory's `messages.db` to `into`, which must not exist; the gateway may be
    /// running. The copy is synced.
    pub async fn snapshot(directory: &Path, into: &Path) -> Result<(), StoreError> {
        let path = directory.join(Self::FILE);
        let mut connection = connect(&options(&path)).await?;
        let result = snapshot_into(&mut connection, &path, into).await;
        // It only read.
        let _ = connection.close().await;
        result
    }

    /// Marks a copy of `messages.db` as what a gateway is started with anew: the packet identifiers of what it received
    /// are forgotten, and the next [`Messages::load`], but no later one, says so.
    pub async fn mark_restored(path: &Path) -> Result<(), StoreError> {
        const MARK: &str =
            "BEGIN IMMEDIATE; DELETE FROM received; UPDATE state SET restored = 1; COMMIT";
        let options = options(path);
        let error = |error| sql_error(path, error);
        let mut connection = open(&options, &MIGRATIONS).await?;
        let marked = sqlx::raw_sql(AssertSqlSafe(MARK))
            .execute(&mut connection)
            .await;
        // Without its write-ahead log the file is complete.
        let closed = connection.close().await;
        marked.map_err(error)?;
        closed.map_err(error)
    }
}
