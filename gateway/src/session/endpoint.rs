//! A session as routing sees it (rule L1): what the dispatcher hands over, and what it asks.

use std::{sync::atomic::Ordering::Relaxed, task::Waker};

use super::{
    mailbox::Mailbox,
    queue::{Entry, Terms},
    session::Session,
};
use crate::{
    mqtt::{PacketId, Qos, ReasonCode},
    routing::{
        control::Subscription,
        endpoint::{Completion, Delivery, Endpoint, Grant, Handed, SessionId, ShareKey},
        message::Message,
    },
    store::messages::{Rows, Timestamp},
};

impl Endpoint for Session {
    fn id(&self) -> SessionId {
        self.id
    }

    fn is_online(&self) -> bool {
        self.online.load(Relaxed)
    }

    fn is_persistent(&self) -> bool {
        self.persistent.load(Relaxed)
    }

    fn may_receive(&self, topic: &str) -> bool {
        !self.discredited.load(Relaxed) && self.may_keep(topic)
    }

    fn may_keep(&self, topic: &str) -> bool {
        let permissions = self.permissions.load();
        !permissions.has_receive_denies() || permissions.receive(topic).allowed
    }

    fn is_stored(&self) -> bool {
        self.stored.load(Relaxed)
    }

    fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    fn deliver(&self, messages: &[Message], grant: &Grant, turn: u64) -> Handed {
        let mut mailbox = self.open();
        let online = self.is_online();
        if !online && !self.is_persistent() {
            return Handed::Gone;
        }
        let mut first = 0;
        for message in messages {
            let delivery = Delivery::live(message.clone(), grant);
            // QoS 0 does not wait for a client that is away.
            if online || delivery.qos != Qos::AtMostOnce {
                let serial = self.take_in(&mut mailbox, delivery, online, turn);
                first = if first == 0 { serial } else { first };
            }
        }
        match first {
            0 => Handed::Taken,
            _ if !self.is_stored() => Handed::Taken,
            first => Handed::Stored(first),
        }
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        self.permissions.load().subscribe(filter).allowed
    }

    fn refused(&self, subscription: &Subscription) {
        let filter = subscription.filter.as_str();
        let mut subscriptions = self.subscriptions.lock();
        // The client may have asked again meanwhile.
        let same = subscriptions.get(filter);
        if same.is_some_and(|known| known.number == subscription.number) {
            subscriptions.remove(filter);
        }
    }

    fn retained_room(&self) -> usize {
        let mailbox = self.open();
        mailbox.limits.bytes.saturating_sub(mailbox.queue.bytes())
    }

    fn give_back(&self, share: &ShareKey) -> Vec<Delivery> {
        let mut mailbox = self.open();
        let shared = mailbox
            .queue
            .take_out(|delivery| delivery.share() != Some(share));
        mailbox.ledger.depart(&shared);
        let more = self.is_stored() && mailbox.queue.backlog_from().is_some();
        drop(mailbox);
        if more {
            self.lose_strays();
        }
        shared
    }

    fn redeliver(&self, delivery: Delivery, turn: u64) -> Result<u64, Delivery> {
        let mut mailbox = self.open();
        let online = self.is_online();
        let waits = self.is_persistent() && delivery.qos != Qos::AtMostOnce;
        if !online && !waits {
            return Err(delivery);
        }
        let serial = self.take_in(&mut mailbox, delivery, online, turn);
        Ok(if self.is_stored() { serial } else { 0 })
    }

    fn number(&self, deliveries: &mut [Delivery]) {
        let mut mailbox = self.open();
        let assured = deliveries
            .iter_mut()
            .filter(|delivery| delivery.qos != Qos::AtMostOnce);
        assured.for_each(|delivery| delivery.serial = mailbox.ledger.number());
    }

    fn subscribed(
        &self,
        epoch: u32,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
        turn: u64,
    ) {
        let mut mailbox = self.open();
        let turn = if self.is_stored() { turn } else { 0 };
        if epoch == self.epoch() && self.is_online() {
            let answer = Entry::SubAck { packet_id, reasons };
            mailbox.queue.answer(answer, turn);
            mailbox.queue.retained(retained, turn);
        } else {
            // They are on disk under serials of this session: nobody is there to take them at once.
            mailbox.queue.retained_in_absence(&retained);
        }
    }

