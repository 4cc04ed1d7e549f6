//! A certificate authority of the tests' own, which can also sign what a good one would not.

use std::path::Path;
use std::time::{Duration, SystemTime};

use gateway::tls::fingerprint::{hex_with_colons, sha256};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub const DAY: i64 = 86_400;

/// A certificate and its key.
#[derive(Debug)]
pub struct Device {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub pem: String,
    pub key_pem: String,
}

impl Device {
    pub fn of(pem: String, key_pem: String) -> Device {
        Device {
            chain: CertificateDer::pem_slice_iter(pem.as_bytes())
                .collect::<Result<_, _>>()
                .expect("PEM certificates"),
            key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).expect("a PEM key"),
            pem,
            key_pem,
        }
    }

    /// As `postern ca issue device` left it in `folder`.
    pub fn read(folder: &Path, name: &str) -> Device {
        let read = |ending: &str| {
            std::fs::read_to_string(folder.join(format!("{name}.{ending}"))).expect("it was issued")
        };
        Device::of(read("pem"), read("key"))
    }

    /// SHA-256 of the certificate, as `client_fingerprints` takes it.
    pub fn fingerprint(&self) -> String {
        hex_with_colons(&sha256(&self.chain[0]))
    }

    pub fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), &self.pem).expect("written");
        std::fs::write(folder.join(format!("{name}.key")), &self.key_pem).expect("written");
    }
}

/// What a certificate says.
pub struct Wanted {
    pub common_names: Vec<String>,
    pub alternatives: Vec<SanType>,
    /// Seconds from now.
    pub begins: i64,
    /// Seconds from now.
    pub ends: i64,
    pub usage: ExtendedKeyUsagePurpose,
    pub serial: u64,
}

impl Wanted {
    pub fn called(name: &str) -> Wanted {
        Wanted {
            common_names: vec![name.to_owned()],
            alternatives: Vec::new(),
            begins: -DAY,
            ends: DAY,
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            serial: 7,
        }
    }

    pub fn for_seconds(self, begins: i64, ends: i64) -> Wanted {
        Wanted {
            begins,
            ends,
            ..self
        }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        // Of each type the library keeps the last: the second name is of a type that it does not know.
        let types = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
        for (kind, name) in types.into_iter().zip(&self.common_names) {
            parameters.distinguished_name.push(kind, name.as_str());
        }
        parameters.subject_alt_names = self.alternatives.clone();
        parameters.not_before = from_now(self.begins).into();
        parameters.not_after = from_now(self.ends).into();
        parameters.extended_key_usages = vec![self.usage.clone()];
        parameters.serial_number = Some(SerialNumber::from(self.serial));
        parameters
    }

    /// Signed by nobody but itself.
    pub fn self_signed(&self) -> Device {
        let key = KeyPair::generate().expect("a key");
        let certificate = self.parameters().self_signed(&key).expect("signed");
        Device::of(certificate.pem(), key.serialize_pem())
    }
}

pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).expect("signed");
        Ca {
            pem: certificate.pem(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// The private CA of a gateway, by its files.
    pub fn of_gateway(data: &Path) -> Ca {
        let read =
            |name: &str| std::fs::read_to_string(data.join("tls").join(name)).expect("there");
        let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
        let pem = read("ca.pem");
        let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("a CA");
        Ca { pem, issuer }
    }

    pub fn sign(&self, wanted: &Wanted) -> Device {
        let key = KeyPair::generate().expect("a key");
        let parameters = wanted.parameters();
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        Device::of(certificate.pem(), key.serialize_pem())
    }

    /// A revocation list in PEM.
    pub fn list(&self, number: u64, revoked: &[u64], begins: i64, ends: i64) -> String {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: from_now(-60).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: from_now(begins).into(),
            next_update: from_now(ends).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&self.issuer).expect("signed");
        signed.pem().expect("PEM")
    }
}

fn from_now(seconds: i64) -> SystemTime {
    let now = SystemTime::now();
    let much = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { now - much } else { now + much }
}
