//! A session: what the gateway keeps for one client identifier, connected or not (MQTT 5 §4.1).
//!
//! The dispatcher hands messages over under the short lock of the mailbox; everything that only the connection
//! needs is carried from one connection to the next ([`Carry`]) and costs no lock while one is up.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Waker,
};

use arc_swap::ArcSwap;
use bytestring::ByteString;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    departures::Departures,
    disk::Urgency,
    entitlement::Change,
    incoming::Received,
    mailbox::{Mail, Mailbox, Notice, Open},
    outgoing::Window,
    queue::{Entry, QueueLimits},
    rechecks::Rechecks,
    record::Identity,
    will::Will,
    witness::Witness,
};
use crate::{
    acl::{Permissions, Policy, PolicyHandle, Subject},
    auth::Principal,
    metrics::Metrics,
    mqtt::{Qos, ReasonCode, SubscriptionFilter},
    routing::{
        control::Subscription,
        endpoint::{Delivery, Endpoint, SessionId},
    },
    store::writer::{Failure, Store},
};

pub struct Session {
    pub(super) id: SessionId,
    pub(super) client_id: ByteString,
    /// Its principal owns it (S5); roles are those of the last login (P3).
    pub(super) principal: ArcSwap<Principal>,
    pub(super) permissions: ArcSwap<Permissions>,
    /// Changes of policy or roles that were applied.
    pub(super) changes: AtomicU32,
    /// The ingress link of the bus that all its connections use (B1).
    pub(super) link: u8,
    /// The number of its current network connection, from 1.
    pub(super) epoch: AtomicU32,
    pub(super) online: AtomicBool,
    /// Where its client is or was, if that is known.
    pub(super) address: Mutex<Option<IpAddr>>,
    pub(super) persistent: AtomicBool,
    /// Its subscriptions and what waits for it are kept on disk: it was persistent once, and until it ends.
    pub(super) stored: AtomicBool,
    /// The disk knows it.
    pub(super) known: AtomicBool,
    /// It has ended: nothing is written of it any more.
    pub(super) over: AtomicBool,
    pub(super) revoked: AtomicBool,
    /// The token or certificate of its last login was revoked: until the next login nothing more is delivered to it, and the
    /// will of that login is not sent (P3).
    pub(super) discredited: AtomicBool,
    /// What waits for it on disk was not checked since its client lost a right.
    pub(super) unchecked: AtomicBool,
    /// Bytes of its envelopes that have not passed the dispatcher.
    pub(super) outstanding: AtomicUsize,
    /// Bytes of messages in flight to its client, as the budget knows them.
    pub(super) window_bytes: AtomicUsize,
    pub(super) mailbox: Mutex<Mailbox>,
    /// By the filter's text, as the client sent it.
    pub(super) subscriptions: Mutex<HashMap<ByteString, Subscription>>,
    /// Subscriptions that it has asked for so far.
    asked: AtomicU64,
    pub(super) rest: Mutex<Rest>,
    /// Rings when its connection has left.
    pub(super) left: Notify,
    pub(super) store: Arc<Store>,
    pub(super) departures: Arc<Departures>,
    pub(super) rechecks: Arc<Rechecks>,
    pub(super) witness: Witness,
    pub(super) metrics: Arc<Metrics>,
}

/// What all sessions have in common.
#[derive(Clone)]
pub(super) struct House {
    pub store: Arc<Store>,
    pub departures: Arc<Departures>,
    pub rechecks: Arc<Rechecks>,
    pub witness: Witness,
    pub metrics: Arc<Metrics>,
}

/// What a policy change took from a session.
#[derive(Default)]
pub(super) struct Lost {
    pub subscriptions: Vec<Subscription>,
    /// Messages of shared groups, for other members.
    pub shared: Vec<Delivery>,
}

/// What a connection takes over from the one before it.
#[derive(Default)]
pub struct Carry {
    pub window: Window,
    pub received: Received,
}

