//! Keep alive: how long silence is allowed.

use std::time::{Duration, Instant};

use postern_tests::packet::PINGREQ;
use postern_tests::{Connect, Property, Publish, Scope, Setup};

use crate::gateway;

const EARLIEST: Duration = Duration::from_millis(1_490);
const LATEST: Duration = Duration::from_secs(4);

// [MQTT-3.1.2-22]
#[tokio::test]
async fn a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    let gateway = gateway().await;
    for encrypted in [false, true] {
        let connect = Connect::v5(&Scope::new().id("a")).keep_alive(1);
        let mut client = if encrypted {
            gateway.connect_tls(connect).await
        } else {
            gateway.connect(connect).await
        };
        let start = Instant::now();
        assert_eq!(client.end_code().await, 0x8D);
        assert!(
            start.elapsed() >= EARLIEST && start.elapsed() < LATEST,
            "after {:?}",
            start.elapsed()
        );
    }
}

// Section 3.1.2.10: any packet will do, and half a packet will not.
#[tokio::test]
async fn any_packet_keeps_the_connection_alive() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway
        .connect(Connect::v5(&scope.id("a")).keep_alive(1))
        .await;
    let mut clock = tokio::time::interval(Duration::from_millis(700));
    for round in 0..6 {
        clock.tick().await;
        if round % 2 == 0 {
            client.ping().await;
        } else {
            client
                .publish(Publish::new(&scope.topic("a"), "alive"))
                .await;
        }
    }
    client.nothing_came().await;
    let start = Instant::now();
    assert_eq!(client.end_code().await, 0x8D);
    assert!(
        start.elapsed() >= EARLIEST && start.elapsed() < LATEST,
        "after {:?}",
        start.elapsed()
    );
}

// [MQTT-3.1.2-22]: messages towards the client do not count.
#[tokio::test]
async fn receiving_alone_does_not_keep_a_connection_alive() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway
        .connect(Connect::v5(&scope.id("a")).keep_alive(1))
        .await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let start = Instant::now();
    client.subscribe(&topic, 0).await;
    let feeding = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(200));
        while start.elapsed() < LATEST {
            clock.tick().await;
            publisher.publish(Publish::new(&topic, "x")).await;
        }
    });
    assert_eq!(client.end_code().await, 0x8D);
    assert!(
        start.elapsed() >= EARLIEST && start.elapsed() < LATEST,
        "after {:?}",
        start.elapsed()
    );
    feeding.abort();
}

// [MQTT-3.1.2-21] [MQTT-3.2.2-21], S3
#[tokio::test]
async fn the_maximum_keep_alive_is_imposed() {
    let gateway = Setup::new()
        .toml("[session]\nmax_keep_alive = \"1s\"")
        .start()
        .await;
    for asked in [0, 2, 65_535] {
        let mut client = gateway.connect(Connect::v5("a").keep_alive(asked)).await;
        assert!(
            client
                .connack
                .properties
                .contains(&Property::ServerKeepAlive(1)),
            "{asked}: {:?}",
            client.connack
        );
        let start = Instant::now();
        assert_eq!(client.end_code().await, 0x8D);
        assert!(
            start.elapsed() >= EARLIEST && start.elapsed() < LATEST,
            "after {:?}",
            start.elapsed()
        );
    }
    let client = gateway.connect(Connect::v5("a").keep_alive(1)).await;
    let imposed = client
        .connack
        .properties
        .iter()
        .any(|p| matches!(p, Property::ServerKeepAlive(n) if *n != 1));
    assert!(!imposed, "what the client asked for is within the maximum");
}

// [MQTT-3.12.4-1], byte for byte.
#[tokio::test]
async fn every_pingreq_is_answered() {
    let gateway = gateway().await;
    let mut client = gateway.v5(&Scope::new().id("a")).await;
    client.send(&PINGREQ.repeat(10)).await;
    for _ in 0..10 {
        assert_eq!(client.frame().await, Some((0xD0, vec![])));
    }
}
