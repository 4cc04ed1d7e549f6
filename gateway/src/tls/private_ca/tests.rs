use std::os::unix::fs::MetadataExt;

use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::*;
use crate::tls::{Certificates, fingerprint::sha256};

const NOW: i64 = 1_800_000_000;

fn names(configured: &[&str]) -> BTreeSet<SubjectName> {
    ["localhost", "127.0.0.1", "::1"]
        .iter()
        .chain(configured)
        .map(|name| SubjectName::parse(name).unwrap())
        .collect()
}

fn opened_at(directory: &Path, now: i64) -> Result<PrivateCa, TlsError> {
    PrivateCa::open_at(directory, names(&["mqtt.example.org"]), system_time(now))
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join("tls").join(name)
}

fn contents(directory: &Path) -> Vec<Vec<u8>> {
    ["ca.pem", "ca.key", "server.pem", "server.key"]
        .iter()
        .map(|name| fs::read(file(directory, name)).unwrap())
        .collect()
}

fn certificate(directory: &Path, name: &str) -> CertificateDer<'static> {
    pem::read_certificates(&file(directory, name), "")
        .unwrap()
        .swap_remove(0)
}

#[test]
fn a_first_start_makes_four_files_with_their_permissions_and_the_second_reuses_them() {
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    for (name, mode) in [
        ("ca.pem", 0o644),
        ("ca.key", 0o600),
        ("server.pem", 0o644),
        ("server.key", 0o600),
    ] {
        assert_eq!(
            fs::metadata(file(directory.path(), name)).unwrap().mode() & 0o777,
            mode,
            "{name}"
        );
    }
    assert_eq!(
        fs::read_dir(directory.path().join("tls")).unwrap().count(),
        4
    );

    let first = contents(directory.path());
    opened_at(directory.path(), NOW + 30 * DAY).unwrap();
    assert_eq!(contents(directory.path()), first);
}

#[test]
fn the_certificates_say_what_the_design_says() {
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    let (ca, leaf) = (
        certificate(directory.path(), "ca.pem"),
        certificate(directory.path(), "server.pem"),
    );
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();

    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert!(ca.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(ca.validity().not_after.timestamp(), NOW - DAY + 3_652 * DAY);

    assert!(!leaf.is_ca() && leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(
        leaf.extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .server_auth
    );
    assert_eq!(
        leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp(),
        397 * DAY
    );
    assert_eq!(leaf.issuer(), ca.subject());
    let subject_key = |certificate: &X509Certificate<'_>| {
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
    };
    let authority_key =
        leaf.iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            });
    assert!(subject_key(&leaf).is_some());
    assert_eq!(authority_key, subject_key(&ca));
    let facts = CertificateFacts::of(
        &certificate(directory.path(), "server.pem"),
        Path::new(""),
        "",
    )
    .unwrap();
    assert_eq!(facts.names, names(&["mqtt.example.org"]));
}

// C4
#[test]
fn a_server_certificate_is_renewed_in_its_last_third_with_the_same_ca_and_key_and_a_new_serial() {
    let directory = tempfile::tempdir().unwrap();
    let ca = opened_at(directory.path(), NOW).unwrap();
    let before = contents(directory.path());
    let serial = |name| {
        let der = certificate(directory.path(), name);
        X509Certificate::from_der(&der)
            .unwrap()
            .1
            .raw_serial()
            .to_vec()
    };
    let first_serial = serial("server.pem");

    let two_thirds = NOW - DAY + 397 * DAY * 2 / 3;
    assert_eq!(
        ca.renew_if_due(system_time(two_thirds - DAY)).unwrap(),
        None
    );
    assert_eq!(contents(directory.path()), before);
    assert_eq!(
        ca.renew_if_due(system_time(two_thirds + DAY)).unwrap(),
        Some(Renewal::Age)
    );
    let after = contents(directory.path());
    assert_eq!(
        (&after[0], &after[1], &after[3]),
        (&before[0], &before[1], &before[3])
    );
    assert_ne!(after[2], before[2]);
    assert_ne!(serial("server.pem"), first_serial);
    assert_eq!(
        ca.renew_if_due(system_time(two_thirds + DAY)).unwrap(),
        None
    );
}

// C4
#[test]
fn a_server_certificate_is_renewed_when_a_wanted_name_is_not_covered_and_not_when_one_is_given_up()
{
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    let first = contents(directory.path());
    PrivateCa::open_at(directory.path(), names(&[]), system_time(NOW)).unwrap();
    assert_eq!(contents(directory.path()), first);

    let more = names(&["mqtt.example.org", "192.0.2.7", "*.example.net"]);
    PrivateCa::open_at(directory.path(), more.clone(), system_time(NOW)).unwrap();
    let leaf = certificate(directory.path(), "server.pem");
    assert_eq!(
        CertificateFacts::of(&leaf, Path::new(""), "")
            .unwrap()
            .names,
        more
    );
    assert_eq!(contents(directory.path())[0], first[0]);
}

#[test]
fn a_server_certificate_never_outlives_the_ca_and_is_not_renewed_in_vain() {
    let directory = tempfile::tempdir().unwrap();
    let ca = opened_at(directory.path(), NOW).unwrap();
    let late = system_time(NOW + 3_600 * DAY);
    assert_eq!(ca.renew_if_due(late).unwrap(), Some(Renewal::Age));
    let facts = |name| {
        CertificateFacts::of(&certificate(directory.path(), name), Path::new(""), "").unwrap()
    };
    assert_eq!(facts("server.pem").not_after, facts("ca.pem").not_after);
    assert_eq!(
        ca.renew_if_due(system_time(NOW + 3_640 * DAY)).unwrap(),
        None
    );

    let error = ca.renew_if_due(system_time(NOW + 3_700 * DAY)).unwrap_err();
    assert!(matches!(error, TlsError::NotValid { .. }), "{error}");
}

