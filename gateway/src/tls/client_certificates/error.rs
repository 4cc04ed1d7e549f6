//! Why does a client certificate not pass?

use super::CHAIN_MAX;
use broker_config::Fingerprint;
use rustls::{CertificateError, Error, OtherError};

/// Why a client certificate does not pass at this moment. For the log; the client gets an alert.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientCertificateError {
    #[error("no client certificate was presented")]
    Missing,
    #[error("the client certificate is not X.509")]
    NotX509,
    #[error("the client certificate and its chain have {0} bytes; at most {CHAIN_MAX} are taken")]
    TooLong(usize),
    #[error(
        "the client certificate with the SHA-256 fingerprint {0} is not in client_fingerprints"
    )]
    NotListed(Fingerprint),
    #[error("no client certificate passes, because the revocation list {0}")]
    Withheld(String),
    #[error("the client certificate is refused: {0}")]
    Refused(Error),
    #[error("the client certificate names nobody: {0}")]
    Name(&'static str),
}

/// In a handshake: rustls picks the alert by the kind of error (RFC 8446, 6.2).
impl From<ClientCertificateError> for Error {
    fn from(error: ClientCertificateError) -> Error {
        match error {
            ClientCertificateError::Missing => Error::NoCertificatesPresented,
            ClientCertificateError::NotX509 => CertificateError::BadEncoding.into(),
            ClientCertificateError::Refused(error) => error,
            ClientCertificateError::NotListed(_)
            | ClientCertificateError::Withheld(_)
            | ClientCertificateError::TooLong(_)
            | ClientCertificateError::Name(_) => {
                CertificateError::Other(OtherError(std::sync::Arc::new(error))).into()
            }
        }
    }
}
