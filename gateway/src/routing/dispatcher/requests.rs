//! What sessions ask of the dispatcher, at the place in the sequence where they asked it (B7): subscriptions that come
//! and go, what a new one finds retained, and what a member leaves behind for its shared group (S4).

use std::{sync::Arc, time::Instant};

use super::{Dispatcher, GROUP_TRIES};
use crate::{
    mqtt::{PacketId, Qos, ReasonCode, RetainHandling, SubscriptionFilter},
    routing::{
        bus::InFlight,
        control::{Control, Look, SubscribeRequest, Subscription},
        endpoint::{Delivery, Endpoint, Extra, Grant},
        message::Message,
        tree::share_key,
        turn::Asked,
    },
};

impl Dispatcher {
    pub(super) fn control(&mut self, control: Control, settled: &InFlight, work: &mut usize) {
        match control {
            Control::Look(look) => self.look(look),
            Control::Redistribute(deliveries) => {
                let from = settled.origin.as_ref().map(|origin| &origin.endpoint);
                self.redistribute(deliveries, from);
            }
            Control::Subscribe(request) => self.subscribe(request, settled, work),
            Control::Unsubscribe { packet_id, filters } => {
                self.unsubscribe(packet_id, &filters, settled)
            }
            Control::Revoke(lost) => {
                if let Some(origin) = &settled.origin {
                    lost.iter()
                        .for_each(|lost| self.remove(&origin.endpoint, lost));
                }
            }
            Control::WillSent => {
                if let Some(origin) = &settled.origin {
                    self.turn().send_will(origin);
                }
            }
            Control::End {
                subscriptions,
                shared,
            } => {
                self.remove_all(&subscriptions, settled);
                let from = settled.origin.as_ref().map(|origin| &origin.endpoint);
                self.redistribute(shared, from);
                if let Some(origin) = &settled.origin
                    && origin.endpoint.is_known()
                {
                    self.turn().end(&origin.endpoint);
                }
            }
        }
    }

    fn look(&self, look: Look) {
        let now = Instant::now();
        let found = look.topics.iter().map(|topic| {
            let mut found = None;
            // One path of the tree: its length is bounded by the topic's.
            let mut work = topic.len() + 2;
            self.retained
                .matching(topic, now, &mut work, &mut |message| {
                    let payload = message.payload();
                    if message.topic() == topic && payload.len() <= look.longest {
                        found = Some(payload.into());
                    }
                    true
                });
            found
        });
        // Whoever asked may have given up.
        let _ = look.answer.send(found.collect());
    }

    /// At this place in the sequence the subscriptions take effect and fix their retained messages (B7).
    fn subscribe(&mut self, request: SubscribeRequest, settled: &InFlight, work: &mut usize) {
        let Some(origin) = &settled.origin else {
            return;
        };
        let mut room = origin.endpoint.retained_room() / size_of::<Delivery>();
        let mut retained = Vec::new();
        let mut made = Vec::new();
        let reasons: Vec<_> = request
            .filters
            .into_iter()
            .map(|requested| {
                let subscription = requested?;
                let is_new = self
                    .take_up(
                        &origin.endpoint,
                        &subscription,
                        &mut retained,
                        &mut room,
                        work,
                    )
                    .inspect_err(|_| self.metrics.subscriptions_refused.add(1))?;
                let granted = granted(subscription.options.qos);
                if is_new {
                    made.push(subscription);
                }
                Ok(granted)
            })
            .map(|outcome| outcome.unwrap_or_else(|reason| reason))
            .collect();
        self.forget_matches();
        let endpoint = &origin.endpoint;
        // A refusal needs no disk.
        let waits = endpoint.is_stored() && reasons.iter().any(|reason| !reason.is_error());
        if waits {
            // The retained messages wait like any other: the client will not ask for them again.
            endpoint.number(&mut retained);
            let numbered = || retained.iter().filter(|delivery| delivery.serial > 0);
            self.turn().ask(Asked {
                endpoint: endpoint.clone(),
                made,
                serials: numbered().map(|delivery| delivery.serial).collect(),
            });
            for delivery in numbered() {
                self.turn().keep_one(endpoint, delivery.clone());
            }
        }
        let turn = if waits { self.number } else { 0 };
        let packet_id = request.packet_id;
        endpoint.subscribed(origin.epoch, packet_id, reasons, retained, turn);
    }

