//! Shared groups: nothing is lost when members come and go (S4).

use std::time::{Duration, Instant};

use crate::{
    acl::{Action, Effect, Policy, Rule, Who},
    mqtt::{Connect, Packet, Qos, ReasonCode, Unsubscribe},
    session::testing::*,
};

async fn member(world: &World, connect: Connect, qos: Qos) -> Client {
    let mut client = world.client(connect).await;
    client.subscribe("$share/g/t", qos).await;
    client
}

/// Publishes 1, 2, ... up to `count`.
async fn produce(world: &World, qos: Qos, count: u16) {
    let mut publisher = world.client(connect("publisher")).await;
    for n in 1..=count {
        publisher
            .publish(publish_at(qos, n, "t", &n.to_string()))
            .await;
    }
    publisher.vanish().await;
}

fn all(count: u16) -> Vec<String> {
    let mut all: Vec<_> = (1..=count).map(|n| n.to_string()).collect();
    all.sort();
    all
}

fn together(mut a: Vec<String>, b: Vec<String>) -> Vec<String> {
    a.extend(b);
    a.sort();
    a
}

#[tokio::test]
async fn each_message_goes_to_one_member_in_turn() {
    let world = World::new();
    let mut one = member(&world, connect("1"), Qos::AtLeastOnce).await;
    let mut two = member(&world, connect("2"), Qos::AtLeastOnce).await;
    let mut other_group = world.client(connect("3")).await;
    other_group.subscribe("$share/h/t", Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 10).await;
    let (one, two) = (one.take().await, two.take().await);
    assert_eq!((one.len(), two.len()), (5, 5));
    assert_eq!(together(one, two), all(10));
    assert_eq!(other_group.take().await.len(), 10);
}

#[tokio::test]
async fn unacknowledged_qos_1_of_a_member_that_breaks_moves_to_another() {
    let world = World::new();
    for lasting in [false, true] {
        let mine = if lasting { resume("1") } else { connect("1") };
        let mut one = member(&world, mine, Qos::AtLeastOnce).await;
        let mut two = member(&world, connect("2"), Qos::AtLeastOnce).await;
        produce(&world, Qos::AtLeastOnce, 6).await;
        let got = one.messages().await;
        assert_eq!(got.len(), 3);
        one.send(Packet::PubAck(ack(got[0].id))).await;
        one.vanish().await;
        assert_eq!(
            together(two.take().await, vec![got[0].payload.clone()]),
            all(6)
        );
        if lasting {
            let mut back = world.client(resume("1")).await;
            assert_eq!(back.receive().await, [], "it moved: it does not come again");
            back.disconnect(ReasonCode::Success, Some(0)).await;
        }
        two.vanish().await;
        world.assert_nothing_leaks().await;
    }
}

#[tokio::test]
async fn qos_2_that_was_sent_never_moves_and_what_was_not_sent_does() {
    let world = World::new();
    let narrow = Connect {
        receive_maximum: 1,
        ..resume("1")
    };
    let mut one = member(&world, narrow, Qos::ExactlyOnce).await;
    let mut two = member(&world, connect("2"), Qos::ExactlyOnce).await;
    produce(&world, Qos::ExactlyOnce, 4).await;
    let sent = one.messages().await;
    assert_eq!(sent.len(), 1);
    one.vanish().await;
    let moved = two.payloads().await;
    assert_eq!(together(moved, vec![sent[0].payload.clone()]), all(4));
    let mut back = world.client(resume("1")).await;
    let again = back.messages().await;
    assert_eq!(again.len(), 1);
    assert!(again[0].dup);
    assert_eq!(again[0].payload, sent[0].payload);
}

#[tokio::test]
async fn what_waits_moves_when_its_member_unsubscribes() {
    let world = World::new();
    let narrow = Connect {
        receive_maximum: 1,
        ..connect("1")
    };
    let mut one = member(&world, narrow, Qos::AtLeastOnce).await;
    let mut two = member(&world, connect("2"), Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 6).await;
    let sent = one.messages().await;
    assert_eq!(sent.len(), 1);
    assert_eq!(one.unsubscribe("$share/g/t").await, 0);
    one.send(Packet::PubAck(ack(sent[0].id))).await;
    assert_eq!(one.messages().await, []);
    assert_eq!(
        together(two.take().await, vec![sent[0].payload.clone()]),
        all(6)
    );
}

