//! What does the private CA sign besides the gateway's own certificate? Certificates for devices
//! and other servers, and the list of revoked ones (RFC 5280, 5). Which were issued is kept by
//! `store`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevocationReason,
    RevokedCertParams, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, X509Certificate, X509CertificationRequest,
};

use super::{
    BACKDATE, Ca, DAY, PrivateCa, check_clock, common_name, leaf_parameters, serial_number,
    system_time, unix_seconds,
};
use crate::tls::fingerprint::{hex, sha1, sha256};
use crate::tls::pem;
use crate::tls::{SubjectName, TlsError, atomic_file};

/// How long a revocation list holds. A gateway that is off for as long signs a new one when it
/// starts; others who use the list must fetch it more often than this.
pub const LIST_LIFETIME: i64 = 7 * DAY;
/// Bytes of the file with a revocation list, at most: about 300,000 revocations. No gateway reads a
/// longer one.
pub const LIST_MAX: u64 = 16 << 20;
/// The longest subject that X.509 has room for (ub-common-name), in characters.
const COMMON_NAME_MAX: usize = 64;
const LIST_REMEDY: &str = "remove it: it is signed anew";

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A client with this name (TLS client authentication).
    Device(String),
    /// A server with these names (TLS server authentication); the first is its subject.
    Server(Vec<SubjectName>),
}

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub pem: String,
    /// Hexadecimal, lower case.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Seconds since 1970.
    pub not_after: i64,
}

/// A certificate of this CA, wherever it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    pub serial: String,
    pub fingerprint: [u8; 32],
    pub not_after: i64,
    /// Its common name.
    pub name: String,
    /// For servers, by its extended key usage.
    pub is_server: bool,
}

/// One entry of a revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub at: i64,
    /// RFC 5280, 5.3.1.
    pub reason: u8,
}

/// What there is to know of the CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFacts {
    pub pem: String,
    pub path: PathBuf,
    /// SHA-256 of its public key, in hexadecimal: what the register calls it.
    pub id: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

impl PrivateCa {
    /// The CA of a data directory, for signing. Nothing is made, read or renewed yet.
    pub fn at(data_directory: &Path) -> PrivateCa {
        PrivateCa {
            directory: data_directory.join("tls"),
            names: BTreeSet::new(),
        }
    }

    /// Makes the CA if there is none; whether there was none. Does file I/O.
    ///
    /// # Errors
    /// As for [`PrivateCa::open`].
    pub fn init(&self) -> Result<bool, TlsError> {
        let now = unix_seconds(SystemTime::now());
        let made = !self.ca_certificate().exists();
        atomic_file::ensure_directory(&self.directory)?;
        self.ensure_ca(now)?;
        self.read_ca(now)?;
        Ok(made)
    }

    /// What there is to know of the CA; `None` if there is none. Does not read its key.
    ///
    /// # Errors
    /// [`TlsError::Read`] and [`TlsError::Damaged`].
    pub fn facts(&self) -> Result<Option<CaFacts>, TlsError> {
        let path = self.ca_certificate();
        if !path.exists() {
            return Ok(None);
        }
        let certificate = pem::read_certificates(&path, super::CA_REMEDY)?.swap_remove(0);
        let facts = pem::CertificateFacts::of(&certificate, &path, super::CA_REMEDY)?;
        Ok(Some(CaFacts {
            pem: to_pem("CERTIFICATE", &certificate),
            path,
            id: hex(&sha256(&facts.public_key)),
            not_after: facts.not_after,
        }))
    }

    /// Signs a certificate for whoever made this request (PKCS #10 in PEM). Of the request only the
    /// public key counts, and that its signature proves the private one. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Request`] for the request, the name or the time; otherwise as for
    /// [`PrivateCa::open`].
    pub fn sign(&self, holder: &Holder, days: u32, request: &str) -> Result<Issued, TlsError> {
        let now = unix_seconds(SystemTime::now());
        check_clock(now)?;
        let ca = self.read_ca(now)?;
        let key = public_key(request)?;
        let end = (now + i64::from(days) * DAY).min(ca.facts.not_after);
        let mut parameters = match holder {
            Holder::Server(names) => {
                let first = names.first().map(subject).unwrap_or_default();
                let names: BTreeSet<_> = names.iter().cloned().collect();
                let mut parameters = leaf_parameters(&names, now, end)?;
                // A longer name stands in the alternative names only, where clients look.
                if first.chars().count() <= COMMON_NAME_MAX {
                    parameters.distinguished_name = common_name(&first);
                }
                parameters
            }
            Holder::Device(name) => device_parameters(name)?,
        };
        parameters.not_before = system_time(now - BACKDATE).into();
        parameters.not_after = system_time(end).into();
        let issuer = Issuer::from_ca_cert_der(&ca.certificate, &ca.key)?;
        let certificate = parameters.signed_by(&key, &issuer)?;
        let serial = parameters
            .serial_number
            .map(|serial| serial_number_text(serial.as_ref()));
        Ok(Issued {
            pem: certificate.pem(),
            serial: serial.unwrap_or_default(),
            fingerprint: sha256(certificate.der()),
            not_after: end,
        })
    }

