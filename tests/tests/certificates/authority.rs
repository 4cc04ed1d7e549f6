//! Who issues the certificates of these tests? A CA of their own, made anew for each.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SanType, SignatureAlgorithm,
};

pub struct Authority {
    pub certificate: String,
    parameters: CertificateParams,
    key: KeyPair,
}

/// A chain and the key of its leaf, in PEM.
pub struct Pair {
    pub chain: String,
    pub key: String,
}

/// A little more, so that seven whole days are left for as long as a test takes.
const WEEK: Range<i64> = -86_400..7 * 86_400 + 3_600;
/// Seconds from now, all in the past.
pub const EXPIRED: Range<i64> = -7_200..-3_600;

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "Test CA");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a CA").pem();
        Self {
            certificate,
            parameters,
            key,
        }
    }

    pub fn ecdsa(&self, names: &[&str]) -> Pair {
        self.issue(names, &PKCS_ECDSA_P256_SHA256, WEEK)
    }

    pub fn rsa(&self, names: &[&str]) -> Pair {
        self.issue(names, &PKCS_RSA_SHA256, WEEK)
    }

    pub fn valid(&self, names: &[&str], seconds: Range<i64>) -> Pair {
        self.issue(names, &PKCS_ECDSA_P256_SHA256, seconds)
    }

    fn issue(
        &self,
        names: &[&str],
        kind: &'static SignatureAlgorithm,
        seconds: Range<i64>,
    ) -> Pair {
        let key = KeyPair::generate_for(kind).expect("a key");
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "Test server");
        for name in names {
            parameters.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().expect("a DNS name")),
            });
        }
        parameters.not_before = from_now(seconds.start).into();
        parameters.not_after = from_now(seconds.end).into();
        let issuer = Issuer::from_params(&self.parameters, &self.key);
        let leaf = parameters.signed_by(&key, &issuer).expect("a certificate");
        Pair {
            chain: leaf.pem() + &self.certificate,
            key: key.serialize_pem(),
        }
    }
}

impl Pair {
    /// Writes both files, key first, and gives the lines of a section that names them.
    pub fn write(&self, directory: &Path, name: &str) -> String {
        let (certificate, key) = files(directory, name);
        std::fs::write(&key, &self.key).expect("written");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&key, closed).expect("set");
        std::fs::write(&certificate, &self.chain).expect("written");
        format!("certificate = {certificate:?}\nprivate_key = {key:?}\n")
    }

    /// The text of the leaf, without armour.
    pub fn leaf(&self) -> String {
        first_certificate(&self.chain).expect("a chain has a leaf")
    }
}

/// Where `write` puts a pair.
pub fn files(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let file = |extension: &str| directory.join(format!("{name}.{extension}"));
    (file("pem"), file("key"))
}

/// The base64 of the first certificate in a text.
pub fn first_certificate(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    Some(body.split_whitespace().collect())
}

fn from_now(seconds: i64) -> SystemTime {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    UNIX_EPOCH + Duration::from_secs(now.as_secs().checked_add_signed(seconds).expect("in range"))
}
