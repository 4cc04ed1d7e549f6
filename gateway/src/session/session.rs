//! A session: what the gateway keeps for one client identifier, connected or not (MQTT 5 §4.1).
//!
//! The dispatcher hands messages over under the short lock of the mailbox; everything that only the connection
//! needs is carried from one connection to the next ([`Carry`]) and costs no lock while one is up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use arc_swap::ArcSwap;
use bytestring::ByteString;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    incoming::Received,
    mailbox::{Mail, Mailbox, Notice, Open},
    outgoing::Window,
    queue::{Entry, QueueLimits},
    will::Will,
};
use crate::{
    acl::{Permissions, Policy, PolicyHandle, Subject},
    auth::Principal,
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode, SubscriptionFilter},
    routing::{
        control::Subscription,
        endpoint::{Completion, Delivery, Endpoint, Grant, SessionId, ShareKey},
        message::Message,
    },
};

pub struct Session {
    id: SessionId,
    client_id: ByteString,
    /// Its principal owns it (S5); roles are those of the last login (P3).
    principal: ArcSwap<Principal>,
    permissions: ArcSwap<Permissions>,
    /// Changes of policy or roles that were applied.
    changes: AtomicU32,
    /// The ingress link of the bus that all its connections use (B1).
    link: u8,
    /// The number of its current network connection, from 1.
    epoch: AtomicU32,
    online: AtomicBool,
    persistent: AtomicBool,
    revoked: AtomicBool,
    /// Bytes of its envelopes that have not passed the dispatcher.
    outstanding: AtomicUsize,
    /// Bytes of messages in flight to its client, as the budget knows them.
    window_bytes: AtomicUsize,
    mailbox: Mutex<Mailbox>,
    /// By the filter's text, as the client sent it.
    subscriptions: Mutex<HashMap<ByteString, Subscription>>,
    rest: Mutex<Rest>,
    /// Rings when its connection has left.
    pub(super) left: Notify,
    metrics: Arc<Metrics>,
}

/// What a policy change took from a session.
#[derive(Default)]
pub(super) struct Lost {
    pub filters: Vec<SubscriptionFilter>,
    /// Messages of shared groups, for other members.
    pub shared: Vec<Delivery>,
}

/// What a connection takes over from the one before it.
#[derive(Default)]
pub struct Carry {
    pub window: Window,
    pub received: Received,
}

