//! What waits on disk for clients that are away, when a change takes a right from them, and when the disk does not give
//! it (D7, D8, D9, P3, P4, S4).

use std::time::{Duration, Instant};

use crate::{
    acl::{Action, Effect},
    auth::Principal,
    mqtt::{Connect, Qos, ReasonCode},
    session::{claim::Refused, testing::*},
};

fn deny(filter: &'static str) -> Vec<(Effect, Action, &'static str)> {
    let mut rules = ALLOW_ALL.to_vec();
    rules.push((Effect::Deny, Action::Subscribe, filter));
    rules
}

/// A session of `who` that is away, with these messages on disk.
async fn absent(world: &World, id: &str, who: Principal, filter: &str, topics: &[&str]) {
    let mut client = world.client_of(resume(id), who).await;
    client.subscribe(filter, Qos::ExactlyOnce).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for (topic, n) in topics.iter().zip(1..) {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, n, topic, topic))
            .await;
    }
    world.settle().await;
    publisher.vanish().await;
}

fn stored(world: &World) -> (u64, u64) {
    (
        world.metrics.messages_stored.get(),
        world.metrics.messages_dropped.get(),
    )
}

// D8, P4: not only when the client comes back.
#[tokio::test]
async fn messages_that_a_client_which_is_away_may_not_have_any_more_go_at_once() {
    let world = World::new();
    let topics = ["open/1", "secret/1", "open/2", "secret/2", "secret/3"];
    absent(&world, "c", principal("user"), "#", &topics).await;
    assert_eq!(stored(&world), (5, 0));
    world.allow_only(&deny("secret/#")).await;
    world.settle().await;
    assert_eq!(stored(&world), (2, 3));
    // It is on disk, too, and a rule that comes back brings nothing back.
    let world = world.crash().await;
    world.allow_only(&ALLOW_ALL).await;
    let mut client = world.client(resume("c")).await;
    assert_eq!(client.take().await, ["open/1", "open/2"]);
    assert!(client.ending.is_none());
}

// D8: what an allow that is gone had let in goes, subscription and all.
#[tokio::test]
async fn a_subscription_that_is_lost_while_its_client_is_away_takes_what_waits_with_it() {
    let world = World::new();
    absent(&world, "c", principal("user"), "a/#", &["a/1", "a/2"]).await;
    let rules = [
        (Effect::Allow, Action::Publish, "#"),
        (Effect::Allow, Action::Subscribe, "b/#"),
    ];
    world.allow_only(&rules).await;
    world.settle().await;
    assert_eq!(stored(&world), (0, 2));
    assert_eq!(world.subscriptions().await, 0);
    let mut client = world.client(resume("c")).await;
    client.receive().await;
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
}

// P3: other roles, while it is away.
#[tokio::test]
async fn roles_that_are_taken_away_take_what_waits_for_the_principal_and_for_nobody_else() {
    let world = World::new();
    let mut rules: Vec<_> = policy(&ALLOW_ALL).rules().cloned().collect();
    rules.push(crate::acl::Rule {
        id: 9,
        effect: Effect::Deny,
        action: Action::Subscribe,
        filter: "secret".parse().unwrap(),
        who: crate::acl::Who::Role("guest".into()),
    });
    world.policy.replace(crate::acl::Policy::new(rules));
    for name in ["one", "two"] {
        let mut client = world.client_of(resume(name), principal(name)).await;
        client.subscribe("#", Qos::AtLeastOnce).await;
        client.vanish().await;
    }
    let mut publisher = world.client(connect("publisher")).await;
    for (topic, id) in [("secret", 1), ("open", 2)] {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, id, topic, topic))
            .await;
    }
    world.settle().await;
    assert_eq!(stored(&world), (4, 0));
    world
        .registry
        .roles_changed("local", "one", ["guest".into()].into())
        .await;
    world.settle().await;
    assert_eq!(stored(&world), (3, 1));
}

