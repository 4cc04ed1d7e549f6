//! The client certificate of one connection: judged after the handshake, and again when the session is registered.

use std::sync::Arc;

use broker_config::Require;
use rustls_pki_types::UnixTime;

use crate::{
    auth::Certificate,
    tls::{ClientCertificate, ClientTrust},
};

/// A client certificate that was good after the handshake (C1).
pub struct Presented {
    pub certificate: Arc<Certificate>,
    trust: Arc<ClientTrust>,
    /// Of the trust, from before it was asked.
    generation: u64,
}

impl Presented {
    pub fn new(trust: &Arc<ClientTrust>, generation: u64, client: ClientCertificate) -> Presented {
        let settings = trust.settings();
        let certificate = Certificate {
            realm: client.realm,
            name: client.name,
            role: settings.role.as_str().into(),
            suffices: settings.require == Require::One,
            listener: trust.listener().clone(),
            fingerprint: client.fingerprint,
            not_after: client.not_after,
            chain: client.chain,
        };
        Presented {
            certificate: Arc::new(certificate),
            trust: trust.clone(),
            generation,
        }
    }

    /// Whether it still is. To be asked once more when its session is where a revocation would reach it: one that came
    /// between the handshake and that moment reaches nobody else.
    pub fn is_good(&self) -> bool {
        self.generation == self.trust.generation()
            || self
                .trust
                .identify(&self.certificate.chain, UnixTime::now())
                .is_ok()
    }
}
