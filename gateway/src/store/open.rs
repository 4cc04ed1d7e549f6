//! Opening a SQLite file: its mode bits, its pragmas, its integrity and its schema.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::StoreError;

/// What the connections of both databases have in common. Statements are never logged: their cost would be paid
/// per transaction.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("journal_size_limit", "4194304")
        // KiB, instead of 2 MB: what is asked often is in memory of ours.
        .pragma("cache_size", "-512")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

/// One connection: all reading is done from snapshots, and one writer needs no busy loop.
pub(super) async fn pool(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await
}

/// Opens the database that `options` name, made with mode 0600 if it is missing, checks it and brings its schema up
/// to date.
///
/// A new file is built under another name and renamed when it is complete, so that an empty or half-made file under
/// the final name is always damage, never a start that was interrupted.
pub(super) async fn open(
    options: &SqliteConnectOptions,
    migrator: &Migrator,
) -> Result<SqliteConnection, StoreError> {
    let path = options.get_filename().to_path_buf();
    if !path
        .try_exists()
        .map_err(|source| file_error("read", &path, source))?
    {
        create(options, migrator).await?;
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600))
        .map_err(|source| file_error("restrict access to", &path, source))?;
    let length = fs::metadata(&path)
        .map_err(|source| file_error("read", &path, source))?
        .len();
    if length == 0 {
        return Err(StoreError::Damaged {
            path,
            detail: "it is empty".to_owned(),
        });
    }
    check_header(&path)?;
    let mut connection = connect(options).await?;
    let checked = async {
        check(&mut connection, &path).await?;
        migrate(&mut connection, &path, migrator).await
    };
    match checked.await {
        Ok(()) => Ok(connection),
        Err(error) => {
            let _ = connection.close().await;
            Err(error)
        }
    }
}

pub(super) async fn connect(
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, StoreError> {
    let connected = options.connect().await;
    connected.map_err(|error| sql_error(options.get_filename(), error))
}

/// Turns an SQL error into the store's words: "corrupt" and "not a database" are damage, the rest keeps its own text.
pub(super) fn sql_error(path: &Path, source: sqlx::Error) -> StoreError {
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    match sqlite_code(&source) {
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

/// SQLite's primary result code. The extended code, of which it is the low byte, says more precisely where.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    Some(code.parse::<u32>().ok()? & 0xff)
}

/// Builds an empty database of the present schema under the name that `options` give, which must be free.
pub(super) async fn create(
    options: &SqliteConnectOptions,
    migrator: &Migrator,
) -> Result<(), StoreError> {
    let path = options.get_filename();
    let building = sibling(path, ".new");
    remove(&building)?;
    // SQLite gives its -wal and -shm files the mode of the database file.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&building)
        .map_err(|source| file_error("create", &building, source))?;
    // D12; only here: on a file that is there already it would be a transaction.
    let building_options = options
        .clone()
        .filename(&building)
        .auto_vacuum(SqliteAutoVacuum::Incremental);
    let mut connection = connect(&building_options).await?;
    migrate(&mut connection, &building, migrator).await?;
    finish(connection, &building, path).await
}

/// Closes a database that was built as `building`, syncs it and gives it its name.
pub(super) async fn finish(
    connection: SqliteConnection,
    building: &Path,
    path: &Path,
) -> Result<(), StoreError> {
    // The last connection to close moves the WAL into the file and removes it.
    let closed = connection.close().await;
    closed.map_err(|error| sql_error(building, error))?;
    if sibling(building, "-wal").exists() {
        let source = io::Error::other("its write-ahead log was not merged");
        return Err(file_error("complete", building, source));
    }
    File::open(building)
        .and_then(|file| file.sync_all())
        .map_err(|source| file_error("sync", building, source))?;
    fs::rename(building, path).map_err(|source| file_error("create", path, source))?;
    sync_directory(path)
}

/// Makes the names beside `path` last.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| file_error("sync", directory, source))
}

/// Removes a database file with its companions; there need not be any.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    for file in [path.into(), sibling(path, "-wal"), sibling(path, "-shm")] {
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &file, source));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks what every file of ours has in its header (<https://www.sqlite.org/fileformat2.html>): with some of it changed
/// SQLite would say anything, that the file is read-only for one.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(source) => return Err(file_error("read", path, source)),
        Ok(()) => {
            let journal = |version: u8| version == 1 || version == 2;
            let number = |at: usize| {
                header[at..at + 4]
                    .iter()
                    .fold(0, |n, b| n << 8 | u32::from(*b))
            };
            let sound = header.starts_with(b"SQLite format 3\0")
                && header[16..18] == [0x10, 0] // 4096 bytes to a page
                && journal(header[18])
                && journal(header[19])
                && header[20..24] == [0, 64, 32, 32]
                && number(44) == 4
                && number(52) > 0 // auto_vacuum (D12) …
                && number(56) == 1 // UTF-8
                && number(64) == 1; // … INCREMENTAL
            if sound {
                return Ok(());
            }
        }
    }
    Err(StoreError::Damaged {
        path: path.into(),
        detail: "its header is not that of a database of ours".to_owned(),
    })
}

