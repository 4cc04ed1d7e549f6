//! The sections of the configuration: their keys, defaults, bounds, and when a change applies.
//!
//! Each type lists its fields in `visit` by destructuring, so the compiler refuses a field that
//! is not a key. Rules that involve more than one key are in `check`; listeners and limits have
//! files of their own.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{
    report::Wrong,
    size::ByteSize,
    value::{Choice, any, whole_seconds, within},
    visit::{
        Applies::{Live, Restart},
        Section, Visitor,
    },
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// `[log]`: what the gateway writes to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written. Default `info`.
    pub level: LogLevel,
    /// Default `text`.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The level's name as in the configuration; also what `tracing` parses.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, level)| *level == self)
            .map_or("info", |(name, _)| name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
        }
    }
}

impl Choice for LogLevel {
    const ALL: &'static [(&'static str, Self)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    const NAMES: &'static str = r#""error", "warn", "info", "debug" or "trace""#;
}

impl Choice for LogFormat {
    const ALL: &'static [(&'static str, Self)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const NAMES: &'static str = r#""text" or "json""#;
}

impl Section for Log {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self { level, format } = self;
        v.key("level", Live, level, any);
        v.key("format", Restart, format, any);
    }
}

/// `[tls]`: the default certificate of all TLS listeners. Without `certificate` and `private_key`
/// the gateway uses its own private CA.
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

impl Default for Tls {
    fn default() -> Self {
        Tls {
            certificate: None,
            private_key: None,
            server_names: Vec::new(),
            min_version: TlsVersion::Tls12,
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
            watch_interval,
        } = self;
        v.key("certificate", Live, certificate, any);
        v.key("private_key", Live, private_key, any);
        v.key("server_names", Restart, server_names, |names| {
            server_names_usable(names)
        });
        v.key("min_version", Restart, min_version, any);
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

/// `[session]`: how long a client's state lives, and what a refused publisher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Longest session expiry: what a v5 client asks for is lowered to it, and a v3 session with
    /// clean session = 0 gets it (rule S5). Whole seconds; default 7 d; 0 s to 49,710 d, the
    /// longest an MQTT 5 Session Expiry Interval (3.1.2.11.2) can say.
    pub expiry_max: Duration,
    /// Longest keep alive (rule S3). Whole seconds; default 1 h; 1 s to 65,535 s.
    pub max_keep_alive: Duration,
    /// What happens to a v3 client whose PUBLISH is denied (rule S1). Default `drop`.
    pub denied_publish: DeniedPublish,
    /// After a restart, the time a client that was connected has to come back before its will is
    /// sent; a longer will delay holds (rule D10). Whole seconds; default 30 s; 0 s to 1 d.
    pub restart_will_grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeniedPublish {
    /// Acknowledge and drop the message.
    Drop,
    /// Close the connection.
    Disconnect,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            expiry_max: 7 * DAY,
            max_keep_alive: HOUR,
            denied_publish: DeniedPublish::Drop,
            restart_will_grace: Duration::from_secs(30),
        }
    }
}

impl Choice for DeniedPublish {
    const ALL: &'static [(&'static str, Self)] = &[
        ("drop", DeniedPublish::Drop),
        ("disconnect", DeniedPublish::Disconnect),
    ];
    const NAMES: &'static str = r#""drop" or "disconnect""#;
}

impl Section for Session {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            expiry_max,
            max_keep_alive,
            denied_publish,
            restart_will_grace,
        } = self;
        let second = Duration::from_secs(1);
        v.key(
            "expiry_max",
            Live,
            expiry_max,
            whole_seconds(Duration::ZERO..=49_710 * DAY),
        );
        v.key(
            "max_keep_alive",
            Live,
            max_keep_alive,
            whole_seconds(second..=65_535 * second),
        );
        v.key("denied_publish", Live, denied_publish, any);
        v.key(
            "restart_will_grace",
            Restart,
            restart_will_grace,
            whole_seconds(Duration::ZERO..=DAY),
        );
    }
}

