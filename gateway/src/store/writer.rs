//! The one writer of the message store: natural group commit.
//!
//! Whoever must not answer before something is on disk hands over a [`Change`]. A transaction takes everything that came
//! while the last one was being synced; no timer delays it and none makes it smaller. What failed is kept, the file is
//! opened anew, and the same rows are written again until the disk takes them (D7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    StoreError,
    messages::{Durability, Messages, Page, Rows, SessionKey, Timestamp, Upkeep},
};
use crate::{metrics::Metrics, mqtt::ReasonCode};

/// Something that must be on disk before something else may happen.
pub trait Change: Send {
    /// Its batch begins: adds the rows that are still needed. Called once.
    fn rows(&mut self, rows: &mut Rows, now: Timestamp);

    /// What it added is as safe as the configured durability says.
    fn done(self: Box<Self>);

    /// The disk has refused for longer than `store.retry`: whoever waits and can be refused is (D7). Its rows stay, and
    /// are written when the disk takes them. Called once; `false`: nothing is left to do in [`Change::done`], and nothing
    /// of it is kept until then.
    fn refused(&mut self, refusal: &mut Refusal) -> bool;
}

/// Why the disk does not take what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It, or a quota on it, is full.
    Full = 1,
    /// Anything else.
    Broken = 2,
}

impl Failure {
    /// What those who can be told are told (D7).
    pub fn reason(self) -> ReasonCode {
        match self {
            Failure::Full => ReasonCode::QuotaExceeded,
            Failure::Broken => ReasonCode::ImplementationSpecificError,
        }
    }
}

/// A transaction that the disk refuses, for the changes in it.
pub struct Refusal {
    pub failure: Failure,
    /// Sessions that one of the changes will tell that their state is on disk.
    sessions: HashSet<SessionKey>,
}

impl Refusal {
    fn new(failure: Failure) -> Refusal {
        Refusal {
            failure,
            sessions: HashSet::new(),
        }
    }

    /// Whether the session's state came with no other change of this transaction: one of them is enough to tell it, and
    /// however often the state changes meanwhile, there is one.
    pub fn is_first(&mut self, session: SessionKey) -> bool {
        self.sessions.insert(session)
    }
}

/// What the writer asks of the sessions while it looks after the file.
pub trait Sessions: Send + Sync {
    /// Whether a message may be in the hands of the session's client: it does not expire (D9).
    fn is_in_flight(&self, session: SessionKey, serial: u64) -> bool;

    /// Expired messages of a session were removed from the disk.
    fn swept(&self, session: SessionKey, messages: u64, bytes: u64);

    /// The file was damaged and set aside while the gateway runs, and not everything was salvaged: what memory knows of
    /// sessions is to be written again (D11).
    fn write_anew(&self);
}

/// The way to the writer, for everyone.
pub struct Store {
    intake: Mutex<Intake>,
    wake: Notify,
    /// Bytes of messages that were handed over and are not on disk (B2).
    held: AtomicUsize,
    /// Changes that are announced and not done.
    open: AtomicUsize,
    /// Publishers that wait for `held` to fall below `credit`.
    waiting: Mutex<Vec<Waker>>,
    settings: Settings,
    /// A [`Failure`], or 0.
    failing: AtomicU8,
    /// Bytes of retained messages in a transaction that the disk refuses.
    refused: AtomicUsize,
    /// The clock never shows less (D11).
    floor: AtomicI64,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub durability: Durability,
    /// How long the disk may refuse before publishers are refused (D7).
    pub retry: Duration,
    /// Bytes of messages that may wait for the disk (B2).
    pub credit: usize,
}

#[derive(Default)]
struct Intake {
    changes: Vec<Box<dyn Change>>,
    reads: Vec<Read>,
    /// Somebody waits for what is here; otherwise it rides with the next transaction (D5).
    urgent: bool,
    /// Since when the oldest change that nobody waits for is here.
    since: Option<Instant>,
    closing: bool,
    /// The writer has taken a batch and is not done with it.
    working: bool,
}

