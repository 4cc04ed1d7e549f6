//! SIGHUP: what of a new configuration can take effect while clients are connected, all of it or nothing.

use std::collections::BTreeMap;

use broker_config::{ClientCertificates, Config, Listener};
use hashbrown::HashSet;

use super::{Gateway, auth_settings, certificates, logging, note};
use crate::{
    admin::end_certificates,
    auth::{AuthError, OAuthError},
    session::settings::Settings,
    tls::TlsError,
};

/// Why a new configuration was not taken. The old one stays in force, whole.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    OAuth(#[from] OAuthError),
    #[error("tls.certificate cannot be set or removed while the gateway runs; restart it")]
    CertificateOrigin,
}

impl Gateway {
    /// Takes a validated configuration; gives the keys whose change waits for a restart. One call at a time: sessions are
    /// judged by the issuers of this one.
    pub async fn reload(&self, mut new: Config) -> Result<Vec<String>, ReloadError> {
        let old = self.config.load_full();
        let mut waiting = old.restart_keys(&new);
        // What waits for a restart keeps its value until then.
        new.data_dir = old.data_dir.clone();
        new.runtime_dir = old.runtime_dir.clone();
        let asked = std::mem::replace(&mut new.listeners, old.listeners.clone());
        waiting.extend(take_fingerprints(&mut new.listeners, asked));
        waiting.sort();
        new.bus = old.bus.clone();
        new.auth.password_slots = old.auth.password_slots;
        new.auth.password_queue = old.auth.password_queue;
        new.auth.password_cache = old.auth.password_cache;
        new.log.format = old.log.format;
        new.audit.enabled = old.audit.enabled;
        new.acme.http_bind = old.acme.http_bind.clone();
        new.acme.max_http_connections = old.acme.max_http_connections;
        new.tls.min_version = old.tls.min_version;
        new.tls.ciphers = old.tls.ciphers.clone();
        new.tls.session_lifetime = old.tls.session_lifetime;
        new.tls.session_cache = old.tls.session_cache;
        new.tls.server_names = old.tls.server_names.clone();
        // Everything that can fail comes before everything that takes effect.
        let issuers = self.issuers.prepare(&new.oauth)?;
        let authenticator = self.administration.authenticator();
        authenticator.apply(auth_settings(&new))?;
        if let Err(error) = self.reload_certificates(&new) {
            authenticator.apply(auth_settings(&old))?;
            return Err(error);
        }
        self.context.registry.configure(Settings::of(&new));
        logging::set_level(new.log.level);
        self.administration.audit().configure(new.audit.max_entries);
        self.administration.decisions().resize(new.audit.decisions);
        if self.trusts.configure(&new.listeners) {
            let (registry, trusts) = (self.context.registry.clone(), self.trusts.clone());
            let none = HashSet::new();
            tokio::spawn(async move { end_certificates(&registry, &trusts, &none).await });
        }
        self.issuers.install(issuers);
        tokio::spawn(self.issuers.clone().warm_up());
        self.config.store(new.into());
        self.renewals.wake();
        // At the end: everything is in force before others get a turn.
        let ended = self.context.registry.issuers_changed().await;
        if ended > 0 {
            tracing::warn!(target: "postern::audit", connections = ended, "ended: the issuers of their tokens are not configured any more");
        }
        Ok(waiting)
    }

    /// Notes in the audit log that the configuration was read again, or why not.
    pub fn note_reload(&self, outcome: Result<(), &str>) {
        let reason = outcome.err().unwrap_or("done");
        note(&self.administration, "reload of the configuration", reason);
    }

    fn reload_certificates(&self, new: &Config) -> Result<(), ReloadError> {
        if new.tls.certificate.is_some() == self.private_ca.is_some() {
            return Err(ReloadError::CertificateOrigin);
        }
        Ok(self.certificate_files.reload(certificates::sources(new))?)
    }
}

/// Takes over the fingerprints of client certificates where nobody passes who would not pass with the
/// whole of the old or the whole of the new configuration; gives the keys that wait for a restart.
fn take_fingerprints(
    listeners: &mut BTreeMap<String, Listener>,
    mut asked: BTreeMap<String, Listener>,
) -> Vec<String> {
    let mut waiting = Vec::new();
    for (name, listener) in listeners {
        let Some(asked) = asked.remove(name) else {
            continue;
        };
        let now = &mut listener.clients;
        if now.fingerprints == asked.clients.fingerprints {
            continue;
        }
        // An empty list lets every certificate of the CAs pass; the list may have been meant for
        // other CAs than those that still count.
        let opens = asked.clients.fingerprints.is_empty();
        let others_stay = *now
            == ClientCertificates {
                fingerprints: now.fingerprints.clone(),
                ..asked.clients.clone()
            };
        if others_stay && !opens {
            now.fingerprints = asked.clients.fingerprints;
        } else {
            waiting.push(format!("listeners.{name}.client_fingerprints"));
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use broker_config::Fingerprint;

    use super::*;

    fn listeners(change: impl Fn(&mut ClientCertificates)) -> BTreeMap<String, Listener> {
        let mut listeners = Config::default().listeners;
        change(&mut listeners.get_mut("mqtts").unwrap().clients);
        listeners
    }

    #[test]
    fn no_reload_lets_more_pass_than_the_old_or_the_new_configuration_does() {
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let with_one = listeners(|clients| clients.fingerprints = vec![one]);
        let waits = ["listeners.mqtts.client_fingerprints"];
        for (asked, expected, waiting) in [
            (
                listeners(|clients| clients.fingerprints = vec![two]),
                two,
                &[][..],
            ),
            (listeners(|_| {}), one, &waits),
            (
                listeners(|clients| {
                    clients.fingerprints = vec![two];
                    clients.cas.clear();
                }),
                one,
                &waits,
            ),
            (
                listeners(|clients| {
                    clients.fingerprints = vec![one];
                    clients.cas.clear();
                }),
                one,
                &[],
            ),
        ] {
            let mut now = with_one.clone();
            assert_eq!(take_fingerprints(&mut now, asked), waiting);
            assert_eq!(now["mqtts"].clients.fingerprints, [expected]);
        }
        let mut now = listeners(|_| {});
        assert_eq!(take_fingerprints(&mut now, with_one), [""; 0]);
        assert_eq!(now["mqtts"].clients.fingerprints, [one]);
    }
}
