//! What a new connection gets again.

use crate::{
    acl::{Action, Effect},
    mqtt::{Connect, Packet, Qos},
    session::testing::*,
};

/// A session with these messages waiting, nobody connected.
async fn waiting(world: &World, qos: Qos, payloads: &[&str]) {
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", qos).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for (id, payload) in (1..).zip(payloads) {
        publisher.publish(publish_at(qos, id, "t", payload)).await;
    }
    publisher.vanish().await;
}

fn summary(messages: &[Message]) -> Vec<(u16, bool, &str)> {
    messages
        .iter()
        .map(|m| (m.id, m.dup, m.payload.as_str()))
        .collect()
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_in_order_with_dup_before_anything_new() {
    let world = World::new();
    waiting(&world, Qos::AtLeastOnce, &["a", "b", "c", "d"]).await;
    let two = Connect {
        receive_maximum: 3,
        ..resume("c")
    };
    let mut client = world.client(two.clone()).await;
    assert_eq!(
        summary(&client.messages().await),
        [(1, false, "a"), (2, false, "b"), (3, false, "c")]
    );
    client.send(Packet::PubAck(ack(2))).await;
    client.vanish().await;
    let mut client = world.client(two).await;
    assert!(client.session_present);
    assert_eq!(
        summary(&client.messages().await),
        [(1, true, "a"), (3, true, "c"), (4, false, "d")]
    );
}

// D9
#[tokio::test]
async fn what_came_from_disk_and_was_not_acknowledged_comes_again_with_dup_after_a_crash() {
    let world = World::new();
    waiting(&world, Qos::AtLeastOnce, &["a", "b"]).await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(
        summary(&client.messages().await),
        [(1, false, "a"), (2, false, "b")]
    );
    world.store.hurry();
    world.settle().await;
    let world = world.crash().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(
        summary(&client.messages().await),
        [(1, true, "a"), (2, true, "b")]
    );
}

#[tokio::test]
async fn a_smaller_receive_maximum_holds_on_the_way_back_too() {
    let world = World::new();
    waiting(&world, Qos::AtLeastOnce, &["a", "b", "c", "d"]).await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.messages().await.len(), 4);
    client.vanish().await;
    let one = Connect {
        receive_maximum: 1,
        ..resume("c")
    };
    let mut client = world.client(one).await;
    for (id, payload) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        assert_eq!(summary(&client.messages().await), [(id, true, payload)]);
        assert_eq!(client.messages().await, []);
        client.send(Packet::PubAck(ack(id))).await;
    }
    assert_eq!(client.messages().await, []);
}

#[tokio::test]
async fn a_qos_2_exchange_goes_on_where_it_stopped() {
    let world = World::new();
    waiting(&world, Qos::ExactlyOnce, &["a", "b"]).await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(
        summary(&client.messages().await),
        [(1, false, "a"), (2, false, "b")]
    );
    client.send(Packet::PubRec(ack(1))).await;
    assert_eq!(client.receive().await, [Sent::PubRel(1, 0)]);
    client.vanish().await;
    let mut client = world.client(resume("c")).await;
    let received = client.receive().await;
    let [Sent::PubRel(1, 0), Sent::Publish(b)] = &received[..] else {
        panic!("{received:?}");
    };
    assert_eq!((b.id, b.dup, b.payload.as_str()), (2, true, "b"));
    client.send(Packet::PubComp(ack(1))).await;
    client.send(Packet::PubRec(ack(2))).await;
    client.send(Packet::PubComp(ack(2))).await;
    assert_eq!(client.receive().await, [Sent::PubRel(2, 0)]);
    client.vanish().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.receive().await, []);
}