    fn unsubscribed(&self, epoch: u32, packet_id: PacketId, reasons: Vec<ReasonCode>, turn: u64) {
        let mut mailbox = self.open();
        let turn = if self.is_stored() { turn } else { 0 };
        if epoch == self.epoch() && self.is_online() {
            let answer = Entry::UnsubAck { packet_id, reasons };
            mailbox.queue.answer(answer, turn);
        }
    }

    fn answer_refused(&self, turn: u64, reason: ReasonCode, serials: &[u64]) {
        let mut mailbox = self.open();
        mailbox.queue.refuse(turn, reason);
        serials
            .iter()
            .for_each(|serial| mailbox.ledger.finish(*serial));
    }

    fn is_done(&self, serial: u64) -> bool {
        self.open().ledger.is_done(serial)
    }

    fn gave_away(&self, serial: u64) {
        self.open().ledger.arrive(serial);
    }

    fn take_back(&self, delivery: &Delivery) -> bool {
        let mut mailbox = self.open();
        if self.is_online() || !self.is_persistent() || !mailbox.ledger.stay(delivery.serial) {
            return false;
        }
        // What is in flight is in its place anyway.
        if delivery.serial > mailbox.ledger.sent() {
            mailbox.queue.put_back(delivery);
        }
        true
    }

    fn will_sent(&self, epoch: u32) {
        let mut rest = self.rest.lock();
        if epoch != self.epoch() {
            // Its client is back, with a will of its own.
            return;
        }
        rest.identity.will = None;
        rest.identity.will_due = None;
        rest.identity.changed = true;
    }

    fn record(&self, rows: &mut Rows, _: Timestamp) {
        if !self.is_known() || self.over.load(Relaxed) {
            return;
        }
        {
            let mut rest = self.rest.lock();
            if std::mem::take(&mut rest.identity.changed) {
                let discredited = self.discredited.load(Relaxed);
                let row = (rest.identity).row(&self.client_id, &self.principal.load(), discredited);
                rows.session(self.id.0, row);
            }
        }
        let mut mailbox = self.open();
        mailbox.recording = false;
        for id in std::mem::take(&mut mailbox.freed) {
            rows.received(self.id.0, id.get(), None);
        }
        mailbox.ledger.record(self.id.0, rows);
    }

    fn recorded(&self) {
        Session::recorded(self);
    }

    fn forgotten(&self) {
        self.known.store(false, Relaxed);
        self.left.notify_waiters();
    }

    fn stored(&self, turn: u64) {
        self.open().queue.stored(turn);
    }

    fn complete(&self, epoch: u32, completions: &[Completion]) {
        let mut mailbox = self.open();
        let current = epoch == self.epoch() && self.is_online();
        // A pending QoS 1 completion dies with its connection; a QoS 2 one tells the next connection that its
        // message is safe (D3).
        let wanted = completions
            .iter()
            .filter(|completion| current || completion.qos == Qos::ExactlyOnce);
        mailbox
            .completions
            .extend(wanted.map(|completion| (epoch, *completion)));
    }

    fn settled(&self, bytes: usize) {
        self.outstanding.fetch_sub(bytes, Relaxed);
    }

    fn handed_over(&self) {
        let waker = {
            let mut mailbox = self.open();
            // Nobody but the dispatcher, who asks, gives serials.
            let last = mailbox.ledger.next() - 1;
            mailbox.queue.hand_over(last);
            mailbox.waker.clone()
        };
        waker.inspect(Waker::wake_by_ref);
    }

    fn wake(&self) {
        let waker = self.open().waker.clone();
        waker.inspect(Waker::wake_by_ref);
    }
}

impl Session {
    /// Puts a message into the queue; gives its serial, 0 if it has none.
    fn take_in(&self, mailbox: &mut Mailbox, delivery: Delivery, online: bool, turn: u64) -> u64 {
        let terms = Terms {
            limits: mailbox.limits,
            stored: self.is_stored().then_some(turn),
            online,
        };
        let was_full = mailbox.queue.is_overflowing();
        let serial = mailbox
            .queue
            .push(delivery, terms, &mut mailbox.ledger, &self.metrics);
        if mailbox.queue.is_overflowing() && !was_full {
            let client = &self.client_id;
            tracing::warn!(
                ?client,
                "the queue of a session is full: its oldest messages are dropped (D8)"
            );
        }
        // Most leave at once: the transaction that stores them says so.
        if terms.stored.is_some() && serial > 0 && mailbox.queue.leaves_soon() {
            mailbox.ledger.send(serial);
        }
        serial
    }
}
