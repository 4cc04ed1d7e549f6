//! Is this a certificate that can be served? One chain with its private key, loaded, checked and
//! immutable. Which client gets it is [`super::Certificates`]' part.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::chain::{self, ChainLink, KeyKind};
use super::pem::{self, CertificateFacts};
use super::{SubjectName, TlsError, fingerprint, server_config};

/// Two PEM files: the certificate chain, leaf first, and the private key of the leaf (PKCS#8, SEC1
/// or PKCS#1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSource {
    certificate: PathBuf,
    private_key: PathBuf,
    remedy: &'static str,
    built_in: bool,
}

impl CertificateSource {
    /// The operator's own files.
    pub fn files(certificate: impl Into<PathBuf>, private_key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            private_key: private_key.into(),
            remedy: "put the matching pair there, or remove `certificate` and `private_key` from \
                     the configuration to \
                     use the built-in private CA",
            built_in: false,
        }
    }

    /// Files of the built-in private CA, which the gateway wrote itself.
    pub(super) fn own(certificate: PathBuf, private_key: PathBuf, remedy: &'static str) -> Self {
        Self {
            certificate,
            private_key,
            remedy,
            built_in: true,
        }
    }

    /// The certificate chain's file.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The private key's file.
    pub fn private_key(&self) -> &Path {
        &self.private_key
    }
}

/// A certificate chain with the private key of its leaf.
pub struct Certificate {
    certified_key: Arc<CertifiedKey>,
    links: Vec<ChainLink>,
    leaf: CertificateFacts,
    shown_as: PathBuf,
    built_in: bool,
    schemes: Vec<SignatureScheme>,
    suites: Vec<CipherSuite>,
}

impl Certificate {
    /// Loads the pair and checks that it belongs together. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::Damaged`], [`TlsError::KeyMismatch`], [`TlsError::Chain`] if the
    /// certificates are not in order, or [`TlsError::Exposed`] if everybody can read the key and that
    /// cannot be ended.
    pub fn load(source: &CertificateSource) -> Result<Certificate, TlsError> {
        let chain = pem::read_certificates(&source.certificate, source.remedy)?;
        let private_key = pem::read_private_key(&source.private_key, source.remedy)?;
        let certificate = Self::new(chain, private_key, source)?;
        hide_from_everybody(&source.private_key)?;
        Ok(certificate)
    }

    /// A chain and its key that are in no file yet; `shown_as` is what messages call them.
    ///
    /// # Errors
    /// As for [`load`](Self::load), without [`TlsError::Read`].
    pub fn from_pem(
        chain: &str,
        private_key: &str,
        shown_as: &Path,
    ) -> Result<Certificate, TlsError> {
        Self::parse(chain.as_bytes(), private_key.as_bytes(), shown_as)
    }

    /// A file of the gateway's own that holds both.
    ///
    /// # Errors
    /// As for [`from_pem`](Self::from_pem).
    pub(super) fn from_own(pair: &[u8], path: &Path) -> Result<Certificate, TlsError> {
        Self::parse(pair, pair, path)
    }

    fn parse(chain: &[u8], private_key: &[u8], shown_as: &Path) -> Result<Self, TlsError> {
        let source = CertificateSource {
            remedy: "remove it, and it is issued again",
            ..CertificateSource::files(shown_as, shown_as)
        };
        let chain = pem::parse_certificates(chain, shown_as, source.remedy)?;
        let private_key = pem::parse_private_key(private_key, shown_as, source.remedy)?;
        Self::new(chain, private_key, &source)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        private_key: PrivateKeyDer<'static>,
        source: &CertificateSource,
    ) -> Result<Self, TlsError> {
        let path = &source.certificate;
        let leaf = chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let leaf = CertificateFacts::of(leaf, path, source.remedy)?;
        let links = chain::read(&chain, path, source.remedy)?;
        let certified_key = CertifiedKey::from_der(chain, private_key, &server_config::provider())
            .map_err(|error| source.explain(error))?;
        let algorithm = certified_key.key.algorithm();
        Ok(Self {
            schemes: schemes(&certified_key),
            suites: suites(algorithm),
            certified_key: Arc::new(certified_key),
            links,
            leaf,
            shown_as: path.clone(),
            built_in: source.built_in,
        })
    }

    /// Checks that every certificate of the chain is valid at `now`; that key and chain fit was
    /// checked when it was loaded.
    ///
    /// # Errors
    /// [`TlsError::NotValid`].
    pub fn check(&self, now: SystemTime) -> Result<(), TlsError> {
        for (index, link) in self.links.iter().enumerate() {
            let of = match index {
                0 => String::new(),
                _ => format!("has an issuer ({}) that ", link.subject),
            };
            let (problem, remedy) = if let Ok(since) = now.duration_since(link.not_after)
                && !since.is_zero()
            {
                let days = since.as_secs() / 86_400;
                let problem = format!("{of}expired {days} days ago");
                (problem, "renew it, or set the system clock")
            } else if let Ok(left) = link.not_before.duration_since(now)
                && !left.is_zero()
            {
                let hours = left.as_secs() / 3_600;
                let problem = format!("{of}is not valid for another {hours} hours");
                (problem, "set the system clock")
            } else {
                continue;
            };
            return Err(TlsError::NotValid {
                path: self.shown_as.clone(),
                problem,
                remedy,
            });
        }
        Ok(())
    }

    /// Whether it is for all of these names. A wildcard stands for exactly one label (RFC 9525, 6.3).
    pub fn covers(&self, names: &BTreeSet<SubjectName>) -> bool {
        names.iter().all(|name| self.covers_one(name))
    }