/// The session between connections.
#[derive(Default)]
pub(super) struct Rest {
    /// A connection is up or on its way: the session may not be claimed.
    pub attached: bool,
    /// The session is over: whoever holds it must look again.
    pub ended: bool,
    pub carry: Option<Carry>,
    /// A will whose delay runs.
    pub will: Option<Will>,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        client_id: ByteString,
        principal: Principal,
        link: u8,
        policy: &Policy,
        metrics: Arc<Metrics>,
    ) -> Session {
        let permissions = permissions(policy, &principal, &client_id);
        Session {
            id,
            client_id,
            principal: ArcSwap::from_pointee(principal),
            permissions: ArcSwap::from_pointee(permissions),
            changes: AtomicU32::new(0),
            link,
            epoch: AtomicU32::new(0),
            online: AtomicBool::new(false),
            persistent: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            outstanding: AtomicUsize::new(0),
            window_bytes: AtomicUsize::new(0),
            mailbox: Mutex::default(),
            subscriptions: Mutex::default(),
            rest: Mutex::default(),
            left: Notify::new(),
            metrics,
        }
    }

    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    pub fn principal(&self) -> Arc<Principal> {
        self.principal.load_full()
    }

    /// How often its permissions have changed: a connection compares it with what it began with.
    pub fn permission_changes(&self) -> u32 {
        self.changes.load(Relaxed)
    }

    /// Whether it may publish to this topic, by the permissions of this moment.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.permissions.load().publish(topic).allowed
    }

    pub fn link(&self) -> u8 {
        self.link
    }

    pub fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// Bytes of its envelopes on the bus.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Relaxed)
    }

    pub fn sent_envelope(&self, bytes: usize) {
        self.outstanding.fetch_add(bytes, Relaxed);
    }

    /// Bytes that wait for its client.
    pub fn queued_bytes(&self) -> usize {
        self.open().queue.bytes()
    }

    /// Ends its connection, if there is one or one is on its way. The first notice counts.
    pub fn notify(&self, notice: Notice) {
        let rest = self.rest.lock();
        if !rest.attached || rest.ended {
            return;
        }
        let waker = {
            let mut mailbox = self.open();
            mailbox.notice.get_or_insert(notice);
            mailbox.waker.clone()
        };
        drop(rest);
        waker.inspect(Waker::wake_by_ref);
    }

    /// Tells the connection that another one wants the session, and waits until it has left.
    pub(super) async fn take_over(&self) {
        let mut left = std::pin::pin!(self.left.notified());
        left.as_mut().enable();
        // It may have left in between.
        let held = {
            let rest = self.rest.lock();
            rest.attached && !rest.ended
        };
        if held {
            self.notify(Notice::TakenOver);
            left.await;
        }
    }

    /// The claim of a session begins: notices for the connection before it are nothing to the next.
    pub(super) fn clear_notice(&self) {
        self.open().notice = None;
    }

    /// What its connection is to be told, if it is to end.
    pub fn take_notice(&self) -> Option<Notice> {
        self.open().notice.take()
    }

    /// Takes entries for which the window has room, up to some bytes, and registers `waker` if nothing more may leave.
    /// `window`: messages at QoS 1 and 2 that may be sent now.
    pub fn collect(&self, mail: &mut Mail, mut window: usize, bytes: usize, waker: &Waker) {
        let mut taken = 0;
        let mut mailbox = self.open();
        mail.completions.append(&mut mailbox.completions);
        mail.notice = mailbox.notice.take();
        while taken < bytes {
            let Some(entry) = mailbox.queue.pop(window > 0) else {
                break;
            };
            if let Entry::Message(delivery) = &entry {
                taken += delivery.message.cost();
                window -= usize::from(delivery.qos != Qos::AtMostOnce);
            }
            mail.entries.push(entry);
        }
        mail.more = taken >= bytes && mailbox.queue.is_ready(window > 0);
        if !mailbox
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            mailbox.waker = Some(waker.clone());
        }
    }

    /// A connection begins: gives its number.
    pub(super) fn connect(
        &self,
        principal: Principal,
        policy: &PolicyHandle,
        limits: QueueLimits,
        persistent: bool,
    ) -> u32 {
        self.principal.store(Arc::new(principal));
        // Once more if the policy changed meanwhile: the change may have passed this session before the login's
        // permissions were stored.
        loop {
            let fresh = permissions(&policy.load(), &self.principal.load(), &self.client_id);
            let generation = fresh.generation();
            self.permissions.store(Arc::new(fresh));
            if generation == policy.generation() {
                break;
            }
        }
        self.persistent.store(persistent, Relaxed);
        let mut mailbox = self.open();
        mailbox.limits = limits;
        self.online.store(true, Relaxed);
        self.epoch.fetch_add(1, Relaxed) + 1
    }

    /// The connection is gone; gives what shared groups must decide anew.
    pub(super) fn disconnect(&self, carry: &mut Carry, persistent: bool) -> Vec<Delivery> {
        self.persistent.store(persistent, Relaxed);
        let mut mailbox = self.open();
        self.online.store(false, Relaxed);
        mailbox.waker = None;
        mailbox.notice = None;
        let Mailbox { queue, limits, .. } = &mut *mailbox;
        queue.disconnect(*limits, &self.metrics);
        let mut shared = carry.window.take_shared();
        shared.extend(queue.take_out(|delivery| delivery.share().is_none()));
        shared
    }

    /// The session is over: gives its subscriptions and what shared groups must decide anew.
    pub(super) fn end(&self) -> (Vec<SubscriptionFilter>, Vec<Delivery>) {
        let mut mailbox = self.open();
        // What the dispatcher still has for it until the end passes there is not taken in any more.
        self.online.store(false, Relaxed);
        self.persistent.store(false, Relaxed);
        let shared = mailbox
            .queue
            .take_out(|delivery| delivery.share().is_none());
        mailbox.queue.clear();
        self.set_window_bytes(0);
        drop(mailbox);
        let subscriptions = std::mem::take(&mut *self.subscriptions.lock());
        (
            subscriptions
                .into_values()
                .map(|subscription| subscription.filter)
                .collect(),
            shared,
        )
    }

    pub(super) fn rest(&self) -> parking_lot::MutexGuard<'_, Rest> {
        self.rest.lock()
    }

    /// Remembers a subscription if it is allowed (P2: one rule must allow all of it) and the session has fewer than
    /// `most`; replacing one always has room.
    pub fn subscribe(
        &self,
        text: &ByteString,
        subscription: &Subscription,
        most: usize,
    ) -> Result<(), ReasonCode> {
        let mut subscriptions = self.subscriptions.lock();
        // Under the lock: a policy change stores its permissions first and then looks at what is here.
        let permissions = self.permissions.load();
        if !permissions
            .subscribe(subscription.matching().as_str())
            .allowed
        {
            return Err(ReasonCode::NotAuthorized);
        }
        if subscriptions.len() >= most && !subscriptions.contains_key(text) {
            return Err(ReasonCode::QuotaExceeded);
        }
        subscriptions.insert(text.clone(), subscription.clone());
        Ok(())
    }

    /// Forgets a subscription; gives it if there was one.
    pub fn unsubscribe(&self, text: &str) -> Option<Subscription> {
        self.subscriptions.lock().remove(text)
    }

    pub fn subscription_count(&self) -> usize {
        self.subscriptions.lock().len()
    }

    /// Applies a policy to the session, connected or not (P4). What waits for the client and is no longer allowed goes;
    /// what waits for a shared group goes to another member.
    pub(super) fn apply(&self, policy: &Policy, principal: Option<Principal>) -> Lost {
        let mut changed = self.permissions.load().generation() != policy.generation();
        if let Some(principal) = principal {
            self.principal.store(Arc::new(principal));
            changed = true;
        }
        let permissions = Arc::new(permissions(policy, &self.principal.load(), &self.client_id));
        self.permissions.store(permissions.clone());
        self.changes.fetch_add(changed.into(), Relaxed);
        let mut lost = Lost::default();
        self.subscriptions.lock().retain(|_, subscription| {
            let keep = permissions
                .subscribe(subscription.matching().as_str())
                .allowed;
            if !keep {
                lost.filters.push(subscription.filter.clone());
            }
            keep
        });
        let mut mailbox = self.open();
        if !mailbox.queue.is_empty() {
            let may = |delivery: &Delivery| permissions.subscribe(delivery.message.topic()).allowed;
            let gone = mailbox.queue.take_out(may);
            let (shared, dropped): (Vec<_>, Vec<_>) = gone
                .into_iter()
                .partition(|delivery| delivery.share().is_some());
            self.metrics.messages_dropped.add(dropped.len() as u64);
            lost.shared = shared;
        }
        if !self.is_online() && mailbox.lost.is_none() {
            // It is told when it comes back: no client goes silently deaf.
            mailbox.lost = lost.filters.first().map(|filter| filter.as_str().into());
        }
        lost
    }

    /// A subscription that was lost while nobody was connected, told once.
    pub(super) fn take_lost(&self) -> Option<ByteString> {
        self.open().lost.take()
    }

    /// Bytes of messages in flight to its client.
    pub fn window_bytes(&self) -> usize {
        self.window_bytes.load(Relaxed)
    }

    /// Bytes of messages in flight to the client, for the budget (N4).
    pub fn set_window_bytes(&self, now: usize) {
        let was = self.window_bytes.swap(now, Relaxed);
        self.metrics.bytes_buffered.shift(was, now);
    }

    /// Drops what waits, where memory is needed more (N4).
    pub(super) fn drop_queue(&self) {
        let mut mailbox = self.open();
        let dropped = mailbox.queue.take_out(|_| false).len();
        self.metrics.messages_dropped.add(dropped as u64);
    }

    /// The principal was revoked: its wills are not sent any more (P3), and its session ends with its connection.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Relaxed);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Relaxed)
    }

    fn open(&self) -> Open<'_> {
        Open {
            mailbox: self.mailbox.lock(),
            metrics: &self.metrics,
        }
    }
}

