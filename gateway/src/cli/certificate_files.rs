//! In which files does an issued certificate arrive? PEM and DER for devices, a PKCS #12 file for those who want one.
//! Keys are for their owner alone, and nothing is replaced unasked.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};

use super::CliError;
use crate::tls::private_ca::signing::{KeyRequest, to_der};

/// The files of the CA's certificate, beside those of what it issued.
const CA_STEM: &str = "ca";

/// The files of one certificate, before it is there.
pub(super) struct Files {
    folder: PathBuf,
    stem: String,
    force: bool,
}

impl Files {
    /// Makes the folder and sees to it that nothing is in the way. `ca` is the CA's certificate in PEM:
    /// the same one for every device, so that it may be there already.
    pub fn prepare(
        folder: &Path,
        name: &str,
        ca: &str,
        with_key: bool,
        force: bool,
    ) -> Result<Files, CliError> {
        let stem = stem(name);
        if stem.eq_ignore_ascii_case(CA_STEM) {
            return Err(CliError::NameOfCa(name.to_owned()));
        }
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|source| CliError::file("create", folder, source))?;
        let files = Files {
            folder: folder.to_owned(),
            stem,
            force,
        };
        let keys: &[&str] = if with_key { &["key", "key.der"] } else { &[] };
        for ending in ["pem", "der"].iter().chain(keys) {
            check(&files.path(ending), force)?;
        }
        for (path, contents) in files.of_ca(ca)? {
            if !holds(&path, &contents) {
                check(&path, force)?;
            }
        }
        Ok(files)
    }

    /// Writes them; gives their paths and what each is.
    pub fn write(
        &self,
        certificate: &str,
        ca: &str,
        key: Option<&KeyRequest>,
    ) -> Result<Vec<(PathBuf, &'static str)>, CliError> {
        let der = |pem: &str| to_der(pem).ok_or_else(|| CliError::Version("DER".to_owned()));
        let mut written = Vec::new();
        let mut put = |path: PathBuf, contents: &[u8], mode, force, what| {
            write(&path, contents, mode, force)?;
            written.push((path, what));
            Ok::<_, CliError>(())
        };
        let force = self.force;
        // The key first: without it the rest is of no use.
        if let Some(key) = key {
            let what = "private key, PKCS #8 PEM: keep it secret";
            put(self.path("key"), key.key_pem.as_bytes(), 0o600, force, what)?;
            let what = "private key, PKCS #8 DER: keep it secret";
            put(self.path("key.der"), &key.key_der, 0o600, force, what)?;
        }
        let pem = certificate.as_bytes();
        put(self.path("pem"), pem, 0o644, force, "certificate, PEM")?;
        let contents = der(certificate)?;
        put(
            self.path("der"),
            &contents,
            0o644,
            force,
            "certificate, DER",
        )?;
        let what = [
            "CA certificate, PEM: what the device trusts",
            "CA certificate, DER",
        ];
        for ((path, contents), what) in self.of_ca(ca)?.into_iter().zip(what) {
            if !holds(&path, &contents) {
                write(&path, &contents, 0o644, force)?;
            }
            written.push((path, what));
        }
        Ok(written)
    }

    /// PEM and DER.
    fn of_ca(&self, ca: &str) -> Result<[(PathBuf, Vec<u8>); 2], CliError> {
        let der = to_der(ca).ok_or_else(|| CliError::Version("DER".to_owned()))?;
        let path = |ending| self.folder.join(format!("{CA_STEM}.{ending}"));
        Ok([(path("pem"), ca.as_bytes().to_vec()), (path("der"), der)])
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.stem))
    }
}

/// Whether the file is there with these contents.
fn holds(path: &Path, contents: &[u8]) -> bool {
    let length = |path: &Path| Some(fs::metadata(path).ok()?.len());
    length(path) == Some(contents.len() as u64)
        && fs::read(path).is_ok_and(|there| there == contents)
}

/// Refuses a file that is there, unless it may be replaced.
pub(super) fn check(path: &Path, force: bool) -> Result<(), CliError> {
    match fs::symlink_metadata(path) {
        Ok(_) if !force => Err(CliError::Exists(path.to_owned())),
        Ok(metadata) if metadata.is_dir() => Err(CliError::NoFileName(path.to_owned())),
        _ => Ok(()),
    }
}

/// Writes a file under a name of its own first: what is there is replaced whole, or not at all.
pub(super) fn write(path: &Path, contents: &[u8], mode: u32, force: bool) -> Result<(), CliError> {
    check(path, force)?;
    let Some(name) = path.file_name() else {
        return Err(CliError::NoFileName(path.to_owned()));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(hidden);
    let put = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        CliError::file("write", path, source)
    })
}

/// Key, certificate and CA in one file, encrypted with AES-256 (PBES2, PBKDF2 with SHA-256).
pub(super) fn pkcs12(
    name: &str,
    certificate: &str,
    ca: &str,
    key: &KeyRequest,
    password: &str,
) -> Result<Vec<u8>, CliError> {
    let pack = || -> Result<Vec<u8>, String> {
        let der = |pem: &str| to_der(pem).ok_or_else(|| "it is not PEM".to_owned());
        let parse = |der: &[u8]| Certificate::from_der(der).map_err(|error| error.to_string());
        let chain = [parse(&der(certificate)?)?, parse(&der(ca)?)?];
        let private = PrivateKey::from_der(&key.key_der).map_err(|error| error.to_string())?;
        let chain = PrivateKeyChain::new(b"postern".to_vec(), private, chain);
        let mut store = KeyStore::new();
        store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
        let writer = store.writer(password).encryption_iterations(ITERATIONS);
        let writer = writer.mac_iterations(ITERATIONS);
        writer.write().map_err(|error| error.to_string())
    };
    pack().map_err(CliError::Pkcs12)
}

/// Of PBKDF2: what a phone still opens at once.
const ITERATIONS: u32 = 100_000;

/// A name as a file name: nothing that leads out of the folder or needs quoting.
fn stem(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || "-_.".contains(c) => c,
        _ => '_',
    };
    let stem: String = name.chars().map(plain).collect();
    match stem.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for (name, expected) in [
            ("lamp-7", "lamp-7"),
            ("../../etc/passwd", "_._.._etc_passwd"),
            (".ssh", "_ssh"),
            ("jörg's", "j_rg_s"),
            ("192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(stem(name), expected);
        }
    }

    #[test]
    fn nothing_is_replaced_unasked_and_keys_are_their_owners() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        write(&path, b"one", 0o600, false).unwrap();
        let error = write(&path, b"two", 0o600, false).unwrap_err().to_string();
        assert!(
            error.contains("a.key") && error.contains("--force"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"two", 0o600, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