/// What a connection is to be given, up to some bytes.
pub struct Wanted<'a> {
    /// Messages at QoS 1 and 2 that may be sent now.
    pub window: usize,
    pub bytes: usize,
    /// Serials of messages that are finished since the last time; left empty.
    pub finished: &'a mut Vec<u64>,
}

/// The session between connections.
#[derive(Default)]
pub(super) struct Rest {
    /// A connection is up or on its way: the session may not be claimed.
    pub attached: bool,
    /// The session is over: whoever holds it must look again.
    pub ended: bool,
    pub received: Received,
    /// A will whose delay runs.
    pub will: Option<Will>,
    pub identity: Identity,
    /// Its client was connected when the gateway ended, and its will waits for it to come back (D10).
    pub was_lost: bool,
}

impl Rest {
    /// Its client is back: the delay of its will ends (MQTT-3.1.2-8), and one that waited for it is not sent (D10).
    pub fn interrupt(&mut self) -> Option<Will> {
        let lost = std::mem::take(&mut self.was_lost);
        self.will.take().filter(|_| !lost)
    }
}

impl Rest {
    /// Drops the will, if there is one; then the disk has something else.
    pub fn forget_will(&mut self) -> bool {
        let had = self.will.take().is_some() | self.identity.will.take().is_some();
        self.identity.changed |= had;
        had
    }
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        client_id: ByteString,
        principal: Principal,
        link: u8,
        policy: &Policy,
        house: House,
    ) -> Session {
        let House {
            store,
            departures,
            rechecks,
            witness,
            metrics,
        } = house;
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
            address: Mutex::default(),
            persistent: AtomicBool::new(false),
            stored: AtomicBool::new(false),
            known: AtomicBool::new(false),
            over: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            discredited: AtomicBool::new(false),
            unchecked: AtomicBool::new(false),
            outstanding: AtomicUsize::new(0),
            window_bytes: AtomicUsize::new(0),
            mailbox: Mutex::default(),
            subscriptions: Mutex::default(),
            asked: AtomicU64::new(0),
            rest: Mutex::default(),
            left: Notify::new(),
            store,
            departures,
            rechecks,
            witness,
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
        self.changes.load(Acquire)
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

    /// Bytes that wait for its client in memory.
    pub fn queued_bytes(&self) -> usize {
        self.open().queue.bytes_in_memory()
    }

    /// Why the disk has refused for so long that QoS 1 and 2 are refused, if it has (D7).
    pub fn store_failure(&self) -> Option<Failure> {
        self.store.failure()
    }

    /// Whether as much waits for the disk as may; if so `waker` is woken when that changes (B2).
    pub fn is_store_full(&self, waker: &Waker) -> bool {
        self.store.is_full(Some(waker))
    }

    /// Ends its connection, if there is one or one is on its way. The first notice counts, but for one that also
    /// takes the will (P3). Whether this was the first.
    pub fn notify(&self, notice: Notice) -> bool {
        let rest = self.rest.lock();
        if !rest.attached || rest.ended {
            return false;
        }
        let (waker, first) = self.leave_notice(&rest, notice);
        drop(rest);
        waker.inspect(Waker::wake_by_ref);
        first
    }

    /// [`Self::notify`] for whoever holds the rest of a session that is attached. Gives whom to wake then.
    pub(super) fn leave_notice(&self, _held: &Rest, notice: Notice) -> (Option<Waker>, bool) {
        let mut mailbox = self.open();
        let first = mailbox.notice.is_none();
        if first || notice.takes_will() {
            mailbox.notice = Some(notice);
        }
        (mailbox.waker.clone(), first)
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

    /// Takes entries for which the window has room, and registers `waker` if nothing more may leave.
    pub fn collect(self: &Arc<Self>, mail: &mut Mail, wanted: Wanted<'_>, waker: &Waker) {
        let mut taken = 0;
        let mut window = wanted.window;
        let mut opened = self.open();
        let Mailbox {
            queue,
            ledger,
            completions,
            notice,
            waker: known,
            ..
        } = &mut *opened;
        let stored = self.is_stored();
        let finished = !wanted.finished.is_empty() && stored;
        for serial in wanted.finished.drain(..).filter(|_| stored) {
            ledger.finish(serial);
        }
        mail.completions.append(completions);
        mail.notice = notice.take();
        let mut unsaved = false;
        // What is left goes to nobody whose credential was revoked.
        let is_over = mail.notice.as_ref().is_some_and(Notice::takes_will);
        while taken < wanted.bytes && !is_over {
            let Some(entry) = queue.pop(window > 0) else {
                break;
            };
            if let Entry::Message(delivery) = &entry {
                taken += delivery.message.cost();
                if delivery.qos != Qos::AtMostOnce {
                    window -= 1;
                    // Where its packet identifier must outlive a crash, the disk must know first that it may be in use.
                    let behind = stored && ledger.send(delivery.serial);
                    unsaved |= behind;
                    if behind && delivery.qos == Qos::ExactlyOnce {
                        mail.behind = Some(ledger.changed());
                    }
                }
            }
            mail.entries.push(entry);
        }
        mail.more = taken >= wanted.bytes && queue.is_ready(window > 0);
        mail.durable = ledger.durable();
        let page = (stored && window > 0).then(|| queue.wants_page()).flatten();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
        if mail.behind.is_some() {
            self.save(&mut opened, Urgency::Now);
        } else if finished || unsaved {
            self.save(&mut opened, Urgency::Later);
        }
        drop(opened);
        if let Some(serials) = page {
            self.ask_for_page(serials);
        }
    }

    /// A connection begins: gives its number, and whether the login before it was discredited.
    pub(super) fn connect(
        &self,
        principal: Principal,
        policy: &PolicyHandle,
        limits: QueueLimits,
        (expiry, will): (u32, Option<Will>),
    ) -> (u32, bool) {
        let was_discredited = {
            // In one step: a judgement about the login before it is none about this one.
            let _rest = self.rest.lock();
            self.principal.store(Arc::new(principal));
            self.discredited.swap(false, Relaxed)
        };
        // Once more if policy or roles changed meanwhile: the change may have passed this session before the login's
        // permissions were stored.
        loop {
            let principal = self.principal.load_full();
            let fresh = permissions(&policy.load(), &principal, &self.client_id);
            let generation = fresh.generation();
            self.permissions.store(Arc::new(fresh));
            if generation == policy.generation() && self.belongs_to(&principal) {
                break;
            }
        }
        self.persistent.store(expiry > 0, Relaxed);
        self.stored.fetch_or(expiry > 0, Relaxed);
        self.known.fetch_or(expiry > 0 || will.is_some(), Relaxed);
        {
            let mut rest = self.rest.lock();
            rest.was_lost = false;
            rest.will = None;
            rest.identity = Identity {
                expiry,
                connected: true,
                since: self.store.now(),
                will,
                will_due: None,
                from_backup: false,
                departing: rest.identity.departing,
                changed: true,
            };
        }
        let mut mailbox = self.open();
        mailbox.limits = limits;
        self.online.store(true, Relaxed);
        (self.epoch.fetch_add(1, Relaxed) + 1, was_discredited)
    }

    /// The connection is gone; gives what shared groups must decide anew. Of the rest the disk has, or will have, a copy.
    pub(super) fn disconnect(
        self: &Arc<Self>,
        carry: &mut Carry,
        finished: &[u64],
        persistent: bool,
    ) -> Vec<Delivery> {
        self.persistent.store(persistent, Relaxed);
        let mut mailbox = self.open();
        self.online.store(false, Relaxed);
        mailbox.waker = None;
        mailbox.notice = None;
        let Mailbox { queue, ledger, .. } = &mut *mailbox;
        let mut shared = carry.window.take_shared();
        shared.extend(queue.take_out(|delivery| delivery.share().is_none()));
        queue.disconnect();
        if self.is_stored() {
            finished.iter().for_each(|serial| ledger.finish(*serial));
            ledger.depart(&shared);
            if let Some(first) = queue.backlog_from() {
                ledger.unsend(first);
            }
        }
        shared
    }

    pub(super) fn set_limits(&self, limits: QueueLimits) {
        self.open().limits = limits;
    }

    /// The session is about to end: nobody is connected, and it takes nothing more.
    pub(super) fn retire(&self) {
        let _mailbox = self.open();
        self.online.store(false, Relaxed);
        self.persistent.store(false, Relaxed);
    }

    /// The session is over: gives its subscriptions and what shared groups must decide anew.
    pub(super) fn end(&self) -> (Vec<SubscriptionFilter>, Vec<Delivery>) {
        let mut mailbox = self.open();
        // What the dispatcher still has for it until the end passes there is not taken in any more.
        self.online.store(false, Relaxed);
        self.persistent.store(false, Relaxed);
        self.over.store(true, Relaxed);
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

    /// Remembers a subscription and numbers it, if it is allowed (P2: one rule must allow all of it) and the session has
    /// fewer than `most`; replacing one always has room.
    pub fn subscribe(
        &self,
        text: &ByteString,
        subscription: &mut Subscription,
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
        subscription.number = self.asked.fetch_add(1, Relaxed) + 1;
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
    pub(super) fn apply(self: &Arc<Self>, policy: &Policy, change: Option<&Change>) -> Lost {
        let mut changed = self.permissions.load().generation() != policy.generation();
        if let Some(change) = change {
            self.take_up(change);
            changed = true;
            // P3: while it is offline it queues by these, after a start too.
            self.rest.lock().identity.changed = true;
            self.change(Urgency::Later, |mailbox| {
                mailbox.ledger.touch();
            });
        }
        let permissions = self.entitle(policy);
        self.changes.fetch_add(changed.into(), Release);
        let mut lost = Lost::default();
        self.subscriptions.lock().retain(|_, subscription| {
            let keep = permissions
                .subscribe(subscription.matching().as_str())
                .allowed;
            if !keep {
                lost.subscriptions.push(subscription.clone());
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
            if self.is_stored() {
                let assured = dropped.iter().filter(|delivery| delivery.serial > 0);
                assured.for_each(|delivery| mailbox.ledger.finish(delivery.serial));
                self.save(&mut mailbox, Urgency::Later);
            }
            mailbox.ledger.depart(&shared);
            lost.shared = shared;
        }
        if !self.is_online() && mailbox.lost.is_none() {
            // It is told when it comes back: no client goes silently deaf.
            let first = lost.subscriptions.first();
            mailbox.lost = first.map(|lost| lost.filter.as_str().into());
        }
        lost
    }

    /// Gives it the permissions of its principal.
    fn entitle(self: &Arc<Self>, policy: &Policy) -> Arc<Permissions> {
        loop {
            let principal = self.principal.load_full();
            let fresh = Arc::new(permissions(policy, &principal, &self.client_id));
            let before = self.permissions.swap(fresh.clone());
            if fresh.takes_from(&before) {
                self.is_to_be_rechecked();
            }
            // Of two changes at the same time the later one counts, whichever comes here last (P4).
            if self.belongs_to(&principal) {
                return fresh;
            }
        }
    }

    fn belongs_to(&self, principal: &Arc<Principal>) -> bool {
        Arc::ptr_eq(principal, &self.principal.load())
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

    /// The principal was revoked: its wills are not sent any more (P3), and its session ends with its connection.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Relaxed);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Relaxed)
    }

    pub(super) fn open(&self) -> Open<'_> {
        Open {
            mailbox: self.mailbox.lock(),
            metrics: &self.metrics,
        }
    }
}

pub(super) fn permissions(policy: &Policy, principal: &Principal, client_id: &str) -> Permissions {
    policy.permissions(&subject(principal, client_id))
}

/// Who asks, as the policy sees it.
pub fn subject<'a>(principal: &'a Principal, client_id: &'a str) -> Subject<'a> {
    Subject {
        realm: &principal.realm,
        name: &principal.name,
        client_id,
        device: principal.device.as_deref(),
        roles: &principal.roles,
        scopes: &principal.scopes,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.set_window_bytes(0);
        let mut mailbox = self.open();
        mailbox.queue.clear();
    }
}
