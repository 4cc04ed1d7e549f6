//! Which certificates did their CA take back? One file with revocation lists (RFC 5280, 5), read
//! again when it changes. A file that cannot be used leaves what was in force before.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::authority::Authority;
use crate::tls::pem;
use crate::tls::private_ca::signing::LIST_MAX;

/// How far the clock of a CA may be ahead of ours, in seconds.
const SKEW: i64 = 300;

/// Seconds within which a file may change twice without a new time stamp, or be half written.
const UNSETTLED: i64 = 3;

pub(super) struct ListFile {
    path: PathBuf,
    /// The authority without whose list the file is of no use.
    owner: Option<usize>,
    seen: Option<Stamp>,
    /// Why the file as it was seen is not in force.
    refused: Option<Unusable>,
    current: Vec<List>,
    /// In words that follow "the revocation list".
    problem: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unusable {
    /// In words that follow "the revocation list".
    problem: String,
    /// Whether it may be usable later without being changed.
    passes: bool,
}

impl From<String> for Unusable {
    fn from(problem: String) -> Unusable {
        Unusable {
            problem,
            passes: false,
        }
    }
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds; of the inode, which no program can set back.
    changed: (i64, i64),
}

/// One list of a file.
#[derive(Debug, Clone)]
pub(super) struct List {
    /// The numbers of the authorities that hold the certificate of who signed it: the same CA may be
    /// in two entries, each of which must hear of it.
    pub(super) authorities: Vec<usize>,
    pub(super) der: CertificateRevocationListDer<'static>,
    /// CRLNumber (RFC 5280, 5.2.3), big-endian, if it has one.
    number: Option<Vec<u8>>,
    /// Seconds since 1970.
    this_update: i64,
    /// Seconds since 1970.
    next_update: i64,
    pub(super) issuer: Vec<u8>,
    /// IssuingDistributionPoint (RFC 5280, 5.2.5) in DER; empty if it speaks of all certificates.
    scope: Vec<u8>,
}

impl ListFile {
    pub(super) fn new(path: PathBuf) -> ListFile {
        ListFile {
            problem: Some(format!("{} was not read yet", path.display())),
            path,
            owner: None,
            seen: None,
            refused: None,
            current: Vec::new(),
        }
    }

