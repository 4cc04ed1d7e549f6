//! Claim, takeover, end: who has the session, and what happens to its will.

use std::sync::Arc;

use broker_config::RoleLimit;

use crate::{
    auth::Principal,
    mqtt::{Connect, Packet, Qos, ReasonCode},
    session::{
        agenda::{Agenda, Due},
        claim::Refused,
        testing::*,
    },
};

/// Connects `connect` while `old` holds its session, and gives both ends of the takeover.
async fn take_over(world: &World, mut old: Client, connect: Connect) -> (Client, ReasonCode) {
    let claim = world.client_later(connect);
    while old.ending.is_none() {
        tokio::task::yield_now().await;
        old.pull();
    }
    let reason = old.ended_with().unwrap();
    assert!(!claim.is_finished(), "the old connection has not left");
    old.finish().await;
    let client = tokio::time::timeout(DEADLINE, claim)
        .await
        .expect("the claim ends");
    (client.unwrap(), reason)
}

#[tokio::test]
async fn a_second_connection_ends_the_first_with_0x8e_and_resumes_its_session() {
    let world = World::new();
    let mut old = world.client(resume("c")).await;
    assert!(!old.session_present);
    old.subscribe("t", Qos::AtLeastOnce).await;
    let (mut new, reason) = take_over(&world, old, resume("c")).await;
    assert_eq!(reason, ReasonCode::SessionTakenOver);
    assert!(new.session_present);
    new.publish(publish("t", "still subscribed")).await;
    assert_eq!(new.payloads().await, ["still subscribed"]);
    assert_eq!(world.registry.len(), 1);
    assert_eq!(world.metrics.clients_connected.get(), 1);
}

// D10, B7
#[tokio::test]
async fn on_takeover_the_will_comes_before_anything_of_the_new_connection() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("#", Qos::AtLeastOnce).await;
    let with_will = Connect {
        will: will("t", "will", 0),
        ..resume("c")
    };
    for _ in 0..20 {
        let mut old = world.client(with_will.clone()).await;
        old.publish(publish("t", "last of the old")).await;
        let (mut new, _) = take_over(&world, old, resume("c")).await;
        new.publish(publish("t", "first of the new")).await;
        assert_eq!(
            watcher.take().await,
            ["last of the old", "will", "first of the new"]
        );
        new.vanish().await;
    }
}

#[tokio::test]
async fn a_clean_start_ends_the_session_before_it_and_its_subscriptions() {
    let world = World::new();
    let mut old = world.client(resume("c")).await;
    old.subscribe("t", Qos::AtLeastOnce).await;
    old.vanish().await;
    let mut new = world.client(connect("c")).await;
    assert!(!new.session_present);
    new.publish(publish("t", "for nobody")).await;
    assert_eq!(new.messages().await, []);
    assert_eq!(world.subscriptions().await, 0);
    assert_eq!(world.registry.len(), 1);
}

#[tokio::test]
async fn a_session_without_expiry_ends_with_its_connection() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client.subscribe("t", Qos::AtLeastOnce).await;
    client.vanish().await;
    assert_eq!(world.registry.len(), 0);
    assert!(!world.client(resume("c")).await.session_present);
}

#[tokio::test]
async fn the_session_expiry_is_capped_and_disconnect_may_end_the_session_or_shorten_its_life() {
    let world = World::new();
    let forever = Connect {
        session_expiry: u32::MAX,
        ..resume("c")
    };
    let client = world.client(forever).await;
    assert_eq!(
        client.session_expiry,
        7 * 24 * 3600,
        "S5: session_expiry_max"
    );
    client.disconnect(ReasonCode::Success, Some(0)).await;
    assert_eq!(world.registry.len(), 0);

    let client = world.client(resume("c")).await;
    client.disconnect(ReasonCode::Success, Some(5)).await;
    assert_eq!(world.registry.len(), 1);
}

#[tokio::test]
async fn a_session_expiry_in_disconnect_where_connect_had_none_is_a_protocol_error() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    client
        .send(Packet::Disconnect(Box::new(crate::mqtt::Disconnect {
            session_expiry: Some(10),
            ..crate::mqtt::Disconnect::new(ReasonCode::Success)
        })))
        .await;
    assert_eq!(client.ended_with(), Some(ReasonCode::ProtocolError));
    assert!(client.ending.as_ref().unwrap().keeps_will);
    client.finish().await;
    assert_eq!(world.registry.len(), 0);
}

