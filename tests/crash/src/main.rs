//! `postern-crash`: does the gateway keep what it acknowledged, however often it is killed?
//!
//! Exit codes: 0 the promise was kept (with `--expect-loss`: it was not), 1 otherwise, 2 wrong use.

use std::process::ExitCode;

use clap::Parser;
use postern_crash::{CrashError, Options, Report, run};

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("postern-crash: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(crash(&options)) {
        Ok(report) => {
            if !options.quiet {
                print!("{report}");
            }
            judge(&report, options.expect_loss)
        }
        Err(error) => {
            eprintln!("postern-crash: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn crash(options: &Options) -> Result<Report, CrashError> {
    run(options).await
}

fn judge(report: &Report, expect_loss: bool) -> ExitCode {
    let problem = match expect_loss {
        false if report.is_clean() => return ExitCode::SUCCESS,
        false => "the promise was broken",
        true if report.shows_loss() => return ExitCode::SUCCESS,
        true => "--expect-loss, and nothing was lost",
    };
    eprintln!("postern-crash: {problem}");
    ExitCode::FAILURE
}
