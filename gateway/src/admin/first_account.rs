//! The account that a fresh gateway makes for itself, and how its password reaches the operator (I6).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{AdminError, Administration, Secret};
use crate::auth::generate_secret;

/// The first account, just made. Its password is in a file of mode 0600 in the data directory, so that a crash before
/// the operator saw it loses nothing; who prints it on a terminal calls [`Self::was_shown`].
#[derive(Debug)]
pub struct FirstAccount {
    pub name: &'static str,
    pub role: &'static str,
    pub password: Secret,
    /// Where the password is written; log this and never the password.
    pub file: PathBuf,
}

impl FirstAccount {
    /// The file in the data directory.
    pub const FILE: &'static str = "first-account";
    const NAME: &'static str = "admin";
    const ROLE: &'static str = "admin";

    /// Makes the account `admin` with the role `admin` and a generated password if there is no user at all.
    pub async fn ensure(
        administration: &Administration,
        directory: &Path,
    ) -> Result<Option<FirstAccount>, AdminError> {
        if !administration.users().all().is_empty() {
            return Ok(None);
        }
        let file = directory.join(Self::FILE);
        let password = generate_secret()?;
        // Before the account exists: the other way round, a crash between the two would leave a password nobody knows.
        write(
            &file,
            &format!("user: {}\npassword: {password}\n", Self::NAME),
        )
        .map_err(|source| AdminError::File {
            action: "write",
            path: file.clone(),
            source,
        })?;
        if !administration
            .add_first_user(Self::NAME, &password, Self::ROLE)
            .await?
        {
            remove(&file)?;
            return Ok(None);
        }
        Ok(Some(FirstAccount {
            name: Self::NAME,
            role: Self::ROLE,
            password: Secret(password),
            file,
        }))
    }

    /// The operator has seen the password: removes the file.
    pub fn was_shown(self) -> Result<(), AdminError> {
        remove(&self.file)
    }
}

/// Replaces what an interrupted first start may have left.
fn write(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn remove(path: &Path) -> Result<(), AdminError> {
    fs::remove_file(path).map_err(|source| AdminError::File {
        action: "remove",
        path: path.to_owned(),
        source,
    })
}