/// `[auth]`: who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Accept a CONNECT without user name and password (rule I5). Default false.
    pub allow_anonymous: bool,
    /// The role such a client gets. Default `anonymous`.
    pub anonymous_role: String,
    /// Passwords hashed at once, 19 MiB each (rule I3). Default 0: one per core; at most 256.
    pub password_slots: usize,
    /// Logins that wait for a slot; further ones are told to come back (0x89). Default 64; 1 to
    /// 65,536.
    pub password_queue: usize,
    /// Verified passwords remembered, so that a reconnect is cheap. Default 10,000; 0 (none) to
    /// 10,000,000.
    pub password_cache: usize,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            allow_anonymous: false,
            anonymous_role: "anonymous".to_owned(),
            password_slots: 0,
            password_queue: 64,
            password_cache: 10_000,
        }
    }
}

impl Section for Auth {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            allow_anonymous,
            anonymous_role,
            password_slots,
            password_queue,
            password_cache,
        } = self;
        v.key("allow_anonymous", Live, allow_anonymous, any);
        v.key("anonymous_role", Live, anonymous_role, |name| role(name));
        v.key("password_slots", Restart, password_slots, within(0..=256));
        v.key(
            "password_queue",
            Restart,
            password_queue,
            within(1..=65_536),
        );
        v.key(
            "password_cache",
            Restart,
            password_cache,
            within(0..=10_000_000),
        );
    }
}

fn role(name: &str) -> Result<(), Wrong> {
    let usable = !name.is_empty()
        && name.len() <= 64
        && !name.chars().any(|c| c.is_whitespace() || c.is_control());
    match usable {
        true => Ok(()),
        false => Err(Wrong::new(
            "is not a role name",
            "write 1 to 64 bytes without spaces or control characters",
        )),
    }
}

/// `[bus]`: the embedded rumqttd that orders messages (rules B1 to B5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bus {
    /// Links that carry publishes in. Default 4; 1 to 16.
    pub ingress_links: usize,
    /// Bytes published and not yet dispatched; at most `(segments - 1) * segment_size`, or the
    /// log would lose messages (rule B5). Default 4 MiB; 64 KiB to 4 GiB - 1 (what one semaphore
    /// acquisition can count).
    pub permits: ByteSize,
    /// Size of one segment of the log. Default 2 MiB; 64 KiB to 1 GiB.
    pub segment_size: ByteSize,
    /// Segments the log keeps. Default 3; 2 to 1,024.
    pub segments: usize,
}

impl Default for Bus {
    fn default() -> Self {
        Bus {
            ingress_links: 4,
            permits: ByteSize::mib(4),
            segment_size: ByteSize::mib(2),
            segments: 3,
        }
    }
}

impl Section for Bus {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            ingress_links,
            permits,
            segment_size,
            segments,
        } = self;
        let least = ByteSize::kib(64);
        let most = ByteSize::from_bytes(u32::MAX as usize);
        v.key("ingress_links", Restart, ingress_links, within(1..=16));
        v.key("permits", Restart, permits, within(least..=most));
        v.key(
            "segment_size",
            Restart,
            segment_size,
            within(least..=ByteSize::mib(1_024)),
        );
        v.key("segments", Restart, segments, within(2..=1_024));
    }
}

/// `[sys]`: the `$SYS` topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sys {
    /// Time between two publications. Default 10 s; 0 s turns `$SYS` off; else 1 s to 1 d.
    pub interval: Duration,
}

impl Default for Sys {
    fn default() -> Self {
        Sys {
            interval: Duration::from_secs(10),
        }
    }
}

impl Section for Sys {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self { interval } = self;
        v.key("interval", Live, interval, off_or_second_to_day);
    }
}

fn off_or_second_to_day(interval: &Duration) -> Result<(), Wrong> {
    match interval.is_zero() {
        true => Ok(()),
        false => within(Duration::from_secs(1)..=DAY)(interval),
    }
}
