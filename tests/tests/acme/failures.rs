//! What goes wrong: the CA, the network, the DNS, the operator. The certificate that is there stays, the gateway serves
//! on, and it says why.

use postern_tests::wait::{until, until_some};
use postern_tests::{Connect, Setup};

use crate::authority::{HTTP_PORT, Options};
use crate::stand_in::StandIn;
use crate::world::{NAME, World, config, hook};

#[tokio::test]
async fn a_gateway_starts_and_serves_while_the_ca_is_down_and_gets_its_certificate_later() {
    let pebble = Options::default().without_ca().await;
    let mut world = World::start(pebble, &format!("domains = \"{NAME}\"")).await;
    world.gateway.expect_error("no new certificate");
    drop(world.gateway.connect_tls(Connect::v5("early")).await);
    let health = world.complains("cannot be reached").await;
    assert!(
        health.contains("the private CA's certificate is served meanwhile"),
        "{health}"
    );
    world.pebble.start_ca().await;
    world.renew(&[]).await.expect_success();
    world.trusted(NAME).await.expect_success();
    assert_eq!(world.health().await, "healthy\n");
}

#[tokio::test]
async fn a_ca_that_forgot_the_account_and_refuses_nonces_still_gives_a_certificate() {
    let pebble = Options::default()
        .env("PEBBLE_WFE_NONCEREJECT", "20")
        .start()
        .await;
    let mut world = World::issued(pebble, &format!("domains = \"{NAME}\"")).await;
    world.gateway.expect_error("no new certificate");
    let first = world.fingerprint("acme").await;
    // Its state is in memory only.
    world.pebble.stop_ca().await;
    let line = world.renew(&["--force"]).await.expect_one_line_failure();
    assert!(line.contains("cannot be reached"), "{line}");
    assert_eq!(world.fingerprint("acme").await, first, "the old one stays");
    world.pebble.start_ca().await;
    world.renew(&[]).await.expect_success();
    world.trusted(NAME).await.expect_success();
}

#[tokio::test]
async fn a_new_contact_of_an_account_that_the_ca_forgot_stops_no_renewal() {
    let pebble = Options::default().start().await;
    let acme = format!("domains = \"{NAME}\"");
    let mut world = World::issued(pebble, &acme).await;
    world.gateway.expect_error("acme.contact");
    let first = world.fingerprint("acme").await;
    // Its state is in memory only.
    world.pebble.stop_ca().await;
    world.pebble.start_ca().await;
    let changed = config(&world.pebble, &acme).replace("ann@example.org", "bob@example.org");
    world.gateway.write_config(&changed);
    world.gateway.reload("the configuration was reloaded").await;
    world.renew(&["--force"]).await.expect_success();
    assert_ne!(world.fingerprint("acme").await, first);
    world.trusted(NAME).await.expect_success();
}

#[tokio::test]
async fn a_domain_that_does_not_validate_is_told_in_words_and_changes_nothing() {
    let pebble = Options::default().start().await;
    // Pebble comes to a port where nobody is.
    let acme = format!("domains = \"{NAME}\"\nhttp_bind = [\"{}:5999\"]", pebble.ip);
    let config = config(&pebble, &acme).replace(
        &format!("http_bind = [\"{}:{HTTP_PORT}\"]\n", pebble.ip),
        "",
    );
    let gateway = Setup::new().toml(&config).start().await;
    let world = World { pebble, gateway };
    world.gateway.expect_error("no new certificate");
    let health = world.complains("could not be renewed").await;
    assert!(
        health.contains(NAME) && health.contains("connection"),
        "{health}"
    );
    assert!(
        health.contains("firewall"),
        "it says where to look: {health}"
    );
    drop(world.gateway.connect_tls(Connect::v5("served")).await);
    let status = world.status("acme").await.expect("listed");
    assert!(status["certificate"].is_null(), "{status}");
}

#[tokio::test]
async fn a_name_that_the_ca_does_not_serve_is_refused_in_words() {
    let pebble = Options::default()
        .config("domainBlocklist", vec!["blocked.example"])
        .start()
        .await;
    let world = World::start(pebble, "domains = \"blocked.example\"").await;
    world.gateway.expect_error("no new certificate");
    let health = world.complains("rejectedIdentifier").await;
    assert!(health.contains("correct `domains`"), "{health}");
}

// The stand-in refuses orders: Pebble has no rate limits.
#[tokio::test]
async fn a_rate_limit_is_waited_for_also_by_the_next_start() {
    let pebble = Options::default().start().await;
    let stand_in = StandIn::start(&pebble).await;
    stand_in.limit(true);
    let acme = format!(
        "domains = \"{NAME}\"\ndirectory = \"{}\"",
        stand_in.directory()
    );
    let world = World::start(pebble, &acme).await;
    world.gateway.expect_error("no new certificate");
    world.complains("rateLimited").await;
    let next = |status: &serde_json::Value| status["renewal"].as_i64().expect("a time");
    let before = next(&world.status("acme").await.expect("listed"));
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("now");
    let wait = before - now.as_secs() as i64;
    assert!(
        (3_000..=3_600).contains(&wait),
        "Retry-After is an hour: {wait}"
    );
    assert_eq!(stand_in.orders(), 1);

    let World { pebble, gateway } = world;
    let dir = gateway.stop().await;
    let gateway = Setup::new()
        .toml(&config(&pebble, &acme))
        .start_in(dir)
        .await;
    let world = World { pebble, gateway };
    world.complains("rateLimited").await;
    assert_eq!(next(&world.status("acme").await.expect("listed")), before);
    assert_eq!(stand_in.orders(), 1, "a restart does not ask again");

    stand_in.limit(false);
    world.renew(&[]).await.expect_success();
    world.trusted(NAME).await.expect_success();
}

