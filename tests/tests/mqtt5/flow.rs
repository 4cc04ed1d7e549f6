//! Flow control: receive maximum in both directions.

use postern_tests::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, ack, ack_with};
use postern_tests::{Client, Connect, Gateway, Property, Publish, Scope};

use crate::{RECEIVE_MAXIMUM, gateway};

async fn subscriber(gateway: &Gateway, scope: &Scope, maximum: u16, qos: u8) -> Client {
    let connect = Connect::v5(&scope.id("s"))
        .persistent(60)
        .with(Property::ReceiveMaximum(maximum));
    let mut client = gateway.connect(connect).await;
    client.subscribe(&scope.topic("#"), qos).await;
    client
}

// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
#[tokio::test]
async fn the_gateway_waits_for_puback_at_the_receive_maximum() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = subscriber(&gateway, &scope, 3, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    for n in 0..10 {
        publisher
            .publish(Publish::new(&scope.topic("a"), &n.to_string()).qos(1))
            .await;
    }
    let mut in_flight = Vec::new();
    for n in 0..3 {
        let message = client.message().await;
        assert_eq!(message.text(), n.to_string());
        in_flight.push(message);
    }
    // [MQTT-4.9.0-3] [MQTT-3.3.4-10]: everything else still moves.
    client.nothing_came().await;
    client.subscribe(&scope.topic("other"), 1).await;
    client.nothing_came().await;
    for n in 3..10 {
        let oldest = in_flight.remove(0);
        client.send(&ack(PUBACK, oldest.id)).await;
        let message = client.message().await;
        assert_eq!(message.text(), n.to_string());
        in_flight.push(message);
        client.nothing_came().await;
    }
}

// [MQTT-4.9.0-2]: QoS 2 holds its place until PUBCOMP, or until a PUBREC that refuses.
#[tokio::test]
async fn the_gateway_waits_for_pubcomp_at_the_receive_maximum() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = subscriber(&gateway, &scope, 1, 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    for n in 0..3 {
        publisher
            .publish(Publish::new(&scope.topic("a"), &n.to_string()).qos(2))
            .await;
    }
    let first = client.message().await;
    client.nothing_came().await;
    client.send(&ack(PUBREC, first.id)).await;
    assert!(matches!(client.packet().await, Packet::PubRel(pubrel) if pubrel.id == first.id));
    client.nothing_came().await;
    client.send(&ack(PUBCOMP, first.id)).await;
    let second = client.message().await;
    assert_eq!(second.text(), "1");
    client.send(&ack_with(PUBREC, second.id, 0x80)).await;
    assert_eq!(
        client.message().await.text(),
        "2",
        "a refused message is done"
    );
}

// Section 3.3.1.2: QoS 0 is not bound by the receive maximum.
#[tokio::test]
async fn qos_0_passes_a_full_window() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = subscriber(&gateway, &scope, 1, 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(Publish::new(&scope.topic("a"), "1").qos(1))
        .await;
    assert_eq!(client.message().await.qos, 1);
    publisher
        .publish(Publish::new(&scope.topic("b"), "0"))
        .await;
    assert_eq!(client.message().await.qos, 0);
}

// [MQTT-3.3.4-9] over a reconnect: the new connection's maximum counts.
#[tokio::test]
async fn redelivery_keeps_to_the_receive_maximum_of_the_new_connection() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = subscriber(&gateway, &scope, 10, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    for n in 0..10 {
        publisher
            .publish(Publish::new(&scope.topic("a"), &n.to_string()).qos(1))
            .await;
        client.message().await;
    }
    client.vanish();
    let connect = Connect::v5(&scope.id("s"))
        .persistent(60)
        .with(Property::ReceiveMaximum(2));
    let mut client = gateway.connect(connect).await;
    let mut in_flight = vec![client.message().await, client.message().await];
    client.nothing_came().await;
    for n in 2..10 {
        client.send(&ack(PUBACK, in_flight.remove(0).id)).await;
        let message = client.message().await;
        assert_eq!(
            (message.text(), message.dup),
            (n.to_string().as_str(), true)
        );
        in_flight.push(message);
    }
}

// [MQTT-3.3.4-7], section 3.3.4: more than our receive maximum gets 0x93.
#[tokio::test]
async fn a_client_that_exceeds_our_receive_maximum_gets_0x93() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    for n in 1..=RECEIVE_MAXIMUM {
        client
            .start_publish(Publish::new(&scope.topic("a"), "x").qos(2).id(n))
            .await;
        assert_eq!(
            client.pubrec(n).await.code & 0x80,
            0,
            "message {n} of {RECEIVE_MAXIMUM}"
        );
    }
    client
        .start_publish(
            Publish::new(&scope.topic("a"), "x")
                .qos(2)
                .id(RECEIVE_MAXIMUM + 1),
        )
        .await;
    assert_eq!(client.end_code().await, 0x93);
}

// Completing a message frees its place.
#[tokio::test]
async fn pubrel_frees_a_place_of_our_receive_maximum() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    for n in 1..=3 * RECEIVE_MAXIMUM {
        client
            .start_publish(Publish::new(&scope.topic("a"), "x").qos(2).id(n))
            .await;
        client.pubrec(n).await;
        if n >= RECEIVE_MAXIMUM {
            let done = n - RECEIVE_MAXIMUM + 1;
            client.send(&ack(PUBREL, done)).await;
            client
                .wait_for(
                    "PUBCOMP",
                    |p| matches!(p, Packet::PubComp(a) if a.id == done),
                )
                .await;
        }
    }
}
