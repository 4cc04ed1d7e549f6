//! What a change of policy, of roles or of an account does to sessions (P2, P3, P4).

use crate::{
    acl::{Action, Effect, Policy, Rule, Who},
    auth::Principal,
    mqtt::{Connect, Packet, Publish, Qos, ReasonCode},
    routing::{control::Control, envelope::Envelope},
    session::{
        entitlement::Change,
        mailbox::{Mail, Notice},
        testing::*,
    },
};

const ALL: (Effect, Action, &str) = (Effect::Allow, Action::Publish, "#");

fn deny(filter: &'static str) -> Vec<(Effect, Action, &'static str)> {
    let mut rules = ALLOW_ALL.to_vec();
    rules.push((Effect::Deny, Action::Subscribe, filter));
    rules
}

// P4
#[tokio::test]
async fn a_lost_subscription_ends_the_connection_with_its_filter_and_the_session_keeps_the_rest() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("kept", Qos::AtLeastOnce).await;
    client.subscribe("lost/+", Qos::AtLeastOnce).await;
    let mut bystander = world.client(connect("bystander")).await;
    bystander.subscribe("kept", Qos::AtLeastOnce).await;
    world.allow_only(&deny("lost/#")).await;
    let received = client.receive().await;
    let [Sent::Disconnect(0x87, text)] = &received[..] else {
        panic!("{received:?}");
    };
    assert!(text.contains("lost/+"), "{text}");
    client.finish().await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "lost/1", "lost"))
        .await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 2, "kept", "kept"))
        .await;
    let mut client = world.client(resume("c")).await;
    assert!(client.session_present);
    assert_eq!(client.take().await, ["kept"]);
    assert_eq!(bystander.take().await, ["kept"], "others notice nothing");
    assert!(bystander.ending.is_none());
}

// P4
#[tokio::test]
async fn a_subscription_made_anew_outlives_the_revocation_of_the_one_before_it() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    client.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    // Taken away and given back before the dispatcher hears of it.
    let lost = client.session.apply(&policy(&deny("t")), None);
    assert_eq!(lost.subscriptions.len(), 2);
    client.session.apply(&policy(&ALLOW_ALL), None);
    client.subscribe("t", Qos::AtLeastOnce).await;
    client.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    let mut late = Envelope::default();
    late.control(Control::Revoke(lost.subscriptions));
    client.let_go(late).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "1"))
        .await;
    assert_eq!(client.take().await, ["1", "1"]);
    let world = world.crash().await;
    assert_eq!(world.session("c").unwrap().subscription_count(), 2);
}

// P2
#[tokio::test]
async fn one_allow_must_cover_the_filter_and_a_denied_subscription_gets_0x87_and_no_retained_message()
 {
    let world = World::new();
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(Publish {
            retain: true,
            ..publish("a/1", "kept")
        })
        .await;
    world
        .allow_only(&[
            ALL,
            (Effect::Allow, Action::Subscribe, "a/1"),
            (Effect::Allow, Action::Subscribe, "a/2"),
        ])
        .await;
    let mut client = world.client(connect("c")).await;
    assert_eq!(client.subscribe("a/+", Qos::AtMostOnce).await, 0x87);
    assert_eq!(
        client.subscribe("$share/g/a/+", Qos::AtMostOnce).await,
        0x87
    );
    assert_eq!(client.messages().await, []);
    assert_eq!(client.subscribe("a/1", Qos::AtMostOnce).await, 0);
    assert_eq!(client.payloads().await, ["kept"]);
    publisher.publish(publish("a/3", "x")).await;
    assert_eq!(client.messages().await, []);
}

// P2
#[tokio::test]
async fn a_deny_inside_a_subscription_takes_out_live_and_retained_messages_at_once() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    client.subscribe("#", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    for topic in ["secret", "open"] {
        publisher
            .publish(Publish {
                retain: true,
                ..publish_at(Qos::AtLeastOnce, 1, topic, topic)
            })
            .await;
    }
    world.settle().await;
    // Both wait for the client; what it may not have any more goes.
    world.allow_only(&deny("secret")).await;
    assert_eq!(client.take().await, ["open"]);
    publisher.publish(publish("secret", "live")).await;
    client.ask(vec![filter("+", Qos::AtLeastOnce)], None).await;
    let mut payloads = Vec::new();
    for sent in client.receive().await {
        if let Sent::Publish(message) = sent {
            payloads.push(message.payload);
        }
    }
    assert_eq!(payloads, ["open"]);
    assert!(
        client.ending.is_none(),
        "its subscriptions are all still allowed"
    );
}