struct Read {
    session: SessionKey,
    from: u64,
    to: u64,
    bytes: usize,
    then: Then,
}

/// What a page is read for.
enum Then {
    Call(Box<dyn FnOnce(Page) + Send>),
    /// Not read any more once nobody waits.
    Tell(oneshot::Sender<Page>),
}

/// Counts a change, and bytes of messages, until they are on disk.
pub struct Ticket {
    store: Arc<Store>,
    bytes: usize,
}

impl Store {
    /// The handle; [`Writer::run`] does the work.
    pub fn new(
        messages: Messages,
        settings: Settings,
        last_commit: Timestamp,
        metrics: Arc<Metrics>,
    ) -> (Arc<Store>, Writer) {
        let store = Arc::new(Store {
            intake: Mutex::default(),
            wake: Notify::new(),
            held: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            waiting: Mutex::default(),
            settings,
            failing: AtomicU8::new(0),
            refused: AtomicUsize::new(0),
            floor: AtomicI64::new(last_commit),
            metrics,
        });
        let writer = Writer {
            messages,
            store: store.clone(),
            unsynced: false,
            wrote: false,
        };
        (store, writer)
    }

    /// Hands over a change that somebody waits for.
    pub fn push(&self, change: Box<dyn Change>) {
        let mut intake = self.intake.lock();
        intake.changes.push(change);
        intake.urgent = true;
        drop(intake);
        self.wake.notify_one();
    }

    /// Hands over a change that costs nothing but a duplicate if it is lost: it rides with the next transaction (D5).
    pub fn push_later(&self, change: Box<dyn Change>) {
        let mut intake = self.intake.lock();
        intake.changes.push(change);
        intake.since.get_or_insert_with(Instant::now);
    }

    /// What was handed over for later is waited for now.
    pub fn hurry(&self) {
        self.intake.lock().urgent = true;
        self.wake.notify_one();
    }

    /// Reads messages of a session with serials `from..=to`, about `bytes`, behind everything that was handed over before.
    pub fn page(
        &self,
        session: SessionKey,
        serials: (u64, u64),
        bytes: usize,
        then: impl FnOnce(Page) + Send + 'static,
    ) {
        self.read_then(session, serials, bytes, Then::Call(Box::new(then)));
    }

    /// As [`Self::page`], for who waits, and may give up: then it is not read.
    pub fn read(
        &self,
        session: SessionKey,
        serials: (u64, u64),
        bytes: usize,
    ) -> oneshot::Receiver<Page> {
        let (tell, told) = oneshot::channel();
        self.read_then(session, serials, bytes, Then::Tell(tell));
        told
    }

    fn read_then(&self, session: SessionKey, (from, to): (u64, u64), bytes: usize, then: Then) {
        let mut intake = self.intake.lock();
        if self.is_failing() {
            // Nothing is read now: those who gave up and ask again must not pile up.
            let waits = |read: &Read| !matches!(&read.then, Then::Tell(tell) if tell.is_closed());
            intake.reads.retain(waits);
        }
        intake.reads.push(Read {
            session,
            from,
            to,
            bytes,
            then,
        });
        drop(intake);
        self.wake.notify_one();
    }

