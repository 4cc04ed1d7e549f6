//! A session and the disk: what is written of it, when, and what is read back.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Waker,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use smallvec::SmallVec;

use super::{
    incoming::Received,
    ledger::Ledger,
    mailbox::Mailbox,
    outgoing::Window,
    record::{Identity, Record},
    session::Session,
    will::Will,
};
use crate::{
    mqtt::PacketId,
    routing::{
        endpoint::{Delivery, Endpoint},
        stored,
    },
    store::messages::{Page, Rows, Timestamp, Totals},
};

/// Whether somebody waits for a change to be on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    Now,
    /// Its loss costs a duplicate at most: it rides with the next transaction (D5).
    Later,
}

impl Session {
    /// Takes up what was on disk.
    pub(super) fn restore(
        &self,
        identity: Identity,
        ledger: Ledger,
        received: Received,
        queued: Totals,
        subscribed: bool,
    ) {
        self.known.store(true, Relaxed);
        self.persistent.store(identity.expiry > 0, Relaxed);
        // One that was resumed only to end with its connection has what it had until then.
        let stored = identity.expiry > 0 || queued.messages > 0 || subscribed;
        self.stored.store(stored, Relaxed);
        {
            let mut mailbox = self.open();
            // The oldest that is not finished; what is may lie in one segment with others.
            let first = queued.first.max(ledger.first_unfinished());
            mailbox.queue.restore(first, &queued);
            mailbox.queue.hand_over(ledger.next() - 1);
            mailbox.ledger = ledger;
        }
        let mut rest = self.rest.lock();
        rest.will = identity.will.clone();
        rest.identity = identity;
        rest.received = received;
    }

    /// Its client is gone, and its session stays: what the disk has to know of that.
    pub(super) fn leave(self: &Arc<Self>, will: Option<Will>, delay: Duration, expiry: u32) {
        {
            let mut rest = self.rest.lock();
            rest.will = will.clone().filter(|_| !delay.is_zero());
            let now = self.store.now();
            let due = now.saturating_add(delay.as_secs() as Timestamp);
            rest.identity = Identity {
                expiry,
                connected: false,
                since: now,
                will_due: will.is_some().then_some(due),
                will,
                from_backup: false,
                departing: rest.identity.departing,
                changed: true,
            };
        }
        self.change(Urgency::Now, |mailbox| {
            mailbox.ledger.touch();
        });
    }

    /// Brings everything to disk; true when it is there, false if the disk does not take it (D7).
    pub(super) async fn saved(self: &Arc<Self>) -> bool {
        if !self.is_known() {
            return true;
        }
        let (record, told) = Record::awaited(self.clone());
        self.store.push(Box::new(record));
        told.await.unwrap_or(false)
    }

    /// Brings to disk what has changed, with a transaction of its own if need be.
    pub(super) fn save_soon(self: &Arc<Self>) {
        self.change(Urgency::Now, |mailbox| {
            mailbox.ledger.touch();
        });
    }

    /// Brings to disk, without hurry, what has changed.
    pub(super) fn save_later(self: &Arc<Self>) {
        self.change(Urgency::Later, |_| ());
    }

    /// PUBREC came for a message. Gives the change that must be on disk before PUBREL leaves.
    pub fn release(self: &Arc<Self>, serial: u64, id: PacketId) -> u64 {
        self.change(Urgency::Now, |mailbox| mailbox.ledger.release(serial, id))
    }

    /// PUBCOMP came for a message.
    pub fn complete_release(self: &Arc<Self>, serial: u64) {
        self.change(Urgency::Later, |mailbox| mailbox.ledger.complete(serial));
    }

    /// PUBREL came for a message of its client. Gives the change that must be on disk before PUBCOMP leaves.
    pub fn free(self: &Arc<Self>, id: PacketId) -> u64 {
        self.change(Urgency::Now, |mailbox| {
            mailbox.freed.push(id);
            mailbox.ledger.touch();
        })
    }

