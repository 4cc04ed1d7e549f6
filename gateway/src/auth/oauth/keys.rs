//! Which key may verify this token? The keys of an issuer, from a JWK Set (RFC 7517, 5), a PEM file, or a shared secret.

use broker_config::SignatureAlgorithm;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one set that are looked at.
const KEYS_MAX: usize = 100;
/// Keys that are tried for a token that names none.
const TRIED_MAX: usize = 8;

/// Keys that verify signatures. `Debug` shows none of them.
pub(super) struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The only algorithm it is for, if it says one.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl Keys {
    /// The keys of a JWK Set that can verify signatures; others in it are nothing to us.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_set(text: &[u8]) -> Result<Keys, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        // The text of the error may be that of a private key.
        let set: Set =
            serde_json::from_slice(text).map_err(|_| "it is not a JWK Set".to_owned())?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        let keys = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = keys.filter_map(|jwk| Key::from_jwk(&jwk)).collect();
        match keys.is_empty() {
            true => Err("it has no key that verifies signatures".to_owned()),
            false => Ok(Keys(keys)),
        }
    }

    /// A JWK Set, or public keys in PEM.
    ///
    /// # Errors
    /// As [`Self::from_set`].
    pub fn from_file(text: &[u8]) -> Result<Keys, String> {
        if text.trim_ascii_start().starts_with(b"{") {
            return Keys::from_set(text);
        }
        let blocks =
            pem::parse_many(text).map_err(|_| "it is neither a JWK Set nor PEM".to_owned())?;
        if blocks.len() > KEYS_MAX {
            return Err(format!("it has more than {KEYS_MAX} keys"));
        }
        let mut keys = Vec::new();
        for block in blocks {
            if !matches!(block.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY") {
                // A private key has no business here, and a certificate is no key.
                return Err(format!(
                    "it has a {}; only public keys belong there",
                    block.tag()
                ));
            }
            let text = pem::encode(&block);
            let text = text.as_bytes();
            let key = DecodingKey::from_ec_pem(text)
                .or_else(|_| DecodingKey::from_ed_pem(text))
                .or_else(|_| DecodingKey::from_rsa_pem(text));
            keys.push(Key {
                id: None,
                algorithm: None,
                key: key.map_err(|_| "it has a key of a kind that is not known".to_owned())?,
            });
        }
        match keys.is_empty() {
            true => Err("it has no public key".to_owned()),
            false => Ok(Keys(keys)),
        }
    }

    /// A secret that both sides know.
    pub fn from_secret(secret: &[u8]) -> Keys {
        Keys(vec![Key {
            id: None,
            algorithm: None,
            key: DecodingKey::from_secret(secret),
        }])
    }

    /// The keys that may have made a signature with this algorithm. One that names a key by `id` is verified by that key; an
    /// RSA key is never the secret of an HMAC.
    pub fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<DecodingKey> {
        let fits = |key: &&Key| {
            key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|only| only == algorithm)
        };
        let fitting = || self.0.iter().filter(fits);
        let named = fitting().filter(|key| id.is_some() && key.id.as_deref() == id);
        let mut keys: Vec<&Key> = named.collect();
        if keys.is_empty() {
            // Keys without a name may have any.
            keys = fitting()
                .filter(|key| id.is_none() || key.id.is_none())
                .collect();
        }
        keys.truncate(TRIED_MAX);
        keys.into_iter().map(|key| key.key.clone()).collect()
    }
}

impl Key {
    /// `None`: it does not verify signatures, or is of a kind that we do not know. A shared secret has no business in a set
    /// that everybody can fetch.
    fn from_jwk(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        let is_for_signatures =
            matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
                && common
                    .key_operations
                    .as_ref()
                    .is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !is_for_signatures || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return None;
        }
        let algorithm = match common.key_algorithm {
            Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
            None => None,
        };
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (key.family() != AlgorithmFamily::Hmac).then(|| Key {
            id: common.key_id.clone(),
            algorithm,
            key,
        })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// The same algorithm, as the library calls it.
pub(super) fn algorithm(configured: SignatureAlgorithm) -> Algorithm {
    match configured {
        SignatureAlgorithm::Es256 => Algorithm::ES256,
        SignatureAlgorithm::Es384 => Algorithm::ES384,
        SignatureAlgorithm::EdDsa => Algorithm::EdDSA,
        SignatureAlgorithm::Rs256 => Algorithm::RS256,
        SignatureAlgorithm::Rs384 => Algorithm::RS384,
        SignatureAlgorithm::Rs512 => Algorithm::RS512,
        SignatureAlgorithm::Ps256 => Algorithm::PS256,
        SignatureAlgorithm::Ps384 => Algorithm::PS384,
        SignatureAlgorithm::Ps512 => Algorithm::PS512,
        SignatureAlgorithm::Hs256 => Algorithm::HS256,
        SignatureAlgorithm::Hs384 => Algorithm::HS384,
        SignatureAlgorithm::Hs512 => Algorithm::HS512,
    }
}

/// Bytes that the secret of an HMAC must have at least (RFC 7518, 3.2).
pub(super) fn secret_min(algorithms: &[Algorithm]) -> usize {
    let of = |algorithm: &Algorithm| match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    };
    algorithms.iter().map(of).max().unwrap_or(32)
}
