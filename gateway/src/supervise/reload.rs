//! SIGHUP: what of a new configuration can take effect while clients are connected, all of it or nothing.

use broker_config::Config;

use super::{Gateway, auth_settings, certificates, logging};
use crate::{admin::end_certificates, auth::AuthError, session::settings::Settings, tls::TlsError};

/// Why a new configuration was not taken. The old one stays in force, whole.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("tls.certificate cannot be set or removed while the gateway runs; restart it")]
    CertificateOrigin,
}

impl Gateway {
    /// Takes a validated configuration; gives the keys whose change waits for a restart.
    pub fn reload(&self, mut new: Config) -> Result<Vec<String>, ReloadError> {
        let old = self.config.load_full();
        let waiting = old.restart_keys(&new);
        // What waits for a restart keeps its value until then.
        new.data_dir = old.data_dir.clone();
        new.runtime_dir = old.runtime_dir.clone();
        let asked = std::mem::replace(&mut new.listeners, old.listeners.clone());
        for (name, listener) in &mut new.listeners {
            if let Some(asked) = asked.get(name) {
                listener.clients.fingerprints = asked.clients.fingerprints.clone();
            }
        }
        new.bus = old.bus.clone();
        new.auth.password_slots = old.auth.password_slots;
        new.auth.password_queue = old.auth.password_queue;
        new.auth.password_cache = old.auth.password_cache;
        new.log.format = old.log.format;
        new.acme.http_bind = old.acme.http_bind.clone();
        new.acme.max_http_connections = old.acme.max_http_connections;
        new.tls.min_version = old.tls.min_version;
        new.tls.ciphers = old.tls.ciphers.clone();
        new.tls.session_lifetime = old.tls.session_lifetime;
        new.tls.session_cache = old.tls.session_cache;
        new.tls.server_names = old.tls.server_names.clone();
        // Everything that can fail comes before everything that takes effect.
        let authenticator = self.administration.authenticator();
        authenticator.apply(auth_settings(&new))?;
        if let Err(error) = self.reload_certificates(&new) {
            authenticator.apply(auth_settings(&old))?;
            return Err(error);
        }
        self.context.registry.configure(Settings::of(&new));
        logging::set_level(new.log.level);
        if self.trusts.configure(&new.listeners) {
            let (registry, trusts) = (self.context.registry.clone(), self.trusts.clone());
            tokio::spawn(async move { end_certificates(&registry, &trusts).await });
        }
        self.config.store(new.into());
        self.renewals.wake();
        Ok(waiting)
    }

    fn reload_certificates(&self, new: &Config) -> Result<(), ReloadError> {
        if new.tls.certificate.is_some() == self.private_ca.is_some() {
            return Err(ReloadError::CertificateOrigin);
        }
        Ok(self.certificate_files.reload(certificates::sources(new))?)
    }
}
