//! What is sent again, and what never twice: QoS 1 and 2 over broken connections.

use postern_tests::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, ack, ack_with};
use postern_tests::{Client, Connect, Gateway, Publish, Scope};

use crate::gateway;

async fn session(gateway: &Gateway, scope: &Scope) -> Client {
    gateway
        .connect(Connect::v5(&scope.id("s")).persistent(60))
        .await
}

/// A persistent session with a QoS 2 subscription, and `count` messages of `qos` on their way to it.
async fn with_messages(
    gateway: &Gateway,
    scope: &Scope,
    qos: u8,
    count: usize,
) -> (Client, Vec<Publish>) {
    let mut client = session(gateway, scope).await;
    client.subscribe(&scope.topic("a"), 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let mut messages = Vec::new();
    for n in 0..count {
        publisher
            .publish(Publish::new(&scope.topic("a"), &n.to_string()).qos(qos))
            .await;
        messages.push(client.message().await);
    }
    (client, messages)
}

// [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1] [MQTT-2.2.1-4]
#[tokio::test]
async fn unacknowledged_messages_come_again_with_dup_their_identifier_and_order() {
    let gateway = gateway().await;
    for qos in [1, 2] {
        let scope = Scope::new();
        let (client, first) = with_messages(&gateway, &scope, qos, 5).await;
        client.vanish();
        for _ in 0..2 {
            let mut client = session(&gateway, &scope).await;
            assert!(client.connack.session_present);
            for message in &first {
                assert_eq!(client.message().await, message.clone().dup());
            }
            client.nothing_came().await;
            client.vanish();
        }
    }
}

// [MQTT-4.3.2-3], section 4.4: acknowledged is done, and only that.
#[tokio::test]
async fn acknowledged_messages_never_come_again() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (mut client, first) = with_messages(&gateway, &scope, 1, 5).await;
    for n in [1, 3] {
        client.send(&ack(PUBACK, first[n].id)).await;
    }
    client.ping().await;
    client.vanish();
    let mut client = session(&gateway, &scope).await;
    for n in [0, 2, 4] {
        assert_eq!(client.receive().await, first[n].clone().dup());
    }
    client.ping().await;
    client.vanish();
    session(&gateway, &scope).await.nothing_came().await;
}

// [MQTT-4.4.0-2]: a refusal acknowledges, too.
#[tokio::test]
async fn a_refused_message_never_comes_again() {
    let gateway = gateway().await;
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        for reason in [0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
            let scope = Scope::new();
            let (mut client, first) = with_messages(&gateway, &scope, qos, 1).await;
            client.send(&ack_with(kind, first[0].id, reason)).await;
            client.nothing_came().await;
            client.vanish();
            session(&gateway, &scope).await.nothing_came().await;
        }
    }
}

// [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1]: after PUBREC only PUBREL is left to send.
#[tokio::test]
async fn pubrel_comes_again_instead_of_the_message() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (mut client, first) = with_messages(&gateway, &scope, 2, 3).await;
    client.send(&ack(PUBREC, first[1].id)).await;
    assert!(matches!(client.packet().await, Packet::PubRel(pubrel) if pubrel.id == first[1].id));
    client.vanish();
    let mut client = session(&gateway, &scope).await;
    let mut messages = Vec::new();
    let mut pubrels = Vec::new();
    for _ in 0..3 {
        match client.packet().await {
            Packet::Publish(message) => messages.push(message),
            Packet::PubRel(pubrel) => pubrels.push(pubrel.id),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(messages, [first[0].clone().dup(), first[2].clone().dup()]);
    assert_eq!(pubrels, [first[1].id]);
    client.send(&ack(PUBCOMP, first[1].id)).await;
    for message in messages {
        client.answer(&message).await;
    }
    client.ping().await;
    client.vanish();
    session(&gateway, &scope).await.nothing_came().await;
}

// [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12], D3: a retransmission is acknowledged again and delivered once.
#[tokio::test]
async fn a_retransmitted_qos_2_message_is_delivered_once() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut watcher = gateway.v5(&scope.id("w")).await;
    watcher.subscribe(&scope.topic("#"), 2).await;
    let mut client = session(&gateway, &scope).await;
    let message = Publish::new(&topic, "once").qos(2).id(7);
    for _ in 0..3 {
        client.start_publish(message.clone()).await;
        client.pubrec(7).await;
        client.start_publish(message.clone().dup()).await;
        client.pubrec(7).await;
        client.vanish();
        client = session(&gateway, &scope).await;
        client.start_publish(message.clone().dup()).await;
        client.pubrec(7).await;
        for _ in 0..2 {
            client.send(&ack(PUBREL, 7)).await;
            client
                .wait_for("PUBCOMP", |p| matches!(p, Packet::PubComp(a) if a.id == 7))
                .await;
        }
        // Now the identifier is free, and the same bytes are a new message.
    }
    client
        .publish(Publish::new(&scope.topic("end"), "").qos(2))
        .await;
    assert_eq!(watcher.receive_until(&scope.topic("end")).await.len(), 3);
}

