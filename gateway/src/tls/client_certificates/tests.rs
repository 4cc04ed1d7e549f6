use broker_config::{CertificateName, ClientCa};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};

use std::path::PathBuf;

use base64::Engine;

use super::*;

const NOW: u64 = 1_800_000_000;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    directory: tempfile::TempDir,
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds as u64)
}

impl Ca {
    fn new() -> Ca {
        Ca::make("CA", None)
    }

    fn make(name: &str, parent: Option<&Ca>) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let directory = tempfile::tempdir().unwrap();
        let certificate = match parent {
            Some(parent) => parameters.signed_by(&key, &parent.issuer).unwrap(),
            None => parameters.self_signed(&key).unwrap(),
        };
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Ca {
            certificate: certificate.der().clone(),
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
        self.list_of(None, number, revoked, (begins, ends))
    }

    /// With a part: the list speaks of the certificates of one distribution point alone.
    fn list_of(
        &self,
        part: Option<&str>,
        number: u64,
        revoked: &[u64],
        (begins, ends): (i64, i64),
    ) -> Vec<u8> {
        let point = |uri: &str| CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: vec![uri.to_owned()],
            },
            scope: None,
        };
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
            issuing_distribution_point: part.map(point),
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn put(&self, list: &[u8]) {
        std::fs::write(self.directory.path().join("list"), list).unwrap();
    }

    fn trust(&self) -> Arc<ClientTrust> {
        open_trust(&[("factory", self)], &[self.directory.path().join("list")])
    }

    /// Puts a list under this name; gives its path.
    fn put_as(&self, name: &str, list: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, list).unwrap();
        path
    }
}

fn open_trust(cas: &[(&str, &Ca)], crls: &[PathBuf]) -> Arc<ClientTrust> {
    let ca = |(realm, ca): &(&str, &Ca)| ClientCa::File {
        realm: Some((*realm).to_owned()),
        path: ca.directory.path().join("ca.pem"),
    };
    let settings = ClientCertificates {
        demand: Demand::Required,
        cas: cas.iter().map(ca).collect(),
        crls: crls.to_vec(),
        ..ClientCertificates::default()
    };
    let trust = ClientTrust::open("mqtts", &settings, Path::new("/")).unwrap();
    trust.refresh(now());
    trust
}

fn pem(lists: &[Vec<u8>]) -> Vec<u8> {
    let one = |list: &Vec<u8>| {
        let text = base64::engine::general_purpose::STANDARD.encode(list);
        let lines: Vec<_> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n",
            lines.join("\n")
        )
    };
    lists.iter().map(one).collect::<String>().into_bytes()
}

