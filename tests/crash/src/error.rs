//! Why could a run not be judged? Everything here is worded for the person who started it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    #[error("{} is missing: build it with cargo build -p gateway, or name another with --binary", .0.display())]
    NoBinary(PathBuf),
    #[error("cannot {step} {}: {cause}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("no free port on 127.0.0.1: {0}")]
    Port(io::Error),
    #[error("the gateway ended with {status} instead of getting ready; the end of its log:\n{log}")]
    NotReady { status: ExitStatus, log: String },
    #[error("the gateway was not ready after {seconds} s; the end of its log:\n{log}")]
    Slow { seconds: u64, log: String },
    #[error(transparent)]
    Disk(#[from] postern_tests::disk::DiskError),
    #[error("a client of the run died: {0}")]
    Client(String),
}
