//! What happens below the database? Disks that fill up, fail, or lose what was not synced: small file systems of our
//! own, and a library that stands between the gateway and its message store. They need root, mount, mkfs.ext4 and cc.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::gateway::Process;

mod log;

pub use log::{Change, Kind, Loss, WriteLog};

/// Shutdown of a file system, as ext4 and xfs know it.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Nothing more reaches the disk, not even the journal.
const NO_LOG_FLUSH: u32 = 2;

/// Why there is no such disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "{step} failed: {cause}; this needs root, mount, mkfs.ext4, /dev/loop-control and loop devices"
)]
pub struct DiskError {
    pub step: String,
    pub cause: String,
}

fn failed(step: &str, cause: impl ToString) -> DiskError {
    DiskError {
        step: step.to_owned(),
        cause: cause.to_string(),
    }
}

fn command(program: &str, arguments: &[&OsStr]) -> Result<(), DiskError> {
    let step = format!("{program} {arguments:?}");
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(failed(
            &step,
            String::from_utf8_lossy(&output.stderr).trim(),
        )),
        Err(cause) => Err(failed(&step, cause)),
    }
}

/// A mounted file system in a folder of its own. Dropping it takes both away.
pub struct Mount {
    dir: TempDir,
    mounted: bool,
}

impl Mount {
    fn make() -> Result<Self, DiskError> {
        let dir = TempDir::with_prefix("postern-disk-");
        let dir = dir.map_err(|cause| failed("making a temporary folder", cause))?;
        let mount = Self {
            dir,
            mounted: false,
        };
        std::fs::create_dir(mount.path()).map_err(|cause| failed("making a folder", cause))?;
        Ok(mount)
    }

    /// A file system in memory that holds `bytes`.
    pub fn memory(bytes: u64) -> Result<Self, DiskError> {
        let mut mount = Self::make()?;
        let size = format!("size={bytes},mode=700");
        let arguments = ["-t", "tmpfs", "-o", &size, "none"].map(OsStr::new);
        let path = mount.path();
        command("mount", &[&arguments[..], &[path.as_os_str()]].concat())?;
        mount.mounted = true;
        Ok(mount)
    }

    /// An ext4 image of `bytes` on a loop device.
    pub fn ext4(bytes: u64) -> Result<Self, DiskError> {
        let mut mount = Self::make()?;
        let image = mount.image();
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|cause| failed("making an image", cause))?;
        command("mkfs.ext4", &[OsStr::new("-q"), image.as_os_str()])?;
        mount.mount_image()?;
        Ok(mount)
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_image(&mut self) -> Result<(), DiskError> {
        let (image, path) = (self.image(), self.path());
        let option = ["-o", "loop"].map(OsStr::new);
        command(
            "mount",
            &[&option[..], &[image.as_os_str(), path.as_os_str()]].concat(),
        )?;
        self.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// The power fails: `user` stops where it is, and what it had not synced never reaches the image. It can only be
    /// killed now, before [`Mount::power_on`].
    ///
    /// It is stopped first because the shutdown must not meet a sync under way: such an fsync can report success
    /// although its data is gone after the next mount (measured on Linux 6.18: 3 of 120 times), which no real power
    /// failure does. A thread stops only outside the kernel, so every sync that anybody was told of is complete here,
    /// and none has begun that is not.
    ///
    /// # Errors
    /// `user` does not stop, or the file system does not know the shutdown.
    pub async fn cut_power(&self, user: &Process) -> Result<(), DiskError> {
        let stopped = user.freeze().await;
        stopped.map_err(|cause| failed("stopping the process before the power failure", cause))?;
        let root = File::open(self.path()).map_err(|cause| failed("opening the disk", cause))?;
        let flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open, and the kernel reads one u32 behind the pointer.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &flags) };
        match result {
            0 => Ok(()),
            _ => Err(failed("the shutdown ioctl", io::Error::last_os_error())),
        }
    }

    /// The machine starts again after [`Mount::cut_power`]. Nobody may have a file open.
    pub fn power_on(&mut self) -> Result<(), DiskError> {
        command("umount", &[self.path().as_os_str()])?;
        self.mounted = false;
        self.mount_image()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily, since a failing test may leave a process behind that is just dying.
            let _ = command("umount", &[OsStr::new("-l"), self.path().as_os_str()]);
        }
    }
}

/// The library for LD_PRELOAD: with `DISK_SHIM_LOG` it records what is written to the message store (see
/// [`WriteLog`]), and while the file `DISK_SHIM_FAIL` exists it fails what that file names: `sync` (EIO), `write`
/// (EIO) or `full` (ENOSPC). It sees what goes through the C library, which is what SQLite does.
pub fn shim() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Beside the tests, where it may stay.
        let test = std::env::current_exe().expect("the path of this test");
        let source = test.with_file_name(format!("disk-shim-{}.c", std::process::id()));
        let (building, library) = (
            source.with_extension("new"),
            test.with_file_name("disk-shim.so"),
        );
        std::fs::write(&source, include_str!("disk/shim.c")).expect("the source can be written");
        let arguments = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"].map(OsStr::new);
        let files = [building.as_os_str(), source.as_os_str(), OsStr::new("-ldl")];
        let built = command("cc", &[&arguments[..], &files].concat());
        let _ = std::fs::remove_file(&source);
        built.unwrap_or_else(|e| panic!("{e}"));
        std::fs::rename(&building, &library).expect("the library can be named");
        library
    })
}
