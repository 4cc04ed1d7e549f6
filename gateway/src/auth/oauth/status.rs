//! Does an issuer answer? What the operator is told about it: a log line when that changes, the health, a gauge.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::metrics::Metrics;

pub(super) struct Status {
    name: Arc<str>,
    problem: Mutex<Option<String>>,
    metrics: Arc<Metrics>,
}

impl Status {
    pub fn new(name: Arc<str>, metrics: Arc<Metrics>) -> Arc<Status> {
        Arc::new(Status {
            name,
            problem: Mutex::default(),
            metrics,
        })
    }

    /// It answered.
    pub fn works(&self) {
        let before = self.problem.lock().take();
        if before.is_some() {
            self.metrics.issuers_failing.sub(1);
            tracing::info!(issuer = %self.name, "the token issuer answers again");
        }
    }

    /// It did not, or not as it should.
    pub fn fails(&self, why: &str) {
        self.metrics.issuer_requests_failed.add(1);
        let why: String = why.chars().filter(|c| !c.is_control()).take(400).collect();
        let before = self.problem.lock().replace(why.clone());
        if before.is_none() {
            self.metrics.issuers_failing.add(1);
            tracing::warn!(issuer = %self.name, %why, "the token issuer does not answer as it should: clients that it would have to vouch for are refused");
        }
    }

    pub fn is_failing(&self) -> bool {
        self.problem.lock().is_some()
    }

    /// In words for the operator.
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        let why = problem.as_ref()?;
        Some(format!(
            "the token issuer {} does not answer as it should: {why}; look at its server, or correct [oauth.{}]",
            self.name, self.name
        ))
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.problem.lock().is_some() {
            self.metrics.issuers_failing.sub(1);
        }
    }
}
