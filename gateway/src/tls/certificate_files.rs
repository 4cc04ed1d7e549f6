//! Do we serve what the operator's files hold? Loads certificates from files, and again when the
//! files change. How often they are looked at is the caller's to decide.
//!
//! Files are polled and not watched: what certbot, Kubernetes and others replace is a symbolic link
//! somewhere on the way, which no watch on a file sees.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::certificate::{Certificate, CertificateSource};
use super::certificates::{Certificates, load_for_start};
use super::fingerprint::hex_with_colons;
use super::{SubjectName, TlsError};

/// How long files that changed may be unusable before it is a problem: whoever replaces a pair
/// replaces one file first.
const SETTLE: Duration = Duration::from_secs(5);

/// The slots that are filled from files.
pub struct CertificateFiles {
    certificates: Arc<Certificates>,
    watched: Mutex<BTreeMap<String, Watched>>,
}

/// What a look at the files gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Slots with a new certificate.
    pub installed: u64,
    /// Slots whose files changed to something that cannot be served; each change counts once.
    pub rejected: u64,
}

struct Watched {
    source: CertificateSource,
    /// The files as they were when what is in force was read.
    served: Stamp,
    rejected: Option<Rejected>,
}

struct Rejected {
    stamp: Stamp,
    since: Instant,
    told: bool,
}

impl CertificateFiles {
    /// No files yet.
    pub fn new(certificates: Arc<Certificates>) -> Self {
        Self {
            certificates,
            watched: Mutex::default(),
        }
    }

    /// Fills slots at start. A certificate outside its validity is served all the same, with an
    /// error in the log: a gateway that refused to start would also take away what still works.
    ///
    /// # Errors
    /// As for [`Certificate::load`].
    pub fn start(&self, sources: BTreeMap<String, CertificateSource>) -> Result<(), TlsError> {
        self.replace(sources, |_, source| load_for_start(source))
    }

    /// Takes a changed set of sources and reads all files again: all or nothing.
    ///
    /// # Errors
    /// As for [`Certificate::load`] and [`Certificate::check`]; then nothing has changed.
    pub fn reload(&self, sources: BTreeMap<String, CertificateSource>) -> Result<(), TlsError> {
        self.replace(sources, |slot, source| {
            let certificate = Certificate::load(source)?;
            // One that has expired meanwhile must not stand in the way of other changes.
            if !self.serves(slot, &certificate) {
                certificate.check(SystemTime::now())?;
            }
            Ok(certificate)
        })
    }

    /// Reads the files that changed, validates them, and swaps in what can be served. Anything else
    /// is tried again each time, quietly at first, and is a problem of its slot once it stays.
    pub fn look(&self, now: Instant) -> Changes {
        let mut changes = Changes::default();
        for (slot, watched) in self.watched.lock().iter_mut() {
            let stamp = Stamp::of(&watched.source);
            if stamp == watched.served && watched.rejected.is_none() {
                continue;
            }
            // Read on every look, whatever was told: what stood in the way, such as a validity that
            // begins later or too few file descriptors, may end without a change of the files.
            match self.load_changed(slot, &watched.source) {
                Ok(certificate) => {
                    watched.served = stamp;
                    watched.rejected = None;
                    if self.install(slot, certificate) {
                        changes.installed += 1;
                    }
                }
                Err(error) => {
                    if watched.reject(stamp, now) {
                        changes.rejected += 1;
                        tracing::error!(
                            certificate = slot, %error,
                            "the files of a certificate changed and cannot be served; the one that \
                             was loaded before stays"
                        );
                        let problem = format!("its files cannot be served: {error}");
                        self.certificates.set_problem(slot, Some(problem));
                    }
                }
            }
        }
        changes
    }

    fn load_changed(
        &self,
        slot: &str,
        source: &CertificateSource,
    ) -> Result<Certificate, TlsError> {
        let certificate = Certificate::load(source)?;
        if !self.serves(slot, &certificate) {
            certificate.check(SystemTime::now())?;
        }
        Ok(certificate)
    }

    fn replace(
        &self,
        sources: BTreeMap<String, CertificateSource>,
        load: impl Fn(&str, &CertificateSource) -> Result<Certificate, TlsError>,
    ) -> Result<(), TlsError> {
        let mut watched = self.watched.lock();
        let mut loaded = Vec::with_capacity(sources.len());
        for (slot, source) in sources {
            // Before the read: a change in between is seen by the next look.
            let served = Stamp::of(&source);
            let certificate = load(&slot, &source)?;
            loaded.push((slot, source, served, certificate));
        }
        let before = std::mem::take(&mut *watched);
        for (slot, source, served, certificate) in loaded {
            self.install(&slot, certificate);
            let entry = Watched {
                source,
                served,
                rejected: None,
            };
            watched.insert(slot, entry);
        }
        for slot in before.keys().filter(|slot| !watched.contains_key(*slot)) {
            self.certificates.remove(slot);
            tracing::info!(certificate = slot, "a certificate is not served any more");
        }
        for (served, hidden) in self.certificates.overlaps() {
            tracing::warn!(
                %served, %hidden,
                "two certificates with keys of the same kind are for the same name; only one is served"
            );
        }
        Ok(())
    }

    /// Returns whether it is another one than before.
    fn install(&self, slot: &str, certificate: Certificate) -> bool {
        let before = self.certificates.get(slot);
        let same = self.serves(slot, &certificate);
        let fingerprint = hex_with_colons(&certificate.sha256());
        if let Some(before) = &before {
            let lost: Vec<_> = before
                .names()
                .iter()
                .filter(|name| !certificate.covers(&[(*name).clone()].into()))
                .map(SubjectName::to_string)
                .collect();
            if !lost.is_empty() {
                tracing::warn!(
                    certificate = slot,
                    names = lost.join(", "),
                    "the new certificate is not for these names, which the old one had"
                );
            }
        }
        self.certificates.install(slot, certificate);
        self.certificates.set_problem(slot, None);
        if before.is_some() && !same {
            tracing::info!(certificate = slot, %fingerprint, "new handshakes get a new certificate");
        }
        !same
    }

    fn serves(&self, slot: &str, certificate: &Certificate) -> bool {
        self.certificates
            .get(slot)
            .is_some_and(|served| served.is_same(certificate))
    }
}

impl Watched {
    /// Remembers that the files as they are now cannot be served. Returns whether that is to be told:
    /// once for each state of the files that lasts.
    fn reject(&mut self, stamp: Stamp, now: Instant) -> bool {
        match &mut self.rejected {
            Some(rejected) if rejected.stamp == stamp => {
                let tell = !rejected.told && now.duration_since(rejected.since) >= SETTLE;
                rejected.told |= tell;
                tell
            }
            _ => {
                self.rejected = Some(Rejected {
                    stamp,
                    since: now,
                    told: false,
                });
                false
            }
        }
    }
}

/// Whether files are the ones that were read: what changes when contents or a symbolic link on the
/// way to them do.
#[derive(PartialEq, Eq)]
struct Stamp([Option<[i128; 5]>; 2]);

impl Stamp {
    fn of(source: &CertificateSource) -> Self {
        let file = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            let nanoseconds =
                |seconds: i64, rest: i64| i128::from(seconds) << 32 | i128::from(rest);
            Some([
                found.dev().into(),
                found.ino().into(),
                found.size().into(),
                nanoseconds(found.mtime(), found.mtime_nsec()),
                nanoseconds(found.ctime(), found.ctime_nsec()),
            ])
        };
        Stamp([file(source.certificate()), file(source.private_key())])
    }
}

#[cfg(test)]
#[path = "certificate_files_tests.rs"]
mod tests;
