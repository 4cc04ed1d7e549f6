//! Generated secrets: how they look, and the key under which their fast hashes are stored.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, hmac, rand};

use super::AuthError;

/// What every generated secret begins with, so that it is recognised in a log, a commit or a paste.
const PREFIX: &str = "pst_";
/// 160 bits: 32 digits without a remainder.
const PASSWORD_BYTES: usize = 20;
/// 256 bits, in 52 digits: nobody has to type them.
const DEVICE_BYTES: usize = 32;
/// Crockford's base 32 in lower case: nothing to confuse when it is read aloud or typed.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new secret of 160 random bits, as `pst_` and 32 digits.
pub fn generate_secret() -> Result<String, AuthError> {
    generate::<PASSWORD_BYTES>()
}

/// A new secret of 256 random bits for a device, as `pst_` and 52 digits.
pub fn generate_device_secret() -> Result<String, AuthError> {
    generate::<DEVICE_BYTES>()
}

fn generate<const BYTES: usize>() -> Result<String, AuthError> {
    let mut bytes = [0; BYTES];
    rand::fill(&mut bytes).map_err(|_| AuthError::Random)?;
    // Behind the last byte come zeros.
    let bit = |n: usize| {
        bytes
            .get(n / 8)
            .map_or(0, |byte| usize::from(byte >> (7 - n % 8) & 1))
    };
    let digit = |first: usize| (first..first + 5).fold(0, |bits, n| bits << 1 | bit(n));
    let digits = (0..BYTES * 8).step_by(5).map(digit);
    let digits = digits.map(|digit| char::from(DIGITS[digit]));
    Ok(PREFIX.chars().chain(digits).collect())
}

/// The key of a data directory. Generated secrets are long enough that one fast keyed hash protects them as well as a
/// slow one would (I3), and 2,000 devices that come back at once cost 2,000 HMACs.
#[derive(Debug)]
pub struct SecretKey {
    key: hmac::Key,
    path: PathBuf,
}

impl SecretKey {
    /// The name of the key file in the data directory: mode 0600, 64 hexadecimal digits.
    pub const FILE: &'static str = "secret.key";

    /// Reads the key of the data directory, or makes it if there is none and nothing was hashed with one.
    ///
    /// `check` is what [`Self::check`] gave when the accounts database first met its key: a key that is missing or
    /// another one is an error, because it would silently refuse every generated secret.
    pub fn open(directory: &Path, check: Option<&[u8]>) -> Result<Self, AuthError> {
        let path = directory.join(Self::FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && check.is_none() => {
                create(&path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AuthError::KeyMissing { path });
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(AuthError::KeyFormat { path });
            }
            Err(source) => {
                return Err(AuthError::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let Some(bytes) = decode(text.trim_end()) else {
            return Err(AuthError::KeyFormat { path });
        };
        let key = SecretKey {
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            path,
        };
        match check {
            Some(check) if constant_time::verify_slices_are_equal(check, &key.check()).is_err() => {
                Err(AuthError::KeyMismatch { path: key.path })
            }
            _ => Ok(key),
        }
    }

    /// A value that only this key gives, and that tells nothing about it.
    pub fn check(&self) -> [u8; 32] {
        self.sign(b"check", "", b"")
    }

    /// The hash under which a secret is stored. It covers the name: a row copied to another user proves nothing.
    pub fn hash(&self, name: &str, secret: &[u8]) -> [u8; 32] {
        self.sign(b"secret", name, secret)
    }

    /// Whether the secret has this hash, in constant time.
    pub(super) fn verify(&self, name: &str, secret: &[u8], hash: &[u8; 32]) -> bool {
        constant_time::verify_slices_are_equal(&self.hash(name, secret), hash).is_ok()
    }

    fn sign(&self, purpose: &[u8], name: &str, secret: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [purpose, name.as_bytes(), secret] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        hash
    }
}

/// Writes a new key under another name, syncs it and renames it: a half-written key never has the final name.
fn create(path: &Path) -> Result<String, AuthError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| AuthError::Random)?;
    let text: String = bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .chain(["\n".to_owned()])
        .collect();
    let new = path.with_extension("key.new");
    let write = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| AuthError::File {
        action: "create",
        path: path.into(),
        source,
    })?;
    Ok(text)
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn generated_secrets_are_recognisable_and_never_the_same() {
        let secrets: std::collections::HashSet<_> =
            (0..200).map(|_| generate_secret().unwrap()).collect();
        assert_eq!(secrets.len(), 200);
        for secret in &secrets {
            let digits = secret.strip_prefix("pst_").unwrap();
            assert!(
                digits.len() == 32 && digits.bytes().all(|digit| DIGITS.contains(&digit)),
                "{secret}"
            );
        }
        // Every digit turns up in 6,400 random ones, the highest included.
        assert!(DIGITS.iter().all(|digit| {
            secrets
                .iter()
                .any(|secret| secret[4..].contains(char::from(*digit)))
        }));
    }

    #[test]
    fn a_secret_of_a_device_has_256_bits() {
        let secrets: Vec<String> = (0..200)
            .map(|_| generate_device_secret().unwrap())
            .collect();
        for secret in &secrets {
            let digits = secret.strip_prefix("pst_").unwrap();
            assert_eq!(digits.len(), 52, "{secret}");
            // 255 bits are in 51 digits, the last one in the 52nd.
            assert!(digits.ends_with(['0', 'g']), "{secret}");
        }
        // Every bit is sometimes set and sometimes not.
        let place = |digit: u8| DIGITS.iter().position(|known| *known == digit).unwrap();
        for bit in 0..256 {
            let set = secrets
                .iter()
                .filter(|secret| place(secret.as_bytes()[4 + bit / 5]) >> (4 - bit % 5) & 1 == 1);
            assert!((1..200).contains(&set.count()), "bit {bit}");
        }
    }

    #[test]
    fn the_key_is_private_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = SecretKey::open(dir.path(), None).unwrap();
        let mode = fs::metadata(dir.path().join("secret.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = SecretKey::open(dir.path(), Some(&first.check())).unwrap();
        assert!(again.verify("dev", b"pst_x", &first.hash("dev", b"pst_x")));
        assert!(!again.verify("dev2", b"pst_x", &first.hash("dev", b"pst_x")));
        assert!(!again.verify("dev", b"pst_y", &first.hash("dev", b"pst_x")));
    }

    #[test]
    fn a_lost_foreign_or_broken_key_stops_the_start_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret.key");
        let lost = SecretKey::open(dir.path(), Some(&[1; 32])).unwrap_err();
        assert!(
            matches!(lost, AuthError::KeyMissing { .. }) && !path.exists(),
            "{lost}"
        );
        SecretKey::open(dir.path(), None).unwrap();
        let foreign = SecretKey::open(dir.path(), Some(&[1; 32])).unwrap_err();
        assert!(
            matches!(foreign, AuthError::KeyMismatch { .. }),
            "{foreign}"
        );
        for broken in [&b""[..], b"abc", &[b'g'; 64], &[0xff; 64]] {
            fs::write(&path, broken).unwrap();
            let error = SecretKey::open(dir.path(), None).unwrap_err();
            assert!(matches!(error, AuthError::KeyFormat { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), broken);
        }
    }
}
