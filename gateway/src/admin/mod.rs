//! What does the operator see and change? Accounts and policy, by commands that take effect on a running gateway.
//!
//! A [`Command`] is executed by [`Administration`], whether it arrives over the control socket ([`ControlServer`]) or
//! the command line executes it itself while no gateway runs. Who asks is checked at the socket; what the change means
//! for live sessions is told to [`LiveSessions`], which the session registry answers.

mod administration;
mod backup;
mod bans;
mod broker;
mod certificates;
mod client;
mod command;
mod control;
mod device;
mod device_settings;
mod first_account;
mod import;
mod live;
mod peer;
#[cfg(test)]
mod policy_tests;
mod sessions;
pub mod sightings;
pub mod sys;
mod upgrades;

pub use administration::{Administration, DeviceDesk, PolicyChange, Question};
pub use backup::{Backup, Part, PartKind, PartLine};
pub use broker::Broker;
pub use certificates::{
    CertificateDesk, CertificateDetails, CertificateFacts, CertificateLine, ChainLine, date,
};
pub use client::ControlClient;
pub use command::{
    Answer, BanLine, CaLine, CertificateKind, Command, IssuedLine, NewPassword, Reply,
    RevocationReason, RuleLine, Secret, UserLine,
};
pub use control::ControlServer;
pub use device::{
    CertificateRequest, DeviceCa, DeviceCommand, DeviceGiven, DeviceLine, GivenCertificate, Place,
    ReachedBy,
};
pub use device_settings::settings_line;
pub use first_account::FirstAccount;
pub use import::{Import, ImportedUser};
pub use live::{LiveSessions, SessionOf};
pub use sessions::{Sessions, end_certificates};

use std::path::PathBuf;

use crate::acl::AclError;
use crate::auth::AuthError;
use crate::store::StoreError;
use crate::tls::TlsError;

/// Why a command was not executed, or administration could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Acl(#[from] AclError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{count} roles are too many for one user; at most {max}")]
    TooManyRoles { count: usize, max: usize },
    #[error(
        "the change is stored, but the running gateway could not read it back ({0}); restart the gateway"
    )]
    NotLive(StoreError),
    #[error(
        "the command stopped half-way; look into the log of the gateway, and list what it was to change"
    )]
    Died,
    #[error("cannot {action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "the path of the control socket {path} has {length} bytes, and a socket's path at most 107; set runtime_dir to a shorter one"
    )]
    SocketPath { path: PathBuf, length: usize },
    #[error("the gateway at {path} does not answer: {problem}")]
    Unanswered { path: PathBuf, problem: String },
    #[error("a backup is being made already; wait until it is done")]
    BackupUnderWay,
    #[error(
        "a backup of {path} needs {needed} MiB of free space there for a while, and {free} MiB are free; make room"
    )]
    NoRoom {
        path: PathBuf,
        /// MiB
        needed: u64,
        /// MiB
        free: u64,
    },
    #[error(
        "{count} of the users to import exist already ({names}); leave them out with --skip NAME, or have them replaced with --replace"
    )]
    UsersExist { count: usize, names: String },
    #[error("the user {name:?} cannot be imported: {source}")]
    ImportedHash {
        name: String,
        source: crate::auth::ImportedHashError,
    },
    #[error("{what} cannot be imported at once: {count} are more than {max}; import fewer")]
    TooMuch {
        what: &'static str,
        count: usize,
        max: usize,
    },
    #[error("an import is being made already; wait until it is done")]
    ImportUnderWay,
    #[error("{name:?} is a device: use `postern device {verb} {name}`")]
    IsDevice { name: String, verb: &'static str },
    #[error(
        "no listener serves MQTT over TLS on a port that is known: turn one on in the configuration, or say with --port \
         where devices reach the gateway"
    )]
    NoDoor,
    #[error("there is no server certificate yet; start the gateway once")]
    NoServerCertificate,
    #[error("there is no private CA; make one with `postern ca init`")]
    NoCa,
    #[error("{days} days are no life for this certificate; give 1 to {longest}")]
    Days { days: u32, longest: u32 },
    #[error(
        "there is no certificate {0:?} that is not revoked already; `postern ca list` shows names and serial numbers"
    )]
    NoCertificate(String),
    #[error(
        "it is revoked in the register, but the revocation list could not be signed, so it is still accepted: {0}; \
         correct this and run `postern ca crl`"
    )]
    ListNotSigned(Box<AdminError>),
    #[error("no gateway runs here, and bans live in a running one: start it first")]
    NoGateway,
    #[error(
        "no gateway runs here, and a dry run is made on what a running one has decided: start it first"
    )]
    NoDecisions,
    #[error(
        "no decisions are remembered: set audit.decisions in the configuration to a number above 0"
    )]
    DecisionsOff,
    #[error("no audit log is kept: audit.enabled is false in the configuration")]
    AuditOff,
    #[error("{0:?} is neither an address nor a network; write 192.0.2.1, or 192.0.2.0/24")]
    NotANetwork(String),
    #[error(
        "{max} bans of the operator are the most; lift one, or put networks into bans.deny of the configuration"
    )]
    TooManyBans { max: usize },
    #[error("{0}")]
    Refused(String),
}
