//! What does the CA say about itself? The part of its directory (RFC 8555, 7.1.1) that the preflight
//! goes by.

use serde::Deserialize;

use super::AcmeError;
use super::transport::Transport;

/// `meta` of a directory.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Meta {
    /// The issuer domain names that a CAA record may name (RFC 8659, 4.2).
    pub caa_identities: Vec<String>,
    pub external_account_required: bool,
}

#[derive(Deserialize)]
struct Directory {
    #[serde(default)]
    meta: Meta,
}

/// Fetches it.
///
/// # Errors
/// [`AcmeError::Unreachable`], or [`AcmeError::Nonsense`] if it is not a directory.
pub(super) async fn fetch(transport: &Transport, url: &str) -> Result<Meta, AcmeError> {
    let text = transport.get(url).await?;
    let directory: Directory = serde_json::from_slice(&text)
        .map_err(|error| AcmeError::Nonsense(format!("{url} is not an ACME directory: {error}")))?;
    Ok(directory.meta)
}
