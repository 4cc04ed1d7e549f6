//! The dispatcher: takes envelopes off the bus and hands every message to the sessions it is for.
//!
//! One task. It owns the subscription tree and the retained messages, waits for no socket, permit or session
//! (B3), and wakes each session once per turn, whatever the turn brought it.

use std::{future::Future, pin::pin, sync::Arc, task::Poll, time::Instant};

use hashbrown::{HashMap, HashSet};
use rumqttd::Notification;

use super::{
    bus::{Bus, InFlight, Outlet},
    control::{Control, SubscribeRequest, Subscription},
    endpoint::{Completion, Delivery, Endpoint, Extra, Grant, SessionId},
    envelope::{self, Item},
    message::{Batch, Message},
    retained::{Retained, RetainedLimits},
    shared::GroupId,
    tree::{Matched, Own, Tree, share_key},
};
use crate::{
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode, RetainHandling, SubscriptionFilter},
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
    /// Sessions to wake at the end of the turn.
    woken: Vec<Arc<dyn Endpoint>>,
    woken_ids: HashSet<SessionId>,
    metrics: Arc<Metrics>,
    limits: Box<dyn Fn() -> RetainedLimits + Send + Sync>,
}

impl Dispatcher {
    /// `limits` is asked once per turn: the operator may change it while the gateway runs.
    pub fn new(
        bus: Arc<Bus>,
        metrics: Arc<Metrics>,
        limits: impl Fn() -> RetainedLimits + Send + Sync + 'static,
    ) -> Dispatcher {
        Dispatcher {
            bus,
            tree: Tree::default(),
            retained: Retained::new(limits()),
            cache: HashMap::new(),
            cached_targets: 0,
            woken: Vec::new(),
            woken_ids: HashSet::new(),
            metrics,
            limits: Box::new(limits),
        }
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
        self.woken_ids.clear();
        for endpoint in self.woken.drain(..) {
            endpoint.wake();
        }
        self.retained.set_limits((self.limits)());
        self.retained.sweep(Instant::now(), SWEEP);
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
        let bytes = std::mem::take(&mut settled.bytes);
        if let Some((batch, items)) = envelope::open(bytes, settled.received) {
            self.items(&batch, &items, &mut settled);
        }
        self.bus.release(&settled);
        if let Some(origin) = settled.origin {
            origin.endpoint.settled(settled.length);
            self.wake(&origin.endpoint);
        }
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
        if run.iter().any(Message::retain) {
            // Each message finds the retained set as its predecessors left it; a refused one is delivered to nobody.
            for (message, id) in run.iter().zip(ids) {
                let kept =
                    !message.retain() || self.retained.set(message, settled.received).is_ok();
                if kept {
                    self.hand_out(&matched, std::slice::from_ref(message), settled);
                } else {
                    self.metrics.retained_refused.add(1);
                }
                push_completion(
                    completions,
                    message,
                    *id,
                    if kept {
                        done
                    } else {
                        ReasonCode::QuotaExceeded
                    },
                );
            }
            return;
        }
        self.hand_out(&matched, run, settled);
        for (message, id) in run.iter().zip(ids) {
            push_completion(completions, message, *id, done);
        }
    }

    fn hand_out(&mut self, matched: &Matched, run: &[Message], settled: &InFlight) {
        let publisher = settled.origin.as_ref().map(|origin| origin.endpoint.id());
        for target in &matched.targets {
            let mut grant = &target.grant;
            if publisher == Some(target.endpoint.id()) {
                match &target.own {
                    Own::Same => {}
                    Own::Nothing => continue,
                    Own::Other(other) => grant = other,
                }
            }
            if target.endpoint.deliver(run, grant) {
                self.wake(&target.endpoint);
            }
        }
        for id in &matched.groups {
            for message in run {
                self.hand_to_group(*id, message);
            }
        }
    }

    /// Gives a message to one member of a group. One whose client left just now is passed over.
    fn hand_to_group(&mut self, id: GroupId, message: &Message) {
        let mut not = None;
        for _ in 0..GROUP_TRIES {
            let chosen = self
                .tree
                .group(id)
                .and_then(|group| group.choose(message.topic(), not));
            let Some(member) = chosen else { break };
            let endpoint = member.endpoint.clone();
            if endpoint.deliver(std::slice::from_ref(message), &member.grant) {
                self.wake(&endpoint);
                return;
            }
            not = Some(endpoint.id());
        }
        self.metrics.messages_dropped.add(1);
    }

    fn control(&mut self, control: Control, settled: &InFlight, work: &mut usize) {
        match control {
            Control::PolicyChanged => self.forget_matches(),
            Control::Redistribute(deliveries) => self.redistribute(deliveries, settled),
            Control::Subscribe(request) => self.subscribe(request, settled, work),
            Control::Unsubscribe { packet_id, filters } => {
                self.unsubscribe(packet_id, &filters, settled)
            }
            Control::Revoke(filters) => self.remove_all(&filters, settled),
            Control::End {
                subscriptions,
                shared,
            } => {
                self.remove_all(&subscriptions, settled);
                self.redistribute(shared, settled);
            }
        }
    }

    /// At this place in the sequence the subscriptions take effect and fix their retained messages (B7).
    fn subscribe(&mut self, request: SubscribeRequest, settled: &InFlight, work: &mut usize) {
        let Some(origin) = &settled.origin else {
            return;
        };
        let mut room = origin.endpoint.retained_room() / size_of::<Delivery>();
        let mut retained = Vec::new();
        let reasons = request
            .filters
            .into_iter()
            .map(|requested| {
                let subscription = requested?;
                self.take_up(
                    &origin.endpoint,
                    &subscription,
                    &mut retained,
                    &mut room,
                    work,
                )
                .inspect_err(|_| self.metrics.subscriptions_refused.add(1))?;
                Ok(granted(subscription.options.qos))
            })
            .map(|outcome| outcome.unwrap_or_else(|reason| reason))
            .collect();
        self.forget_matches();
        origin
            .endpoint
            .subscribed(origin.epoch, request.packet_id, reasons, retained);
    }

