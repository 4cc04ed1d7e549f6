//! Why did a run fail? One error per cause, worded for the person who started it.

use crate::wire::WireError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{option} is {value}: {remedy}")]
    Option {
        option: &'static str,
        value: String,
        remedy: &'static str,
    },
    #[error("cannot read {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("{client}: cannot {step} {address}: {source}")]
    Connect {
        client: String,
        step: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("{client}: {what} within {seconds} s; is the server alive and the address right?")]
    Timeout {
        client: String,
        what: &'static str,
        seconds: f64,
    },
    #[error(
        "{client}: the server refused CONNECT with code {code:#04x}; check user name, password and limits"
    )]
    Refused { client: String, code: u8 },
    #[error(
        "{client}: the server answered SUBSCRIBE to {filter} with {code:#04x}, QoS {qos} was asked for"
    )]
    Subscribe {
        client: String,
        filter: String,
        qos: u8,
        code: u8,
    },
    #[error("{client}: the server sent DISCONNECT with reason code {code:#04x}")]
    Disconnected { client: String, code: u8 },
    #[error("{client}: the connection broke: {source}")]
    Broken { client: String, source: io::Error },
    #[error("{client}: {source}")]
    Wire { client: String, source: WireError },
    #[error("{client}: the server sent {what}")]
    Protocol { client: String, what: String },
    #[error("cannot measure the server from {}: {why}", path.display())]
    Process { path: PathBuf, why: String },
    #[error("a client task died: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("the report cannot be printed: {0}")]
    Output(io::Error),
    #[error("the report cannot be encoded: {0}")]
    Json(#[from] serde_json::Error),
    #[error("no threads to run on: {0}")]
    Runtime(io::Error),
}
