//! Where does this gateway keep its files, and who has them now? The data directory, its lock, and the place of the
//! control socket (N3).

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The directories of one gateway. Locating them touches nothing; [`Self::create`] makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
    runtime: PathBuf,
    /// Whether the path was found by default and not given.
    defaulted: bool,
}

/// The exclusive hold on a data directory; it ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// What the holder of the lock wrote about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    pub pid: Option<u32>,
    /// Where it answers commands; a command that writes the database itself answers nowhere.
    pub socket: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "no data directory: neither $STATE_DIRECTORY nor $HOME is set; set data_dir in the configuration"
    )]
    Nowhere,
    #[error("cannot {action} {path}: {source}; {remedy}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
        remedy: &'static str,
    },
    #[error("{0} is not a directory; move it away, or set data_dir to another path")]
    NotADirectory(PathBuf),
    #[error(
        "the data directory {path} is in use by {}; stop it, or set data_dir to another path",
        holder.pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held { path: PathBuf, holder: Holder },
    #[error(
        "a restore into the data directory {0} was interrupted, and its files belong to two gateways: run postern \
         restore again, with --force"
    )]
    HalfRestored(PathBuf),
}

impl DataDir {
    const LOCK: &str = "lock";
    /// There while a restore exchanges the files.
    const RESTORE_MARK: &str = "restoring";
    const SOCKET: &str = "control.sock";
    /// Files directly in the directory that nobody else may read; those of certificates are `tls`'s.
    const SECRETS: [&str; 11] = [
        "secret.key",
        "audit.db",
        "audit.db-wal",
        "audit.db-shm",
        "first-account",
        "accounts.db",
        "accounts.db-wal",
        "accounts.db-shm",
        "messages.db",
        "messages.db-wal",
        "messages.db-shm",
    ];
    /// Where a packaged service has its socket; for users who may not look into its data directory.
    const SERVICE_SOCKET: &str = "/run/postern/control.sock";

