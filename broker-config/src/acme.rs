//! `[acme]`: certificates that the gateway gets from a CA by ACME (RFC 8555), and how.
//!
//! One list of domains here is one certificate. Further certificates have `domains` in a section
//! `[certificates.NAME]` and take from here what they do not say themselves.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    report::{Wrong, quote},
    size::ByteSize,
    value::{Choice, any, within},
    visit::{
        Applies::{Live, Restart},
        Section, Visitor,
    },
};

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// `[acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// DNS names and IP addresses of one certificate, the gateway's default one. At most 100.
    /// Default none: no certificate is ordered.
    pub domains: Vec<String>,
    /// Mail addresses that the CA may write to. At most 10. Default none.
    pub contact: Vec<String>,
    /// URL of the CA's directory (RFC 8555, 7.1.1). Default Let's Encrypt.
    pub directory: String,
    /// PEM file of the roots that vouch for `directory`, instead of the system's.
    pub directory_root: Option<PathBuf>,
    /// How control over the names is proven. Default `http-01`.
    pub challenge: Challenge,
    /// Where HTTP-01 is answered. At most 16. Default `[::]:80`.
    pub http_bind: Vec<SocketAddr>,
    /// Open connections there. Default 64; 1 to 10,000.
    pub max_http_connections: usize,
    /// Program and arguments that set and remove DNS records for DNS-01. At most 32. Default none.
    pub dns_hook: Vec<String>,
    /// How long the program may run. Default 2 min; 1 s to 1 h.
    pub dns_hook_timeout: Duration,
    /// How long to wait after it for the record to reach all name servers. Default 0 s; at most
    /// 1 h.
    pub dns_propagation: Duration,
    /// The CA's profile. Not set: the CA's default, and `shortlived` for IP addresses where the
    /// CA has it.
    pub profile: Option<String>,
    /// Keep the private key at renewal, so that devices may pin it. Default true.
    pub reuse_key: bool,
    /// Kind of a new private key. Default `ecdsa-p256`.
    pub key_type: KeyType,
    /// Longest chain, in bytes of DER, that a renewal may bring without consent. Default 8 KiB;
    /// 256 B to 64 KiB.
    pub max_chain_bytes: ByteSize,
    /// Most certificates of such a chain, the server's included. Default 4; 1 to 10.
    pub max_chain_depth: usize,
    /// Key identifier of an external account (RFC 8555, 7.3.4). Set together with
    /// `external_account_key_file` or not at all.
    pub external_account_key_id: Option<String>,
    /// File with the MAC key of that account in base64url.
    pub external_account_key_file: Option<PathBuf>,
    /// DNS servers that are asked before an order. At most 8. Default none: the system's.
    pub resolvers: Vec<SocketAddr>,
}

/// How control over a name is proven to the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 8555, 8.3: over HTTP on port 80.
    Http01,
    /// RFC 8737: over TLS on port 443.
    TlsAlpn01,
    /// RFC 8555, 8.4: by a TXT record.
    Dns01,
}

/// Kind of a certificate's private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    EcdsaP256,
    EcdsaP384,
    Rsa2048,
    Rsa4096,
}

impl Choice for Challenge {
    const ALL: &'static [(&'static str, Self)] = &[
        ("http-01", Challenge::Http01),
        ("tls-alpn-01", Challenge::TlsAlpn01),
        ("dns-01", Challenge::Dns01),
    ];
    const NAMES: &'static str = r#""http-01", "tls-alpn-01" or "dns-01""#;
}

impl Choice for KeyType {
    const ALL: &'static [(&'static str, Self)] = &[
        ("ecdsa-p256", KeyType::EcdsaP256),
        ("ecdsa-p384", KeyType::EcdsaP384),
        ("rsa-2048", KeyType::Rsa2048),
        ("rsa-4096", KeyType::Rsa4096),
    ];
    const NAMES: &'static str = r#""ecdsa-p256", "ecdsa-p384", "rsa-2048" or "rsa-4096""#;
}

