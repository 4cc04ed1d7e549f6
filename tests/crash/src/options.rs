//! What is asked for? The command line, and what a test passes instead.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::chance::Chance;
use crate::server::Durability;

/// Kills the gateway at random moments while clients publish and subscribe, restarts it, and counts what was
/// acknowledged and is gone.
#[derive(Debug, Clone, Parser)]
#[command(name = "postern-crash")]
pub struct Options {
    /// How often the gateway is killed
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub kills: u64,

    /// `store.durability` of the gateway
    #[arg(long, value_enum, default_value = "power-loss")]
    pub durability: Durability,

    /// The run must find a loss: exit code 1 if it does not
    #[arg(long)]
    pub expect_loss: bool,

    /// Repeats the choices of an earlier run, not its timing
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Publishers, of six kinds in turn: QoS 1 and 2, MQTT 3.1.1 and 5, with and without a session
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub publishers: usize,

    /// Messages per second of each publisher, on average
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub rate: u64,

    /// The shortest time from ready to the kill, ms
    #[arg(long, default_value_t = 20, value_name = "MS")]
    pub min_uptime: u64,

    /// The longest time from ready to the kill, ms
    #[arg(long, default_value_t = 1500, value_name = "MS")]
    pub max_uptime: u64,

    /// The data directory is on an ext4 image that loses what was not synced; needs root and loop devices
    #[arg(long, conflicts_with = "keep")]
    pub power_loss: bool,

    /// Breaks every connection instead of killing the gateway: what fails here is no matter of the disk
    #[arg(long, conflicts_with = "power_loss")]
    pub network_only: bool,

    /// The gateway; default: `postern` beside this program
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,

    /// Keeps the data directory and says where it is
    #[arg(long)]
    pub keep: bool,

    /// Nothing on standard output
    #[arg(long)]
    pub quiet: bool,
}

impl Options {
    /// The defaults, with another number of kills.
    pub fn kills(kills: u64) -> Self {
        let program = "postern-crash".to_owned();
        Self::parse_from([program, format!("--kills={kills}")])
    }

    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(Chance::fresh_seed)
    }

    pub fn uptime(&self, chance: &mut Chance) -> Duration {
        chance.millis(self.min_uptime, self.max_uptime.max(self.min_uptime))
    }
}
