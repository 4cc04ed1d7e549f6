//! What was acknowledged? A publisher that numbers its messages, remembers for each when it was first sent and when it
//! was acknowledged (PUBACK at QoS 1, PUBREC at QoS 2), and keeps its half of the exchange across crashes as the
//! specification says (MQTT 5.0, sections 4.3 and 4.4).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_tests::packet::{Ack, PUBREL, Version, ack};
use postern_tests::{Connect, Packet};
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::counts::Counts;
use crate::link::{Gone, Link};
use crate::message::{Message, RETAINED, TOPICS};
use crate::world::{Phase, World};

/// Unacknowledged messages of one publisher.
const WINDOW: usize = 32;
/// One message in so many is a retained one.
const RETAINED_SHARE: u64 = 8;
/// Session expiry of everything here: longer than any run.
pub const EXPIRY: u32 = 86_400;

#[derive(Debug, Clone)]
pub struct Plan {
    pub index: usize,
    pub version: Version,
    pub qos: u8,
    /// Keeps its session, and with it the packet identifiers.
    pub persistent: bool,
    /// Messages per second, on average.
    pub rate: u64,
}

impl Plan {
    /// Publishers of every kind, in turn.
    pub fn of(index: usize, rate: u64) -> Self {
        let (version, qos, persistent) = match index % 6 {
            0 => (Version::V5, 1, false),
            1 => (Version::V5, 2, true),
            2 => (Version::V311, 1, true),
            3 => (Version::V311, 2, true),
            4 => (Version::V5, 1, true),
            _ => (Version::V5, 2, true),
        };
        Self {
            index,
            version,
            qos,
            persistent,
            rate,
        }
    }
}

/// What became of one message.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    pub topic: usize,
    /// When its first PUBLISH was about to be written.
    pub sent: u64,
    /// When its PUBACK or PUBREC was read.
    pub acknowledged: Option<u64>,
}

/// Everything a publisher published, by number.
#[derive(Debug, Default)]
pub struct Published {
    pub qos: u8,
    pub fates: Vec<Fate>,
    /// The number of the last message on each topic, when the publisher has finished.
    pub last: [Option<u32>; TOPICS],
}

/// What others see of a publisher.
#[derive(Debug, Default)]
pub struct Shelf {
    pub published: Mutex<Published>,
    /// 1 + the number of the last acknowledged retained message; 0 if there is none.
    pub retained: AtomicU32,
}

enum Step {
    /// PUBLISH was sent, PUBACK or PUBREC is awaited.
    Published,
    /// PUBREC came, PUBREL was sent.
    Released,
}

struct Outstanding {
    message: Message,
    id: u16,
    step: Step,
}

pub struct Publisher {
    plan: Plan,
    world: Arc<World>,
    shelf: Arc<Shelf>,
    counts: Arc<Counts>,
    chance: Chance,
    outstanding: VecDeque<Outstanding>,
    next_id: u16,
    connected_before: bool,
    last_sent: bool,
}

impl Publisher {
    pub fn new(
        plan: Plan,
        world: Arc<World>,
        shelf: Arc<Shelf>,
        counts: Arc<Counts>,
        chance: Chance,
    ) -> Self {
        shelf.published.lock().expect("no poison").qos = plan.qos;
        Self {
            plan,
            world,
            shelf,
            counts,
            chance,
            outstanding: VecDeque::new(),
            next_id: 0,
            connected_before: false,
            last_sent: false,
        }
    }

    /// Publishes until the run finishes, then to the end of every exchange.
    pub async fn run(mut self) {
        let mut connect =
            Connect::new(self.plan.version, &format!("publisher-{}", self.plan.index));
        if self.plan.persistent {
            connect = connect.persistent(EXPIRY);
        }
        while let Some((mut link, connack)) = Link::open(&self.world, &connect).await {
            if self.plan.persistent && self.connected_before && !connack.session_present {
                self.counts.sessions_lost.add();
                self.forget();
            }
            self.connected_before = true;
            if let Ok(()) = self.converse(&mut link).await {
                let _ = link.send(&[0xE0, 0x00]).await;
                return;
            }
        }
    }

    /// The gateway knows nothing of this session: what was not acknowledged is published anew.
    fn forget(&mut self) {
        self.outstanding
            .retain(|out| matches!(out.step, Step::Published));
    }

    async fn converse(&mut self, link: &mut Link) -> Result<(), Gone> {
        self.repeat(link).await?;
        let mut stage = self.world.watch();
        let mut next_burst = Instant::now();
        loop {
            let finishing = self.world.phase() >= Phase::Finishing;
            if finishing && self.outstanding.is_empty() {
                if self.last_sent {
                    return Ok(());
                }
                self.last_sent = true;
                self.burst(link, &(0..TOPICS).collect::<Vec<_>>()).await?;
                let mut published = self.shelf.published.lock().expect("no poison");
                let end = published.fates.len() as u32;
                for topic in 0..TOPICS {
                    published.last[topic] = Some(end - (TOPICS - topic) as u32);
                }
            }
            let may_send = !finishing && self.outstanding.len() < WINDOW;
            tokio::select! {
                packet = link.next() => self.handle(packet?, link).await?,
                () = sleep_until(next_burst), if may_send => {
                    let topics = self.choose_topics();
                    next_burst = Instant::now() + self.pause(topics.len());
                    self.burst(link, &topics).await?;
                }
                _ = stage.changed() => {}
            }
        }
    }

