//! What a client is sent: at which QoS, with which flags and properties.

use std::time::{Duration, Instant};

use crate::{
    mqtt::{Connect, Packet, Publish, Qos, RetainHandling, SubscribeFilter},
    session::testing::*,
};

const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

#[tokio::test]
async fn the_effective_qos_is_the_lesser_of_publication_and_subscription() {
    let world = World::new();
    let mut publisher = world.client(connect("publisher")).await;
    for subscribed in QOS {
        let mut client = world.client(connect("c")).await;
        client.subscribe("t", subscribed).await;
        for published in QOS {
            let message = match published {
                Qos::AtMostOnce => publish("t", ""),
                qos => publish_at(qos, 1, "t", ""),
            };
            publisher.publish(message).await;
            publisher.receive().await;
            publisher.send(Packet::PubRel(ack(1))).await;
            publisher.receive().await;
            let messages = client.messages().await;
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].qos, published.min(subscribed) as u8);
            assert!(!messages[0].dup);
        }
        client.vanish().await;
    }
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_at_the_greatest_qos_with_every_identifier() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client
        .ask(vec![filter("a/+", Qos::AtMostOnce)], Some(5))
        .await;
    client
        .ask(vec![filter("a/#", Qos::ExactlyOnce)], Some(268_435_455))
        .await;
    client
        .ask(vec![filter("a/b", Qos::AtLeastOnce)], None)
        .await;
    client.receive().await;
    client
        .publish(publish_at(Qos::ExactlyOnce, 1, "a/b", "x"))
        .await;
    let received = client.receive().await;
    let [Sent::PubRec(1, 0), Sent::Publish(message)] = &received[..] else {
        panic!("{received:?}");
    };
    assert_eq!(message.qos, 2);
    let mut ids = message.subscription_ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [5, 268_435_455]);
}

#[tokio::test]
async fn no_local_keeps_own_messages_out_and_nothing_else() {
    let world = World::new();
    let mut other = world.client(connect("other")).await;
    let mut client = world.client(connect("c")).await;
    let no_local = SubscribeFilter {
        no_local: true,
        ..filter("t", Qos::ExactlyOnce)
    };
    client.ask(vec![no_local], None).await;
    client.receive().await;
    client.publish(publish("t", "own")).await;
    other.publish(publish("t", "other's")).await;
    assert_eq!(client.payloads().await, ["other's"]);
    // A subscription without No Local beside it gives its own QoS.
    client.subscribe("+", Qos::AtMostOnce).await;
    client
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", "own"))
        .await;
    let received = client.receive().await;
    let own = received.iter().find_map(|sent| match sent {
        Sent::Publish(message) => Some(message.qos),
        _ => None,
    });
    assert_eq!(own, Some(0), "{received:?}");
}

#[tokio::test]
async fn retain_as_published_keeps_the_flag_and_is_off_otherwise() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    let plain = filter("plain", Qos::AtMostOnce);
    let kept = SubscribeFilter {
        retain_as_published: true,
        ..filter("kept", Qos::AtMostOnce)
    };
    client.ask(vec![plain, kept], None).await;
    client.receive().await;
    for topic in ["plain", "kept"] {
        client
            .publish(Publish {
                retain: true,
                ..publish(topic, "x")
            })
            .await;
    }
    let flags: Vec<_> = client.messages().await.iter().map(|m| m.retain).collect();
    assert_eq!(flags, [false, true]);
}

#[tokio::test]
async fn the_message_expiry_counts_down_while_a_message_waits_and_what_expired_is_not_sent() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for (id, expiry) in [(1, 1), (2, 100)] {
        publisher
            .publish(Publish {
                message_expiry: Some(expiry),
                ..publish_at(Qos::AtLeastOnce, id, "t", &expiry.to_string())
            })
            .await;
    }
    world.settle().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1_050) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut client = world.client(resume("c")).await;
    let messages = client.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload, "100");
    let left = messages[0].expiry.unwrap();
    assert!((80..100).contains(&left), "{left} s are left");
    assert_eq!(world.metrics.messages_expired.get(), 1);
}

