//! Certificates for tests.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};

use super::*;

/// A CA that issues what a test asks for.
pub(crate) struct Authority {
    certificate: String,
    parameters: CertificateParams,
    key: KeyPair,
}

/// PEM text of a chain and of its leaf's key.
pub(crate) struct Pair {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            parameters,
            key,
        }
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn ecdsa(&self, names: &[&str]) -> Pair {
        self.issue(names, &PKCS_ECDSA_P256_SHA256, DAY_BEFORE..WEEK_AFTER)
    }

    pub fn rsa(&self, names: &[&str]) -> Pair {
        self.issue(names, &PKCS_RSA_SHA256, DAY_BEFORE..WEEK_AFTER)
    }

    /// A certificate that is valid in a range of seconds from now.
    pub fn valid(&self, names: &[&str], seconds: std::ops::Range<i64>) -> Pair {
        self.issue(names, &PKCS_ECDSA_P256_SHA256, seconds)
    }

    fn issue(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        seconds: std::ops::Range<i64>,
    ) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, names[0]);
        parameters.subject_alt_names = names
            .iter()
            .map(|name| match SubjectName::parse(name).unwrap() {
                SubjectName::Dns(name) => SanType::DnsName(name.try_into().unwrap()),
                SubjectName::Ip(address) => SanType::IpAddress(address),
            })
            .collect();
        parameters.not_before = from_now(seconds.start).into();
        parameters.not_after = from_now(seconds.end).into();
        let issuer = Issuer::from_params(&self.parameters, &self.key);
        let leaf = parameters.signed_by(&key, &issuer).unwrap();
        Pair {
            chain: format!("{}{}", leaf.pem(), self.certificate),
            key: key.serialize_pem(),
        }
    }
}

impl Pair {
    pub fn load(&self) -> Result<Certificate, TlsError> {
        Certificate::from_pem(&self.chain, &self.key, Path::new("test.pem"))
    }
}

/// Puts text into a file.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

const DAY_BEFORE: i64 = -86_400;
const WEEK_AFTER: i64 = 7 * 86_400;

fn from_now(seconds: i64) -> SystemTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = now.as_secs().checked_add_signed(seconds).unwrap();
    UNIX_EPOCH + Duration::from_secs(at)
}
