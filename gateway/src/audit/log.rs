//! The log: takes notes at once, and writes them together.

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
use crate::store::{AuditFile, AuditFilter, AuditRow, StoreError};

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
    /// Entries that will not change and are not on disk.
    finished: Vec<AuditRow>,
}

#[derive(Debug)]
struct Recent {
    row: AuditRow,
    /// It is not on disk as it is here.
    dirty: bool,
}

/// Seconds in which the same thing again is the same entry.
const MINUTE: i64 = 60;
/// Entries in memory, written or not: 10 MB if every text has its full length, 2 MB as a rule.
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
            Class::Refusals => ("", ""),
            Class::Logins => (note.client, ""),
            Class::Changes => (note.client, note.subject),
        };
        let key = self.hasher.hash_one((same, own));
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        let mut state = self.state.lock();
        let before = match state.recent.get_mut(&key) {
            // A clock that went back begins a new entry.
            Some(recent) if (0..MINUTE).contains(&(now - recent.row.at)) => {
                recent.row.count = recent.row.count.saturating_add(times);
                recent.row.last = now;
                recent.dirty = true;
                drop(state);
                self.changed.notify_one();
                return;
            }
            Some(_) => state.recent.remove(&key),
            None => None,
        };
        if let Some(before) = before.filter(|before| before.dirty) {
            state.finished.push(before.row);
        }
        if state.recent.len() + state.finished.len() >= IN_MEMORY {
            self.metrics.audit_dropped.add(1);
            return;
        }
        let id = state.next;
        state.next += 1;
        let row = row(id, kind, note, times, now);
        state.recent.insert(key, Recent { row, dirty: true });
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
        let rows = self.state.lock().take(now);
        let keep = Class::shares(self.max_entries.load(Relaxed));
        match file.write(&rows, &keep).await {
            Ok(None) => Ok(()),
            Ok(Some(counts)) => {
                self.metrics.audit_commits.add(1);
                self.metrics.audit_entries.set(counts.iter().sum());
                Ok(())
            }
            Err(error) => {
                self.state.lock().put_back(rows);
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

    /// Up to `limit` entries, the newest ones, by descending id. Those that were noted just now are among them.
    pub async fn find(
        &self,
        filter: &AuditFilter,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        self.flush().await?;
        file.find(filter, limit).await
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
    /// What is to be written. What is on disk and over a minute old is forgotten.
    fn take(&mut self, now: i64) -> Vec<AuditRow> {
        let mut rows = std::mem::take(&mut self.finished);
        for recent in self.recent.values_mut().filter(|recent| recent.dirty) {
            recent.dirty = false;
            rows.push(recent.row.clone());
        }
        match self.recent.len() > IN_MEMORY / 2 {
            // In a storm what comes counts more than whether it came before.
            true => self.recent.clear(),
            false => self.forget_old(now),
        }
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    fn forget_old(&mut self, now: i64) {
        self.recent
            .retain(|_, recent| recent.dirty || (0..MINUTE).contains(&(now - recent.row.at)));
    }

    /// They could not be written. One that counts on is not put back over its newer self.
    fn put_back(&mut self, rows: Vec<AuditRow>) {
        let mut rows: HashMap<i64, AuditRow> = rows.into_iter().map(|row| (row.id, row)).collect();
        for recent in self.recent.values_mut() {
            recent.dirty |= rows.remove(&recent.row.id).is_some();
        }
        for newer in &self.finished {
            rows.remove(&newer.id);
        }
        self.finished.extend(rows.into_values());
    }
}

fn row(id: i64, kind: Kind, note: Note<'_>, times: i64, now: i64) -> AuditRow {
    let refused = kind.class() == Class::Refusals;
    // A name that is not proven may be anything; a realm in front of one that is hides no token.
    let principal = match refused {
        true => shown_name(note.principal),
        false => shown(note.principal, TEXT_MAX),
    };
    AuditRow {
        id,
        class: kind.class() as u8,
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