#[tokio::test]
async fn online_members_come_before_offline_ones_and_the_last_one_keeps_everything() {
    let world = World::new();
    let away = member(&world, resume("away"), Qos::AtLeastOnce).await;
    away.vanish().await;
    let mut here = member(&world, connect("here"), Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 4).await;
    assert_eq!(
        together(
            here.messages()
                .await
                .into_iter()
                .map(|m| m.payload)
                .collect(),
            vec![]
        ),
        all(4)
    );
    // Unacknowledged: it all goes to the one that can wait for its client.
    here.vanish().await;
    produce(&world, Qos::AtLeastOnce, 0).await;
    let mut away = world.client(resume("away")).await;
    assert_eq!(together(away.take().await, vec![]), all(4));
}

#[tokio::test]
async fn the_only_member_gets_its_unacknowledged_messages_back_when_it_returns() {
    let world = World::new();
    let mut one = member(&world, resume("1"), Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 3).await;
    assert_eq!(one.messages().await.len(), 3);
    one.vanish().await;
    let mut back = world.client(resume("1")).await;
    assert_eq!(back.take().await, all(3));
}

#[tokio::test]
async fn the_end_of_a_session_gives_its_share_to_the_others() {
    let world = World::new();
    let one = member(&world, resume("1"), Qos::AtLeastOnce).await;
    one.vanish().await;
    produce(&world, Qos::AtLeastOnce, 3).await;
    let two = member(&world, resume("2"), Qos::AtLeastOnce).await;
    two.vanish().await;
    let session = world.session("1").unwrap();
    world
        .registry
        .due(session, crate::session::agenda::Due::Expiry)
        .await;
    world.settle().await;
    let mut two = world.client(resume("2")).await;
    assert_eq!(two.take().await, all(3));
    world.assert_nothing_leaks().await;
}

#[tokio::test]
async fn a_message_does_not_go_back_to_a_member_that_may_not_have_it_any_more() {
    let world = World::new();
    let mut one = member(&world, resume("1"), Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 1).await;
    assert_eq!(one.messages().await.len(), 1);
    let mut others = ALLOW_ALL.to_vec();
    others.push((Effect::Deny, Action::Subscribe, "t"));
    world.allow_only(&others).await;
    one.receive().await;
    one.vanish().await;
    let mut back = world.client(resume("1")).await;
    assert_eq!(back.receive().await, []);
}

#[tokio::test]
async fn a_member_that_loses_its_permission_leaves_what_waits_to_the_others() {
    let world = World::new();
    let narrow = Connect {
        receive_maximum: 1,
        ..connect("1")
    };
    let mut one = world.client_of(narrow, principal("one")).await;
    one.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    let mut two = world.client_of(connect("2"), principal("two")).await;
    two.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 6).await;
    let mut rules: Vec<_> = policy(&ALLOW_ALL).rules().cloned().collect();
    rules.push(crate::acl::Rule {
        id: 9,
        effect: Effect::Deny,
        action: Action::Subscribe,
        filter: "t".parse().unwrap(),
        who: crate::acl::Who::User {
            realm: "local".into(),
            name: "one".into(),
        },
    });
    world.policy.replace(crate::acl::Policy::new(rules));
    world.registry.policy_changed().await;
    one.receive().await;
    assert_eq!(one.ended_with(), Some(ReasonCode::NotAuthorized));
    one.finish().await;
    assert_eq!(together(two.take().await, vec![]), all(6));
}

#[tokio::test]
async fn a_member_that_left_in_the_same_moment_costs_no_message() {
    let world = World::new();
    let mut one = member(&world, connect("1"), Qos::AtLeastOnce).await;
    let mut two = member(&world, connect("2"), Qos::AtLeastOnce).await;
    // The first member has ended, and the dispatcher has not come to it.
    let (_, shared) = one.session.end();
    assert!(shared.is_empty());
    produce(&world, Qos::AtLeastOnce, 6).await;
    assert_eq!(together(two.take().await, vec![]), all(6));
    assert_eq!(one.receive().await, []);
    assert_eq!(one.session.queued_bytes(), 0);
}

// S4
#[tokio::test]
async fn what_moves_to_another_member_is_not_read_again_by_one_that_comes_straight_back() {
    let world = World::new();
    let slow = Connect {
        receive_maximum: 1,
        ..resume("1")
    };
    let mut one = member(&world, slow, Qos::ExactlyOnce).await;
    let mut two = member(&world, resume("2"), Qos::ExactlyOnce).await;
    produce(&world, Qos::ExactlyOnce, 6).await;
    assert_eq!(
        one.messages().await.len(),
        1,
        "the others wait for the window"
    );
    one.vanish().await;
    let mut back = world.client(resume("1")).await;
    let (one, two) = (back.take().await, two.take().await);
    assert_eq!(together(one, two), all(6));
}

