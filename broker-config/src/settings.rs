//! The sections of the configuration: their keys, defaults, bounds, and when a change applies.
//!
//! Each type lists its fields in `visit` by destructuring, so the compiler refuses a field that
//! is not a key. Rules that involve more than one key are in `check`; listeners and limits have
//! files of their own.

use std::time::Duration;

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
    /// Logins that wait for a slot; further ones are told to come back (0x89). Addresses take
    /// turns. Default 500; 1 to 65,536.
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
            password_queue: 500,
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

/// A role, as rules and users know it.
pub(crate) fn role(name: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(Wrong::new(
            "is not a role",
            "use up to 64 letters, digits, \"_\", \".\" and \"-\"",
        )),
    }
}

/// The realm of self-signed certificates: nobody but the operator vouches for their names.
const PINNED: &str = "pinned";

/// The realm of names that an issuer or a CA vouches for (rule I1): it stands before a colon in rules and
/// logs. `local`, that of our own accounts, maps them to these.
pub(crate) fn realm(name: &str) -> Result<(), Wrong> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) && name != PINNED {
        true => Ok(()),
        false => Err(Wrong::new(
            "is not a realm",
            "use up to 64 letters, digits, \"-\", \"_\" and \".\", and not \"pinned\"; \"local\" maps \
             its names to our own accounts",
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

pub(crate) fn off_or_second_to_day(interval: &Duration) -> Result<(), Wrong> {
    match interval.is_zero() {
        true => Ok(()),
        false => within(Duration::from_secs(1)..=DAY)(interval),
    }
}
