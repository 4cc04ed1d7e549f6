//! The log: takes notes at once, and writes them together.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::kind::Class;
use super::{Kind, shown, shown_name};
use crate::metrics::Metrics;
use crate::store::{Again, AuditBatch, AuditEntry, AuditFile, AuditQuery, NewEntry, StoreError};

/// What of the configuration concerns the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is noted.
    pub enabled: bool,
    /// Entries on disk.
    pub max_entries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            enabled: true,
            max_entries: 50_000,
        }
    }
}

/// Something that happened. Texts may be of any length and are cut; none may be a password or the like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Note<'a> {
    /// `realm:name` of who has proven it, the claimed name of who has not, the operator of a change. Empty: nobody known.
    pub principal: &'a str,
    pub address: Option<IpAddr>,
    /// The client identifier.
    pub client: &'a str,
    /// The topic, the filter, or the like.
    pub subject: &'a str,
    pub reason: &'a str,
}

/// The audit log of one gateway.
#[derive(Debug)]
pub struct AuditLog {
    /// `None`: nothing is noted.
    file: Option<AuditFile>,
    closed: AtomicBool,
    state: Mutex<State>,
    max_entries: AtomicUsize,
    changed: Notify,
    /// One writes at a time.
    writing: Semaphore,
    metrics: Arc<Metrics>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug, Default)]
struct State {
    next: i64,
    /// Entries of the last minute, by what must be the same for one that repeats: it only counts.
    recent: HashMap<u64, Recent>,
    /// Entries that are not on disk, but for those that are being written.
    new: Vec<NewEntry>,
    /// How many those are.
    writing: usize,
    /// What is counted of entries that are forgotten here, by id, and not on disk.
    again: BTreeMap<i64, Again>,
}

/// An entry that may happen again.
#[derive(Debug)]
struct Recent {
    at: i64,
    so_far: Again,
    /// It has happened again since it was last written.
    dirty: bool,
}

/// Seconds in which the same thing again is the same entry.
const MINUTE: i64 = 60;
/// Entries in memory that are not on disk: 10 MB if every text has its full length, 2 MB as a rule. Also how many may repeat.
const IN_MEMORY: usize = 8_192;
/// How often what is there is written.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one who waits for an entry to be on disk does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of each text.
const TEXT_MAX: usize = 240;

impl AuditLog {
    /// A log that keeps nothing.
    pub fn none() -> Arc<AuditLog> {
        Arc::new(AuditLog::over(None, 1, 0, Arc::default()))
    }

