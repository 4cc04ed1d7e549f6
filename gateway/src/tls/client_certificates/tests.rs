use broker_config::{CertificateName, ClientCa};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::*;

const NOW: u64 = 1_800_000_000;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds as u64)
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let directory = tempfile::tempdir().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Ca {
            issuer: Issuer::new(parameters, key),
            directory,
        }
    }

    fn device(&self, name: &str, serial: u64) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        certificate.der().clone()
    }

    fn list(&self, number: u64, revoked: &[u64], begins: i64, ends: i64) -> Vec<u8> {
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(NOW as i64 - 100).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: at(NOW as i64 + begins).into(),
            next_update: at(NOW as i64 + ends).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn put(&self, list: &[u8]) {
        std::fs::write(self.directory.path().join("list"), list).unwrap();
    }

    fn trust(&self) -> Arc<ClientTrust> {
        let settings = ClientCertificates {
            demand: Demand::Required,
            cas: vec![ClientCa::File {
                realm: Some("factory".to_owned()),
                path: self.directory.path().join("ca.pem"),
            }],
            crls: vec![self.directory.path().join("list")],
            ..ClientCertificates::default()
        };
        ClientTrust::open("mqtts", &settings, self.directory.path()).unwrap()
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

#[test]
fn a_list_in_der_or_pem_says_who_does_not_pass_and_a_missing_one_lets_nobody_pass() {
    let ca = Ca::new();
    let (lamp, stove) = (ca.device("lamp", 1), ca.device("stove", 2));
    let trust = ca.trust();
    let of = |device: &CertificateDer<'static>| trust.identify(std::slice::from_ref(device), now());
    assert!(matches!(
        of(&lamp),
        Err(ClientCertificateError::Withheld(_))
    ));
    assert_eq!(trust.problems().len(), 1);

    ca.put(&ca.list(1, &[2], -60, 3600));
    assert!(trust.refresh(now()));
    assert!(!trust.refresh(now()), "nothing changed since");
    let good = of(&lamp).unwrap();
    assert_eq!(
        (&*good.realm, good.name.as_deref()),
        ("factory", Some("lamp"))
    );
    let revoked = of(&stove).unwrap_err().to_string();
    assert!(revoked.contains("Revoked"), "{revoked}");
    assert_eq!(trust.problems(), [""; 0]);

    // In PEM, and two of them in one file: the second adds nothing that the first lacks.
    let other = Ca::new();
    ca.put(&other.list(9, &[], -60, 3600));
    assert!(!trust.refresh(now()));
    assert!(
        trust.problems()[0].contains("signed by no CA"),
        "{:?}",
        trust.problems()
    );
    assert!(of(&stove).is_err(), "the one before stays");
}

#[test]
fn a_list_that_ends_while_it_is_in_force_stays_in_force_and_is_reported() {
    let ca = Ca::new();
    let stove = ca.device("stove", 2);
    ca.put(&ca.list(1, &[2], -60, 3600));
    let trust = ca.trust();
    trust.refresh(now());
    let later = UnixTime::since_unix_epoch(Duration::from_secs(NOW + 7200));
    assert!(!trust.refresh(later));
    assert!(
        trust.problems()[0].contains("ended 1 hours ago"),
        "{:?}",
        trust.problems()
    );
    assert!(trust.identify(&[stove], later).is_err());
}

#[test]
fn bytes_that_are_no_list_are_refused_whatever_they_are() {
    let ca = Ca::new();
    let good = ca.list(1, &[2], -60, 3600);
    ca.put(&good);
    let trust = ca.trust();
    trust.refresh(now());
    for cut in 0..good.len() {
        ca.put(&good[..cut]);
        assert!(!trust.refresh(now()), "{cut}");
        let mut changed = good.clone();
        changed[cut] ^= 0x01;
        ca.put(&changed);
        // A changed bit may leave a list that is the same to us only if it is the same list.
        assert!(!trust.refresh(now()), "{cut}");
        assert!(!trust.problems().is_empty(), "{cut}");
    }
}

#[test]
fn a_chain_that_is_empty_or_no_certificate_is_an_error() {
    let ca = Ca::new();
    ca.put(&ca.list(1, &[], -60, 3600));
    let trust = ca.trust();
    trust.refresh(now());
    assert!(matches!(
        trust.identify(&[], now()),
        Err(ClientCertificateError::Missing)
    ));
    let chain = vec![ca.device("lamp", 1); 40];
    assert!(matches!(
        trust.identify(&chain, now()),
        Err(ClientCertificateError::TooLong(_))
    ));
    let nonsense = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert!(matches!(
        trust.identify(&[nonsense], now()),
        Err(ClientCertificateError::NotX509)
    ));
    assert_eq!(trust.settings().name, CertificateName::Cn);
}
