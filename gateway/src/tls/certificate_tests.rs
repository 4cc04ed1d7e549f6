use std::time::Duration;

use super::super::fingerprint::sha256;
use super::super::testing::{Authority, Pair};
use super::*;

const DAY: i64 = 86_400;

fn names(names: &[&str]) -> BTreeSet<SubjectName> {
    names
        .iter()
        .map(|name| SubjectName::parse(name).unwrap())
        .collect()
}

#[test]
fn a_certificate_tells_what_an_operator_asks_about_it() {
    let ca = Authority::new("Some CA");
    let certificate = ca.rsa(&["mqtt.example.org", "192.0.2.7"]).load().unwrap();
    assert_eq!(
        certificate.names(),
        &names(&["mqtt.example.org", "192.0.2.7"])
    );
    assert_eq!(certificate.depth(), 2);
    assert_eq!(certificate.key_kind(), KeyKind::Rsa(2048));
    let [leaf, issuer] = certificate.chain() else {
        panic!("two certificates");
    };
    assert_eq!(leaf.issuer, "CN=Some CA");
    assert_eq!(issuer.subject, "CN=Some CA");
    assert_eq!(issuer.key, KeyKind::Ecdsa(256));
    assert_eq!(certificate.chain_bytes(), leaf.bytes + issuer.bytes);
    assert_eq!(leaf.bytes, certificate.der().len());
    let life = certificate
        .not_after()
        .duration_since(certificate.not_before());
    assert_eq!(life.unwrap(), Duration::from_secs(8 * 86_400));
}

#[test]
fn a_private_key_that_everybody_can_read_is_hidden_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Authority::new("CA").ecdsa(&["a.example.org"]);
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| folder.path().join(name));
    fs::write(&chain, pair.chain).unwrap();
    fs::write(&key, pair.key).unwrap();
    for (before, after) in [
        (0o644, 0o640),
        (0o604, 0o600),
        (0o640, 0o640),
        (0o600, 0o600),
    ] {
        fs::set_permissions(&key, Permissions::from_mode(before)).unwrap();
        Certificate::load(&CertificateSource::files(&chain, &key)).unwrap();
        assert_eq!(pem::mode(&key).unwrap(), after, "{before:o}");
    }
}

#[test]
fn a_wildcard_covers_one_label_and_nothing_else() {
    let ca = Authority::new("CA");
    let certificate = ca.ecdsa(&["*.example.org", "192.0.2.7"]).load().unwrap();
    for (wanted, covered) in [
        (&["a.example.org"][..], true),
        (&["a.example.org", "b.example.org", "192.0.2.7"], true),
        (&["*.example.org"], true),
        (&[], true),
        (&["example.org"], false),
        (&["a.b.example.org"], false),
        (&["*.b.example.org"], false),
        (&["192.0.2.8"], false),
        (&["a.example.org", "elsewhere.net"], false),
    ] {
        assert_eq!(certificate.covers(&names(wanted)), covered, "{wanted:?}");
    }
}

#[test]
fn a_chain_must_be_in_the_order_in_which_it_was_signed() {
    let (ca, other) = (Authority::new("CA"), Authority::new("Other CA"));
    // A CA of the same name did not sign it all the same.
    let twin = Authority::new("CA");
    let good = ca.ecdsa(&["a.example.org"]);
    let leaf = good.chain.replace(ca.certificate(), "");
    for (chain, fits) in [
        (good.chain.clone(), true),
        (leaf.clone(), true),
        (format!("{leaf}{}", other.certificate()), false),
        (format!("{leaf}{}", twin.certificate()), false),
        (format!("{}{}", good.chain, other.certificate()), false),
        (format!("{leaf}{leaf}"), false),
    ] {
        let key = good.key.clone();
        match (Pair { chain, key }).load() {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits && matches!(error, TlsError::Chain { .. }), "{error}");
                assert!(error.to_string().contains("test.pem"), "{error}");
            }
        }
    }
    // The issuer first: then the key belongs to no leaf, and the order is named first.
    let chain = format!("{}{leaf}", ca.certificate());
    let error = Pair {
        chain,
        key: good.key,
    };
    assert!(matches!(error.load(), Err(TlsError::Chain { .. })));
}

#[test]
fn each_certificate_of_the_chain_must_be_valid_now() {
    let ca = Authority::new("CA");
    for (seconds, problem) in [
        (-DAY..DAY, None),
        (-3 * DAY..-2 * DAY - 10, Some("expired 2 days ago")),
        (2 * 3_600 + 10..DAY, Some("not valid for another 2 hours")),
    ] {
        let certificate = ca.valid(&["a.example.org"], seconds).load().unwrap();
        let checked = certificate.check(SystemTime::now());
        let message = checked.as_ref().err().map(ToString::to_string);
        match problem {
            None => assert!(checked.is_ok(), "{message:?}"),
            Some(problem) => assert!(message.unwrap().contains(problem)),
        }
    }
    // The issuer of these tests is valid until 4096, the leaf longer.
    let after_issuer = ca
        .valid(&["a.example.org"], -DAY..70_000_000_000)
        .load()
        .unwrap();
    let then = SystemTime::now() + Duration::from_secs(69_000_000_000);
    let message = after_issuer.check(then).unwrap_err().to_string();
    assert!(message.contains("CN=CA"), "{message}");
}

#[test]
fn a_key_of_another_certificate_is_refused_and_not_quoted() {
    let ca = Authority::new("CA");
    let (one, other) = (ca.ecdsa(&["a.example.org"]), ca.rsa(&["a.example.org"]));
    for (chain, key) in [(&one, &other), (&other, &one)] {
        let pair = Pair {
            chain: chain.chain.clone(),
            key: key.key.clone(),
        };
        let error = pair.load().unwrap_err();
        assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");
        let secret = key.key.lines().nth(1).unwrap();
        assert!(!error.to_string().contains(secret));
    }
}

#[test]
fn pins_are_those_of_the_leaf() {
    let ca = Authority::new("CA");
    let certificate = ca.ecdsa(&["a.example.org"]).load().unwrap();
    let der = certificate.certified_key().cert[0].clone();
    assert_eq!(certificate.sha256(), sha256(&der));
    assert_eq!(certificate.sha1().len(), 20);
    assert!(
        der.windows(certificate.public_key().len())
            .any(|part| part == certificate.public_key())
    );
}
