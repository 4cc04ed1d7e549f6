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
    mqtt::{
        Connect, Packet, Publish, Qos, ReasonCode, RetainHandling, SubscribeFilter, Unsubscribe,
    },
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

fn unsubscribe_packet(id: u16, filter: &str) -> Packet {
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: packet_id(id),
        filters: vec![filter.into()],
        user_properties: Vec::new(),
    }))
}

async fn retain(world: &World, topic: &str, payload: &str) {
    let mut publisher = world.client(connect("publisher")).await;
    let message = publish(topic, payload);
    publisher
        .publish(Publish {
            retain: true,
            ..message
        })
        .await;
    publisher.abandon().await;
}

// D7, D1
#[tokio::test]
async fn a_subscription_that_the_disk_refuses_is_answered_so_and_not_made() {
    let world = World::new();
    retain(&world, "new", "kept").await;
    let mut client = world.client(resume("c")).await;
    client.subscribe("old", Qos::AtMostOnce).await;
    let mut writer = world.client(connect("writer")).await;
    let obstacle = world.fail().await;
    let wanted = SubscribeFilter {
        retain_handling: RetainHandling::SendIfNew,
        ..filter("new", Qos::AtLeastOnce)
    };
    let first = client.ask(vec![wanted.clone()], None).await;
    world.until_failing().await;
    come(&mut client, &[Sent::SubAck(first, vec![0x83])]).await;
    // Others are refused before they take effect, and nothing of them waits for the disk. What undoes the first one does,
    // sooner or later.
    let pending = world.metrics.store_bytes_pending.get();
    for _ in 0..10 {
        let other = client
            .ask(vec![filter("newer", Qos::AtLeastOnce)], None)
            .await;
        come(&mut client, &[Sent::SubAck(other, vec![0x83])]).await;
    }
    assert!(world.metrics.store_bytes_pending.get() <= 2 * pending);
    for topic in ["new", "newer", "old"] {
        writer.publish(publish(topic, topic)).await;
    }
    let Sent::Publish(live) = come_any(&mut client, 1).await.remove(0) else {
        panic!("no PUBLISH");
    };
    assert_eq!(live.payload, "old");
    assert_eq!(client.session.subscription_count(), 1);
    obstacle.remove().await;
    world.settle().await;
    let world = world.crash().await;
    assert_eq!(world.session("c").unwrap().subscription_count(), 1);
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.receive().await, [], "nothing of it came to disk");
    client.ask(vec![wanted], None).await;
    let came = client.receive().await;
    assert!(
        matches!(&came[..], [Sent::SubAck(_, granted), Sent::Publish(kept)] if *granted == [1] && kept.payload == "kept"),
        "it is new, and gets what is retained: {came:?}"
    );
}

// D7
#[tokio::test]
async fn a_refused_subscription_can_be_made_when_the_disk_works_again() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    let obstacle = world.fail().await;
    let id = client.ask(vec![filter("t", Qos::AtLeastOnce)], None).await;
    world.until_failing().await;
    come(&mut client, &[Sent::SubAck(id, vec![0x83])]).await;
    obstacle.remove().await;
    while world.store.is_failing() {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.subscribe("t", Qos::AtLeastOnce).await, 1);
    let mut writer = world.client(connect("writer")).await;
    writer
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "1"))
        .await;
    assert_eq!(client.take().await, ["1"]);
    let world = world.crash().await;
    assert_eq!(world.session("c").unwrap().subscription_count(), 1);
}

