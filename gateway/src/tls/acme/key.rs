//! Which private key does a certificate get, and how is a certificate asked for? Keys as PKCS#8 PEM,
//! and the certificate signing request (RFC 2986) of an order.

use std::collections::BTreeSet;

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, RsaKeySize, SanType,
};

use super::super::{KeyKind, SubjectName, TlsError};
use super::KeyType;

impl KeyType {
    /// A new key, as PEM. RSA takes up to seconds: not for an async worker.
    ///
    /// # Errors
    /// [`TlsError::Issue`] if the random number generator fails.
    pub(super) fn generate(self) -> Result<String, TlsError> {
        let key = match self {
            Self::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Self::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?,
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            Self::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096)?,
        };
        Ok(key.serialize_pem())
    }

    /// Whether a key of this kind is what was asked for.
    pub(super) fn is(self, kind: KeyKind) -> bool {
        kind == match self {
            Self::EcdsaP256 => KeyKind::Ecdsa(256),
            Self::EcdsaP384 => KeyKind::Ecdsa(384),
            Self::Rsa2048 => KeyKind::Rsa(2_048),
            Self::Rsa4096 => KeyKind::Rsa(4_096),
        }
    }
}

/// The request in DER: the names, nothing else, and the key's signature.
///
/// # Errors
/// [`TlsError::Issue`] if the key cannot be used.
pub(super) fn request(names: &BTreeSet<SubjectName>, key: &str) -> Result<Vec<u8>, TlsError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    for name in names {
        parameters.subject_alt_names.push(match name {
            SubjectName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            SubjectName::Ip(address) => SanType::IpAddress(*address),
        });
    }
    let key = KeyPair::from_pem(key)?;
    Ok(parameters.serialize_request(&key)?.der().to_vec())
}
