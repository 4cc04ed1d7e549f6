//! Opening a SQLite file: its mode bits, its pragmas, its integrity and its schema.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use sqlx::sqlite::{SqlitePoolOptions, SqliteSynchronous};

use super::StoreError;

/// Opens the database at `path`, made with mode 0600 if it is missing, checks it and brings its schema up to date.
///
/// A new file is built under another name and renamed when it is complete, so that an empty or half-made file under
/// the final name is always damage, never a start that was interrupted.
pub(super) async fn open(path: &Path, migrator: &Migrator) -> Result<SqlitePool, StoreError> {
    if !path
        .try_exists()
        .map_err(|source| file_error("read", path, source))?
    {
        create(path, migrator).await?;
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|source| file_error("restrict access to", path, source))?;
    let length = fs::metadata(path)
        .map_err(|source| file_error("read", path, source))?
        .len();
    if length == 0 {
        return Err(StoreError::Damaged {
            path: path.into(),
            detail: "it is empty".to_owned(),
        });
    }
    let pool = connect(path).await?;
    check(&pool, path).await?;
    migrate(&pool, path, migrator).await?;
    Ok(pool)
}

/// Turns an SQL error into the store's words: "corrupt" and "not a database" are damage, the rest keeps its own text.
pub(super) fn sql_error(path: &Path, source: sqlx::Error) -> StoreError {
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    let code = source
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<u32>().ok());
    // The low byte is the primary code; extended codes say where the corruption is.
    match code.map(|code| code & 0xff) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Damaged {
            path: path.into(),
            detail: source.to_string(),
        },
        _ => StoreError::Sql {
            path: path.into(),
            source,
        },
    }
}

async fn create(path: &Path, migrator: &Migrator) -> Result<(), StoreError> {
    let building = sibling(path, ".new");
    for leftover in [
        &building,
        &sibling(&building, "-wal"),
        &sibling(&building, "-shm"),
    ] {
        match fs::remove_file(leftover) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", leftover, source));
            }
            _ => {}
        }
    }
    // SQLite gives its -wal and -shm files the mode of the database file.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&building)
        .map_err(|source| file_error("create", &building, source))?;
    let pool = connect(&building).await?;
    migrate(&pool, &building, migrator).await?;
    // The last connection to close moves the WAL into the file and removes it.
    pool.close().await;
    let wal = sibling(&building, "-wal");
    if wal.exists() {
        let source = io::Error::other("its write-ahead log was not merged");
        return Err(file_error("complete", &building, source));
    }
    File::open(&building)
        .and_then(|file| file.sync_all())
        .map_err(|source| file_error("sync", &building, source))?;
    fs::rename(&building, path).map_err(|source| file_error("create", path, source))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| file_error("sync", directory, source))
}

/// One connection: all reading is done from snapshots, and one writer needs no busy loop.
async fn connect(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("journal_size_limit", "4194304")
        .pragma("trusted_schema", "OFF");
    SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await
        .map_err(|error| sql_error(path, error))
}

async fn check(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let verdict: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_all(pool)
        .await
        .map_err(|error| sql_error(path, error))?;
    match verdict.first().map(String::as_str) {
        Some("ok") => Ok(()),
        detail => Err(StoreError::Damaged {
            path: path.into(),
            detail: detail.unwrap_or("it cannot be checked").to_owned(),
        }),
    }
}

async fn migrate(pool: &SqlitePool, path: &Path, migrator: &Migrator) -> Result<(), StoreError> {
    let known = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    migrator.run(pool).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => StoreError::Newer {
            path: path.into(),
            found,
            known,
        },
        MigrateError::VersionMissing(migration) | MigrateError::VersionMismatch(migration) => {
            StoreError::ForeignSchema {
                path: path.into(),
                migration,
            }
        }
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            sql_error(path, source)
        }
        other => StoreError::Sql {
            path: path.into(),
            source: sqlx::Error::Migrate(Box::new(other)),
        },
    })
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        action,
        path: path.into(),
        source,
    }
}
