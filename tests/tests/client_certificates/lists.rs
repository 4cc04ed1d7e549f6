//! Revocation lists in files, and fingerprints: what they say counts at once, and what is broken counts for nothing.

use std::path::Path;

use postern_tests::wait::until_some;
use postern_tests::{Connect, Gateway, Setup};
use rustls::AlertDescription;
use tempfile::TempDir;

use crate::ca::{Ca, DAY, Device, Wanted};
use crate::world::{TLS12, TLS13, address, fresh, issue, let_in, outcome, refusal, usual};

/// A CA of somebody else with a device, its files, and a gateway that trusts it.
struct World {
    files: TempDir,
    ca: Ca,
    lamp: Device,
    stove: Device,
}

impl World {
    fn new() -> World {
        let ca = Ca::new("Factory");
        let device = |name: &str, serial| Wanted {
            serial,
            ..Wanted::called(name)
        };
        let world = World {
            lamp: ca.sign(&device("lamp", 11)),
            stove: ca.sign(&device("stove", 12)),
            files: TempDir::new().expect("a folder"),
            ca,
        };
        world.put("ca.pem", &world.ca.pem);
        world
    }

    /// Replaces a file as a careful program does.
    fn put(&self, name: &str, contents: &str) {
        let new = self.files.path().join("new");
        std::fs::write(&new, contents).expect("written");
        std::fs::rename(new, self.files.path().join(name)).expect("renamed");
    }

    fn setup(&self) -> Setup {
        let folder = self.files.path().display();
        Setup::new().toml(&format!(
            "[listeners.factory]\nprotocol = \"mqtt\"\nbind = \"127.0.0.1:0\"\n\
             client_certificates = \"required\"\nclient_cas = \"factory={folder}/ca.pem\"\n\
             client_crls = \"{folder}/factory.crl\"\n"
        ))
    }
}

async fn health(gateway: &Gateway) -> String {
    let finished = gateway.cli(&["health"], "").await;
    format!("{}{}", finished.stdout, finished.stderr)
}

