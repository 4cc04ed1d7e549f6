//! Which cipher suites may protect a connection: `tls.ciphers`, by a name for a choice of them or one
//! by one.

use crate::{
    report::{Wrong, quote},
    value::{Choice, Leaf, Scalar, Value},
};

/// Cipher suites, in the order in which the gateway prefers them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ciphers {
    /// Every suite there is: TLS 1.3, and TLS 1.2 with forward secrecy and AEAD (Mozilla's
    /// intermediate profile without its finite-field suites).
    #[default]
    Intermediate,
    /// The suites of TLS 1.3 only (Mozilla's modern profile).
    Modern,
    /// These, without repetition.
    Only(Vec<CipherSuite>),
}

/// A cipher suite by its IANA name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CipherSuite {
    Tls13Aes128GcmSha256,
    Tls13Chacha20Poly1305Sha256,
    Tls13Aes256GcmSha384,
    EcdheEcdsaAes128GcmSha256,
    EcdheEcdsaChacha20Poly1305Sha256,
    EcdheEcdsaAes256GcmSha384,
    EcdheRsaAes128GcmSha256,
    EcdheRsaChacha20Poly1305Sha256,
    EcdheRsaAes256GcmSha384,
}

impl CipherSuite {
    /// Its name in the registry of IANA.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, suite)| *suite == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether it belongs to TLS 1.3; all others to TLS 1.2.
    pub fn is_tls13(self) -> bool {
        TLS13.contains(&self)
    }
}

const TLS13: [CipherSuite; 3] = [
    CipherSuite::Tls13Aes128GcmSha256,
    CipherSuite::Tls13Chacha20Poly1305Sha256,
    CipherSuite::Tls13Aes256GcmSha384,
];

impl Choice for CipherSuite {
    const ALL: &'static [(&'static str, Self)] = &[
        ("TLS_AES_128_GCM_SHA256", Self::Tls13Aes128GcmSha256),
        (
            "TLS_CHACHA20_POLY1305_SHA256",
            Self::Tls13Chacha20Poly1305Sha256,
        ),
        ("TLS_AES_256_GCM_SHA384", Self::Tls13Aes256GcmSha384),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheEcdsaAes128GcmSha256,
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            Self::EcdheEcdsaChacha20Poly1305Sha256,
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheEcdsaAes256GcmSha384,
        ),
        (
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheRsaAes128GcmSha256,
        ),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            Self::EcdheRsaChacha20Poly1305Sha256,
        ),
        (
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            Self::EcdheRsaAes256GcmSha384,
        ),
    ];
    const NAMES: &'static str = "\"intermediate\", \"modern\", or a list of IANA names such as \
                                 [\"TLS_AES_128_GCM_SHA256\", \
                                 \"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]";
}

impl Ciphers {
    /// The suites, the preferred one first.
    pub fn suites(&self) -> Vec<CipherSuite> {
        match self {
            Self::Intermediate => CipherSuite::ALL.iter().map(|(_, suite)| *suite).collect(),
            Self::Modern => TLS13.to_vec(),
            Self::Only(suites) => suites.clone(),
        }
    }
}

impl Value for Ciphers {
    const WANT: &'static str = CipherSuite::NAMES;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        match &leaf.scalar {
            Scalar::Text(name) if name == "intermediate" => Ok(Self::Intermediate),
            Scalar::Text(name) if name == "modern" => Ok(Self::Modern),
            _ => Vec::read(leaf).map(Self::Only),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Intermediate => Some(quote("intermediate")),
            Self::Modern => Some(quote("modern")),
            Self::Only(suites) => suites.show(),
        }
    }
}

/// A list must name something, and nothing twice.
pub(crate) fn usable(ciphers: &Ciphers) -> Result<(), Wrong> {
    let Ciphers::Only(suites) = ciphers else {
        return Ok(());
    };
    if suites.is_empty() {
        return Err(Wrong::new(
            "is empty",
            format!("write {}", CipherSuite::NAMES),
        ));
    }
    let twice = suites
        .iter()
        .enumerate()
        .find(|(n, suite)| suites[..*n].contains(suite));
    match twice {
        None => Ok(()),
        Some((_, suite)) => Err(Wrong {
            entry: Some((quote(suite.name()), None)),
            ..Wrong::new("is there twice", "leave one out")
        }),
    }
}
