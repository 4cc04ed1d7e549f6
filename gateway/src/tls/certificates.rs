//! Which certificate does a listener present right now? Loads and validates a certificate with its
//! key, and swaps it while connections stay up.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::InconsistentKeys;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::pem::{self, CertificateFacts};
use super::{TlsError, server_config};

/// Two PEM files: the certificate chain, leaf first, and the private key of the leaf (PKCS#8, SEC1
/// or PKCS#1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSource {
    certificate: PathBuf,
    private_key: PathBuf,
    remedy: &'static str,
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
        }
    }

    /// Files that the gateway wrote itself.
    pub(super) fn own(certificate: PathBuf, private_key: PathBuf, remedy: &'static str) -> Self {
        Self {
            certificate,
            private_key,
            remedy,
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

/// The certificate that new handshakes get. Cheap to read from every handshake; replaced as a whole
/// by [`reload`].
///
/// [`reload`]: Certificates::reload
pub struct Certificates {
    current: ArcSwap<Loaded>,
}

impl Certificates {
    /// Loads the pair and checks that it belongs together.
    ///
    /// A certificate that has expired or is not valid yet is loaded all the same, with an error in
    /// the log: a gateway that refused to start would also take away what still works.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::Damaged`] or [`TlsError::KeyMismatch`].
    pub fn load(source: &CertificateSource) -> Result<Arc<Self>, TlsError> {
        let loaded = Loaded::from_files(source)?;
        if let Err(error) = loaded.check_validity(source, SystemTime::now()) {
            tracing::error!(%error, "clients that verify certificates will refuse this gateway");
        }
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(loaded),
        }))
    }

    /// Loads and validates the pair, then swaps it in. Open connections keep what they have.
    /// Returns whether the leaf changed.
    ///
    /// # Errors
    /// As for [`load`](Self::load), and [`TlsError::NotValid`] for a certificate outside its
    /// validity. On every error the current certificate stays.
    pub fn reload(&self, source: &CertificateSource) -> Result<bool, TlsError> {
        let loaded = Loaded::from_files(source)?;
        loaded.check_validity(source, SystemTime::now())?;
        let before = self.fingerprint();
        self.current.store(Arc::new(loaded));
        Ok(before != self.fingerprint())
    }

    /// SHA-256 of the current leaf, as `openssl x509 -fingerprint -sha256` prints it.
    pub fn fingerprint(&self) -> String {
        self.current
            .load()
            .certified_key
            .cert
            .first()
            .map(sha256_fingerprint)
            .unwrap_or_default()
    }

    /// When the current leaf ends.
    pub fn not_after(&self) -> SystemTime {
        let seconds = u64::try_from(self.current.load().facts.not_after).unwrap_or(0);
        UNIX_EPOCH + Duration::from_secs(seconds)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified_key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("leaf", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in DER, in upper-case hexadecimal with colons.
pub fn sha256_fingerprint(certificate: &CertificateDer<'_>) -> String {
    let octets: Vec<String> = digest(&SHA256, certificate)
        .as_ref()
        .iter()
        .map(|octet| format!("{octet:02X}"))
        .collect();
    octets.join(":")
}

struct Loaded {
    certified_key: Arc<CertifiedKey>,
    facts: CertificateFacts,
}

impl Loaded {
    fn from_files(source: &CertificateSource) -> Result<Self, TlsError> {
        let chain = pem::read_certificates(&source.certificate, source.remedy)?;
        let leaf = chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let facts = CertificateFacts::of(leaf, &source.certificate, source.remedy)?;
        let private_key = pem::read_private_key(&source.private_key, source.remedy)?;
        if pem::mode(&source.private_key)? & 0o004 != 0 {
            tracing::warn!(
                path = %source.private_key.display(),
                "everybody on this machine can read the private key; `chmod o-rwx` it and \
                 consider replacing it"
            );
        }
        let certified_key = CertifiedKey::from_der(chain, private_key, &server_config::provider())
            .map_err(|error| source.explain(error))?;
        Ok(Self {
            certified_key: Arc::new(certified_key),
            facts,
        })
    }

    fn check_validity(&self, source: &CertificateSource, now: SystemTime) -> Result<(), TlsError> {
        let now = unix_seconds(now);
        let not_valid = |problem, remedy| {
            Err(TlsError::NotValid {
                path: source.certificate.clone(),
                problem,
                remedy,
            })
        };
        if now > self.facts.not_after {
            let days = (now - self.facts.not_after) / 86_400;
            return not_valid(
                format!("expired {days} days ago"),
                "renew it, or set the system clock",
            );
        }
        if now < self.facts.not_before {
            let hours = (self.facts.not_before - now) / 3_600;
            return not_valid(
                format!("is not valid for another {hours} hours"),
                "set the system clock",
            );
        }
        Ok(())
    }
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
pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds)
        }
    }
}
