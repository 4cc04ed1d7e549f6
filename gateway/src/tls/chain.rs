//! Do these certificates form a chain, and what does each of them say? Whether a chain is valid now
//! is [`super::Certificate`]'s question; whom clients trust is theirs.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use x509_parser::error::X509Error;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::TlsError;

/// One certificate of a chain, as operators want to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainLink {
    /// The subject's distinguished name (RFC 4514), `CN=mqtt.example.org`; empty where there is none.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// The serial number, in hexadecimal with colons.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    pub key: KeyKind,
    /// Octets of the certificate in DER.
    pub bytes: usize,
}

/// The kind of a public key, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// With the bits of its curve.
    Ecdsa(usize),
    Ed25519,
    /// With the bits of its modulus.
    Rsa(usize),
    /// A kind that no TLS client of ours could use.
    Other,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ecdsa(bits) => write!(f, "ECDSA P-{bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::Other => f.write_str("unknown"),
        }
    }
}

/// Reads every certificate, and checks that each was signed by the next (RFC 5246, 7.4.2), because
/// small clients do not sort.
///
/// # Errors
/// [`TlsError::Damaged`] if one is not X.509, [`TlsError::Chain`] if one was not signed by the next.
pub(super) fn read(
    chain: &[CertificateDer<'_>],
    path: &Path,
    remedy: &'static str,
) -> Result<Vec<ChainLink>, TlsError> {
    let mut links = Vec::with_capacity(chain.len());
    let mut below: Option<X509Certificate<'_>> = None;
    for (index, der) in chain.iter().enumerate() {
        let (_, x509) = X509Certificate::from_der(der).map_err(|error| TlsError::Damaged {
            path: path.to_owned(),
            problem: format!("not an X.509 certificate ({error})"),
            remedy,
        })?;
        if let Some(below) = &below
            && !signed(below, &x509)
        {
            return Err(TlsError::Chain {
                path: path.to_owned(),
                certificate: index,
                issuer: below.issuer().to_string(),
                found: x509.subject().to_string(),
            });
        }
        links.push(ChainLink {
            subject: x509.subject().to_string(),
            issuer: x509.issuer().to_string(),
            serial: x509.raw_serial_as_string(),
            not_before: system_time(x509.validity().not_before.timestamp()),
            not_after: system_time(x509.validity().not_after.timestamp()),
            key: key_kind(&x509),
            bytes: der.len(),
        });
        below = Some(x509);
    }
    Ok(links)
}

fn signed(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    if below.issuer() != above.subject() {
        return false;
    }
    match below.verify_signature(Some(above.public_key())) {
        Ok(()) => true,
        // Names match, and the algorithm is one for clients to judge.
        Err(X509Error::SignatureUnsupportedAlgorithm) => true,
        Err(_) => false,
    }
}

fn key_kind(x509: &X509Certificate<'_>) -> KeyKind {
    const ED25519: &str = "1.3.101.112";
    if x509.public_key().algorithm.algorithm.to_id_string() == ED25519 {
        return KeyKind::Ed25519;
    }
    match x509.public_key().parsed() {
        // Coordinates are whole octets: those of P-521 have 528 bits.
        Ok(PublicKey::EC(point)) => KeyKind::Ecdsa(point.key_size().min(521)),
        // DER puts a zero octet before a modulus whose first bit is set.
        Ok(PublicKey::RSA(key)) => KeyKind::Rsa(key.key_size()),
        _ => KeyKind::Other,
    }
}

/// Times before 1970 become 1970.
pub(super) fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