// D3: the retransmission may arrive while the first copy is still on its way. It joins that one, so that there may be
// fewer PUBRECs than copies; D4 keeps the one of the next message behind all of them.
#[tokio::test]
async fn retransmissions_in_one_segment_are_delivered_once() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&scope.topic("#"), 0).await;
    let message = Publish::new(&scope.topic("a"), "once").qos(2).id(9);
    let mut bytes = message.bytes(client.version);
    for _ in 0..5 {
        bytes.extend(message.clone().dup().bytes(client.version));
    }
    let end = Publish::new(&scope.topic("end"), "").qos(2).id(10);
    bytes.extend(end.bytes(client.version));
    client.send(&bytes).await;
    client.pubrec(9).await;
    client.pubrec(10).await;
    let mut delivered = Vec::new();
    while delivered.last() != Some(&end.topic) {
        match client.packet().await {
            Packet::Publish(message) => delivered.push(message.topic),
            Packet::PubRec(again) => assert_eq!(again.id, 9),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(delivered, [message.topic, end.topic]);
}

// A clean start forgets the packet identifiers of both directions.
#[tokio::test]
async fn a_clean_start_forgets_what_was_in_flight() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (mut client, _) = with_messages(&gateway, &scope, 2, 3).await;
    client
        .start_publish(Publish::new(&scope.topic("b"), "one").qos(2).id(7))
        .await;
    client.pubrec(7).await;
    client.vanish();
    let mut watcher = gateway.v5(&scope.id("w")).await;
    watcher.subscribe(&scope.topic("b"), 2).await;
    let mut client = gateway.v5(&scope.id("s")).await;
    client.nothing_came().await;
    client
        .publish(Publish::new(&scope.topic("b"), "two").qos(2).id(7))
        .await;
    assert_eq!(watcher.receive().await.text(), "two");
}

// Sections 3.6.2.1, 3.7.2.1 and 4.3.3: unknown identifiers get 0x92 and nobody is disconnected.
#[tokio::test]
async fn unknown_packet_identifiers_get_0x92() {
    let gateway = gateway().await;
    let mut client = session(&gateway, &Scope::new()).await;
    client.send(&ack(PUBREL, 1234)).await;
    assert!(matches!(client.packet().await, Packet::PubComp(a) if a.id == 1234 && a.code == 0x92));
    client.send(&ack(PUBREC, 1234)).await;
    assert!(matches!(client.packet().await, Packet::PubRel(a) if a.id == 1234 && a.code == 0x92));
    client.send(&ack(PUBACK, 1234)).await;
    client.send(&ack(PUBCOMP, 1234)).await;
    client.nothing_came().await;
}

// [MQTT-3.10.4-3]: UNSUBSCRIBE does not abandon what was already sent.
#[tokio::test]
async fn unsubscribe_completes_what_was_sent() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (mut client, first) = with_messages(&gateway, &scope, 2, 2).await;
    assert_eq!(client.unsubscribe(&[&scope.topic("a")]).await, [0]);
    client.vanish();
    let mut client = session(&gateway, &scope).await;
    for message in &first {
        assert_eq!(client.receive().await, message.clone().dup());
    }
    client.nothing_came().await;
}

// [MQTT-2.2.1-4]: no identifier is used twice at the same time, even after all 65,535 went by.
#[tokio::test]
async fn packet_identifiers_in_use_are_skipped() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway.v5(&scope.id("s")).await;
    client.subscribe(&topic, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher.publish(Publish::new(&topic, "held").qos(1)).await;
    let held = client.message().await;
    for batch in 0..660 {
        for n in 0..100 {
            // The window of our own receive maximum is respected by waiting for one acknowledgement in twenty.
            let (_, id) = publisher
                .start_publish(Publish::new(&topic, "x").qos(1).id(1 + n))
                .await;
            if n % 20 == 19 {
                for earlier in id - 19..=id {
                    publisher.puback(earlier).await;
                }
                for _ in 0..20 {
                    let message = client.message().await;
                    assert_ne!(message.id, held.id, "batch {batch}");
                    client.send(&ack(PUBACK, message.id)).await;
                }
            }
        }
    }
}
