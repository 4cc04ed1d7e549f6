//! Who vouches for clients: a CA, and the realm of those it vouches for (rule I1).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_config::ClientCa;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DistinguishedName, RootCertStore};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::tls::fingerprint::{hex, sha256};
use crate::tls::private_ca::PrivateCa;
use crate::tls::{TlsError, pem, server_config};

/// The realm of our own accounts and of our own CA.
const LOCAL_REALM: &str = "local";

const OWN_REMEDY: &str =
    "make the private CA with `postern ca init`, or name another CA in client_cas";
const FILE_REMEDY: &str = "put the CA's certificate there in PEM, or correct client_cas";

/// One entry of `client_cas`.
pub(super) struct Authority {
    realm: Arc<str>,
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// Reads the certificates. For our own CA also the path of its revocation list, which counts
    /// without being asked for.
    ///
    /// # Errors
    /// [`TlsError::Missing`], [`TlsError::Read`] or [`TlsError::Damaged`].
    pub(super) fn open(
        ca: &ClientCa,
        data_directory: &Path,
    ) -> Result<(Authority, Option<PathBuf>), TlsError> {
        let (path, remedy, list) = match ca {
            ClientCa::Own => {
                let path = PrivateCa::certificate_in(data_directory);
                if !path.exists() {
                    let remedy = OWN_REMEDY;
                    return Err(TlsError::Missing { path, remedy });
                }
                let list = PrivateCa::revocation_list_in(data_directory);
                (path, OWN_REMEDY, Some(list))
            }
            ClientCa::File { path, .. } => (path.clone(), FILE_REMEDY, None),
        };
        let certificates = pem::read_certificates(&path, remedy)?;
        let damaged = |problem: String| TlsError::Damaged {
            path: path.clone(),
            problem,
            remedy,
        };
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(|error| damaged(format!("not a usable CA certificate ({error})")))?;
        }
        let first = certificates.first().map(|first| public_key_digest(first));
        let realm = match ca {
            ClientCa::Own => LOCAL_REALM.into(),
            ClientCa::File {
                realm: Some(realm), ..
            } => realm.as_str().into(),
            ClientCa::File { realm: None, .. } => first
                .flatten()
                .ok_or_else(|| damaged("not an X.509 certificate".to_owned()))?
                .into(),
        };
        if let ClientCa::File { realm: None, .. } = ca {
            tracing::info!(path = %path.display(), %realm, "clients of this CA have this realm");
        }
        let authority = Authority {
            realm,
            certificates,
            roots: Arc::new(roots),
        };
        Ok((authority, list))
    }

    pub(super) fn realm(&self) -> &Arc<str> {
        &self.realm
    }

    pub(super) fn subjects(&self) -> Vec<DistinguishedName> {
        self.roots.subjects()
    }

    /// Whether one of its certificates signed this list.
    pub(super) fn signed(&self, list: &CertificateRevocationList<'_>) -> bool {
        self.certificates.iter().any(|certificate| {
            X509Certificate::from_der(certificate).is_ok_and(|(_, ca)| {
                ca.subject().as_raw() == list.issuer().as_raw()
                    && list.verify_signature(ca.public_key()).is_ok()
            })
        })
    }

    /// A verifier with these revocation lists, one of each CA. What no list speaks of passes: that every list that
    /// is wanted is there is checked by the caller. A list that ended stays in force, because one
    /// that is late revokes more than none.
    ///
    /// # Errors
    /// A list that rustls cannot parse.
    pub(super) fn verifier(
        &self,
        lists: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), server_config::provider())
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| error.to_string())
    }
}

/// A realm that stays the same as long as the CA's key does: `ca-` and 16 hexadecimal digits of
/// its SHA-256.
fn public_key_digest(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, x509) = X509Certificate::from_der(certificate).ok()?;
    let digits = hex(&sha256(x509.public_key().raw)[..8]);
    Some(format!("ca-{digits}"))
}