    /// What a certificate in PEM or DER says, if it is one of this CA. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Request`] if it is not; otherwise as for [`PrivateCa::facts`].
    pub fn recognise(&self, certificate: &[u8]) -> Result<Recognised, TlsError> {
        let refuse = |problem: &str| TlsError::Request(problem.to_owned());
        let der = match CertificateDer::from_pem_slice(certificate) {
            Ok(der) => der,
            Err(_) => CertificateDer::from(certificate.to_vec()),
        };
        let (_, x509) = X509Certificate::from_der(&der)
            .map_err(|_| refuse("this is no certificate; give one in PEM or DER"))?;
        let path = self.ca_certificate();
        let own = pem::read_certificates(&path, super::CA_REMEDY)?.swap_remove(0);
        let (_, ca) = X509Certificate::from_der(&own)
            .map_err(|_| refuse("the certificate of the private CA cannot be read"))?;
        if x509.verify_signature(Some(ca.public_key())).is_err() {
            return Err(refuse(
                "the private CA of this gateway did not issue this certificate",
            ));
        }
        let name = x509.subject().iter_common_name().next();
        let usage = x509.extended_key_usage().ok().flatten();
        Ok(Recognised {
            serial: serial_number_text(x509.raw_serial()),
            fingerprint: sha256(&der),
            not_after: x509.validity().not_after.timestamp(),
            name: name
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            is_server: usage.is_some_and(|usage| usage.value.server_auth),
        })
    }

    /// Whether the revocation list is missing, unreadable, or past half of its life. Does file I/O.
    pub fn list_is_due(&self) -> bool {
        let now = unix_seconds(SystemTime::now());
        let Ok(Some(text)) = self.revocation_list() else {
            return true;
        };
        let Ok((_, contents)) = x509_parser::pem::parse_x509_pem(text.as_bytes()) else {
            return true;
        };
        let Ok((_, list)) = CertificateRevocationList::from_der(&contents.contents) else {
            return true;
        };
        let end = list.next_update().map_or(0, |end| end.timestamp());
        // A list of the future is none either: the clock was wrong when it was signed.
        let begin = list.last_update().timestamp();
        let ours = self.facts().ok().flatten().is_some_and(|ca| {
            x509_parser::pem::parse_x509_pem(ca.pem.as_bytes()).is_ok_and(|(_, pem)| {
                X509Certificate::from_der(&pem.contents)
                    .is_ok_and(|(_, ca)| list.verify_signature(ca.public_key()).is_ok())
            })
        });
        !ours || begin > now + 300 || end - now < LIST_LIFETIME / 2
    }

    /// Signs the list of revoked certificates and puts it into place. Does file I/O.
    ///
    /// # Errors
    /// As for [`PrivateCa::open`], and [`TlsError::Request`] for a list that has more than
    /// [`LIST_MAX`] bytes: the one before stays.
    pub fn sign_list(&self, number: u64, revoked: &[Revoked]) -> Result<(), TlsError> {
        let now = unix_seconds(SystemTime::now());
        check_clock(now)?;
        let ca: Ca = self.read_ca(now)?;
        let issuer = Issuer::from_ca_cert_der(&ca.certificate, &ca.key)?;
        let mut entries = Vec::with_capacity(revoked.len());
        for one in revoked {
            let serial = octets(&one.serial).ok_or_else(|| {
                TlsError::Request(format!("{:?} is no serial number", one.serial))
            })?;
            entries.push(RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: system_time(one.at).into(),
                reason_code: reason(one.reason),
                invalidity_date: None,
            });
        }
        let list = CertificateRevocationListParams {
            this_update: system_time(now).into(),
            next_update: system_time(now + LIST_LIFETIME).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&issuer)?;
        let text = list.pem()?;
        check_list_length(text.len() as u64, revoked.len())?;
        atomic_file::replace(&self.revocation_list_path(), text.as_bytes(), 0o644)
    }

    /// The revocation list in PEM; `None` if there is none yet. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Read`] and [`TlsError::Damaged`].
    pub fn revocation_list(&self) -> Result<Option<String>, TlsError> {
        let path = self.revocation_list_path();
        if !path.exists() {
            return Ok(None);
        }
        let text = pem::read_at_most(&path, LIST_MAX).map_err(|source| TlsError::Read {
            path: path.clone(),
            source,
        })?;
        let damaged = |_| TlsError::Damaged {
            path,
            problem: "it is not PEM".to_owned(),
            remedy: LIST_REMEDY,
        };
        String::from_utf8(text).map(Some).map_err(damaged)
    }

    /// Where the list of revoked certificates is.
    pub fn revocation_list_path(&self) -> PathBuf {
        self.directory.join("ca.crl")
    }
}

