//! The loop that keeps certificates fresh: those of the CA, and those of the private CA (rule C4). It
//! goes by wall time, so that a suspended machine or a clock that jumps is noticed within a minute,
//! and it survives its own panics. What is done for one certificate is `attempt`'s.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::super::certificate::unix_seconds;
use super::super::{Certificate, CertificateStore, Certificates, TlsError};
use super::account::DIRECTORY;
use super::attempt::{Occasion, Outcome, Workshop};
use super::state::Unsaved;
use super::{Challenge, Challenges, Plan, Preflight, Wanted};
use crate::metrics::Metrics;

/// What listens for the CA; `listen` implements it.
pub trait Doors: Send + Sync {
    /// Opens where HTTP-01 is answered, if it is not open, and gives its addresses.
    ///
    /// # Errors
    /// In words, with who is in the way.
    fn open_http(&self) -> BoxFuture<'_, Result<Vec<SocketAddr>, String>>;

    /// Closes it again: no certificate needs it.
    fn close_http(&self);

    /// Where TLS listeners are.
    fn tls_addresses(&self) -> Vec<SocketAddr>;

    /// [`open_http`](Self::open_http) if this certificate needs it.
    ///
    /// # Errors
    /// As for `open_http`.
    fn open_http_for<'a>(&'a self, wanted: &Wanted) -> BoxFuture<'a, Result<(), String>> {
        let needed = wanted.challenge == Challenge::Http01;
        Box::pin(async move {
            match needed {
                true => self.open_http().await.map(drop),
                false => Ok(()),
            }
        })
    }
}

/// What the loop works with.
pub struct Parts {
    /// Asked before every step.
    pub plan: Box<dyn Fn() -> Plan + Send + Sync>,
    pub data_directory: PathBuf,
    pub certificates: Arc<Certificates>,
    pub challenges: Arc<Challenges>,
    pub doors: Arc<dyn Doors>,
    /// Renews what the private CA issued, if it is due. Does file I/O.
    pub private_ca: Option<PrivateRenewal>,
    pub metrics: Arc<Metrics>,
}

/// Renews something and says whether it did.
pub type PrivateRenewal = Arc<dyn Fn() -> Result<bool, TlsError> + Send + Sync>;

/// Looks after all certificates that the gateway gets itself.
pub struct Renewals {
    parts: Parts,
    store: CertificateStore,
    statuses: Mutex<BTreeMap<String, RenewalStatus>>,
    private: Mutex<Private>,
    /// Why HTTP-01 cannot be answered, if it should be and cannot.
    shut: Mutex<Option<String>>,
    /// One attempt at a time: they are rare, and the CA counts them.
    turns: Arc<Semaphore>,
    unsaved: Unsaved,
    wake: Notify,
}

/// How it stands with one certificate. Times are seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenewalStatus {
    pub slot: String,
    /// The next attempt.
    pub next: Option<i64>,
    /// When the CA is asked again when to renew.
    pub ask_again: Option<i64>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    pub last_error: Option<String>,
    /// Octets and certificates of a chain that waits for consent.
    pub held: Option<(usize, usize)>,
    /// When the certificate in force ends, if there is one.
    pub ends: Option<i64>,
}

#[derive(Default)]
struct Private {
    looked: Option<SystemTime>,
    failing: bool,
}

/// What the operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Renew if it is due, or if the last attempt failed.
    IfDue,
    /// Renew, due or not, whatever the preflight says.
    Force,
    /// Put the certificate in force that waits because of its long chain.
    AcceptChain,
}

/// The longest sleep: how late a jump of the clock is noticed.
const NAP: Duration = Duration::from_secs(60);
/// How often the private CA's certificate is looked at.
const PRIVATE_EVERY: Duration = Duration::from_secs(3_600);
/// After a panic, so that it does not repeat without pause.
const AFTER_PANIC: i64 = 60;
/// How long a command waits for its attempt.
const PATIENCE: Duration = Duration::from_secs(50);

impl RenewalStatus {
    pub(super) fn failed(slot: &str, error: &str) -> RenewalStatus {
        RenewalStatus {
            slot: slot.to_owned(),
            next: Some(unix_seconds(SystemTime::now()) + AFTER_PANIC),
            failures: 1,
            last_error: Some(error.to_owned()),
            ..RenewalStatus::default()
        }
    }

