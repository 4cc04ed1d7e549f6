//! How is a file replaced so that a crash leaves the old one or the new one, and never a part?

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::TlsError;

/// Writes `contents` to a temporary file beside `path`, syncs it, renames it over `path` and syncs
/// the directory. `mode` is set whatever the umask says.
///
/// # Errors
/// [`TlsError::Write`]; `path` is then untouched.
pub(super) fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), TlsError> {
    write_and_rename(path, contents, mode).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Creates `path` and its parents if they are missing.
///
/// # Errors
/// [`TlsError::Write`].
pub(super) fn ensure_directory(path: &Path) -> Result<(), TlsError> {
    fs::create_dir_all(path).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_and_rename(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a file name",
        ));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let temporary = directory.join(hidden);
    // Left behind by a crash; whoever runs here holds the lock on the data directory.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_contents_the_mode_and_no_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.key");
        fs::write(&path, "old").unwrap();
        fs::write(directory.path().join(".server.key.new"), "left by a crash").unwrap();

        replace(&path, b"new", 0o600).unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("absent/server.key");
        assert!(
            replace(&path, b"x", 0o600)
                .unwrap_err()
                .to_string()
                .contains("absent/server.key")
        );
    }
}