#[tokio::test]
async fn topic_aliases_are_used_up_to_the_client_s_maximum_and_anew_on_each_connection() {
    let world = World::new();
    for _ in 0..2 {
        let mut client = world
            .client(Connect {
                topic_alias_maximum: 1,
                ..resume("c")
            })
            .await;
        client.subscribe("+", Qos::AtMostOnce).await;
        for topic in ["a", "a", "b", "a"] {
            client.publish(publish(topic, "")).await;
        }
        let sent: Vec<_> = client
            .messages()
            .await
            .into_iter()
            .map(|m| (m.topic, m.alias))
            .collect();
        let expected = [("a", Some(1)), ("", Some(1)), ("b", None), ("", Some(1))];
        assert_eq!(
            sent,
            expected.map(|(topic, alias)| (topic.to_owned(), alias))
        );
        client.vanish().await;
    }
}

#[tokio::test]
async fn a_message_larger_than_the_client_takes_is_dropped_and_holds_nothing_up() {
    let world = World::new();
    let mut client = world
        .client(Connect {
            maximum_packet_size: Some(30),
            topic_alias_maximum: 4,
            receive_maximum: 1,
            ..connect("c")
        })
        .await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", &"x".repeat(100)))
        .await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 2, "t", "small"))
        .await;
    let messages = client.messages().await;
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (messages[0].topic.as_str(), messages[0].payload.as_str()),
        ("t", "small")
    );
    assert_eq!(world.metrics.messages_dropped.get(), 1);
}

#[tokio::test]
async fn no_more_than_the_client_s_receive_maximum_is_under_way() {
    let world = World::with(|settings| settings.max_inflight = 3);
    for (asked, expected) in [(2, 2), (100, 3)] {
        let mut client = world
            .client(Connect {
                receive_maximum: asked,
                ..connect("c")
            })
            .await;
        client.subscribe("t", Qos::ExactlyOnce).await;
        for n in 0..10 {
            client.publish(publish("t", "fleeting")).await;
            client
                .publish(publish_at(Qos::ExactlyOnce, n + 1, "t", &n.to_string()))
                .await;
        }
        let mut sent = Vec::new();
        let mut fleeting = 0;
        for _ in 0..40 {
            let mut round = Vec::new();
            for packet in client.receive().await {
                match packet {
                    Sent::Publish(message) if message.qos == 0 => fleeting += 1,
                    Sent::Publish(message) => round.push(message),
                    Sent::PubRec(..) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(round.len() <= expected);
            for message in &round {
                client.send(Packet::PubRec(ack(message.id))).await;
                assert_eq!(client.receive().await, [Sent::PubRel(message.id, 0)]);
            }
            for message in &round {
                client.send(Packet::PubComp(ack(message.id))).await;
            }
            sent.extend(round.into_iter().map(|m| m.payload));
        }
        let all: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(sent, all, "in order, each once");
        assert_eq!(fleeting, 10, "QoS 0 does not wait for the window");
        client.vanish().await;
    }
}

#[tokio::test]
async fn a_subscription_made_again_replaces_the_one_before_it() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client
        .ask(vec![filter("t", Qos::ExactlyOnce)], Some(1))
        .await;
    let again = SubscribeFilter {
        retain_handling: RetainHandling::DoNotSend,
        ..filter("t", Qos::AtMostOnce)
    };
    client.ask(vec![again], Some(2)).await;
    client.receive().await;
    client
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "x"))
        .await;
    let received = client.receive().await;
    let messages: Vec<_> = received
        .iter()
        .filter_map(|sent| match sent {
            Sent::Publish(message) => Some((message.qos, message.subscription_ids.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(messages, [(0, vec![2])]);
    assert_eq!(client.unsubscribe("t").await, 0);
    assert_eq!(client.unsubscribe("t").await, 0x11);
    client.publish(publish("t", "x")).await;
    assert_eq!(client.messages().await, []);
}
