//! One turn of the dispatcher, as far as it must be on disk before anybody is told (D1, D2).
//!
//! A turn that nothing durable came of never gets here: its publishers were answered at once. The others are answered
//! when the transaction that holds their turn is done, all of it together: a copy and what it stands for are never apart.

use std::sync::Arc;

use bytestring::ByteString;
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    bus::{Bus, InFlight, Origin},
    control::Subscription,
    endpoint::{Completion, Delivery, Endpoint, Grant, SessionId},
    message::Message,
    stored,
};
use crate::{
    mqtt::{PacketId, Qos, ReasonCode, SubscriptionFilter},
    store::{
        messages::{Rows, Timestamp},
        writer::{Change, Refusal, Store, Ticket},
    },
};

pub(super) struct Turn {
    bus: Arc<Bus>,
    ticket: Ticket,
    number: u64,
    runs: Vec<Run>,
    deliveries: Vec<(Arc<dyn Endpoint>, Delivery)>,
    /// Set, or expired.
    retained: Vec<(Message, bool)>,
    received: Vec<(Arc<dyn Endpoint>, PacketId, ReasonCode)>,
    subscriptions: Vec<Resubscribed>,
    asked: Vec<Asked>,
    /// Where the dispatcher finds what it has to take back.
    taken_back: TakenBack,
    ended: Vec<Arc<dyn Endpoint>>,
    given: Vec<(Arc<dyn Endpoint>, u64)>,
    wills: Vec<Origin>,
    completions: Vec<(Origin, Completion)>,
    /// Who holds back something until the turn is on disk.
    waiting: HashMap<SessionId, Arc<dyn Endpoint>>,
    /// Those whose state went with the turn.
    recorded: Vec<Arc<dyn Endpoint>>,
    /// What the disk is behind with by more than its credit stays on the bus's account (B2).
    on_account: Vec<InFlight>,
}

/// Subscriptions that the disk did not take and that are therefore to end, with whose they are.
pub(super) type TakenBack = Arc<Mutex<Vec<(Arc<dyn Endpoint>, Subscription)>>>;

/// A subscription that is made, replaced or, without options, ended.
struct Resubscribed {
    endpoint: Arc<dyn Endpoint>,
    filter: ByteString,
    options: Option<Vec<u8>>,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is answered when the turn is done.
pub(super) struct Asked {
    pub endpoint: Arc<dyn Endpoint>,
    /// Subscriptions that were not there before.
    pub made: Vec<Subscription>,
    /// The retained messages that came with them.
    pub serials: Vec<u64>,
}

/// Messages of one topic from one publisher, and the sessions that keep copies.
struct Run {
    messages: Box<[Message]>,
    receivers: Vec<Kept>,
}

/// A session that was handed a run and keeps its copies on disk.
pub(super) struct Kept {
    pub endpoint: Arc<dyn Endpoint>,
    pub grant: Grant,
    /// The serial of its first copy; the others follow.
    pub first: u64,
}

impl Turn {
    pub fn new(number: u64, bus: &Arc<Bus>, store: &Arc<Store>, taken_back: &TakenBack) -> Turn {
        Turn {
            bus: bus.clone(),
            ticket: store.ticket(),
            number,
            runs: Vec::new(),
            deliveries: Vec::new(),
            retained: Vec::new(),
            received: Vec::new(),
            subscriptions: Vec::new(),
            asked: Vec::new(),
            taken_back: taken_back.clone(),
            ended: Vec::new(),
            given: Vec::new(),
            wills: Vec::new(),
            completions: Vec::new(),
            waiting: HashMap::new(),
            recorded: Vec::new(),
            on_account: Vec::new(),
        }
    }

    /// Copies of these messages wait for these sessions.
    pub fn keep(&mut self, messages: &[Message], receivers: Vec<Kept>) {
        self.ticket.add(messages.iter().map(Message::cost).sum());
        for receiver in &receivers {
            // A copy at QoS 2 is not sent before it is stored.
            if receiver.grant.qos == Qos::ExactlyOnce {
                self.tell(&receiver.endpoint);
            }
        }
        self.runs.push(Run {
            messages: messages.into(),
            receivers,
        });
    }

    /// One more copy for a session: a retained message, or one of a shared group. It has its serial.
    pub fn keep_one(&mut self, endpoint: &Arc<dyn Endpoint>, delivery: Delivery) {
        self.ticket.add(delivery.message.cost());
        self.tell(endpoint);
        self.deliveries.push((endpoint.clone(), delivery));
    }

