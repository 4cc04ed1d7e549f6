//! Where are the certificates that the gateway got by itself, and what did it serve before? Who
//! gets them, and when, is not this file's question.
//!
//! `<data directory>/certificates/NAME/pair.pem` holds private key and chain together, and
//! `previous.pem` the pair before it. One file for both is what makes a pair always match: it is
//! replaced by a rename, so that a crash at any moment leaves the old pair or the new one.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::certificate::Certificate;
use super::{TlsError, atomic_file, pem, private_ca};

/// The certificates of one data directory, by slot. Every method does file I/O: not for an async
/// worker. Whoever writes holds the lock of the data directory.
#[derive(Debug, Clone)]
pub struct CertificateStore {
    directory: PathBuf,
}

impl CertificateStore {
    /// The store of this data directory. Touches nothing.
    pub fn new(data_directory: &Path) -> Self {
        Self {
            directory: data_directory.join(DIRECTORY),
        }
    }

    /// Checks a new pair and keeps it; the present one becomes the previous one. On disk when this
    /// returns. The pair that is present already changes nothing: it comes a second time after a
    /// crash, and must not cost the one before it.
    ///
    /// # Errors
    /// As for [`Certificate::from_pem`] and [`Certificate::check`], [`TlsError::Slot`],
    /// [`TlsError::Read`] and [`TlsError::Write`]. What was served before is then untouched.
    pub fn save(
        &self,
        slot: &str,
        chain: &str,
        private_key: &str,
    ) -> Result<Certificate, TlsError> {
        let place = self.place(slot)?;
        let certificate = Certificate::from_pem(chain, private_key, &place.current)?;
        certificate.check(SystemTime::now())?;
        place.create()?;
        place.settle()?;
        let pair = format!("{}\n{}\n", private_key.trim_end(), chain.trim_end());
        if let Some(current) = place.read(&place.current)? {
            if current == pair.as_bytes() {
                return Ok(certificate);
            }
            atomic_file::replace(&place.previous, &current, MODE)?;
        }
        atomic_file::replace(&place.current, pair.as_bytes(), MODE)?;
        Ok(certificate)
    }

    /// The pair in force, if there is one; one that has expired too.
    ///
    /// # Errors
    /// [`TlsError::Damaged`], [`TlsError::KeyMismatch`] or [`TlsError::Chain`] for a file that
    /// cannot be used, [`TlsError::Read`], [`TlsError::Slot`].
    pub fn load(&self, slot: &str) -> Result<Option<Certificate>, TlsError> {
        let place = self.place(slot)?;
        place.load(&place.current)
    }

    /// The pair before the one in force.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn previous(&self, slot: &str) -> Result<Option<Certificate>, TlsError> {
        let place = self.place(slot)?;
        place.load(&place.previous)
    }

    /// Whether this certificate came from here.
    pub fn holds(&self, certificate: &Certificate) -> bool {
        certificate.shown_as().starts_with(&self.directory)
    }

    /// The private key in force, in PEM, for a renewal that keeps it.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn private_key(&self, slot: &str) -> Result<Option<PrivateKeyPem>, TlsError> {
        let place = self.place(slot)?;
        let Some(text) = place.read(&place.current)? else {
            return Ok(None);
        };
        let begin = find(&text, b"-----BEGIN CERTIFICATE").unwrap_or(text.len());
        let key = String::from_utf8_lossy(&text[..begin]).into_owned();
        Ok(Some(PrivateKeyPem(key)))
    }

    /// Exchanges the present and the previous pair, if the previous one is still valid. A second
    /// rollback undoes the first.
    ///
    /// # Errors
    /// [`TlsError::NoPrevious`], [`TlsError::NotValid`], and as for [`load`](Self::load). The
    /// present pair is then untouched.
    pub fn rollback(&self, slot: &str) -> Result<Certificate, TlsError> {
        let place = self.place(slot)?;
        place.settle()?;
        let missing = || TlsError::NoPrevious {
            slot: slot.to_owned(),
        };
        let previous = place.load(&place.previous)?.ok_or_else(missing)?;
        previous.check(SystemTime::now())?;
        // At each step there is a present pair, and none of the two is lost.
        if present(&place.current)? {
            place.put_aside()?;
        }
        place.rename(&place.previous, &place.current)?;
        place.settle()?;
        place.load(&place.current)?.ok_or_else(missing)
    }

    /// Whether the pair in force is the older one: a rollback stands, and a renewal would undo it.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn is_rolled_back(&self, slot: &str) -> Result<bool, TlsError> {
        let current = self.load(slot)?;
        let Some((current, previous)) = current.zip(self.previous(slot)?) else {
            return Ok(false);
        };
        Ok(current.not_before() < previous.not_before())
    }

    /// The slots that hold something.
    ///
    /// # Errors
    /// [`TlsError::Read`].
    pub fn slots(&self) -> Result<Vec<String>, TlsError> {
        let failed = |source| TlsError::Read {
            path: self.directory.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut slots = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| name_usable(name))
                && present(&self.place(name)?.current)?
            {
                slots.push(name.to_owned());
            }
        }
        slots.sort();
        Ok(slots)
    }

    /// What a backup must hold: paths relative to the data directory.
    ///
    /// # Errors
    /// [`TlsError::Read`].
    pub fn files(&self) -> Result<Vec<String>, TlsError> {
        let mut files = Vec::new();
        for slot in self.slots()? {
            for name in FILES {
                if present(&self.directory.join(&slot).join(name))? {
                    files.push(format!("{DIRECTORY}/{slot}/{name}"));
                }
            }
        }
        Ok(files)
    }

    /// Whether a path relative to the data directory is one of a store's files.
    pub fn is_file(path: &str) -> bool {
        match path.split('/').collect::<Vec<_>>()[..] {
            [DIRECTORY, slot, file] => name_usable(slot) && FILES.contains(&file),
            _ => false,
        }
    }

    fn place(&self, slot: &str) -> Result<Place, TlsError> {
        if !name_usable(slot) {
            return Err(TlsError::Slot {
                slot: slot.to_owned(),
            });
        }
        let directory = self.directory.join(slot);
        Ok(Place {
            current: directory.join(FILES[0]),
            previous: directory.join(FILES[1]),
            aside: directory.join("aside.pem"),
            directory,
        })
    }
}

