//! The command line: one file per verb, and how a verb reaches the accounts.

mod acl;
mod archive;
mod audit;
mod backup;
mod ban;
mod ca;
mod cert;
mod certificate_files;
mod check;
mod config;
mod device;
mod device_report;
mod dry_run;
mod health;
mod import;
mod import_report;
mod output;
mod prompt;
mod qr;
mod reach;
mod restore;
mod run;
mod settings;
mod user;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::AdminError;
use crate::data_dir::DataDirError;
use crate::import::ImportError;
use crate::supervise::StartError;
use reach::Reach;
use settings::SettingsArgs;

/// Postern, a self-hosted MQTT TLS gateway
#[derive(Debug, Parser)]
#[command(name = "postern", version)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway (what `postern` alone does too)
    Run,
    /// Validate the configuration without starting
    Check,
    /// Show the configuration
    Config(config::Args),
    /// Add, change and list user accounts
    User(user::Args),
    /// Add devices, list them, and take their secrets and certificates back
    Device(device::Args),
    /// Allow, deny and explain what clients may publish and subscribe to
    Acl(acl::Args),
    /// Show the server's certificates and what devices pin, and go back to the one before
    Cert(cert::Args),
    /// The private CA: certificates for devices and servers, and their revocation
    Ca(ca::Args),
    /// Show what was refused, who came in, and what was changed
    Audit(audit::Args),
    /// List, make and lift the bans of the running gateway
    Ban(ban::Args),
    /// Take users, rules and settings over from another broker
    Import(import::Args),
    /// Say whether the gateway runs and everything in it works; exit code 0 if so
    Health,
    /// Copy everything a gateway keeps into one file; it may be running
    Backup(backup::Args),
    /// Give a gateway that does not run what a backup holds
    Restore(restore::Args),
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("the configuration is not valid:\n{0}")]
    Config(#[from] broker_config::Report),
    #[error(transparent)]
    Start(#[from] StartError),
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
    #[error("{0} exists already; add --force to replace it, or choose another name")]
    Exists(PathBuf),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("{0} exists already, and is not overwritten; name another file")]
    NotOverwritten(PathBuf),
    #[error(
        "nothing was imported: {restrictions} restrictions would be lost and {decisions} decisions of the replay would allow \
         more than Mosquitto did; read the report, then add --accept-wider, or change Mosquitto's files"
    )]
    Wider {
        restrictions: usize,
        decisions: usize,
    },
    #[error("the settings have {0} bytes, more than a QR code takes; use --format settings")]
    Qr(usize),
    #[error("the files of {0:?} would be those of the CA's certificate; choose another name")]
    NameOfCa(String),
    #[error("{0} is not the name of a file; name the file to make")]
    NoFileName(PathBuf),
    #[error("cannot {action} {path}: {source}; check the access rights and the free space there")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the gateway sends {0:?}, which this version does not know; use the postern command of its version"
    )]
    Version(String),
    #[error("{path} cannot be restored: {problem}; nothing was changed")]
    NotRestored { path: PathBuf, problem: String },
    #[error(
        "{path} has the files of a gateway already ({found} and others); add --force to set them aside"
    )]
    InUse { path: PathBuf, found: String },
    #[error(
        "cannot make the PKCS #12 file: {0}; the certificate is issued all the same: its files are there"
    )]
    Pkcs12(String),
    #[error("no gateway runs here, so there is nothing to follow; leave out --follow")]
    NothingToFollow,
    #[error("{0}")]
    Password(&'static str),
    #[error("cannot read the password: {0}")]
    Input(io::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    #[error("a part of the gateway died; the log says which. Start it again, and report this")]
    Died,
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        CliError::File {
            action,
            path,
            source,
        }
    }
}

/// The whole program: parses the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Only the gateway itself has work for more than one thread.
    let mut builder = match cli.verb {
        None | Some(Verb::Run) => tokio::runtime::Builder::new_multi_thread(),
        Some(_) => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
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
    let settings = &cli.settings;
    let mut out = io::stdout();
    match cli.verb {
        Some(Verb::User(args)) => return args.run(&settings.locate()?, &mut out).await,
        Some(Verb::Device(args)) => {
            return args
                .run(&settings.load()?, &settings.locate()?, &mut out)
                .await;
        }
        Some(Verb::Acl(args)) => return args.run(&settings.locate()?, &mut out).await,
        Some(Verb::Cert(args)) => {
            return args
                .run(&settings.load()?, &settings.locate()?, &mut out)
                .await;
        }
        Some(Verb::Ca(args)) => return args.run(&settings.locate()?, &mut out).await,
        Some(Verb::Audit(args)) => return args.run(&settings.locate()?, &mut out).await,
        Some(Verb::Ban(args)) => return args.run(&settings.locate()?, &mut out).await,
        Some(Verb::Import(args)) => return args.run(settings, &mut out).await,
        Some(Verb::Health) => return health::run(&settings.locate()?, &mut out).await,
        Some(Verb::Backup(args)) => args.run(&settings.locate()?, &mut out).await?,
        Some(Verb::Restore(args)) => args.run(&settings.locate()?, &mut out).await?,
        Some(Verb::Check) => check::run(settings, &mut out)?,
        Some(Verb::Config(args)) => args.run(settings, &mut out)?,
        Some(Verb::Run) | None => run::run(settings).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