pub(super) fn permissions(policy: &Policy, principal: &Principal, client_id: &str) -> Permissions {
    policy.permissions(&Subject {
        realm: &principal.realm,
        name: &principal.name,
        client_id,
        device: principal.device.as_deref(),
        roles: &principal.roles,
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        self.set_window_bytes(0);
        let mut mailbox = self.open();
        mailbox.queue.clear();
    }
}

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
        let permissions = self.permissions.load();
        !permissions.has_receive_denies() || permissions.receive(topic).allowed
    }

    fn deliver(&self, messages: &[Message], grant: &Grant) -> bool {
        let mut mailbox = self.open();
        let online = self.is_online();
        if !online && !self.is_persistent() {
            return false;
        }
        let Mailbox { queue, limits, .. } = &mut *mailbox;
        for message in messages {
            let delivery = Delivery::live(message.clone(), grant);
            // QoS 0 does not wait for a client that is away.
            if online || delivery.qos != Qos::AtMostOnce {
                queue.push(delivery, *limits, &self.metrics);
            }
        }
        true
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        self.permissions.load().subscribe(filter).allowed
    }

    fn refused(&self, filter: &SubscriptionFilter) {
        self.subscriptions.lock().remove(filter.as_str());
    }

    fn retained_room(&self) -> usize {
        let mailbox = self.open();
        mailbox.limits.bytes.saturating_sub(mailbox.queue.bytes())
    }

    fn give_back(&self, share: &ShareKey) -> Vec<Delivery> {
        self.open()
            .queue
            .take_out(|delivery| delivery.share() != Some(share))
    }

    fn redeliver(&self, delivery: Delivery) -> Result<(), Delivery> {
        let mut mailbox = self.open();
        let waits = self.is_persistent() && delivery.qos != Qos::AtMostOnce;
        if !self.is_online() && !waits {
            return Err(delivery);
        }
        let limits = mailbox.limits;
        mailbox.queue.push(delivery, limits, &self.metrics);
        Ok(())
    }

    fn subscribed(
        &self,
        epoch: u32,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
    ) {
        let mut mailbox = self.open();
        if epoch == self.epoch() && self.is_online() {
            mailbox.queue.suback(packet_id, reasons, retained);
        }
    }

    fn unsubscribed(&self, epoch: u32, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        let mut mailbox = self.open();
        if epoch == self.epoch() && self.is_online() {
            mailbox.queue.unsuback(packet_id, reasons);
        }
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

    fn wake(&self) {
        let waker = self.open().waker.clone();
        waker.inspect(Waker::wake_by_ref);
    }
}
