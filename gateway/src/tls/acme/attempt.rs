//! One certificate, looked after once: is it due, what does the CA suggest, and if it is due, one
//! attempt to get a new one, check it and put it in force. `renewals` decides when to come again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use instant_acme::CertificateIdentifier;
use rustls_pki_types::CertificateDer;

use super::super::certificate::unix_seconds;
use super::super::fingerprint::hex;
use super::super::{Certificate, CertificateStore, Certificates, TlsError};
use super::order::{Issued, Issuer, forget};
use super::renewals::restore;
use super::state::{Held, StateFile, Unsaved, Window};
use super::transport::Transport;
use super::{
    AcmeError, Ca, Challenges, Doors, Preflight, RenewalStatus, Wanted, account, schedule,
};

/// All that an attempt works with.
pub(super) struct Workshop {
    pub ca: Ca,
    /// `<data directory>/acme/`.
    pub directory: PathBuf,
    pub store: CertificateStore,
    pub certificates: Arc<Certificates>,
    pub challenges: Arc<Challenges>,
    pub doors: Arc<dyn Doors>,
    pub unsaved: Unsaved,
}

/// Why the certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// Time has passed.
    Time,
    /// The operator wants it tried now, if it is due or failed before.
    Asked,
    /// The operator wants a new one in any case, preflight or not.
    Forced,
    /// The operator consents to the chain that waits.
    Accepted,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing was to be done.
    NotDue,
    Renewed,
    /// There is a new one, and it waits for consent.
    Held,
    Failed(AcmeError),
}

/// Immediate repetitions of what failed by chance.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// A whole attempt, hooks and the CA's patience included.
const DEADLINE: Duration = Duration::from_secs(3 * 3_600);
/// A CA may ask for a pause, but not for one that outlives the certificate.
const PAUSE_MAX: i64 = 7 * 86_400;

impl Workshop {
    /// Looks after one certificate. What is to be remembered is on disk when this returns.
    pub async fn look_after(
        &self,
        wanted: &Wanted,
        occasion: Occasion,
    ) -> (Outcome, RenewalStatus) {
        let purpose = wanted.purpose(&self.ca);
        let mut file = match StateFile::open(&self.directory, &wanted.slot, &purpose) {
            Ok(file) => file.remembering(&self.unsaved),
            Err(error) => {
                let status = RenewalStatus::failed(&wanted.slot, &error.to_string());
                return (Outcome::Failed(error.into()), status);
            }
        };
        file.state
            .distrust(unix_seconds(SystemTime::now()), PAUSE_MAX);
        let outcome = self.decide(wanted, occasion, &mut file).await;
        let status = self.status(wanted, &file);
        (outcome, status)
    }

    async fn decide(&self, wanted: &Wanted, occasion: Occasion, file: &mut StateFile) -> Outcome {
        if let Some(outcome) = self.settle_held(wanted, occasion, file).await {
            return outcome;
        }
        if occasion == Occasion::Accepted {
            return Outcome::NotDue;
        }
        // A certificate that is wanted since a reload may have been kept since an earlier run.
        let present = restore(&self.store, &self.certificates, &wanted.slot);
        if occasion == Occasion::Time {
            self.ask_when(wanted, present.as_deref(), file).await;
            let now = unix_seconds(SystemTime::now());
            let due = self.due_at(wanted, present.as_deref(), file);
            if now < due.max(file.state.retry_at.unwrap_or(i64::MIN)) {
                return Outcome::NotDue;
            }
        }
        if occasion == Occasion::Asked && file.state.failures == 0 {
            let now = unix_seconds(SystemTime::now());
            if now < self.due_at(wanted, present.as_deref(), file) {
                return Outcome::NotDue;
            }
        }
        self.attempt(wanted, occasion, present.as_deref(), file)
            .await
    }

    /// When a new certificate is wanted, failures left aside. Seconds since 1970.
    fn due_at(&self, wanted: &Wanted, present: Option<&Certificate>, file: &StateFile) -> i64 {
        let Some(present) = present.filter(|present| present.covers(&wanted.names)) else {
            return i64::MIN;
        };
        let (start, end) = (
            unix_seconds(present.not_before()),
            unix_seconds(present.not_after()),
        );
        // A rollback stands until its certificate is nearly over.
        if self.store.is_rolled_back(&wanted.slot).unwrap_or(false) {
            return start + (end - start) / 10 * 9;
        }
        let id = hex(&present.sha256());
        let window = file.state.window.as_ref();
        let window = window.filter(|window| window.certificate == id);
        schedule::renewal(start, end, window, file.state.asked_at)
    }

