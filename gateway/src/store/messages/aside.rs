//! Aside: a damaged `messages.db` gets another name, and what was salvaged of it takes its place (D11).
//!
//! The salvaged file is complete, synced and named `messages.db.salvaged` before anything is moved: from then on the
//! exchange is finished by the next start if this one is interrupted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;

use super::super::StoreError;
use super::super::open::{connect, create, file_error, finish, remove, sibling, sync_directory};
use super::salvage::salvage;

/// A damaged file that was set aside, and what was salvaged of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAside {
    /// Its name now.
    pub path: PathBuf,
    /// What is wrong with it, in one line.
    pub detail: String,
    pub sessions: u64,
    pub subscriptions: u64,
    pub retained: u64,
    pub messages: u64,
    /// Rows that could be read but are not what was written, or belong to what could not be read.
    pub dropped: u64,
    /// Some rows could not be read at all, nobody knows how many.
    pub incomplete: bool,
}

pub(super) async fn set_aside(
    options: &SqliteConnectOptions,
    migrator: &Migrator,
    detail: String,
) -> Result<SetAside, StoreError> {
    let path = options.get_filename();
    let mut found = SetAside {
        detail: one_line(&detail),
        ..SetAside::default()
    };
    let building = sibling(path, ".salvaging");
    remove(&building)?;
    // Nobody else moves its log meanwhile.
    let fresh = options
        .clone()
        .filename(&building)
        .pragma("wal_autocheckpoint", "1000");
    create(&fresh, migrator).await?;
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    if length == 0 {
        // SQLite would remove the write-ahead log of an empty file.
        found.incomplete = true;
    } else {
        let mut connection = connect(&fresh).await?;
        salvage(options, &mut connection, &building, &mut found).await?;
        // Its name is final before the exchange, and is so even if this is interrupted.
        finish(connection, &building, &sibling(path, SALVAGED)).await?;
    }
    if length == 0 {
        let salvaged = sibling(path, SALVAGED);
        fs::rename(&building, &salvaged)
            .map_err(|source| file_error("create", &salvaged, source))?;
    }
    found.path = exchange(path)?;
    tracing::error!(
        path = %path.display(),
        detail = %found.detail,
        set_aside_as = %found.path.display(),
        sessions = found.sessions,
        subscriptions = found.subscriptions,
        retained = found.retained,
        messages = found.messages,
        dropped = found.dropped,
        incomplete = found.incomplete,
        "the message store was damaged: it was set aside, and what could be read of it was salvaged",
    );
    Ok(found)
}

/// SQLite describes damage in several lines, and a log entry is one.
fn one_line(detail: &str) -> String {
    let words: Vec<&str> = detail.split_whitespace().collect();
    words.join(" ")
}

/// Finishes what an interrupted [`set_aside`] had begun.
pub(super) fn finish_exchange(path: &Path) -> Result<Option<SetAside>, StoreError> {
    let salvaged = sibling(path, SALVAGED);
    if !salvaged
        .try_exists()
        .map_err(|source| file_error("read", &salvaged, source))?
    {
        return Ok(None);
    }
    let set_aside = exchange(path)?;
    tracing::error!(
        path = %path.display(),
        set_aside_as = %set_aside.display(),
        "the message store was damaged: it was set aside, and what could be read of it was salvaged, when an earlier \
         start was interrupted",
    );
    Ok(Some(SetAside {
        path: set_aside,
        detail: "an earlier start was interrupted while it set the file aside".to_owned(),
        ..SetAside::default()
    }))
}

const SALVAGED: &str = ".salvaged";

/// Moves the damaged file with its companions away, and the salvaged one to its name.
fn exchange(path: &Path) -> Result<PathBuf, StoreError> {
    let aside = free_name(path)?;
    // The log before its file: it must never lie beside the new one.
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (sibling(path, suffix), sibling(&aside, suffix));
        match fs::rename(&from, &to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("set aside", &from, source));
            }
            _ => {}
        }
    }
    sync_directory(path)?;
    let salvaged = sibling(path, SALVAGED);
    fs::rename(&salvaged, path).map_err(|source| file_error("create", path, source))?;
    sync_directory(path)?;
    Ok(aside)
}

/// `….damaged-YYYYMMDD-HHMMSS` (UTC), with a number behind it if there is one already.
fn free_name(path: &Path) -> Result<PathBuf, StoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let dated = format!(".damaged-{}", stamp(now.map_or(0, |now| now.as_secs())));
    for number in 1..1000 {
        let numbered = match number {
            1 => sibling(path, &dated),
            _ => sibling(path, &format!("{dated}-{number}")),
        };
        let companions = ["", "-wal", "-shm"].map(|suffix| sibling(&numbered, suffix));
        if !companions.iter().any(|name| name.exists()) {
            return Ok(numbered);
        }
    }
    let source = io::Error::other("a thousand files of this name are there; move some away");
    Err(file_error("set aside", path, source))
}

/// Seconds since 1970 as YYYYMMDD-HHMMSS in UTC.
fn stamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years that begin with March: the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (era * 400 + year, month + 3)
    } else {
        (era * 400 + year + 1, month - 9)
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::{one_line, stamp};

    #[test]
    fn a_detail_of_several_lines_becomes_one() {
        let detail = "*** in database main ***\nTree 5 page 7:  bad\r\n\tTree 6\n";
        assert_eq!(
            one_line(detail),
            "*** in database main *** Tree 5 page 7: bad Tree 6"
        );
    }

    #[test]
    fn a_dated_name_is_the_utc_time() {
        for (seconds, expected) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_827_696, "20000229-123456"),
            (1_709_251_199, "20240229-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(stamp(seconds), expected);
        }
    }
}
