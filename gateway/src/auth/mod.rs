//! Who is this? Turns what a client presents into a [`Principal`], or refuses it.
//!
//! Chosen passwords, generated secrets, client certificates, tokens of configured issuers, and anonymous clients where they
//! are allowed. What is presented selects exactly one method, with no fall-through (I2). Whether a certificate is good is
//! `tls`'s part, whether a token is that of [`oauth`]. What the principal may do is `acl`'s business; counting failures and
//! banning addresses is `listen`'s; accounts are kept by `store` and changed through `admin`.
//!
//! # What a login costs, and what it tells
//!
//! A correct generated secret costs one HMAC, and so does a chosen password that was verified before in this process
//! (I3). Every *wrong* answer costs one argon2id hash in the pool, whatever the name: a chosen password because it
//! must, an unknown name and a wrong generated secret because otherwise the time would tell which names exist and of
//! what kind they are (I2). That price is paid by guessers, in a bounded low-priority pool; a fleet with good secrets
//! never enters it.
//!
//! A hash imported from Mosquitto costs something else than one of ours. While there is any, every wrong answer costs one
//! of each kind, so that neither its cost nor its absence tells a name; and it is replaced by one of ours as soon as its
//! user logs in.

mod authenticator;
mod by_token;
mod cache;
mod certificate;
mod imported;
mod name;
pub mod oauth;
mod password;
mod pool;
mod principal;
mod secret;
mod upgrade;
mod users;

pub use authenticator::{Authenticator, Credentials, Refusal, Settings};
pub use certificate::Certificate;
pub use imported::{ImportedHashError, check_imported, check_imported_together, is_imported};
pub use name::{LOCAL_REALM, check_device_id, check_role, check_user_name};
pub use oauth::{Asker, Issuers, Next, OAuthError, Token, TokenLogin, TokenProblem, TokenRefusal};
pub use pool::Wrong;
pub use principal::Principal;
pub use secret::{SecretKey, generate_device_secret, generate_secret};
pub use upgrade::{Upgrade, Upgrades};
pub use users::{Reservation, Users};

use std::path::PathBuf;

/// Why this room could not be set up, or would not take a name or a password.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the user name {name:?} {problem}")]
    UserName { name: String, problem: &'static str },
    #[error("the device id {id:?} {problem}")]
    DeviceId { id: String, problem: &'static str },
    #[error("the role {name:?} {problem}")]
    Role { name: String, problem: &'static str },
    #[error("the password {0}")]
    Password(&'static str),
    #[error("too many passwords wait to be hashed; try again in a few seconds")]
    Busy,
    #[error("the password could not be hashed")]
    Hashing,
    #[error(
        "cannot {action} {path}: {source}; check that the data directory is writable and has free space"
    )]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a key file of 64 hexadecimal digits: restore it from a backup")]
    KeyFormat { path: PathBuf },
    #[error(
        "{path} is missing, and generated passwords in the accounts database were made with it: restore it from the \
         backup that the database came from"
    )]
    KeyMissing { path: PathBuf },
    #[error(
        "{path} is not the key that generated passwords in the accounts database were made with: restore the key and \
         the database from the same backup"
    )]
    KeyMismatch { path: PathBuf },
    #[error("the operating system gave no random bytes")]
    Random,
    #[error("cannot start a thread for password hashing: {0}; raise the limit on tasks")]
    Thread(std::io::Error),
}
