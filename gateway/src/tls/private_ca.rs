//! Who vouches for a gateway without a public certificate? A private CA in the data directory, and
//! the server certificate that it issues and renews. Serving that certificate is
//! [`super::Certificates`]' part.
//!
//! Four files in `<data directory>/tls/`: `ca.pem` (what clients are given), `ca.key`,
//! `server.pem`, `server.key`. A key is always on disk before the certificate that needs it, and a
//! renewal keeps the key and replaces one file, so that no crash leaves a pair that does not match.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::certificate::unix_seconds;
use super::fingerprint::{hex, sha256};
use super::pem::{self, CertificateFacts};
use super::{CertificateSource, SubjectName, TlsError, atomic_file, server_config};

pub mod signing;

const DAY: i64 = 86_400;
/// Ten years: devices keep `ca.pem` in flash and are seldom visited.
const CA_LIFETIME: i64 = 3_652 * DAY;
/// 397 days in all, the longest that browsers accept from any CA (CA/Browser Forum ballot SC31), so
/// that a page may use MQTT over WebSocket with this certificate.
const LEAF_LIFETIME: i64 = 397 * DAY;
/// Devices without a battery-backed clock may be behind.
const BACKDATE: i64 = DAY;
/// 2025-01-01: a clock before it was never set.
const CLOCK_IS_UNSET_BEFORE: i64 = 1_735_689_600;

const CA_REMEDY: &str = "restore ca.pem and ca.key from a backup, or remove the whole tls \
                         directory to begin a new \
                         private CA (every client then needs the new ca.pem)";
const LEAF_REMEDY: &str = "remove server.pem and server.key and start \
                           again: the private CA issues a new pair that clients trust as before";

/// Why a server certificate was issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// There was none.
    First,
    /// Less than a third of its life is left.
    Age,
    /// It does not cover every wanted name.
    Names,
    /// It was not issued by the present CA.
    Issuer,
    /// It holds from a time that has not come yet.
    Future,
}

impl fmt::Display for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "there was no server certificate",
            Self::Age => "less than a third of its life was left",
            Self::Names => "it did not cover every server name",
            Self::Issuer => "it was not issued by the present private CA",
            Self::Future => "it was not valid yet: the clock was ahead when it was issued",
        })
    }
}

/// The private CA of one data directory, and the names its server certificate must cover.
///
/// The private key of the CA is read from disk when something is issued and is not kept in memory.
#[derive(Debug)]
pub struct PrivateCa {
    directory: PathBuf,
    names: BTreeSet<SubjectName>,
}

impl PrivateCa {
    /// Creates the CA and the server certificate in `<data_directory>/tls/` if they are missing,
    /// checks them, repairs the permissions of keys, and renews the server certificate if it is
    /// due. Does file I/O: not for an async worker.
    ///
    /// `names` comes from [`super::server_names`].
    ///
    /// # Errors
    /// [`TlsError::Damaged`], [`TlsError::Missing`] or [`TlsError::KeyMismatch`] for files that
    /// cannot be used, [`TlsError::NotValid`] for an expired CA, [`TlsError::Clock`] if the clock
    /// was never set, [`TlsError::Read`] and [`TlsError::Write`].
    pub fn open(data_directory: &Path, names: BTreeSet<SubjectName>) -> Result<Self, TlsError> {
        Self::open_at(data_directory, names, SystemTime::now())
    }

