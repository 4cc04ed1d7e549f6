use super::super::testing::{Authority, Pair};
use super::*;

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];
const TLS13: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];

/// Installs pairs and tells which slot a client gets.
struct Slots(Certificates);

impl Slots {
    fn new(pairs: &[(&str, &Pair)]) -> Self {
        let certificates = Certificates::default();
        for (slot, pair) in pairs {
            certificates.install(slot, pair.load().unwrap());
        }
        Self(certificates)
    }

    fn choose(
        &self,
        name: Option<&str>,
        local: Option<&str>,
        schemes: &[SignatureScheme],
        suites: &[CipherSuite],
    ) -> String {
        let set = self.0.current.load();
        let local = local.map(|local| local.parse().unwrap());
        let chosen = set.choose(name, local, Offer { schemes, suites }).unwrap();
        let mut slots = set.slots.iter();
        let found = slots.find(|(_, certificate)| Arc::ptr_eq(certificate, chosen));
        found.unwrap().0.clone()
    }

    fn named(&self, name: &str) -> String {
        self.choose(Some(name), None, BOTH, TLS13)
    }
}

#[test]
fn a_server_name_gets_its_certificate_exactly_then_by_wildcard_then_the_default() {
    let ca = Authority::new("CA");
    let slots = Slots::new(&[
        ("default", &ca.ecdsa(&["main.example.org"])),
        ("a", &ca.ecdsa(&["a.example.org", "www.example.org"])),
        ("wild", &ca.ecdsa(&["*.example.org"])),
    ]);
    for (name, slot) in [
        ("main.example.org", "default"),
        ("a.example.org", "a"),
        ("www.example.org", "a"),
        ("b.example.org", "wild"),
        ("deep.b.example.org", "default"),
        ("example.org", "default"),
        ("elsewhere.net", "default"),
        ("localhost", "default"),
    ] {
        assert_eq!(slots.named(name), slot, "{name}");
    }
    slots.0.remove("a");
    assert_eq!(slots.named("a.example.org"), "wild");
    slots.0.remove("absent");
    slots
        .0
        .install("a", ca.ecdsa(&["a.example.org"]).load().unwrap());
    assert_eq!(slots.named("a.example.org"), "a");
    assert_eq!(slots.named("www.example.org"), "wild");
}

#[test]
fn a_client_without_a_server_name_gets_the_certificate_of_the_address_it_came_to() {
    // C2
    let ca = Authority::new("CA");
    let slots = Slots::new(&[
        ("default", &ca.ecdsa(&["main.example.org"])),
        ("four", &ca.ecdsa(&["192.0.2.7"])),
        ("six", &ca.ecdsa(&["2001:db8::1", "six.example.org"])),
    ]);
    let at = |local| slots.choose(None, Some(local), BOTH, TLS13);
    assert_eq!(at("192.0.2.7"), "four");
    assert_eq!(at("2001:db8::1"), "six");
    assert_eq!(at("192.0.2.8"), "default");
    assert_eq!(slots.choose(None, None, BOTH, TLS13), "default");
}

#[test]
fn ecdsa_is_preferred_and_rsa_is_for_clients_that_cannot_verify_it() {
    let ca = Authority::new("CA");
    let names = ["mqtt.example.org", "192.0.2.7"];
    let (ecdsa, rsa) = (ca.ecdsa(&names), ca.rsa(&names));
    use CipherSuite as S;
    let ecdsa12: &[_] = &[S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let rsa12: &[_] = &[S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let cases = [
        (ECDSA, TLS13, "ecdsa"),
        (RSA, TLS13, "rsa"),
        (BOTH, TLS13, "ecdsa"),
        (BOTH, ecdsa12, "ecdsa"),
        // TLS 1.2 with suites for RSA only, whatever the signature algorithms say.
        (BOTH, rsa12, "rsa"),
        (RSA, rsa12, "rsa"),
    ];
    for default in ["ecdsa", "rsa", "neither"] {
        let slot = |kind: &'static str| if kind == default { "default" } else { kind };
        let slots = Slots::new(&[(slot("ecdsa"), &ecdsa), (slot("rsa"), &rsa)]);
        for (schemes, suites, kind) in cases {
            for name in [Some("mqtt.example.org"), Some("unknown.net"), None] {
                let chosen = slots.choose(name, None, schemes, suites);
                assert_eq!(
                    chosen,
                    slot(kind),
                    "{default} {name:?} {schemes:?} {suites:?}"
                );
            }
            let chosen = slots.choose(None, Some("192.0.2.7"), schemes, suites);
            assert_eq!(chosen, slot(kind));
        }
    }
}

#[test]
fn a_client_that_can_verify_none_gets_the_certificate_of_its_name_and_the_alert() {
    let ca = Authority::new("CA");
    let slots = Slots::new(&[
        ("default", &ca.ecdsa(&["main.example.org"])),
        ("a", &ca.ecdsa(&["a.example.org"])),
    ]);
    assert_eq!(slots.choose(Some("a.example.org"), None, RSA, TLS13), "a");
}

#[test]
fn the_built_in_certificate_is_the_default_only_while_there_is_nothing_better() {
    let directory = tempfile::tempdir().unwrap();
    let names = super::super::server_names(&["mqtt.example.org".to_owned()]).unwrap();
    let own = super::super::PrivateCa::open(directory.path(), names).unwrap();
    let slots = Slots(Certificates::default());
    slots
        .0
        .install("default", Certificate::load(&own.source()).unwrap());
    assert_eq!(slots.named("elsewhere.net"), "default");

    let rsa = Authority::new("CA").rsa(&["mqtt.example.org"]);
    slots.0.install("main", rsa.load().unwrap());
    assert_eq!(slots.named("elsewhere.net"), "main");
    assert_eq!(slots.named("mqtt.example.org"), "main");
    assert_eq!(slots.named("localhost"), "default");
    assert_eq!(slots.choose(None, None, BOTH, TLS13), "main");
    // Who can verify only the built-in one gets that.
    assert_eq!(slots.choose(None, None, ECDSA, TLS13), "default");
}

#[test]
fn the_default_is_that_of_tls_then_that_of_acme_then_the_first_by_name() {
    let ca = Authority::new("CA");
    let pairs = ["a", "acme", "b", "default"].map(|slot| (slot, ca.ecdsa(&[slot])));
    let slots = Slots::new(&pairs.each_ref().map(|(slot, pair)| (*slot, pair)));
    for slot in ["default", "acme", "a", "b"] {
        assert_eq!(slots.named("elsewhere.net"), slot);
        slots.0.remove(slot);
    }
}

#[test]
fn certificates_that_hide_each_other_are_told() {
    let ca = Authority::new("CA");
    let slots = Slots::new(&[
        ("a", &ca.ecdsa(&["one.example.org", "192.0.2.1"])),
        ("b", &ca.ecdsa(&["two.example.org", "192.0.2.1"])),
        ("rsa", &ca.rsa(&["one.example.org", "two.example.org"])),
        ("c", &ca.ecdsa(&["*.example.org"])),
    ]);
    let expected = [("a".to_owned(), "b".to_owned())];
    assert_eq!(slots.0.overlaps(), expected.into());
    slots.0.remove("b");
    assert_eq!(slots.0.overlaps(), [].into());
}

#[test]
fn an_empty_set_offers_nothing() {
    let certificates = Certificates::default();
    let offer = Offer {
        schemes: BOTH,
        suites: TLS13,
    };
    assert!(
        certificates
            .current
            .load()
            .choose(None, None, offer)
            .is_none()
    );
    assert_eq!(certificates.fingerprint(), "");
}
