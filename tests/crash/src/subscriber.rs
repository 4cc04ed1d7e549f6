//! What arrived? A subscriber with a persistent session that goes on and off, slow or fast, and keeps its half of the
//! QoS 2 exchange across crashes (MQTT 5.0, section 4.3.3). It notes what comes twice, out of order or damaged; what
//! did not come is for the verdict to say.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postern_tests::packet::{PUBACK, PUBCOMP, PUBREC, RETAIN_NEVER, Version, ack, unsubscribe};
use postern_tests::{Connect, Packet, Property, Publish, Subscribe};
use tokio::time::{Instant, sleep, sleep_until};

use crate::chance::Chance;
use crate::counts::Counts;
use crate::link::{Gone, Link};
use crate::message::{Message, TOPICS};
use crate::publisher::EXPIRY;
use crate::verdict::EXAMPLES;
use crate::world::{Phase, World};

/// What a subscriber is like.
#[derive(Debug, Clone)]
pub struct Plan {
    pub client_id: String,
    pub version: Version,
    pub qos: u8,
    /// The topics it wants, as (publisher, topic).
    pub wants: Vec<(usize, usize)>,
    /// Filters that cover exactly `wants`; none overlaps another.
    pub filters: Vec<String>,
    pub receive_maximum: Option<u16>,
    /// Before each acknowledgement.
    pub delay: Duration,
    /// How long it stays, and how long it stays away, at most; `None`: it stays until the gateway dies.
    pub flaky: Option<(Duration, Duration)>,
    /// A member of the shared group: others get what it does not.
    pub shared: bool,
    /// Subscribes and unsubscribes its filters, one for each of `wants`.
    pub toggles: bool,
}

/// When a subscription existed: certainly between `made` and `ended`, perhaps between `asked` and `gone`.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    /// SUBSCRIBE was first about to be written.
    pub asked: u64,
    /// SUBACK was read.
    pub made: Option<u64>,
    /// UNSUBSCRIBE was first about to be written.
    pub ended: Option<u64>,
    /// UNSUBACK was read.
    pub gone: Option<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    /// 1: arrived; 2: arrived at QoS 2. By number.
    marks: Vec<u8>,
    /// 1 + the greatest number so far, by topic.
    greatest: [u32; TOPICS],
}

/// A delivery at QoS 2 of what was there already.
#[derive(Debug, Clone, Copy)]
pub struct Repeat {
    pub message: Message,
    pub packet_id: u16,
    pub dup: bool,
    pub moment: u64,
}

/// What one subscriber saw.
#[derive(Debug, Default)]
pub struct Received {
    seen: HashMap<usize, Seen>,
    /// By filter.
    pub intervals: Vec<Vec<Interval>>,
    pub total: u64,
    /// The first few.
    pub repeats: Vec<Repeat>,
}

impl Received {
    pub fn has(&self, publisher: usize, number: u32) -> bool {
        self.mark(publisher, number) & 1 != 0
    }

    pub fn has_at_qos2(&self, publisher: usize, number: u32) -> bool {
        self.mark(publisher, number) & 2 != 0
    }

    fn mark(&self, publisher: usize, number: u32) -> u8 {
        let seen = self.seen.get(&publisher);
        let mark = seen.and_then(|seen| seen.marks.get(number as usize));
        mark.copied().unwrap_or(0)
    }

    fn note(
        &mut self,
        message: Message,
        publish: &Publish,
        shared: bool,
        moment: u64,
        counts: &Counts,
    ) {
        self.total += 1;
        counts.delivered.add();
        let seen = self.seen.entry(message.publisher).or_default();
        let at = message.number as usize;
        if seen.marks.len() <= at {
            seen.marks.resize(at + 1, 0);
        }
        let bit = if publish.qos == 2 { 3 } else { 1 };
        let before = seen.marks[at];
        seen.marks[at] |= bit;
        if before != 0 {
            if publish.qos != 2 {
                counts.duplicates_qos1.add();
                return;
            }
            counts.duplicates_qos2.add();
            if self.repeats.len() < EXAMPLES {
                self.repeats.push(Repeat {
                    message,
                    packet_id: publish.id,
                    dup: publish.dup,
                    moment,
                });
            }
            return;
        }
        let greatest = &mut seen.greatest[message.topic];
        // A message of a shared group that moves to another member comes late there.
        if message.number + 1 < *greatest && !shared {
            counts.order.add();
        }
        *greatest = (*greatest).max(message.number + 1);
    }
}

