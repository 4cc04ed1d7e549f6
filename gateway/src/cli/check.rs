//! `postern check`: is this configuration valid? Starts nothing and touches nothing.

use std::io::Write;

use super::{CliError, settings::SettingsArgs};

pub(super) fn run(settings: &SettingsArgs, out: &mut impl Write) -> Result<(), CliError> {
    settings.load()?;
    match settings.file() {
        Some(file) => writeln!(out, "{} is valid", file.display())?,
        None => writeln!(
            out,
            "there is no configuration file; the defaults and the environment are valid"
        )?,
    }
    Ok(())
}