    /// What an operator should know, if anything.
    fn problem(&self, now: i64) -> Option<String> {
        let slot = &self.slot;
        if let Some((bytes, depth)) = self.held {
            return Some(format!(
                "a renewed one waits for consent: its chain has {bytes} bytes in {depth} \
                 certificates, more than max_chain_bytes or max_chain_depth allow; look whether your \
                 devices take it, then: postern cert renew {slot} --accept-chain"
            ));
        }
        let error = self.last_error.as_ref()?;
        let force = match self.ends.map(|ends| ends - now) {
            None => "the private CA's certificate is served meanwhile".to_owned(),
            Some(left @ ..=0) => format!("the present one expired {} days ago", -left / 86_400),
            Some(left) => format!(
                "the present one is valid for another {} days",
                left / 86_400
            ),
        };
        let times = match self.failures {
            0 | 1 => String::new(),
            times => format!(" {times} times"),
        };
        let next = match self.next.map(|next| next - now) {
            Some(wait @ 1..) => {
                format!("; next attempt in {wait} s, or with postern cert renew {slot}")
            }
            _ => String::new(),
        };
        Some(format!(
            "it could not be renewed{times}: {error}; {force}{next}"
        ))
    }
}

impl Renewals {
    pub fn new(parts: Parts) -> Arc<Renewals> {
        Arc::new(Renewals {
            store: CertificateStore::new(&parts.data_directory),
            parts,
            statuses: Mutex::default(),
            private: Mutex::default(),
            shut: Mutex::default(),
            turns: Arc::new(Semaphore::new(1)),
            unsaved: Unsaved::default(),
            wake: Notify::new(),
        })
    }

    /// Puts the certificates in force that an earlier run got; of those that there are none yet the
    /// log tells. Does file I/O.
    pub fn load(&self) {
        for wanted in (self.parts.plan)().certificates {
            let slot = &wanted.slot;
            if restore(&self.store, &self.parts.certificates, slot).is_none() {
                tracing::info!(
                    certificate = slot,
                    "there is none yet: the private CA's certificate is served until the CA has \
                     issued it"
                );
            }
        }
    }

    /// The loop. Ends only when it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            // A task of its own: whatever panics in it, the loop goes on.
            let mut pass = JoinSet::new();
            pass.spawn(self.clone().pass());
            let next = match pass.join_next().await {
                Some(Ok(next)) => next,
                ended => {
                    tracing::error!(
                        ?ended,
                        "a look at the certificates died; the next is in a minute"
                    );
                    unix_seconds(SystemTime::now()) + AFTER_PANIC
                }
            };
            let now = unix_seconds(SystemTime::now());
            let wait = u64::try_from(next - now).unwrap_or(0).max(1);
            let nap = Duration::from_secs(wait).min(NAP);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Has the loop look at everything now: the configuration changed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// How it stands with each certificate, by slot.
    pub fn statuses(&self) -> BTreeMap<String, RenewalStatus> {
        self.statuses.lock().clone()
    }

    /// What can be seen before an order of this certificate.
    ///
    /// # Errors
    /// In words, if there is no such certificate.
    pub async fn preflight(&self, slot: &str) -> Result<Preflight, String> {
        let plan = (self.parts.plan)();
        let wanted = find(&plan, slot)?;
        Ok(Preflight::run(&plan, wanted, &*self.parts.doors).await)
    }

