//! What a client publishes: acknowledged in order, dispatched once.

use std::num::NonZeroU16;

use crate::{
    acl::{Action, Effect},
    mqtt::{Ack, Packet, Publish, Qos, ReasonCode},
    routing::retained::RetainedLimits,
    session::testing::*,
};

// D4
#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_their_messages_refusals_included() {
    let world = World::new();
    world
        .allow_only(&[
            (Effect::Allow, Action::Publish, "#"),
            (Effect::Deny, Action::Publish, "secret"),
        ])
        .await;
    let mut client = world.client(connect("c")).await;
    let mut envelopes = Vec::new();
    for (id, qos, topic) in [
        (1, Qos::AtLeastOnce, "t"),
        (2, Qos::AtLeastOnce, "secret"),
        (3, Qos::ExactlyOnce, "t"),
        (4, Qos::ExactlyOnce, "secret"),
        (5, Qos::AtLeastOnce, "t"),
    ] {
        let packet = Packet::Publish(Box::new(publish_at(qos, id, topic, "")));
        envelopes.push(client.hold(packet));
    }
    assert_eq!(
        client.receive().await,
        [],
        "nothing overtakes message 1 or 3"
    );
    for envelope in envelopes {
        client.let_go(envelope).await;
    }
    let received = client.receive().await;
    let (pubacks, pubrecs): (Vec<_>, Vec<_>) = received
        .into_iter()
        .partition(|sent| matches!(sent, Sent::PubAck(..)));
    assert_eq!(
        pubacks,
        [
            Sent::PubAck(1, 0x10),
            Sent::PubAck(2, 0x87),
            Sent::PubAck(5, 0x10)
        ]
    );
    assert_eq!(pubrecs, [Sent::PubRec(3, 0x10), Sent::PubRec(4, 0x87)]);
    assert_eq!(world.metrics.publishes_refused.get(), 2);
}

// D3
#[tokio::test]
async fn a_qos_2_message_is_dispatched_once_however_often_it_is_sent() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("t", Qos::AtMostOnce).await;
    let message = publish_at(Qos::ExactlyOnce, 7, "t", "once");
    client.publish(message.clone()).await;
    let received = client.receive().await;
    assert!(received.contains(&Sent::PubRec(7, 0)), "{received:?}");
    client
        .publish(Publish {
            dup: true,
            ..message.clone()
        })
        .await;
    assert_eq!(client.receive().await, [Sent::PubRec(7, 0)]);
    for _ in 0..2 {
        client.send(Packet::PubRel(ack(7))).await;
    }
    assert_eq!(
        client.receive().await,
        [Sent::PubComp(7, 0), Sent::PubComp(7, 0x92)]
    );
    // The identifier is free again: this is another message.
    client.publish(message).await;
    assert_eq!(client.receive().await.len(), 2);
}

// D3
#[tokio::test]
async fn a_qos_2_message_sent_again_on_a_new_connection_joins_the_one_on_its_way() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("t", Qos::AtMostOnce).await;
    let mut old = world.client(resume("c")).await;
    let message = publish_at(Qos::ExactlyOnce, 7, "t", "once");
    let on_its_way = old.hold(Packet::Publish(Box::new(message.clone())));
    let session = old.session.clone();
    old.vanish().await;
    let mut new = world.client(resume("c")).await;
    new.publish(Publish {
        dup: true,
        ..message
    })
    .await;
    assert_eq!(new.receive().await, [], "PUBREC waits for the message");
    // The first connection's envelope had to wait for room and arrives late, under its own number.
    let origin = crate::routing::bus::Origin {
        endpoint: session.clone(),
        epoch: 1,
    };
    session.sent_envelope(on_its_way.len());
    world
        .bus
        .publish_when_possible(session.link(), on_its_way, Some(origin))
        .await;
    assert_eq!(new.receive().await, [Sent::PubRec(7, 0)]);
    assert_eq!(watcher.payloads().await, ["once"]);
    new.send(Packet::PubRel(ack(7))).await;
    assert_eq!(new.receive().await, [Sent::PubComp(7, 0)]);
}

// D3
#[tokio::test]
async fn a_qos_1_completion_dies_with_its_connection() {
    let world = World::new();
    let mut old = world.client(resume("c")).await;
    old.publish(publish_at(Qos::AtLeastOnce, 7, "t", "")).await;
    old.vanish().await;
    let mut new = world.client(resume("c")).await;
    assert_eq!(new.receive().await, []);
    let envelope = new.hold(Packet::Publish(Box::new(publish_at(
        Qos::AtLeastOnce,
        7,
        "t",
        "",
    ))));
    assert_eq!(new.receive().await, [], "the new message is not safe yet");
    new.let_go(envelope).await;
    assert_eq!(new.receive().await, [Sent::PubAck(7, 0x10)]);
}

