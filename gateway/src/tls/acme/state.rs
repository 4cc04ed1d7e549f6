//! What must be remembered of a renewal across restarts? One small file for each certificate, so that
//! a restart takes up an order where it was, and a loop of restarts cannot hammer the CA.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use super::super::{TlsError, atomic_file, pem};

/// All of it. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct State {
    /// What it was kept for ([`Wanted::purpose`](super::Wanted)); another purpose begins anew.
    pub purpose: String,
    /// The order under way.
    pub order: Option<OrderUnderWay>,
    /// Attempts that failed one after the other.
    pub failures: u32,
    /// Attempts that were begun one after the other and came to no end: the gateway was stopped.
    pub interrupted: u32,
    pub last_attempt: Option<i64>,
    /// Not before this.
    pub retry_at: Option<i64>,
    pub last_error: Option<String>,
    pub window: Option<Window>,
    /// When to ask for renewal information again, if there is no window.
    pub ask_again: Option<i64>,
    /// When a renewal was last made because the CA asked for it.
    pub asked_at: Option<i64>,
    /// TXT records that the hook has set and not removed.
    pub records: Vec<TxtRecord>,
    /// The longest chain that the operator consented to: octets, certificates.
    pub accepted: Option<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OrderUnderWay {
    pub url: String,
    pub begun_at: i64,
}

/// When the CA suggests to renew (RFC 9773, 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Window {
    /// SHA-256 of the certificate it is about, in hexadecimal.
    pub certificate: String,
    pub start: i64,
    pub end: i64,
    /// The moment in the window that chance gave this certificate.
    pub chosen: i64,
    /// When to ask again.
    pub ask_again: i64,
}

/// One call of the DNS hook that is to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TxtRecord {
    pub domain: String,
    pub name: String,
    pub value: String,
}

/// The files of one certificate under `<data directory>/acme/`, all 0600: `NAME.json` (state),
/// `NAME.key` (private key of the order under way), `NAME.held` (a certificate that waits for
/// consent).
#[derive(Debug, Clone)]
pub(super) struct StateFile {
    directory: PathBuf,
    name: String,
    unsaved: Unsaved,
    pub state: State,
}

/// States that could not be written, by name: as long as the gateway runs, a disk that takes nothing
/// must not make it forget how long it is to leave the CA alone. Clones share what they hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsaved(Arc<Mutex<BTreeMap<String, State>>>);

/// A certificate with its key that waits for consent, as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub chain: String,
    pub private_key: String,
}

impl State {
    /// Forgets what only a clock that was ahead can have written: `pause_max` seconds is the longest
    /// that anything waits. Without this, renewals would stop until that time comes.
    pub fn distrust(&mut self, now: i64, pause_max: i64) {
        let ahead = |at: &Option<i64>| at.is_some_and(|at| at > now + CLOCK_STEP);
        let latest = now + pause_max + CLOCK_STEP;
        if ahead(&self.last_attempt) || self.retry_at.is_some_and(|at| at > latest) {
            self.retry_at = None;
            self.last_attempt = None;
        }
        if ahead(&self.asked_at) {
            self.asked_at = None;
        }
        if self.ask_again.is_some_and(|at| at > latest) {
            self.ask_again = None;
        }
        if let Some(window) = self.window.as_mut().filter(|w| w.ask_again > latest) {
            window.ask_again = now;
        }
    }
}

/// Seconds that a clock may be set back without a doubt about what was written before.
const CLOCK_STEP: i64 = 60;

impl StateFile {
    /// Reads the state; what cannot be read is forgotten with a warning: it saves requests, and a
    /// certificate is worth more than they are. Does file I/O.
    ///
    /// # Errors
    /// [`TlsError::Write`] if the directory cannot be made.
    pub fn open(directory: &Path, name: &str, purpose: &str) -> Result<StateFile, TlsError> {
        atomic_file::ensure_directory(directory)?;
        let mut file = StateFile {
            directory: directory.to_owned(),
            name: name.to_owned(),
            unsaved: Unsaved::default(),
            state: State::default(),
        };
        let path = file.path("json");
        if path.exists() {
            match pem::read_bounded(&path).map(|text| serde_json::from_slice(&text)) {
                Ok(Ok(state)) => file.state = state,
                Ok(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "begins anew: cannot be read")
                }
                Err(error) => tracing::warn!(%error, "begins anew"),
            }
        }
        if file.state.purpose != purpose {
            // What waits for consent was ordered for something else; without a purpose, the state
            // was lost and nothing is known about it.
            if !file.state.purpose.is_empty() {
                file.clear_held();
            }
            file.state = State {
                purpose: purpose.to_owned(),
                records: std::mem::take(&mut file.state.records),
                accepted: file.state.accepted,
                ..State::default()
            };
        }
        Ok(file)
    }

    /// The same, with what an earlier one could not write.
    pub fn remembering(mut self, unsaved: &Unsaved) -> StateFile {
        if let Some(newer) = unsaved.0.lock().get(&self.name)
            && newer.purpose == self.state.purpose
        {
            self.state = newer.clone();
        }
        self.unsaved = unsaved.clone();
        self
    }

    /// Does file I/O. What cannot be written is remembered by [`Unsaved`].
    ///
    /// # Errors
    /// [`TlsError::Write`].
    pub fn save(&self) -> Result<(), TlsError> {
        // It has no map and no float, so it is always JSON.
        let text = serde_json::to_vec_pretty(&self.state).unwrap_or_default();
        let saved = atomic_file::replace(&self.path("json"), &text, 0o600);
        let mut unsaved = self.unsaved.0.lock();
        match saved {
            Ok(()) => unsaved.remove(&self.name),
            Err(_) => unsaved.insert(self.name.clone(), self.state.clone()),
        };
        saved
    }

    /// Saves without holding up the async worker, before a step that must not be taken unless it is
    /// remembered.
    ///
    /// # Errors
    /// [`TlsError::Write`].
    pub async fn secure(&self) -> Result<(), TlsError> {
        let ended = |error| TlsError::Write {
            path: self.path("json"),
            source: io::Error::other(error),
        };
        self.saved().await.map_err(ended)?
    }

    /// Saves without holding up the async worker; a failure is logged, because the step it is about
    /// is done already.
    pub async fn keep(&self) {
        // The other error is that the runtime ends, which is no news.
        if let Ok(Err(error)) = self.saved().await {
            tracing::error!(%error, "the state of a renewal is not kept: a restart would begin it anew");
        }
    }

    async fn saved(&self) -> Result<Result<(), TlsError>, JoinError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.save()).await
    }

    /// The private key of the order under way, as PEM.
    pub fn pending_key(&self) -> Option<String> {
        read_text(&self.path("key"))
    }

    /// # Errors
    /// [`TlsError::Write`].
    pub fn set_pending_key(&self, pem: &str) -> Result<(), TlsError> {
        atomic_file::replace(&self.path("key"), pem.as_bytes(), 0o600)
    }

    /// Removes the key of an order that is over.
    pub fn clear_pending_key(&self) {
        remove(&self.path("key"));
    }

    pub fn held(&self) -> Option<Held> {
        serde_json::from_str(&read_text(&self.path("held"))?).ok()
    }

    /// # Errors
    /// [`TlsError::Write`].
    pub fn hold(&self, held: &Held) -> Result<(), TlsError> {
        let text = serde_json::to_vec(held).unwrap_or_default();
        atomic_file::replace(&self.path("held"), &text, 0o600)
    }

    pub fn clear_held(&self) {
        remove(&self.path("held"));
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }
}