#[tokio::test]
async fn an_order_is_taken_up_after_a_crash_and_its_dns_record_removed() {
    let pebble = Options::default().start().await;
    let (directory, hook) = hook(&pebble, true);
    let acme = format!("domains = \"{NAME}\"\nchallenge = \"dns-01\"\ndns_hook = {hook:?}");
    let world = World::start(pebble, &acme).await;
    let calls = || std::fs::read_to_string(directory.path().join("calls")).unwrap_or_default();
    until("the hook to be called", || calls().contains("present")).await;
    let World { pebble, gateway } = world;
    let dir = gateway.kill().await;
    std::fs::write(directory.path().join("go"), "").expect("written");
    let gateway = Setup::new()
        .toml(&config(&pebble, &acme))
        .start_in(dir)
        .await;
    let world = World { pebble, gateway };
    let log = world.gateway.process.log();
    world.certificate("acme").await;
    world.trusted(NAME).await.expect_success();
    assert!(
        log.text().contains("the order under way is taken up"),
        "{}",
        log.text()
    );
    assert!(
        !log.text().contains("ordered a certificate"),
        "no second order"
    );
    let words: Vec<String> = calls()
        .lines()
        .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
        .collect();
    assert_eq!(words, ["present", "cleanup", "present", "cleanup"]);
}

#[tokio::test]
async fn the_preflight_names_a_forbidding_caa_record_and_a_port_that_is_taken() {
    let pebble = Options::default().start().await;
    let stand_in = StandIn::start(&pebble).await;
    stand_in.date("Thu, 01 Jan 2026 00:00:00 GMT");
    let record = serde_json::json!({
        "host": "example.org.",
        "policies": [{"tag": "issue", "value": "other-ca.example"}],
    });
    pebble.tell_dns("add-caa", record).await;
    let taken = std::net::TcpListener::bind((pebble.ip, HTTP_PORT)).expect("free");
    let acme = format!(
        "domains = \"{NAME}\"\ndirectory = \"{}\"",
        stand_in.directory()
    );
    let world = World::start(pebble, &acme).await;
    world.gateway.expect_error("no new certificate");
    world.gateway.expect_error("http-01 cannot be answered");
    let health = world.complains("it would be in vain").await;
    let pid = format!("(process {})", std::process::id());
    assert!(health.contains(&pid), "who has the port: {health}");
    assert!(
        health.contains("the CAA record of example.org forbids"),
        "{health}"
    );
    assert_eq!(stand_in.orders(), 0, "nothing was ordered");

    let preflight = world.gateway.cli(&["cert", "preflight"], "").await;
    assert_eq!(preflight.status.code(), Some(1), "{preflight}");
    assert!(
        preflight
            .stdout
            .contains("problem: http-01 cannot be answered"),
        "{preflight}"
    );
    assert!(
        preflight
            .stdout
            .contains("ok: mqtt.example.org resolves here"),
        "{preflight}"
    );
    assert!(
        preflight.stdout.contains("problem: the clock is"),
        "{preflight}"
    );

    drop(taken);
    stand_in.date("");
    let clear = serde_json::json!({ "host": "example.org." });
    world.pebble.tell_dns("clear-caa", clear).await;
    world.renew(&[]).await.expect_success();
    world.trusted(NAME).await.expect_success();
    let preflight = world
        .gateway
        .cli(&["cert", "preflight"], "")
        .await
        .expect_success();
    assert!(
        preflight
            .stdout
            .contains("something must forward port 80 there"),
        "{preflight}"
    );
}

#[tokio::test]
async fn the_preflight_works_without_a_gateway_and_names_a_ca_that_is_not_there() {
    let pebble = Options::default().without_ca().await;
    let world = World::start(pebble, "").await;
    let World { pebble, gateway } = world;
    let config_file = gateway.config.clone();
    let dir = gateway.stop().await;
    let acme = config(&pebble, &format!("domains = \"{NAME}\""));
    let text = std::fs::read_to_string(&config_file).expect("readable");
    let head = text
        .split("[acme]")
        .next()
        .expect("a head")
        .split("[listeners.validated]")
        .next();
    std::fs::write(&config_file, format!("{}{acme}", head.expect("a head"))).expect("written");
    let finished = postern_tests::gateway::gateway_tool()
        .args(["cert", "preflight", "--config"])
        .arg(&config_file)
        .run()
        .await;
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    assert!(finished.stdout.contains("problem: the CA at"), "{finished}");
    drop(dir);
}

#[tokio::test]
async fn a_profile_is_asked_for_where_the_ca_has_it_and_refused_where_not() {
    let pebble = Options::default().start().await;
    let stand_in = StandIn::start(&pebble).await;
    let lines = |profile: &str| {
        format!(
            "domains = \"{NAME}\"\nprofile = \"{profile}\"\ndirectory = \"{}\"",
            stand_in.directory()
        )
    };
    let world = World::start(pebble, &lines("absent")).await;
    world.gateway.expect_error("no new certificate");
    let health = world.complains("the CA has no profile").await;
    assert!(
        health.contains("shortlived"),
        "it says which there are: {health}"
    );
    world
        .gateway
        .write_config(&config(&world.pebble, &lines("shortlived")));
    world.gateway.reload("the configuration was reloaded").await;
    world.certificate("acme").await;
    until_some("health", async || {
        (world.health().await == "healthy\n").then_some(())
    })
    .await;
}
