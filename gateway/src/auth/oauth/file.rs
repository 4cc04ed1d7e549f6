//! What is in the files that the configuration names? Bounded reading; secrets only where nobody else can read them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::OAuthError;

/// Keys and roots have some KB each.
const FILE_MAX: u64 = 1 << 20;

/// The contents of a file that everybody may know.
pub(super) fn read(name: &str, key: &'static str, path: &Path) -> Result<Vec<u8>, OAuthError> {
    open(name, key, path, false)
}

/// The first line of a file that nobody else may read.
pub(super) fn read_secret(
    name: &str,
    key: &'static str,
    path: &Path,
) -> Result<Vec<u8>, OAuthError> {
    let mut text = open(name, key, path, true)?;
    let end = text.iter().position(|byte| *byte == b'\n');
    text.truncate(end.unwrap_or(text.len()));
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    match text.is_empty() {
        true => Err(unusable(name, key, path, "is empty".to_owned())),
        false => Ok(text),
    }
}

fn open(
    name: &str,
    key: &'static str,
    path: &Path,
    is_secret: bool,
) -> Result<Vec<u8>, OAuthError> {
    let failed =
        |error: std::io::Error| unusable(name, key, path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if is_secret && mode & 0o077 != 0 {
        let problem = format!(
            "has mode {:04o}: others may read it; chmod 600 it",
            mode & 0o7777
        );
        return Err(unusable(name, key, path, problem));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    match text.len() as u64 > FILE_MAX {
        true => Err(unusable(name, key, path, "is larger than 1 MiB".to_owned())),
        false => Ok(text),
    }
}

pub(super) fn unusable(name: &str, key: &'static str, path: &Path, problem: String) -> OAuthError {
    OAuthError::File {
        name: name.to_owned(),
        key,
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused_and_its_line_end_is_no_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "hush\r\nmore").unwrap();
        for (mode, ok) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret("home", "client_secret_file", &path);
            match ok {
                true => assert_eq!(read.unwrap(), b"hush"),
                false => {
                    let error = read.unwrap_err().to_string();
                    let told = error.contains("chmod 600") && error.contains("oauth.home");
                    assert!(told && !error.contains("hush"), "{error}");
                }
            }
        }
        assert_eq!(
            super::read("home", "keys_file", &path).unwrap(),
            b"hush\r\nmore"
        );
        std::fs::write(&path, "\n").unwrap();
        assert!(read_secret("home", "secret_file", &path).is_err());
    }
}
