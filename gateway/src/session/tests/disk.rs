//! What becomes of messages and answers while the disk refuses (D7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
};

use crate::{
    mqtt::{Connect, Packet, Qos, ReasonCode},
    session::testing::*,
    store::writer::Failure,
};

/// A session that is away, for which messages at QoS 1 and 2 must be stored.
async fn absent(world: &World, filter: &str) {
    let mut reader = world.client(resume("reader")).await;
    assert_eq!(reader.subscribe(filter, Qos::ExactlyOnce).await, 2);
    reader.vanish().await;
}

async fn come(client: &mut Client, what: &[Sent]) {
    assert_eq!(come_any(client, what.len()).await, what);
}

/// The next packets, without waiting for the store.
async fn come_any(client: &mut Client, count: usize) -> Vec<Sent> {
    let start = Instant::now();
    let mut came = Vec::new();
    while came.len() < count {
        client.pull();
        came.extend(client.receive_now());
        assert!(start.elapsed() < DEADLINE, "only {came:?} came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    came
}

// D7, D3
#[tokio::test]
async fn a_qos_2_message_that_is_dispatched_when_the_disk_refuses_arrives_once() {
    let world = World::new();
    absent(&world, "t").await;
    let mut writer = world.client(resume("writer")).await;
    let obstacle = world.fail().await;
    writer
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", "twice?"))
        .await;
    writer
        .publish(publish_at(Qos::AtLeastOnce, 2, "t", "refused"))
        .await;
    world.until_failing().await;
    assert_eq!(world.store.failure(), Some(Failure::Broken));
    come(&mut writer, &[Sent::PubAck(2, 0x83)]).await;
    // A new one is refused before anybody gets it; its answer keeps its place (D4). The first one, sent again, joins.
    writer
        .publish(publish_at(Qos::ExactlyOnce, 3, "t", "new"))
        .await;
    let mut again = publish_at(Qos::ExactlyOnce, 1, "t", "twice?");
    again.dup = true;
    writer.publish(again).await;
    writer.pull();
    assert_eq!(writer.receive_now(), []);
    obstacle.remove().await;
    let answers = [
        Sent::PubRec(1, 0),
        Sent::PubRec(3, 0x83),
        Sent::PubRec(1, 0),
    ];
    come(&mut writer, &answers).await;
    writer.send(Packet::PubRel(ack(1))).await;
    assert_eq!(writer.receive().await, [Sent::PubComp(1, 0)]);
    let mut reader = world.client(resume("reader")).await;
    let payloads = reader.payloads().await;
    let doubled = payloads.iter().filter(|payload| *payload == "twice?");
    assert_eq!(doubled.count(), 1, "{payloads:?}");
    assert!(!payloads.contains(&"new".to_owned()));
}

// D7: v3 cannot be told, so its connection ends; at QoS 2 its answer waits.
#[tokio::test]
async fn a_v3_publisher_is_disconnected_for_a_qos_1_message_that_the_disk_refuses() {
    let world = World::new();
    absent(&world, "t").await;
    let mut once = world.client(resume_v3("once")).await;
    let mut exactly = world.client(resume_v3("exactly")).await;
    let obstacle = world.fail().await;
    once.publish(publish_at(Qos::AtLeastOnce, 1, "t", "1"))
        .await;
    exactly
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", "2"))
        .await;
    world.until_failing().await;
    let start = Instant::now();
    while once.ending.is_none() {
        once.pull();
        assert!(start.elapsed() < DEADLINE, "it stays connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        once.ended_with(),
        Some(ReasonCode::ImplementationSpecificError)
    );
    exactly.pull();
    assert_eq!((exactly.receive_now(), &exactly.ending), (vec![], &None));
    obstacle.remove().await;
    come(&mut exactly, &[Sent::PubRec(1, 0)]).await;
}

#[derive(Default)]
struct Rings(AtomicUsize);

impl Wake for Rings {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

// B2, D7
#[tokio::test]
async fn who_waits_for_credit_is_woken_and_served_when_the_disk_refuses() {
    let world = World::new();
    absent(&world, "t").await;
    let mut writer = world.client(connect("writer")).await;
    let obstacle = world.fail().await;
    let large = "x".repeat(200_000);
    for id in 1..=8 {
        writer
            .publish(publish_at(Qos::AtLeastOnce, id, "t", &large))
            .await;
    }
    let rings = Arc::new(Rings::default());
    let waker = Waker::from(rings.clone());
    let start = Instant::now();
    while !world.store.is_full(None) {
        assert!(start.elapsed() < DEADLINE, "the credit is not used up");
        assert!(!world.store.is_failing());
        tokio::task::yield_now().await;
    }
    assert!(writer.waits_for_the_disk(&waker));
    world.until_failing().await;
    assert!(rings.0.load(Relaxed) > 0, "nobody wakes it");
    assert!(!writer.waits_for_the_disk(&waker));
    obstacle.remove().await;
    world.settle().await;
}

// What waits for the disk is overtaken by QoS 0: an alias that it sets is not known to the client yet (MQTT 5 §3.3.2.3.4).
#[tokio::test]
async fn no_topic_alias_is_used_before_the_message_that_sets_it_has_left() {
    let world = World::new();
    let mut reader = world
        .client(Connect {
            topic_alias_maximum: 10,
            ..resume("reader")
        })
        .await;
    reader.subscribe("#", Qos::ExactlyOnce).await;
    let mut writer = world.client(connect("writer")).await;
    writer
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", "first"))
        .await;
    let first = reader.messages().await.remove(0);
    assert_eq!((&*first.topic, first.alias), ("t", None));
    let obstacle = world.fail().await;
    // PUBREL waits for the disk, and what is at QoS 1 and 2 behind it.
    reader.send(Packet::PubRec(ack(first.id))).await;
    writer
        .publish(publish_at(Qos::AtLeastOnce, 2, "t", "held"))
        .await;
    writer.publish(publish("t", "live")).await;
    let live = come_any(&mut reader, 1).await.remove(0);
    assert!(
        matches!(&live, Sent::Publish(live) if live.payload == "live" && live.topic == "t" && live.alias == Some(1)),
        "{live:?}"
    );
    obstacle.remove().await;
    let rest = come_any(&mut reader, 2).await;
    assert_eq!(rest[0], Sent::PubRel(first.id, 0));
    assert!(
        matches!(&rest[1], Sent::Publish(held) if held.payload == "held" && held.topic == "t" && held.alias.is_none()),
        "{rest:?}"
    );
}

// D1: answers that wait are bounded; a client that asks for more of them is not read from.
#[tokio::test]
async fn a_client_that_is_owed_many_answers_is_not_read_from_until_the_disk_takes_them() {
    let world = World::new();
    let mut client = world
        .client(Connect {
            receive_maximum: 10,
            ..resume("client")
        })
        .await;
    client.subscribe("t", Qos::ExactlyOnce).await;
    client
        .publish(publish_at(Qos::ExactlyOnce, 1, "t", ""))
        .await;
    let came = client.receive().await;
    let id = came.iter().find_map(|sent| match sent {
        Sent::Publish(message) => Some(message.id),
        _ => None,
    });
    let obstacle = world.fail().await;
    client.send(Packet::PubRec(ack(id.unwrap()))).await;
    // Each is answered, behind the first.
    for _ in 0..1000 {
        client.send(Packet::PubRec(ack(9))).await;
    }
    assert!(!client.connection().owes_many_answers());
    for _ in 0..100 {
        client.send(Packet::PubRec(ack(9))).await;
    }
    assert!(client.connection().owes_many_answers());
    assert!(client.connection().held_bytes() > 4 * 1100);
    client.pull();
    assert_eq!(client.receive_now(), []);
    obstacle.remove().await;
    assert_eq!(come_any(&mut client, 1101).await.len(), 1101);
    assert!(!client.connection().owes_many_answers());
    assert_eq!(client.connection().held_bytes(), 0);
}
