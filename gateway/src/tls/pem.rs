//! What is in these PEM files? Bounded reading of certificate and key files, and the facts of a
//! certificate that the room decides by.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{SubjectName, TlsError};

/// The largest PEM file that is read, in bytes. A chain of ten RSA-4096 certificates has 25 KB.
const MAX_PEM_FILE: u64 = 1 << 20;

/// What the room needs to know of one certificate. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateFacts {
    pub not_before: i64,
    pub not_after: i64,
    /// DNS names and IP addresses of the subject alternative names; other kinds are left out.
    pub names: BTreeSet<SubjectName>,
    /// The SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

impl CertificateFacts {
    /// # Errors
    /// [`TlsError::Damaged`] with `path` and `remedy` if `certificate` is not X.509.
    pub(super) fn of(
        certificate: &CertificateDer<'_>,
        path: &Path,
        remedy: &'static str,
    ) -> Result<Self, TlsError> {
        let damaged = |problem: String| TlsError::Damaged {
            path: path.to_owned(),
            problem,
            remedy,
        };
        let (_, x509) = X509Certificate::from_der(certificate)
            .map_err(|error| damaged(format!("not an X.509 certificate ({error})")))?;
        let alternative_names = x509.subject_alternative_name().map_err(|error| {
            damaged(format!(
                "its subject alternative names cannot be read ({error})"
            ))
        })?;
        let names = alternative_names
            .map(|extension| {
                extension
                    .value
                    .general_names
                    .iter()
                    .filter_map(subject_name)
                    .collect()
            })
            .unwrap_or_default();
        Ok(Self {
            not_before: x509.validity().not_before.timestamp(),
            not_after: x509.validity().not_after.timestamp(),
            names,
            public_key: x509.public_key().raw.to_vec(),
        })
    }
}

/// Reads all certificates of a PEM file, in the order of the file; at least one.
///
/// # Errors
/// [`TlsError::Read`], or [`TlsError::Damaged`] with `remedy`.
pub(super) fn read_certificates(
    path: &Path,
    remedy: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_certificates(&read_bounded(path)?, path, remedy)
}

/// [`read_certificates`] of text that is at hand; `path` is what messages call it.
///
/// # Errors
/// [`TlsError::Damaged`] with `remedy`.
pub(super) fn parse_certificates(
    text: &[u8],
    path: &Path,
    remedy: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let damaged = |problem: String| TlsError::Damaged {
        path: path.to_owned(),
        problem,
        remedy,
    };
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| damaged(format!("not PEM ({error})")))?;
    if chain.is_empty() {
        return Err(damaged("there is no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// Reads the first private key of a PEM file.
///
/// # Errors
/// [`TlsError::Read`], or [`TlsError::Damaged`] with `remedy`; neither quotes the file.
pub(super) fn read_private_key(
    path: &Path,
    remedy: &'static str,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    parse_private_key(&read_bounded(path)?, path, remedy)
}

/// [`read_private_key`] of text that is at hand; `path` is what messages call it.
///
/// # Errors
/// [`TlsError::Damaged`] with `remedy`; it does not quote the text.
pub(super) fn parse_private_key(
    text: &[u8],
    path: &Path,
    remedy: &'static str,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    if find(text, b"BEGIN ENCRYPTED PRIVATE KEY") || find(text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::Damaged {
            path: path.to_owned(),
            problem: "it is encrypted, and nobody types a passphrase at an unattended start"
                .to_owned(),
            remedy: "decrypt it with `openssl pkey -in KEY -out NEWKEY` and protect it by its \
                     permissions",
        });
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|_| TlsError::Damaged {
        path: path.to_owned(),
        problem: "there is no PEM private key in it".to_owned(),
        remedy,
    })
}

/// Reads a regular file of at most 1 MiB.
///
/// # Errors
/// [`TlsError::Read`].
pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_at_most(path, MAX_PEM_FILE).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// What the system says; `FileTooLarge` over `max`, `InvalidInput` for what is not a file.
pub(super) fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Opening a FIFO would block the start for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut contents = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {} MiB", max >> 20),
        ));
    }
    Ok(contents)
}

/// The permission bits of `path`.
///
/// # Errors
/// [`TlsError::Read`].
pub(super) fn mode(path: &Path) -> Result<u32, TlsError> {
    let metadata = fs::metadata(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(metadata.permissions().mode() & 0o7777)
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns(name.to_ascii_lowercase())),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets)
                .ok()
                .map(|octets| SubjectName::Ip(IpAddr::from(octets))),
            16 => <[u8; 16]>::try_from(*octets)
                .ok()
                .map(|octets| SubjectName::Ip(IpAddr::from(octets))),
            _ => None,
        },
        _ => None,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