/// What one filter of a toggling subscriber waits for.
struct Pending {
    filter: usize,
    id: u16,
}

pub struct Subscriber {
    plan: Plan,
    world: Arc<World>,
    received: Arc<Mutex<Received>>,
    counts: Arc<Counts>,
    chance: Chance,
    /// QoS 2 messages between PUBLISH and PUBREL, by packet identifier: `None` for what is not a numbered message.
    awaiting: BTreeMap<u16, Option<Message>>,
    connected_before: bool,
    pending: Option<Pending>,
    next_id: u16,
}

impl Subscriber {
    pub fn new(
        plan: Plan,
        world: Arc<World>,
        received: Arc<Mutex<Received>>,
        counts: Arc<Counts>,
        chance: Chance,
    ) -> Self {
        received.lock().expect("no poison").intervals = vec![Vec::new(); plan.filters.len()];
        Self {
            plan,
            world,
            received,
            counts,
            chance,
            awaiting: BTreeMap::new(),
            connected_before: false,
            pending: None,
            next_id: 0,
        }
    }

    pub async fn run(mut self) {
        let mut connect = Connect::new(self.plan.version, &self.plan.client_id).persistent(EXPIRY);
        if let Some(maximum) = self.plan.receive_maximum {
            connect = connect.with(Property::ReceiveMaximum(maximum));
        }
        while let Some((mut link, connack)) = Link::open(&self.world, &connect).await {
            if self.connected_before && connack.session_present {
                self.counts.sessions_resumed.add();
            } else if self.connected_before {
                self.counts.sessions_lost.add();
                // Nobody subscribes again: what the lost session should have had counts as lost.
                self.awaiting.clear();
            }
            self.connected_before = true;
            if self.stay(&mut link).await.is_ok() {
                if self.chance.percent(50) {
                    let _ = link.send(&[0xE0, 0x00]).await;
                }
                drop(link);
                self.stay_away().await;
            }
        }
    }

    async fn stay_away(&mut self) {
        let Some((_, away)) = self.plan.flaky else {
            return;
        };
        let time = self.chance.time(Duration::ZERO, away);
        let mut stage = self.world.watch();
        tokio::select! {
            () = sleep(time) => {}
            _ = stage.wait_for(|stage| stage.phase >= Phase::Draining) => {}
        }
    }

    /// Online, until it is time to leave (`Ok`) or the connection breaks.
    async fn stay(&mut self, link: &mut Link) -> Result<(), Gone> {
        let mut leave = self.plan.flaky.map(|(online, _)| {
            Instant::now() + self.chance.time(Duration::from_millis(20), online)
        });
        if self.pending.is_some() {
            self.ask(link).await?;
        } else {
            self.next_filter(link).await?;
        }
        let mut stage = self.world.watch();
        let mut toggle = Instant::now() + self.chance.millis(20, 300);
        loop {
            let phase = self.world.phase();
            if phase == Phase::Over {
                return Ok(());
            }
            if phase >= Phase::Finishing {
                leave = None;
            }
            let toggles = self.plan.toggles && self.pending.is_none() && phase == Phase::Crashing;
            tokio::select! {
                packet = link.next() => self.handle(packet?, link).await?,
                () = sleep_until(leave.unwrap_or(toggle)), if leave.is_some() => return Ok(()),
                () = sleep_until(toggle), if toggles => {
                    toggle = Instant::now() + self.chance.millis(50, 600);
                    let filter = self.chance.between(0, self.plan.filters.len() as u64 - 1);
                    self.change(filter as usize, link).await?;
                }
                _ = stage.changed() => {}
            }
        }
    }

