//! Which configuration a verb goes by: `--config`, the file where it usually is, the environment, `--data-dir`.

use std::path::{Path, PathBuf};

use broker_config::{Config, Sources};

use super::CliError;
use crate::data_dir::DataDir;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct SettingsArgs {
    /// The configuration file; without it /etc/postern/postern.toml, where that exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory; decides over the configuration
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

const USUAL: &str = "/etc/postern/postern.toml";

impl SettingsArgs {
    /// The configuration in force for this command line, validated.
    pub fn load(&self) -> Result<Config, CliError> {
        let mut config = Config::load(&Sources::new(self.file(), std::env::vars_os()))?;
        if let Some(directory) = &self.data_dir {
            config.data_dir = Some(directory.clone());
        }
        Ok(config)
    }

    /// The file that is read, if there is one.
    pub fn file(&self) -> Option<PathBuf> {
        self.config
            .clone()
            .or_else(|| Path::new(USUAL).exists().then(|| USUAL.into()))
    }

    pub fn locate(&self) -> Result<DataDir, CliError> {
        let config = self.load()?;
        Ok(DataDir::locate(
            config.data_dir.as_deref(),
            config.runtime_dir.as_deref(),
        )?)
    }
}