// D9
#[tokio::test]
async fn a_message_in_flight_keeps_its_identifier_and_is_not_sent_again_when_it_is_not_allowed_any_more()
 {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("#", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "secret", "in flight"))
        .await;
    let sent = client.messages().await;
    assert_eq!(sent.len(), 1);
    client.vanish().await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 2, "secret", "waits"))
        .await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 3, "open", "open"))
        .await;
    world.settle().await;
    world.allow_only(&deny("secret")).await;
    world.settle().await;
    assert_eq!(
        world.metrics.messages_dropped.get(),
        1,
        "the one that waits"
    );
    let mut client = world.client(resume("c")).await;
    let came = client.messages().await;
    let payloads: Vec<_> = came.iter().map(|message| &*message.payload).collect();
    assert_eq!(payloads, ["open"]);
    assert_ne!(came[0].id, sent[0].id);
    // The client may still acknowledge it.
    client.send(crate::mqtt::Packet::PubAck(ack(1))).await;
    assert!(client.ending.is_none());
}

// D8: a change that takes nothing away reads nothing, and neither does one that concerns others.
#[tokio::test]
async fn a_change_that_takes_nothing_from_a_session_leaves_its_messages_alone() {
    let world = World::new();
    absent(&world, "c", principal("user"), "#", &["t"]).await;
    let mut rules = ALLOW_ALL.to_vec();
    rules.push((Effect::Allow, Action::Subscribe, "more"));
    rules.push((Effect::Deny, Action::Publish, "t"));
    let session = world.session("c").unwrap();
    session.apply(&policy(&rules), None);
    assert!(world.registry.is_settled());
    session.apply(&policy(&deny("other")), None);
    assert!(!world.registry.is_settled(), "something was taken");
    world.settle().await;
    assert_eq!(stored(&world), (1, 0));
}

// D8: a client that reads slowly, and is disconnected by the change, leaves nothing behind that it may not have.
#[tokio::test]
async fn what_was_not_checked_while_the_client_was_here_is_checked_when_it_leaves() {
    let world = World::new();
    let topics: Vec<_> = ["secret"; 50].into_iter().chain(["open"]).collect();
    absent(&world, "c", principal("user"), "#", &topics).await;
    let narrow = Connect {
        receive_maximum: 1,
        ..resume("c")
    };
    let mut client = world.client(narrow).await;
    client.subscribe("lost", Qos::AtLeastOnce).await;
    assert_eq!(client.messages().await.len(), 1);
    let mut rules = deny("secret");
    rules.push((Effect::Deny, Action::Subscribe, "lost"));
    world.allow_only(&rules).await;
    client.receive().await;
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
    client.finish().await;
    world.settle().await;
    let waits = world.metrics.messages_stored.get();
    assert!(waits <= 2, "the one in flight, and the open one: {waits}");
}

// B3, P4: a change of policy waits for no disk, and neither do those whom it does not concern.
#[tokio::test]
async fn a_change_of_policy_is_in_force_and_messages_flow_while_the_disk_gives_nothing() {
    let world = World::new();
    for n in 0..50 {
        let mut client = world.client(resume(&format!("away-{n}"))).await;
        client.subscribe("secret", Qos::AtLeastOnce).await;
        client.subscribe("#", Qos::AtLeastOnce).await;
        client.vanish().await;
    }
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "secret", "x"))
        .await;
    let mut live = world.client(connect("live")).await;
    live.subscribe("open", Qos::AtMostOnce).await;
    world.settle().await;
    let waits = world.metrics.messages_stored.get();
    assert!(waits >= 50, "{waits}");
    let obstacle = world.fail().await;
    world
        .client(connect("other"))
        .await
        .publish(publish_at(Qos::AtLeastOnce, 1, "open", "x"))
        .await;
    world.until_failing().await;
    let began = Instant::now();
    world.allow_only(&deny("secret")).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    publisher.publish(publish("open", "flows")).await;
    let flows = |sent: &Sent| matches!(sent, Sent::Publish(message) if message.payload == "flows");
    loop {
        live.pull();
        if live.receive_now().iter().any(flows) {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "it does not come");
        tokio::task::yield_now().await;
    }
    assert!(
        world.metrics.messages_stored.get() >= waits,
        "nothing could be read"
    );
    obstacle.remove().await;
    world.settle().await;
    // Of those that are away, each has lost its one forbidden message, and what was published meanwhile may wait.
    let dropped = world.metrics.messages_dropped.get();
    assert!(dropped >= 50, "{dropped}");
}