fn is_revoked_by(trust: &ClientTrust, chain: &[&CertificateDer<'static>]) -> bool {
    let chain: Vec<_> = chain.iter().map(|one| (*one).clone()).collect();
    match trust.identify(&chain, now()) {
        Ok(_) => false,
        Err(ClientCertificateError::Refused(error)) => is_revoked(&error),
        Err(error) => panic!("{error}"),
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

// C1
#[test]
fn what_one_authority_knows_as_revoked_passes_through_no_other() {
    let root = Ca::make("root", None);
    let issuing = Ca::make("issuing", Some(&root));
    let (lamp, stove) = (issuing.device("lamp", 1), issuing.device("stove", 2));
    let lists = [
        root.put_as("list", &root.list(1, &[], -60, 3600)),
        issuing.put_as("list", &issuing.list(1, &[2], -60, 3600)),
    ];
    let pairs = [("root", &root), ("issuing", &issuing)];
    for cas in [pairs, [pairs[1], pairs[0]]] {
        let trust = open_trust(&cas, &lists);
        assert_eq!(trust.problems(), [""; 0]);
        for chain in [vec![&stove, &issuing.certificate], vec![&stove]] {
            assert!(is_revoked_by(&trust, &chain));
        }
        let good = trust.identify(&[lamp.clone(), issuing.certificate.clone()], now());
        assert_eq!(&*good.unwrap().realm, cas[0].0, "the first that vouches");
    }
}

// C1
#[test]
fn a_ca_in_two_entries_revokes_in_both() {
    let ca = Ca::new();
    let (lamp, stove) = (ca.device("lamp", 1), ca.device("stove", 2));
    let list = ca.put_as("list", &ca.list(1, &[2], -60, 3600));
    let trust = open_trust(&[("a", &ca), ("b", &ca)], &[list]);
    assert!(is_revoked_by(&trust, &[&stove]));
    assert!(!is_revoked_by(&trust, &[&lamp]));
}

// C1
#[test]
fn of_two_lists_of_a_ca_the_newest_counts_wherever_it_is_and_the_other_is_reported() {
    let ca = Ca::new();
    let stove = ca.device("stove", 2);
    let (old, new) = (ca.list(1, &[], -60, 3600), ca.list(2, &[2], -60, 3600));
    let (a, b) = (ca.directory.path().join("a"), ca.directory.path().join("b"));
    for (first, second) in [(&old, &new), (&new, &old)] {
        std::fs::write(&a, first).unwrap();
        std::fs::write(&b, second).unwrap();
        let trust = open_trust(&[("factory", &ca)], &[a.clone(), b.clone()]);
        assert!(is_revoked_by(&trust, &[&stove]));
        let problems = trust.problems();
        assert!(problems[0].contains("not the newest"), "{problems:?}");

        std::fs::write(&a, pem(&[first.clone(), second.clone()])).unwrap();
        let trust = open_trust(&[("factory", &ca)], std::slice::from_ref(&a));
        assert!(is_revoked_by(&trust, &[&stove]));
        assert_eq!(trust.problems().len(), 1);
    }
}

// C1
#[test]
fn a_file_that_loses_a_list_leaves_what_was_in_force() {
    let (one, two) = (Ca::make("one", None), Ca::make("two", None));
    let stove = two.device("stove", 2);
    let lists = [one.list(1, &[], -60, 3600), two.list(1, &[2], -60, 3600)];
    let path = one.put_as("list", &pem(&lists));
    let trust = open_trust(&[("one", &one), ("two", &two)], std::slice::from_ref(&path));
    assert!(is_revoked_by(&trust, &[&stove]));
    std::fs::write(&path, pem(&lists[..1])).unwrap();
    assert!(!trust.refresh(now()));
    let problems = trust.problems();
    assert!(problems[0].contains("lacks the list"), "{problems:?}");
    assert!(is_revoked_by(&trust, &[&stove]));
    std::fs::write(&path, pem(&[lists[0].clone(), two.list(2, &[], -60, 3600)])).unwrap();
    assert!(trust.refresh(now()));
    assert_eq!(trust.problems(), [""; 0]);
    assert!(!is_revoked_by(&trust, &[&stove]));
}

// C1
#[test]
fn the_list_of_another_ca_does_not_stand_in_for_that_of_our_own() {
    let (own, other) = (Ca::make("own", None), Ca::make("other", None));
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir(data.path().join("tls")).unwrap();
    let put = |from: PathBuf, name: &str| std::fs::copy(from, data.path().join(name)).unwrap();
    put(own.directory.path().join("ca.pem"), "tls/ca.pem");
    put(
        other.put_as("list", &other.list(1, &[], -60, 3600)),
        "tls/ca.crl",
    );
    let settings = ClientCertificates {
        demand: Demand::Required,
        cas: vec![
            ClientCa::Own,
            ClientCa::File {
                realm: Some("other".to_owned()),
                path: other.directory.path().join("ca.pem"),
            },
        ],
        ..ClientCertificates::default()
    };
    let trust = ClientTrust::open("mqtts", &settings, data.path()).unwrap();
    trust.refresh(now());
    let refused = trust.identify(&[own.device("lamp", 1)], now()).unwrap_err();
    assert!(
        matches!(refused, ClientCertificateError::Withheld(_)),
        "{refused}"
    );
    put(
        own.put_as("list", &own.list(1, &[], -60, 3600)),
        "tls/ca.crl",
    );
    assert!(trust.refresh(now()));
    assert!(!is_revoked_by(&trust, &[&own.device("lamp", 1)]));
}

// C1
#[test]
fn of_several_partial_lists_of_a_ca_every_one_counts() {
    let ca = Ca::new();
    let (lamp, stove) = (ca.device("lamp", 1), ca.device("stove", 2));
    let part = |uri, number, revoked: &[u64]| ca.list_of(Some(uri), number, revoked, (-60, 3600));
    let lists = [
        part("http://a.example/", 7, &[]),
        part("http://b.example/", 5, &[2]),
    ];
    for lists in [lists.clone(), [lists[1].clone(), lists[0].clone()]] {
        let path = ca.put_as("list", &pem(&lists));
        let trust = open_trust(&[("factory", &ca)], &[path]);
        assert_eq!(trust.problems(), [""; 0]);
        assert!(is_revoked_by(&trust, &[&stove]));
        assert!(!is_revoked_by(&trust, &[&lamp]));
        ca.put(&pem(&[&lists[..], &[ca.list(9, &[1], -60, 3600)]].concat()));
        assert!(trust.refresh(now()), "{:?}", trust.problems());
        assert!(is_revoked_by(&trust, &[&lamp]));
    }
}
