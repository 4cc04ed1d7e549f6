//! The trust of all listeners: what is looked at again, what changes by configuration, and what an
//! operator should hear of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use broker_config::{Demand, Listener};
use rustls_pki_types::UnixTime;

use super::ClientTrust;
use crate::metrics::Metrics;
use crate::tls::TlsError;

/// The listeners that ask for client certificates, by name.
#[derive(Debug)]
pub struct ClientTrusts {
    trusts: BTreeMap<String, Arc<ClientTrust>>,
    metrics: Arc<Metrics>,
}

impl ClientTrusts {
    /// Opens the trust of each listener that is on and asks for certificates. Does file I/O.
    ///
    /// # Errors
    /// As for [`ClientTrust::open`].
    pub fn open(
        listeners: &BTreeMap<String, Listener>,
        data_directory: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<ClientTrusts>, TlsError> {
        let mut trusts = BTreeMap::new();
        for (name, listener) in listeners {
            if listener.is_on() && listener.tls && listener.clients.demand != Demand::Off {
                let trust = ClientTrust::open(name, &listener.clients, data_directory)?;
                trusts.insert(name.clone(), trust);
            }
        }
        let all = ClientTrusts { trusts, metrics };
        all.count();
        Ok(Arc::new(all))
    }

    /// Whether no listener asks for certificates.
    pub fn is_empty(&self) -> bool {
        self.trusts.is_empty()
    }

    pub fn of(&self, listener: &str) -> Option<&Arc<ClientTrust>> {
        self.trusts.get(listener)
    }

    /// Reads revocation lists that changed. Whether different certificates may pass now. Does file
    /// I/O.
    pub fn refresh(&self) -> bool {
        let now = UnixTime::now();
        let mut changed = false;
        for trust in self.trusts.values() {
            changed |= trust.refresh(now);
        }
        self.count();
        changed
    }

    /// Takes over what of a new configuration can change while clients are connected. Whether
    /// different certificates may pass now.
    pub fn configure(&self, listeners: &BTreeMap<String, Listener>) -> bool {
        let mut changed = false;
        for (name, trust) in &self.trusts {
            if let Some(listener) = listeners.get(name) {
                changed |= trust.list(&listener.clients.fingerprints);
            }
        }
        changed
    }

    /// What is wrong with revocation lists, in words for the operator.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.trusts.values().map(|trust| trust.problems());
        problems.flatten().collect()
    }

    fn count(&self) {
        self.metrics
            .revocation_lists_failing
            .set(self.problems().len() as u64);
    }
}
