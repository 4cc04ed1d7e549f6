//! Who are we to the CA? The account and its key, one file for each directory:
//! `<data directory>/acme/account-HASH.json`, 0600.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, Key, NewAccount};
use rustls_pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};

use super::super::fingerprint::{hex, sha256};
use super::super::{TlsError, atomic_file, pem};
use super::problem::Refusal;
use super::transport::Transport;
use super::{AcmeError, Ca};
use crate::causes::with_causes;

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    contact: Vec<String>,
    credentials: AccountCredentials,
}

/// The account at this CA: the one that is kept, or a new one. What the CA is told about contacts
/// follows the configuration.
///
/// # Errors
/// What the CA refuses, or [`AcmeError::Unreachable`]; [`AcmeError::ExternalAccount`];
/// [`AcmeError::Tls`] for files.
pub(super) async fn open(
    directory: &Path,
    ca: &Ca,
    transport: &Transport,
) -> Result<Account, AcmeError> {
    let path = file(directory, ca);
    let Some(kept) = read(&path)? else {
        return create(&path, ca, transport).await;
    };
    let builder = Account::builder_with_http(Box::new(transport.clone()));
    let account = builder
        .from_credentials(kept.credentials)
        .await
        .map_err(|error| explain(error, ca, transport))?;
    if kept.contact != ca.contact && tell_contact(&account, ca, transport).await {
        // Read again: credentials are used up by the account, and cannot be copied.
        if let Some(kept) = read(&path)? {
            let contact = ca.contact.clone();
            write(&path, &Kept { contact, ..kept })?;
        }
    }
    Ok(account)
}

/// Registers again after the CA has forgotten the account. Without an external account the key stays.
///
/// # Errors
/// As for [`open`].
pub(super) async fn register_again(
    directory: &Path,
    ca: &Ca,
    transport: &Transport,
) -> Result<Account, AcmeError> {
    let path = file(directory, ca);
    let kept = match ca.external_account {
        Some(_) => None,
        None => read(&path)?,
    };
    let Some(kept) = kept else {
        return create(&path, ca, transport).await;
    };
    let pkcs8 = kept.credentials.private_key().clone_key();
    let key = Key::from_pkcs8_der(pkcs8.clone_key()).map_err(|e| explain(e, ca, transport))?;
    let builder = Account::builder_with_http(Box::new(transport.clone()));
    let (account, credentials) = builder
        .create_from_key((key, PrivateKeyDer::Pkcs8(pkcs8)), ca.directory.clone())
        .await
        .map_err(|error| explain(error, ca, transport))?;
    let told = ca.contact.is_empty() || tell_contact(&account, ca, transport).await;
    let contact = match told {
        true => ca.contact.clone(),
        false => Vec::new(),
    };
    write(
        &path,
        &Kept {
            contact,
            credentials,
        },
    )?;
    tracing::warn!(
        directory = ca.directory,
        "the CA had forgotten the account; registered again"
    );
    Ok(account)
}

async fn create(path: &Path, ca: &Ca, transport: &Transport) -> Result<Account, AcmeError> {
    let external = external_account(ca)?;
    let contact = mailto(ca);
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let builder = Account::builder_with_http(Box::new(transport.clone()));
    let (account, credentials) = builder
        .create(&new, ca.directory.clone(), external.as_ref())
        .await
        .map_err(|error| explain(error, ca, transport))?;
    let contact = ca.contact.clone();
    write(
        path,
        &Kept {
            contact,
            credentials,
        },
    )?;
    tracing::info!(directory = ca.directory, "registered an account at the CA");
    Ok(account)
}

/// Returns whether the CA took it. One that does not still renews: it is told again next time.
async fn tell_contact(account: &Account, ca: &Ca, transport: &Transport) -> bool {
    let contact = mailto(ca);
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let told = account.update_contacts(&contact).await;
    match told.map_err(|error| explain(error, ca, transport)) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(
                directory = ca.directory,
                %error,
                "the CA was not told the new acme.contact; renewals go on"
            );
            false
        }
    }
}

fn mailto(ca: &Ca) -> Vec<String> {
    let uri = |address: &String| format!("mailto:{address}");
    ca.contact.iter().map(uri).collect()
}

