//! `postern config print`: the values in force, wherever they come from.

use std::io::Write;

use clap::Subcommand;

use super::{CliError, settings::SettingsArgs};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print every key with the value in force, as TOML; secrets stay hidden
    Print,
    /// Print a commented configuration file with every key and its default
    Sample,
}

impl Args {
    pub fn run(self, settings: &SettingsArgs, out: &mut impl Write) -> Result<(), CliError> {
        match self.verb {
            Verb::Print => write!(out, "{}", settings.load()?.print())?,
            Verb::Sample => write!(out, "{}", broker_config::SAMPLE)?,
        }
        Ok(())
    }
}