    pub fn retain(&mut self, message: &Message) {
        self.ticket.add(message.cost());
        self.retained
            .push((message.clone(), !message.payload().is_empty()));
    }

    /// A retained message has expired.
    pub fn forget_retained(&mut self, message: Message) {
        self.retained.push((message, false));
    }

    /// A publisher that is kept published at QoS 2: its packet identifier goes with the message (D2).
    pub fn receive(&mut self, endpoint: &Arc<dyn Endpoint>, id: PacketId, reason: ReasonCode) {
        self.received.push((endpoint.clone(), id, reason));
    }

    pub fn subscribe(&mut self, endpoint: &Arc<dyn Endpoint>, subscription: &Subscription) {
        let options = stored::options(&subscription.options);
        self.change_subscription(endpoint, &subscription.filter, Some(options));
    }

    pub fn unsubscribe(&mut self, endpoint: &Arc<dyn Endpoint>, filter: &SubscriptionFilter) {
        self.change_subscription(endpoint, filter, None);
    }

    /// A client that asked for subscriptions, or their end, is answered when the turn is done.
    pub fn ask(&mut self, asked: Asked) {
        self.tell(&asked.endpoint);
        self.asked.push(asked);
    }

    pub fn end(&mut self, endpoint: &Arc<dyn Endpoint>) {
        self.ended.push(endpoint.clone());
    }

    /// A message was taken from a session, for another or for nobody (S4).
    pub fn give(&mut self, from: &Arc<dyn Endpoint>, serial: u64) {
        self.given.push((from.clone(), serial));
    }

    /// The will of a session was published.
    pub fn send_will(&mut self, origin: &Origin) {
        self.wills.push(origin.clone());
    }

    /// A publisher gets its answer when the turn is done.
    pub fn complete(&mut self, origin: &Origin, completion: Completion) {
        self.completions.push((origin.clone(), completion));
    }

    /// The session holds something back until the turn is done.
    pub fn tell(&mut self, endpoint: &Arc<dyn Endpoint>) {
        self.waiting
            .entry(endpoint.id())
            .or_insert_with(|| endpoint.clone());
    }

    pub fn keep_on_account(&mut self, settled: InFlight) {
        self.on_account.push(settled);
    }

    fn change_subscription(
        &mut self,
        endpoint: &Arc<dyn Endpoint>,
        filter: &SubscriptionFilter,
        options: Option<Vec<u8>>,
    ) {
        let filter = ByteString::from(filter.as_str());
        self.ticket.add(SUBSCRIPTION + filter.len());
        self.subscriptions.push(Resubscribed {
            endpoint: endpoint.clone(),
            filter,
            options,
        });
    }
}

impl Change for Turn {
    fn rows(&mut self, rows: &mut Rows, now: Timestamp) {
        let mut records: HashMap<SessionId, Arc<dyn Endpoint>> = HashMap::new();
        for (endpoint, serial) in std::mem::take(&mut self.given) {
            endpoint.gave_away(serial);
            records.insert(endpoint.id(), endpoint);
        }
        for Origin { endpoint, epoch } in std::mem::take(&mut self.wills) {
            endpoint.will_sent(epoch);
            records.insert(endpoint.id(), endpoint);
        }
        for run in std::mem::take(&mut self.runs) {
            run.rows(rows, now, &mut records);
        }
        let mut body = Vec::new();
        for (endpoint, delivery) in std::mem::take(&mut self.deliveries) {
            if delivery.qos == Qos::AtLeastOnce && endpoint.is_done(delivery.serial) {
                continue;
            }
            body.clear();
            stored::body(&delivery.message, &mut body);
            let receiver = stored::receiver(endpoint.id().0, &delivery);
            rows.queued(&body, delivery.message.expires_at(now), &[receiver]);
            records.insert(endpoint.id(), endpoint);
        }
        for (message, kept) in std::mem::take(&mut self.retained) {
            let row = kept.then(|| stored::retained(&message, now));
            rows.retained(message.topic(), row);
        }
        for (endpoint, id, reason) in std::mem::take(&mut self.received) {
            rows.received(endpoint.id().0, id.get(), Some(reason as u8));
        }
        for Resubscribed {
            endpoint,
            filter,
            options,
        } in std::mem::take(&mut self.subscriptions)
        {
            rows.subscription(endpoint.id().0, filter, options);
            records.insert(endpoint.id(), endpoint);
        }
        for endpoint in records.into_values() {
            endpoint.record(rows, now);
            self.recorded.push(endpoint);
        }
        for endpoint in &self.ended {
            rows.ended(endpoint.id().0);
        }
    }

