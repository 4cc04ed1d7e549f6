//! What did one subscriber receive? It acknowledges, hands every message to the tracker of its flow, records latencies
//! and tells the publishers how far it has come.

use crate::error::LoadError;
use crate::link::Link;
use crate::options::PAYLOAD_HEAD;
use crate::run::{Flow, Phase, Run, ping_ticker};
use crate::tracker::Tracker;
use crate::wire::{self, Packet, Publish, QoS};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// One subscriber with its connection, its subscription made.
pub struct Subscriber {
    link: Link,
    run: Arc<Run>,
    phase: watch::Receiver<Phase>,
    inbox: Inbox,
}

/// What a subscriber listens to.
pub struct Interest {
    /// Position among the subscribers of the run.
    pub index: usize,
    /// Position among the subscribers of its flows.
    pub slot: usize,
    pub filter: String,
    pub qos: QoS,
    /// The publishers it expects messages from.
    pub publishers: Range<u32>,
    /// Topics of each publisher.
    pub topics: u32,
}

/// What a subscriber has to report when it is done.
pub struct Received {
    pub publishers: Range<u32>,
    /// By publisher, then by topic.
    pub trackers: Vec<Tracker>,
    /// Messages of other runs, retained ones, ones at another QoS than asked for, and ones that nobody sent.
    pub unexpected: u64,
}

impl Subscriber {
    /// Subscribes, and returns when the server has granted it.
    ///
    /// # Errors
    /// [`LoadError`] if the server refuses or grants a lower QoS.
    pub async fn start(
        mut link: Link,
        run: Arc<Run>,
        flows: Arc<[Arc<Flow>]>,
        phase: watch::Receiver<Phase>,
        version: wire::Version,
        interest: Interest,
    ) -> Result<Self, LoadError> {
        wire::subscribe(&mut link.out, version, 1, &interest.filter, interest.qos);
        let mut granted = None;
        while granted.is_none() {
            link.turn().await?;
            link.drain(|packet, _| match packet {
                Packet::SubAck { id: 1, code } if granted.is_none() => {
                    granted = Some(code);
                    Ok(())
                }
                other => Err(format!("{other:?} instead of SUBACK")),
            })?;
        }
        if let Some(code) = granted
            && code != interest.qos
        {
            let client = link.client().to_owned();
            return Err(LoadError::Subscribe {
                client,
                filter: interest.filter,
                qos: interest.qos,
                code,
            });
        }
        Ok(Self::resume(link, run, flows, phase, interest))
    }

    /// With the subscription that the session has already.
    pub fn resume(
        link: Link,
        run: Arc<Run>,
        flows: Arc<[Arc<Flow>]>,
        phase: watch::Receiver<Phase>,
        interest: Interest,
    ) -> Self {
        Self {
            link,
            run,
            phase,
            inbox: Inbox::new(flows, interest),
        }
    }

    /// Leaves before any message was sent, and stays until the server knows.
    pub async fn leave(self) {
        self.link.leave().await;
    }

    /// Receives until the run closes.
    ///
    /// # Errors
    /// [`LoadError`] if the connection breaks or the server sends what it must not.
    pub async fn run(mut self) -> Result<Received, LoadError> {
        let mut ping = ping_ticker(self.link.keep_alive);
        loop {
            // First of all what came with CONNACK.
            let inbox = &mut self.inbox;
            inbox.now = self.run.now();
            self.link
                .drain(|packet, out| inbox.take(&self.run, &packet, out))?;
            inbox.end_batch(&self.run);
            tokio::select! {
                biased;
                changed = self.phase.changed() => {
                    if changed.is_err() || *self.phase.borrow_and_update() == Phase::Close {
                        break;
                    }
                }
                turned = self.link.turn() => turned?,
                _ = ping.tick() => wire::ping_request(&mut self.link.out),
            }
        }
        self.link.close().await;
        Ok(Received {
            publishers: self.inbox.interest.publishers,
            trackers: self.inbox.trackers,
            unexpected: self.inbox.unexpected,
        })
    }
}

/// The messages of one batch (what one read yielded), and what is known of all flows.
struct Inbox {
    interest: Interest,
    flows: Arc<[Arc<Flow>]>,
    trackers: Vec<Tracker>,
    /// One past the highest number seen, by publisher.
    highest: Vec<u64>,
    /// Publishers with messages in this batch.
    touched: Vec<usize>,
    sent_at: Vec<u64>,
    count: u64,
    now: u64,
    /// QoS 2: received and not yet released (MQTT-4.3.3), with publisher and number where they are expected ones.
    unreleased: HashMap<u16, Option<(usize, u64)>>,
    unexpected: u64,
}