// P2
#[tokio::test]
async fn a_message_dispatched_while_the_policy_changes_is_checked_once_more() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("#", Qos::AtMostOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher.publish(publish("secret", "before")).await;
    assert_eq!(client.payloads().await, ["before"]);
    // The dispatcher remembers who gets "secret"; the session knows better already.
    world.policy.replace(policy(&deny("secret")));
    client.session.apply(&world.policy.load(), None);
    publisher.publish(publish("secret", "meanwhile")).await;
    assert_eq!(client.payloads().await, [""; 0]);
}

// P2, P4
#[tokio::test]
async fn a_subscribe_that_was_on_its_way_when_the_policy_changed_gets_0x87() {
    let world = World::new();
    let mut client = world.client(resume("c")).await;
    let packet = client.subscribe_packet(vec![filter("t", Qos::AtLeastOnce)], None);
    let on_its_way = client.hold(packet);
    world.allow_only(&deny("t")).await;
    client.let_go(on_its_way).await;
    let received = client.receive().await;
    assert!(
        received.contains(&Sent::SubAck(1, vec![0x87])),
        "{received:?}"
    );
    let mut publisher = world.client(connect("publisher")).await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "secret"))
        .await;
    world.settle().await;
    assert_eq!(world.subscriptions().await, 0);
    assert_eq!(client.session.subscription_count(), 0);
}

fn rule(id: i64, action: Action, filter: &str, who: Who) -> Rule {
    Rule {
        id,
        effect: Effect::Allow,
        action,
        filter: filter.parse().unwrap(),
        who,
    }
}

fn with_role(name: &str, role: &str) -> Principal {
    Principal {
        roles: [role.into()].into(),
        ..principal(name)
    }
}

fn by_role() -> Policy {
    Policy::new([
        rule(1, Action::Publish, "#", Who::Everyone),
        rule(2, Action::Subscribe, "a/#", Who::Role("a".into())),
        rule(3, Action::Subscribe, "both", Who::Everyone),
    ])
}

// P3
#[tokio::test]
async fn a_session_that_is_resumed_with_other_roles_is_checked_again_by_them() {
    let world = World::new();
    world.policy.replace(by_role());
    let mut client = world.client_of(resume("c"), with_role("user", "a")).await;
    client.subscribe("a/1", Qos::AtLeastOnce).await;
    client.subscribe("both", Qos::AtLeastOnce).await;
    client.vanish().await;
    let mut publisher = world.client(connect("publisher")).await;
    for (id, topic) in [(1, "a/1"), (2, "both")] {
        publisher
            .publish(publish_at(Qos::AtLeastOnce, id, topic, topic))
            .await;
    }
    world.settle().await;
    assert_eq!(
        world.metrics.messages_stored.get(),
        2,
        "it queues by the roles it had"
    );
    let mut client = world.client_of(resume("c"), with_role("user", "b")).await;
    assert!(client.session_present);
    client.receive().await;
    // P4: nobody goes silently deaf.
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
    client.finish().await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 3, "a/1", "not for b"))
        .await;
    let mut client = world.client_of(resume("c"), with_role("user", "b")).await;
    assert_eq!(client.take().await, ["both"], "what is allowed stays");
    assert!(client.ending.is_none());
}

#[tokio::test]
async fn changed_roles_reach_live_sessions_of_this_principal_alone() {
    let world = World::new();
    world.policy.replace(by_role());
    let mut mine = world.client_of(connect("1"), with_role("user", "a")).await;
    let mut other = world.client_of(connect("2"), with_role("other", "a")).await;
    for client in [&mut mine, &mut other] {
        assert_eq!(client.subscribe("a/1", Qos::AtMostOnce).await, 0);
    }
    world
        .registry
        .roles_changed("local", "user", ["b".into()].into())
        .await;
    mine.receive().await;
    assert_eq!(mine.ended_with(), Some(ReasonCode::NotAuthorized));
    other.publish(publish("a/1", "x")).await;
    assert_eq!(other.payloads().await, ["x"]);
}

// P3
#[tokio::test]
async fn a_disabled_user_s_will_is_dropped_and_its_sessions_end() {
    let world = World::new();
    let mut watcher = world
        .client_of(connect("watcher"), principal("watcher"))
        .await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let with_will = |id: &str, delay| Connect {
        will: will("will", id, delay),
        ..resume(id)
    };
    let mut online = world.client(with_will("online", 0)).await;
    world.client(with_will("away", 60)).await.vanish().await;
    world.registry.principal_disabled("local", "user").await;
    online.receive().await;
    assert_eq!(online.ended_with(), Some(ReasonCode::NotAuthorized));
    online.finish().await;
    assert_eq!(watcher.take().await, [""; 0]);
    assert_eq!(world.registry.len(), 1);
    assert!(watcher.ending.is_none());
}

