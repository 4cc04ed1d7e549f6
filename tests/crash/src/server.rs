//! Where is the gateway that is killed? One data directory, one port, and the real binary started on them again and
//! again.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_tests::Account;
use postern_tests::gateway::Process;
use postern_tests::peer::Tool;

use crate::disk::Disk;
use crate::error::CrashError;
use crate::wills::GRACE;

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

/// What the configuration promises (D6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    PowerLoss,
    ProcessCrash,
    None,
}

impl Durability {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerLoss => "power-loss",
            Self::ProcessCrash => "process-crash",
            Self::None => "none",
        }
    }
}

/// Never outlives the run, however that ends.
struct Alive(Process);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.signal(libc::SIGKILL);
        self.0.wait_blocking(Duration::from_secs(5));
    }
}

pub struct Server {
    binary: PathBuf,
    config: PathBuf,
    pub disk: Disk,
    pub address: SocketAddr,
    process: Option<Alive>,
    /// Lines that no gateway should log.
    pub complaints: Vec<String>,
}

impl Server {
    /// Writes the configuration; starts nothing.
    pub fn new(binary: PathBuf, disk: Disk, durability: Durability) -> Result<Self, CrashError> {
        if !binary.exists() {
            return Err(CrashError::NoBinary(binary));
        }
        let address = free_address().map_err(CrashError::Port)?;
        let config = disk.outside().join("postern.toml");
        let text = config_text(&disk.data(), address, durability);
        std::fs::write(&config, text).map_err(|cause| CrashError::File {
            step: "write",
            path: config.clone(),
            cause,
        })?;
        Ok(Self {
            binary,
            config,
            disk,
            address,
            process: None,
            complaints: Vec::new(),
        })
    }

    /// Starts the gateway and waits until it is ready; how long that took.
    pub async fn start(&mut self) -> Result<Duration, CrashError> {
        let start = Instant::now();
        let mut tool = Tool::new(&self.binary);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("POSTERN_") || name == "RUST_LOG" || name == "STATE_DIRECTORY" {
                tool = tool.without_env(&name);
            }
        }
        let alive = Alive(Process::start(tool.arg("--config").arg(&self.config)));
        let process = &alive.0;
        loop {
            if process
                .log()
                .lines()
                .iter()
                .any(|line| line.trim() == "ready")
            {
                self.process = Some(alive);
                return Ok(start.elapsed());
            }
            if let Some(status) = process.status() {
                let log = process.log().tail();
                return Err(CrashError::NotReady { status, log });
            }
            if start.elapsed() > START {
                return Err(CrashError::Slow {
                    seconds: START.as_secs(),
                    log: process.log().tail(),
                });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The account that the first start made.
    pub fn account(&self) -> Account {
        Account::first(&self.disk.data().join("first-account"))
    }

    /// Takes the gateway away as the disk's kind of crash does, and makes the disk usable again.
    pub async fn crash(&mut self) -> Result<(), CrashError> {
        let Some(alive) = self.process.take() else {
            return Ok(());
        };
        let process = &alive.0;
        if let Some(status) = process.status() {
            self.complaints
                .push(format!("the gateway ended by itself with {status}"));
        }
        self.complain(process);
        self.disk.cut_power(process).await?;
        process.signal(libc::SIGKILL);
        process.wait().await;
        self.disk.power_on()
    }

    fn complain(&mut self, process: &Process) {
        let bad = |line: &String| line.contains(" ERROR ") || line.contains("panicked at");
        self.complaints
            .extend(process.log().lines().into_iter().filter(bad));
    }

    /// Resident memory of the running gateway, KiB.
    pub fn resident_kib(&self) -> Option<u64> {
        let process = &self.process.as_ref()?.0;
        process.status().is_none().then(|| process.resident_kib())
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Limits are far away: what they drop is not lost in a crash.
fn config_text(data: &Path, address: SocketAddr, durability: Durability) -> String {
    format!(
        "data_dir = {data:?}\n\
         [listeners.mqtt]\nbind = [\"{address}\"]\n\
         [listeners.mqtts]\nenabled = false\n\
         [listeners.wss]\nenabled = false\n\
         [limits]\nmax_sessions_per_principal = 100000\nmax_queued_messages = 1000000\nmax_queued_bytes = \"1GiB\"\n\
         [session]\nrestart_will_grace = \"{}s\"\n\
         [store]\ndurability = \"{}\"\n",
        GRACE.as_secs(),
        durability.name(),
    )
}
