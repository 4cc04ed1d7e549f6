//! What does a client cost that does not read? Nobody else anything, and itself nothing but time.

use std::time::Duration;

use postern_tests::{
    Client, Connect, Gateway, Packet, Publish, Setup, packet::Version, wait::within_time,
};

/// More than the kernel's buffers and the gateway's outbox hold.
const MESSAGES: usize = 400;
const SIZE: usize = 60_000;

async fn gateway() -> Gateway {
    Setup::new()
        .toml("[limits]\nmax_inflight = 65535\nmax_queued_bytes = \"64MiB\"\nmax_queued_messages = 10000")
        .start()
        .await
}

/// A subscriber that has not read, and what waits for it.
async fn stuck(gateway: &Gateway, id: &str) -> Client {
    let mut subscriber = gateway.connect(Connect::v5(id).persistent(100)).await;
    assert_eq!(subscriber.subscribe("t", 1).await, 1);
    let mut publisher = gateway.connect(Connect::v5("publisher")).await;
    for n in 0..MESSAGES {
        let mut payload = n.to_string().into_bytes();
        payload.resize(SIZE, b' ');
        let message = Publish::new("t", "").payload(payload).qos(1);
        assert_eq!(publisher.publish(message).await, 0);
    }
    publisher.disconnect().await;
    subscriber
}

#[tokio::test]
async fn a_client_that_reads_late_gets_everything_without_saying_a_word() {
    let gateway = gateway().await;
    let mut subscriber = stuck(&gateway, "late").await;
    for n in 0..MESSAGES {
        match subscriber.next().await {
            Some(Packet::Publish(message)) => assert_eq!(message.text().trim_end(), n.to_string()),
            other => panic!("instead of message {n} came {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_can_be_taken_over_at_once() {
    let gateway = gateway().await;
    let _old = stuck(&gateway, "dead").await;
    let mut new = gateway.open().await;
    let connect = gateway.login(&Connect::v5("dead").persistent(100));
    new.send(&connect.bytes()).await;
    let what = "CONNACK, though the old connection takes nothing";
    let answer = new.next_within(what, Duration::from_secs(8)).await;
    assert!(
        matches!(&answer, Some(Packet::ConnAck(connack)) if connack.session_present && connack.code == 0),
        "{answer:?}"
    );
    assert_eq!(new.version, Version::V5);
}

#[tokio::test]
async fn clients_that_publish_and_do_not_read_do_not_hold_the_bus() {
    let gateway = gateway().await;
    let mut stuck_ones = Vec::new();
    for n in 0..3 {
        stuck_ones.push(stuck(&gateway, &format!("stuck-{n}")).await);
    }
    let mut publisher = gateway.connect(Connect::v5("p")).await;
    let round = async {
        for _ in 0..100 {
            publisher.publish(Publish::new("other", "x").qos(1)).await;
        }
    };
    within_time(
        "100 messages of somebody else",
        Duration::from_secs(5),
        round,
    )
    .await;
}
