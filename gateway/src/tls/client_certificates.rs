//! Which client certificates are good, and whom do they name? The trust of one listener: its CAs,
//! their revocation lists, its list of fingerprints, and the field that holds the name.
//!
//! The same question is asked twice: by rustls in a full handshake ([`ClientTrust::verifier`]), and
//! after every handshake, because a resumed one brings a client's chain back without asking anybody
//! (rule C1). Whether the name may log in is for `auth` to say; live sessions are ended by whoever
//! holds them.

mod all;
mod authority;
mod error;
mod in_force;
mod name;
mod revocation_list;
mod verifier;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use broker_config::{ClientCertificates, Demand, Fingerprint};
use hashbrown::HashSet;
use parking_lot::Mutex;
use rustls::DistinguishedName;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::fingerprint::sha256;
use authority::Authority;
use in_force::InForce;
use revocation_list::ListFile;
use verifier::Verifier;

pub use all::ClientTrusts;
pub use error::ClientCertificateError;

/// The realm of self-signed certificates: the operator vouches for each by its fingerprint, nobody
/// for the name in it.
pub const PINNED_REALM: &str = "pinned";

/// A client certificate that is good at one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// `local` for our own CA, and for what the configuration maps to it (rule I1).
    pub realm: Arc<str>,
    /// `None` where certificates name nobody.
    pub name: Option<Arc<str>>,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
    pub not_after: SystemTime,
    /// As it was presented, leaf first.
    pub chain: Box<[CertificateDer<'static>]>,
}

/// What one listener trusts. Revocation lists and fingerprints are replaced while it is in use.
pub struct ClientTrust {
    listener: Arc<str>,
    settings: ClientCertificates,
    authorities: Vec<Authority>,
    hints: Vec<DistinguishedName>,
    lists: Mutex<Vec<ListFile>>,
    judges: ArcSwap<Judges>,
    fingerprints: ArcSwap<HashSet<[u8; 32]>>,
    /// Grows after each change of what passes.
    generation: AtomicU64,
}

/// Bytes of a certificate with its chain, at most: connections, tickets and TLS sessions keep them.
/// Ten P-256 certificates fit, or four of RSA-4096.
pub const CHAIN_MAX: usize = 8 * 1024;

/// Who decides at the moment.
struct Judges {
    /// Those of each authority, in the same order. All of an authority must agree.
    verifiers: Vec<Vec<Arc<dyn ClientCertVerifier>>>,
    /// Why nobody passes: a revocation list was never read.
    withheld: Option<String>,
}

impl ClientTrust {
    /// Reads CAs and revocation lists of a listener that asks for certificates. A list that cannot
    /// be used is no error: until it can, no certificate passes. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::Missing`] or [`TlsError::Damaged`] for a CA.
    pub fn open(
        listener: &str,
        settings: &ClientCertificates,
        data_directory: &Path,
    ) -> Result<Arc<ClientTrust>, TlsError> {
        let mut authorities = Vec::new();
        let mut lists = Vec::new();
        for (number, ca) in settings.cas.iter().enumerate() {
            let (authority, own_list) = Authority::open(ca, data_directory)?;
            authorities.push(authority);
            lists.extend(own_list.map(|path| ListFile::of_authority(path, number)));
        }
        for path in &settings.crls {
            // The list of our own CA may be named as well.
            if !lists.iter().any(|list| list.path() == path) {
                lists.push(ListFile::new(path.clone()));
            }
        }
        let hints = authorities.iter().flat_map(Authority::subjects).collect();
        let trust = ClientTrust {
            listener: listener.into(),
            settings: settings.clone(),
            authorities,
            hints,
            lists: Mutex::new(lists),
            judges: ArcSwap::from_pointee(Judges {
                verifiers: Vec::new(),
                withheld: Some("it starts".to_owned()),
            }),
            fingerprints: ArcSwap::from_pointee(set(&settings.fingerprints)),
            generation: AtomicU64::new(0),
        };
        trust.refresh(UnixTime::now());
        Ok(Arc::new(trust))
    }

    /// The listener's name in the configuration.
    pub fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    /// What the configuration says, but for the fingerprints, which may have changed since.
    pub fn settings(&self) -> &ClientCertificates {
        &self.settings
    }

    /// Whether a handshake needs a certificate.
    pub fn is_required(&self) -> bool {
        self.settings.demand == Demand::Required
    }