    async fn attempt(
        &self,
        wanted: &Wanted,
        occasion: Occasion,
        present: Option<&Certificate>,
        file: &mut StateFile,
    ) -> Outcome {
        let now = unix_seconds(SystemTime::now());
        let by_window = present.is_some_and(|present| {
            let (start, end) = (present.not_before(), present.not_after());
            now < schedule::by_age(unix_seconds(start), unix_seconds(end))
        });
        file.state.last_attempt = Some(now);
        file.state.retry_at = Some(now + schedule::resume_delay(file.state.interrupted));
        file.state.interrupted = file.state.interrupted.saturating_add(1);
        // An attempt that nobody will remember must not reach the CA: its repetition would, too.
        let made = match file.secure().await {
            Ok(()) => {
                let made = self.obtain(wanted, occasion, present, file);
                match tokio::time::timeout(DEADLINE, made).await {
                    Ok(made) => made,
                    Err(_) => Err(AcmeError::TooSlow(DEADLINE.as_secs())),
                }
            }
            Err(error) => Err(error.into()),
        };
        let made = match made {
            Ok(issued) => self.take(wanted, file, &issued).await,
            Err(error) => Err(error),
        };
        file.state.interrupted = 0;
        match made {
            Ok(outcome) => {
                let asked = occasion == Occasion::Time && by_window;
                file.state.asked_at = asked.then_some(now);
                file.state.failures = 0;
                file.state.last_error = None;
                file.state.retry_at = self.rest(wanted, now);
                file.state.window = None;
                file.state.ask_again = None;
                forget(file).await;
                outcome
            }
            Err(error) => {
                if error.ends_order() {
                    // Taken from the CA again, it would be no better.
                    forget(file).await;
                }
                self.failed(wanted, present, file, &error).await;
                Outcome::Failed(error)
            }
        }
    }

    /// Until when to rest after a success, if the new certificate is due at once: a CA that issues
    /// what is old already must not be asked in a loop.
    fn rest(&self, wanted: &Wanted, now: i64) -> Option<i64> {
        let new = self.certificates.get(&wanted.slot)?;
        let (start, end) = (
            unix_seconds(new.not_before()),
            unix_seconds(new.not_after()),
        );
        schedule::rest(now, start, end)
    }

    async fn failed(
        &self,
        wanted: &Wanted,
        present: Option<&Certificate>,
        file: &mut StateFile,
        error: &AcmeError,
    ) {
        let now = unix_seconds(SystemTime::now());
        let state = &mut file.state;
        state.failures = state.failures.saturating_add(1);
        let lifetime = present
            .map(|present| unix_seconds(present.not_after()) - unix_seconds(present.not_before()));
        let cheap = error.is_transient()
            || matches!(
                error,
                AcmeError::Preflight(_) | AcmeError::ExternalAccount { .. } | AcmeError::Tls(_)
            );
        let delay = schedule::retry_delay(state.failures, cheap, lifetime, chance());
        let wish = error.retry_after().map_or(0, unix_seconds);
        let left = present.map_or(i64::MAX, |present| unix_seconds(present.not_after()) - now);
        let retry_at = schedule::retry_at(now, delay, wish.min(now + PAUSE_MAX), left);
        state.retry_at = Some(retry_at);
        state.last_error = Some(error.to_string());
        let (failures, wait) = (state.failures, retry_at - now);
        file.keep().await;
        let present = match present {
            Some(_) => "the present certificate stays in force",
            None => "the private CA's certificate is served meanwhile",
        };
        tracing::error!(
            certificate = wanted.slot,
            %error,
            failures,
            "no new certificate; {present}; next attempt in {wait} s"
        );
    }

