//! How does the gateway get certificates from a CA, and keep them fresh?
//!
//! ACME (RFC 8555) by `instant-acme`, with HTTP-01, TLS-ALPN-01 (RFC 8737) and DNS-01, IP addresses
//! (RFC 8738) and renewal information (RFC 9773). [`Renewals`] is the loop that looks after every
//! certificate that the gateway gets itself, those of the private CA included (rule C4);
//! [`Challenges`] is what listeners answer the CA with. Sockets are `listen`'s; which certificate a
//! handshake gets is [`super::Certificates`]'.

use std::path::PathBuf;
use std::time::SystemTime;

mod account;
mod attempt;
mod challenges;
mod directory;
mod dns;
mod hook;
mod key;
mod order;
mod preflight;
mod problem;
mod renewals;
mod schedule;
mod settings;
mod state;
mod transport;

pub use account::{account_files, is_account_file};
pub(in crate::tls) use challenges::is_validation;
pub use challenges::{Answered, Challenges};
pub use preflight::{Finding, Preflight, Severity};
pub use renewals::{Doors, Parts, PrivateRenewal, RenewalStatus, Renewals, Request, find};
pub use settings::{Ca, Challenge, DnsHook, ExternalAccount, KeyType, Plan, Wanted};

use super::TlsError;
use problem::Refusal;

/// Why there is no new certificate. Each message says what to do; none holds a key, a token or the
/// value of a challenge.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error(transparent)]
    Tls(#[from] TlsError),

    #[error("the CA at {directory} cannot be reached: {cause}")]
    Unreachable { directory: String, cause: String },

    #[error("{0}")]
    Refused(Box<Refusal>),

    #[error("the CA answered with what cannot be understood: {0}")]
    Nonsense(String),

    #[error("the CA could not verify {0}")]
    NotProven(String),

    #[error(
        "the CA offers no {challenge} challenge for {name}; it offers {offered}: set another challenge"
    )]
    NoChallenge {
        challenge: Challenge,
        name: String,
        offered: String,
    },

    #[error(
        "the CA wants proof of {name}, which was not ordered: nothing is proven to it; look whether \
         acme.directory is the CA that you mean"
    )]
    Stranger { name: String },

    #[error("the CA has no profile {profile:?}; it has {offered}: correct or remove `profile`")]
    NoProfile { profile: String, offered: String },

    #[error("the DNS hook {program} {problem}")]
    Hook { program: PathBuf, problem: String },

    #[error("not ordered, because it would be in vain: {0}")]
    Preflight(String),

    #[error("the certificate that the CA issued is of no use: {0}")]
    Unusable(String),

    #[error("cannot read the MAC key of the external account in {path}: {problem}")]
    ExternalAccount { path: PathBuf, problem: String },

    #[error("the CA was not done after {0} s")]
    TooSlow(u64),
}

impl AcmeError {
    /// Whether asking again soon may help and costs nothing at the CA.
    fn is_transient(&self) -> bool {
        match self {
            AcmeError::Unreachable { .. } => true,
            AcmeError::Refused(refusal) => refusal.is_transient(),
            _ => false,
        }
    }

    /// Whether the order that it happened to can become no certificate any more. Any other may: what
    /// the CA still works on, or will allow later, is kept with its key.
    fn ends_order(&self) -> bool {
        match self {
            AcmeError::NotProven(_)
            | AcmeError::NoChallenge { .. }
            | AcmeError::Stranger { .. }
            | AcmeError::Unusable(_) => true,
            AcmeError::Refused(refusal) => refusal.is_about_key(),
            _ => false,
        }
    }

    /// When the CA wants to be asked again, if it said so.
    fn retry_after(&self) -> Option<SystemTime> {
        match self {
            AcmeError::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}