    /// The file of one authority: lists of others alone do not make it whole.
    pub(super) fn of_authority(path: PathBuf, authority: usize) -> ListFile {
        ListFile {
            owner: Some(authority),
            ..ListFile::new(path)
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was ever read.
    pub(super) fn is_loaded(&self) -> bool {
        !self.current.is_empty()
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn lists(&self) -> &[List] {
        &self.current
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
        if !self.is_to_be_read(stamp, clock()) {
            if self.refused.is_none() {
                let ended = self.current.iter().find(|list| list.next_update < now);
                let problem = ended.map(|list| self.ended(list.next_update, now));
                self.report(problem, listener);
            }
            return false;
        }
        self.seen = stamp;
        match self.read(authorities, now) {
            Ok(lists) => {
                let changed = !same(&lists, &self.current);
                self.current = lists;
                self.refused = None;
                if changed {
                    tracing::info!(%listener, path = %self.path.display(), "a revocation list is in force");
                }
                self.report(None, listener);
                changed
            }
            Err(unusable) => {
                self.report(Some(unusable.problem.clone()), listener);
                self.refused = Some(unusable);
                false
            }
        }
    }

    /// Whether a look at the file may tell something new. A large one takes a while to parse.
    fn is_to_be_read(&self, stamp: Option<Stamp>, clock: i64) -> bool {
        let Some(stamp) = stamp.filter(|stamp| self.seen == Some(*stamp)) else {
            return true;
        };
        let unsettled = (clock - stamp.changed.0).abs() <= UNSETTLED;
        self.refused
            .as_ref()
            .is_some_and(|unusable| unusable.passes || unsettled)
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

    /// All lists of the file, none of which is broken, unsigned or ended; together at least what is
    /// in force.
    fn read(&self, authorities: &[Authority], now: i64) -> Result<Vec<List>, Unusable> {
        let path = self.path.display();
        let contents = pem::read_at_most(&self.path, LIST_MAX).map_err(|error| Unusable {
            problem: match error.kind() {
                io::ErrorKind::NotFound => format!("{path} is missing"),
                _ => format!("{path} cannot be read: {error}"),
            },
            passes: true,
        })?;
        let ders = split(contents).ok_or_else(|| format!("{path} is neither PEM nor DER"))?;
        if ders.is_empty() {
            return Err(format!("{path} holds no revocation list").into());
        }
        let mut lists = Vec::with_capacity(ders.len());
        for der in ders {
            lists.push(self.check(der, authorities, now)?);
        }
        if let Some(owner) = self.owner
            && !lists.iter().any(|list| list.authorities.contains(&owner))
        {
            return Err(format!("{path} holds no list of the CA that the file belongs to").into());
        }
        self.check_nothing_is_lost(&lists)?;
        Ok(lists)
    }

    /// Whoever can put an old list there, or none, must not bring revoked certificates back.
    fn check_nothing_is_lost(&self, lists: &[List]) -> Result<(), Unusable> {
        let path = self.path.display();
        for before in &self.current {
            let mut of_scope = lists.iter().filter(|list| list.is_of_the_scope_of(before));
            if of_scope.clone().next().is_none() {
                let problem = format!(
                    "{path} lacks the list of a CA that is in force; put it back, or restart the gateway if it is to go"
                );
                return Err(problem.into());
            }
            if of_scope.all(|list| before.is_newer_than(list)) {
                return Err(format!("{path} is older than the one in force").into());
            }
        }
        Ok(())
    }

    fn check(
        &self,
        der: CertificateRevocationListDer<'static>,
        authorities: &[Authority],
        now: i64,
    ) -> Result<List, Unusable> {
        let path = self.path.display();
        let parsed = match CertificateRevocationList::from_der(&der) {
            Ok(([], parsed)) => parsed,
            _ => return Err(format!("{path} is not a revocation list").into()),
        };
        let all = authorities.iter().enumerate();
        let signers: Vec<usize> = all
            .filter(|(_, one)| one.signed(&parsed))
            .map(|(number, _)| number)
            .collect();
        let Some(first) = signers.first() else {
            return Err(format!("{path} was signed by no CA of client_cas").into());
        };
        let this_update = parsed.last_update().timestamp();
        let Some(next_update) = parsed.next_update().map(|time| time.timestamp()) else {
            return Err(format!("{path} does not say when it ends (nextUpdate)").into());
        };
        if this_update > now + SKEW {
            return Err(Unusable {
                problem: format!("{path} is of the future; check the clock"),
                passes: true,
            });
        }
        if next_update < now {
            return Err(self.ended(next_update, now).into());
        }
        // Indirect lists and those of some reasons only are refused by rustls.
        authorities[*first]
            .verifier(vec![der.clone()])
            .map_err(|error| format!("{path} is of a kind that is not supported ({error})"))?;
        let scope = parsed
            .extensions()
            .iter()
            .find(|one| one.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT)
            .map(|one| one.value.to_vec());
        Ok(List {
            number: parsed.crl_number().map(|number| number.to_bytes_be()),
            this_update,
            next_update,
            issuer: parsed.issuer().as_raw().to_vec(),
            scope: scope.unwrap_or_default(),
            authorities: signers,
            der,
        })
    }
}

impl List {
    /// Of the same CA, about the same certificates: of two such lists one counts.
    pub(super) fn is_of_the_scope_of(&self, other: &List) -> bool {
        (&self.authorities, &self.issuer, &self.scope)
            == (&other.authorities, &other.issuer, &other.scope)
    }

    /// Than one of its scope, by its number: clocks go back, numbers do not.
    pub(super) fn is_newer_than(&self, other: &List) -> bool {
        match (&self.number, &other.number) {
            (Some(one), Some(two)) if one != two => (one.len(), one) > (two.len(), two),
            _ => self.this_update > other.this_update,
        }
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

fn clock() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_is_read_again_only_if_it_changed_or_may_have_become_usable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("list");
        fs::write(&path, "no list").unwrap();
        let mut file = ListFile::new(path.clone());
        file.refresh(&[], UnixTime::now(), "mqtts");
        let stamp = Stamp::of(&path);
        let written = stamp.unwrap().changed.0;
        assert!(file.is_to_be_read(stamp, written + 1), "half written");
        assert!(!file.is_to_be_read(stamp, written + 60));
        fs::write(&path, "another").unwrap();
        assert!(file.is_to_be_read(None, written + 60), "gone");
        fs::write(&path, "longer than it was").unwrap();
        assert!(file.is_to_be_read(Stamp::of(&path), written + 60));
        let refused = file.refused.as_mut().unwrap();
        refused.passes = true;
        assert!(file.is_to_be_read(stamp, written + 60), "of the future");
    }
}