    /// Decides on the directories. Data: the given path, else `$STATE_DIRECTORY`, else `/var/lib/postern` for root,
    /// else `~/.local/share/postern`. Runtime (the control socket): the given path, else `$RUNTIME_DIRECTORY`, else
    /// the data directory.
    pub fn locate(
        data_dir: Option<&Path>,
        runtime_dir: Option<&Path>,
    ) -> Result<DataDir, DataDirError> {
        let is_root = rustix::process::geteuid().is_root();
        Self::decide(data_dir, runtime_dir, is_root, |name| {
            env::var_os(name).filter(|value| !value.is_empty())
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the running gateway answers commands.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(Self::SOCKET)
    }

    /// Where to look for the socket of a service whose data directory is closed to us; none if a directory was given.
    pub fn service_socket(&self) -> Option<&'static Path> {
        self.defaulted.then(|| Path::new(Self::SERVICE_SOCKET))
    }

    /// Makes the directories that are missing, and takes group and others out of the data directory (0700).
    pub fn create(&self) -> Result<(), DataDirError> {
        make(&self.path, 0o700)?;
        let mode = fs::metadata(&self.path)
            .map_err(|source| self.failed("read", source))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))
                .map_err(|source| self.failed("restrict access to", source))?;
        }
        make(&self.runtime, 0o750)
    }

    /// Closes the files with secrets to group and others, as they were made; those that stood open. Who could read them
    /// meanwhile has what is in them: the caller says so.
    pub fn close_secrets(&self) -> Result<Vec<PathBuf>, DataDirError> {
        let mut opened = Vec::new();
        for name in Self::SECRETS {
            let path = self.path.join(name);
            let failed = |source| DataDirError::File {
                action: "restrict access to",
                path: path.clone(),
                source,
                remedy: "give it to the user that the gateway runs as, with mode 0600",
            };
            let mode = match fs::metadata(&path) {
                Ok(metadata) => metadata.permissions().mode(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            };
            if mode & 0o077 != 0 {
                fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
                opened.push(path);
            }
        }
        Ok(opened)
    }

    /// Takes the lock, or tells who has it. A directory that a restore left half-way is refused.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let lock = self.lock_to_restore()?;
        match self.restore_mark().try_exists() {
            Ok(false) => Ok(lock),
            Ok(true) => Err(DataDirError::HalfRestored(self.path.clone())),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    /// The file that is there while a restore exchanges the files of the directory.
    pub fn restore_mark(&self) -> PathBuf {
        self.path.join(Self::RESTORE_MARK)
    }

    /// Takes the lock, or tells who has it, whatever state the files are in.
    pub fn lock_to_restore(&self) -> Result<Lock, DataDirError> {
        let path = self.path.join(Self::LOCK);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let failed = |source| DataDirError::File {
            action: "lock",
            path: path.clone(),
            source,
            remedy: "check that this user owns the data directory",
        };
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                let mut lock = Lock { file };
                lock.write(None).map_err(failed)?;
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // What cannot be read is not known; the lock is held all the same.
                let _ = (&mut file).take(8192).read_to_string(&mut text);
                Err(DataDirError::Held {
                    path: self.path.clone(),
                    holder: Holder::parse(&text),
                })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Takes the lock, and waits for it if need be: a command line holds it for moments only. Blocks its thread.
    pub fn lock_within(&self, patience: Duration) -> Result<Lock, DataDirError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lock() {
                Err(DataDirError::Held { holder, .. })
                    if holder.socket.is_none() && Instant::now() < deadline =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                decided => return decided,
            }
        }
    }

    /// Gives files that root made to the owner of the directory, which may be a service user that must open them.
    pub fn give_to_owner(&self) -> Result<(), DataDirError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let give = || {
            let owner = fs::metadata(&self.path)?;
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.metadata()?.uid() == 0 && owner.uid() != 0 {
                    lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
                }
            }
            match owner.uid() {
                0 => Ok(()),
                _ => give_certificates(&self.path, &owner),
            }
        };
        give().map_err(|source| self.failed("give files to the owner of", source))
    }

    fn decide(
        data_dir: Option<&Path>,
        runtime_dir: Option<&Path>,
        is_root: bool,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<DataDir, DataDirError> {
        // systemd lists several directories with colons between them; ours is the first.
        let listed = |name: &str| {
            let value = variable(name)?.into_string().ok()?;
            Some(PathBuf::from(value.split(':').next()?.to_owned()))
        };
        let path = match data_dir
            .map(Path::to_owned)
            .or_else(|| listed("STATE_DIRECTORY"))
        {
            Some(path) => path,
            None if is_root => PathBuf::from("/var/lib/postern"),
            None => Path::new(&variable("HOME").ok_or(DataDirError::Nowhere)?)
                .join(".local/share/postern"),
        };
        let path = std::path::absolute(&path).map_err(|source| DataDirError::File {
            action: "find",
            path,
            source,
            remedy: "set data_dir to an absolute path",
        })?;
        let runtime = runtime_dir
            .map(Path::to_owned)
            .or_else(|| listed("RUNTIME_DIRECTORY"));
        Ok(DataDir {
            runtime: runtime.unwrap_or_else(|| path.clone()),
            path,
            defaulted: data_dir.is_none(),
        })
    }

    fn failed(&self, action: &'static str, source: io::Error) -> DataDirError {
        let remedy = "check its owner and its access rights";
        DataDirError::File {
            action,
            path: self.path.clone(),
            source,
            remedy,
        }
    }
}

impl Lock {
    /// Tells those who find the directory locked where this process answers commands.
    pub fn announce(&mut self, socket: &Path) -> io::Result<()> {
        self.write(Some(socket))
    }

    fn write(&mut self, socket: Option<&Path>) -> io::Result<()> {
        let mut text = format!("{}\n", std::process::id()).into_bytes();
        if let Some(socket) = socket {
            text.extend_from_slice(socket.as_os_str().as_encoded_bytes());
            text.push(b'\n');
        }
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&text)
    }
}

impl Holder {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        Holder {
            pid: lines.next().and_then(|pid| pid.parse().ok()),
            socket: lines.next().map(PathBuf::from),
        }
    }
}