/// A private key in PEM. Shows itself to nobody who only formats it.
pub struct PrivateKeyPem(String);

impl PrivateKeyPem {
    /// The PEM text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKeyPem(..)")
    }
}

const DIRECTORY: &str = "certificates";
/// The present pair, and the previous one.
const FILES: [&str; 2] = ["pair.pem", "previous.pem"];
const MODE: u32 = 0o600;

/// The files of one slot.
struct Place {
    directory: PathBuf,
    current: PathBuf,
    previous: PathBuf,
    /// There only while a rollback is under way, or after a crash in it.
    aside: PathBuf,
}

impl Place {
    fn create(&self) -> Result<(), TlsError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory);
        made.map_err(|source| TlsError::Write {
            path: self.directory.clone(),
            source,
        })
    }

    /// Ends a rollback that was cut short: the pair that was put aside is the previous one, unless
    /// there is a previous one still.
    fn settle(&self) -> Result<(), TlsError> {
        if !present(&self.aside)? {
            return Ok(());
        }
        if !present(&self.previous)? {
            return self.rename(&self.aside, &self.previous);
        }
        fs::remove_file(&self.aside).map_err(|source| TlsError::Write {
            path: self.aside.clone(),
            source,
        })
    }

    fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, TlsError> {
        if present(file)? {
            return pem::read_bounded(file).map(Some);
        }
        if file == self.previous && present(&self.aside)? {
            return pem::read_bounded(&self.aside).map(Some);
        }
        Ok(None)
    }

    fn load(&self, file: &Path) -> Result<Option<Certificate>, TlsError> {
        let Some(text) = self.read(file)? else {
            return Ok(None);
        };
        if present(file)? {
            private_ca::repair_permissions(file)?;
        }
        Certificate::from_own(&text, file).map(Some)
    }

    /// A link and not a copy: what belongs to a service user stays its own when root goes back.
    fn put_aside(&self) -> Result<(), TlsError> {
        fs::hard_link(&self.current, &self.aside).map_err(|source| TlsError::Write {
            path: self.aside.clone(),
            source,
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), TlsError> {
        let renamed = fs::rename(from, to).and_then(|()| {
            fs::File::open(&self.directory).and_then(|directory| directory.sync_all())
        });
        renamed.map_err(|source| TlsError::Write {
            path: to.to_owned(),
            source,
        })
    }
}

/// # Errors
/// [`TlsError::Read`] if that cannot be told: a file that cannot be seen is not a file that is not
/// there.
fn present(path: &Path) -> Result<bool, TlsError> {
    path.try_exists().map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// A slot's name is a directory's name: the form is that of names in the configuration.
fn name_usable(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
#[path = "certificate_store_tests.rs"]
mod tests;