    /// Announces a change, before it is handed over.
    pub fn ticket(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Relaxed);
        Ticket {
            store: self.clone(),
            bytes: 0,
        }
    }

    /// Whether as much waits for the disk as may (B2). If so, `waker` is woken when that changes. While the disk refuses
    /// nobody waits for it: what needs it is refused, and the rest is served (D7).
    pub fn is_full(&self, waker: Option<&Waker>) -> bool {
        let full = || self.held.load(Relaxed) >= self.settings.credit && !self.is_failing();
        if !full() {
            return false;
        }
        let Some(waker) = waker else { return true };
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        // That may have changed in between.
        full()
    }

    /// Whether the disk has refused for longer than `store.retry`: QoS 1 and 2 are refused before dispatch (D7).
    pub fn is_failing(&self) -> bool {
        self.failure().is_some()
    }

    /// Whether the disk refuses and as much waits for it as may: what nobody has to be told of is not taken either (D7).
    pub fn is_overloaded(&self) -> bool {
        let waits = self.held.load(Relaxed) + self.refused.load(Relaxed);
        waits >= self.settings.credit && self.is_failing()
    }

    /// Why, if so.
    pub fn failure(&self) -> Option<Failure> {
        match self.failing.load(Relaxed) {
            0 => None,
            full if full == Failure::Full as u8 => Some(Failure::Full),
            _ => Some(Failure::Broken),
        }
    }

    /// Gives what it was before.
    fn set_failure(&self, failure: Option<Failure>) -> Option<Failure> {
        let before = self.failure();
        let value = failure.map_or(0, |failure| failure as u8);
        self.failing.store(value, Relaxed);
        self.metrics.store_failing.set(u64::from(value > 0));
        // In this order: whoever registers from now on finds the failure.
        if before.is_none() && failure.is_some() {
            self.waiting.lock().drain(..).for_each(Waker::wake);
        }
        before
    }

    /// Whether everything that was announced is on disk and nothing is to be read.
    pub fn is_idle(&self) -> bool {
        let intake = self.intake.lock();
        let nothing_to_do = intake.reads.is_empty() && !intake.urgent && !intake.working;
        nothing_to_do && self.open.load(Relaxed) == 0
    }

    /// Seconds since 1970, never before the last commit (D11).
    pub fn now(&self) -> Timestamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs() as Timestamp);
        now.max(self.floor.load(Relaxed))
    }

    /// Writes what is left and ends the writer.
    pub fn close(&self) {
        self.intake.lock().closing = true;
        self.wake.notify_one();
    }
}

impl Ticket {
    /// Counts bytes of messages too.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        let held = self.store.held.fetch_add(bytes, Relaxed) + bytes;
        self.store.metrics.store_bytes_pending.set(held as u64);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Store {
            held,
            open,
            settings,
            waiting,
            metrics,
            ..
        } = &*self.store;
        let left = held.fetch_sub(self.bytes, Relaxed) - self.bytes;
        open.fetch_sub(1, Relaxed);
        if self.bytes > 0 {
            metrics.store_bytes_pending.set(left as u64);
            if left < settings.credit {
                waiting.lock().drain(..).for_each(Waker::wake);
            }
        }
    }
}

/// The end of the store that writes. One task.
pub struct Writer {
    messages: Messages,
    store: Arc<Store>,
    /// The last transaction was not synced: what is in it is not safe before the next one is (D5).
    unsynced: bool,
    /// The last turn wrote something.
    wrote: bool,
}

