//! Whom a certificate names, and what that one is entitled to (I1, I2, S5).

use postern_tests::{Connect, Gateway, Setup};
use rcgen::SanType;
use tempfile::TempDir;

use crate::ca::{Ca, Device, Wanted};
use crate::world::{address, connect, issue, let_in, usual};

/// A gateway with one foreign CA, trusted in three ways, and its own one.
async fn world() -> (Gateway, Ca, TempDir) {
    let ca = Ca::new("Foreign");
    let files = TempDir::new().expect("a folder");
    let path = files.path().join("ca.pem");
    std::fs::write(&path, &ca.pem).expect("written");
    let path = path.display();
    let listener = |name: &str, rest: &str| {
        format!(
            "[listeners.{name}]\nprotocol = \"mqtt\"\nbind = \"127.0.0.1:0\"\nclient_certificates = \"required\"\n{rest}\n"
        )
    };
    let setup = Setup::new()
        .toml(&listener("own", "certificate_role = \"thing\""))
        .toml(&listener(
            "named",
            &format!("client_cas = \"factory={path}\""),
        ))
        .toml(&listener("unnamed", &format!("client_cas = \"{path}\"")))
        .toml(&listener(
            "mapped",
            &format!("client_cas = \"local={path}\""),
        ))
        .toml(&listener(
            "dns",
            &format!("client_cas = [\"own\", \"factory={path}\"]\ncertificate_name = \"san_dns\""),
        ));
    (setup.start().await, ca, files)
}

fn with_names(alternatives: Vec<SanType>) -> Wanted {
    Wanted {
        alternatives,
        ..Wanted::called("not-this")
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

/// Whether a client with this certificate may subscribe to a topic.
async fn may(gateway: &Gateway, listener: &str, device: &Device, topic: &str) -> bool {
    let to = address(gateway, listener);
    let mut client = let_in(to, &usual(gateway, Some(device)), &Connect::v5("")).await;
    let code = client.subscribe(topic, 0).await;
    client.disconnect().await;
    code < 0x80
}

// I1: every foreign CA is a realm of its own, unless the operator says otherwise.
#[tokio::test]
async fn a_name_of_a_foreign_ca_is_not_the_user_of_that_name_unless_it_is_mapped() {
    let (gateway, ca, _files) = world().await;
    gateway.add_user("ann", &["staff"]).await;
    gateway.acl("allow subscribe local/ann --user ann").await;
    gateway.acl("allow subscribe staff/# --role staff").await;
    gateway
        .acl("allow subscribe factory/ann --user ann --realm factory")
        .await;
    gateway.acl("allow subscribe role/# --role device").await;
    let ann = ca.sign(&Wanted::called("ann"));
    for (listener, topic, allowed) in [
        ("named", "local/ann", false),
        ("named", "staff/1", false),
        ("named", "factory/ann", true),
        ("named", "role/1", true),
        ("unnamed", "factory/ann", false),
        ("unnamed", "local/ann", false),
        ("unnamed", "role/1", true),
        ("mapped", "local/ann", true),
        ("mapped", "staff/1", true),
        ("mapped", "role/1", false),
    ] {
        assert_eq!(
            may(&gateway, listener, &ann, topic).await,
            allowed,
            "{topic} at {listener}"
        );
    }
    // The realm of a CA without a name is in the log, for rules.
    let logged = gateway.process.log().text();
    assert!(logged.contains("realm=ca-"), "{logged}");
}

// S5: a session belongs to realm and name, whatever the credential.
#[tokio::test]
async fn a_session_is_taken_over_by_its_principal_and_by_nobody_of_another_realm() {
    let (gateway, ca, _files) = world().await;
    let user = gateway.add_user("bob", &[]).await;
    let by_password = Connect::v5("bobs")
        .persistent(600)
        .user(&user.name, &user.password);
    let mut first = gateway.connect(by_password).await;
    let foreign = ca.sign(&Wanted::called("bob"));
    let packet = Connect::v5("bobs").persistent(600);
    let config = usual(&gateway, Some(&foreign));
    let refused = connect(address(&gateway, "named"), &config, &packet).await;
    assert_eq!(refused.connack.code, 0x85);
    first.ping().await;
    let own = issue(&gateway, "bob").await;
    let taken = let_in(
        address(&gateway, "own"),
        &usual(&gateway, Some(&own)),
        &packet,
    )
    .await;
    assert!(taken.connack.session_present);
    assert_eq!(first.end_code().await, 0x8E);
}

#[tokio::test]
async fn an_account_decides_over_roles_and_a_disabled_one_keeps_its_certificate_out() {
    let (gateway, _ca, _files) = world().await;
    gateway.acl("allow subscribe thing/# --role thing").await;
    gateway.acl("allow subscribe boss/# --role boss").await;
    gateway.acl("allow subscribe d/%d --everyone").await;
    let (carol, lamp) = (
        issue(&gateway, "carol").await,
        issue(&gateway, "lamp").await,
    );
    assert!(
        may(&gateway, "own", &lamp, "thing/1").await,
        "no account: certificate_role"
    );
    assert!(
        may(&gateway, "own", &lamp, "d/lamp").await,
        "it is its own device id"
    );
    assert!(!may(&gateway, "own", &lamp, "boss/1").await);

    gateway.add_user("carol", &["boss"]).await;
    assert!(may(&gateway, "own", &carol, "boss/1").await);
    assert!(!may(&gateway, "own", &carol, "thing/1").await);
    assert!(
        !may(&gateway, "own", &carol, "d/carol").await,
        "%d is unset for a user"
    );

    let to = address(&gateway, "own");
    let config = usual(&gateway, Some(&carol));
    let mut live = let_in(to, &config, &Connect::v5("carol")).await;
    gateway
        .cli(&["user", "disable", "carol"], "")
        .await
        .expect_success();
    assert_eq!(live.end_code().await, 0x87);
    let refused = connect(to, &config, &Connect::v5("carol")).await;
    assert_eq!(refused.connack.code, 0x8A);
}

#[tokio::test]
async fn an_alternative_name_names_the_principal_if_there_is_exactly_one() {
    let (gateway, ca, _files) = world().await;
    gateway.acl("allow subscribe n/%u --everyone").await;
    let device = ca.sign(&with_names(vec![
        dns("pump.example.org"),
        SanType::URI("urn:dev:1".try_into().expect("a URI")),
    ]));
    assert!(may(&gateway, "dns", &device, "n/pump.example.org").await);
    assert!(!may(&gateway, "dns", &device, "n/not-this").await);
    for names in [Vec::new(), vec![dns("a.example.org"), dns("b.example.org")]] {
        let device = ca.sign(&with_names(names));
        let config = usual(&gateway, Some(&device));
        let alert = crate::world::refusal(address(&gateway, "dns"), &config).await;
        assert_eq!(alert, rustls::AlertDescription::CertificateUnknown);
    }
}

// P1: a name that could stand for several levels matches no allow rule with %u.
#[tokio::test]
async fn a_name_with_wildcards_gets_nothing_by_them() {
    let (gateway, ca, _files) = world().await;
    gateway.acl("allow subscribe u/%u --everyone").await;
    for name in ["#", "+", "a/b"] {
        let device = ca.sign(&Wanted::called(name));
        assert!(
            !may(&gateway, "named", &device, &format!("u/{name}")).await,
            "{name}"
        );
    }
    let odd = ca.sign(&Wanted::called("a\u{7}b"));
    let config = usual(&gateway, Some(&odd));
    let refused = connect(address(&gateway, "named"), &config, &Connect::v5("")).await;
    assert_eq!(refused.connack.code, 0x86);
}
