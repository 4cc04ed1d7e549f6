//! Does MQTT.js work over WebSocket and TLS, in Node and in a real browser page that trusts our CA? The scenarios
//! themselves are in `tests/peers/mqttjs/scenarios.js`.

use std::path::Path;

use postern_tests::peer::{Finished, Tool, peers_dir};
use postern_tests::{Gateway, Scope, Setup, Shared};
use tempfile::TempDir;

const SCENARIOS: [&str; 5] = [
    "every_qos_arrives_in_order",
    "a_retained_message_and_a_will_arrive",
    "a_session_is_resumed",
    "a_large_message_passes",
    "a_wrong_password_is_refused",
];

const V5_SCENARIOS: [&str; 2] = [
    "v5_properties_arrive",
    "v5_topic_aliases_are_used_both_ways",
];

fn node(gateway: &Gateway, program: &str) -> Tool {
    let folder = peers_dir().join("mqttjs");
    Tool::new("node")
        .arg(folder.join(program))
        .current_dir(&folder)
        .env(
            "URL",
            format!("wss://localhost:{}/mqtt", gateway.addresses.wss.port()),
        )
        .env("CA", gateway.ca())
        .env("USERNAME", &gateway.admin.name)
        .env("PASSWORD", &gateway.admin.password)
        .env("SCOPE", Scope::new().id("mqttjs"))
}

fn check(finished: &Finished, versions: &[&str]) {
    for version in versions {
        let only_v5 = if *version == "5" {
            &V5_SCENARIOS[..]
        } else {
            &[]
        };
        for scenario in SCENARIOS.iter().chain(only_v5) {
            assert!(
                finished.stdout.contains(&format!("{version} {scenario}\n")),
                "{scenario} did not run: {finished}"
            );
        }
    }
}

#[tokio::test]
async fn mqttjs_works_in_node() {
    let gateway = Shared::start(Setup::new()).await;
    let finished = node(&gateway, "node.mjs").run().await.expect_success();
    check(&finished, &["3", "4", "5"]);
}

fn chromium() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .map(|dir| Path::new(dir).join("chromium"))
        .find(|file| file.exists());
    found
        .expect("chromium is installed: tests/run peers")
        .display()
        .to_string()
}

#[tokio::test]
async fn mqttjs_works_in_a_browser_page_that_trusts_our_ca() {
    let gateway = Shared::start(Setup::new()).await;
    let home = TempDir::new().expect("a temporary directory");
    let store = home.path().join(".pki/nssdb");
    std::fs::create_dir_all(&store).expect("the certificate store's folder");
    let store = format!("sql:{}", store.display());
    let certutil = || Tool::new("certutil").args(["-d", &store]);
    certutil()
        .args(["-N", "--empty-password"])
        .run()
        .await
        .expect_success();
    certutil()
        .args(["-A", "-t", "C,,", "-n", "postern", "-i"])
        .arg(gateway.ca())
        .run()
        .await
        .expect_success();
    let page = node(&gateway, "page.mjs")
        .env("HOME", home.path())
        .env("CHROMIUM", chromium());
    check(&page.run().await.expect_success(), &["4", "5"]);
}

#[tokio::test]
async fn a_browser_page_that_does_not_trust_our_ca_does_not_connect() {
    let gateway = Shared::start(Setup::new()).await;
    let home = TempDir::new().expect("a temporary directory");
    let page = node(&gateway, "page.mjs")
        .env("HOME", home.path())
        .env("CHROMIUM", chromium());
    let finished = page.run().await;
    assert!(!finished.status.success(), "{finished}");
    assert!(
        finished.stdout.contains("ERR_CERT_AUTHORITY_INVALID"),
        "{finished}"
    );
}
