//! What does a backup hold? Copies of the databases, each of one moment, and of the files beside them, made while the
//! gateway runs. How they travel and are packed into one file is left to the control socket and the command line.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::{AdminError, FirstAccount};
use crate::auth::SecretKey;
use crate::store::{Accounts, AuditFile, messages::Messages};
use crate::tls::private_ca::signing::LIST_MAX;
use crate::tls::{CertificateStore, acme};

/// A file of the data directory that must survive. What is not listed is made anew by the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its path in the data directory.
    pub name: Cow<'static, str>,
    pub mode: u32,
    pub kind: PartKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// Copied by SQLite, because its write-ahead log belongs to it.
    Database,
    /// At most [`Part::max`] bytes.
    File,
}

impl Part {
    /// What every data directory holds for good, under the same name. A room that keeps another file there adds it here.
    pub const ALL: &[Part] = &[
        Part::database(Accounts::FILE),
        Part::database(Messages::FILE),
        Part::database(AuditFile::FILE),
        Part::file(SecretKey::FILE, 0o600),
        Part::file(FirstAccount::FILE, 0o600),
        Part::file("tls/ca.pem", 0o644),
        Part::file("tls/ca.key", 0o600),
        Part::file(Self::LIST, 0o644),
        Part::file("tls/server.pem", 0o644),
        Part::file("tls/server.key", 0o600),
    ];
    /// The list of revoked certificates grows.
    const LIST: &str = "tls/ca.crl";
    /// Bytes of certificates and keys, at most: they have a few thousand.
    const FILE_MAX: u64 = 1 << 20;

    const fn database(name: &'static str) -> Part {
        Part {
            name: Cow::Borrowed(name),
            mode: 0o600,
            kind: PartKind::Database,
        }
    }

    const fn file(name: &'static str, mode: u32) -> Part {
        Part {
            name: Cow::Borrowed(name),
            mode,
            kind: PartKind::File,
        }
    }

    /// Bytes of a part that is not a database, at most.
    pub fn max(&self) -> u64 {
        match &*self.name {
            Self::LIST => LIST_MAX,
            _ => Self::FILE_MAX,
        }
    }

    /// A part by its name, whether there is such a file or not; nothing for a name that is none.
    pub fn named(name: &str) -> Option<Part> {
        let fixed = Part::ALL.iter().find(|part| part.name == name);
        let secret = CertificateStore::is_file(name) || acme::is_account_file(name);
        fixed
            .cloned()
            .or_else(|| secret.then(|| Part::secret(name)))
    }

    /// All parts that this data directory may have: the fixed ones, its certificates, its accounts at CAs.
    pub fn all_in(directory: &Path) -> Result<Vec<Part>, AdminError> {
        let certificates = CertificateStore::new(directory).files()?;
        let accounts = acme::account_files(directory)?;
        let secrets = certificates.iter().chain(&accounts);
        let secrets = secrets.map(|name| Part::secret(name));
        Ok(Part::ALL.iter().cloned().chain(secrets).collect())
    }

    fn secret(name: &str) -> Part {
        Part {
            name: Cow::Owned(name.to_owned()),
            mode: 0o600,
            kind: PartKind::File,
        }
    }
}

/// A part of a backup that was made, as the control socket announces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLine {
    pub name: String,
    pub bytes: u64,
}

/// Copies of all parts in a folder of their own, which goes when this is dropped.
#[derive(Debug)]
pub struct Backup {
    folder: PathBuf,
    parts: Vec<PartLine>,
    /// Held as long as the folder is there.
    _place: OwnedSemaphorePermit,
}

impl Backup {
    /// The folder in the data directory. One that a crash left is removed by the next backup, and by the next start.
    const FOLDER: &str = "backup.new";
    /// Bytes that stay free whatever the backup needs: the message store goes on writing.
    const MARGIN: u64 = 64 << 20;

    /// Copies everything. The caller holds the lock of the data directory; `place` is the only one there is.
    pub(super) async fn make(
        directory: &Path,
        accounts: &Accounts,
        place: OwnedSemaphorePermit,
    ) -> Result<Backup, AdminError> {
        check_room(directory)?;
        let mut backup = Backup::begin(directory, place)?;
        // First the accounts: an account without sessions is harmless, sessions without account are not.
        for part in Part::all_in(directory)? {
            let into = backup.folder.join(&*part.name);
            match part.kind {
                PartKind::Database if part.name == Accounts::FILE => {
                    accounts.copy_into(&into).await?;
                }
                PartKind::Database if part.name == AuditFile::FILE => {
                    match copy_audit(directory, &into).await? {
                        true => {}
                        false => continue,
                    }
                }
                PartKind::Database if directory.join(&*part.name).exists() => {
                    Messages::snapshot(directory, &into).await?;
                }
                PartKind::Database => continue,
                PartKind::File if copy(&directory.join(&*part.name), &into, part.max())? => {}
                // The first account's password was removed; a certificate of the operator's own lies elsewhere.
                PartKind::File => continue,
            }
            let bytes = fs::metadata(&into).map_err(failed("read", &into))?.len();
            let name = part.name.into_owned();
            backup.parts.push(PartLine { name, bytes });
        }
        Ok(backup)
    }

