//! Which certificate, which records?
//!
//! This room owns the gateway's certificates (files of the operator or the private CA), the rustls
//! configuration of a listener, and the choice of records by what a ClientHello asks for. It does
//! not open sockets and sets no deadlines (`listen`), and it decides nothing about who a client is
//! (`auth`).

use std::io;
use std::path::PathBuf;

mod accept;
pub mod acme;
mod atomic_file;
mod certificate;
mod certificate_files;
mod certificate_store;
mod certificates;
mod chain;
mod ciphers;
pub mod client_certificates;
mod client_hello;
pub mod fingerprint;
mod pem;
mod pins;
pub mod private_ca;
mod resumption;
mod server_config;
mod subject_name;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use accept::{Tap, TlsAcceptor, TlsStream, is_challenge};
pub use certificate::{Certificate, CertificateSource, unix_seconds};
pub use certificate_files::{CertificateFiles, Changes};
pub use certificate_store::{CertificateStore, PrivateKeyPem};
pub use certificates::Certificates;
pub use chain::{ChainLink, KeyKind};
pub use ciphers::cipher_suites;
pub use client_certificates::{
    ClientCertificate, ClientCertificateError, ClientTrust, ClientTrusts,
};
pub use client_hello::{ClientHelloFacts, client_hello_facts};
pub use pins::Pins;
pub use private_ca::{PrivateCa, Renewal};
pub use server_config::{Alpn, MinVersion, ServerConfigs, ServerTlsSettings};
pub use subject_name::{SubjectName, server_names};

/// Everything that can go wrong in this room. Each message names the thing, its value and the
/// remedy; none contains key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },

    #[error("cannot write {path}: {source}; check the owner and the free space of its directory")]
    Write { path: PathBuf, source: io::Error },

    #[error(
        "everybody on this machine can read the private key {path}, and its permissions cannot be \
         changed: {source}; `chmod o-rwx` it, and replace it if others use the machine"
    )]
    Exposed { path: PathBuf, source: io::Error },

    #[error("{path} is damaged: {problem}; {remedy}")]
    Damaged {
        path: PathBuf,
        problem: String,
        remedy: &'static str,
    },

    #[error("{path} is missing; {remedy}")]
    Missing { path: PathBuf, remedy: &'static str },

    #[error("the private key {key} does not belong to the certificate {certificate}; {remedy}")]
    KeyMismatch {
        certificate: PathBuf,
        key: PathBuf,
        remedy: &'static str,
    },

    #[error("the certificate {path} {problem}; {remedy}")]
    NotValid {
        path: PathBuf,
        problem: String,
        remedy: &'static str,
    },

    #[error(
        "{path} is not a chain: certificate {certificate} was issued by {issuer:?}, but the next one \
         is {found:?}; put the leaf first, and behind each certificate the one that signed it"
    )]
    Chain {
        path: PathBuf,
        /// Counted from 1.
        certificate: usize,
        issuer: String,
        found: String,
    },

    #[error(
        "{slot:?} cannot be the name of a certificate; use up to 32 lower-case letters, digits, - \
         and _, a letter first"
    )]
    Slot { slot: String },

    #[error(
        "there is no previous certificate of {slot:?} to go back to: it is kept from the first \
         renewal on"
    )]
    NoPrevious { slot: String },

    #[error(
        "server name {name:?} cannot stand in a certificate: {problem}; give a DNS name (in its \
         xn-- form) or an IP \
         address"
    )]
    ServerName { name: String, problem: &'static str },

    #[error(
        "the system clock says it is before 2025 ({unix_seconds} s since 1970), so certificates \
         made now would be \
         worthless; set the clock and start again"
    )]
    Clock { unix_seconds: i64 },

    #[error("{bytes} bytes cannot be the largest TLS record; give a number from 64 to 16384")]
    RecordSize { bytes: usize },

    #[error("{0}")]
    Request(String),

    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),

    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),

    #[error("the system's random number generator failed")]
    Random,
}
