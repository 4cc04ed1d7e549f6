//! What did the old broker allow? Reads Mosquitto's files, says what of them means the same here, and plans the accounts,
//! rules and settings that do.
//!
//! Nothing is changed by this room: `admin` takes the plan over, and `cli` writes the settings. What a rule of ours means
//! is `acl`'s business; the meaning of Mosquitto's files is evaluated here independently, so that [`replay`] can set the
//! one against the other.
//!
//! What is planned never allows more than Mosquitto did. Where it would, because a restriction has no counterpart here,
//! that is a [`Kind::Wider`] finding, and the operator is asked.

mod acl_file;
mod conf;
mod dynsec;
mod dynsec_rules;
mod files;
mod meaning;
mod options;
mod passwords;
mod plan;
mod probes;
mod replay;
mod report;
mod settings;

pub use plan::{Choices, Plan, plan};
pub use replay::{Class, Difference, Replay, replay};
pub use report::{Finding, Kind};

use std::path::PathBuf;

use files::Place;

/// Why the old broker's files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "cannot read {path}: {source}; run the command as a user who may, and name the file as Mosquitto does"
    )]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} has more than {max} bytes, which is no file of this kind; name another")]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{path} includes more than {max} files; name the one to import")]
    TooManyFiles { path: PathBuf, max: usize },
    #[error("{place}: {problem}")]
    Line { place: Place, problem: String },
    #[error("{path} cannot be read as a dynamic security file: {problem}")]
    Dynsec { path: PathBuf, problem: String },
    #[error(
        "the listeners {0} have different users or rules, and there is one set of both here: choose one with --listener PORT, \
         or import them into two gateways"
    )]
    Listeners(String),
    #[error("no listener of {path} has port {port}; its listeners: {known}")]
    NoListener {
        path: PathBuf,
        port: u16,
        known: String,
    },
}

#[cfg(test)]
mod tests;