    /// Finds the retained messages of one subscription and makes it; one whose retained messages would be too many to
    /// queue, or too much work to find, is not made, and what it was to replace stays. Whether it is new.
    fn take_up(
        &mut self,
        endpoint: &Arc<dyn Endpoint>,
        subscription: &Subscription,
        retained: &mut Vec<Delivery>,
        room: &mut usize,
        work: &mut usize,
    ) -> Result<bool, ReasonCode> {
        let filter = subscription.matching().as_str();
        // The policy may have changed since the client asked; what was taken away stays away (P4).
        if !endpoint.may_subscribe(filter) {
            endpoint.refused(subscription);
            return Err(ReasonCode::NotAuthorized);
        }
        let is_new = self
            .tree
            .number(endpoint.id(), &subscription.filter)
            .is_none();
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
                    endpoint.refused(subscription);
                }
            })?;
        }
        self.tree.insert(endpoint, subscription);
        if endpoint.is_stored() {
            self.turn().subscribe(endpoint, subscription);
        }
        Ok(is_new)
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
                    if origin.endpoint.is_stored() {
                        self.turn().unsubscribe(&origin.endpoint, filter);
                    }
                    if filter.share.is_some() {
                        self.leave_group(&origin.endpoint, filter);
                    }
                    ReasonCode::Success
                }
                Ok(_) => ReasonCode::NoSubscriptionExisted,
                Err(reason) => *reason,
            });
        }
        self.forget_matches();
        let endpoint = &origin.endpoint;
        let waits = endpoint.is_stored() && reasons.iter().any(|reason| !reason.is_error());
        if waits {
            self.turn().ask(Asked {
                endpoint: endpoint.clone(),
                made: Vec::new(),
                serials: Vec::new(),
            });
        }
        let turn = if waits { self.number } else { 0 };
        endpoint.unsubscribed(origin.epoch, packet_id, reasons, turn);
    }

    /// Ends a subscription that its session has lost, unless it was made anew since: a policy that was changed twice, or
    /// a disk that works again, may have let the client have it meanwhile (P4).
    pub(super) fn remove(&mut self, endpoint: &Arc<dyn Endpoint>, lost: &Subscription) {
        let found = self.tree.number(endpoint.id(), &lost.filter);
        if found.is_some_and(|number| number > lost.number) {
            return;
        }
        if self.tree.remove(endpoint.id(), &lost.filter) && lost.filter.share.is_some() {
            self.leave_group(endpoint, &lost.filter);
        }
        if endpoint.is_stored() {
            self.turn().unsubscribe(endpoint, &lost.filter);
        }
        self.forget_matches();
    }

    /// S4: what waited here for the group goes to those who stay.
    fn leave_group(&mut self, endpoint: &Arc<dyn Endpoint>, filter: &SubscriptionFilter) {
        let waited = endpoint.give_back(&share_key(filter));
        self.redistribute(waited, Some(endpoint));
    }

    fn remove_all(&mut self, filters: &[SubscriptionFilter], settled: &InFlight) {
        let Some(origin) = &settled.origin else {
            return;
        };
        for filter in filters {
            self.tree.remove(origin.endpoint.id(), filter);
            if origin.endpoint.is_stored() {
                self.turn().unsubscribe(&origin.endpoint, filter);
            }
        }
        self.forget_matches();
    }

    /// Messages whose member is gone or cannot take them go to another member, or wait with the one that can hold them.
    fn redistribute(&mut self, deliveries: Vec<Delivery>, from: Option<&Arc<dyn Endpoint>>) {
        for delivery in deliveries {
            let serial = delivery.serial;
            let moved = self.redeliver(delivery, from);
            // In one transaction: it never is nobody's (S4).
            if let Some(from) = from.filter(|from| moved && serial > 0 && from.is_stored()) {
                self.turn().give(from, serial);
            }
        }
    }

    /// False if it stays where it was: nobody else can hold it.
    fn redeliver(&mut self, mut delivery: Delivery, from: Option<&Arc<dyn Endpoint>>) -> bool {
        let home = from.map(|from| from.id());
        let mut not = None;
        let share = delivery.share().cloned();
        for _ in 0..GROUP_TRIES {
            let chosen = share
                .as_ref()
                .and_then(|key| self.tree.group_of(key))
                .and_then(|group| group.choose(delivery.message.topic(), not, home));
            let Some(member) = chosen else { break };
            let endpoint = member.endpoint.clone();
            if from.is_some_and(|from| from.id() == endpoint.id() && from.take_back(&delivery)) {
                return false;
            }
            delivery.qos = delivery.message.qos().min(member.grant.qos);
            delivery.extra = member.grant.extra.clone();
            match endpoint.redeliver(delivery.clone(), self.number) {
                Ok(serial) => {
                    if serial > 0 {
                        delivery.serial = serial;
                        self.turn().keep_one(&endpoint, delivery);
                    }
                    self.wake(&endpoint);
                    return true;
                }
                Err(refused) => delivery = refused,
            }
            not = Some(endpoint.id());
        }
        self.metrics.messages_dropped.add(1);
        true
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