    /// Opens the log of a data directory whose lock the caller holds. Nothing is written before [`Self::run`] or
    /// [`Self::flush`].
    pub async fn open(
        directory: &Path,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<AuditLog>, StoreError> {
        if !settings.enabled {
            return Ok(Self::none());
        }
        let (file, aside) = AuditFile::open(directory).await?;
        if let Some(aside) = aside {
            tracing::error!(path = %aside.display(), "the audit log was damaged; it is kept under this name, and a new one begins");
        }
        let next = file.last_id().await?.saturating_add(1);
        let log = AuditLog::over(Some(file), next, settings.max_entries, metrics);
        Ok(Arc::new(log))
    }

    fn over(
        file: Option<AuditFile>,
        next: i64,
        max_entries: usize,
        metrics: Arc<Metrics>,
    ) -> AuditLog {
        AuditLog {
            file,
            closed: AtomicBool::new(false),
            state: Mutex::new(State {
                next,
                ..State::default()
            }),
            max_entries: AtomicUsize::new(max_entries),
            changed: Notify::new(),
            writing: Semaphore::new(1),
            metrics,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Another limit for what is on disk.
    pub fn configure(&self, max_entries: usize) {
        self.max_entries.store(max_entries, Relaxed);
        self.changed.notify_one();
    }

    /// Whether anything is kept: whoever would have to make a text for a note asks first.
    pub fn is_on(&self) -> bool {
        self.file.is_some() && !self.closed.load(Relaxed)
    }

    /// Notes something that happened now.
    pub fn note(&self, kind: Kind, note: Note<'_>) {
        self.note_many(kind, note, 1);
    }

    /// Notes something that happened so many times since the last time.
    pub fn note_many(&self, kind: Kind, note: Note<'_>, times: u64) {
        if self.is_on() && times > 0 {
            self.note_at(kind, note, times, now());
        }
    }

    fn note_at(&self, kind: Kind, note: Note<'_>, times: u64, now: i64) {
        let same = (kind, note.principal, note.address, note.reason);
        // A login or a change is one of its own client or thing; a stranger cannot multiply refusals by either.
        let own = match kind.class() {
            // Nothing that a stranger does.
            Class::Refusals if kind == Kind::Withdrawn => (note.client, ""),
            Class::Refusals => ("", ""),
            Class::Logins => (note.client, ""),
            Class::Changes => (note.client, note.subject),
        };
        let key = self.hasher.hash_one((same, own));
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        let mut state = self.state.lock();
        match state.recent.get_mut(&key) {
            // A clock that went back begins a new entry.
            Some(recent) if recent.is_of_minute(now) => {
                recent.so_far.count = recent.so_far.count.saturating_add(times);
                recent.so_far.last = now;
                recent.dirty = true;
            }
            before => {
                let before = before.and_then(Recent::take);
                state.again.extend(before.map(|again| (again.id, again)));
                if state.new.len() + state.writing >= IN_MEMORY {
                    self.metrics.audit_dropped.add(1);
                    return;
                }
                state.begin(key, entry(kind, note, times, now), kind.class());
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Writes what is noted, until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut failed = false;
        loop {
            self.changed.notified().await;
            match self.flush().await {
                Ok(()) => failed = false,
                Err(error) => {
                    self.metrics.store_errors.add(1);
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!(%error, "the audit log cannot be written; trying again");
                    }
                    self.changed.notify_one();
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Brings everything noted so far to disk.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.flush_at(now()).await
    }

    async fn flush_at(&self, now: i64) -> Result<(), StoreError> {
        let Some(file) = self.file.as_ref().filter(|_| self.is_on()) else {
            return Ok(());
        };
        // Never closed.
        let _turn = self.writing.acquire().await;
        let batch = self.state.lock().take(now);
        let keep = Class::shares(self.max_entries.load(Relaxed));
        match file.write(&batch, &keep).await {
            Ok(None) => Ok(()),
            Ok(Some(counts)) => {
                self.state.lock().writing = 0;
                self.metrics.audit_commits.add(1);
                self.metrics.audit_entries.set(counts.iter().sum());
                Ok(())
            }
            Err(error) => {
                self.state.lock().put_back(batch);
                Err(error)
            }
        }
    }

    /// As [`Self::flush`], within a few seconds: a change that is done is not undone because it could not be noted.
    pub async fn flush_soon(self: &Arc<Self>) {
        let this = self.clone();
        // Carried through even if it is not waited for.
        let writing = tokio::spawn(async move { this.flush().await });
        match tokio::time::timeout(PATIENCE, writing).await {
            Ok(Ok(Err(error))) => tracing::error!(%error, "the audit log cannot be written"),
            Ok(_) => {}
            Err(_) => tracing::error!("the audit log takes long to be written"),
        }
    }

    /// What is asked for, by descending id. Entries that were noted just now are among them.
    pub async fn find(&self, wanted: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        self.flush().await?;
        file.find(wanted).await
    }

    /// Writes what is left and closes the file.
    pub async fn close(self: &Arc<Self>) {
        self.flush_soon().await;
        self.closed.store(true, Relaxed);
        if let Some(file) = &self.file {
            file.close().await;
        }
    }
}

impl State {
    fn begin(&mut self, key: u64, mut entry: AuditEntry, class: Class) {
        entry.id = self.next;
        self.next += 1;
        let so_far = Again {
            id: entry.id,
            count: entry.count,
            last: entry.last,
        };
        // In a storm what comes counts more than whether it came before.
        if self.recent.len() >= IN_MEMORY {
            let forgotten = self.recent.drain().filter_map(|(_, mut old)| old.take());
            self.again.extend(forgotten.map(|again| (again.id, again)));
        }
        let recent = Recent {
            at: entry.at,
            so_far,
            dirty: false,
        };
        self.recent.insert(key, recent);
        self.new.push(NewEntry {
            class: class as u8,
            entry,
        });
    }

    /// What is to be written: nothing is copied here, nor is anybody kept waiting. Entries of over a minute ago are
    /// forgotten.
    fn take(&mut self, now: i64) -> AuditBatch {
        for recent in self.recent.values_mut() {
            let again = recent.take();
            self.again.extend(again.map(|again| (again.id, again)));
        }
        self.recent.retain(|_, recent| recent.is_of_minute(now));
        self.writing = self.new.len();
        AuditBatch {
            new: std::mem::take(&mut self.new),
            again: std::mem::take(&mut self.again).into_values().collect(),
        }
    }

    /// It could not be written. What was counted since counts more.
    fn put_back(&mut self, batch: AuditBatch) {
        for again in batch.again {
            self.again.entry(again.id).or_insert(again);
        }
        self.new.splice(0..0, batch.new);
        self.writing = 0;
    }
}

impl Recent {
    fn is_of_minute(&self, now: i64) -> bool {
        (0..MINUTE).contains(&(now - self.at))
    }

    /// What is to be written of it, if anything.
    fn take(&mut self) -> Option<Again> {
        std::mem::take(&mut self.dirty).then_some(self.so_far)
    }
}

/// The entry, without an id.
fn entry(kind: Kind, note: Note<'_>, times: i64, now: i64) -> AuditEntry {
    let refused = kind.class() == Class::Refusals;
    // A name that is not proven may be anything; a realm in front of one that is hides no token.
    let principal = match refused {
        true => shown_name(note.principal),
        false => shown(note.principal, TEXT_MAX),
    };
    AuditEntry {
        id: 0,
        kind: kind.as_str().to_owned(),
        at: now,
        last: now,
        count: times,
        principal: principal.into_owned(),
        address: note
            .address
            .map_or(String::new(), |address| address.to_canonical().to_string()),
        client: shown_name(note.client).into_owned(),
        subject: shown(note.subject, TEXT_MAX).into_owned(),
        reason: shown(note.reason, TEXT_MAX).into_owned(),
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
