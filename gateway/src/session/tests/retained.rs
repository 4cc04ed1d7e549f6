//! Retained messages, as a subscriber sees them (B7).

use crate::{
    mqtt::{Connect, Packet, Publish, Qos, RetainHandling, SubscribeFilter},
    session::testing::*,
};

fn retain(topic: &str, payload: &str) -> Publish {
    Publish {
        retain: true,
        ..publish_at(Qos::AtLeastOnce, 1, topic, payload)
    }
}

async fn keep(world: &World, topic: &str, payload: &str) {
    let mut publisher = world.client(connect("keeper")).await;
    publisher.publish(retain(topic, payload)).await;
    publisher.vanish().await;
}

fn handling(retain_handling: RetainHandling) -> Vec<SubscribeFilter> {
    vec![SubscribeFilter {
        retain_handling,
        ..filter("t", Qos::AtMostOnce)
    }]
}

#[tokio::test]
async fn retain_handling_says_when_retained_messages_come() {
    let world = World::new();
    keep(&world, "t", "kept").await;
    for (how, first, second) in [
        (RetainHandling::Send, 1, 1),
        (RetainHandling::SendIfNew, 1, 0),
        (RetainHandling::DoNotSend, 0, 0),
    ] {
        let mut client = world.client(connect("c")).await;
        for expected in [first, second] {
            client.ask(handling(how), None).await;
            let received = client.receive().await;
            assert!(matches!(received[0], Sent::SubAck(..)), "{received:?}");
            assert_eq!(received.len() - 1, expected, "{how:?}");
            for sent in &received[1..] {
                assert!(matches!(sent, Sent::Publish(m) if m.retain && m.payload == "kept"));
            }
        }
        client.vanish().await;
    }
}

#[tokio::test]
async fn only_an_empty_retained_payload_deletes() {
    let world = World::new();
    keep(&world, "t", "kept").await;
    let mut client = world.client(connect("c")).await;
    client.publish(publish("t", "")).await;
    client.subscribe("t", Qos::AtMostOnce).await;
    assert_eq!(client.payloads().await, ["kept"]);
    keep(&world, "t", "").await;
    assert_eq!(
        client.payloads().await,
        [""],
        "the deletion itself is delivered"
    );
    client.subscribe("t", Qos::AtMostOnce).await;
    assert_eq!(client.messages().await, []);
}

// B7
#[tokio::test]
async fn suback_then_retained_then_newer_and_nothing_overtakes() {
    let world = World::new();
    keep(&world, "t", "old").await;
    let mut client = world.client(connect("c")).await;
    client
        .ask(vec![filter("t", Qos::AtLeastOnce)], Some(3))
        .await;
    keep(&world, "t", "new").await;
    let received = client.receive().await;
    let [Sent::SubAck(..), Sent::Publish(old), Sent::Publish(new)] = &received[..] else {
        panic!("{received:?}");
    };
    assert_eq!(
        (old.payload.as_str(), old.retain, &old.subscription_ids[..]),
        ("old", true, &[3][..])
    );
    assert_eq!(
        (new.payload.as_str(), new.retain, &new.subscription_ids[..]),
        ("new", false, &[3][..])
    );
}

// B7
#[tokio::test]
async fn a_retained_message_that_waits_is_not_overtaken_by_newer_ones_when_the_connection_breaks() {
    let world = World::new();
    keep(&world, "t", "old").await;
    let one = Connect {
        receive_maximum: 1,
        ..resume("c")
    };
    let mut client = world.client(one).await;
    client.subscribe("first", Qos::AtLeastOnce).await;
    keep(&world, "first", "fills the window").await;
    assert_eq!(client.payloads().await, ["fills the window"]);
    client.subscribe("t", Qos::AtLeastOnce).await;
    keep(&world, "t", "new").await;
    assert_eq!(client.messages().await, []);
    client.vanish().await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["fills the window", "old", "new"]);
    world.assert_nothing_leaks().await;
}

#[tokio::test]
async fn a_shared_subscription_gets_no_retained_messages() {
    let world = World::new();
    keep(&world, "t", "kept").await;
    let mut client = world.client(connect("c")).await;
    client.subscribe("$share/g/t", Qos::AtMostOnce).await;
    assert_eq!(client.messages().await, []);
}

#[tokio::test]
async fn asking_for_retained_messages_again_and_again_costs_no_memory_without_bound() {
    let world = World::with(|settings| {
        settings.queue.bytes = 100_000;
    });
    let mut publisher = world.client(connect("keeper")).await;
    for n in 0..100 {
        publisher.publish(retain(&format!("many/{n}"), "x")).await;
        publisher.receive().await;
    }
    let mut client = world.client(connect("c")).await;
    for _ in 0..1000 {
        client
            .ask(vec![filter("many/#", Qos::AtMostOnce)], None)
            .await;
    }
    world.settle().await;
    let queued = client.session.queued_bytes();
    assert!(queued <= 100_000, "{queued} bytes wait for one client");
    let received = client.receive().await;
    let subacks: Vec<_> = received
        .iter()
        .filter_map(|sent| match sent {
            Sent::SubAck(_, reasons) => Some(reasons[0]),
            _ => None,
        })
        .collect();
    assert_eq!(subacks.len(), 1000);
    assert_eq!(
        (subacks[0], subacks[999]),
        (0, 0x97),
        "what does not fit is refused"
    );
    assert!(client.ending.is_none());
    publisher.publish(publish("many/live", "still here")).await;
    assert_eq!(
        client.payloads().await,
        ["still here"],
        "a refused replacement leaves what it was to replace"
    );
    client.vanish().await;
    world.assert_nothing_leaks().await;
}

#[tokio::test]
async fn retained_messages_wait_for_the_window_like_any_other() {
    let world = World::new();
    for n in 0..5 {
        keep(&world, &format!("many/{n}"), "x").await;
    }
    let two = Connect {
        receive_maximum: 2,
        ..connect("c")
    };
    let mut client = world.client(two).await;
    client.subscribe("many/#", Qos::AtLeastOnce).await;
    let messages = client.messages().await;
    assert_eq!(messages.len(), 2);
    client.send(Packet::PubAck(ack(messages[0].id))).await;
    client.send(Packet::PubAck(ack(messages[1].id))).await;
    assert_eq!(client.take().await.len(), 3);
    world.assert_nothing_leaks().await;
}