/// How long what nobody waits for may stay in memory while nothing else is written.
const LATER: Duration = Duration::from_secs(1);
/// How often the file is looked after.
const UPKEEP: Duration = Duration::from_secs(1);
/// Pauses between attempts to write what failed.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Writer {
    /// Reads and writes until [`Store::close`].
    pub async fn run(mut self, sessions: Arc<dyn Sessions>) {
        let mut looked = Instant::now();
        let mut more = false;
        loop {
            let pause = if more { Duration::ZERO } else { UPKEEP };
            let _ = tokio::time::timeout(pause, self.store.wake.notified()).await;
            let closing = self.turn(&*sessions).await;
            if closing {
                break;
            }
            let due = looked.elapsed() >= UPKEEP;
            if due {
                looked = Instant::now();
            }
            if more || due {
                // Giving space back can wait longer than what is to be written.
                more = self.look_after(&*sessions, due || !self.wrote).await;
            }
        }
        self.messages.close().await;
    }

    /// One batch; true if it was the last.
    async fn turn(&mut self, sessions: &dyn Sessions) -> bool {
        let (mut changes, reads, urgent, closing) = {
            let mut intake = self.store.intake.lock();
            let late = intake.since.is_some_and(|since| since.elapsed() >= LATER);
            let closing = intake.closing;
            let urgent = intake.urgent || closing;
            let changes = match urgent || late {
                true => {
                    intake.since = None;
                    std::mem::take(&mut intake.changes)
                }
                false => Vec::new(),
            };
            intake.urgent = false;
            intake.working = true;
            (changes, std::mem::take(&mut intake.reads), urgent, closing)
        };
        let mut rows = Rows::default();
        let now = self.store.now();
        for change in &mut changes {
            change.rows(&mut rows, now);
        }
        // Who is in a hurry by now may find its state in here.
        let urgent = urgent || self.store.intake.lock().urgent;
        let early = self.store.settings.durability == Durability::Nothing;
        if early {
            changes.drain(..).for_each(Change::done);
        }
        self.wrote = !rows.is_empty() || (urgent && self.unsynced);
        if self.wrote && !self.write(rows, &mut changes, urgent, sessions).await {
            // Nobody is told anything more: not that it is on disk, and who still waits finds the gateway gone.
            changes.append(&mut std::mem::take(&mut self.store.intake.lock().changes));
            return true;
        }
        changes.into_iter().for_each(Change::done);
        for read in reads {
            self.read(read, sessions).await;
        }
        self.store.intake.lock().working = false;
        closing
    }

    /// Writes until the disk has it; false if the gateway stops before. What comes in meanwhile joins, once the disk has
    /// refused for too long.
    async fn write(
        &mut self,
        mut rows: Rows,
        changes: &mut Vec<Box<dyn Change>>,
        sync: bool,
        sessions: &dyn Sessions,
    ) -> bool {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut full = false;
        let mut refusal = None;
        loop {
            let now = self.store.now();
            let written = match sync {
                true if rows.is_empty() => self.messages.sync().await,
                true => self.messages.write(&rows, now).await,
                false => self.messages.write_unsynced(&rows, now).await,
            };
            let Err(error) = written else { break };
            self.store.metrics.store_errors.add(1);
            if pause == FIRST_PAUSE || pause == LONGEST_PAUSE {
                tracing::error!(%error, "the message store cannot write; what is acknowledged is safe, the rest waits");
            }
            // A full disk shows itself in other errors too, once the file is opened anew.
            full |= error.is_full();
            let refused = self.store.is_failing() || began.elapsed() >= self.store.settings.retry;
            if refused {
                let failure = if full { Failure::Full } else { Failure::Broken };
                self.store.refused.store(rows.retained_bytes(), Relaxed);
                refusal = Some(self.refuse(failure, refusal, changes));
            }
            self.pause(pause, &mut rows, changes, &mut refusal).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.reopen(sessions).await;
            if refused && self.store.intake.lock().closing {
                tracing::error!(
                    "stopping while the message store cannot write: what was not acknowledged is lost"
                );
                return false;
            }
        }
        self.store.refused.store(0, Relaxed);
        self.store.metrics.store_commits.add(1);
        self.unsynced = !sync;
        if self.store.set_failure(None).is_some() {
            tracing::warn!("the message store writes again");
            // The pauses took what rang meanwhile.
            self.store.wake.notify_one();
        }
        true
    }

    /// Refuses the changes of this transaction, the first time.
    fn refuse(
        &self,
        failure: Failure,
        known: Option<Refusal>,
        changes: &mut Vec<Box<dyn Change>>,
    ) -> Refusal {
        if self.store.set_failure(Some(failure)).is_none() {
            tracing::error!(
                "the message store has not written for {:?}: QoS 1 and 2 are refused until it does",
                self.store.settings.retry
            );
        }
        match known {
            Some(known) => Refusal { failure, ..known },
            None => {
                let mut refusal = Refusal::new(failure);
                changes.retain_mut(|change| change.refused(&mut refusal));
                refusal
            }
        }
    }

    /// Waits before the next attempt. Whoever comes while the disk refuses is refused at once, so that nothing piles up.
    async fn pause(
        &self,
        pause: Duration,
        rows: &mut Rows,
        changes: &mut Vec<Box<dyn Change>>,
        refusal: &mut Option<Refusal>,
    ) {
        let Some(refusal) = refusal else {
            return tokio::time::sleep(pause).await;
        };
        let end = tokio::time::Instant::now() + pause;
        loop {
            let newcomers = {
                let mut intake = self.store.intake.lock();
                intake.urgent = false;
                intake.since = None;
                std::mem::take(&mut intake.changes)
            };
            let now = self.store.now();
            for mut change in newcomers {
                change.rows(rows, now);
                // Before its own share of the credit is given back.
                self.store.refused.store(rows.retained_bytes(), Relaxed);
                if change.refused(refusal) {
                    changes.push(change);
                }
            }
            let rings = tokio::time::timeout_at(end, self.store.wake.notified()).await;
            if rings.is_err() || self.store.intake.lock().closing {
                return;
            }
        }
    }

    async fn reopen(&mut self, sessions: &dyn Sessions) {
        if let Err(error) = self.messages.reopen().await {
            tracing::debug!(%error, "the message store cannot be opened again yet");
        }
        if self.messages.set_aside().is_some() {
            sessions.write_anew();
        }
    }

    async fn read(&mut self, read: Read, sessions: &dyn Sessions) {
        if matches!(&read.then, Then::Tell(tell) if tell.is_closed()) {
            return;
        }
        let page = self
            .messages
            .page(read.session, read.from, read.to, read.bytes)
            .await;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                self.store.metrics.store_errors.add(1);
                tracing::error!(%error, "messages that wait for a session cannot be read; trying again");
                let store = self.store.clone();
                self.reopen(sessions).await;
                tokio::spawn(async move {
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    store.intake.lock().reads.push(read);
                    store.wake.notify_one();
                });
                return;
            }
        };
        self.store.metrics.messages_damaged.add(page.lost);
        match read.then {
            Then::Call(then) => then(page),
            // Whoever waited may have given up.
            Then::Tell(tell) => drop(tell.send(page)),
        }
    }

    /// Expired messages, leftovers, free pages; true if there is more to do at once. Free pages only if there is `time`
    /// and nobody waits.
    async fn look_after(&mut self, sessions: &dyn Sessions, time: bool) -> bool {
        let spare = |session, serial| sessions.is_in_flight(session, serial);
        let work = async {
            let swept = self.messages.sweep(self.store.now(), &spare).await?;
            for (session, messages, bytes) in &swept.removed {
                sessions.swept(*session, *messages, *bytes);
            }
            let shrinks = time && !self.store.intake.lock().urgent;
            Ok::<_, StoreError>((shrinks && self.messages.shrink().await?) || swept.more)
        };
        match work.await {
            Ok(more) => more,
            Err(error) => {
                self.store.metrics.store_errors.add(1);
                tracing::error!(%error, "the message store cannot be tidied");
                self.reopen(sessions).await;
                false
            }
        }
    }
}

/// Moves what was committed into the database file, beside the writer, until the process ends (D12).
pub async fn keep_up(mut upkeep: Upkeep, metrics: Arc<Metrics>) {
    let mut failed = false;
    loop {
        tokio::time::sleep(UPKEEP).await;
        match upkeep.run().await {
            Ok(log) => {
                metrics.store_log_pages.set(log.frames);
                failed = false;
            }
            Err(error) => {
                metrics.store_errors.add(1);
                if !std::mem::replace(&mut failed, true) {
                    tracing::error!(%error, "the message store's log cannot be moved into its file; trying again");
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