pub(super) fn check_list_length(bytes: u64, entries: usize) -> Result<(), TlsError> {
    if bytes <= LIST_MAX {
        return Ok(());
    }
    Err(TlsError::Request(format!(
        "the revocation list would have {bytes} bytes with its {entries} certificates, and {LIST_MAX} at most are \
         read; the one before stays in force. Begin a new private CA"
    )))
}

/// A new private key and the request for its certificate, made where the key is to be.
pub struct KeyRequest {
    /// PKCS #8, PEM.
    pub key_pem: String,
    /// PKCS #8, DER.
    pub key_der: Vec<u8>,
    /// PKCS #10, PEM.
    pub request: String,
}

impl KeyRequest {
    /// A P-256 key: what microcontrollers can do, some of them in hardware.
    ///
    /// # Errors
    /// [`TlsError::Issue`] if the random number generator fails.
    pub fn generate() -> Result<KeyRequest, TlsError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(KeyRequest {
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
            request: request.pem()?,
        })
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

/// The fingerprints of a certificate in PEM, and the pin of its key, as other programs print them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prints {
    /// DER.
    pub certificate: Vec<u8>,
    pub sha256: [u8; 32],
    pub sha1: [u8; 20],
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub pin: [u8; 32],
}

impl Prints {
    /// In base64, as ESPHome, curl (`--pinnedpubkey sha256//…`) and HPKP write it.
    pub fn pin(&self) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        STANDARD.encode(self.pin)
    }

    /// `None`: there is no certificate in it.
    pub fn of(text: &str) -> Option<Prints> {
        let der = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let (_, x509) = X509Certificate::from_der(&der).ok()?;
        Some(Prints {
            sha256: sha256(&der),
            sha1: sha1(&der),
            pin: sha256(x509.public_key().raw),
            certificate: der.to_vec(),
        })
    }
}

fn device_parameters(name: &str) -> Result<CertificateParams, TlsError> {
    let length = name.chars().count();
    if length == 0 || length > COMMON_NAME_MAX {
        return Err(TlsError::Request(format!(
            "the name {name:?} has {length} characters; a certificate has room for \
             1 to {COMMON_NAME_MAX}"
        )));
    }
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = common_name(name);
    // Not NoCa: only then does rcgen write the subject key identifier.
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    parameters.serial_number = Some(serial_number()?);
    Ok(parameters)
}

fn public_key(request: &str) -> Result<SubjectPublicKeyInfo, TlsError> {
    let refuse = |problem: &str| TlsError::Request(problem.to_owned());
    let der = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
        .map_err(|_| refuse("this is no certificate request in PEM (PKCS #10)"))?;
    let (_, parsed) = X509CertificationRequest::from_der(&der)
        .map_err(|_| refuse("the certificate request cannot be read; make it anew"))?;
    parsed.verify_signature().map_err(|_| {
        refuse("the certificate request is not signed by the key in it, or by a method that is not supported")
    })?;
    let key = parsed.certification_request_info.subject_pki.raw;
    SubjectPublicKeyInfo::from_der(key).map_err(|_| {
        refuse(
            "the key of the request is of no supported kind (ECDSA P-256 to P-521, Ed25519, RSA)",
        )
    })
}

fn subject(name: &SubjectName) -> String {
    match name {
        SubjectName::Dns(name) => name.clone(),
        SubjectName::Ip(address) => address.to_string(),
    }
}

/// `Unspecified` is said by saying nothing (RFC 5280, 5.3.1).
fn reason(code: u8) -> Option<RevocationReason> {
    Some(match code {
        1 => RevocationReason::KeyCompromise,
        3 => RevocationReason::AffiliationChanged,
        4 => RevocationReason::Superseded,
        5 => RevocationReason::CessationOfOperation,
        9 => RevocationReason::PrivilegeWithdrawn,
        _ => return None,
    })
}

/// DER in PEM (RFC 7468).
pub fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// The DER of the first PEM section, whatever it is.
pub fn to_der(text: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
    Some(pem.contents)
}

/// Without the zero that keeps a number positive.
fn serial_number_text(octets: &[u8]) -> String {
    let octets = match octets {
        [0, rest @ ..] if !rest.is_empty() => rest,
        octets => octets,
    };
    hex(octets)
}

fn octets(hexadecimal: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    let even = hexadecimal.len().is_multiple_of(2) && !hexadecimal.is_empty();
    even.then(|| hexadecimal.as_bytes().chunks(2).map(pair).collect())?
}
