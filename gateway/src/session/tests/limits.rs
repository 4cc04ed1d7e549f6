//! What is bounded, and what is counted and given back.

use crate::{
    mqtt::{Packet, Qos, ReasonCode},
    session::testing::*,
};

// D8
#[tokio::test]
async fn a_full_queue_drops_its_oldest_message_and_the_publisher_is_not_refused() {
    let world = World::with(|settings| settings.queue.messages = 3);
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for n in 1..=5 {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, n, "t", &n.to_string()))
            .await;
        assert_eq!(publisher.receive().await, [Sent::PubAck(n, 0)]);
    }
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["3", "4", "5"]);
    assert_eq!(world.metrics.messages_dropped.get(), 2);
    world.assert_nothing_leaks().await;
}

#[tokio::test]
async fn what_is_in_flight_is_not_dropped_for_what_waits() {
    let world = World::with(|settings| {
        settings.queue.messages = 1;
        settings.max_inflight = 2;
    });
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    for n in 1..=6 {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, n, "t", &n.to_string()))
            .await;
        if n <= 2 {
            assert_eq!(client.payloads().await, [n.to_string()]);
        }
    }
    world.settle().await;
    client.vanish().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["1", "2", "6"]);
}

#[tokio::test]
async fn a_slow_client_loses_qos_0_first_and_never_gateway_memory() {
    let world = World::with(|settings| settings.queue.bytes = 10_000);
    let mut client = world.client(connect("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    let text = "x".repeat(1_000);
    for n in 1..=20 {
        publisher.publish(publish("t", &text)).await;
        publisher
            .publish(publish_at(Qos::AtLeastOnce, n, "t", "safe"))
            .await;
    }
    world.settle().await;
    assert!(client.session.queued_bytes() <= 10_000);
    let payloads = client.payloads().await;
    assert_eq!(payloads.iter().filter(|p| *p == "safe").count(), 20);
    assert!(payloads.len() < 40);
    assert_eq!(
        world.metrics.messages_dropped.get(),
        40 - payloads.len() as u64
    );
    world.assert_nothing_leaks().await;
}

#[tokio::test]
async fn subscriptions_are_limited_and_an_existing_one_can_always_be_replaced() {
    let world = World::with(|settings| settings.max_subscriptions = 2);
    let mut client = world.client(connect("c")).await;
    assert_eq!(client.subscribe("1", Qos::AtMostOnce).await, 0);
    assert_eq!(client.subscribe("2", Qos::AtMostOnce).await, 0);
    assert_eq!(client.subscribe("3", Qos::AtMostOnce).await, 0x97);
    assert_eq!(client.subscribe("2", Qos::AtLeastOnce).await, 1);
    assert_eq!(client.unsubscribe("1").await, 0);
    assert_eq!(client.subscribe("3", Qos::AtMostOnce).await, 0);
}

#[tokio::test]
async fn topic_levels_are_limited_in_names_and_filters() {
    let world = World::with(|settings| settings.max_topic_levels = 3);
    let mut client = world.client(connect("c")).await;
    assert_eq!(client.subscribe("a/b/c/d", Qos::AtMostOnce).await, 0x8F);
    assert_eq!(client.subscribe("a/b/c", Qos::AtMostOnce).await, 0);
    client
        .publish(publish_at(Qos::AtLeastOnce, 1, "a/b/c/d", ""))
        .await;
    assert_eq!(client.receive().await, [Sent::PubAck(1, 0x90)]);
}

#[tokio::test]
async fn messages_for_a_session_that_has_just_ended_are_not_counted_for_ever() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    let session = client.session.clone();
    client.vanish().await;
    // The session ends, and the dispatcher has not come to its end yet.
    session.end();
    let mut publisher = world.client(connect("publisher")).await;
    for n in 1..=3 {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, n, "t", "late"))
            .await;
    }
    world.settle().await;
    assert_eq!(session.queued_bytes(), 0);
    assert_eq!(world.metrics.bytes_queued.get(), 0);
    assert_eq!(world.metrics.messages_queued.get(), 0);
}

#[tokio::test]
async fn everything_is_given_back_when_clients_come_and_go_under_load() {
    let world = World::new();
    for round in 0..30 {
        let how = if round % 3 == 0 {
            connect("c")
        } else {
            resume("c")
        };
        let mut client = world.client(how).await;
        client.subscribe("t/#", Qos::ExactlyOnce).await;
        client.subscribe("$share/g/t/+", Qos::AtLeastOnce).await;
        let mut publisher = world.client(connect("publisher")).await;
        for n in 1..=20 {
            publisher
                .publish(publish_at(Qos::AtLeastOnce, n, &format!("t/{n}"), "x"))
                .await;
        }
        client.pull();
        match round % 4 {
            0 => client.disconnect(ReasonCode::Success, None).await,
            1 => client.vanish().await,
            2 => {
                client.send(Packet::PubAck(ack(1))).await;
                client.vanish().await;
            }
            _ => {
                let (one, two) = (world.client_later(connect("c")), client);
                let mut two = two;
                while two.ending.is_none() {
                    tokio::task::yield_now().await;
                    two.pull();
                }
                two.finish().await;
                one.await.unwrap().vanish().await;
            }
        }
        publisher.vanish().await;
        world.assert_nothing_leaks().await;
    }
    world.client(connect("c")).await.vanish().await;
    assert_eq!(world.registry.len(), 0);
    assert_eq!(world.metrics.clients_connected.get(), 0);
    assert_eq!(world.metrics.messages_queued.get(), 0);
    assert_eq!(world.metrics.bytes_queued.get(), 0);
    assert_eq!(world.metrics.subscriptions.get(), 0);
}
