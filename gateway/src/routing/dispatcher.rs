//! The dispatcher: takes envelopes off the bus and hands every message to the sessions it is for.
//!
//! One task. It owns the subscription tree and the retained messages, waits for no socket, permit or session
//! (B3), and wakes each session once per turn, whatever the turn brought it.

mod requests;

use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Instant};

use hashbrown::{HashMap, HashSet};
use rumqttd::Notification;

use super::{
    bus::{Bus, InFlight, Outlet},
    control::Subscription,
    endpoint::{Completion, Endpoint, Handed, SessionId},
    envelope::{self, Item},
    message::{Batch, Message},
    retained::{Retained, RetainedLimits},
    shared::GroupId,
    tree::{Matched, Own, Tree},
    turn::{Kept, TakenBack, Turn},
};
use crate::{
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode},
    store::writer::Store,
};

/// Topics whose matches are remembered, and targets in all of them: a bounded cache (about 6 MB at most).
const CACHED_TOPICS: usize = 8 * 1024;
const CACHED_TARGETS: usize = 64 * 1024;
/// Envelopes per turn, after which the sessions are woken and other tasks get their time.
const TURN: usize = 64;
/// Members of a shared group that may turn out to be gone before a message is given up.
const GROUP_TRIES: usize = 8;
/// Topic levels of retained messages that the subscriptions of one envelope may look at: some 20 ms of work.
const RETAINED_WORK: usize = 400_000;
/// Topics longer than this are not remembered.
const CACHED_TOPIC_BYTES: usize = 256;
/// Expired retained messages removed per turn.
const SWEEP: usize = 64;

pub struct Dispatcher {
    bus: Arc<Bus>,
    tree: Tree,
    retained: Retained,
    cache: HashMap<Box<str>, Arc<Matched>>,
    cached_targets: usize,
    /// Changes of rights that `cache` knows of.
    rights: u64,
    /// Sessions to wake at the end of the turn.
    woken: Vec<Arc<dyn Endpoint>>,
    woken_ids: HashSet<SessionId>,
    metrics: Arc<Metrics>,
    limits: Box<dyn Fn() -> Limits + Send + Sync>,
    /// As they were at the end of the last turn.
    stored: StoredLimits,
    store: Arc<Store>,
    /// What this turn must have on disk, once there is something.
    turn: Option<Box<Turn>>,
    /// Subscriptions that the disk did not take: they end before anything else is dispatched.
    taken_back: TakenBack,
    /// The number of this turn.
    number: u64,
}

/// What is kept for everybody together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub retained: RetainedLimits,
    pub stored: StoredLimits,
}

/// What may wait on disk for all sessions that are away (D8).
#[derive(Clone, Copy, Debug)]
pub struct StoredLimits {
    pub messages: u64,
    pub bytes: u64,
}

impl Dispatcher {
    /// `limits` is asked once per turn: the operator may change it while the gateway runs.
    pub fn new(
        bus: Arc<Bus>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        limits: impl Fn() -> Limits + Send + Sync + 'static,
    ) -> Dispatcher {
        let now = limits();
        Dispatcher {
            bus,
            tree: Tree::default(),
            retained: Retained::new(now.retained),
            cache: HashMap::new(),
            cached_targets: 0,
            rights: 0,
            woken: Vec::new(),
            woken_ids: HashSet::new(),
            metrics,
            limits: Box::new(limits),
            stored: now.stored,
            store,
            turn: None,
            taken_back: TakenBack::default(),
            number: 1,
        }
    }

    /// Takes up what was there before the gateway was started: a subscription of a session.
    pub fn restore_subscription(
        &mut self,
        endpoint: &Arc<dyn Endpoint>,
        subscription: &Subscription,
    ) {
        self.tree.insert(endpoint, subscription);
    }

    /// Takes up a retained message. Limits that are lower now hold for new ones only.
    pub fn restore_retained(&mut self, message: &Message) {
        self.retained.restore(message, Instant::now());
    }

    /// Runs until the process ends; replaces the router whenever its thread dies (B4).
    pub async fn run(mut self, mut outlet: Outlet) {
        loop {
            self.drain(&mut outlet).await;
            tracing::error!("the message bus (rumqttd) died; starting a new one");
            outlet = self.successor().await;
            tracing::warn!("the message bus runs again; what was in flight is published anew");
        }
    }