// S4
#[tokio::test]
async fn a_group_of_one_keeps_the_order_of_what_waited_when_its_member_left() {
    let world = World::new();
    let slow = Connect {
        receive_maximum: 1,
        ..resume("1")
    };
    let mut one = member(&world, slow, Qos::AtLeastOnce).await;
    produce(&world, Qos::AtLeastOnce, 4).await;
    assert_eq!(one.messages().await.len(), 1);
    one.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "5"))
        .await;
    world.settle().await;
    let world = world.crash().await;
    let mut back = world.client(resume("1")).await;
    assert_eq!(back.take().await, ["1", "2", "3", "4", "5"]);
}

// S4, D10
#[tokio::test]
async fn a_session_that_ends_leaves_what_is_on_disk_to_the_other_members() {
    let world = World::new();
    let one = member(&world, resume("1"), Qos::ExactlyOnce).await;
    one.vanish().await;
    produce(&world, Qos::ExactlyOnce, 5).await;
    let world = world.crash().await;
    let two = member(&world, resume("2"), Qos::ExactlyOnce).await;
    two.vanish().await;
    let session = world.session("1").unwrap();
    world
        .registry
        .due(session, crate::session::agenda::Due::Expiry)
        .await;
    world.settle().await;
    let world = world.crash().await;
    assert!(world.session("1").is_none());
    let mut back = world.client(resume("2")).await;
    assert_eq!(back.take().await, ["1", "2", "3", "4", "5"]);
}

const COUNT: u16 = 20;

/// Messages of which only a few fit a page, and so one that is numbered by its first characters.
async fn produce_large(world: &World, qos: Qos, topics: &[&str]) {
    let mut publisher = world.client(connect("publisher")).await;
    for n in 1..=COUNT {
        let payload = format!("{n} {}", "x".repeat(10_000));
        let topic = topics[usize::from(n) % topics.len()];
        publisher.publish(publish_at(qos, n, topic, &payload)).await;
    }
    publisher.vanish().await;
}

fn numbers(payloads: Vec<String>) -> Vec<String> {
    let number = |payload: String| payload.split(' ').next().unwrap().to_owned();
    payloads.into_iter().map(number).collect()
}

async fn deny_to_one(world: &World, filter: &str) {
    let mut rules: Vec<_> = policy(&ALLOW_ALL).rules().cloned().collect();
    rules.push(Rule {
        id: 9,
        effect: Effect::Deny,
        action: Action::Subscribe,
        filter: filter.parse().unwrap(),
        who: Who::User {
            realm: "local".into(),
            name: "one".into(),
        },
    });
    world.policy.replace(Policy::new(rules));
    world.registry.policy_changed().await;
    world.settle().await;
}

// S4
#[tokio::test]
async fn what_waits_on_disk_moves_when_its_member_unsubscribes() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let world = World::new();
        let one = member(&world, resume("1"), qos).await;
        one.vanish().await;
        produce_large(&world, qos, &["t"]).await;
        let narrow = Connect {
            receive_maximum: 1,
            ..resume("1")
        };
        let mut one = world.client(narrow).await;
        let sent = one.messages().await;
        assert_eq!(sent.len(), 1);
        let two = member(&world, resume("2"), qos).await;
        two.vanish().await;
        assert_eq!(one.unsubscribe("$share/g/t").await, 0);
        world.settle().await;
        let stored = world.metrics.messages_stored.get();
        assert_eq!(stored, u64::from(COUNT) - 1, "one has none of them");
        let again = publish_at(qos, 1, "other", "");
        let mut publisher = world.client(connect("publisher")).await;
        publisher.publish(again).await;
        assert_eq!(one.messages().await, []);
        // On disk too.
        let world = world.crash().await;
        let mut back = world.client(resume("1")).await;
        let mine = back.messages().await;
        assert_eq!(mine.len(), 1, "what was in flight stays: {qos:?}");
        assert_eq!((mine[0].dup, mine[0].id), (true, sent[0].id));
        let mut two = world.client(resume("2")).await;
        let theirs = two.messages().await;
        let theirs = theirs.into_iter().map(|message| message.payload).collect();
        let first = numbers(vec![sent[0].payload.clone()]);
        assert_eq!(together(numbers(theirs), first), all(COUNT));
    }
}

