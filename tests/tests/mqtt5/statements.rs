//! Statements that no other test has as its subject: corners of exchanges, and what must not happen.

use postern_tests::packet::{
    PINGREQ, PUBREC, PUBREL, Packet, RETAIN_NEVER, Version, ack, disconnect, unsubscribe,
};
use postern_tests::wait::until_some;
use postern_tests::{Connect, Property, Publish, Scope, Setup, Subscribe};

use crate::gateway;
use crate::publish::is_retained;

// [MQTT-4.3.2-5]
#[tokio::test]
async fn after_puback_the_same_identifier_is_a_new_message_whatever_dup_says() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&scope.topic("a"), 0).await;
    for text in ["one", "two", "two"] {
        let message = Publish::new(&scope.topic("a"), text).qos(1).id(7).dup();
        assert_eq!(client.publish(message).await, 0);
        assert_eq!(client.receive().await.text(), text);
    }
    client.nothing_came().await;
}

// [MQTT-4.3.3-9]
#[tokio::test]
async fn after_a_pubrec_that_refuses_the_same_identifier_is_a_new_message() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&scope.topic("a"), 0).await;
    for _ in 0..2 {
        client
            .start_publish(Publish::new("$SYS/denied", "").qos(2).id(7))
            .await;
        assert_eq!(client.pubrec(7).await.code, 0x87);
    }
    let message = Publish::new(&scope.topic("a"), "new").qos(2).id(7).dup();
    assert_eq!(client.publish(message).await, 0);
    assert_eq!(client.receive().await.text(), "new");
    client.nothing_came().await;
}

// [MQTT-4.3.3-7] [MQTT-4.3.3-13] [MQTT-3.3.2-6], D9. A retained message that was published last and expires as well
// tells the time.
#[tokio::test]
async fn an_exchange_that_has_begun_goes_on_when_its_message_expires() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (topic, clock) = (scope.topic("a"), scope.topic("clock"));
    let connect = Connect::v5(&scope.id("s")).persistent(60);
    let mut subscriber = gateway.connect(connect.clone()).await;
    subscriber.subscribe(&topic, 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let short = |topic: &str| Publish::new(topic, "x").with(Property::MessageExpiry(1));
    publisher.start_publish(short(&topic).qos(2).id(7)).await;
    publisher.pubrec(7).await;
    let sent = subscriber.message().await;
    subscriber.vanish();
    publisher.publish(short(&clock).qos(1).retain().id(8)).await;
    until_some("the retained message to expire", async || {
        (!is_retained(&gateway, &scope, &clock).await).then_some(())
    })
    .await;
    publisher.send(&ack(PUBREL, 7)).await;
    let pubcomp = publisher.packet().await;
    assert!(
        matches!(&pubcomp, Packet::PubComp(ack) if (ack.id, ack.code) == (7, 0)),
        "{pubcomp:?}"
    );
    let mut subscriber = gateway.connect(connect).await;
    let mut again = sent.dup();
    again.properties = vec![Property::MessageExpiry(0)];
    assert_eq!(subscriber.receive().await, again);
    subscriber.nothing_came().await;
}

// [MQTT-3.8.4-4]
#[tokio::test]
async fn replacing_a_subscription_loses_no_message() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut subscriber = gateway.v5(&scope.id("s")).await;
    subscriber.subscribe(&topic, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let to = topic.clone();
    let publishing = tokio::spawn(async move {
        for n in 0..300 {
            publisher
                .publish(Publish::new(&to, &n.to_string()).qos(1))
                .await;
        }
    });
    for n in 0..300u32 {
        assert_eq!(subscriber.receive().await.text(), n.to_string());
        if n % 5 == 0 {
            let again = Subscribe::to(&topic, 1 | RETAIN_NEVER).identified(n + 1);
            subscriber.subscribe_all(again).await;
        }
    }
    publishing.await.expect("all were published");
    subscriber.nothing_came().await;
}

// [MQTT-3.3.2-7] towards the client.
#[tokio::test]
async fn an_alias_of_the_gateway_ends_with_its_connection() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a/rather/long/topic");
    let connect = Connect::v5(&scope.id("s"))
        .persistent(60)
        .with(Property::TopicAliasMaximum(4));
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let mut subscriber = gateway.connect(connect.clone()).await;
    subscriber.subscribe(&topic, 1).await;
    let mut used = 0;
    for _ in 0..3 {
        for n in 0..2 {
            publisher.publish(Publish::new(&topic, "").qos(1)).await;
            let message = subscriber.receive().await;
            assert!(
                n > 0 || message.topic == topic,
                "the first message of a connection names its topic: {message:?}"
            );
            used += u32::from(message.topic.is_empty());
        }
        subscriber.disconnect().await;
        subscriber = gateway.connect(connect.clone()).await;
    }
    assert_eq!(used, 3, "the second one uses the alias");
}

