//! `postern-load`: what can an MQTT broker do, and what does it cost?
//!
//! A load generator that is light enough for the server to be the limit, on one thread by default. Starting servers
//! and comparing them is left to `tests/load/compare`. Exit codes: 0 done, 1 the run failed or `--check` found
//! something, 2 wrong use.

mod backlog;
mod clients;
mod connect;
mod error;
mod idle;
mod link;
mod options;
mod process;
mod publisher;
mod report;
mod run;
mod subscriber;
mod tls;
mod tracker;
mod traffic;
mod wire;

use clap::Parser;
use error::LoadError;
use options::{Options, Pattern, TrafficOptions};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};
use traffic::Shape;

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = runtime(options.pattern.target().threads)
        .map_err(LoadError::Runtime)
        .and_then(|runtime| runtime.block_on(start(&options.pattern)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("postern-load: --check: not every message arrived once and in order");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("postern-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the pattern, prints its report, and tells whether it passed.
async fn start(pattern: &Pattern) -> Result<bool, LoadError> {
    let json = pattern.target().json;
    match pattern {
        Pattern::OneToOne(options) => exchange(pattern.name(), Shape::OneToOne, options).await,
        Pattern::FanIn(options) => exchange(pattern.name(), Shape::FanIn, options).await,
        Pattern::FanOut(options) => exchange(pattern.name(), Shape::FanOut, options).await,
        Pattern::Backlog(options) => {
            let report = backlog::backlog(options).await?;
            print(json, &report)?;
            Ok(report.is_clean() || !options.check)
        }
        Pattern::Idle(options) => print(json, &idle::idle(options).await?).map(|()| true),
        Pattern::Connect(options) => print(json, &connect::connect(options).await?).map(|()| true),
    }
}

async fn exchange(
    name: &'static str,
    shape: Shape,
    options: &TrafficOptions,
) -> Result<bool, LoadError> {
    let report = traffic::traffic(name, shape, options).await?;
    print(options.target.json, &report)?;
    Ok(report.is_clean() || !options.check)
}

fn print(json: bool, report: &(impl Display + Serialize)) -> Result<(), LoadError> {
    let text = if json {
        serde_json::to_string(report)?
    } else {
        report.to_string()
    };
    writeln!(std::io::stdout(), "{text}").map_err(LoadError::Output)
}

fn runtime(threads: u16) -> std::io::Result<Runtime> {
    match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        n => Builder::new_multi_thread()
            .worker_threads(usize::from(n))
            .enable_all()
            .build(),
    }
}
