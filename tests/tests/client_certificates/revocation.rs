//! What happens to a certificate that is taken back, or runs out, while its client is there.

use std::time::Duration;

use postern_tests::packet::{Packet, Will};
use postern_tests::peer::Tool;
use postern_tests::property::Property;
use postern_tests::wait::until;
use postern_tests::{Connect, Gateway, Publish, Setup};
use rustls::client::Tls12Resumption;
use rustls::{AlertDescription, HandshakeKind};

use crate::ca::{Ca, Wanted};
use crate::world::{TLS12, TLS13, address, config, fresh, issue, let_in, outcome, refusal, usual};
use crate::{LISTENERS, gateway};

async fn revoke(gateway: &Gateway, which: &str) {
    gateway
        .cli(&["ca", "revoke", which], "")
        .await
        .expect_success();
}

// C1: a resumed handshake brings the certificate back without the verifier.
#[tokio::test]
async fn a_revoked_certificate_comes_back_neither_by_ticket_nor_by_session_id() {
    let gateway = gateway().await;
    let to = address(&gateway, "required");
    for (n, (versions, by)) in [
        (TLS13, Tls12Resumption::Disabled),
        (TLS12, Tls12Resumption::SessionIdOrTickets),
        (TLS12, Tls12Resumption::SessionIdOnly),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("resumed-{n}");
        let device = issue(&gateway, &name).await;
        let config = config(&gateway, Some(&device), versions, by);
        assert_eq!(outcome(to, &config).await, (HandshakeKind::Full, true));
        assert_eq!(
            outcome(to, &config).await,
            (HandshakeKind::Resumed, true),
            "while it is good, {versions:?} {by:?}"
        );
        revoke(&gateway, &name).await;
        assert_eq!(
            outcome(to, &config).await,
            (HandshakeKind::Resumed, false),
            "revoked, {versions:?} {by:?}"
        );
    }
}

/// The gateway's answers to clients whose certificate was revoked, so far.
fn refusals(gateway: &Gateway) -> usize {
    let lines = gateway.process.log().lines();
    let refused = |line: &&String| line.contains("not connected") && line.contains("Revoked");
    lines.iter().filter(refused).count()
}

// C1
#[tokio::test]
async fn openssl_resumes_and_gets_no_further_once_its_certificate_is_revoked() {
    let gateway = Setup::new().toml(LISTENERS).start().await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let to = address(&gateway, "required").to_string();
    let connect = async |more: &[&str]| {
        let tool = Tool::new("openssl")
            .args([
                "s_client",
                "-connect",
                &to,
                "-servername",
                "localhost",
                "-tls1_2",
            ])
            .args(["-cert", "d.pem", "-key", "d.key", "-CAfile"])
            .arg(gateway.ca())
            .args(more);
        tool.current_dir(folder.path()).run().await.stdout
    };
    for (name, by) in [("by-ticket", &[][..]), ("by-id", &["-no_ticket"])] {
        issue(&gateway, name).await.write(folder.path(), "d");
        let said = connect(&[by, &["-sess_out", "s.pem"]].concat()).await;
        assert!(said.contains("\nNew, TLSv1.2"), "{said}");
        let said = connect(&[by, &["-sess_in", "s.pem"]].concat()).await;
        assert!(said.contains("\nReused, TLSv1.2"), "{said}");
        let before = refusals(&gateway);
        revoke(&gateway, name).await;
        let said = connect(&[by, &["-sess_in", "s.pem"]].concat()).await;
        assert!(said.contains("\nReused, TLSv1.2"), "{said}");
        until("the refusal in the log", || refusals(&gateway) > before).await;
    }
}