// S4, D1
#[tokio::test]
async fn what_is_to_move_after_unsubscribe_moves_after_a_crash_too() {
    let world = World::new();
    let one = member(&world, resume("1"), Qos::AtLeastOnce).await;
    one.vanish().await;
    produce_large(&world, Qos::AtLeastOnce, &["t"]).await;
    let narrow = Connect {
        receive_maximum: 1,
        ..resume("1")
    };
    let mut one = world.client(narrow).await;
    assert_eq!(one.messages().await.len(), 1);
    let two = member(&world, resume("2"), Qos::AtLeastOnce).await;
    two.vanish().await;
    world.hold_departures();
    let packet = Unsubscribe {
        packet_id: packet_id(9),
        filters: vec!["$share/g/t".into()],
        user_properties: Vec::new(),
    };
    one.send(Packet::Unsubscribe(Box::new(packet))).await;
    let start = Instant::now();
    while one.receive_now() != [Sent::UnsubAck(9, vec![0])] {
        one.pull();
        assert!(start.elapsed() < DEADLINE, "UNSUBACK does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let world = world.crash().await;
    world.settle().await;
    // Its client never comes back, and would have been the last to know.
    let mut two = world.client(resume("2")).await;
    let theirs = numbers(two.take().await);
    let mine = world.session("1").unwrap();
    assert_eq!(
        theirs.len(),
        usize::from(COUNT) - 1,
        "all but the one that is in flight: {theirs:?}"
    );
    assert_eq!(mine.queued_bytes(), 0);
}

// S4, P4
#[tokio::test]
async fn a_member_that_loses_its_permission_while_it_is_away_leaves_what_is_on_disk_to_the_others()
{
    let world = World::new();
    let mut one = world.client_of(resume("1"), principal("one")).await;
    one.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    one.vanish().await;
    produce_large(&world, Qos::AtLeastOnce, &["t"]).await;
    let two = member(&world, resume("2"), Qos::AtLeastOnce).await;
    two.vanish().await;
    deny_to_one(&world, "t").await;
    let mut two = world.client(resume("2")).await;
    assert_eq!(together(numbers(two.take().await), vec![]), all(COUNT));
    world.assert_nothing_leaks().await;
}

// S4, P2
#[tokio::test]
async fn what_a_member_may_not_have_any_more_goes_to_another_when_it_is_read_from_disk() {
    let world = World::new();
    let mut one = world.client_of(resume("1"), principal("one")).await;
    one.subscribe("$share/g/+", Qos::AtLeastOnce).await;
    one.vanish().await;
    produce_large(&world, Qos::AtLeastOnce, &["t", "u"]).await;
    let mut two = world.client_of(resume("2"), principal("two")).await;
    two.subscribe("$share/g/+", Qos::AtLeastOnce).await;
    deny_to_one(&world, "t").await;
    let mut one = world.client_of(resume("1"), principal("one")).await;
    let (one, two) = (numbers(one.take().await), numbers(two.take().await));
    let odd = |number: &&String| number.parse::<u16>().unwrap() % 2 == 1;
    assert_eq!(one.len(), usize::from(COUNT) / 2, "{one:?}");
    assert_eq!(one.iter().filter(odd).count(), one.len(), "in topic u");
    assert_eq!(together(one, two), all(COUNT));
    assert_eq!(world.metrics.messages_dropped.get(), 0);
}

// S4: nobody is left who could have them.
#[tokio::test]
async fn what_waits_on_disk_is_dropped_and_counted_when_the_last_member_unsubscribes() {
    let world = World::new();
    let one = member(&world, resume("1"), Qos::AtLeastOnce).await;
    one.vanish().await;
    produce_large(&world, Qos::AtLeastOnce, &["t"]).await;
    let narrow = Connect {
        receive_maximum: 1,
        ..resume("1")
    };
    let mut one = world.client(narrow).await;
    assert_eq!(one.messages().await.len(), 1);
    assert_eq!(one.unsubscribe("$share/g/t").await, 0);
    world.settle().await;
    let dropped = world.metrics.messages_dropped.get();
    assert_eq!(dropped, u64::from(COUNT) - 1);
    assert_eq!(world.metrics.messages_stored.get(), 0);
    let world = world.crash().await;
    world.settle().await;
    let mut back = world.client(resume("1")).await;
    assert_eq!(back.take().await.len(), 1, "the one in flight");
}
