//! Is this still the issuer that vouched for a login? Its name in the configuration may have come to mean another one.

use broker_config::{Issuer as Config, Mode};
use jsonwebtoken::Algorithm;
use serde_json::json;

use super::token::sha256;

/// What makes the keys of an issuer its keys.
pub(super) enum Origin<'a> {
    /// The contents of its `keys_file`.
    Keys(&'a [u8]),
    /// What its `secret_file` holds.
    Secret(&'a [u8]),
    /// They are fetched, or it is asked.
    Server,
}

/// SHA-256 of what its logins rest on: who it is, for whom it vouches, and by which keys. Keys that it publishes itself are
/// its own affair, and so are names of roles and scopes, which the next login reads.
///
/// It is on disk beside sessions, so that what it is made of must not change without need. A secret in it is no better
/// hidden, and no worse, than in the signature of any of its tokens.
pub(super) fn terms(config: &Config, algorithms: &[Algorithm], origin: &Origin<'_>) -> [u8; 32] {
    let mode = match config.mode {
        Mode::Jwt => "jwt",
        Mode::Introspection => "introspection",
    };
    let keys = match origin {
        Origin::Keys(text) => json!(["keys", sha256(text)]),
        Origin::Secret(secret) => json!(["secret", sha256(secret)]),
        Origin::Server => json!(["server", config.jwks_url]),
    };
    // Their order says nothing.
    let mut audience = config.audience.clone();
    audience.sort();
    let mut algorithms: Vec<_> = algorithms.iter().map(|one| format!("{one:?}")).collect();
    algorithms.sort();
    let terms = json!([
        config.issuer,
        config.realm,
        mode,
        config.name_claim,
        audience,
        algorithms,
        keys
    ]);
    sha256(terms.to_string().as_bytes())
}