    /// Asks the CA for a certificate.
    async fn obtain(
        &self,
        wanted: &Wanted,
        occasion: Occasion,
        present: Option<&Certificate>,
        file: &mut StateFile,
    ) -> Result<Issued, AcmeError> {
        let transport = self.transport().await?;
        if occasion == Occasion::Forced {
            // Whatever is wrong with the one under way, a new one is what is asked for.
            forget(file).await;
        }
        if file.state.order.is_none() {
            self.preflight(wanted, occasion, &transport).await?;
        } else {
            // The answers must be reachable for what is taken up, too.
            let _ = self.doors.open_http_for(wanted).await;
        }
        let account = account::open(&self.directory, &self.ca, &transport).await?;
        let mut issuer = Issuer {
            ca: self.ca.clone(),
            directory: self.directory.clone(),
            account,
            transport,
            challenges: self.challenges.clone(),
        };
        let key = self.key_to_keep(wanted, present).await?;
        let replaces = present.filter(|present| present.covers(&wanted.names));
        let replaces = replaces.and_then(identifier);
        let mut tries = 1;
        loop {
            let issued = issuer
                .issue(wanted, file, key.as_deref(), replaces.clone())
                .await;
            match issued {
                Err(error) if error.is_transient() && tries < TRIES => {
                    tracing::debug!(certificate = wanted.slot, %error, "tried again at once");
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                issued => return issued,
            }
        }
    }

    async fn preflight(
        &self,
        wanted: &Wanted,
        occasion: Occasion,
        transport: &Transport,
    ) -> Result<(), AcmeError> {
        let found = Preflight::look(&self.ca, wanted, transport, &*self.doors).await;
        for warning in found.warnings() {
            tracing::warn!(certificate = wanted.slot, "before the order: {warning}");
        }
        let problems: Vec<&str> = found.problems().collect();
        match problems.is_empty() || occasion == Occasion::Forced {
            true => Ok(()),
            false => Err(AcmeError::Preflight(problems.join("; "))),
        }
    }

    /// Reading the system's root certificates is file I/O.
    async fn transport(&self) -> Result<Transport, AcmeError> {
        let root = self.ca.root.clone();
        tokio::task::spawn_blocking(move || Transport::new(root.as_deref()))
            .await
            .map_err(|_| AcmeError::Nonsense("the HTTPS client could not be made".to_owned()))?
    }

    async fn key_to_keep(
        &self,
        wanted: &Wanted,
        present: Option<&Certificate>,
    ) -> Result<Option<String>, AcmeError> {
        let fits = present.is_some_and(|present| wanted.key_type.is(present.key_kind()));
        if !wanted.reuse_key || !fits {
            return Ok(None);
        }
        let (store, slot) = (self.store.clone(), wanted.slot.clone());
        let read = tokio::task::spawn_blocking(move || store.private_key(&slot)).await;
        let key = read.map_err(|_| AcmeError::Unusable("its key cannot be read".to_owned()))??;
        Ok(key.map(|key| key.expose().to_owned()))
    }

    /// Checks what the CA issued; puts it in force, or aside if its chain is over the budget.
    async fn take(
        &self,
        wanted: &Wanted,
        file: &mut StateFile,
        issued: &Issued,
    ) -> Result<Outcome, AcmeError> {
        let certificate = check(wanted, issued)?;
        let (bytes, depth) = (certificate.chain_bytes(), certificate.depth());
        // Nothing relies on a chain that there was none of before.
        let present = self.certificates.get(&wanted.slot);
        if present.is_some() && exceeds(wanted, file, present.as_deref(), bytes, depth) {
            file.hold(&Held {
                chain: issued.chain.clone(),
                private_key: issued.private_key.clone(),
            })?;
            tracing::warn!(
                certificate = wanted.slot,
                bytes,
                depth,
                "the new certificate's chain is longer than max_chain_bytes or max_chain_depth \
                 allow, and waits: `postern cert renew {} --accept-chain` puts it in force",
                wanted.slot
            );
            return Ok(Outcome::Held);
        }
        self.put_in_force(wanted, &issued.chain, &issued.private_key)
            .await?;
        file.clear_held();
        Ok(Outcome::Renewed)
    }

    async fn put_in_force(
        &self,
        wanted: &Wanted,
        chain: &str,
        private_key: &str,
    ) -> Result<(), AcmeError> {
        let (store, slot) = (self.store.clone(), wanted.slot.clone());
        let (chain, private_key) = (chain.to_owned(), private_key.to_owned());
        let saved = tokio::task::spawn_blocking(move || store.save(&slot, &chain, &private_key));
        let certificate = saved
            .await
            .map_err(|_| AcmeError::Unusable("it could not be saved".to_owned()))??;
        let (ends, bytes) = (
            unix_seconds(certificate.not_after()),
            certificate.chain_bytes(),
        );
        self.certificates.install(&wanted.slot, certificate);
        let left = ends - unix_seconds(SystemTime::now());
        tracing::info!(
            certificate = wanted.slot,
            days = left / 86_400,
            bytes,
            "new handshakes get a new certificate"
        );
        Ok(())
    }

    /// What becomes of a certificate that waits for consent; `None` if none does, or it is too old.
    async fn settle_held(
        &self,
        wanted: &Wanted,
        occasion: Occasion,
        file: &mut StateFile,
    ) -> Option<Outcome> {
        let held = file.held()?;
        let issued = Issued {
            chain: held.chain,
            private_key: held.private_key,
        };
        let Ok(certificate) = check(wanted, &issued) else {
            file.clear_held();
            return None;
        };
        let (bytes, depth) = (certificate.chain_bytes(), certificate.depth());
        if occasion == Occasion::Accepted {
            file.state.accepted = Some((bytes, depth));
        }
        let present = restore(&self.store, &self.certificates, &wanted.slot);
        if !exceeds(wanted, file, present.as_deref(), bytes, depth) {
            let put = self
                .put_in_force(wanted, &issued.chain, &issued.private_key)
                .await;
            return Some(match put {
                Ok(()) => {
                    file.clear_held();
                    file.keep().await;
                    Outcome::Renewed
                }
                Err(error) => Outcome::Failed(error),
            });
        }
        let start = unix_seconds(certificate.not_before());
        let due = schedule::by_age(start, unix_seconds(certificate.not_after()));
        let waits = occasion != Occasion::Forced && unix_seconds(SystemTime::now()) < due;
        waits.then_some(Outcome::Held)
    }

    /// Asks the CA when the present certificate should be renewed (RFC 9773), if it is time to ask.
    /// No answer is no trouble: then age decides.
    async fn ask_when(&self, wanted: &Wanted, present: Option<&Certificate>, file: &mut StateFile) {
        let Some(present) = present.filter(|present| present.covers(&wanted.names)) else {
            return;
        };
        let now = unix_seconds(SystemTime::now());
        let id = hex(&present.sha256());
        let known = file.state.window.as_ref();
        let ask_at = ask_at(&id, file);
        // While an attempt waits there is nothing to decide.
        if now < ask_at || file.state.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        let (start, end) = (
            unix_seconds(present.not_before()),
            unix_seconds(present.not_after()),
        );
        match self.renewal_info(present).await {
            Ok((first, last, retry_after)) => {
                let same = known.filter(|known| known.start == first && known.end == last);
                let chosen = same.map_or_else(
                    || schedule::pick(first, last, chance()),
                    |known| known.chosen,
                );
                tracing::debug!(
                    certificate = wanted.slot,
                    chosen,
                    "the CA says when to renew"
                );
                file.state.window = Some(Window {
                    certificate: id,
                    start: first,
                    end: last,
                    chosen,
                    ask_again: schedule::ask_again(now, retry_after, end - start),
                });
            }
            Err(error) => {
                tracing::debug!(certificate = wanted.slot, %error, "no renewal information");
                let pause = Duration::from_secs(6 * 3_600);
                let again = schedule::ask_again(now, pause, end - start);
                file.state.ask_again = Some(again);
                if let Some(window) = &mut file.state.window {
                    window.ask_again = again;
                }
            }
        }
        file.keep().await;
    }

    async fn renewal_info(&self, present: &Certificate) -> Result<(i64, i64, Duration), AcmeError> {
        let id = identifier(present).ok_or_else(|| {
            AcmeError::Nonsense("the certificate has no authority key identifier".to_owned())
        })?;
        let transport = self.transport().await?;
        let account = account::open(&self.directory, &self.ca, &transport).await?;
        let (info, retry_after) = account
            .renewal_info(&id)
            .await
            .map_err(|error| account::explain(error, &self.ca, &transport))?;
        let window = info.suggested_window;
        let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
        match start <= end {
            true => Ok((start, end, retry_after)),
            // RFC 9773, 4.2: such an answer is treated as if there was none.
            false => Err(AcmeError::Nonsense(
                "a window that ends before it begins".to_owned(),
            )),
        }
    }

    fn status(&self, wanted: &Wanted, file: &StateFile) -> RenewalStatus {
        let present = self.certificates.get(&wanted.slot);
        let due = self.due_at(wanted, present.as_deref(), file);
        let mut status = RenewalStatus {
            slot: wanted.slot.clone(),
            next: Some(due.max(file.state.retry_at.unwrap_or(i64::MIN)).max(0)),
            ask_again: present
                .as_ref()
                .filter(|present| present.covers(&wanted.names))
                .map(|present| ask_at(&hex(&present.sha256()), file).max(0)),
            failures: file.state.failures,
            last_error: file.state.last_error.clone(),
            held: None,
            ends: present.map(|present| unix_seconds(present.not_after())),
        };
        if let Some(held) = file.held()
            && let Ok(held) = Certificate::from_pem(&held.chain, &held.private_key, HELD.as_ref())
        {
            let (start, end) = (held.not_before(), held.not_after());
            status.next = Some(schedule::by_age(unix_seconds(start), unix_seconds(end)));
            status.held = Some((held.chain_bytes(), held.depth()));
        }
        status
    }
}

/// What messages call a certificate that is in no file yet.
const HELD: &str = "from the CA";

/// Key, chain order, validity and names.
fn check(wanted: &Wanted, issued: &Issued) -> Result<Certificate, AcmeError> {
    let certificate = Certificate::from_pem(&issued.chain, &issued.private_key, Path::new(HELD));
    let certificate = certificate
        .and_then(|certificate| certificate.check(SystemTime::now()).map(|()| certificate))
        .map_err(|error: TlsError| AcmeError::Unusable(error.to_string()))?;
    if !certificate.covers(&wanted.names) {
        let has: Vec<String> = certificate
            .names()
            .iter()
            .map(ToString::to_string)
            .collect();
        return Err(AcmeError::Unusable(format!(
            "it is for {} and lacks some of the names that were ordered",
            has.join(", ")
        )));
    }
    Ok(certificate)
}

/// When the CA is to be asked about the certificate with this fingerprint.
fn ask_at(id: &str, file: &StateFile) -> i64 {
    let window = file.state.window.as_ref();
    match window.filter(|window| window.certificate == id) {
        Some(window) => window.ask_again,
        None => file.state.ask_again.unwrap_or(i64::MIN),
    }
}

/// Whether a chain is over the budget, over what the operator consented to, and over what is served
/// already: devices that take the present chain take one like it.
fn exceeds(
    wanted: &Wanted,
    file: &StateFile,
    present: Option<&Certificate>,
    bytes: usize,
    depth: usize,
) -> bool {
    let (accepted_bytes, accepted_depth) = file.state.accepted.unwrap_or_default();
    let known_bytes = present.map_or(0, Certificate::chain_bytes);
    let known_depth = present.map_or(0, Certificate::depth);
    let known_bytes = match known_bytes.max(accepted_bytes) {
        0 => 0,
        known => known + CHAIN_SLACK,
    };
    bytes > wanted.max_chain_bytes.max(known_bytes)
        || depth > wanted.max_chain_depth.max(accepted_depth).max(known_depth)
}

/// Octets that two certificates of the same kind may differ by: signatures and serial numbers vary.
const CHAIN_SLACK: usize = 64;

fn identifier(certificate: &Certificate) -> Option<CertificateIdentifier<'static>> {
    let der = CertificateDer::from(certificate.der());
    let identifier = CertificateIdentifier::try_from(&der).ok()?;
    Some(identifier.into_owned())
}

/// From 0 to 1. If the random number generator fails, the middle: chance only spreads load here.
fn chance() -> f64 {
    let mut octets = [0; 4];
    match rand::fill(&mut octets) {
        Ok(()) => f64::from(u32::from_ne_bytes(octets)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