/// Gives the files of the directory of keys and certificates to the owner of the data directory. Its owner could put
/// anything in its place, so it is opened once, and no link is followed.
fn give_certificates(data_dir: &Path, owner: &fs::Metadata) -> io::Result<()> {
    use rustix::fs::{AtFlags, Dir, Gid, Mode, OFlags, Uid, chownat, open, statat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match open(data_dir.join("tls"), flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let found = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if found.st_uid == 0 && name.to_bytes() != b".." {
            let no_links = AtFlags::SYMLINK_NOFOLLOW;
            chownat(&directory, name, Some(uid), Some(gid), no_links)?;
        }
    }
    Ok(())
}

/// Makes a directory with this mode if there is none; its missing parents get the usual mode.
fn make(path: &Path, mode: u32) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::File {
        action: "create",
        path: path.to_owned(),
        source,
        remedy: "check the access rights of the directory above it, or set data_dir to another path",
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(DataDirError::NotADirectory(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        // Another process of ours was faster, with the same mode.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        outcome => outcome.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(
        given: Option<&str>,
        is_root: bool,
        variables: &[(&str, &str)],
    ) -> Result<DataDir, DataDirError> {
        DataDir::decide(given.map(Path::new), None, is_root, |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        })
    }

    // N3
    #[test]
    fn the_directory_is_the_given_one_then_systemds_then_the_users() {
        let all = [
            ("STATE_DIRECTORY", "/s/one:/s/two"),
            ("RUNTIME_DIRECTORY", "/run/x"),
            ("HOME", "/home/ann"),
        ];
        let home = [("HOME", "/home/ann")];
        for (given, is_root, variables, path, socket) in [
            (
                Some("/given"),
                true,
                &all[..],
                "/given",
                "/run/x/control.sock",
            ),
            (None, false, &all, "/s/one", "/run/x/control.sock"),
            (
                None,
                true,
                &home,
                "/var/lib/postern",
                "/var/lib/postern/control.sock",
            ),
            (
                None,
                false,
                &home,
                "/home/ann/.local/share/postern",
                "/home/ann/.local/share/postern/control.sock",
            ),
        ] {
            let dir = decide(given, is_root, variables).unwrap();
            assert_eq!((dir.path(), dir.socket()), (Path::new(path), socket.into()));
            assert_eq!(dir.service_socket().is_some(), given.is_none());
        }
        assert!(matches!(
            decide(None, false, &[]),
            Err(DataDirError::Nowhere)
        ));
        assert!(
            decide(Some("relative"), false, &[])
                .unwrap()
                .path()
                .is_absolute()
        );
    }

    #[test]
    fn the_directory_is_made_private_and_an_open_one_is_closed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = decide(Some(temp.path().join("a/b").to_str().unwrap()), false, &[]).unwrap();
        let mode = || fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777;
        dir.create().unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        dir.create().unwrap();
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let dir = decide(Some(file.path().to_str().unwrap()), false, &[]).unwrap();
        let error = dir.create().unwrap_err().to_string();
        assert!(
            error.contains(file.path().to_str().unwrap()) && error.contains("not a directory"),
            "{error}"
        );
    }

    // N3
    #[test]
    fn only_one_holds_the_lock_and_the_other_learns_who() {
        let temp = tempfile::tempdir().unwrap();
        let dir = decide(Some(temp.path().to_str().unwrap()), false, &[]).unwrap();
        let mut lock = dir.lock().unwrap();
        let holder = |error| match error {
            DataDirError::Held { holder, .. } => holder,
            other => panic!("{other}"),
        };
        let pid = Some(std::process::id());
        assert_eq!(
            holder(dir.lock().unwrap_err()),
            Holder { pid, socket: None }
        );
        lock.announce(Path::new("/run/x/control.sock")).unwrap();
        let expected = Holder {
            pid,
            socket: Some("/run/x/control.sock".into()),
        };
        assert_eq!(
            holder(dir.lock_within(Duration::from_secs(60)).unwrap_err()),
            expected,
            "a gateway is not waited for"
        );
        drop(lock);
        let again = dir.lock().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| dir.lock_within(Duration::from_secs(60)).map(drop));
            drop(again);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn files_with_secrets_that_stand_open_are_closed_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::locate(Some(dir.path()), None).unwrap();
        for (name, mode) in [
            ("secret.key", 0o644),
            ("accounts.db", 0o600),
            ("messages.db", 0o640),
            ("addresses.json", 0o644),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let opened = data.close_secrets().unwrap();
        let expected = ["secret.key", "messages.db"].map(|name| dir.path().join(name));
        assert_eq!(opened, expected);
        let mode = |name| {
            fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("secret.key"), mode("messages.db")), (0o600, 0o600));
        assert_eq!(mode("addresses.json"), 0o644);
        assert!(data.close_secrets().unwrap().is_empty());
    }
}