#[tokio::test]
async fn a_qos_2_message_sent_twice_on_one_connection_does_not_stop_the_acknowledgements() {
    let world = World::new();
    let mut client = world.client(resume_v3("c")).await;
    let mut envelopes = Vec::new();
    for (id, dup) in [(1, false), (1, true), (2, false)] {
        envelopes.push(client.hold(Packet::Publish(Box::new(Publish {
            dup,
            ..publish_at(Qos::ExactlyOnce, id, "t", "")
        }))));
    }
    for envelope in envelopes {
        client.let_go(envelope).await;
    }
    assert_eq!(
        client.receive().await,
        [Sent::PubRec(1, 0), Sent::PubRec(1, 0), Sent::PubRec(2, 0)]
    );
}

#[tokio::test]
async fn a_qos_2_message_that_ended_its_v3_connection_can_be_sent_again() {
    let retained = RetainedLimits {
        messages: 0,
        bytes: 0,
    };
    let world = World::retaining(retained, |_| {});
    let message = publish_at(Qos::ExactlyOnce, 7, "t", "kept");
    for _ in 0..2 {
        let mut client = world.client(resume_v3("c")).await;
        client
            .publish(Publish {
                retain: true,
                ..message.clone()
            })
            .await;
        client.receive().await;
        assert_eq!(client.ended_with(), Some(ReasonCode::QuotaExceeded));
        client.finish().await;
    }
    let mut client = world.client(resume_v3("c")).await;
    client.publish(message).await;
    assert_eq!(client.receive().await, [Sent::PubRec(7, 0)]);
}

// N4
#[tokio::test]
async fn a_qos_2_message_refused_for_lack_of_memory_can_be_sent_again() {
    let world = World::with(|settings| settings.memory_budget = 1000);
    world.metrics.bytes_queued.add(2000);
    let message = publish_at(Qos::ExactlyOnce, 7, "t", "");
    let mut v3 = world.client(resume_v3("c3")).await;
    v3.publish(message.clone()).await;
    assert_eq!(v3.ended_with(), Some(ReasonCode::QuotaExceeded));
    v3.finish().await;
    let mut v5 = world.client(resume("c5")).await;
    v5.publish(message.clone()).await;
    assert_eq!(v5.receive().await, [Sent::PubRec(7, 0x97)]);
    world.metrics.bytes_queued.sub(2000);
    v5.publish(message.clone()).await;
    assert_eq!(v5.receive().await, [Sent::PubRec(7, 0x10)]);
    let mut v3 = world.client(resume_v3("c3")).await;
    v3.publish(message).await;
    assert_eq!(v3.receive().await, [Sent::PubRec(7, 0)]);
}

#[tokio::test]
async fn more_than_the_receive_maximum_ends_the_connection_and_loses_nothing() {
    let world = World::with(|settings| settings.receive_maximum = 2);
    let mut client = world.client(resume("c")).await;
    for id in 1..=3 {
        let message = publish_at(Qos::ExactlyOnce, id, "t", "");
        client.publish(message).await;
    }
    assert_eq!(
        client.ended_with(),
        Some(ReasonCode::ReceiveMaximumExceeded)
    );
    client.finish().await;
    let mut client = world.client(resume("c")).await;
    for id in 1..=2 {
        client
            .publish(publish_at(Qos::ExactlyOnce, id, "t", ""))
            .await;
        assert_eq!(client.receive().await, [Sent::PubRec(id, 0x10)]);
        client.send(Packet::PubRel(ack(id))).await;
        assert_eq!(client.receive().await, [Sent::PubComp(id, 0)]);
    }
    // It was refused, so it is new.
    client
        .publish(publish_at(Qos::ExactlyOnce, 3, "t", ""))
        .await;
    assert_eq!(client.receive().await, [Sent::PubRec(3, 0x10)]);
}

// S1
#[tokio::test]
async fn a_denied_v3_publish_is_acknowledged_and_dropped_or_ends_the_connection() {
    for disconnects in [false, true] {
        let world = World::with(|settings| {
            if disconnects {
                settings.denied_publish = broker_config::DeniedPublish::Disconnect;
            }
        });
        let mut watcher = world.client(connect("watcher")).await;
        watcher.subscribe("#", Qos::AtMostOnce).await;
        world
            .allow_only(&[(Effect::Allow, Action::Subscribe, "#")])
            .await;
        let mut client = world.client(resume_v3("c")).await;
        client
            .publish(publish_at(Qos::AtLeastOnce, 1, "t", ""))
            .await;
        if disconnects {
            assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
        } else {
            client
                .publish(publish_at(Qos::ExactlyOnce, 2, "t", ""))
                .await;
            client.publish(publish("t", "")).await;
            client.send(Packet::PubRel(ack(2))).await;
            assert_eq!(
                client.receive().await,
                [Sent::PubAck(1, 0), Sent::PubRec(2, 0), Sent::PubComp(2, 0)]
            );
            assert_eq!(world.metrics.publishes_refused.get(), 3);
        }
        assert_eq!(watcher.messages().await, []);
    }
}