// P3
#[tokio::test]
async fn a_user_disabled_while_its_connection_is_on_its_way_is_told_to_leave() {
    let world = World::new();
    let client = world.client(resume("c")).await;
    let session = client.session.clone();
    client.vanish().await;
    session.rest().attached = true;
    world.registry.principal_disabled("local", "user").await;
    let settings = world.registry.settings();
    session.connect(
        principal("user"),
        &world.policy,
        settings.queue,
        (3600, None),
    );
    let mut mail = Mail::default();
    let wanted = crate::session::session::Wanted {
        window: 0,
        bytes: 0,
        finished: &mut Vec::new(),
    };
    session.collect(&mut mail, wanted, std::task::Waker::noop());
    assert_eq!(mail.notice, Some(Notice::Disabled));
}

// S1
#[tokio::test]
async fn a_will_that_is_not_allowed_any_more_is_not_sent() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let client = world
        .client(Connect {
            will: will("will", "x", 0),
            ..connect("c")
        })
        .await;
    world
        .allow_only(&[(Effect::Allow, Action::Subscribe, "#")])
        .await;
    client.vanish().await;
    assert_eq!(watcher.take().await, [""; 0]);
}

// S1
#[tokio::test]
async fn a_v3_client_is_told_0x80_and_is_not_disconnected() {
    let world = World::new();
    world.allow_only(&[ALL]).await;
    let mut client = world.client(resume_v3("c")).await;
    let id = client.ask(vec![filter("t", Qos::AtLeastOnce)], None).await;
    assert_eq!(client.receive().await, [Sent::SubAck(id, vec![0x80])]);
    client.send(Packet::PingReq).await;
    assert_eq!(client.receive().await, [Sent::PingResp]);
}

// P2, P3
#[tokio::test]
async fn what_other_roles_deny_does_not_come_through_a_look_up_made_before() {
    let world = World::new();
    let mut rules: Vec<_> = policy(&ALLOW_ALL).rules().cloned().collect();
    rules.push(Rule {
        effect: Effect::Deny,
        ..rule(9, Action::Subscribe, "secret", Who::Role("b".into()))
    });
    world.policy.replace(Policy::new(rules));
    let mut client = world.client_of(resume("c"), with_role("user", "a")).await;
    client.subscribe("#", Qos::AtLeastOnce).await;
    let mut publisher = world.client(connect("publisher")).await;
    publisher.publish(publish("secret", "for a")).await;
    assert_eq!(client.payloads().await, ["for a"]);
    client.vanish().await;
    let mut client = world.client_of(resume("c"), with_role("user", "b")).await;
    publisher.publish(publish("secret", "not for b")).await;
    publisher.publish(publish("open", "open")).await;
    assert_eq!(client.payloads().await, ["open"]);
    // The same while it is connected: nothing dispatched before the change is known everywhere slips through.
    client.vanish().await;
    let mut client = world.client_of(resume("c"), with_role("user", "a")).await;
    publisher.publish(publish("secret", "for a")).await;
    assert_eq!(client.payloads().await, ["for a"]);
    client.session.apply(
        &world.policy.load(),
        Some(&Change::Login(with_role("user", "b"))),
    );
    publisher.publish(publish("secret", "not for b")).await;
    assert_eq!(client.payloads().await, [""; 0]);
}

// P3
#[tokio::test]
async fn a_user_disabled_while_its_connection_is_leaving_has_no_session_left() {
    let world = World::new();
    let mut watcher = world
        .client_of(connect("watcher"), principal("watcher"))
        .await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let client = world
        .client(Connect {
            will: will("will", "x", 60),
            ..resume("c")
        })
        .await;
    // A shared subscription with something in flight, so that leaving has to wait for the bus.
    let mut client = client;
    client.subscribe("$share/g/t", Qos::AtLeastOnce).await;
    client
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "x"))
        .await;
    client.receive().await;
    let full = world.bus.clone().reserve(usize::MAX).await;
    let leaving = tokio::spawn(client.abandon());
    tokio::task::yield_now().await;
    assert!(!leaving.is_finished());
    world.registry.principal_disabled("local", "user").await;
    drop(full);
    leaving.await.unwrap();
    world.settle().await;
    assert_eq!(world.registry.len(), 1, "only the watcher is left");
    assert_eq!(watcher.take().await, [""; 0]);
}