impl Default for Acme {
    fn default() -> Self {
        Acme {
            domains: Vec::new(),
            contact: Vec::new(),
            directory: LETS_ENCRYPT.to_owned(),
            directory_root: None,
            challenge: Challenge::Http01,
            http_bind: vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, 80))],
            max_http_connections: 64,
            dns_hook: Vec::new(),
            dns_hook_timeout: Duration::from_secs(120),
            dns_propagation: Duration::ZERO,
            profile: None,
            reuse_key: true,
            key_type: KeyType::EcdsaP256,
            max_chain_bytes: ByteSize::kib(8),
            max_chain_depth: 4,
            external_account_key_id: None,
            external_account_key_file: None,
            resolvers: Vec::new(),
        }
    }
}

impl Section for Acme {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            domains,
            contact,
            directory,
            directory_root,
            challenge,
            http_bind,
            max_http_connections,
            dns_hook,
            dns_hook_timeout,
            dns_propagation,
            profile,
            reuse_key,
            key_type,
            max_chain_bytes,
            max_chain_depth,
            external_account_key_id,
            external_account_key_file,
            resolvers,
        } = self;
        const HOUR: Duration = Duration::from_secs(3_600);
        v.key("domains", Live, domains, |names| domains_usable(names));
        v.key("contact", Live, contact, |contact| contact_usable(contact));
        v.key("directory", Live, directory, |url| directory_usable(url));
        v.key("directory_root", Live, directory_root, any);
        v.key("challenge", Live, challenge, any);
        v.key("http_bind", Restart, http_bind, |bind| match bind.len() {
            0..=16 => Ok(()),
            _ => Err(Wrong::new("has more than 16 addresses", "leave some out")),
        });
        let connections = within(1..=10_000);
        v.key(
            "max_http_connections",
            Restart,
            max_http_connections,
            connections,
        );
        v.key("dns_hook", Live, dns_hook, |command| hook_usable(command));
        let hook = within(Duration::from_secs(1)..=HOUR);
        v.key("dns_hook_timeout", Live, dns_hook_timeout, hook);
        let propagation = within(Duration::ZERO..=HOUR);
        v.key("dns_propagation", Live, dns_propagation, propagation);
        v.key("profile", Live, profile, profile_usable);
        v.key("reuse_key", Live, reuse_key, any);
        v.key("key_type", Live, key_type, any);
        v.key("max_chain_bytes", Live, max_chain_bytes, chain_bytes_usable);
        v.key("max_chain_depth", Live, max_chain_depth, within(1..=10));
        v.key(
            "external_account_key_id",
            Live,
            external_account_key_id,
            key_id_usable,
        );
        v.key(
            "external_account_key_file",
            Live,
            external_account_key_file,
            any,
        );
        v.key("resolvers", Live, resolvers, |resolvers| {
            match resolvers.len() {
                0..=8 => Ok(()),
                _ => Err(Wrong::new("has more than 8 addresses", "leave some out")),
            }
        });
    }
}

/// What one certificate must satisfy as a whole: its names against the way they are proven.
pub(crate) fn provable(
    domains: &[String],
    challenge: Challenge,
    hook: &[String],
) -> Result<(), (&'static str, Wrong)> {
    let ip = |name: &&String| name.parse::<IpAddr>().is_ok();
    if challenge == Challenge::Dns01 {
        // Rule C2; RFC 8738, 7.
        if let Some(address) = domains.iter().find(ip) {
            let remedy = r#"use challenge = "http-01" or "tls-alpn-01""#;
            return Err((
                "domains",
                about(
                    address,
                    "is an IP address, which dns-01 cannot prove",
                    remedy,
                ),
            ));
        }
        if !domains.is_empty() && hook.is_empty() {
            let remedy = "name the program that sets the DNS records in acme.dns_hook";
            return Err(("challenge", Wrong::new("needs acme.dns_hook", remedy)));
        }
        return Ok(());
    }
    match domains.iter().find(|name| name.starts_with("*.")) {
        None => Ok(()),
        Some(wildcard) => {
            let remedy =
                r#"set challenge = "dns-01" and acme.dns_hook, or list the names one by one"#;
            Err((
                "domains",
                about(
                    wildcard,
                    "is a wildcard, which only dns-01 can prove",
                    remedy,
                ),
            ))
        }
    }
}