/// Waits until the health of the gateway is as it should be.
async fn healthy(gateway: &Gateway, wanted: impl Fn(&str) -> bool) {
    until_some("the health that is wanted", async || {
        wanted(&health(gateway).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_that_is_replaced_ends_the_connections_of_what_it_revokes() {
    let world = World::new();
    world.put("factory.crl", &world.ca.list(1, &[], -60, DAY));
    let gateway = world.setup().start().await;
    let to = address(&gateway, "factory");
    let config = usual(&gateway, Some(&world.lamp));
    let mut live = let_in(to, &config, &Connect::v5("lamp")).await;
    let mut other = let_in(
        to,
        &usual(&gateway, Some(&world.stove)),
        &Connect::v5("stove"),
    )
    .await;
    world.put("factory.crl", &world.ca.list(2, &[11], -60, DAY));
    assert_eq!(live.end_code().await, 0x87);
    other.ping().await;
    for versions in [TLS12, TLS13] {
        let config = fresh(&gateway, &world.lamp, versions);
        assert_eq!(
            refusal(to, &config).await,
            AlertDescription::CertificateRevoked
        );
    }
    // C1: the ticket of the connection that was let in is worth nothing.
    assert!(!outcome(to, &config).await.1);
}

#[tokio::test]
async fn a_list_that_cannot_be_used_leaves_the_one_before_in_force_and_is_reported() {
    let world = World::new();
    let good = world.ca.list(5, &[11], -60, DAY);
    world.put("factory.crl", &good);
    let gateway = world.setup().start().await;
    gateway.expect_error("the revocation list");
    let to = address(&gateway, "factory");
    let (lamp, stove) = (
        fresh(&gateway, &world.lamp, TLS13),
        fresh(&gateway, &world.stove, TLS13),
    );
    healthy(&gateway, |health| !health.contains("revocation list")).await;
    let stranger = Ca::new("Factory");
    for (broken, words) in [
        (
            "-----BEGIN X509 CRL-----\n!!!!\n-----END X509 CRL-----\n".to_owned(),
            "neither PEM nor DER",
        ),
        ("nothing".to_owned(), "holds no revocation list"),
        (good[..good.len() / 2].to_owned(), "factory.crl"),
        // The same name, another key.
        (
            stranger.list(6, &[], -60, DAY),
            "signed by no CA of client_cas",
        ),
        (world.ca.list(6, &[], -2 * DAY, -DAY), "ended 24 hours ago"),
        (world.ca.list(6, &[], DAY, 2 * DAY), "of the future"),
        (
            world.ca.list(4, &[], -60, DAY),
            "older than the one in force",
        ),
    ] {
        world.put("factory.crl", &broken);
        healthy(&gateway, |health| {
            health.contains(words) && health.contains("stays in force")
        })
        .await;
        let alert = refusal(to, &lamp).await;
        assert_eq!(alert, AlertDescription::CertificateRevoked, "{words}");
        assert!(outcome(to, &stove).await.1, "{words}");
    }
    std::fs::remove_file(world.files.path().join("factory.crl")).expect("it is there");
    healthy(&gateway, |health| health.contains("is missing")).await;
    assert_eq!(
        refusal(to, &lamp).await,
        AlertDescription::CertificateRevoked
    );
    world.put("factory.crl", &world.ca.list(7, &[12], -60, DAY));
    healthy(&gateway, |health| !health.contains("revocation list")).await;
    assert!(outcome(to, &lamp).await.1);
    assert_eq!(
        refusal(to, &stove).await,
        AlertDescription::CertificateRevoked
    );
}

#[tokio::test]
async fn until_a_list_that_is_configured_was_read_no_certificate_passes() {
    let world = World::new();
    let gateway = world.setup().start().await;
    gateway.expect_error("the revocation list");
    let to = address(&gateway, "factory");
    let lamp = fresh(&gateway, &world.lamp, TLS13);
    assert_eq!(
        refusal(to, &lamp).await,
        AlertDescription::CertificateUnknown
    );
    assert!(
        health(&gateway)
            .await
            .contains("no client certificate passes")
    );
    world.put("factory.crl", &world.ca.list(1, &[], -60, DAY));
    healthy(&gateway, |health| !health.contains("revocation list")).await;
    assert!(outcome(to, &lamp).await.1);
}

fn listed(fingerprints: &[String], cas: &str) -> String {
    format!(
        "[listeners.listed]\nprotocol = \"mqtt\"\nbind = \"127.0.0.1:0\"\nclient_certificates = \"required\"\n\
         client_cas = {cas}\nclient_fingerprints = {fingerprints:?}\n"
    )
}

#[tokio::test]
async fn self_signed_certificates_pass_by_their_fingerprints_alone_as_long_as_they_are_listed() {
    let own = [
        Wanted::called("sensor").self_signed(),
        Wanted::called("other").self_signed(),
        Wanted::called("late")
            .for_seconds(-2 * DAY, -DAY)
            .self_signed(),
    ];
    let all: Vec<String> = own.iter().map(Device::fingerprint).collect();
    let gateway = Setup::new()
        .toml(&listed(&[all[0].clone(), all[2].clone()], "[]"))
        .start()
        .await;
    let to = address(&gateway, "listed");
    let of = |device| fresh(&gateway, device, TLS13);
    // The name in it is nobody's word but its own: it is no user of ours.
    gateway
        .acl("allow subscribe pinned/%u --user sensor --realm pinned")
        .await;
    let mut live = let_in(to, &of(&own[0]), &Connect::v5("sensor")).await;
    assert_eq!(live.subscribe("pinned/sensor", 0).await, 0);
    assert_eq!(
        refusal(to, &of(&own[1])).await,
        AlertDescription::CertificateUnknown
    );
    assert_eq!(
        refusal(to, &of(&own[2])).await,
        AlertDescription::CertificateExpired
    );

    gateway.write_config(&listed(&all[1..2], "[]"));
    gateway.reload("the configuration was reloaded").await;
    assert_eq!(live.end_code().await, 0x87);
    assert!(outcome(to, &of(&own[1])).await.1);
    assert_eq!(
        refusal(to, &of(&own[0])).await,
        AlertDescription::CertificateUnknown
    );
}

#[tokio::test]
async fn with_a_ca_and_fingerprints_a_certificate_needs_both() {
    let gateway = Setup::new().start().await;
    let (lamp, stove) = (
        issue(&gateway, "lamp").await,
        issue(&gateway, "stove").await,
    );
    let foreign = Wanted::called("lamp").self_signed();
    let dir = gateway.stop().await;
    let fingerprints = [lamp.fingerprint(), foreign.fingerprint()];
    let gateway = Setup::new()
        .toml(&listed(&fingerprints, "\"own\""))
        .start_in(dir)
        .await;
    let to = address(&gateway, "listed");
    let of = |device| fresh(&gateway, device, TLS13);
    assert!(outcome(to, &of(&lamp)).await.1);
    assert_eq!(
        refusal(to, &of(&stove)).await,
        AlertDescription::CertificateUnknown
    );
    assert_eq!(
        refusal(to, &of(&foreign)).await,
        AlertDescription::UnknownCA
    );
}

// Nothing of the CA's own is made up on the way: a gateway with a certificate from elsewhere has no CA until it is asked for.
#[tokio::test]
async fn a_listener_that_trusts_the_own_ca_says_how_to_make_one_where_there_is_none() {
    let files = TempDir::new().expect("a folder");
    let server = Wanted::called("localhost").self_signed();
    server.write(files.path(), "server");
    let folder = files.path().display();
    let text = format!(
        "data_dir = \"{folder}/data\"\n[listeners.mqtts]\nbind = \"127.0.0.1:0\"\nclient_certificates = \"required\"\n\
         [listeners.wss]\nbind = []\n[listeners.mqtt]\nbind = []\n\
         [tls]\ncertificate = \"{folder}/server.pem\"\nprivate_key = \"{folder}/server.key\"\n"
    );
    let file = files.path().join("postern.toml");
    std::fs::write(&file, text).expect("written");
    let run = async |verb: &[&str]| {
        let tool = postern_tests::gateway::gateway_tool().args(verb);
        tool.arg("--config").arg(&file).run().await
    };
    let failed = run(&["run"]).await;
    assert!(!failed.status.success());
    assert!(
        failed.stderr.contains("postern ca init"),
        "{}",
        failed.stderr
    );
    run(&["ca", "init"]).await.expect_success();
    assert!(Path::new(&format!("{folder}/data/tls/ca.crl")).exists());
}
