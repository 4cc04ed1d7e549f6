//! Did the wills come? In each round one client is connected with a will when the gateway dies. The will must come
//! unless the client returned before it was due (D10).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postern_tests::packet::{PUBACK, Version, Will, ack};
use postern_tests::{Connect, Packet, Property, Subscribe};
use tokio::sync::watch;

use crate::chance::Chance;
use crate::link::{Gone, Link};
use crate::publisher::EXPIRY;
use crate::world::World;

/// `session.restart_will_grace` of every run.
pub const GRACE: Duration = Duration::from_secs(1);
/// The will delays in use, seconds.
const DELAYS: [u32; 3] = [0, 1, 2];
/// After the longest of them, every will must have come.
pub const LONGEST: Duration = Duration::from_secs(2);

/// The life of one client with a will.
#[derive(Debug, Clone)]
pub struct Testator {
    pub round: u64,
    pub version: Version,
    /// Seconds; 0 in MQTT 3.
    pub delay: u32,
    pub returns: bool,
    /// CONNACK was read.
    connected: bool,
    /// The gateway is about to be killed.
    killed: Option<Instant>,
    /// The second CONNACK was read.
    returned: Option<Instant>,
}

/// What must become of a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Must,
    MustNot,
    Either,
}

impl Testator {
    pub fn new(round: u64, chance: &mut Chance) -> Self {
        let version = if chance.percent(50) {
            Version::V5
        } else {
            Version::V311
        };
        let delay = if version == Version::V5 {
            DELAYS[chance.between(0, 2) as usize]
        } else {
            0
        };
        Self {
            round,
            version,
            delay,
            returns: chance.percent(30),
            connected: false,
            killed: None,
            returned: None,
        }
    }

    pub fn topic(&self) -> String {
        format!("crash/will/{}", self.round)
    }

    pub fn due(&self) -> Due {
        match (self.connected, self.killed, self.returned) {
            (true, Some(_), None) if !self.returns => Due::Must,
            // The will is due after the restart, which is after the kill.
            (true, Some(killed), Some(returned)) if returned < killed + GRACE => Due::MustNot,
            _ => Due::Either,
        }
    }

    fn connect(&self) -> Connect {
        Connect::new(self.version, &format!("testator-{}", self.round)).persistent(EXPIRY)
    }
}

pub type Shared = Arc<Mutex<Testator>>;

/// Marks the kill: a connection that breaks from here on is broken by it.
pub fn killed(testator: &Shared) {
    testator.lock().expect("no poison").killed = Some(Instant::now());
}

/// Connects with the will, stays until the connection breaks, and returns or not.
pub async fn live(world: Arc<World>, testator: Shared) {
    let plan = testator.lock().expect("no poison").clone();
    let mut will = Will::new(&plan.topic(), "the gateway died").qos(1);
    if plan.version == Version::V5 {
        will = will.with(Property::WillDelay(plan.delay));
    }
    let connect = world.login(plan.connect().will(will));
    let Ok((mut link, connack)) = Link::try_open(&world, &connect).await else {
        return;
    };
    assert_eq!(connack.code, 0, "{plan:?} is not let in");
    {
        let mut testator = testator.lock().expect("no poison");
        // It came too late to be there when the gateway died.
        if testator.killed.is_some() {
            return;
        }
        testator.connected = true;
    }
    let broken = link.next().await;
    assert!(broken.is_err(), "{plan:?} received {broken:?}");
    if !plan.returns {
        return;
    }
    if let Some((mut link, _)) = Link::open(&world, &plan.connect()).await {
        testator.lock().expect("no poison").returned = Some(Instant::now());
        let _ = link.send(&[0xE0, 0x00]).await;
    }
}

/// Collects the wills that come, by round.
#[derive(Debug, Default)]
pub struct Watcher {
    pub came: Mutex<HashSet<u64>>,
}

impl Watcher {
    /// Subscribes once, with a persistent session, and collects until the run is over. `ready` becomes true with SUBACK.
    pub async fn run(self: Arc<Self>, world: Arc<World>, ready: watch::Sender<bool>) {
        let connect = Connect::v5("will-watcher").persistent(EXPIRY);
        while let Some((mut link, _)) = Link::open(&world, &connect).await {
            let _ = self.collect(&world, &mut link, &ready).await;
        }
    }

    async fn collect(
        &self,
        world: &World,
        link: &mut Link,
        ready: &watch::Sender<bool>,
    ) -> Result<(), Gone> {
        if !*ready.borrow() {
            let mut subscribe = Subscribe::to("crash/will/+", 1);
            subscribe.id = 1;
            link.send(&subscribe.bytes(Version::V5)).await?;
        }
        let mut stage = world.watch();
        loop {
            let packet = tokio::select! {
                packet = link.next() => packet?,
                _ = stage.wait_for(|stage| stage.phase == crate::world::Phase::Over) => return Ok(()),
            };
            match packet {
                Packet::SubAck(_) => drop(ready.send_replace(true)),
                Packet::Publish(publish) => {
                    let round = publish
                        .topic
                        .rsplit('/')
                        .next()
                        .and_then(|n| n.parse().ok());
                    let round = round.unwrap_or_else(|| panic!("a will on {}", publish.topic));
                    self.came.lock().expect("no poison").insert(round);
                    link.send(&ack(PUBACK, publish.id)).await?;
                }
                Packet::Disconnect(_) => return Err(Gone),
                other => panic!("the watcher of wills received {other:?}"),
            }
        }
    }
}