fn about(entry: &str, problem: &'static str, remedy: &'static str) -> Wrong {
    Wrong {
        entry: Some((quote(entry), None)),
        ..Wrong::new(problem, remedy)
    }
}

/// Names for a certificate: as for the private CA's, and each once.
pub(crate) fn domains_usable(domains: &[String]) -> Result<(), Wrong> {
    crate::tls::server_names_usable(domains)?;
    let mut seen = BTreeSet::new();
    match domains
        .iter()
        .find(|name| !seen.insert(name.to_ascii_lowercase()))
    {
        None => Ok(()),
        Some(twice) => Err(about(twice, "is there twice", "leave one out")),
    }
}

fn contact_usable(contact: &[String]) -> Result<(), Wrong> {
    if contact.len() > 10 {
        return Err(Wrong::new("has more than 10 addresses", "leave some out"));
    }
    let usable = |address: &&String| {
        address.len() <= 254
            && address
                .split_once('@')
                .is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
            && !address.contains(':')
            && address
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b',' && b != b'?')
    };
    match contact.iter().find(|address| !usable(address)) {
        None => Ok(()),
        Some(wrong) => {
            let remedy = r#"write an address such as "ann@example.org""#;
            Err(about(wrong, "is not a mail address", remedy))
        }
    }
}

fn directory_usable(url: &str) -> Result<(), Wrong> {
    let host = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').next());
    let plain = url.len() <= 2_048 && url.bytes().all(|b| b.is_ascii_graphic());
    match host {
        Some(host) if !host.is_empty() && !host.contains('@') && plain => Ok(()),
        _ => Err(Wrong::new(
            "is not the URL of an ACME directory",
            format!(
                "write one that begins with https://, such as {}",
                quote(LETS_ENCRYPT)
            ),
        )),
    }
}

fn hook_usable(command: &[String]) -> Result<(), Wrong> {
    if command.len() > 32
        || command
            .iter()
            .any(|word| word.len() > 1_024 || word.contains('\0'))
    {
        let remedy = "write a program and at most 31 arguments of at most 1,024 bytes";
        return Err(Wrong::new("is too long", remedy));
    }
    match command.first() {
        Some(program) if !program.starts_with('/') => Err(about(
            program,
            "is not an absolute path",
            "write the whole path of the program, such as \"/etc/postern/dns-hook\"",
        )),
        _ => Ok(()),
    }
}

pub(crate) fn profile_usable(profile: &Option<String>) -> Result<(), Wrong> {
    let usable = |name: &str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
    };
    match profile {
        Some(name) if !usable(name) => Err(Wrong::new(
            "is not the name of a profile",
            r#"write a name such as "shortlived", or leave the key out"#,
        )),
        _ => Ok(()),
    }
}

pub(crate) fn chain_bytes_usable(bytes: &ByteSize) -> Result<(), Wrong> {
    within(ByteSize::from_bytes(256)..=ByteSize::kib(64))(bytes)
}

fn key_id_usable(id: &Option<String>) -> Result<(), Wrong> {
    match id {
        Some(id) if id.is_empty() || id.len() > 512 || id.chars().any(char::is_control) => {
            let remedy = "write the key identifier that the CA gave you";
            Err(Wrong::new("cannot be a key identifier", remedy))
        }
        _ => Ok(()),
    }
}
