//! The command line: one file per verb, and how a verb reaches the accounts.

mod acl;
mod output;
mod prompt;
mod reach;
mod user;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::admin::AdminError;
use crate::data_dir::{DataDir, DataDirError};
use reach::Reach;

/// Postern, a self-hosted MQTT TLS gateway
#[derive(Debug, Parser)]
#[command(name = "postern", version)]
pub struct Cli {
    /// The data directory of the gateway to talk to
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add, change and list user accounts
    User(user::Args),
    /// Allow, deny and explain what clients may publish and subscribe to
    Acl(acl::Args),
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(
        "there are no accounts in {0} yet: start the gateway first, or name its directory with --data-dir"
    )]
    NoAccounts(PathBuf),
    #[error(
        "the data directory {path} is in use by {holder}, which does not answer on {socket}: try again, or stop it"
    )]
    Unreachable {
        path: PathBuf,
        holder: String,
        socket: PathBuf,
    },
    #[error("{0} is closed to this user: run the command as root, or join the group postern")]
    Forbidden(PathBuf),
    #[error("{0}")]
    Password(&'static str),
    #[error("cannot read the password: {0}")]
    Input(io::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// The whole program: parses the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("postern: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime
        .block_on(dispatch(cli))
        .unwrap_or_else(|error| match error {
            // The reader of our output has what it wanted.
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            error => {
                eprintln!("postern: {error}");
                ExitCode::FAILURE
            }
        });
    // A thread may still wait for a line from the terminal.
    runtime.shutdown_background();
    code
}

async fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    let locate = || DataDir::locate(cli.data_dir.as_deref(), None);
    let mut out = io::stdout().lock();
    match cli.verb {
        Some(Verb::User(args)) => args.run(&locate()?, &mut out).await,
        Some(Verb::Acl(args)) => args.run(&locate()?, &mut out).await,
        None => {
            write!(out, "{}", Cli::command().render_help())?;
            Ok(ExitCode::from(2))
        }
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
