//! `postern restore`: the data directory of a gateway that does not run, as a backup has it.
//!
//! Everything is unpacked and checked in a folder of its own first. Then a mark is set, what is there is set aside,
//! the new files take its place, and the mark goes. No gateway starts while the mark is there, so that a half-done
//! exchange is never taken for a fresh directory.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::archive::{self, Manifest};
use super::{CliError, output};
use crate::admin::{AdminError, Part, PartKind};
use crate::audit::{self, AuditLog, Kind, Note};
use crate::auth::SecretKey;
use crate::data_dir::DataDir;
use crate::store::{Accounts, messages::Messages};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file that `postern backup` made
    file: PathBuf,
    /// Set the files of the data directory aside, in a folder in it
    #[arg(long)]
    force: bool,
}

/// The folder in the data directory where a backup is unpacked.
const FOLDER: &str = "restore.new";
/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<(), CliError> {
        // Before anything is made or locked.
        File::open(&self.file).map_err(|source| CliError::file("read", &self.file, source))?;
        dir.create()?;
        let lock = dir.lock_to_restore()?;
        let present = present(dir.path())?;
        if let (Some(found), false) = (present.first(), self.force) {
            return Err(CliError::InUse {
                path: dir.path().to_owned(),
                found: found.clone(),
            });
        }
        let unpacked = Unpacked::new(dir)?;
        let refused = |problem| CliError::NotRestored {
            path: self.file.clone(),
            problem,
        };
        let manifest =
            archive::unpack(&self.file, &unpacked.folder, unpacked.owner).map_err(refused)?;
        check(&unpacked.folder, &manifest).await.map_err(refused)?;

        let aside = exchange(dir, &unpacked.folder, &manifest, &present)?;
        drop(unpacked);
        note(dir, &self.file).await;
        dir.give_to_owner()?;
        drop(lock);
        writeln!(
            out,
            "{} has the {} files of the backup of {} (version {})",
            dir.path().display(),
            manifest.parts.len(),
            output::time(i64::try_from(manifest.made_at).unwrap_or(i64::MAX)),
            manifest.version
        )?;
        if let Some(aside) = aside {
            writeln!(out, "what was there before is in {}", aside.display())?;
        }
        Ok(())
    }
}

/// Notes the restore in the audit log that was restored, or in a new one.
async fn note(dir: &DataDir, file: &Path) {
    let settings = audit::Settings::default();
    match AuditLog::open(dir.path(), settings, Arc::default()).await {
        Ok(log) => {
            let note = Note {
                principal: "command line",
                subject: &format!("restore {}", file.display()),
                reason: "done",
                ..Note::default()
            };
            log.note(Kind::Change, note);
            log.close().await;
        }
        Err(error) => eprintln!("warning: the restore is not noted in the audit log: {error}"),
    }
}

/// A folder for what is unpacked, gone when this is dropped.
struct Unpacked {
    folder: PathBuf,
    /// Whose the files are to be, if this is root.
    owner: Option<(u32, u32)>,
}