    /// For the rustls configuration of this listener.
    pub fn verifier(self: &Arc<Self>) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Verifier(self.clone()))
    }

    /// Who this chain says its holder is, leaf first. That the holder has the key is the
    /// handshake's proof.
    ///
    /// # Errors
    /// Why it does not pass at this moment.
    pub fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertificate, ClientCertificateError> {
        let (leaf, intermediates) = chain.split_first().ok_or(ClientCertificateError::Missing)?;
        let bytes = chain.iter().map(|one| one.len()).sum();
        if bytes > CHAIN_MAX {
            return Err(ClientCertificateError::TooLong(bytes));
        }
        let fingerprint = sha256(leaf);
        let fingerprints = self.fingerprints.load();
        // Without a CA the list alone counts: an empty one lets nobody pass.
        let all_pass = fingerprints.is_empty() && !self.authorities.is_empty();
        if !all_pass && !fingerprints.contains(&fingerprint) {
            return Err(ClientCertificateError::NotListed(Fingerprint(fingerprint)));
        }
        let (_, x509) =
            X509Certificate::from_der(leaf).map_err(|_| ClientCertificateError::NotX509)?;
        let realm = if self.authorities.is_empty() {
            check_validity(&x509, now)?;
            PINNED_REALM.into()
        } else {
            self.judge(leaf, intermediates, now)?.clone()
        };
        let not_after = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or(0);
        Ok(ClientCertificate {
            realm,
            name: name::of(&x509, self.settings.name)?,
            fingerprint,
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        })
    }

    /// Looks at the revocation lists and takes over what has changed. Whether different
    /// certificates may pass now. Does file I/O.
    pub fn refresh(&self, now: UnixTime) -> bool {
        let mut lists = self.lists.lock();
        let mut changed = false;
        for list in lists.iter_mut() {
            changed |= list.refresh(&self.authorities, now, &self.listener);
        }
        let withheld = lists
            .iter()
            .find(|list| !list.is_loaded())
            .and_then(ListFile::problem)
            .map(str::to_owned);
        let was = self.judges.load();
        if !changed && was.withheld == withheld {
            return false;
        }
        let in_force = InForce::of(&lists);
        for superseded in &in_force.superseded {
            tracing::error!(listener = %self.listener, "the revocation list {superseded}");
        }
        let mut verifiers = Vec::with_capacity(self.authorities.len());
        for (number, authority) in self.authorities.iter().enumerate() {
            let rounds = in_force.rounds(number).into_iter();
            match rounds.map(|lists| authority.verifier(lists)).collect() {
                Ok(verifier) => verifiers.push(verifier),
                // Every list was parsed when it was read; what stays here is what was in force.
                Err(error) => {
                    tracing::error!(listener = %self.listener, %error, "the revocation lists cannot be used; those before stay in force");
                    return false;
                }
            }
        }
        self.judges.store(Arc::new(Judges {
            verifiers,
            withheld,
        }));
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// Another number than before says that what passed may not pass any more. To be read before
    /// asking who passes.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Replaces the list of fingerprints. Whether that changed it.
    pub fn list(&self, fingerprints: &[Fingerprint]) -> bool {
        let new = set(fingerprints);
        let changed = new != **self.fingerprints.load();
        if changed {
            self.fingerprints.store(Arc::new(new));
            self.generation.fetch_add(1, Ordering::Release);
        }
        changed
    }

    /// Revocation lists that are not as they should be, in words for the operator.
    pub fn problems(&self) -> Vec<String> {
        let lists = self.lists.lock();
        let words = |list: &ListFile| {
            let problem = list.problem()?;
            let consequence = match list.is_loaded() {
                true => "the one before stays in force",
                false => "until it can be read, no client certificate passes",
            };
            Some(format!(
                "listener {:?}: the revocation list {problem}; {consequence}",
                &*self.listener
            ))
        };
        let superseded = InForce::of(&lists).superseded;
        let superseded = superseded.iter().map(|problem| {
            format!(
                "listener {:?}: the revocation list {problem}",
                &*self.listener
            )
        });
        let problems: Vec<String> = lists.iter().filter_map(words).collect();
        problems.into_iter().chain(superseded).collect()
    }

    /// The realm of the first authority that vouches for the chain, if none of the others knows it as
    /// revoked; the words of the last one if none does.
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<&Arc<str>, ClientCertificateError> {
        let judges = self.judges.load();
        if let Some(problem) = &judges.withheld {
            return Err(ClientCertificateError::Withheld(problem.clone()));
        }
        let (mut realm, mut refusal) = (None, None);
        for (authority, verifiers) in self.authorities.iter().zip(&judges.verifiers) {
            match ask(verifiers, leaf, intermediates, now) {
                Ok(()) => realm = realm.or(Some(authority.realm())),
                // Whatever the others say: they may not know its CA's list.
                Err(error) if is_revoked(&error) => {
                    return Err(ClientCertificateError::Refused(error));
                }
                // "Expired" says more than "of an unknown issuer".
                Err(error) if refusal.is_none() || !is_foreign(&error) => refusal = Some(error),
                Err(_) => {}
            }
        }
        let unknown = rustls::CertificateError::UnknownIssuer.into();
        realm.ok_or_else(|| ClientCertificateError::Refused(refusal.unwrap_or(unknown)))
    }
}

/// What the verifiers of one authority say together: "revoked" if one says so.
fn ask(
    verifiers: &[Arc<dyn ClientCertVerifier>],
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let mut verdict = Ok(());
    for verifier in verifiers {
        let said = verifier.verify_client_cert(leaf, intermediates, now);
        if verdict.is_ok() || said.as_ref().is_err_and(is_revoked) {
            verdict = said.map(drop);
        }
        if verdict.as_ref().is_err_and(is_revoked) {
            break;
        }
    }
    verdict
}

fn is_revoked(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked)
    )
}

fn is_foreign(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
    )
}

/// What a CA's verifier would check, for a certificate that has none.
fn check_validity(x509: &X509Certificate<'_>, now: UnixTime) -> Result<(), ClientCertificateError> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let error = if now > x509.validity().not_after.timestamp() {
        rustls::CertificateError::Expired
    } else if now < x509.validity().not_before.timestamp() {
        rustls::CertificateError::NotValidYet
    } else {
        return Ok(());
    };
    Err(ClientCertificateError::Refused(error.into()))
}

fn set(fingerprints: &[Fingerprint]) -> HashSet<[u8; 32]> {
    fingerprints.iter().map(|one| one.0).collect()
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
