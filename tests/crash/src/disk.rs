//! Where do the gateway's files live, and what does a crash take from them? From a folder SIGKILL takes nothing; from an
//! image of its own a power failure takes what was not synced.

use std::path::{Path, PathBuf};

use postern_tests::disk::Mount;
use postern_tests::gateway::Process;
use tempfile::TempDir;

use crate::error::CrashError;

/// Large enough for any backlog of a run.
const IMAGE: u64 = 1 << 30;

pub struct Disk {
    dir: TempDir,
    image: Option<Mount>,
}

impl Disk {
    /// Only the process dies.
    pub fn folder() -> Result<Self, CrashError> {
        let dir = TempDir::with_prefix("postern-crash-").map_err(|cause| CrashError::File {
            step: "make a folder in",
            path: std::env::temp_dir(),
            cause,
        })?;
        Ok(Self { dir, image: None })
    }

    /// The power fails before the process dies.
    pub fn image() -> Result<Self, CrashError> {
        let mut disk = Self::folder()?;
        disk.image = Some(Mount::ext4(IMAGE)?);
        Ok(disk)
    }

    /// Where the configuration is: not touched by any crash.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        match &self.image {
            Some(image) => image.path().join("data"),
            None => self.dir.path().join("data"),
        }
    }

    /// If this disk loses power, it does now: `gateway` stops, and what it had not synced is gone (see
    /// [`Mount::cut_power`]).
    pub async fn cut_power(&self, gateway: &Process) -> Result<(), CrashError> {
        match &self.image {
            Some(image) => Ok(image.cut_power(gateway).await?),
            None => Ok(()),
        }
    }

    /// The machine starts again. No process uses the disk now.
    pub fn power_on(&mut self) -> Result<(), CrashError> {
        match &mut self.image {
            Some(image) => Ok(image.power_on()?),
            None => Ok(()),
        }
    }

    /// Keeps the files of a folder for the person who wants to look at them; where they are.
    pub fn keep(self) -> PathBuf {
        self.dir.keep()
    }
}