// C1: neither tickets nor sessions of one listener are good at another.
#[tokio::test]
async fn a_session_of_one_listener_is_not_resumed_at_another() {
    let gateway = gateway().await;
    let device = issue(&gateway, "two-doors").await;
    for versions in [TLS12, TLS13] {
        for by in [
            Tls12Resumption::SessionIdOnly,
            Tls12Resumption::SessionIdOrTickets,
        ] {
            let config = config(&gateway, Some(&device), versions, by);
            let required = address(&gateway, "required");
            assert_eq!(
                outcome(required, &config).await,
                (HandshakeKind::Full, true)
            );
            let optional = address(&gateway, "optional");
            assert_eq!(
                outcome(optional, &config).await,
                (HandshakeKind::Full, true)
            );
        }
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_in_a_full_handshake() {
    let gateway = gateway().await;
    let device = issue(&gateway, "revoked-1").await;
    revoke(&gateway, "revoked-1").await;
    for versions in [TLS12, TLS13] {
        let config = fresh(&gateway, &device, versions);
        let alert = refusal(address(&gateway, "required"), &config).await;
        assert_eq!(alert, AlertDescription::CertificateRevoked);
    }
}

// P3, P4: no will of a revoked one, and nothing more for its session, which stays with the principal.
#[tokio::test]
async fn a_live_connection_of_a_revoked_certificate_ends_without_its_will_and_its_session_stays() {
    let gateway = gateway().await;
    let to = address(&gateway, "required");
    gateway.acl("allow publish wills/# --role device").await;
    gateway.acl("allow subscribe kept/# --role device").await;
    let mut watcher = gateway.v5("watcher-of-wills").await;
    watcher.subscribe("wills/#", 1).await;
    let (old, new) = (
        issue(&gateway, "live-1").await,
        issue(&gateway, "live-1").await,
    );
    let will = |topic: &str| Will::new(topic, "gone").qos(1);
    let connect = Connect::v5("live-1")
        .persistent(600)
        .will(will("wills/live-1"));
    let mut live = let_in(to, &usual(&gateway, Some(&old)), &connect).await;
    live.subscribe("kept/a", 1).await;
    let version3 = Connect::v311("live-1-old").will(will("wills/live-1-old"));
    let mut live3 = let_in(to, &usual(&gateway, Some(&old)), &version3).await;
    // A will whose delay runs is dropped as well.
    let delayed = will("wills/live-1-delayed").with(Property::WillDelay(3));
    let delayed = Connect::v5("live-1-delayed").persistent(600).will(delayed);
    let away = let_in(to, &usual(&gateway, Some(&old)), &delayed).await;
    away.vanish();

    let serial = serial_of(&gateway, "live-1").await;
    revoke(&gateway, &serial).await;
    assert_eq!(live.end_code().await, 0x87);
    assert_eq!(
        live3.end().await,
        None,
        "version 3 has no DISCONNECT from the server"
    );
    gateway
        .v5("")
        .await
        .publish(Publish::new("kept/a", "for nobody").qos(1))
        .await;
    // A will of as long a delay that starts later: when it comes, the other one would have come.
    let marker = will("wills/marker").with(Property::WillDelay(3));
    let marker = Connect::v5("marker").persistent(600).will(marker);
    gateway.connect(marker).await.vanish();
    let wills = watcher.receive_until("wills/marker").await;
    assert!(
        wills
            .iter()
            .all(|will| !will.topic.starts_with("wills/live-1")),
        "{wills:?}"
    );

    let connect = Connect::v5("live-1").persistent(600);
    let mut back = let_in(to, &usual(&gateway, Some(&new)), &connect).await;
    assert!(back.connack.session_present);
    back.nothing_came().await;
    gateway
        .v5("")
        .await
        .publish(Publish::new("kept/a", "for the new one").qos(1))
        .await;
    assert_eq!(back.receive().await.text(), "for the new one");
}

/// Of the oldest certificate of this name that is not revoked.
async fn serial_of(gateway: &Gateway, name: &str) -> String {
    let listed = gateway
        .cli(&["ca", "list", "--json"], "")
        .await
        .expect_success();
    let lines = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let mut found = lines.filter(|one| one["name"] == name && one["revoked-at"].is_null());
    found.next().expect("it is listed")["serial"]
        .as_str()
        .expect("text")
        .to_owned()
}

// A token or certificate that merely expired still sends its will (P3).
#[tokio::test]
async fn a_connection_ends_when_its_certificate_does_and_its_will_is_sent() {
    let gateway = gateway().await;
    gateway.acl("allow publish expiry/# --role device").await;
    let mut watcher = gateway.v5("watcher-of-expiry").await;
    watcher.subscribe("expiry/#", 1).await;
    let own = Ca::of_gateway(&gateway.data);
    let device = own.sign(&Wanted::called("short").for_seconds(-60, 4));
    let config = usual(&gateway, Some(&device));
    let to = address(&gateway, "required");
    let connect = Connect::v5("short").will(Will::new("expiry/short", "gone").qos(1));
    let mut client = let_in(to, &config, &connect).await;
    match client
        .next_within("the end of the certificate", Duration::from_secs(30))
        .await
    {
        Some(Packet::Disconnect(reason)) => assert_eq!(reason.code, 0xA0),
        other => panic!("instead of DISCONNECT came {other:?}"),
    }
    assert_eq!(watcher.receive().await.topic, "expiry/short");
    // C1: a handshake that is resumed does not outlive the certificate either.
    assert_eq!(outcome(to, &config).await, (HandshakeKind::Resumed, false));
}

// A session of a device without an account survives a restart. The will of one that was revoked meanwhile does not, and
// nothing more comes to it (P3).
#[tokio::test]
async fn a_restart_keeps_the_sessions_of_devices_and_forgets_nothing_of_what_was_revoked() {
    let setup = || {
        Setup::new()
            .toml(LISTENERS)
            .toml("[session]\nrestart_will_grace = \"1s\"\n")
    };
    let gateway = setup().start().await;
    gateway.acl("allow publish restart/# --role device").await;
    gateway.acl("allow subscribe restart/# --role device").await;
    let mut watcher = gateway
        .connect(Connect::v5("watcher").persistent(600))
        .await;
    watcher.subscribe("restart/will/#", 1).await;
    let devices = [
        issue(&gateway, "stays").await,
        issue(&gateway, "goes").await,
    ];
    let to = address(&gateway, "required");
    let mut clients = Vec::new();
    for (name, device) in ["stays", "goes"].into_iter().zip(&devices) {
        let will = Will::new(&format!("restart/will/{name}"), "lost").qos(1);
        let connect = Connect::v5(name).persistent(600).will(will);
        let mut client = let_in(to, &usual(&gateway, Some(device)), &connect).await;
        client.subscribe("restart/queue", 1).await;
        clients.push(client);
    }
    let dir = gateway.kill().await;
    let data = dir.path().join("data");
    postern_tests::gateway::gateway_tool()
        .args(["ca", "revoke", "goes", "--data-dir"])
        .arg(&data)
        .run()
        .await
        .expect_success();

    let gateway = setup().start_in(dir).await;
    let mut watcher = gateway
        .connect(Connect::v5("watcher").persistent(600))
        .await;
    assert_eq!(watcher.receive().await.topic, "restart/will/stays");
    gateway
        .v5("")
        .await
        .publish(Publish::new("restart/will/marker", "x").qos(1))
        .await;
    assert!(
        watcher
            .receive_until("restart/will/marker")
            .await
            .is_empty()
    );
    gateway
        .v5("")
        .await
        .publish(Publish::new("restart/queue", "for you").qos(1))
        .await;
    let to = address(&gateway, "required");
    let connect = Connect::v5("stays").persistent(600);
    let mut back = let_in(to, &usual(&gateway, Some(&devices[0])), &connect).await;
    assert!(back.connack.session_present);
    assert_eq!(back.receive().await.text(), "for you");
    let alert = refusal(to, &usual(&gateway, Some(&devices[1]))).await;
    assert_eq!(alert, AlertDescription::CertificateRevoked);
    back.disconnect().await;

    // Of the one that is still away the next gateway has nothing but the fingerprint, and that is enough.
    let gateway = setup().start_in(gateway.stop().await).await;
    revoke(&gateway, "stays").await;
    gateway
        .v5("")
        .await
        .publish(Publish::new("restart/queue", "for nobody").qos(1))
        .await;
    let to = address(&gateway, "required");
    for name in ["stays", "goes"] {
        let device = issue(&gateway, name).await;
        let connect = Connect::v5(name).persistent(600);
        let mut back = let_in(to, &usual(&gateway, Some(&device)), &connect).await;
        assert!(back.connack.session_present, "{name}");
        back.nothing_came().await;
    }
}