    /// [`open`](Self::open) with a given clock.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(
        data_directory: &Path,
        names: BTreeSet<SubjectName>,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let ca = Self {
            directory: data_directory.join("tls"),
            names,
        };
        atomic_file::ensure_directory(&ca.directory)?;
        ca.ensure_ca(unix_seconds(now))?;
        ca.renew_if_due(now)?;
        Ok(ca)
    }

    /// Issues a new server certificate if the present one is due (rule C4): missing, with less than
    /// a third of its life left, not valid yet, without a wanted name, or from another CA. The CA and the server's
    /// private key stay. The caller then calls
    /// [`Certificates::reload`](super::Certificates::reload). Does file I/O.
    ///
    /// # Errors
    /// As for [`open`](Self::open); the files are then as they were.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<Option<Renewal>, TlsError> {
        let now = unix_seconds(now);
        let ca = self.read_ca(now)?;
        let Some(renewal) = self.due(&ca, now)? else {
            return Ok(None);
        };
        self.issue(&ca, now)?;
        let path = self.server_certificate();
        tracing::info!(path = %path.display(), reason = %renewal, "issued a server certificate");
        Ok(Some(renewal))
    }

    /// The server certificate and its key, for [`Certificates`](super::Certificates).
    pub fn source(&self) -> CertificateSource {
        CertificateSource::own(self.server_certificate(), self.server_key(), LEAF_REMEDY)
    }

    /// [`source`](Self::source) of a data directory, whether there is anything in it or not.
    pub fn source_in(data_directory: &Path) -> CertificateSource {
        let ca = Self {
            directory: data_directory.join("tls"),
            names: BTreeSet::new(),
        };
        ca.source()
    }

    /// The file that clients need in order to trust this gateway (`--cafile`).
    pub fn ca_certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Where the CA's certificate is in a data directory.
    pub fn certificate_in(data_directory: &Path) -> PathBuf {
        data_directory.join("tls/ca.pem")
    }

    /// Where the CA's list of revoked certificates is in a data directory.
    pub fn revocation_list_in(data_directory: &Path) -> PathBuf {
        data_directory.join("tls/ca.crl")
    }

    fn ca_key(&self) -> PathBuf {
        self.directory.join("ca.key")
    }

    fn server_certificate(&self) -> PathBuf {
        self.directory.join("server.pem")
    }

    fn server_key(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// A first start that was cut short leaves a key without its certificate: that key is then
    /// used.
    fn ensure_ca(&self, now: i64) -> Result<(), TlsError> {
        if self.ca_certificate().exists() {
            return Ok(());
        }
        check_clock(now)?;
        let key = read_or_create_key(&self.ca_key(), CA_REMEDY)?;
        let certificate = ca_parameters(&key, now)?.self_signed(&key)?;
        atomic_file::replace(&self.ca_certificate(), certificate.pem().as_bytes(), 0o644)?;
        tracing::info!(path = %self.ca_certificate().display(), "created the private CA");
        Ok(())
    }

    fn read_ca(&self, now: i64) -> Result<Ca, TlsError> {
        let path = self.ca_certificate();
        let certificate = pem::read_certificates(&path, CA_REMEDY)?.swap_remove(0);
        let facts = CertificateFacts::of(&certificate, &path, CA_REMEDY)?;
        if !self.ca_key().exists() {
            return Err(TlsError::Missing {
                path: self.ca_key(),
                remedy: CA_REMEDY,
            });
        }
        let key = read_key(&self.ca_key(), CA_REMEDY)?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(TlsError::KeyMismatch {
                certificate: path,
                key: self.ca_key(),
                remedy: CA_REMEDY,
            });
        }
        if now > facts.not_after {
            return Err(TlsError::NotValid {
                path,
                problem: "of the private CA has expired".to_owned(),
                remedy: CA_REMEDY,
            });
        }
        if facts.not_after - now < LEAF_LIFETIME {
            tracing::warn!(
                path = %path.display(),
                days = (facts.not_after - now) / DAY,
                "the private CA ends soon; plan for giving every client a new ca.pem"
            );
        }
        Ok(Ca {
            certificate,
            facts,
            key,
        })
    }

    fn due(&self, ca: &Ca, now: i64) -> Result<Option<Renewal>, TlsError> {
        let path = self.server_certificate();
        if !path.exists() || !self.server_key().exists() {
            return Ok(Some(Renewal::First));
        }
        let leaf = pem::read_certificates(&path, LEAF_REMEDY)?.swap_remove(0);
        let facts = CertificateFacts::of(&leaf, &path, LEAF_REMEDY)?;
        let key = read_key(&self.server_key(), LEAF_REMEDY)?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(TlsError::KeyMismatch {
                certificate: path,
                key: self.server_key(),
                remedy: LEAF_REMEDY,
            });
        }
        // With a clock that was never set, nothing could be issued in its place.
        if facts.not_before > now && now >= CLOCK_IS_UNSET_BEFORE {
            return Ok(Some(Renewal::Future));
        }
        let life = facts.not_after - facts.not_before;
        // When the CA itself ends, a new leaf would end on the same day.
        let renewal_gains = facts.not_after < ca.facts.not_after;
        if (facts.not_after - now) * 3 < life && renewal_gains {
            return Ok(Some(Renewal::Age));
        }
        if !facts.names.is_superset(&self.names) {
            return Ok(Some(Renewal::Names));
        }
        if !ca.issued(&leaf, facts.not_before)? {
            return Ok(Some(Renewal::Issuer));
        }
        Ok(None)
    }

    fn issue(&self, ca: &Ca, now: i64) -> Result<(), TlsError> {
        check_clock(now)?;
        if !self.server_key().exists() {
            // A certificate without its key is of no use, and would not match the new key if we
            // stopped in between.
            remove_if_present(&self.server_certificate())?;
        }
        let key = read_or_create_key(&self.server_key(), LEAF_REMEDY)?;
        let issuer = Issuer::from_ca_cert_der(&ca.certificate, &ca.key)?;
        let parameters = leaf_parameters(&self.names, now, ca.facts.not_after)?;
        let certificate = parameters.signed_by(&key, &issuer)?;
        atomic_file::replace(
            &self.server_certificate(),
            certificate.pem().as_bytes(),
            0o644,
        )
    }
}