// S4, MQTT 5 §4.3.3
#[tokio::test]
async fn a_negative_acknowledgement_discards_the_message() {
    let world = World::new();
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        waiting(&world, qos, &["refused"]).await;
        let mut client = world.client(resume("c")).await;
        let id = client.messages().await[0].id;
        let mut refusal = ack(id);
        refusal.reason = crate::mqtt::ReasonCode::ImplementationSpecificError;
        client
            .send(match qos {
                Qos::AtLeastOnce => Packet::PubAck(refusal),
                _ => Packet::PubRec(refusal),
            })
            .await;
        assert_eq!(client.receive().await, []);
        client.vanish().await;
        let mut client = world.client(resume("c")).await;
        assert_eq!(client.receive().await, []);
        client.vanish().await;
    }
}

// D9
#[tokio::test]
async fn what_is_in_flight_and_no_longer_allowed_is_not_sent_again_and_blocks_nothing() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("+", Qos::AtLeastOnce).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for (id, payload) in [(1, "secret"), (2, "secret too")] {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, id, "t", payload))
            .await;
    }
    let one = Connect {
        receive_maximum: 1,
        ..resume("c")
    };
    let mut client = world.client(one.clone()).await;
    assert_eq!(client.payloads().await, ["secret"]);
    client.vanish().await;
    world
        .allow_only(&[
            (Effect::Allow, Action::Publish, "#"),
            (Effect::Allow, Action::Subscribe, "#"),
            (Effect::Deny, Action::Subscribe, "t"),
        ])
        .await;
    let mut client = world.client(one).await;
    client
        .publish(publish_at(Qos::AtLeastOnce, 9, "other", "allowed"))
        .await;
    let mut received = client.receive().await;
    received.retain(|sent| !matches!(sent, Sent::PubAck(..)));
    let [Sent::Publish(message)] = &received[..] else {
        panic!("{received:?}");
    };
    assert_eq!((message.payload.as_str(), message.dup), ("allowed", false));
    assert_ne!(
        message.id, 1,
        "the identifier of what is in flight is not given again"
    );
    // The client may still acknowledge what it got on its first connection: that frees nothing of this one.
    client.send(Packet::PubAck(ack(1))).await;
    client
        .publish(publish_at(Qos::AtLeastOnce, 10, "other", "must wait"))
        .await;
    let mut received = client.receive().await;
    received.retain(|sent| !matches!(sent, Sent::PubAck(..)));
    assert_eq!(received, [], "the window of one is full");
}

// D9
#[tokio::test]
async fn what_is_in_flight_and_no_longer_allowed_takes_up_no_room_of_what_is() {
    for (qos, filter, crash) in [
        (Qos::AtLeastOnce, "+", false),
        (Qos::ExactlyOnce, "+", false),
        (Qos::AtLeastOnce, "$share/g/+", true),
        (Qos::ExactlyOnce, "$share/g/+", true),
    ] {
        // One message is more than may be under way at a time.
        let mut world = World::with(|settings| settings.queue.bytes = 1000);
        let mut client = world.client(resume("c")).await;
        client.subscribe(filter, qos).await;
        let secret = "s".repeat(1500);
        let mut publisher = world.client(connect("publisher")).await;
        publisher.publish(publish_at(qos, 1, "t", &secret)).await;
        let sent = client.messages().await;
        assert_eq!(sent.len(), 1);
        match crash {
            true => world = world.crash().await,
            false => client.vanish().await,
        }
        let mut denied = ALLOW_ALL.to_vec();
        denied.push((Effect::Deny, Action::Subscribe, "t"));
        world.allow_only(&denied).await;
        let mut client = world.client(resume("c")).await;
        let mut publisher = world.client(connect("another")).await;
        for n in 2..5 {
            publisher.publish(publish_at(qos, n, "u", "allowed")).await;
            let came = client.messages().await;
            assert_eq!(came.len(), 1, "{qos:?} {filter}: the window is closed");
            assert_ne!(came[0].id, sent[0].id, "the identifier is in use (D9)");
            let id = came[0].id;
            match qos {
                Qos::AtLeastOnce => client.send(Packet::PubAck(ack(id))).await,
                _ => {
                    client.send(Packet::PubRec(ack(id))).await;
                    client.send(Packet::PubComp(ack(id))).await;
                    client.receive().await;
                }
            }
        }
        assert_eq!(client.session.window_bytes(), 0);
        client.vanish().await;
        // It was not acknowledged: allowed again, it comes again, under its identifier, unless it was another's to have.
        world.allow_only(&ALLOW_ALL).await;
        let mut client = world.client(resume("c")).await;
        let again = client.messages().await;
        if qos == Qos::AtLeastOnce && crash {
            continue;
        }
        assert_eq!(again.len(), 1, "{qos:?} {filter}");
        assert_eq!((again[0].dup, again[0].id), (true, sent[0].id));
        assert_eq!(again[0].payload, secret);
    }
}