// D7, S4: a CONNECT that would end a session is answered while the disk gives nothing, and the end comes later.
#[tokio::test]
async fn a_clean_start_is_refused_while_the_disk_cannot_give_what_others_are_to_have() {
    let world = World::new();
    for id in ["1", "2"] {
        let mut member = world.client(resume(id)).await;
        member.subscribe("$share/g/t", Qos::AtLeastOnce).await;
        member.vanish().await;
    }
    let mut publisher = world.client(connect("publisher")).await;
    for id in 1..=10 {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, id, "t", &id.to_string()))
            .await;
    }
    world.settle().await;
    let obstacle = world.fail().await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 11, "t", "lost"))
        .await;
    world.until_failing().await;
    let anew = Connect {
        clean_start: true,
        session_expiry: 0,
        ..connect("1")
    };
    for _ in 0..2 {
        let start = Instant::now();
        let claimed = world.claim(&anew, principal("user")).await;
        assert_eq!(claimed.map(drop).unwrap_err(), Refused::Store);
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "it is answered soon"
        );
    }
    assert!(!world.registry.is_settled(), "its end is still to come");
    obstacle.remove().await;
    world.settle().await;
    let claimed = world.client(anew).await;
    assert!(!claimed.session_present);
    let mut two = world.client(resume("2")).await;
    let mut numbers = two.take().await;
    numbers.retain(|number| number != "lost");
    numbers.sort_by_key(|number| number.parse::<u32>().unwrap());
    let all: Vec<_> = (1..=10).map(|number| number.to_string()).collect();
    assert_eq!(
        numbers, all,
        "nothing is lost to the member that stays (S4)"
    );
}

// P3, D7: who is disabled is told at once, whatever its other sessions wait for.
#[tokio::test]
async fn a_disabled_principal_s_connections_end_although_a_session_of_it_waits_for_the_disk() {
    let world = World::new();
    let mut away = world.client(resume("away")).await;
    away.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    away.vanish().await;
    let mut publisher = world
        .client_of(connect("publisher"), principal("other"))
        .await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "x"))
        .await;
    world.settle().await;
    let mut clients = Vec::new();
    for id in ["a", "b", "c", "d"] {
        clients.push(world.client(connect(id)).await);
    }
    let obstacle = world.fail().await;
    let registry = world.registry.clone();
    let told = tokio::spawn(async move { registry.principal_disabled("local", "user").await });
    let start = Instant::now();
    for client in &mut clients {
        while client.ending.is_none() {
            client.pull();
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "nobody waits for the disk"
            );
            tokio::task::yield_now().await;
        }
        assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
    }
    obstacle.remove().await;
    told.await.unwrap();
    for client in clients {
        client.finish_now().await;
    }
    world.settle().await;
    assert_eq!(world.registry.len(), 1, "only the publisher is left");
}

#[tokio::test]
async fn a_decision_is_remembered_when_it_is_new_and_not_for_each_message() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("a/#", Qos::AtMostOnce).await;
    client.subscribe("$share/g/a/#", Qos::AtMostOnce).await;
    for _ in 0..20 {
        client.publish(publish("t/1", "x")).await;
        client.publish(publish("t/2", "x")).await;
    }
    let mut asked: Vec<_> = world
        .decisions
        .all()
        .into_iter()
        .map(|asked| (asked.action, asked.topic.to_string(), asked.count))
        .collect();
    asked.sort_by(|one, other| one.1.cmp(&other.1));
    let (publish, subscribe) = (Action::Publish, Action::Subscribe);
    let expected = [
        (subscribe, "a/#".to_owned(), 2),
        (publish, "t/1".to_owned(), 1),
        (publish, "t/2".to_owned(), 1),
    ];
    assert_eq!(asked, expected);
}