#[tokio::test]
async fn a_topic_alias_stands_for_its_topic_until_the_connection_ends() {
    let world = World::with(|settings| settings.topic_alias_maximum = 2);
    let mut client = world.client(resume("c")).await;
    client.subscribe("+", Qos::AtMostOnce).await;
    let aliased = |topic: &str, alias| Publish {
        topic_alias: NonZeroU16::new(alias),
        ..publish(topic, topic)
    };
    for (topic, alias) in [("a", 1), ("b", 2), ("", 1), ("c", 1), ("", 1)] {
        client.publish(aliased(topic, alias)).await;
    }
    let topics: Vec<_> = client
        .messages()
        .await
        .into_iter()
        .map(|m| m.topic)
        .collect();
    assert_eq!(topics, ["a", "b", "a", "c", "c"]);
    client.vanish().await;
    let mut client = world.client(resume("c")).await;
    client.publish(aliased("", 1)).await;
    assert_eq!(client.ended_with(), Some(ReasonCode::ProtocolError));
    client.finish().await;
    let mut client = world.client(resume("c")).await;
    client.publish(aliased("a", 3)).await;
    assert_eq!(client.ended_with(), Some(ReasonCode::TopicAliasInvalid));
}

// P2
#[tokio::test]
async fn a_topic_alias_is_no_way_around_a_deny() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("#", Qos::AtMostOnce).await;
    client
        .publish(Publish {
            topic_alias: NonZeroU16::new(1),
            ..publish("t", "before")
        })
        .await;
    assert_eq!(client.payloads().await, ["before"]);
    world
        .allow_only(&[
            (Effect::Allow, Action::Publish, "#"),
            (Effect::Allow, Action::Subscribe, "#"),
            (Effect::Deny, Action::Publish, "t"),
        ])
        .await;
    client
        .publish(Publish {
            topic_alias: NonZeroU16::new(1),
            ..publish("", "after")
        })
        .await;
    assert_eq!(client.payloads().await, [""; 0]);
    assert_eq!(world.metrics.publishes_refused.get(), 1);
}

// P4
#[tokio::test]
async fn a_topic_that_was_allowed_vouches_neither_for_another_one_nor_after_a_change() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("#", Qos::AtMostOnce).await;
    let everything = [
        (Effect::Allow, Action::Publish, "#"),
        (Effect::Allow, Action::Subscribe, "#"),
    ];
    let without = |topic| [&everything[..], &[(Effect::Deny, Action::Publish, topic)]].concat();
    let long = "l".repeat(2_000);
    for (rules, topic, arrives) in [
        (everything.to_vec(), "t", true),
        (without("t"), "t", false),
        (everything.to_vec(), "t", true),
        (without("u"), "t", true),
        (without("u"), "u", false),
        (without("u"), "t", true),
        (everything.to_vec(), "u", true),
        (everything.to_vec(), &long, true),
        (without("+"), &long, false),
    ] {
        world.allow_only(&rules).await;
        for _ in 0..2 {
            client.publish(publish(topic, "")).await;
            let arrived = client.payloads().await;
            assert_eq!(arrived.len(), usize::from(arrives), "{topic:.4} {rules:?}");
        }
    }
    world.allow_only(&without("u")).await;
    for (topic, arrives) in [("t", 1), ("u", 0), ("t", 1), ("t", 1), ("u", 0), ("u", 0)] {
        client.publish(publish(topic, "")).await;
        assert_eq!(client.payloads().await.len(), arrives, "{topic}");
    }
}

#[tokio::test]
async fn an_acknowledgement_that_does_not_fit_ends_the_connection_and_one_of_nothing_does_not() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.send(Packet::PubAck(ack(9))).await;
    client.send(Packet::PubComp(ack(9))).await;
    client.send(Packet::PubRec(ack(9))).await;
    assert_eq!(client.receive().await, [Sent::PubRel(9, 0x92)]);
    client.subscribe("t", Qos::ExactlyOnce).await;
    client
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", ""))
        .await;
    client.receive().await;
    client
        .send(Packet::PubAck(Ack::new(packet_id(1), ReasonCode::Success)))
        .await;
    assert_eq!(client.ended_with(), Some(ReasonCode::ProtocolError));
}