// D9
#[tokio::test]
async fn what_is_not_sent_again_can_still_be_acknowledged() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let world = World::new();
        waiting(&world, qos, &["secret"]).await;
        let mut client = world.client(resume("c")).await;
        let id = client.messages().await[0].id;
        client.vanish().await;
        let mut denied = ALLOW_ALL.to_vec();
        denied.push((Effect::Deny, Action::Subscribe, "t"));
        world.allow_only(&denied).await;
        let mut client = world.client(resume("c")).await;
        client.receive().await;
        client.finish().await;
        let mut client = world.client(resume("c")).await;
        assert_eq!(client.receive().await, []);
        match qos {
            Qos::AtLeastOnce => client.send(Packet::PubAck(ack(id))).await,
            _ => {
                client.send(Packet::PubRec(ack(id))).await;
                assert_eq!(client.receive().await, [Sent::PubRel(id, 0)]);
                client.send(Packet::PubComp(ack(id))).await;
            }
        }
        assert_eq!(client.receive().await, []);
        assert!(client.ending.is_none());
        client.vanish().await;
        world.allow_only(&ALLOW_ALL).await;
        let mut client = world.client(resume("c")).await;
        assert_eq!(client.receive().await, [], "it is finished");
    }
}

// MQTT-3.1.2-25
#[tokio::test]
async fn what_does_not_fit_the_new_connection_is_dropped_and_blocks_nothing() {
    let world = World::new();
    let long = "x".repeat(100);
    waiting(&world, Qos::AtLeastOnce, &[&long, "small"]).await;
    let one = Connect {
        receive_maximum: 1,
        ..resume("c")
    };
    let mut client = world.client(one.clone()).await;
    assert_eq!(client.payloads().await, std::slice::from_ref(&long));
    client.vanish().await;
    let mut client = world
        .client(Connect {
            maximum_packet_size: Some(50),
            ..one.clone()
        })
        .await;
    assert_eq!(client.take().await, ["small"]);
    client.vanish().await;
    assert_eq!(world.metrics.messages_dropped.get(), 1);
    let mut client = world.client(one).await;
    assert_eq!(client.take().await, [""; 0]);
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_loses_no_message_it_took_from_the_queue() {
    let world = World::new();
    waiting(&world, Qos::AtLeastOnce, &["a", "b", "c"]).await;
    let mut client = world
        .client(Connect {
            maximum_packet_size: Some(60),
            ..resume("c")
        })
        .await;
    // A SUBACK larger than the client takes: the connection cannot go on.
    let filters = (0..100)
        .map(|n| filter(&n.to_string(), Qos::AtMostOnce))
        .collect();
    let id = client.ask(filters, None).await;
    let received = client.receive().await;
    assert!(
        !received
            .iter()
            .any(|sent| matches!(sent, Sent::SubAck(of, _) if *of == id))
    );
    assert!(client.ending.is_some());
    client.finish().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn messages_behind_a_fault_are_not_lost() {
    let world = World::new();
    let mut client = world
        .client(Connect {
            maximum_packet_size: Some(60),
            ..resume("c")
        })
        .await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    let filters = (0..100)
        .map(|n| filter(&n.to_string(), Qos::AtMostOnce))
        .collect();
    client.ask(filters, None).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "behind it"))
        .await;
    client.receive().await;
    assert!(client.ending.is_some(), "its SUBACK does not fit");
    client.finish().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["behind it"]);
}
