//! Why an import came to nothing before it began.

use std::path::PathBuf;

use super::files::Place;

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