impl Inbox {
    fn new(flows: Arc<[Arc<Flow>]>, interest: Interest) -> Self {
        let publishers = interest.publishers.len();
        Self {
            trackers: (0..publishers * interest.topics as usize)
                .map(|_| Tracker::default())
                .collect(),
            highest: vec![0; publishers],
            touched: Vec::with_capacity(publishers),
            sent_at: Vec::new(),
            count: 0,
            now: 0,
            unreleased: HashMap::new(),
            unexpected: 0,
            flows,
            interest,
        }
    }

    fn take(&mut self, run: &Run, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match packet {
            Packet::Publish(publish) => self.publish(run, publish, out),
            Packet::PubRel { id } => {
                wire::acknowledge(out, wire::PUBCOMP, *id);
                if let Some((publisher, number)) = self.unreleased.remove(id).flatten() {
                    self.advance(publisher, number);
                }
            }
            Packet::PingResp => {}
            other => return Err(format!("{other:?} to a subscriber")),
        }
        Ok(())
    }

    #[inline]
    fn publish(&mut self, run: &Run, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let message = self.expected(run, publish);
        let identity = message.map(|(publisher, number, _)| (publisher, number));
        match publish.qos {
            0 => {}
            1 => wire::acknowledge(out, wire::PUBACK, publish.id),
            _ => {
                wire::acknowledge(out, wire::PUBREC, publish.id);
                if let Some(&known) = self.unreleased.get(&publish.id) {
                    // The same again is a retransmission; another message under an identifier in use is discarded,
                    // as every receiver would, and so counts as lost too.
                    self.unexpected += u64::from(known != identity);
                    return;
                }
                self.unreleased.insert(publish.id, identity);
            }
        }
        let Some((publisher, number, sent_at)) = message else {
            self.unexpected += 1;
            return;
        };
        let topics = u64::from(self.interest.topics);
        let (topic, sequence) = if topics == 1 {
            (0, number)
        } else {
            (number % topics, number / topics)
        };
        self.trackers[publisher * topics as usize + topic as usize].arrived(sequence);
        if publish.qos < 2 {
            self.advance(publisher, number);
        }
        self.sent_at.push(sent_at);
        self.count += 1;
    }

    /// The publisher may go on from here. At QoS 2 that is so when the message is released: a server that is behind
    /// with its PUBRELs would otherwise be driven on until it runs out of packet identifiers.
    #[inline]
    fn advance(&mut self, publisher: usize, number: u64) {
        // Listed again where publishers alternate; to advance twice to the same number does nothing.
        if self.touched.last() != Some(&publisher) {
            self.touched.push(publisher);
        }
        let highest = &mut self.highest[publisher];
        *highest = (*highest).max(number + 1);
    }

    /// Position of its publisher, number and time of sending, if this run sent it to this subscriber.
    fn expected(&self, run: &Run, publish: &Publish<'_>) -> Option<(usize, u64, u64)> {
        let head: &[u8; PAYLOAD_HEAD] = publish.payload.first_chunk()?;
        let (id, publisher) = (u32_at(head, 0), u32_at(head, 4));
        let right = id == run.id
            && self.interest.publishers.contains(&publisher)
            && publish.qos == self.interest.qos
            && !publish.retain;
        let number = u64_at(head, 8);
        if !right || number >= self.flows[publisher as usize].sent.load(Ordering::Relaxed) {
            return None;
        }
        Some((
            (publisher - self.interest.publishers.start) as usize,
            number,
            u64_at(head, 16),
        ))
    }

    fn end_batch(&mut self, run: &Run) {
        if self.count > 0 {
            self.record(run);
        }
        // After the counts: whoever sees the run complete must see them complete.
        for &publisher in &self.touched {
            let flow = &self.flows[self.interest.publishers.start as usize + publisher];
            flow.advance(self.interest.slot, self.highest[publisher]);
        }
        self.touched.clear();
    }

    fn record(&mut self, run: &Run) {
        if run.measuring.load(Ordering::Relaxed) {
            let mut latencies = run
                .latencies
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            for sent_at in &self.sent_at {
                latencies.record(self.now.saturating_sub(*sent_at));
            }
        }
        run.last_delivery.fetch_max(self.now, Ordering::Relaxed);
        run.delivered[self.interest.index].fetch_add(self.count, Ordering::Relaxed);
        self.sent_at.clear();
        self.count = 0;
    }
}

fn u32_at(head: &[u8; PAYLOAD_HEAD], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

fn u64_at(head: &[u8; PAYLOAD_HEAD], at: usize) -> u64 {
    u64::from(u32_at(head, at)) << 32 | u64::from(u32_at(head, at + 4))
}
