//! What all TLS listeners have in common: `[tls]`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{
    ciphers::{Ciphers, usable},
    report::Wrong,
    settings::off_or_second_to_day,
    value::{Choice, any, whole_seconds, within},
    visit::{
        Applies::{Live, Restart},
        Section, Visitor,
    },
};

/// `[tls]`: what all TLS listeners have in common, and their default certificate. Without `certificate` and `private_key` the
/// gateway uses its own private CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM file, leaf first, then intermediates. Relative to the working directory. Set together
    /// with `private_key` or not at all.
    pub certificate: Option<PathBuf>,
    /// PEM file (PKCS #8, PKCS #1 or SEC 1). Relative to the working directory.
    pub private_key: Option<PathBuf>,
    /// DNS names and IP addresses added to the certificate of the private CA, which always has
    /// the host name, `localhost`, `127.0.0.1` and `::1`. At most 100. Default none.
    pub server_names: Vec<String>,
    /// Oldest TLS version accepted. Default 1.2.
    pub min_version: TlsVersion,
    /// Cipher suites. Default intermediate: all that the gateway knows.
    pub ciphers: Ciphers,
    /// How long a TLS session may be resumed, by ticket or by id. The ticket keys change after
    /// half of it, so a ticket is good for half of it at least. Whole seconds; default 12 h, which
    /// is also the most; 0 s (no resumption), else 1 min at least.
    pub session_lifetime: Duration,
    /// Sessions that each listener keeps for clients without tickets (RFC 5246, 7.4.1.2), up to
    /// 8 KiB each, as a rule 0.3 KiB; beyond it the oldest goes. Default 4,096; 0 (none) to
    /// 1,000,000.
    pub session_cache: usize,
    /// How often certificate files are looked at for a change; what they hold is read only when
    /// they changed. Default 10 s; 0 s: only on SIGHUP; else 1 s to 1 d.
    pub watch_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// What the ticket keys of rustls allow.
const SESSION_LIFETIME_MAX: Duration = Duration::from_secs(12 * 3_600);

impl Default for Tls {
    fn default() -> Self {
        Tls {
            certificate: None,
            private_key: None,
            server_names: Vec::new(),
            min_version: TlsVersion::Tls12,
            ciphers: Ciphers::Intermediate,
            session_lifetime: SESSION_LIFETIME_MAX,
            session_cache: 4_096,
            watch_interval: Duration::from_secs(10),
        }
    }
}

impl Choice for TlsVersion {
    const ALL: &'static [(&'static str, Self)] =
        &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    const NAMES: &'static str = r#""1.2" or "1.3""#;
}

impl Section for Tls {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            certificate,
            private_key,
            server_names,
            min_version,
            ciphers,
            session_lifetime,
            session_cache,
            watch_interval,
        } = self;
        v.key("certificate", Live, certificate, any);
        v.key("private_key", Live, private_key, any);
        v.key("server_names", Restart, server_names, |names| {
            server_names_usable(names)
        });
        v.key("min_version", Restart, min_version, any);
        v.key("ciphers", Restart, ciphers, usable);
        v.key(
            "session_lifetime",
            Restart,
            session_lifetime,
            |lifetime| match lifetime.is_zero() {
                true => Ok(()),
                false => whole_seconds(Duration::from_secs(60)..=SESSION_LIFETIME_MAX)(lifetime),
            },
        );
        v.key(
            "session_cache",
            Restart,
            session_cache,
            within(0..=1_000_000),
        );
        v.key("watch_interval", Live, watch_interval, off_or_second_to_day);
    }
}

/// Each name must fit into a certificate: an IP address, or a DNS name as in RFC 5280, 4.2.1.6,
/// whose first label may be `*`.
pub(crate) fn server_names_usable(names: &[String]) -> Result<(), Wrong> {
    if names.len() > 100 {
        return Err(Wrong::new("has more than 100 names", "leave some out"));
    }
    let wrong = names
        .iter()
        .find(|name| name.parse::<IpAddr>().is_err() && !dns_name(name));
    match wrong {
        None => Ok(()),
        Some(name) => Err(Wrong {
            entry: Some((crate::report::quote(name), None)),
            ..Wrong::new(
                "is neither a DNS name nor an IP address",
                r#"write a name such as "mqtt.example.org" or an address such as "192.0.2.1""#,
            )
        }),
    }
}

fn dns_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // A last label of digits only would be a mistyped IPv4 address.
    let last = labels.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && labels.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
}