/// An error unless the tables, indices and triggers are just those that the migrations make.
pub(super) async fn expect_schema(
    connection: &mut SqliteConnection,
    migrator: &Migrator,
    path: &Path,
) -> Result<(), StoreError> {
    // What ANALYZE makes does no harm.
    const SCHEMA: &str =
        "SELECT ifnull(sql, name) FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1";
    let mut model = connect(
        &SqliteConnectOptions::new()
            .in_memory(true)
            .disable_statement_logging(),
    )
    .await?;
    migrate(&mut model, path, migrator).await?;
    let error = |error| sql_error(path, error);
    let expected: Vec<String> = sqlx::query_scalar(SCHEMA)
        .fetch_all(&mut model)
        .await
        .map_err(error)?;
    let found: Vec<String> = sqlx::query_scalar(SCHEMA)
        .fetch_all(connection)
        .await
        .map_err(error)?;
    if found == expected {
        return Ok(());
    }
    Err(StoreError::Damaged {
        path: path.into(),
        detail: "its schema is not the one that this version makes".to_owned(),
    })
}

/// Writes a consistent copy to `into`, which must not exist, and syncs it.
pub(super) async fn snapshot_into(
    connection: &mut SqliteConnection,
    path: &Path,
    into: &Path,
) -> Result<(), StoreError> {
    // SQLite fills an empty file, and would make a missing one readable for all that the umask allows.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(into);
    let file = file.map_err(|source| file_error("create", into, source))?;
    let Some(name) = into.to_str() else {
        let source = io::Error::new(
            io::ErrorKind::InvalidInput,
            "its name is not UTF-8; choose another",
        );
        return Err(file_error("create", into, source));
    };
    let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(connection);
    if let Err(error) = copied.await {
        // What is there of it is of no use; the error that matters is the first.
        let _ = fs::remove_file(into);
        return Err(match sql_error(path, error) {
            StoreError::Sql { source, .. } => sql_error(into, source),
            damaged => damaged,
        });
    }
    file.sync_all()
        .map_err(|source| file_error("sync", into, source))?;
    sync_directory(into)
}

async fn check(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let verdict: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_all(connection)
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

pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
    migrator: &Migrator,
) -> Result<(), StoreError> {
    const SQLITE_ERROR: u32 = 1;
    let known = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    let Err(error) = migrator.run(&mut *connection).await else {
        return Ok(());
    };
    // A newer version has the older migrations, too; a file without them has one that was changed.
    let all_known = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations WHERE version <= ?")
        .bind(known)
        .fetch_one(connection)
        .await
        .is_ok_and(|count: i64| count == migrator.iter().count() as i64);
    Err(match error {
        MigrateError::VersionMissing(found) if found > known && all_known => StoreError::Newer {
            path: path.into(),
            found,
            known,
        },
        MigrateError::VersionMissing(migration)
        | MigrateError::VersionMismatch(migration)
        | MigrateError::Dirty(migration) => StoreError::ForeignSchema {
            path: path.into(),
            migration,
        },
        // It was applied already, and that is not written down any more.
        MigrateError::ExecuteMigration(source, migration)
            if sqlite_code(&source) == Some(SQLITE_ERROR) =>
        {
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

pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn file_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        action,
        path: path.into(),
        source,
    }
}
