//! Which TLS does the generator speak? One client configuration per session cache, made from the options.

use crate::error::LoadError;
use crate::options::{KeyExchange, TargetOptions, TlsVersion};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;

/// What is needed to start TLS towards the server.
#[derive(Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Tls {
    /// `None` without `--tls`. Sessions are never resumed until [`Tls::with_own_cache`].
    ///
    /// # Errors
    /// [`LoadError`] if the trusted certificates cannot be read or no common version, suite and group is left.
    pub fn new(options: &TargetOptions) -> Result<Option<Self>, LoadError> {
        let (true, Some(path)) = (options.tls, &options.cafile) else {
            return Ok(None);
        };
        let file_error = |why: String| LoadError::File {
            path: path.clone(),
            why,
        };
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|e| file_error(e.to_string()))?
        {
            let certificate = certificate.map_err(|e| file_error(e.to_string()))?;
            roots
                .add(certificate)
                .map_err(|e| file_error(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(file_error("it holds no PEM certificate".to_owned()));
        }
        let version = match options.tls_version {
            TlsVersion::V12 => &rustls::version::TLS12,
            TlsVersion::V13 => &rustls::version::TLS13,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider(options)?))
            .with_protocol_versions(&[version])
            .map_err(|e| LoadError::Tls(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = options
            .server_name
            .clone()
            .unwrap_or_else(|| options.host.clone());
        let name =
            ServerName::try_from(name).map_err(|e| LoadError::Tls(format!("server name: {e}")))?;
        Ok(Some(Self {
            config: Arc::new(config),
            name,
        }))
    }

    /// The same configuration with a session cache of its own, for one client that comes back.
    pub fn with_own_cache(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(8);
        Self {
            config: Arc::new(config),
            name: self.name.clone(),
        }
    }
}

fn provider(options: &TargetOptions) -> Result<CryptoProvider, LoadError> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![match options.key_exchange {
        KeyExchange::X25519 => aws_lc_rs::kx_group::X25519,
        KeyExchange::P256 => aws_lc_rs::kx_group::SECP256R1,
        KeyExchange::X25519mlkem768 => aws_lc_rs::kx_group::X25519MLKEM768,
    }];
    if let Some(wanted) = &options.cipher_suite {
        let known: Vec<String> = provider
            .cipher_suites
            .iter()
            .map(|s| format!("{:?}", s.suite()))
            .collect();
        provider
            .cipher_suites
            .retain(|suite| format!("{:?}", suite.suite()) == *wanted);
        if provider.cipher_suites.is_empty() {
            return Err(LoadError::Tls(format!(
                "--cipher-suite is {wanted}; known are {}",
                known.join(", ")
            )));
        }
    }
    Ok(provider)
}