// [MQTT-3.4.2-2] [MQTT-3.5.2-2] [MQTT-3.7.2-2] [MQTT-3.9.2-1] [MQTT-3.11.2-1] [MQTT-3.14.2-3]
#[tokio::test]
async fn every_answer_sheds_its_reason_string_rather_than_exceed_the_maximum() {
    let gateway = gateway().await;
    let invalid = "a/#/b";
    let denied = |qos, id| {
        Publish::new("$SYS/denied", "")
            .qos(qos)
            .id(id)
            .bytes(Version::V5)
    };
    let subscribe = Subscribe {
        id: 3,
        ..Subscribe::to(invalid, 0)
    };
    // What is sent, the first byte of its answer, and the reason code in it.
    let exchanges = [
        (denied(1, 1), 0x40, 0x87),
        (denied(2, 2), 0x50, 0x87),
        (ack(PUBREL, 9), 0x70, 0x92),
        (subscribe.bytes(Version::V5), 0x90, 0x8F),
        (unsubscribe(Version::V5, 4, &[invalid]), 0xB0, 0x8F),
        // SUBSCRIBE without a filter.
        (vec![0x82, 3, 0, 5, 0], 0xE0, 0x82),
    ];
    for maximum in [None, Some(20)] {
        let mut connect = Connect::v5(&Scope::new().id("a"));
        let limit = maximum.map(Property::MaximumPacketSize);
        connect.properties.extend(limit);
        let mut client = gateway.connect(connect).await;
        for (bytes, kind, code) in &exchanges {
            client.send(bytes).await;
            let (first, body) = client.frame().await.expect("an answer");
            assert_eq!(first, *kind);
            let size = 2 + body.len();
            let (came, properties) = match Packet::parse(Version::V5, first, &body) {
                Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                    (ack.code, ack.properties)
                }
                Packet::SubAck(codes) | Packet::UnsubAck(codes) => {
                    (codes.codes[0], codes.properties)
                }
                Packet::Disconnect(reason) => (reason.code, reason.properties),
                other => panic!("unexpected {other:?}"),
            };
            assert_eq!(came, *code, "{kind:#x}");
            assert_eq!(properties.is_empty(), maximum.is_some(), "{kind:#x}");
            assert!(maximum.is_none_or(|n| size <= n as usize), "{kind:#x}");
        }
    }
}

// [MQTT-3.11.3-2]: UNSUBACK has no code for a quota.
#[tokio::test]
async fn more_filters_than_one_packet_may_have_get_0x83_in_unsuback() {
    let limits = "[limits]\nmax_subscriptions_per_session = 3\n";
    let gateway = Setup::new().toml(limits).start().await;
    let mut client = gateway.v5("a").await;
    client.subscribe("a", 0).await;
    let filters: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    let mut filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    filters.extend(["a", "b"]);
    let mut wanted = vec![0x11; 11];
    wanted.extend([0, 0x83]);
    assert_eq!(client.unsubscribe(&filters).await, wanted);
}

// [MQTT-4.8.2-5]
#[tokio::test]
async fn a_qos_2_message_of_a_shared_subscription_ends_with_the_session_it_was_sent_to() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work"));
    let end = scope.topic("end");
    let mut first = gateway
        .connect(Connect::v5(&scope.id("first")).persistent(60))
        .await;
    first.subscribe(&filter, 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(Publish::new(&scope.topic("work"), "x").qos(2))
        .await;
    first.message().await;
    let mut second = gateway.v5(&scope.id("second")).await;
    second.subscribe(&filter, 2).await;
    second.subscribe(&end, 2).await;
    first
        .send(&disconnect(0, &[Property::SessionExpiry(0)]))
        .await;
    assert_eq!(first.end().await, None);
    publisher.publish(Publish::new(&end, "").qos(2)).await;
    assert_eq!(second.receive_until(&end).await, []);
}

// [MQTT-3.14.4-1] [MQTT-3.14.4-2]
#[tokio::test]
async fn packets_behind_a_disconnect_do_nothing() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("#"), 1).await;
    let mut client = gateway.v5(&scope.id("a")).await;
    let mut bytes = disconnect(0, &[]);
    bytes.extend(PINGREQ);
    bytes.extend(
        Publish::new(&scope.topic("behind"), "")
            .qos(1)
            .id(1)
            .bytes(Version::V5),
    );
    client.send(&bytes).await;
    assert_eq!(client.frame().await, None);
    watcher
        .publish(Publish::new(&scope.topic("end"), "").qos(1))
        .await;
    assert_eq!(watcher.receive_until(&scope.topic("end")).await, []);
}

// [MQTT-2.2.1-5] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6], [MQTT-4.6.0-4] in our direction: PUBREL follows PUBREC,
// in the order of the PUBRECs and not of the messages.
#[tokio::test]
async fn pubrels_leave_in_the_order_of_the_pubrecs() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("s")).await;
    client.subscribe(&scope.topic("a"), 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        publisher
            .publish(Publish::new(&scope.topic("a"), "").qos(2))
            .await;
        ids.push(client.message().await.id);
    }
    ids.swap(0, 4);
    ids.swap(2, 5);
    let pubrecs: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREC, *id)).collect();
    client.send(&pubrecs).await;
    for id in ids {
        let pubrel = client.packet().await;
        assert!(
            matches!(&pubrel, Packet::PubRel(ack) if (ack.id, ack.code) == (id, 0)),
            "{pubrel:?} instead of {id}"
        );
    }
    client.nothing_came().await;
}