impl Unpacked {
    fn new(dir: &DataDir) -> Result<Unpacked, CliError> {
        let folder = dir.path().join(FOLDER);
        let make = || {
            let owner = fs::metadata(dir.path())?;
            let owner = (owner.uid(), owner.gid());
            let owner = rustix::process::geteuid().is_root().then_some(owner);
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            DirBuilder::new().mode(0o700).create(&folder)?;
            if let Some((uid, gid)) = owner {
                chown(&folder, Some(uid), Some(gid))?;
            }
            Ok(owner)
        };
        let owner = make().map_err(|source| CliError::file("create", &folder, source))?;
        Ok(Unpacked { folder, owner })
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The files of a data directory that a backup would replace.
fn present(directory: &Path) -> Result<Vec<String>, CliError> {
    let parts = Part::all_in(directory)?;
    let names = parts.iter().flat_map(|part| {
        let companions: &[&str] = match part.kind {
            PartKind::Database => &COMPANIONS,
            PartKind::File => &[],
        };
        let companions = companions
            .iter()
            .map(|suffix| format!("{}{suffix}", part.name));
        std::iter::once(part.name.to_string()).chain(companions)
    });
    Ok(names
        .filter(|name| fs::symlink_metadata(directory.join(name)).is_ok())
        .collect())
}

/// Whether a gateway could start with what was unpacked; brings it to what a gateway expects after a restore.
async fn check(folder: &Path, manifest: &Manifest) -> Result<(), String> {
    let has = |name: &str| manifest.parts.contains_key(name);
    for needed in [Accounts::FILE, SecretKey::FILE] {
        if !has(needed) {
            return Err(format!("it has no {needed}"));
        }
    }
    for [one, other] in [
        ["tls/ca.pem", "tls/ca.key"],
        ["tls/server.pem", "tls/server.key"],
    ] {
        if has(one) != has(other) {
            return Err(format!("it has only one of {one} and {other}"));
        }
    }
    check_accounts(folder)
        .await
        .map_err(|error| error.to_string())?;
    if has(Messages::FILE) {
        Messages::mark_restored(&folder.join(Messages::FILE))
            .await
            .map_err(|error| error.to_string())?;
    }
    let leftover = Part::ALL
        .iter()
        .map(|part| format!("{}-wal", part.name))
        .find(|name| folder.join(name).exists());
    match leftover {
        Some(name) => Err(format!("{name} was not merged into its database")),
        None => Ok(()),
    }
}

/// The database is sound, of a schema this version knows, and the key is its own.
async fn check_accounts(folder: &Path) -> Result<(), AdminError> {
    let accounts = Accounts::open(folder).await?;
    let read = async {
        accounts.snapshot().await?;
        accounts.key_check().await
    };
    let check = read.await;
    accounts.close().await;
    if let Some(check) = check? {
        SecretKey::open(folder, Some(&check))?;
    }
    Ok(())
}

/// Sets aside what is there and puts what was unpacked in its place; gives the folder of the former.
fn exchange(
    dir: &DataDir,
    unpacked: &Path,
    manifest: &Manifest,
    present: &[String],
) -> Result<Option<PathBuf>, CliError> {
    let mark = dir.restore_mark();
    let failed = |source| CliError::file("restore into", dir.path(), source);
    let sync = || File::open(dir.path()).and_then(|folder| folder.sync_all());
    let run = || {
        File::create(&mark)?.sync_all()?;
        sync()?;
        let aside = match present.is_empty() {
            true => None,
            false => Some(set_aside(dir.path(), present)?),
        };
        for name in manifest.parts.keys() {
            put(unpacked, dir.path(), name)?;
        }
        sync()?;
        fs::remove_file(&mark)?;
        sync()?;
        Ok(aside)
    };
    run().map_err(failed)
}

/// Moves one file to its place, or the outermost folder on its way that is not there yet: that was made by this
/// restore, with its owner.
fn put(unpacked: &Path, directory: &Path, name: &str) -> io::Result<()> {
    let name = Path::new(name);
    if !unpacked.join(name).exists() {
        // It went with its folder.
        return Ok(());
    }
    let ways: Vec<&Path> = name.ancestors().filter(|way| *way != "").collect();
    let missing = ways.iter().rev().find(|way| !directory.join(way).exists());
    let moved = missing.copied().unwrap_or(name);
    fs::rename(unpacked.join(moved), directory.join(moved))?;
    for folder in name.ancestors().skip(1) {
        File::open(directory.join(folder))?.sync_all()?;
    }
    Ok(())
}

/// Moves files into a new folder that is named after this moment.
fn set_aside(directory: &Path, names: &[String]) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |elapsed| elapsed.as_secs());
    let mut aside = directory.join(format!("before-restore-{}", compact(now)));
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    let mut number = 1;
    while let Err(error) = builder.create(&aside) {
        // Twice in one second.
        if error.kind() != io::ErrorKind::AlreadyExists || number == 100 {
            return Err(error);
        }
        number += 1;
        aside = directory.join(format!("before-restore-{}-{number}", compact(now)));
    }
    for name in names {
        let to = aside.join(name);
        archive::make_parents(&to, None)?;
        fs::rename(directory.join(name), to)?;
    }
    Ok(aside)
}

/// `20261121-061952`, UTC.
fn compact(seconds: u64) -> String {
    let (date, [hour, minute, second]) = civil(seconds);
    let [year, month, day] = date;
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Date and time of day in UTC; the proleptic Gregorian calendar, by eras of 400 years that begin on 1 March.
fn civil(seconds: u64) -> ([u64; 3], [u64; 3]) {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (
        [year, month, day],
        [rest / 3_600, rest / 60 % 60, rest % 60],
    )
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