// D7: UNSUBACK has no 0x97, and in v3 no reason code at all.
#[tokio::test]
async fn an_unsubscribe_that_the_disk_refuses_is_answered_so_and_ends_a_v3_connection() {
    let world = World::new();
    let mut new = world.client(resume("new")).await;
    let mut waits = world.client(resume_v3("waits")).await;
    let mut comes = world.client(resume_v3("comes")).await;
    for client in [&mut new, &mut waits, &mut comes] {
        client.subscribe("a", Qos::AtLeastOnce).await;
        client.subscribe("b", Qos::AtLeastOnce).await;
    }
    let obstacle = world.fail().await;
    new.send(unsubscribe_packet(8, "a")).await;
    waits.send(unsubscribe_packet(8, "a")).await;
    world.until_failing().await;
    come(&mut new, &[Sent::UnsubAck(8, vec![0x83])]).await;
    new.send(unsubscribe_packet(9, "b")).await;
    come(&mut new, &[Sent::UnsubAck(9, vec![0x83])]).await;
    assert_eq!(
        new.session.subscription_count(),
        1,
        "the second one had no effect"
    );
    comes.send(unsubscribe_packet(9, "b")).await;
    let start = Instant::now();
    while waits.ending.is_none() {
        waits.pull();
        assert!(start.elapsed() < DEADLINE, "it stays connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for client in [&waits, &comes] {
        let reason = client.ended_with();
        assert_eq!(reason, Some(ReasonCode::ImplementationSpecificError));
    }
    assert_eq!(comes.session.subscription_count(), 2);
    obstacle.remove().await;
}

// D7: 3.1.1 has one code for every refusal.
#[tokio::test]
async fn a_v3_subscription_that_the_disk_refuses_gets_0x80() {
    let world = World::new();
    let mut client = world.client(resume_v3("c")).await;
    let obstacle = world.fail().await;
    let first = client.ask(vec![filter("t", Qos::AtLeastOnce)], None).await;
    world.until_failing().await;
    come(&mut client, &[Sent::SubAck(first, vec![0x80])]).await;
    let second = client.ask(vec![filter("u", Qos::AtLeastOnce)], None).await;
    come(&mut client, &[Sent::SubAck(second, vec![0x80])]).await;
    obstacle.remove().await;
}

// B2
#[tokio::test]
async fn subscriptions_that_wait_for_the_disk_take_credit() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    let obstacle = world.fail().await;
    for n in 0..40 {
        let text = format!("{n}{}", "x".repeat(30_000));
        client.ask(vec![filter(&text, Qos::AtMostOnce)], None).await;
    }
    let start = Instant::now();
    while !world.store.is_full(None) {
        assert!(start.elapsed() < DEADLINE, "the credit is not used up");
        assert!(!world.store.is_failing());
        tokio::task::yield_now().await;
    }
    assert!(client.waits_for_the_disk(Waker::noop()));
    obstacle.remove().await;
    world.settle().await;
    assert!(!client.waits_for_the_disk(Waker::noop()));
}

// D1: filters that are not answered are bounded, whatever they wait for.
#[tokio::test]
async fn a_client_that_asked_for_many_subscriptions_is_not_read_from_until_it_is_answered() {
    let world = World::with(|settings| settings.max_subscriptions = 10_000);
    let mut client = world.client(resume("c")).await;
    let filters = (0..1100).map(|n| filter(&n.to_string(), Qos::AtMostOnce));
    client.ask(filters.collect(), None).await;
    assert!(client.connection().owes_many_answers());
    assert_eq!(client.receive().await.len(), 1);
    assert!(!client.connection().owes_many_answers());
}

// D7: what is retained at QoS 0 needs no answer, but room.
#[tokio::test]
async fn while_the_disk_refuses_what_is_retained_at_qos_0_is_bounded_by_the_credit() {
    let world = World::new();
    let mut writer = world.client(connect("writer")).await;
    let mut reader = world.client(connect("reader")).await;
    reader.subscribe("last", Qos::AtMostOnce).await;
    let set = |topic: &str, payload: &str| Publish {
        retain: true,
        ..publish(topic, payload)
    };
    writer.publish(set("last", "before")).await;
    writer.publish(set("first", "before")).await;
    assert_eq!(reader.payloads().await, ["before"]);
    let obstacle = world.fail().await;
    writer.publish(set("first", "after")).await;
    world.until_failing().await;
    // Removed again and again, under names that nobody knew: nothing of it is in memory, but the disk has to be told.
    let refused = || world.metrics.retained_refused.get();
    let start = Instant::now();
    for n in 0.. {
        let topic = format!("{n}{}", "x".repeat(60_000));
        writer.publish(set(&topic, "")).await;
        assert!(start.elapsed() < DEADLINE, "there is no bound");
        if refused() > 0 {
            assert!(n >= 15, "{n} topics used up the credit");
            break;
        }
        assert!(n < 100, "more than five times the credit is kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.publish(set("last", "after")).await;
    let Sent::Publish(live) = come_any(&mut reader, 1).await.remove(0) else {
        panic!("no PUBLISH");
    };
    assert_eq!(live.payload, "after", "who is connected gets it");
    obstacle.remove().await;
    world.settle().await;
    let before = refused();
    writer.publish(set("other", "after")).await;
    world.settle().await;
    assert_eq!(refused(), before, "the disk works again");
    let world = world.crash().await;
    let mut late = world.client(connect("late")).await;
    late.ask(
        ["first", "last", "other"]
            .map(|topic| filter(topic, Qos::AtMostOnce))
            .into(),
        None,
    )
    .await;
    let came = late.receive().await;
    let kept: Vec<_> = came
        .iter()
        .filter_map(|sent| match sent {
            Sent::Publish(message) => Some((&*message.topic, &*message.payload)),
            _ => None,
        })
        .collect();
    let expected = [("first", "after"), ("last", "before"), ("other", "after")];
    assert_eq!(kept, expected);
}