    /// Finds the retained messages of one subscription and makes it; one whose retained messages would be too many to
    /// queue, or too much work to find, is not made, and what it was to replace stays.
    fn take_up(
        &mut self,
        endpoint: &Arc<dyn Endpoint>,
        subscription: &Subscription,
        retained: &mut Vec<Delivery>,
        room: &mut usize,
        work: &mut usize,
    ) -> Result<(), ReasonCode> {
        let filter = subscription.matching().as_str();
        // The policy may have changed since the client asked; what was taken away stays away (P4).
        if !endpoint.may_subscribe(filter) {
            endpoint.refused(&subscription.filter);
            return Err(ReasonCode::NotAuthorized);
        }
        let is_new = !self.tree.holds(endpoint.id(), &subscription.filter);
        let wanted = match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        // A shared subscription gets no retained messages (MQTT 5 §4.8.2).
        if wanted && subscription.filter.share.is_none() {
            let found = self.find_retained(endpoint, subscription, retained, *room, work);
            *room -= found.inspect_err(|_| {
                if is_new {
                    endpoint.refused(&subscription.filter);
                }
            })?;
        }
        self.tree.insert(endpoint, subscription);
        Ok(())
    }

    /// How many retained messages were found: all of them, and no more than `room`.
    fn find_retained(
        &self,
        endpoint: &Arc<dyn Endpoint>,
        subscription: &Subscription,
        retained: &mut Vec<Delivery>,
        room: usize,
        work: &mut usize,
    ) -> Result<usize, ReasonCode> {
        let options = subscription.options;
        let extra = options.id.map(|id| {
            Arc::new(Extra {
                subscription_ids: [id].into_iter().collect(),
                share: None,
            })
        });
        let grant = Grant {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            extra,
        };
        let before = retained.len();
        let mut visit = |message: &Message| {
            if !endpoint.may_receive(message.topic()) {
                return true;
            }
            let fits = retained.len() - before < room;
            if fits {
                retained.push(Delivery::retained(message.clone(), &grant));
            }
            fits
        };
        let filter = subscription.matching().as_str();
        let complete = self
            .retained
            .matching(filter, Instant::now(), work, &mut visit);
        if !complete {
            retained.truncate(before);
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(retained.len() - before)
    }

    fn unsubscribe(
        &mut self,
        packet_id: PacketId,
        filters: &[Result<SubscriptionFilter, ReasonCode>],
        settled: &InFlight,
    ) {
        let Some(origin) = &settled.origin else {
            return;
        };
        let session = origin.endpoint.id();
        let mut reasons = Vec::with_capacity(filters.len());
        for filter in filters {
            reasons.push(match filter {
                Ok(filter) if self.tree.remove(session, filter) => {
                    if filter.share.is_some() {
                        // S4: what waited here for the group goes to those who stay.
                        self.redistribute(origin.endpoint.give_back(&share_key(filter)), settled);
                    }
                    ReasonCode::Success
                }
                Ok(_) => ReasonCode::NoSubscriptionExisted,
                Err(reason) => *reason,
            });
        }
        self.forget_matches();
        origin
            .endpoint
            .unsubscribed(origin.epoch, packet_id, reasons);
    }

    fn remove_all(&mut self, filters: &[SubscriptionFilter], settled: &InFlight) {
        let Some(origin) = &settled.origin else {
            return;
        };
        for filter in filters {
            self.tree.remove(origin.endpoint.id(), filter);
        }
        self.forget_matches();
    }

    /// Messages whose member is gone or cannot take them go to another member, or wait with the one that can hold them.
    fn redistribute(&mut self, deliveries: Vec<Delivery>, settled: &InFlight) {
        let from = settled.origin.as_ref().map(|origin| origin.endpoint.id());
        for delivery in deliveries {
            self.redeliver(delivery, from);
        }
    }

    fn redeliver(&mut self, mut delivery: Delivery, mut not: Option<SessionId>) {
        let share = delivery.share().cloned();
        for _ in 0..GROUP_TRIES {
            let chosen = share
                .as_ref()
                .and_then(|key| self.tree.group_of(key))
                .and_then(|group| group.choose(delivery.message.topic(), not));
            let Some(member) = chosen else { break };
            let endpoint = member.endpoint.clone();
            delivery.qos = delivery.message.qos().min(member.grant.qos);
            delivery.extra = member.grant.extra.clone();
            match endpoint.redeliver(delivery) {
                Ok(()) => return self.wake(&endpoint),
                Err(refused) => delivery = refused,
            }
            not = Some(endpoint.id());
        }
        self.metrics.messages_dropped.add(1);
    }

    fn matching(&mut self, topic: &str) -> Arc<Matched> {
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

fn push_completion(
    completions: &mut Vec<Completion>,
    message: &Message,
    id: Option<PacketId>,
    reason: ReasonCode,
) {
    if let Some(packet_id) = id {
        completions.push(Completion {
            packet_id,
            qos: message.qos(),
            reason,
        });
    }
}

/// The reason code that grants a QoS (MQTT 5 §3.9.3).
fn granted(qos: Qos) -> ReasonCode {
    match qos {
        Qos::AtMostOnce => ReasonCode::Success,
        Qos::AtLeastOnce => ReasonCode::GrantedQos1,
        Qos::ExactlyOnce => ReasonCode::GrantedQos2,
    }
}