    /// Dispatches until the router is gone and its link is empty.
    async fn drain(&mut self, outlet: &mut Outlet) {
        let mut expected = None;
        let mut turn = 0;
        loop {
            let notification = {
                let mut next = pin!(outlet.rx.next());
                match std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
                    Poll::Ready(ready) => ready,
                    Poll::Pending => {
                        self.end_turn(&mut turn);
                        next.await
                    }
                }
            };
            match notification {
                Ok(Some(Notification::Forward(forward))) => {
                    self.check_gap(&mut expected, forward.cursor);
                    self.envelope(forward.publish.payload);
                    turn += 1;
                }
                Ok(Some(Notification::Unschedule)) => {
                    self.end_turn(&mut turn);
                    // Exactly one wake-up for each Unschedule. If it fails the router is dead, which next() will say.
                    let _ = outlet.rx.wake().await;
                }
                Ok(_) => {}
                Err(_) => break,
            }
            if turn >= TURN {
                self.end_turn(&mut turn);
                tokio::task::yield_now().await;
            }
        }
        self.end_turn(&mut turn);
    }

    async fn successor(&self) -> Outlet {
        loop {
            let bus = self.bus.clone();
            match tokio::task::spawn_blocking(move || bus.revive()).await {
                Ok(Ok(outlet)) => return outlet,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the message bus did not start; trying again")
                }
                Err(error) => {
                    tracing::error!(%error, "starting the message bus failed; trying again")
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// rumqttd's log drops what was not read in time. The permits rule that out; a gap is a bug of ours.
    fn check_gap(&self, expected: &mut Option<u64>, cursor: Option<(u64, u64)>) {
        let Some((_, offset)) = cursor else { return };
        if let Some(gap) = expected
            .and_then(|expected| offset.checked_sub(expected))
            .filter(|gap| *gap > 0)
        {
            self.metrics.bus_gaps.add(gap);
            tracing::error!(gap, "the message bus lost envelopes");
        }
        *expected = Some(offset + 1);
    }

    fn end_turn(&mut self, turn: &mut usize) {
        *turn = 0;
        self.sweep();
        if let Some(turn) = self.turn.take() {
            self.store.push(turn);
        }
        self.number += 1;
        self.woken_ids.clear();
        for endpoint in self.woken.drain(..) {
            endpoint.handed_over();
        }
        let limits = (self.limits)();
        self.stored = limits.stored;
        self.retained.set_limits(limits.retained);
        self.metrics
            .retained_messages
            .set(self.retained.count() as u64);
        self.metrics
            .retained_bytes
            .set(self.retained.bytes() as u64);
        self.metrics.subscriptions.set(self.tree.len() as u64);
    }

    fn envelope(&mut self, bytes: bytes::Bytes) {
        let Some((link, sequence)) = envelope::address(&bytes) else {
            tracing::error!("something that is no envelope came off the message bus");
            return;
        };
        // After a router died, what it had forwarded and what was published again may both arrive: the first counts (B4).
        let Some(mut settled) = self.bus.settle(link, sequence) else {
            self.metrics.bus_duplicates.add(1);
            return;
        };
        while settled.sequence < sequence {
            self.settled(settled);
            match self.bus.settle(link, sequence) {
                Some(next) => settled = next,
                None => return,
            }
        }
        self.settled(settled);
    }

    fn settled(&mut self, mut settled: InFlight) {
        self.take_back();
        let bytes = std::mem::take(&mut settled.bytes);
        if let Some((batch, items)) = envelope::open(bytes, settled.received) {
            self.items(&batch, &items, &mut settled);
        }
        if let Some(origin) = &settled.origin {
            origin.endpoint.settled(settled.length);
            self.wake(&origin.endpoint);
        }
        // B2: what the disk is behind with is bounded, the bus's permits where its own credit is used up.
        match &mut self.turn {
            Some(turn) if self.store.is_full(None) => turn.keep_on_account(settled),
            _ => self.bus.release(&settled),
        }
    }

    /// Removes some retained messages that have expired, here and on disk.
    fn sweep(&mut self) {
        let mut expired = Vec::new();
        self.retained
            .sweep(Instant::now(), SWEEP, &mut |message| expired.push(message));
        for message in expired {
            self.turn().forget_retained(message);
        }
    }

    /// Ends the subscriptions that the disk did not take, unless their clients made them anew since.
    fn take_back(&mut self) {
        let taken_back = std::mem::take(&mut *self.taken_back.lock());
        for (endpoint, made) in taken_back {
            self.remove(&endpoint, &made);
        }
    }

    fn turn(&mut self) -> &mut Turn {
        let (number, bus, store) = (self.number, &self.bus, &self.store);
        let taken_back = &self.taken_back;
        self.turn
            .get_or_insert_with(|| Box::new(Turn::new(number, bus, store, taken_back)))
    }

    fn items(&mut self, batch: &Arc<Batch>, items: &[Item], settled: &mut InFlight) {
        let mut controls = std::mem::take(&mut settled.controls).into_iter();
        let mut work = RETAINED_WORK;
        let mut completions = Vec::new();
        let mut run: Vec<Message> = Vec::new();
        let mut at = 0;
        while at < items.len() {
            let Item::Publish { .. } = items[at] else {
                at += 1;
                if let Some(control) = controls.next() {
                    self.complete(settled, &mut completions);
                    self.control(control, settled, &mut work);
                }
                continue;
            };
            // A run: neighbours of one topic are looked up once and handed over together.
            run.clear();
            let mut ids: smallvec::SmallVec<[Option<PacketId>; 32]> = smallvec::SmallVec::new();
            while let Some(Item::Publish { index, packet_id }) = items.get(at).copied() {
                let message = batch.message(index);
                if run
                    .first()
                    .is_some_and(|first| first.topic() != message.topic())
                {
                    break;
                }
                run.push(message);
                ids.push(packet_id);
                at += 1;
            }
            self.publish(&run, &ids, settled, &mut completions);
        }
        self.complete(settled, &mut completions);
    }

    fn complete(&mut self, settled: &InFlight, completions: &mut Vec<Completion>) {
        if let (Some(origin), false) = (&settled.origin, completions.is_empty()) {
            origin.endpoint.complete(origin.epoch, completions);
        }
        completions.clear();
    }

    /// Messages of one topic, from one publisher.
    fn publish(
        &mut self,
        run: &[Message],
        ids: &[Option<PacketId>],
        settled: &InFlight,
        completions: &mut Vec<Completion>,
    ) {
        let matched = self.matching(run[0].topic());
        let nobody = matched.targets.is_empty() && matched.groups.is_empty();
        let done = if nobody {
            ReasonCode::NoMatchingSubscribers
        } else {
            ReasonCode::Success
        };
        let full = self.is_full() && self.waits_for_the_absent(&matched, run[0].topic());
        if full || run.iter().any(Message::retain) {
            // Each message finds the retained set as its predecessors left it; a refused one is delivered to nobody.
            for (message, id) in run.iter().zip(ids) {
                let outcome = if full && message.qos() != Qos::AtMostOnce {
                    self.metrics.messages_refused.add(1);
                    Err(ReasonCode::QuotaExceeded)
                } else {
                    self.retain(message, settled.received)
                };
                let stored = message.retain()
                    | (outcome.is_ok()
                        && self.hand_out(&matched, std::slice::from_ref(message), settled));
                let reason = outcome.map_or_else(|refused| refused, |()| done);
                self.answer(message, *id, reason, stored, settled, completions);
            }
            return;
        }
        let stored = self.hand_out(&matched, run, settled);
        for (message, id) in run.iter().zip(ids) {
            self.answer(message, *id, done, stored, settled, completions);
        }
    }

    /// Keeps a message that its publisher wants retained.
    fn retain(&mut self, message: &Message, received: Instant) -> Result<(), ReasonCode> {
        if !message.retain() {
            return Ok(());
        }
        let is_own = message.topic().starts_with('$');
        if !is_own && message.qos() == Qos::AtMostOnce && self.store.is_overloaded() {
            // What it replaces stays; who is connected gets it (D7).
            self.metrics.retained_refused.add(1);
            return Ok(());
        }
        if self.retained.set(message, received).is_err() {
            self.metrics.retained_refused.add(1);
            return Err(ReasonCode::QuotaExceeded);
        }
        // What the gateway says of itself is said anew after a start.
        if !is_own {
            self.turn().retain(message);
        }
        Ok(())
    }

    /// The publisher's answer: at once, or when what it stands for is on disk (D1).
    fn answer(
        &mut self,
        message: &Message,
        id: Option<PacketId>,
        reason: ReasonCode,
        stored: bool,
        settled: &InFlight,
        completions: &mut Vec<Completion>,
    ) {
        let (Some(packet_id), Some(origin)) = (id, &settled.origin) else {
            return;
        };
        let completion = Completion {
            packet_id,
            qos: message.qos(),
            reason,
        };
        let remembered =
            message.qos() == Qos::ExactlyOnce && !reason.is_error() && origin.endpoint.is_stored();
        if remembered {
            self.turn().receive(&origin.endpoint, packet_id, reason);
        }
        if remembered || (stored && !reason.is_error()) {
            self.turn().complete(origin, completion);
        } else {
            completions.push(completion);
        }
    }

    /// Whether as much waits on disk as may (D8).
    fn is_full(&self) -> bool {
        self.metrics.messages_stored.get() >= self.stored.messages
            || self.metrics.bytes_stored.get() >= self.stored.bytes
    }

    fn waits_for_the_absent(&mut self, matched: &Matched, topic: &str) -> bool {
        let absent = |endpoint: &Arc<dyn Endpoint>| endpoint.is_stored() && !endpoint.is_online();
        matched
            .targets
            .iter()
            .any(|target| absent(&target.endpoint))
            || matched.groups.iter().any(|id| {
                let group = self.tree.group(*id).into_iter();
                let mut members = group
                    .flat_map(|group| group.members())
                    .filter(|member| member.may_receive(topic))
                    .peekable();
                members.peek().is_some() && members.all(absent)
            })
    }

    /// Whether copies were made that have to be stored.
    fn hand_out(&mut self, matched: &Matched, run: &[Message], settled: &InFlight) -> bool {
        let publisher = settled.origin.as_ref().map(|origin| origin.endpoint.id());
        let mut kept = Vec::new();
        for target in &matched.targets {
            let mut grant = &target.grant;
            if publisher == Some(target.endpoint.id()) {
                match &target.own {
                    Own::Same => {}
                    Own::Nothing => continue,
                    Own::Other(other) => grant = other,
                }
            }
            match target.endpoint.deliver(run, grant, self.number) {
                Handed::Gone => continue,
                Handed::Taken => {}
                Handed::Stored(first) => kept.push(Kept {
                    endpoint: target.endpoint.clone(),
                    grant: grant.clone(),
                    first,
                }),
            }
            self.wake(&target.endpoint);
        }
        let mut stored = !kept.is_empty();
        if stored {
            self.turn().keep(run, kept);
        }
        for id in &matched.groups {
            for message in run {
                stored |= self.hand_to_group(*id, message);
            }
        }
        stored
    }

    /// Gives a message to one member of a group. One whose client left just now is passed over.
    fn hand_to_group(&mut self, id: GroupId, message: &Message) -> bool {
        let mut not = None;
        for _ in 0..GROUP_TRIES {
            let chosen = self
                .tree
                .group(id)
                .and_then(|group| group.choose(message.topic(), not, None));
            let Some(member) = chosen else { break };
            let (endpoint, grant) = (member.endpoint.clone(), member.grant.clone());
            let handed = endpoint.deliver(std::slice::from_ref(message), &grant, self.number);
            if handed != Handed::Gone {
                self.wake(&endpoint);
                let Handed::Stored(first) = handed else {
                    return false;
                };
                let kept = Kept {
                    endpoint,
                    grant,
                    first,
                };
                self.turn().keep(std::slice::from_ref(message), vec![kept]);
                return true;
            }
            not = Some(endpoint.id());
        }
        self.metrics.messages_dropped.add(1);
        false
    }

    fn matching(&mut self, topic: &str) -> Arc<Matched> {
        let rights = self.bus.rights().changes();
        if std::mem::replace(&mut self.rights, rights) != rights {
            self.forget_matches();
        }
        if let Some(matched) = self.cache.get(topic) {
            return matched.clone();
        }
        let mut matched = self.tree.matching(topic);
        matched
            .targets
            .retain(|target| target.endpoint.may_receive(topic));
        let matched = Arc::new(matched);
        if self.cache.len() >= CACHED_TOPICS
            || self.cached_targets + matched.targets.len() > CACHED_TARGETS
        {
            self.forget_matches();
        }
        if matched.targets.len() <= CACHED_TARGETS && topic.len() <= CACHED_TOPIC_BYTES {
            self.cached_targets += matched.targets.len();
            self.cache.insert(topic.into(), matched.clone());
        }
        matched
    }

    fn forget_matches(&mut self) {
        self.cache.clear();
        self.cached_targets = 0;
    }

    fn wake(&mut self, endpoint: &Arc<dyn Endpoint>) {
        if self.woken_ids.insert(endpoint.id()) {
            self.woken.push(endpoint.clone());
        }
    }
}
