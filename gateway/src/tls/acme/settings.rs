//! What is wanted: the CA, and each certificate that it is to issue. Read anew before every step, so
//! that a reload applies at once.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::SubjectName;

/// Everything the renewal loop goes by.
#[derive(Debug, Clone)]
pub struct Plan {
    pub ca: Ca,
    /// One for each slot.
    pub certificates: Vec<Wanted>,
}

/// The CA, and what it wants to know of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ca {
    /// URL of the directory (RFC 8555, 7.1.1).
    pub directory: String,
    /// PEM file of the roots that vouch for the directory; `None`: the system's.
    pub root: Option<PathBuf>,
    /// Mail addresses.
    pub contact: Vec<String>,
    pub external_account: Option<ExternalAccount>,
    /// For DNS-01.
    pub hook: Option<DnsHook>,
    /// DNS servers for the preflight; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// External account binding (RFC 8555, 7.3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    pub key_id: String,
    /// File with the MAC key in base64url.
    pub key_file: PathBuf,
}

/// The operator's program that sets and removes TXT records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHook {
    pub program: PathBuf,
    /// Before our own arguments.
    pub arguments: Vec<String>,
    pub timeout: Duration,
    /// How long to wait after it.
    pub propagation: Duration,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its slot in [`Certificates`](super::super::Certificates), and its name for the operator.
    pub slot: String,
    pub names: BTreeSet<SubjectName>,
    pub challenge: Challenge,
    /// `None`: the CA's default, and [`SHORT_LIVED`](Wanted::SHORT_LIVED) for IP addresses if the
    /// CA has it.
    pub profile: Option<String>,
    pub reuse_key: bool,
    pub key_type: KeyType,
    /// Octets of the chain that a renewal may bring without consent.
    pub max_chain_bytes: usize,
    /// Certificates of the chain, likewise.
    pub max_chain_depth: usize,
}

impl Wanted {
    /// Let's Encrypt issues for IP addresses under this profile only.
    pub const SHORT_LIVED: &'static str = "shortlived";

    /// What makes a state that was kept for it worth keeping: another CA, other names or another
    /// way to prove them begin anew.
    pub(super) fn purpose(&self, ca: &Ca) -> String {
        let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        format!(
            "{} {} {} {:?} {}",
            ca.directory,
            self.challenge,
            self.profile.as_deref().unwrap_or("-"),
            self.key_type,
            names.join(",")
        )
    }
}

/// How control over a name is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    Http01,
    TlsAlpn01,
    Dns01,
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        })
    }
}

impl From<Challenge> for instant_acme::ChallengeType {
    fn from(challenge: Challenge) -> Self {
        match challenge {
            Challenge::Http01 => Self::Http01,
            Challenge::TlsAlpn01 => Self::TlsAlpn01,
            Challenge::Dns01 => Self::Dns01,
        }
    }
}

/// Kind of a new private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
    Rsa4096,
}
