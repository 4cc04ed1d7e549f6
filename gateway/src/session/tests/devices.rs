//! What sessions do for devices: a client identifier that is kept for one (S5), and what one left retained.

use std::time::Duration;

use crate::{
    mqtt::{Connect, Publish, Qos, ReasonCode},
    session::testing::*,
};

async fn watcher(world: &World) -> Client {
    let watcher = world.client_of(connect("watcher"), principal("watcher"));
    let mut watcher = watcher.await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    watcher
}

// S5
#[tokio::test]
async fn a_session_of_somebody_else_makes_way_for_the_device_whose_identifier_it_has() {
    let world = World::new();
    let mut watcher = watcher(&world).await;
    let (thief, lamp) = (principal("thief"), principal("lamp"));
    let connect = Connect {
        will: will("will", "thief", 0),
        ..resume("lamp")
    };
    // Connected.
    let mut there = world.client_of(connect.clone(), thief.clone()).await;
    let (registry, who) = (world.registry.clone(), lamp.clone());
    let way = tokio::spawn(async move { registry.make_way("lamp", &who).await });
    while there.ending.is_none() {
        tokio::task::yield_now().await;
        there.pull();
    }
    assert_eq!(there.ended_with(), Some(ReasonCode::SessionTakenOver));
    there.finish().await;
    way.await.unwrap().unwrap();
    assert_eq!(watcher.take().await, ["thief"], "it did not say goodbye");
    assert_eq!(world.registry.len(), 1, "its session is gone");

    // Away.
    world.client_of(connect, thief).await.vanish().await;
    assert_eq!(world.registry.len(), 2);
    world.registry.make_way("lamp", &lamp).await.unwrap();
    assert_eq!(world.registry.len(), 1);
    let own = world.client_of(resume("lamp"), lamp.clone()).await;
    assert!(!own.session_present);

    // Its own session stays.
    own.vanish().await;
    world.registry.make_way("lamp", &lamp).await.unwrap();
    assert!(world.client_of(resume("lamp"), lamp).await.session_present);
}

#[tokio::test]
async fn what_is_retained_is_found_by_topic_and_nothing_longer_than_wanted() {
    let world = World::new();
    let mut client = world.client(connect("c")).await;
    for (topic, payload) in [("d/a/v", "1.0"), ("d/b/v", "too long"), ("d/c", "x")] {
        let retained = Publish {
            retain: true,
            ..publish(topic, payload)
        };
        client.publish(retained).await;
    }
    world.settle().await;
    let topics = ["d/a/v", "d/b/v", "d/c/v", "d/none/v"];
    let topics = topics.map(str::to_owned).to_vec();
    let found = world.registry.retained_on(topics, 3);
    let found = tokio::time::timeout(Duration::from_secs(20), found);
    let found = found.await.unwrap();
    assert_eq!(found, [Some(b"1.0"[..].into()), None, None, None]);
}