    /// Does what the operator asks, and says what came of it. The attempt goes on if this is no
    /// longer waited for.
    ///
    /// # Errors
    /// In words.
    pub async fn request(self: Arc<Self>, slot: &str, request: Request) -> Result<String, String> {
        let plan = (self.parts.plan)();
        let wanted = find(&plan, slot)?.clone();
        let this = self.clone();
        let occasion = match request {
            Request::IfDue => Occasion::Asked,
            Request::Force => Occasion::Forced,
            Request::AcceptChain => Occasion::Accepted,
        };
        let held = self
            .statuses()
            .get(slot)
            .is_some_and(|status| status.held.is_some());
        if occasion == Occasion::Accepted && !held {
            return Err(format!("no certificate {slot} waits for consent"));
        }
        let attempt = tokio::spawn(async move { this.one(&plan, wanted, occasion).await });
        let outcome = match tokio::time::timeout(PATIENCE, attempt).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => return Err("the attempt died; look into the log".to_owned()),
            Err(_) => {
                return Ok(format!(
                    "{slot}: the CA is not done yet; `postern cert status` tells when it is"
                ));
            }
        };
        self.wake.notify_one();
        match outcome {
            Outcome::NotDue if occasion == Occasion::Accepted => {
                Err(format!("no certificate {slot} waits for consent"))
            }
            Outcome::Renewed => Ok(format!("{slot}: a new certificate is in force")),
            Outcome::Held => Err(format!(
                "{slot}: the new certificate waits, because its chain is longer than \
                 max_chain_bytes or max_chain_depth allow; --accept-chain puts it in force"
            )),
            Outcome::NotDue => Ok(format!("{slot}: not due; --force renews it all the same")),
            Outcome::Failed(error) => Err(format!("{slot}: {error}")),
        }
    }

    /// Looks at everything once; gives the time of the next look, in seconds since 1970.
    async fn pass(self: Arc<Self>) -> i64 {
        self.look_at_private().await;
        let plan = Arc::new((self.parts.plan)());
        let names: Vec<&str> = plan.certificates.iter().map(|w| w.slot.as_str()).collect();
        self.forget_all_but(&names);
        self.tend_door(&plan).await;
        for wanted in &plan.certificates {
            // A task of its own: a panic in it is one failed attempt.
            let (this, plan, own) = (self.clone(), plan.clone(), wanted.clone());
            let mut task = JoinSet::new();
            task.spawn(async move { this.one(&plan, own, Occasion::Time).await });
            if let Some(Err(error)) = task.join_next().await
                && error.is_panic()
            {
                let slot = &wanted.slot;
                tracing::error!(certificate = slot, %error, "an attempt to renew it panicked");
                self.parts.metrics.certificate_renewals_failed.add(1);
                self.note(RenewalStatus::failed(
                    slot,
                    "the attempt panicked; report this",
                ));
            }
        }
        self.next_look()
    }

    fn next_look(&self) -> i64 {
        let statuses = self.statuses.lock();
        let now = unix_seconds(SystemTime::now());
        let attempts = statuses.values().filter_map(|status| status.next);
        let soonest = attempts.clone().min();
        let left = soonest.map_or(0, |next| u64::try_from(next - now).unwrap_or(0));
        self.parts.metrics.certificate_renewal_seconds.set(left);
        let questions = statuses.values().filter_map(|status| status.ask_again);
        attempts.chain(questions).min().unwrap_or(i64::MAX)
    }

    async fn one(&self, plan: &Plan, wanted: Wanted, occasion: Occasion) -> Outcome {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let parts = &self.parts;
        let workshop = Workshop {
            ca: plan.ca.clone(),
            directory: parts.data_directory.join(DIRECTORY),
            store: self.store.clone(),
            certificates: parts.certificates.clone(),
            challenges: parts.challenges.clone(),
            doors: parts.doors.clone(),
            unsaved: self.unsaved.clone(),
        };
        // States and certificates are files: a thread for blocking work drives all of it.
        let driver = Handle::current();
        let work = move || driver.block_on(workshop.look_after(&wanted, occasion));
        let (outcome, status) = match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_) => return Outcome::NotDue,
        };
        match &outcome {
            Outcome::Renewed => parts.metrics.certificate_renewals.add(1),
            Outcome::Failed(_) => parts.metrics.certificate_renewals_failed.add(1),
            Outcome::Held | Outcome::NotDue => {}
        }
        self.note(status);
        outcome
    }

    /// Keeps the status, and says what is wrong where everybody looks.
    fn note(&self, status: RenewalStatus) {
        let shut = self.shut.lock().clone();
        let problem = status.problem(unix_seconds(SystemTime::now())).or(shut);
        self.parts.certificates.set_problem(&status.slot, problem);
        self.statuses.lock().insert(status.slot.clone(), status);
    }

    /// Certificates that are wanted no more are served no more; what is kept of them stays on disk.
    fn forget_all_but(&self, names: &[&str]) {
        let mut statuses = self.statuses.lock();
        statuses.retain(|slot, _| {
            let stays = names.contains(&slot.as_str());
            if !stays {
                tracing::info!(certificate = slot, "it is not wanted any more");
                self.parts.certificates.set_problem(slot, None);
                // The operator's files may have the slot by now.
                let served = self.parts.certificates.get(slot);
                if served.is_some_and(|served| self.store.holds(&served)) {
                    self.parts.certificates.remove(slot);
                }
            }
            stays
        });
    }

    /// Has HTTP-01 answered while a certificate needs it, and not otherwise.
    async fn tend_door(&self, plan: &Plan) {
        let needs = |wanted: &Wanted| wanted.challenge == Challenge::Http01;
        if !plan.certificates.iter().any(needs) {
            self.parts.doors.close_http();
            *self.shut.lock() = None;
            return;
        }
        let problem = self.parts.doors.open_http().await.err();
        let mut shut = self.shut.lock();
        if let Some(problem) = problem.as_ref().filter(|_| *shut != problem) {
            tracing::error!("{problem}");
        }
        *shut = problem;
    }

    /// Rule C4.
    async fn look_at_private(&self) {
        let Some(renew) = self.parts.private_ca.clone() else {
            return;
        };
        let now = SystemTime::now();
        let fresh = |looked: SystemTime| {
            now.duration_since(looked)
                .is_ok_and(|elapsed| elapsed < PRIVATE_EVERY)
        };
        if self.private.lock().looked.is_some_and(fresh) {
            return;
        }
        let problem = match tokio::task::spawn_blocking(move || renew()).await {
            Ok(Ok(true)) => {
                self.parts.metrics.certificate_renewals.add(1);
                None
            }
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem {
            self.parts.metrics.certificate_renewals_failed.add(1);
            tracing::error!(
                problem,
                "the private CA's server certificate was not renewed; the present one stays"
            );
        }
        // Another problem of the slot is another one's to clear.
        let mut private = self.private.lock();
        if problem.is_some() || private.failing {
            let text = problem
                .as_ref()
                .map(|problem| format!("it could not be renewed: {problem}"));
            self.parts
                .certificates
                .set_problem(Certificates::DEFAULT_SLOT, text);
        }
        *private = Private {
            looked: Some(now),
            failing: problem.is_some(),
        };
    }
}