fn external_account(ca: &Ca) -> Result<Option<ExternalAccountKey>, AcmeError> {
    let Some(external) = &ca.external_account else {
        return Ok(None);
    };
    let failed = |problem: &str| AcmeError::ExternalAccount {
        path: external.key_file.clone(),
        problem: problem.to_owned(),
    };
    if pem::mode(&external.key_file)? & 0o077 != 0 {
        return Err(failed("others can read it; chmod 600 it"));
    }
    let text = pem::read_bounded(&external.key_file)?;
    let text = String::from_utf8(text).map_err(|_| failed("it is not text"))?;
    let key = base64url(text.trim())
        .filter(|key| key.len() >= 16)
        .ok_or_else(|| failed("it is not a key in base64url, of 16 bytes or more"))?;
    Ok(Some(ExternalAccountKey::new(external.key_id.clone(), &key)))
}

/// RFC 4648, 5, with or without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

/// The accounts of a data directory, for a backup: paths relative to it.
///
/// # Errors
/// [`TlsError::Read`].
pub fn account_files(data_directory: &Path) -> Result<Vec<String>, TlsError> {
    let path = data_directory.join(DIRECTORY);
    let failed = |source| TlsError::Read {
        path: path.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let path = format!("{DIRECTORY}/{}", name.to_string_lossy());
        if is_account_file(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a path relative to the data directory is that of an account.
pub fn is_account_file(path: &str) -> bool {
    let hash = path
        .strip_prefix(DIRECTORY)
        .and_then(|path| path.strip_prefix("/account-"))
        .and_then(|path| path.strip_suffix(".json"));
    hash.is_some_and(|hash| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Where accounts and the states of renewals are, in the data directory.
pub(super) const DIRECTORY: &str = "acme";

fn file(directory: &Path, ca: &Ca) -> PathBuf {
    let hash = hex(&sha256(ca.directory.as_bytes())[..4]);
    directory.join(format!("account-{hash}.json"))
}

fn read(path: &Path) -> Result<Option<Kept>, TlsError> {
    if !path.exists() {
        return Ok(None);
    }
    super::super::private_ca::repair_permissions(path)?;
    let text = pem::read_bounded(path)?;
    // What the parser says may quote the key.
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|_| TlsError::Damaged {
            path: path.to_owned(),
            problem: "it is not an ACME account".to_owned(),
            remedy: "restore it from a backup, or remove it to register anew",
        })
}

fn write(path: &Path, kept: &Kept) -> Result<(), TlsError> {
    let text = serde_json::to_vec(kept).unwrap_or_default();
    if let Some(parent) = path.parent() {
        atomic_file::ensure_directory(parent)?;
    }
    atomic_file::replace(path, &text, 0o600)
}

/// What the library says, as what it means for the operator.
pub(super) fn explain(error: instant_acme::Error, ca: &Ca, transport: &Transport) -> AcmeError {
    use instant_acme::Error;
    match error {
        Error::Api(problem) => {
            let retry_after = transport.notes().retry_after;
            AcmeError::Refused(Box::new(Refusal::of(&problem, retry_after)))
        }
        Error::Timeout(_) => AcmeError::TooSlow(super::order::PATIENCE.as_secs()),
        Error::Other(error) => AcmeError::Unreachable {
            directory: ca.directory.clone(),
            cause: with_causes(&*error),
        },
        Error::Json(error) => AcmeError::Nonsense(error.to_string()),
        other => AcmeError::Nonsense(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_finds_accounts_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        assert!(account_files(directory.path()).unwrap().is_empty());
        let acme = directory.path().join(DIRECTORY);
        std::fs::create_dir(&acme).unwrap();
        for name in [
            "account-0123abcd.json",
            "acme.json",
            "acme.key",
            "account-../../x.json",
        ] {
            let _ = std::fs::write(acme.join(name), "");
        }
        let found = account_files(directory.path()).unwrap();
        assert_eq!(found, ["acme/account-0123abcd.json"]);
        assert!(!is_account_file("acme/account-../../x.json"));
    }

    #[test]
    fn a_mac_key_is_read_with_and_without_padding() {
        assert_eq!(base64url("-_8="), Some(vec![0xfb, 0xff]));
        assert_eq!(base64url("-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(base64url("not base64!"), None);
    }
}
