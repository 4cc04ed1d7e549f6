//! What is looked after where clients have certificates: revocation lists that change, certificates that expire while
//! their client is connected, and the private CA's own register and list.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hashbrown::HashSet;

use crate::{
    admin::{Administration, end_certificates},
    session::registry::Registry,
    tls::ClientTrusts,
};

/// Between two looks at the files: how long a list that was replaced may stay without effect.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks at the register: far less than a revocation list lives.
const KEEP: Duration = Duration::from_secs(600);

/// What was revoked while the gateway was down counts before anybody hears of those who were connected (P3).
pub(super) async fn discredit_revoked(registry: &Arc<Registry>, administration: &Administration) {
    match administration.revoked_fingerprints().await {
        Ok(revoked) if revoked.is_empty() => {}
        Ok(revoked) => {
            let revoked: HashSet<[u8; 32]> = revoked.into_iter().collect();
            registry
                .certificates_changed(|certificate| !revoked.contains(&certificate.fingerprint))
                .await;
        }
        Err(error) => tracing::error!(%error, "which certificates are revoked is not known"),
    }
}

/// Looks at lists and at the clock. Waits for nobody's turn: what is revoked ends at once. Never ends.
pub(super) async fn watch(registry: Arc<Registry>, trusts: Arc<ClientTrusts>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !trusts.is_empty() {
            let reading = trusts.clone();
            // File I/O.
            let changed = tokio::task::spawn_blocking(move || reading.refresh()).await;
            if changed.unwrap_or(false) {
                end_certificates(&registry, &trusts, &HashSet::new()).await;
            }
            let expired = registry.certificates_expired(SystemTime::now());
            let ended = &registry.metrics().client_certificates_ended;
            ended.add(expired as u64);
        }
    }
}

/// Looks after the private CA, which may have to wait for an administrator's turn. Never ends.
pub(super) async fn keep(administration: Arc<Administration>) {
    loop {
        tokio::time::sleep(KEEP).await;
        keep_ca(&administration).await;
    }
}

/// A CA whose key cannot be read signs nothing; what it has signed serves on.
pub(super) async fn keep_ca(administration: &Administration) {
    if let Err(error) = administration.keep_ca().await {
        tracing::error!(%error, "the private CA's list of revoked certificates was not signed anew");
    }
}
