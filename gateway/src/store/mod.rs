//! What must survive? Accounts and policy in SQL; what is stored, how it is opened, and what a damaged file means.
//!
//! Three databases, because they fail differently (D11):
//!
//! - `accounts.db` (here: [`Accounts`]): users, roles, rules. Without it nobody knows who may do what, so damage stops
//!   the start with an error: it fails closed.
//! - `audit.db` ([`AuditFile`]): what was refused and changed. Nothing depends on it; a damaged one is set aside.
//! - `messages.db` ([`messages::Messages`]): sessions, queued and retained messages, with a writer of its own that
//!   groups commits. Damage there sets the file aside and salvages what is readable.
//!
//! This room keeps text and bytes. What a credential proves is `auth`'s business, what a rule means is `acl`'s.

mod accounts;
mod audit;
mod certificates;
mod devices;
mod import;
pub mod messages;
mod open;
mod rules;
#[cfg(test)]
pub(crate) mod testing;
pub mod writer;

use std::path::PathBuf;

pub use accounts::{Accounts, Credential, Snapshot, User};
pub use audit::{Again, AuditBatch, AuditEntry, AuditFile, AuditQuery, NewEntry};
pub use certificates::{NewCertificate, Revocation, StoredCertificate};
pub use devices::{Sighting, StoredDevice};
pub use import::{ImportedRows, NewAccount};
pub use rules::{NewRule, StoredRule};

/// Why the store could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the database {path} is damaged ({detail}): restore it from a backup, or move it away to start without what \
         it held (accounts.db: users and rules; messages.db: sessions and messages); nothing was changed"
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "the database {path} was written by a newer version (schema {found}, this version knows {known}): \
         start that version, or restore an older backup"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "the schema of {path} differs from the one this version made (migration {migration}): the file was changed by \
         something else; restore it from a backup"
    )]
    ForeignSchema { path: PathBuf, migration: i64 },
    #[error(
        "cannot {action} {path}: {source}; check that the directory exists, is writable and has free space"
    )]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the user {0:?} exists already; use \"password\" to change its password, or choose another name"
    )]
    NameTaken(String),
    #[error("there is no user {0:?}; list the users to see their names")]
    NoSuchUser(String),
    #[error("there is no device {0:?}; list the devices to see their names")]
    NoSuchDevice(String),
    #[error("there are {0} users already, so there is no first account to make")]
    NotEmpty(i64),
    #[error("this rule exists already, as rule {0}")]
    RuleExists(i64),
    #[error("there is no rule {0}; list the rules to see their numbers")]
    NoSuchRule(i64),
    #[error("the database {path} refused the operation: {source}")]
    Sql { path: PathBuf, source: sqlx::Error },
    #[error(
        "the write-ahead log of {path} cannot be merged into it while something else reads it (a backup, for one): \
         wait until that has ended, or end it"
    )]
    Busy { path: PathBuf },
}

impl StoreError {
    /// Whether the disk, or a quota on it, is full.
    pub fn is_full(&self) -> bool {
        const SQLITE_FULL: u32 = 13;
        match self {
            StoreError::Sql { source, .. } => open::sqlite_code(source) == Some(SQLITE_FULL),
            StoreError::File { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Whether a file is corrupt or not a database at all (D11).
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. })
    }
}
