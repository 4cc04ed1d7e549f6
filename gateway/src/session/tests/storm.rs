//! Many threads at once: connections of the same few client identifiers come, take each other over and go, while
//! messages flow, subscriptions change, wills fall due, the policy changes and the bus's router dies. Nobody waits for
//! ever, and in the end nothing is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    acl::{Action, Effect},
    mqtt::{Connect, Packet, PacketId, Qos, ReasonCode},
    session::{agenda::Agenda, claim::Refused, testing::*},
};

const IDENTIFIERS: u32 = 3;
const TASKS: u32 = 8;
const LASTS: Duration = Duration::from_millis(1_500);

/// Good enough to vary what a task does; seeded, so that tasks differ.
struct Dice(u32);

impl Dice {
    fn below(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % sides
    }
}

/// Connects, does something, leaves, again and again; how many connections it had.
async fn come_and_go(world: World, mut dice: Dice, stop: Arc<AtomicBool>) -> u32 {
    let mut connections = 0;
    while !stop.load(Relaxed) {
        let id = format!("c{}", dice.below(IDENTIFIERS));
        let how = Connect {
            clean_start: dice.below(4) == 0,
            session_expiry: [0, 1, 3600][dice.below(3) as usize],
            will: (dice.below(2) == 0).then(|| will("t/will", "gone", dice.below(2)).unwrap()),
            ..resume(&id)
        };
        let claim = world.claim(&how, principal("user"));
        let claimed = tokio::time::timeout(DEADLINE, claim)
            .await
            .expect("a claim ends");
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(refused) => panic!(
                "{refused:?}, though everybody leaves when told: {:?}",
                Refused::Busy
            ),
        };
        connections += 1;
        let mut client = Client::new(world.clone(), &how, claimed);
        for _ in 0..dice.below(6) {
            act(&mut client, &mut dice).await;
            client.pull();
            if client.ending.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if client.ending.is_some() {
            client.finish_now().await;
        } else if dice.below(3) == 0 {
            client.abandon().await;
        } else {
            // As a connection that is up does: until somebody else wants the session, or for a moment.
            let patience = Instant::now() + Duration::from_millis(dice.below(5).into());
            while client.ending.is_none() && Instant::now() < patience {
                tokio::task::yield_now().await;
                client.pull();
            }
            match client.ending {
                Some(_) => client.finish_now().await,
                None => client.abandon().await,
            }
        }
    }
    connections
}

async fn act(client: &mut Client, dice: &mut Dice) {
    let topic = format!("t/{}", dice.below(3));
    match dice.below(7) {
        0 => drop(
            client
                .ask(vec![filter("t/#", Qos::ExactlyOnce)], None)
                .await,
        ),
        1 => drop(
            client
                .ask(vec![filter("$share/g/t/+", Qos::AtLeastOnce)], None)
                .await,
        ),
        2 => client.publish(publish(&topic, "0")).await,
        3 => {
            let message = publish_at(Qos::AtLeastOnce, 1 + dice.below(9) as u16, &topic, "1");
            client.publish(message).await;
        }
        4 => {
            let message = publish_at(Qos::ExactlyOnce, 10 + dice.below(9) as u16, &topic, "2");
            client.publish(message).await;
        }
        5 => client.send(Packet::PingReq).await,
        _ => {
            let id = PacketId::new(1 + dice.below(3) as u16).unwrap();
            let nothing = crate::mqtt::Ack::new(id, ReasonCode::Success);
            client.send(Packet::PubAck(nothing)).await;
        }
    }
}

/// Denies and allows a part of what everybody subscribes to.
async fn change_the_policy(world: World, stop: Arc<AtomicBool>) {
    let mut denied = ALLOW_ALL.to_vec();
    denied.push((Effect::Deny, Action::Subscribe, "t/1"));
    while !stop.load(Relaxed) {
        world.allow_only(&denied).await;
        world.allow_only(&ALLOW_ALL).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One that is dying answers no new link: the next is killed when the last one has a successor.
async fn kill_the_router(world: World, stop: Arc<AtomicBool>) {
    let mut deaths = 0;
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let start = Instant::now();
        while world.metrics.bus_restarts.get() < deaths {
            assert!(start.elapsed() < DEADLINE, "a dead router has a successor");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let bus = world.bus.clone();
        let killed = tokio::task::spawn_blocking(move || {
            let (mut link, _rx) = bus.raw_link("sabotage").expect("it lives");
            link.publish("ä", "x").expect("it is taken");
        });
        killed.await.unwrap();
        deaths += 1;
    }
}

// B3, B4, D10, S4
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_storm_nobody_waits_for_ever_and_nothing_is_left_behind() {
    let world = World::new();
    tokio::spawn(Agenda::run(world.registry.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| tokio::spawn(come_and_go(world.clone(), Dice(n * 7919 + 1), stop.clone())))
        .collect();
    let policy = tokio::spawn(change_the_policy(world.clone(), stop.clone()));
    let router = tokio::spawn(kill_the_router(world.clone(), stop.clone()));
    tokio::time::sleep(LASTS).await;
    stop.store(true, Relaxed);
    let mut connections = 0;
    for task in tasks {
        connections += tokio::time::timeout(DEADLINE, task)
            .await
            .expect("a task ends")
            .unwrap();
    }
    for task in [policy, router] {
        tokio::time::timeout(DEADLINE, task)
            .await
            .expect("a task ends")
            .unwrap();
    }
    assert!(connections > 50, "{connections} connections");
    assert!(world.metrics.bus_restarts.get() > 0);
    for n in 0..IDENTIFIERS {
        world
            .client(connect(&format!("c{n}")))
            .await
            .abandon()
            .await;
    }
    let start = Instant::now();
    while !world.registry.is_empty() || world.metrics.subscriptions.get() > 0 {
        assert!(
            start.elapsed() < DEADLINE,
            "sessions or subscriptions are left"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.assert_nothing_leaks().await;
    let metrics = &world.metrics;
    assert_eq!(metrics.clients_connected.get(), 0);
    assert_eq!(metrics.messages_queued.get(), 0);
    assert_eq!(metrics.bytes_queued.get(), 0);
    assert_eq!(metrics.bytes_buffered.get(), 0);
    assert_eq!(metrics.bus_gaps.get(), 0);
}