#[test]
fn a_start_that_was_cut_short_anywhere_is_completed_and_keeps_what_there_was() {
    for missing in [
        &["server.pem"][..],
        &["server.key"],
        &["server.pem", "server.key"],
        &["ca.pem", "server.pem", "server.key"],
    ] {
        let directory = tempfile::tempdir().unwrap();
        opened_at(directory.path(), NOW).unwrap();
        let ca_key = fs::read(file(directory.path(), "ca.key")).unwrap();
        for name in missing {
            fs::remove_file(file(directory.path(), name)).unwrap();
        }
        let ca = opened_at(directory.path(), NOW).unwrap();
        Certificates::load(&ca.source()).unwrap();
        assert_eq!(fs::read(file(directory.path(), "ca.key")).unwrap(), ca_key);
    }
}

#[test]
fn a_ca_made_again_from_its_key_still_vouches_for_the_old_server_certificate() {
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    let leaf = fs::read(file(directory.path(), "server.pem")).unwrap();
    fs::remove_file(file(directory.path(), "ca.pem")).unwrap();
    opened_at(directory.path(), NOW).unwrap();
    assert_eq!(
        fs::read(file(directory.path(), "server.pem")).unwrap(),
        leaf
    );
}

#[test]
fn a_server_certificate_of_another_ca_is_replaced() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    opened_at(directory.path(), NOW).unwrap();
    opened_at(other.path(), NOW).unwrap();
    for name in ["ca.pem", "ca.key"] {
        fs::copy(file(other.path(), name), file(directory.path(), name)).unwrap();
    }
    let before = sha256(&certificate(directory.path(), "server.pem"));
    opened_at(directory.path(), NOW).unwrap();
    assert_ne!(sha256(&certificate(directory.path(), "server.pem")), before);
}

#[test]
fn a_key_that_others_can_read_is_shut_again() {
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    for (name, mode) in [("ca.key", 0o644), ("server.key", 0o640)] {
        fs::set_permissions(file(directory.path(), name), Permissions::from_mode(mode)).unwrap();
        opened_at(directory.path(), NOW).unwrap();
        assert_eq!(
            fs::metadata(file(directory.path(), name)).unwrap().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_remedy_and_left_alone() {
    let other = tempfile::tempdir().unwrap();
    opened_at(other.path(), NOW).unwrap();
    let other_server_key = fs::read(file(other.path(), "server.key")).unwrap();
    let cases: [(&str, Option<&[u8]>, &str, &str); 10] = [
        ("ca.pem", Some(b""), "damaged", "new private CA"),
        (
            "ca.pem",
            Some(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            "damaged",
            "new private CA",
        ),
        (
            "ca.pem",
            Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "damaged",
            "new private CA",
        ),
        ("ca.key", None, "missing", "backup"),
        ("ca.key", Some(b"\0\0\0\0"), "damaged", "backup"),
        (
            "ca.key",
            Some(&other_server_key),
            "does not belong",
            "backup",
        ),
        (
            "server.pem",
            Some(b"cut"),
            "damaged",
            "remove server.pem and server.key",
        ),
        (
            "server.key",
            Some(b""),
            "damaged",
            "remove server.pem and server.key",
        ),
        (
            "server.key",
            Some(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "damaged",
            "remove",
        ),
        (
            "server.key",
            Some(&other_server_key),
            "does not belong",
            "remove server.pem and server.key",
        ),
    ];
    for (name, damage, problem, remedy) in cases {
        let directory = tempfile::tempdir().unwrap();
        opened_at(directory.path(), NOW).unwrap();
        let path = file(directory.path(), name);
        match damage {
            Some(damage) => fs::write(&path, damage).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let message = opened_at(directory.path(), NOW).unwrap_err().to_string();
        for part in [path.to_str().unwrap(), problem, remedy] {
            assert!(message.contains(part), "{name}: {part:?} in {message}");
        }
        assert!(!message.contains("\n"), "{message}");
        assert_eq!(fs::read(&path).ok().as_deref(), damage, "{name}");
    }
}

#[test]
fn a_clock_that_was_never_set_makes_no_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let error = opened_at(directory.path(), 3_600).unwrap_err();
    assert!(
        matches!(
            error,
            TlsError::Clock {
                unix_seconds: 3_600
            }
        ),
        "{error}"
    );
    assert!(!file(directory.path(), "ca.key").exists());
}

// C4
#[test]
fn a_server_certificate_of_a_clock_that_was_ahead_is_replaced_once_the_clock_is_right() {
    let directory = tempfile::tempdir().unwrap();
    opened_at(directory.path(), NOW).unwrap();
    fs::remove_file(file(directory.path(), "server.pem")).unwrap();
    opened_at(directory.path(), NOW + 1_000 * DAY).unwrap();
    let ca = opened_at(directory.path(), NOW).unwrap();
    let leaf = certificate(directory.path(), "server.pem");
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), NOW - DAY);
    assert_eq!(ca.renew_if_due(system_time(NOW)).unwrap(), None);
}

#[test]
fn a_list_that_nobody_would_read_is_not_signed() {
    use super::signing::{LIST_MAX, check_list_length};
    check_list_length(LIST_MAX, 1).unwrap();
    let error = check_list_length(LIST_MAX + 1, 400_000).unwrap_err();
    assert!(error.to_string().contains("400000 certificates"), "{error}");
}
