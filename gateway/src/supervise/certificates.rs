//! Which certificates does the configuration ask for, and who looks after their files?

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use broker_config::Config;

use super::StartError;
use crate::admin::CertificateDesk;
use crate::metrics::Metrics;
use crate::tls::{
    Certificate, CertificateFiles, CertificateSource, CertificateStore, Certificates, PrivateCa,
    server_names,
};

/// What is served, and where it comes from.
pub(super) struct Served {
    pub certificates: Arc<Certificates>,
    pub files: Arc<CertificateFiles>,
    /// Only while `[tls]` names no files.
    pub private_ca: Option<Arc<PrivateCa>>,
}

/// Loads everything at start: the operator's files, and without a certificate in `[tls]` one of the
/// built-in CA.
pub(super) async fn open(config: &Config, directory: &Path) -> Result<Served, StartError> {
    let certificates = Certificates::new();
    let files = Arc::new(CertificateFiles::new(certificates.clone()));
    let private_ca = match config.tls.certificate {
        Some(_) => None,
        None => {
            let names = server_names(&config.tls.server_names)?;
            let directory = directory.to_owned();
            // File I/O and key generation.
            let opened = tokio::task::spawn_blocking(move || PrivateCa::open(&directory, names));
            let ca = Arc::new(opened.await??);
            certificates.load_default(&ca.source())?;
            Some(ca)
        }
    };
    files.start(sources(config))?;
    Ok(Served {
        certificates,
        files,
        private_ca,
    })
}

/// The operator's files, by slot.
pub(super) fn sources(config: &Config) -> BTreeMap<String, CertificateSource> {
    let default = (&config.tls.certificate, &config.tls.private_key);
    let own = config.certificates.iter();
    std::iter::once((Certificates::DEFAULT_SLOT, default))
        .chain(own.map(|(name, own)| (name.as_str(), (&own.certificate, &own.private_key))))
        .filter_map(|(name, (certificate, key))| {
            let source = CertificateSource::files(certificate.as_ref()?, key.as_ref()?);
            Some((name.to_owned(), source))
        })
        .collect()
}

/// Looks at the files every `tls.watch_interval`, and at the time that certificates have left.
pub(super) async fn watch(
    certificates: Arc<Certificates>,
    files: Arc<CertificateFiles>,
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<Metrics>,
) {
    let mut looked = Instant::now();
    loop {
        let expire = certificates
            .slots()
            .values()
            .map(|certificate| certificate.not_after())
            .min();
        let left = expire.map(|expire| expire.duration_since(SystemTime::now()));
        let left = left.and_then(Result::ok).unwrap_or_default();
        metrics.certificate_seconds_left.set(left.as_secs());
        metrics
            .certificates_failing
            .set(certificates.problems().len() as u64);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let interval = config.load().tls.watch_interval;
        if interval.is_zero() || looked.elapsed() < interval {
            continue;
        }
        looked = Instant::now();
        let files = files.clone();
        match tokio::task::spawn_blocking(move || files.look(Instant::now())).await {
            Ok(changes) => {
                metrics.certificate_reloads.add(changes.installed);
                metrics.certificate_reloads_failed.add(changes.rejected);
            }
            Err(error) => tracing::error!(%error, "a look at the certificate files died"),
        }
    }
}

/// The certificates that a gateway would serve which does not run now. What cannot be loaded is a
/// problem of its slot.
pub fn certificates_at_rest(config: &Config, directory: &Path) -> Arc<CertificateDesk> {
    let (certificates, store) = (Certificates::new(), CertificateStore::new(directory));
    let put = |slot: &str, loaded| match loaded {
        Ok(Some(certificate)) => certificates.install(slot, certificate),
        Ok(None) => {}
        Err(error) => {
            let error: crate::tls::TlsError = error;
            certificates.set_problem(slot, Some(error.to_string()));
        }
    };
    let mut files = sources(config);
    let built_in = PrivateCa::source_in(directory);
    if built_in.certificate().exists() {
        files
            .entry(Certificates::DEFAULT_SLOT.to_owned())
            .or_insert(built_in);
    }
    for (slot, source) in files {
        put(&slot, Certificate::load(&source).map(Some));
    }
    for slot in store.slots().unwrap_or_default() {
        put(&slot, store.load(&slot));
    }
    Arc::new(CertificateDesk::new(certificates, store))
}