    fn done(self: Box<Self>) {
        answer(&self.completions);
        self.recorded
            .iter()
            .for_each(|endpoint| endpoint.recorded());
        for endpoint in self.waiting.values() {
            endpoint.stored(self.number);
            endpoint.wake();
        }
        self.ended.iter().for_each(|endpoint| endpoint.forgotten());
        for settled in &self.on_account {
            self.bus.release(settled);
        }
    }

    fn refused(&mut self, refusal: &mut Refusal) -> bool {
        // It is dispatched and will be stored: a QoS 2 message that were refused now would arrive, and once more when its
        // publisher sends it again. Its answer waits for the disk, and what is sent again meanwhile joins it (D3).
        let all = std::mem::take(&mut self.completions);
        let (mut refused, kept): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(_, completion)| completion.qos != Qos::ExactlyOnce);
        for (_, completion) in &mut refused {
            completion.reason = refusal.failure.reason();
        }
        answer(&refused);
        self.refuse_subscriptions(refusal.failure.reason());
        for settled in self.on_account.drain(..) {
            self.bus.release(&settled);
        }
        self.recorded
            .retain(|endpoint| refusal.is_first(endpoint.id().0));
        self.completions = kept;
        !(self.completions.is_empty() && self.recorded.is_empty() && self.waiting.is_empty())
    }
}

impl Turn {
    /// Whoever subscribed or unsubscribed is told that it is not safe. A subscription that is new ends again, so that the
    /// client is right to think it has none. One that was replaced stays as it is now, and one that was ended is not made
    /// anew: its client did not want it.
    fn refuse_subscriptions(&mut self, reason: ReasonCode) {
        for asked in std::mem::take(&mut self.asked) {
            let Asked {
                endpoint,
                made,
                serials,
            } = asked;
            made.iter().for_each(|made| endpoint.refused(made));
            endpoint.answer_refused(self.number, reason, &serials);
            endpoint.wake();
            let mut taken_back = self.taken_back.lock();
            taken_back.extend(made.into_iter().map(|made| (endpoint.clone(), made)));
        }
    }
}

/// What a subscription costs beside its filter while it waits for the disk.
const SUBSCRIPTION: usize = 128;

impl Run {
    /// What every receiver acknowledged before the batch began is not written (D2): only at effective QoS 1.
    fn rows(
        self,
        rows: &mut Rows,
        now: Timestamp,
        records: &mut HashMap<SessionId, Arc<dyn Endpoint>>,
    ) {
        let mut next: SmallVec<[u64; 8]> = self.receivers.iter().map(|kept| kept.first).collect();
        let (mut body, mut receivers) = (Vec::new(), Vec::new());
        for message in &self.messages {
            receivers.clear();
            for (kept, next) in self.receivers.iter().zip(&mut next) {
                let mut delivery = Delivery::live(message.clone(), &kept.grant);
                if delivery.qos == Qos::AtMostOnce {
                    continue;
                }
                delivery.serial = *next;
                *next += 1;
                if delivery.qos == Qos::ExactlyOnce || !kept.endpoint.is_done(delivery.serial) {
                    let id = kept.endpoint.id();
                    receivers.push(stored::receiver(id.0, &delivery));
                    records.entry(id).or_insert_with(|| kept.endpoint.clone());
                }
            }
            if receivers.is_empty() {
                continue;
            }
            body.clear();
            stored::body(message, &mut body);
            rows.queued(&body, message.expires_at(now), &receivers);
        }
    }
}

/// Tells publishers what became of their messages, in the order in which they were dispatched.
fn answer(completions: &[(Origin, Completion)]) {
    let mut told: Vec<&Arc<dyn Endpoint>> = Vec::new();
    for chunk in completions.chunk_by(|a, b| same(&a.0, &b.0)) {
        let origin = &chunk[0].0;
        let completions: SmallVec<[Completion; 32]> =
            chunk.iter().map(|(_, completion)| *completion).collect();
        origin.endpoint.complete(origin.epoch, &completions);
        told.push(&origin.endpoint);
    }
    told.iter().for_each(|endpoint| endpoint.wake());
}

fn same(one: &Origin, other: &Origin) -> bool {
    one.epoch == other.epoch && one.endpoint.id() == other.endpoint.id()
}
