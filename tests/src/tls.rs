//! Whom does a test client trust? TLS client settings from the gateway's own CA file.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// Both versions the gateway speaks.
pub const ALL_VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The certificates in the PEM file `ca`.
pub fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the CA file can be read") {
        roots
            .add(certificate.expect("a PEM certificate"))
            .expect("a CA certificate");
    }
    roots
}

/// A client that trusts the certificates in the PEM file `ca` and nothing else, with session resumption.
pub fn client_config(
    ca: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    Arc::new(client(ca, versions))
}

/// The same for any version, with the application protocols that it offers.
pub fn client_config_with_alpn(ca: &Path, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = client(ca, ALL_VERSIONS);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn client(ca: &Path, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions and provider fit")
        .with_root_certificates(roots(ca))
        .with_no_client_auth()
}