struct Ca {
    certificate: CertificateDer<'static>,
    facts: CertificateFacts,
    key: KeyPair,
}

impl Ca {
    /// Whether `leaf` verifies under this CA as a server certificate. `at` is a time at which the
    /// leaf is valid: its age is not the question here.
    fn issued(&self, leaf: &CertificateDer<'_>, at: i64) -> Result<bool, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), server_config::provider())
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        let name = ServerName::try_from("localhost")
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(at.max(self.facts.not_before)).unwrap_or(0),
        ));
        Ok(verifier
            .verify_server_cert(leaf, &[], &name, &[], at)
            .is_ok())
    }
}

fn ca_parameters(key: &KeyPair, now: i64) -> Result<CertificateParams, TlsError> {
    // Named after its key: the name of a CA made again from the same key is the same, and two CAs
    // are told apart.
    let short = hex(&sha256(&key.subject_public_key_info())[..4]);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(&format!("Postern private CA {short}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.serial_number = Some(serial_number()?);
    parameters.not_before = system_time(now - BACKDATE).into();
    parameters.not_after = system_time(now - BACKDATE + CA_LIFETIME).into();
    Ok(parameters)
}

fn leaf_parameters(
    names: &BTreeSet<SubjectName>,
    now: i64,
    ca_not_after: i64,
) -> Result<CertificateParams, TlsError> {
    let mut parameters = CertificateParams::default();
    for name in names {
        parameters.subject_alt_names.push(match name {
            SubjectName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            SubjectName::Ip(address) => SanType::IpAddress(*address),
        });
    }
    parameters.distinguished_name = common_name("Postern");
    // Not NoCa: only then does rcgen write the subject key identifier.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // rcgen's default serial is a digest of the key, which a renewal keeps; (issuer, serial) must
    // be unique.
    parameters.serial_number = Some(serial_number()?);
    let not_before = now - BACKDATE;
    parameters.not_before = system_time(not_before).into();
    parameters.not_after = system_time((not_before + LEAF_LIFETIME).min(ca_not_after)).into();
    Ok(parameters)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// A positive random number of 126 bits (RFC 5280, 4.1.2.2).
fn serial_number() -> Result<SerialNumber, TlsError> {
    let mut octets = [0u8; 16];
    rand::fill(&mut octets).map_err(|_| TlsError::Random)?;
    octets[0] = (octets[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from(octets.to_vec()))
}

fn read_or_create_key(path: &Path, remedy: &'static str) -> Result<KeyPair, TlsError> {
    if path.exists() {
        return read_key(path, remedy);
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    atomic_file::replace(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn read_key(path: &Path, remedy: &'static str) -> Result<KeyPair, TlsError> {
    repair_permissions(path)?;
    let der = pem::read_private_key(path, remedy)?;
    KeyPair::try_from(&der).map_err(|_| TlsError::Damaged {
        path: path.to_owned(),
        problem: "it holds no usable private key".to_owned(),
        remedy,
    })
}

/// Shuts a key of ours to everybody else, with a warning if it was open.
///
/// # Errors
/// [`TlsError::Read`] and [`TlsError::Write`].
pub(super) fn repair_permissions(path: &Path) -> Result<(), TlsError> {
    let mode = pem::mode(path)?;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })?;
    tracing::warn!(
        path = %path.display(),
        mode = format_args!("{mode:04o}"),
        "others could read this private key; its permissions are 0600 now, but consider it \
         known to them"
    );
    Ok(())
}

fn remove_if_present(path: &Path) -> Result<(), TlsError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(TlsError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn check_clock(now: i64) -> Result<(), TlsError> {
    if now < CLOCK_IS_UNSET_BEFORE {
        return Err(TlsError::Clock { unix_seconds: now });
    }
    Ok(())
}

fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests;