    /// Removes what a crash may have left in the way.
    pub(super) fn clear(directory: &Path) -> Result<(), AdminError> {
        let folder = directory.join(Self::FOLDER);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &folder)(error))
            }
            _ => Ok(()),
        }
    }

    pub fn parts(&self) -> &[PartLine] {
        &self.parts
    }

    /// The copy of a part, from its beginning.
    pub fn open(&self, part: &PartLine) -> Result<File, AdminError> {
        let path = self.folder.join(&part.name);
        File::open(&path).map_err(failed("read", &path))
    }

    fn begin(directory: &Path, place: OwnedSemaphorePermit) -> Result<Backup, AdminError> {
        Backup::clear(directory)?;
        let folder = directory.join(Self::FOLDER);
        let backup = Backup {
            folder,
            parts: Vec::new(),
            _place: place,
        };
        let made = DirBuilder::new().mode(0o700).create(&backup.folder);
        made.map_err(failed("create", &backup.folder))?;
        Ok(backup)
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // The next start removes it as well.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), "the copies of a backup stay: {error}");
        }
    }
}

/// Copies the audit log; false if there is none, or a damaged one, without which a backup is good all the same.
async fn copy_audit(directory: &Path, into: &Path) -> Result<bool, AdminError> {
    if !directory.join(AuditFile::FILE).exists() {
        return Ok(false);
    }
    match AuditFile::snapshot(directory, into).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_damage() => {
            tracing::error!(%error, "the backup is made without the audit log");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a backup that could take the last space from the message store.
fn check_room(directory: &Path) -> Result<(), AdminError> {
    let mut needed = Backup::MARGIN;
    for part in Part::all_in(directory)? {
        for suffix in ["", "-wal"] {
            let path = directory.join(format!("{}{suffix}", part.name));
            needed += fs::metadata(path).map_or(0, |metadata| metadata.len());
        }
    }
    let room = rustix::fs::statvfs(directory)
        .map_err(|error| failed("ask for the free space of", directory)(error.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < needed {
        return Err(AdminError::NoRoom {
            path: directory.to_owned(),
            needed: needed.div_ceil(1 << 20),
            free: free >> 20,
        });
    }
    Ok(())
}

/// Copies a small file; `false` if there is none.
fn copy(from: &Path, into: &Path, max: u64) -> Result<bool, AdminError> {
    let mut source = match File::open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", from)(error)),
    };
    let length = source.metadata().map_err(failed("read", from))?.len();
    if length > max {
        let large = io::Error::other(format!(
            "it has {length} bytes, far too many: at most {max}"
        ));
        return Err(failed("back up", from)(large));
    }
    if let Some(folder) = into.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("create", folder))?;
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(into);
    let mut target = created.map_err(failed("create", into))?;
    io::copy(&mut source, &mut target).map_err(failed("write", into))?;
    Ok(true)
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> AdminError {
    let path = path.to_owned();
    move |source| AdminError::File {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::admin::Administration;
    use crate::auth::Settings;

    #[tokio::test]
    async fn a_backup_holds_what_is_there_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let admin = Administration::open(path, Settings::default())
            .await
            .unwrap();
        fs::create_dir(path.join("tls")).unwrap();
        fs::write(path.join("tls/ca.pem"), "certificate").unwrap();
        fs::write(path.join("tls/ca.crl"), vec![b'a'; 2 << 20]).unwrap();
        fs::write(path.join("lock"), "1").unwrap();
        fs::create_dir_all(path.join("certificates/main")).unwrap();
        fs::write(path.join("certificates/main/pair.pem"), "pair").unwrap();
        fs::write(path.join("certificates/main/half.new"), "no part").unwrap();
        fs::create_dir(path.join("acme")).unwrap();
        fs::write(path.join("acme/account-0123abcd.json"), "account").unwrap();
        fs::write(path.join("acme/main.json"), "no part").unwrap();
        let backup = admin.backup().await.unwrap();
        let names: Vec<_> = backup.parts().iter().map(|part| &*part.name).collect();
        let expected = [
            Accounts::FILE,
            AuditFile::FILE,
            SecretKey::FILE,
            "tls/ca.pem",
            "tls/ca.crl",
            "certificates/main/pair.pem",
            "acme/account-0123abcd.json",
        ];
        assert_eq!(names, expected);
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode();
        for folder in ["backup.new", "backup.new/certificates/main"] {
            assert_eq!(mode(folder) & 0o777, 0o700);
        }
        assert_eq!(
            io::read_to_string(backup.open(&backup.parts()[3]).unwrap()).unwrap(),
            "certificate"
        );
        let another = admin.backup().await.unwrap_err();
        assert!(matches!(another, AdminError::BackupUnderWay), "{another}");
        drop(backup);
        assert!(!path.join("backup.new").exists());
        admin.backup().await.unwrap();
    }

    #[tokio::test]
    async fn the_next_start_removes_what_an_interrupted_backup_left() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("backup.new/tls");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("ca.key"), "half").unwrap();
        Administration::open(directory.path(), Settings::default())
            .await
            .unwrap();
        assert!(!directory.path().join("backup.new").exists());
    }
}