/// The certificate in force in this slot, or the one that is kept for it, which is then in force. One
/// that cannot be used is none: a new one is ordered. Does file I/O.
pub(super) fn restore(
    store: &CertificateStore,
    certificates: &Certificates,
    slot: &str,
) -> Option<Arc<Certificate>> {
    if let Some(present) = certificates.get(slot) {
        return Some(present);
    }
    match store.load(slot) {
        Ok(Some(kept)) => {
            if let Err(error) = kept.check(SystemTime::now()) {
                tracing::error!(%error, "clients that verify certificates will refuse it");
            }
            certificates.install(slot, kept);
        }
        Ok(None) => {}
        Err(error) => tracing::error!(
            certificate = slot,
            %error,
            "the kept certificate cannot be used: a new one is ordered"
        ),
    }
    certificates.get(slot)
}

/// The certificate of this slot.
///
/// # Errors
/// In words, if the gateway gets none of this name.
pub fn find<'a>(plan: &'a Plan, slot: &str) -> Result<&'a Wanted, String> {
    let found = plan.certificates.iter().find(|wanted| wanted.slot == slot);
    found.ok_or_else(|| {
        let names: Vec<&str> = plan.certificates.iter().map(|w| w.slot.as_str()).collect();
        match names.is_empty() {
            true => format!(
                "there is no certificate {slot} that the gateway gets itself: set domains in [acme]"
            ),
            false => format!(
                "there is no certificate {slot} that the gateway gets itself; there is {}",
                names.join(", ")
            ),
        }
    })
}

#[cfg(test)]
#[path = "renewals_tests.rs"]
mod tests;