#[tokio::test]
async fn what_expires_ends_by_itself_and_its_delayed_will_with_it() {
    let world = World::new();
    tokio::spawn(Agenda::run(world.registry.clone()));
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let short = Connect {
        session_expiry: 1,
        will: will("will", "its session expired", 3600),
        ..resume("c")
    };
    world.client(short).await.vanish().await;
    assert_eq!(world.registry.len(), 2);
    let start = std::time::Instant::now();
    while world.registry.len() > 1 {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(watcher.take().await, ["its session expired"]);
    assert_eq!(world.metrics.sessions_expired.get(), 1);
}

// S2
#[tokio::test]
async fn a_will_is_sent_on_every_end_but_a_normal_disconnect() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let with_will = |text| Connect {
        will: will("will", text, 0),
        ..connect("c")
    };
    world.client(with_will("lost")).await.vanish().await;
    let client = world.client(with_will("asked for")).await;
    client
        .disconnect(ReasonCode::DisconnectWithWillMessage, None)
        .await;
    let client = world.client(with_will("never")).await;
    client.disconnect(ReasonCode::Success, None).await;
    let mut client = world.client(with_will("broke the protocol")).await;
    client.send(Packet::Connect(Box::new(connect("c")))).await;
    client.finish().await;
    assert_eq!(
        watcher.take().await,
        ["lost", "asked for", "broke the protocol"]
    );
}

#[tokio::test]
async fn a_delayed_will_is_dropped_if_the_client_returns_and_sent_if_it_does_not() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let delayed = Connect {
        will: will("will", "too late", 60),
        ..resume("c")
    };
    world.client(delayed.clone()).await.vanish().await;
    let back = world.client(resume("c")).await;
    assert!(back.session_present);
    world.registry.due(back.session.clone(), Due::Will).await;
    assert_eq!(watcher.take().await, [""; 0]);
    back.vanish().await;

    let client = world.client(delayed).await;
    let session = client.session.clone();
    client.vanish().await;
    assert_eq!(watcher.take().await, [""; 0]);
    world.registry.due(session.clone(), Due::Will).await;
    world.registry.due(session, Due::Will).await;
    assert_eq!(watcher.take().await, ["too late"]);
    assert!(world.client(resume("c")).await.session_present);
}

#[tokio::test]
async fn a_clean_start_ends_the_delay_of_a_will_and_so_does_the_end_of_the_session() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    let delayed = |text| Connect {
        will: will("will", text, 60),
        ..resume("c")
    };
    world.client(delayed("clean start")).await.vanish().await;
    let client = world.client(connect("c")).await;
    assert_eq!(watcher.take().await, ["clean start"]);
    client.disconnect(ReasonCode::Success, None).await;

    let client = world.client(delayed("no session to wait for")).await;
    client
        .disconnect(ReasonCode::DisconnectWithWillMessage, Some(0))
        .await;
    assert_eq!(watcher.take().await, ["no session to wait for"]);
}

// D10
#[tokio::test]
async fn a_due_will_that_waits_for_the_bus_holds_back_the_next_connection() {
    let world = World::new();
    let mut watcher = world.client(connect("watcher")).await;
    watcher.subscribe("t", Qos::AtLeastOnce).await;
    let delayed = Connect {
        will: will("t", "will", 60),
        ..resume("c")
    };
    let client = world.client(delayed).await;
    let session = client.session.clone();
    client.vanish().await;
    let full = world.bus.clone().reserve(usize::MAX).await;
    let registry = world.registry.clone();
    let due = tokio::spawn(async move { registry.due(session, Due::Will).await });
    tokio::task::yield_now().await;
    let next = world.client_later(resume("c"));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished(), "the will has not left yet");
    drop(full);
    due.await.unwrap();
    let mut next = tokio::time::timeout(DEADLINE, next)
        .await
        .expect("the session is free again")
        .unwrap();
    next.publish(publish("t", "first of the new")).await;
    assert_eq!(watcher.take().await, ["will", "first of the new"]);
}

#[tokio::test]
async fn whoever_waits_for_a_session_that_ends_does_not_wait_for_ever() {
    let world = World::new();
    let client = world.client(connect("c")).await;
    let session = client.session.clone();
    client.vanish().await;
    // As a claim does that looked at the session just before it ended.
    assert!(session.rest().ended);
    tokio::time::timeout(DEADLINE, session.take_over())
        .await
        .expect("the session is over");
}