    fn covers_one(&self, name: &SubjectName) -> bool {
        let wildcard = || match name {
            SubjectName::Dns(name) => match name.split_once('.') {
                Some((first, parent)) if first != "*" => self
                    .names()
                    .contains(&SubjectName::Dns(format!("*.{parent}"))),
                _ => false,
            },
            SubjectName::Ip(_) => false,
        };
        self.names().contains(name) || wildcard()
    }

    /// DNS names and IP addresses of the leaf's subject alternative names.
    pub fn names(&self) -> &BTreeSet<SubjectName> {
        &self.leaf.names
    }

    /// When the leaf begins to be valid.
    pub fn not_before(&self) -> SystemTime {
        chain::system_time(self.leaf.not_before)
    }

    /// When the leaf ends.
    pub fn not_after(&self) -> SystemTime {
        chain::system_time(self.leaf.not_after)
    }

    /// Every certificate, leaf first.
    pub fn chain(&self) -> &[ChainLink] {
        &self.links
    }

    /// Octets of all certificates in DER, as the Certificate message carries them (RFC 8446, 4.4.2),
    /// without its length fields.
    pub fn chain_bytes(&self) -> usize {
        self.links.iter().map(|link| link.bytes).sum()
    }

    /// Certificates in the chain, the leaf included.
    pub fn depth(&self) -> usize {
        self.links.len()
    }

    /// The kind of the leaf's key.
    pub fn key_kind(&self) -> KeyKind {
        self.links.first().map_or(KeyKind::Other, |leaf| leaf.key)
    }

    /// SHA-256 of the leaf in DER.
    pub fn sha256(&self) -> [u8; 32] {
        fingerprint::sha256(self.der())
    }

    /// SHA-1 of the leaf in DER: what old devices compare, and good for nothing else.
    pub fn sha1(&self) -> [u8; 20] {
        fingerprint::sha1(self.der())
    }

    /// SHA-256 of the leaf's SubjectPublicKeyInfo in DER (RFC 7469, 2.4): the pin that survives a
    /// renewal with the same key.
    pub fn spki_sha256(&self) -> [u8; 32] {
        fingerprint::sha256(self.public_key())
    }

    /// The leaf's SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.leaf.public_key
    }

    /// What rustls serves.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }

    /// What messages call it: the file of its chain.
    pub fn shown_as(&self) -> &Path {
        &self.shown_as
    }

    /// Whether the built-in private CA issued it for a gateway that has nothing better.
    pub fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// Whether it serves the same certificates.
    pub fn is_same(&self, other: &Certificate) -> bool {
        self.certified_key.cert == other.certified_key.cert
    }

    /// The leaf in DER.
    pub fn der(&self) -> &[u8] {
        self.certified_key.cert.first().map_or(&[], AsRef::as_ref)
    }

    /// Whether a client that offers these can verify what this key signs. In TLS 1.2 the cipher
    /// suite decides too (RFC 8422, 2).
    pub(super) fn suits(&self, schemes: &[SignatureScheme], suites: &[CipherSuite]) -> bool {
        self.schemes.iter().any(|scheme| schemes.contains(scheme))
            && self.suites.iter().any(|suite| suites.contains(suite))
    }

    /// Which of two that a client can verify is the better one: the cheaper and smaller.
    pub(super) fn preference(&self) -> u8 {
        match self.certified_key.key.algorithm() {
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::ED25519 => 1,
            _ => 2,
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("shown_as", &self.shown_as)
            .field("names", self.names())
            .finish_non_exhaustive()
    }
}

/// Takes a key of the operator's away from everybody, with a warning; its group keeps what it has.
///
/// # Errors
/// [`TlsError::Read`] and [`TlsError::Exposed`].
fn hide_from_everybody(path: &Path) -> Result<(), TlsError> {
    let mode = pem::mode(path)?;
    if mode & 0o004 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode & !0o007)).map_err(|source| {
        TlsError::Exposed {
            path: path.to_owned(),
            source,
        }
    })?;
    tracing::warn!(
        path = %path.display(),
        mode = format_args!("{mode:04o}"),
        "everybody on this machine could read the private key; they cannot any more, but consider \
         it known to them"
    );
    Ok(())
}

/// The schemes that a key signs with. Asking a key costs an allocation, so it is asked once.
fn schemes(key: &CertifiedKey) -> Vec<SignatureScheme> {
    server_config::provider()
        .signature_verification_algorithms
        .supported_schemes()
        .into_iter()
        .filter(|scheme| key.key.choose_scheme(&[*scheme]).is_some())
        .collect()
}

fn suites(algorithm: SignatureAlgorithm) -> Vec<CipherSuite> {
    server_config::provider()
        .cipher_suites
        .iter()
        .filter(|suite| suite.usable_for_signature_algorithm(algorithm))
        .map(|suite| suite.suite())
        .collect()
}

impl CertificateSource {
    fn explain(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::KeyMismatch {
                    certificate: self.certificate.clone(),
                    key: self.private_key.clone(),
                    remedy: self.remedy,
                }
            }
            rustls::Error::InvalidCertificate(error) => TlsError::Damaged {
                path: self.certificate.clone(),
                problem: format!("not a usable certificate ({error})"),
                remedy: self.remedy,
            },
            // Kept short on purpose: what a key parser says may quote the key.
            _ => TlsError::Damaged {
                path: self.private_key.clone(),
                problem:
                    "its private key is of no supported kind (ECDSA P-256 to P-521, Ed25519, RSA)"
                        .to_owned(),
                remedy: self.remedy,
            },
        }
    }
}

/// Seconds since 1970; negative before.
pub fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