    /// A message is sent under another packet identifier than its own. Gives the change that must be on disk first.
    pub fn send_as(self: &Arc<Self>, serial: u64, id: PacketId) -> u64 {
        self.change(Urgency::Now, |mailbox| mailbox.ledger.send_as(serial, id))
    }

    /// Waits until the disk knows nothing of a session that has ended, or cannot be told (D7).
    pub(super) async fn is_forgotten(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if !self.is_known() || self.store.is_failing() {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), left).await;
        }
    }

    /// What its client had in flight when it left, from disk.
    pub(super) async fn window(self: &Arc<Self>) -> Result<Window, Unread> {
        let (range, released) = {
            let mailbox = self.open();
            let ledger = &mailbox.ledger;
            let first = ledger.first_in_flight();
            let range = first.map(|first| (first, ledger.sent()));
            (
                range.filter(|_| self.is_stored()),
                ledger.released().to_vec(),
            )
        };
        let mut deliveries = Vec::new();
        if let Some((from, to)) = range {
            self.handed_over(to).await;
            deliveries = self.read_all(from, to).await?;
        }
        let mut mailbox = self.open();
        let Mailbox { queue, ledger, .. } = &mut *mailbox;
        deliveries.retain(|delivery| !ledger.is_gone(delivery.serial));
        queue.resume(ledger.sent(), &deliveries);
        let with_ids = deliveries
            .into_iter()
            .map(|delivery| {
                let id = ledger.identifier(delivery.serial);
                (delivery, id)
            })
            .collect();
        Ok(Window::restore(with_ids, &released))
    }

    /// Adds everything that memory knows of it to the transaction that begins now.
    pub(super) fn write_anew(&self, rows: &mut Rows, now: Timestamp) {
        self.rest.lock().identity.changed = true;
        self.open().ledger.touch();
        if self.is_stored() {
            for (text, subscription) in self.subscriptions.lock().iter() {
                let options = stored::options(&subscription.options);
                rows.subscription(self.id.0, text.clone(), Some(options));
            }
        }
        self.record(rows, now);
    }

    /// Whether a message may be in the hands of its client.
    pub(super) fn is_in_flight(&self, serial: u64) -> bool {
        self.open().ledger.is_in_flight(serial)
    }

    /// Expired messages were removed from the disk.
    pub(super) fn swept(&self, messages: u64, bytes: u64) {
        self.open().queue.swept(messages, bytes);
    }

    /// A subscription was lost while nobody was connected: its client is told when it comes back.
    pub(super) fn lose(&self, filter: ByteString) {
        self.open().lost.get_or_insert(filter);
    }

    /// A transaction has taken its state to disk.
    pub(super) fn recorded(&self) {
        let waker = {
            let mut mailbox = self.open();
            let before = mailbox.ledger.durable();
            mailbox.ledger.stored();
            (before != mailbox.ledger.durable()).then(|| mailbox.waker.clone())
        };
        waker.flatten().inspect(Waker::wake_by_ref);
    }

    pub(super) fn change(
        self: &Arc<Self>,
        urgency: Urgency,
        change: impl FnOnce(&mut Mailbox),
    ) -> u64 {
        let mut opened = self.open();
        if !self.is_stored() {
            return 0;
        }
        change(&mut opened);
        self.save(&mut opened, urgency);
        opened.ledger.changed()
    }

    /// Sees to it that the state of this moment comes to disk.
    pub(super) fn save(self: &Arc<Self>, mailbox: &mut Mailbox, urgency: Urgency) {
        if mailbox.ledger.is_taken() {
            // It is on its way, or there.
            return;
        }
        let known = std::mem::replace(&mut mailbox.recording, true);
        match (known, urgency) {
            (false, Urgency::Now) => self.store.push(Box::new(Record::new(self.clone()))),
            (false, Urgency::Later) => self.store.push_later(Box::new(Record::new(self.clone()))),
            (true, Urgency::Now) => self.store.hurry(),
            (true, Urgency::Later) => {}
        }
    }

    pub(super) fn ask_for_page(self: &Arc<Self>, serials: (u64, u64)) {
        let (session, epoch) = (self.clone(), self.epoch());
        self.store.page(self.id.0, serials, PAGE, move |page| {
            session.thaw(epoch, page)
        });
    }

    /// A page of the backlog has come.
    fn thaw(&self, epoch: u32, page: Page) {
        let mut next = page.next;
        let mut deliveries = self.deliveries(page);
        let permissions = self.permissions.load();
        let strays: SmallVec<[u64; 4]> = deliveries
            .iter()
            .filter(|delivery| self.is_stray(delivery))
            .map(|delivery| delivery.serial)
            .collect();
        let mut opened = self.open();
        if epoch != self.epoch() || !self.is_online() {
            return;
        }
        let Mailbox { queue, ledger, .. } = &mut *opened;
        // What is for other members of a shared group leaves first; the rest of the page is read again (S4).
        let stray = strays.into_iter().find(|serial| !ledger.is_gone(*serial));
        if let Some(stray) = stray {
            deliveries.retain(|delivery| delivery.serial < stray);
            next = Some(stray);
        }
        deliveries.retain(|delivery| {
            // Permissions may have changed while it waited (P2, P3).
            let allowed = permissions.subscribe(delivery.message.topic()).allowed;
            if !allowed && !ledger.is_gone(delivery.serial) {
                ledger.finish(delivery.serial);
                self.metrics.messages_dropped.add(1);
            }
            !ledger.is_gone(delivery.serial)
        });
        let nothing = deliveries.is_empty();
        queue.thaw(deliveries, next);
        let waker = opened.waker.clone();
        drop(opened);
        if stray.is_some() {
            self.lose_strays();
        }
        // Whoever sees strays off wakes it too: until then there is nothing to read.
        if stray.is_none() || !nothing {
            waker.inspect(Waker::wake_by_ref);
        }
    }

    /// Waits until the writer knows of every message up to this serial: the dispatcher's turn that has them ends at once.
    pub(super) async fn handed_over(&self, serial: u64) {
        while self.open().queue.handed_over() < serial {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn read_all(self: &Arc<Self>, from: u64, to: u64) -> Result<Vec<Delivery>, Unread> {
        let mut all = Vec::new();
        let mut at = Some(from);
        while let Some(from) = at {
            let (deliveries, next) = self.read(from, to).await?;
            all.extend(deliveries);
            at = next;
        }
        Ok(all)
    }

    /// A page, and where the next one begins.
    pub(super) async fn read(
        self: &Arc<Self>,
        from: u64,
        to: u64,
    ) -> Result<(Vec<Delivery>, Option<u64>), Unread> {
        let mut told = self.store.read(self.id.0, (from, to), PAGE);
        let began = Instant::now();
        loop {
            match tokio::time::timeout(LOOK, &mut told).await {
                Ok(Ok(page)) => {
                    let next = page.next;
                    return Ok((self.deliveries(page), next));
                }
                // The writer is gone, and so is the gateway.
                Ok(Err(_)) => return Err(Unread),
                Err(_) if self.store.is_failing() || began.elapsed() > PATIENCE => {
                    return Err(Unread);
                }
                Err(_) => {}
            }
        }
    }

    fn deliveries(&self, page: Page) -> Vec<Delivery> {
        let now = self.store.now();
        let count = page.entries.len();
        let read = page.entries.into_iter().filter_map(|queued| {
            stored::delivery(
                queued.serial,
                &queued.head,
                &queued.body,
                queued.expires,
                now,
            )
        });
        let deliveries: Vec<_> = read.collect();
        self.metrics
            .messages_damaged
            .add((count - deliveries.len()) as u64);
        deliveries
    }
}

/// The disk does not give what waits there, now. It may later: this says nothing about whether there is anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unread;

/// How long a page is waited for; the disk may be slow and work.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile whether the disk works at all.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of messages that are read from disk at once.
const PAGE: usize = 32 * 1024;