    /// Subscribes to the first filter that was never asked for.
    async fn next_filter(&mut self, link: &mut Link) -> Result<(), Gone> {
        let first = {
            let received = self.received.lock().expect("no poison");
            received.intervals.iter().position(Vec::is_empty)
        };
        match first {
            Some(filter) => self.change(filter, link).await,
            None => Ok(()),
        }
    }

    /// Subscribes to the filter, or unsubscribes from it.
    async fn change(&mut self, filter: usize, link: &mut Link) -> Result<(), Gone> {
        let now = self.world.tick();
        {
            let mut received = self.received.lock().expect("no poison");
            let intervals = &mut received.intervals[filter];
            match intervals.last_mut() {
                Some(last) if last.gone.is_none() => last.ended = Some(now),
                _ => intervals.push(Interval {
                    asked: now,
                    made: None,
                    ended: None,
                    gone: None,
                }),
            }
        }
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.pending = Some(Pending {
            filter,
            id: self.next_id,
        });
        self.ask(link).await
    }

    /// Sends what is pending: for the first time, or again because the answer never came.
    async fn ask(&mut self, link: &mut Link) -> Result<(), Gone> {
        let Some(Pending { filter, id }) = self.pending else {
            return Ok(());
        };
        let ending = {
            let received = self.received.lock().expect("no poison");
            let last = received.intervals[filter].last();
            last.is_some_and(|last| last.ended.is_some())
        };
        let name = &self.plan.filters[filter];
        let bytes = if ending {
            unsubscribe(self.plan.version, id, &[name])
        } else {
            let handling = if self.plan.version == Version::V5 && !self.plan.shared {
                RETAIN_NEVER
            } else {
                0
            };
            let mut subscribe = Subscribe::to(name, self.plan.qos | handling);
            subscribe.id = id;
            subscribe.bytes(self.plan.version)
        };
        link.send(&bytes).await
    }

    async fn handle(&mut self, packet: Packet, link: &mut Link) -> Result<(), Gone> {
        match packet {
            Packet::Publish(publish) => return self.message(&publish, link).await,
            Packet::PubRel(release) => {
                self.awaiting.remove(&release.id);
                return link.send(&ack(PUBCOMP, release.id)).await;
            }
            Packet::SubAck(codes) => {
                assert_eq!(
                    codes.codes,
                    [self.plan.qos],
                    "{}: SUBACK for {:?}",
                    self.plan.client_id,
                    self.plan.filters
                );
                self.answered(codes.id, |interval, now| interval.made = Some(now));
            }
            Packet::UnsubAck(codes) => {
                self.answered(codes.id, |interval, now| interval.gone = Some(now));
            }
            Packet::Disconnect(_) => return Err(Gone),
            other => panic!("{} received {other:?}", self.plan.client_id),
        }
        self.next_filter(link).await
    }

    fn answered(&mut self, id: u16, set: impl Fn(&mut Interval, u64)) {
        let Some(pending) = self.pending.take_if(|pending| pending.id == id) else {
            self.counts.strange_packets.add();
            return;
        };
        let now = self.world.tick();
        let mut received = self.received.lock().expect("no poison");
        if let Some(interval) = received.intervals[pending.filter].last_mut() {
            set(interval, now);
        }
    }

    async fn message(&mut self, publish: &Publish, link: &mut Link) -> Result<(), Gone> {
        let message = Message::read(publish);
        if message.is_none() {
            self.counts.damaged.add();
        }
        let known = publish.qos == 2 && self.awaiting.contains_key(&publish.id);
        if known && self.awaiting[&publish.id] != message {
            self.counts.strange_packets.add();
        }
        if let Some(message) = message.filter(|_| !known) {
            let mut received = self.received.lock().expect("no poison");
            let moment = self.world.tick();
            received.note(message, publish, self.plan.shared, moment, &self.counts);
        }
        if publish.qos == 2 {
            self.awaiting.insert(publish.id, message);
        }
        if !self.plan.delay.is_zero() {
            sleep(self.plan.delay).await;
        }
        match publish.qos {
            0 => Ok(()),
            1 => link.send(&ack(PUBACK, publish.id)).await,
            _ => link.send(&ack(PUBREC, publish.id)).await,
        }
    }
}