    /// What a new connection owes the old one: PUBLISH again, or PUBREL again, in the original order.
    async fn repeat(&mut self, link: &mut Link) -> Result<(), Gone> {
        let mut bytes = Vec::new();
        for out in &self.outstanding {
            match out.step {
                Step::Published => {
                    let publish = out
                        .message
                        .publish(self.plan.qos, out.id, self.plan.persistent);
                    bytes.extend(publish.bytes(self.plan.version));
                    self.counts.retransmitted.add();
                }
                Step::Released => bytes.extend(ack(PUBREL, out.id)),
            }
        }
        link.send(&bytes).await
    }

    fn choose_topics(&mut self) -> Vec<usize> {
        let room = (WINDOW - self.outstanding.len()) as u64;
        let count = self.chance.between(1, room);
        let mut topics = Vec::new();
        for _ in 0..count {
            let retained = self.chance.between(1, RETAINED_SHARE) == 1;
            topics.push(if retained {
                RETAINED
            } else {
                self.chance.between(0, RETAINED as u64 - 1) as usize
            });
        }
        topics
    }

    fn pause(&mut self, messages: usize) -> Duration {
        let mean = Duration::from_secs(messages as u64) / self.plan.rate.max(1) as u32;
        self.chance.time(mean / 5, mean * 9 / 5)
    }

    async fn burst(&mut self, link: &mut Link, topics: &[usize]) -> Result<(), Gone> {
        let mut bytes = Vec::new();
        for topic in topics {
            let id = self.fresh_id();
            let sent = self.world.tick();
            let number = {
                let mut published = self.shelf.published.lock().expect("no poison");
                published.fates.push(Fate {
                    topic: *topic,
                    sent,
                    acknowledged: None,
                });
                published.fates.len() as u32 - 1
            };
            let message = Message {
                publisher: self.plan.index,
                topic: *topic,
                number,
            };
            let publish = message.publish(self.plan.qos, id, false);
            bytes.extend(publish.bytes(self.plan.version));
            let step = Step::Published;
            self.outstanding
                .push_back(Outstanding { message, id, step });
        }
        link.send(&bytes).await
    }

    fn fresh_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if self.outstanding.iter().all(|out| out.id != self.next_id) {
                return self.next_id;
            }
        }
    }

    async fn handle(&mut self, packet: Packet, link: &mut Link) -> Result<(), Gone> {
        match packet {
            Packet::PubAck(ack) if self.plan.qos == 1 => self.acknowledged(&ack),
            Packet::PubRec(received) if self.plan.qos == 2 => {
                self.acknowledged(&received);
                if received.code < 0x80 {
                    link.send(&ack(PUBREL, received.id)).await?;
                }
            }
            Packet::PubComp(ack) => self.completed(&ack),
            Packet::Disconnect(_) => return Err(Gone),
            other => panic!("publisher {} received {other:?}", self.plan.index),
        }
        Ok(())
    }

    fn acknowledged(&mut self, ack: &Ack) {
        let waiting = |out: &Outstanding| matches!(out.step, Step::Published);
        let place = self
            .outstanding
            .iter()
            .position(|out| out.id == ack.id && waiting(out));
        let Some(place) = place else {
            self.counts.strange_packets.add();
            return;
        };
        // D4, MQTT-4.6.0: acknowledgements come in the order of the messages.
        if self.outstanding.iter().position(waiting) != Some(place) {
            self.counts.ack_order.add();
        }
        let message = self.outstanding[place].message;
        if ack.code >= 0x80 {
            self.counts.refused.add();
            self.outstanding.remove(place);
            return;
        }
        if self.plan.qos == 1 {
            self.outstanding.remove(place);
        } else {
            self.outstanding[place].step = Step::Released;
        }
        let now = self.world.tick();
        self.shelf.published.lock().expect("no poison").fates[message.number as usize]
            .acknowledged = Some(now);
        self.counts.acknowledged[usize::from(self.plan.qos)].add();
        if message.topic == RETAINED {
            self.shelf
                .retained
                .fetch_max(message.number + 1, Ordering::SeqCst);
        }
    }

    fn completed(&mut self, ack: &Ack) {
        let released = |out: &Outstanding| out.id == ack.id && matches!(out.step, Step::Released);
        match self.outstanding.iter().position(released) {
            Some(place) => drop(self.outstanding.remove(place)),
            None => self.counts.strange_packets.add(),
        }
    }
}
