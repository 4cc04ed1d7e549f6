//! Renewal: at two thirds of any lifetime, when the CA asks for it, within the chain budget; connections stay up.

use postern_tests::Setup;
use postern_tests::packet::PINGREQ;
use postern_tests::wait::{until, until_some};

use crate::authority::Options;
use crate::stand_in::StandIn;
use crate::world::{NAME, World, config, text};

/// Seconds that certificates live in these tests.
const LIFE: u64 = 12;

#[tokio::test]
async fn a_certificate_of_seconds_lives_through_renewals_while_clients_stay_connected() {
    let pebble = Options::default()
        .config("certificateValidityPeriod", LIFE)
        .start()
        .await;
    let world = World::issued(pebble, &format!("domains = \"{NAME}\"")).await;
    let root = world.pebble.issuing_root().await;
    let mut client = world.client(NAME, &root, "stays").await;
    let mut shown = world.show("acme").await;
    let pin = text(&shown["pins"]["spki-sha256"]);
    for round in 0..3 {
        let before = text(&shown["pins"]["sha256"]);
        shown = world.another_than(&before, "acme").await;
        assert_eq!(
            text(&shown["pins"]["spki-sha256"]),
            pin,
            "the key stays: {round}"
        );
        // A new client gets the new certificate and trusts it; the old connection goes on.
        drop(world.client(NAME, &root, "new").await);
        client.send(&PINGREQ).await;
        assert_eq!(client.frame().await.map(|(kind, _)| kind), Some(0xD0));
    }
    assert!(world.status("acme").await.expect("listed")["previous"] == true);
    assert_eq!(world.health().await, "healthy\n");
}

#[tokio::test]
async fn without_reuse_key_each_renewal_has_a_key_of_its_own() {
    let pebble = Options::default().start().await;
    let world = World::issued(pebble, &format!("domains = \"{NAME}\"\nreuse_key = false")).await;
    let before = world.show("acme").await;
    let answer = world.renew(&["--force"]).await.expect_success();
    assert!(
        answer.stdout.contains("a new certificate is in force"),
        "{answer}"
    );
    let after = world.show("acme").await;
    assert_ne!(before["pins"]["spki-sha256"], after["pins"]["spki-sha256"]);
    world.trusted(NAME).await.expect_success();
    // What is not due is not ordered again without need.
    let answer = world.renew(&[]).await.expect_success();
    assert!(answer.stdout.contains("not due"), "{answer}");
    assert_eq!(
        world.fingerprint("acme").await,
        text(&after["pins"]["sha256"])
    );
}

#[tokio::test]
async fn a_renewal_with_a_longer_chain_waits_for_consent() {
    let pebble = Options::default().start().await;
    let acme = format!("domains = \"{NAME}\"\nmax_chain_depth = 2");
    let mut world = World::issued(pebble, &acme).await;
    let first = world.fingerprint("acme").await;
    world.pebble.stop_ca().await;
    world.pebble.set_env("PEBBLE_CHAIN_LENGTH", "2");
    world.pebble.start_ca().await;

    let answer = world.renew(&["--force"]).await;
    let line = answer.expect_one_line_failure();
    assert!(
        line.contains("waits") && line.contains("--accept-chain"),
        "{line}"
    );
    assert_eq!(world.fingerprint("acme").await, first, "the old one stays");
    let health = world.complains("waits for consent").await;
    assert!(
        health.contains("postern cert renew acme --accept-chain"),
        "{health}"
    );

    world.renew(&["--accept-chain"]).await.expect_success();
    assert_ne!(world.fingerprint("acme").await, first);
    world.trusted(NAME).await.expect_success();
    // What was consented to needs no consent again.
    world.renew(&["--force"]).await.expect_success();
    until_some("health", async || {
        (world.health().await == "healthy\n").then_some(())
    })
    .await;
    let line = world
        .renew(&["--accept-chain"])
        .await
        .expect_one_line_failure();
    assert!(line.contains("no certificate acme waits"), "{line}");
}

#[tokio::test]
async fn a_chain_that_was_long_from_the_start_needs_no_consent_to_stay_so() {
    let pebble = Options::default()
        .env("PEBBLE_CHAIN_LENGTH", "2")
        .start()
        .await;
    let acme = format!("domains = \"{NAME}\"\nmax_chain_depth = 2");
    let world = World::issued(pebble, &acme).await;
    let first = world.fingerprint("acme").await;
    world.renew(&["--force"]).await.expect_success();
    assert_ne!(world.fingerprint("acme").await, first);
}

// RFC 9773, by a stand-in: Pebble 2.4.0 has no renewal information.
#[tokio::test]
async fn the_ca_may_ask_for_an_early_renewal_once() {
    let pebble = Options::default().start().await;
    let stand_in = StandIn::start(&pebble).await;
    stand_in.ask_for_renewal_of_the_first();
    let acme = format!(
        "domains = \"{NAME}\"\ndirectory = \"{}\"",
        stand_in.directory()
    );
    let world = World::issued(pebble, &acme).await;
    until("two certificates", || stand_in.asked_about() == 2).await;
    let log = world.gateway.process.log();
    until("two certificates in the log", || {
        log.text()
            .matches("new handshakes get a new certificate")
            .count()
            == 2
    })
    .await;
    world.trusted(NAME).await.expect_success();
    assert_eq!(world.health().await, "healthy\n");
}

// RFC 9773, by Pebble 2.6: its window is the day on either side of two thirds of the lifetime.
#[tokio::test]
async fn renewal_falls_into_the_window_of_the_ca_and_says_what_it_replaces() {
    const DAY: i64 = 86_400;
    let options = Options::default().newer();
    let pebble = options
        .config("certificateValidityPeriod", 90 * DAY)
        .start()
        .await;
    let acme = format!("domains = \"{NAME}\"");
    let setup = Setup::new().toml(&config(&pebble, &acme));
    let gateway = setup
        .env("RUST_LOG", "info,gateway::tls=debug")
        .start()
        .await;
    let world = World { pebble, gateway };
    let first = world.certificate("acme").await;
    let log = world.gateway.process.log();
    until("the CA to be asked", || {
        log.text().contains("the CA says when to renew")
    })
    .await;
    let start = first["certificate"]["not-before"].as_i64().expect("a time");
    let (by_age, at) = until_some("a moment by chance", async || {
        let status = world.status("acme").await?;
        let at = status["renewal"].as_i64()?;
        let by_age = start + 60 * DAY;
        (at != by_age).then_some((by_age, at))
    })
    .await;
    assert!(
        (at - by_age).abs() <= DAY + 60,
        "{at} is not within a day of {by_age}"
    );
    world.renew(&["--force"]).await.expect_success();
    assert!(
        !log.text().contains("without saying what is replaced"),
        "{}",
        log.text()
    );
    world.trusted(NAME).await.expect_success();
}

#[tokio::test]
async fn a_rollback_stands_until_a_renewal_is_asked_for() {
    let pebble = Options::default().start().await;
    let world = World::issued(pebble, &format!("domains = \"{NAME}\"")).await;
    let first = world.fingerprint("acme").await;
    world.renew(&["--force"]).await.expect_success();
    let second = world.fingerprint("acme").await;
    assert_ne!(first, second);
    let rollback = world.gateway.cli(&["cert", "rollback", "acme"], "").await;
    rollback.expect_success();
    assert_eq!(world.fingerprint("acme").await, first);
    world.trusted(NAME).await.expect_success();
}
