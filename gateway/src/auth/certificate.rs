//! A client certificate as far as a login is concerned: whom it names, and what it suffices for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

/// A client certificate that was verified when its connection began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `local` for our own CA; each foreign CA has one of its own, unless it is mapped (I1).
    pub realm: Arc<str>,
    /// `None`: it opens the door and names nobody.
    pub name: Option<Arc<str>>,
    /// The role of a name that has no account.
    pub role: Arc<str>,
    /// Whether it is enough; otherwise the password of the user that it names is needed as well (I2).
    pub suffices: bool,
    /// Where it was presented: another listener may trust others.
    pub listener: Arc<str>,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: [u8; 32],
    /// The last second of its life (RFC 5280, 4.1.2.5).
    pub not_after: SystemTime,
    /// As it was presented, leaf first. Empty for the login of an earlier process.
    pub chain: Box<[CertificateDer<'static>]>,
}

impl Certificate {
    pub fn has_expired(&self, now: SystemTime) -> bool {
        now >= self.not_after + Duration::from_secs(1)
    }
}
