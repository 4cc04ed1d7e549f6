//! Which certificates did their CA take back? One file with revocation lists (RFC 5280, 5), read
//! again when it changes. A file that cannot be used leaves what was in force before.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::authority::Authority;
use crate::tls::pem;

/// Bytes of a file, at most: half a million revocations.
const FILE_MAX: u64 = 16 << 20;
/// How far the clock of a CA may be ahead of ours, in seconds.
const SKEW: i64 = 300;

pub(super) struct ListFile {
    path: PathBuf,
    seen: Option<Stamp>,
    current: Vec<List>,
    /// In words that follow "the revocation list".
    problem: Option<String>,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds; of the inode, which no program can set back.
    changed: (i64, i64),
}

/// One list that is in force.
#[derive(Clone)]
struct List {
    /// The number of the authority that signed it.
    authority: usize,
    der: CertificateRevocationListDer<'static>,
    /// CRLNumber (RFC 5280, 5.2.3), big-endian, if it has one.
    number: Option<Vec<u8>>,
    /// Seconds since 1970.
    this_update: i64,
    /// Seconds since 1970.
    next_update: i64,
    issuer: Vec<u8>,
}

impl ListFile {
    pub(super) fn new(path: PathBuf) -> ListFile {
        ListFile {
            problem: Some(format!("{} was not read yet", path.display())),
            path,
            seen: None,
            current: Vec::new(),
        }
    }

    /// Whether it was ever read.
    pub(super) fn is_loaded(&self) -> bool {
        !self.current.is_empty()
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn of_authority(
        &self,
        number: usize,
    ) -> impl Iterator<Item = &CertificateRevocationListDer<'static>> {
        self.current
            .iter()
            .filter(move |list| list.authority == number)
            .map(|list| &list.der)
    }

    /// Reads the file if it changed. Whether that put other lists into force.
    pub(super) fn refresh(
        &mut self,
        authorities: &[Authority],
        now: UnixTime,
        listener: &str,
    ) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let stamp = Stamp::of(&self.path);
        // What could not be used may be usable now, if it was only a matter of time.
        if stamp.is_some() && stamp == self.seen && self.problem.is_none() {
            let ended = self.current.iter().find(|list| list.next_update < now);
            let problem = ended.map(|list| self.ended(list.next_update, now));
            self.report(problem, listener);
            return false;
        }
        self.seen = stamp;
        match self.read(authorities, now) {
            Ok(lists) => {
                let changed = !same(&lists, &self.current);
                self.current = lists;
                if changed {
                    tracing::info!(%listener, path = %self.path.display(), "a revocation list is in force");
                }
                self.report(None, listener);
                changed
            }
            Err(problem) => {
                self.report(Some(problem), listener);
                false
            }
        }
    }

    fn report(&mut self, problem: Option<String>, listener: &str) {
        if problem == self.problem {
            return;
        }
        if let Some(problem) = &problem {
            let kept = self.is_loaded();
            tracing::error!(%listener, kept, "the revocation list {problem}");
        }
        self.problem = problem;
    }

    fn ended(&self, next_update: i64, now: i64) -> String {
        let hours = (now - next_update) / 3_600;
        format!(
            "{} ended {hours} hours ago; have its CA sign a new one",
            self.path.display()
        )
    }

    /// All lists of the file, none of which is broken, unsigned, ended or older than what is in
    /// force.
    fn read(&self, authorities: &[Authority], now: i64) -> Result<Vec<List>, String> {
        let path = self.path.display();
        let contents = pem::read_at_most(&self.path, FILE_MAX).map_err(|error| match error {
            error if error.kind() == io::ErrorKind::NotFound => format!("{path} is missing"),
            error => format!("{path} cannot be read: {error}"),
        })?;
        let lists = split(contents).ok_or_else(|| format!("{path} is neither PEM nor DER"))?;
        if lists.is_empty() {
            return Err(format!("{path} holds no revocation list"));
        }
        lists
            .into_iter()
            .map(|der| self.check(der, authorities, now))
            .collect()
    }

    fn check(
        &self,
        der: CertificateRevocationListDer<'static>,
        authorities: &[Authority],
        now: i64,
    ) -> Result<List, String> {
        let path = self.path.display();
        let parsed = match CertificateRevocationList::from_der(&der) {
            Ok(([], parsed)) => parsed,
            _ => return Err(format!("{path} is not a revocation list")),
        };
        let signer = authorities.iter().position(|one| one.signed(&parsed));
        let Some(authority) = signer else {
            return Err(format!("{path} was signed by no CA of client_cas"));
        };
        let this_update = parsed.last_update().timestamp();
        let Some(next_update) = parsed.next_update().map(|time| time.timestamp()) else {
            return Err(format!("{path} does not say when it ends (nextUpdate)"));
        };
        if this_update > now + SKEW {
            return Err(format!("{path} is of the future; check the clock"));
        }
        if next_update < now {
            return Err(self.ended(next_update, now));
        }
        let list = List {
            authority,
            number: parsed.crl_number().map(|number| number.to_bytes_be()),
            this_update,
            next_update,
            issuer: parsed.issuer().as_raw().to_vec(),
            der: der.clone(),
        };
        // Whoever can put an old list there must not bring revoked certificates back.
        if self.current.iter().any(|one| one.is_newer_than(&list)) {
            return Err(format!("{path} is older than the one in force"));
        }
        // Indirect and partial lists are refused by rustls.
        authorities[authority]
            .verifier(std::iter::once(&der))
            .map_err(|error| format!("{path} is of a kind that is not supported ({error})"))?;
        Ok(list)
    }
}

impl List {
    /// Of the same CA, by its number: clocks go back, numbers do not.
    fn is_newer_than(&self, other: &List) -> bool {
        let later = match (&self.number, &other.number) {
            (Some(one), Some(two)) => (one.len(), one) > (two.len(), two),
            _ => self.this_update > other.this_update,
        };
        self.issuer == other.issuer && later
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn same(new: &[List], old: &[List]) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| new.der == old.der)
}

/// All lists of a PEM file, or the one of a DER file. `None`: it is neither.
fn split(contents: Vec<u8>) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    // SEQUENCE: no PEM file begins so.
    if contents.first() == Some(&0x30) {
        return Some(vec![contents.into()]);
    }
    CertificateRevocationListDer::pem_slice_iter(&contents)
        .collect::<Result<_, _>>()
        .ok()
}