fn read_text(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    match pem::read_bounded(path).map(String::from_utf8) {
        Ok(Ok(text)) => Some(text),
        Ok(Err(_)) => {
            tracing::warn!(path = %path.display(), "ignored: not text");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "ignored");
            None
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_read_back_by_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(directory.path(), "acme", "p").unwrap();
        file.state.failures = 3;
        file.state.order = Some(OrderUnderWay {
            url: "https://ca.example/order/1".to_owned(),
            begun_at: 7,
        });
        file.save().unwrap();
        file.set_pending_key("secret").unwrap();
        let again = StateFile::open(directory.path(), "acme", "p").unwrap();
        assert_eq!(again.state, file.state);
        assert_eq!(again.pending_key().as_deref(), Some("secret"));
        for entry in fs::read_dir(directory.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn another_purpose_begins_anew_but_forgets_no_record_to_remove() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(directory.path(), "acme", "one").unwrap();
        file.state.failures = 9;
        file.state.retry_at = Some(i64::MAX);
        file.state.records.push(TxtRecord {
            domain: "a.example".to_owned(),
            name: "_acme-challenge.a.example".to_owned(),
            value: "v".to_owned(),
        });
        file.save().unwrap();
        let other = StateFile::open(directory.path(), "acme", "two").unwrap();
        assert_eq!((other.state.failures, other.state.retry_at), (0, None));
        assert_eq!(other.state.records, file.state.records);
    }

    #[test]
    fn a_clock_that_was_ahead_once_does_not_stop_renewals_for_years() {
        const YEAR: i64 = 365 * 86_400;
        const WEEK: i64 = 7 * 86_400;
        let now = 1_000_000_000;
        let ahead = State {
            failures: 2,
            last_attempt: Some(now + YEAR),
            retry_at: Some(now + WEEK / 2),
            asked_at: Some(now + YEAR),
            ask_again: Some(now + YEAR),
            window: Some(Window {
                certificate: String::new(),
                start: now,
                end: now,
                chosen: now,
                ask_again: now + YEAR,
            }),
            ..State::default()
        };
        let mut state = ahead.clone();
        state.distrust(now, WEEK);
        assert_eq!((state.retry_at, state.asked_at), (None, None));
        assert_eq!(
            (state.ask_again, state.window.unwrap().ask_again),
            (None, now)
        );
        assert_eq!(state.failures, 2);
        let mut state = State {
            last_attempt: Some(now - 5),
            retry_at: Some(now + YEAR),
            ..State::default()
        };
        state.distrust(now, WEEK);
        assert_eq!(state.retry_at, None);
        // What a right clock wrote stays.
        let right = State {
            last_attempt: Some(now),
            retry_at: Some(now + WEEK),
            ask_again: Some(now + 86_400),
            ..State::default()
        };
        let mut state = right.clone();
        state.distrust(now, WEEK);
        assert_eq!(state, right);
    }

    #[test]
    fn what_waits_for_consent_is_forgotten_when_something_else_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let held = Held {
            chain: "chain".to_owned(),
            private_key: "key".to_owned(),
        };
        let file = StateFile::open(directory.path(), "acme", "one").unwrap();
        file.save().unwrap();
        file.hold(&held).unwrap();
        let same = StateFile::open(directory.path(), "acme", "one").unwrap();
        assert!(same.held() == Some(held));
        let other = StateFile::open(directory.path(), "acme", "two").unwrap();
        assert!(other.held().is_none());
    }

    #[test]
    fn a_damaged_state_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("acme.json"), "{").unwrap();
        let file = StateFile::open(directory.path(), "acme", "p").unwrap();
        assert_eq!(file.state.failures, 0);
    }
}
