//! Does paho-mqtt (Python) work, with 3.1.1 and 5, over TLS and over WebSocket? The scenarios themselves are in
//! `tests/peers/paho/exercise.py`.

use postern_tests::peer::{Tool, installed_dir, peers_dir};
use postern_tests::{Scope, Setup, Shared};

/// Scenarios for every version.
const SCENARIOS: [&str; 7] = [
    "every_qos_arrives_in_order_once",
    "a_retained_message_is_kept_and_cleared",
    "the_will_follows_a_broken_connection_and_no_clean_one",
    "a_session_is_resumed_with_its_queue",
    "an_unsubscribed_filter_is_silent",
    "large_messages_pass_both_ways",
    "many_threads_publish_and_nothing_is_lost",
];

/// Scenarios for MQTT 5 alone.
const V5_SCENARIOS: [&str; 6] = [
    "v5_properties_and_identifiers_arrive",
    "v5_an_empty_client_identifier_gets_one",
    "v5_a_second_connection_takes_over",
    "v5_topic_aliases_go_both_ways",
    "v5_no_local_and_retain_handling_hold",
    "v5_a_shared_subscription_splits_the_work",
];

async fn run(version: &str, transport: &str, scenarios: &[&str]) {
    let gateway = Shared::start(Setup::new()).await;
    let address = if transport == "tcp" {
        gateway.addresses.mqtts
    } else {
        gateway.addresses.wss
    };
    for scenario in scenarios {
        Tool::new(installed_dir().join("venv/bin/python"))
            .arg(peers_dir().join("paho/exercise.py"))
            .args([scenario, version, transport])
            .env("PORT", address.port().to_string())
            .env("CA", gateway.ca())
            .env("USERNAME", &gateway.admin.name)
            .env("PASSWORD", &gateway.admin.password)
            .env("SCOPE", Scope::new().id("paho"))
            .run()
            .await
            .expect_success();
    }
}

#[tokio::test]
async fn paho_speaks_3_1_1_over_tls() {
    run("3.1.1", "tcp", &SCENARIOS).await;
}

#[tokio::test]
async fn paho_speaks_3_1_1_over_websocket() {
    run("3.1.1", "websockets", &SCENARIOS).await;
}

#[tokio::test]
async fn paho_speaks_5_over_tls() {
    run("5", "tcp", &SCENARIOS).await;
    run("5", "tcp", &V5_SCENARIOS).await;
}

#[tokio::test]
async fn paho_speaks_5_over_websocket() {
    run("5", "websockets", &SCENARIOS).await;
    run("5", "websockets", &V5_SCENARIOS).await;
}