#[tokio::test]
async fn a_takeover_reaches_a_connection_that_is_still_on_its_way() {
    let world = World::new();
    let client = world.client(resume("c")).await;
    let session = client.session.clone();
    client.vanish().await;
    // Another claim has taken the session and is not online yet.
    session.rest().attached = true;
    let waiting = session.clone();
    let waiting = tokio::spawn(async move { waiting.take_over().await });
    tokio::task::yield_now().await;
    let settings = world.registry.settings();
    session.connect(
        principal("user"),
        &world.policy,
        settings.queue,
        (3600, None),
    );
    let mut mail = crate::session::mailbox::Mail::default();
    let wanted = crate::session::session::Wanted {
        window: 0,
        bytes: 0,
        finished: &mut Vec::new(),
    };
    session.collect(&mut mail, wanted, std::task::Waker::noop());
    assert_eq!(
        mail.notice,
        Some(crate::session::mailbox::Notice::TakenOver)
    );
    waiting.abort();
}

#[tokio::test]
async fn of_many_connections_at_once_each_gets_the_session_and_the_last_keeps_it() {
    let world = World::new();
    let claims: Vec<_> = (0..20).map(|_| world.client_later(resume("c"))).collect();
    let mut done = 0;
    for claim in claims {
        let mut client = tokio::time::timeout(DEADLINE, claim)
            .await
            .expect("every claim ends")
            .unwrap();
        done += 1;
        if done == 20 {
            assert!(client.session_present);
            client.subscribe("t", Qos::AtMostOnce).await;
            break;
        }
        while client.ending.is_none() {
            tokio::task::yield_now().await;
            client.pull();
        }
        client.finish().await;
    }
    assert_eq!(world.registry.len(), 1);
}

// S5
#[tokio::test]
async fn a_session_is_not_given_to_another_principal_connected_or_not() {
    let world = World::new();
    let client = world.client_of(resume("c"), principal("alice")).await;
    let refused = world.claim(&connect("c"), principal("bob")).await.err();
    assert_eq!(refused, Some(Refused::Foreign));
    client.vanish().await;
    let refused = world.claim(&connect("c"), principal("bob")).await.err();
    assert_eq!(refused, Some(Refused::Foreign));
    let foreign = crate::auth::Principal {
        realm: "elsewhere".into(),
        ..principal("alice")
    };
    let refused = world.claim(&connect("c"), foreign).await.err();
    assert_eq!(refused, Some(Refused::Foreign));
    assert_eq!(
        refused.unwrap().reason(),
        ReasonCode::ClientIdentifierNotValid
    );
    assert_eq!(world.metrics.sessions_foreign.get(), 3);
    let back = world.client_of(resume("c"), principal("alice")).await;
    assert!(back.session_present);
}

// S5
#[tokio::test]
async fn a_role_may_have_more_sessions_or_fewer() {
    let limit = |role: &str, sessions| RoleLimit {
        role: role.to_owned(),
        sessions,
    };
    let world = World::with(|settings| {
        settings.max_sessions_per_principal = 2;
        settings.max_sessions_by_role = vec![limit("sensor", 1), limit("fleet", 3)];
    });
    for (name, roles, most) in [
        ("ann", &[][..], 2),
        ("lamp", &["sensor"], 1),
        ("depot", &["sensor", "fleet"], 3),
    ] {
        let owner = Principal {
            roles: roles.iter().map(|role| Arc::from(*role)).collect(),
            ..principal(name)
        };
        for n in 0..most {
            let id = format!("{name}-{n}");
            world
                .client_of(connect(&id), owner.clone())
                .await
                .abandon()
                .await;
            world
                .client_of(resume(&id), owner.clone())
                .await
                .vanish()
                .await;
        }
        let further = world.claim(&connect(name), owner).await.err();
        assert_eq!(further, Some(Refused::TooMany), "{name}");
    }
}

// S5
#[tokio::test]
async fn sessions_are_limited_for_each_principal_and_for_all_and_given_back() {
    let world = World::with(|settings| {
        settings.max_sessions_per_principal = 2;
        settings.max_sessions = 3;
    });
    let one = world.client_of(connect("1"), principal("alice")).await;
    let _two = world.client_of(resume("2"), principal("alice")).await;
    let third = world.claim(&connect("3"), principal("alice")).await.err();
    assert_eq!(third, Some(Refused::TooMany));
    let _three = world.client_of(connect("3"), principal("bob")).await;
    let fourth = world.claim(&connect("4"), principal("bob")).await.err();
    assert_eq!(fourth, Some(Refused::Full));
    one.vanish().await;
    world.client_of(connect("3a"), principal("alice")).await;
}
