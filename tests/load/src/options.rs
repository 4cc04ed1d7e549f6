//! What does the person who starts a run ask for? Parsing and checking of the command line; nothing is opened here
//! except the password file.

use crate::error::LoadError;
use crate::wire::Version;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes at the head of every payload: run, publisher, number and time of sending.
pub const PAYLOAD_HEAD: usize = 24;

/// Load generator for MQTT brokers.
///
/// Measures throughput, latency, loss, duplicates and order, and, for a server on this machine, what it costs in CPU
/// and memory. Everything is driven by one thread unless --threads says otherwise; the report names the generator's own
/// CPU use, so that a run in which the generator was the limit can be told.
#[derive(Parser)]
#[command(name = "postern-load", version)]
pub struct Options {
    #[command(subcommand)]
    pub pattern: Pattern,
}

#[derive(Subcommand)]
pub enum Pattern {
    /// N pairs: publisher i sends to subscriber i
    OneToOne(TrafficOptions),
    /// N publishers send to one subscriber
    FanIn(TrafficOptions),
    /// One publisher sends to N subscribers
    FanOut(TrafficOptions),
    /// N publishers send to one subscriber that is away and then comes back
    Backlog(BacklogOptions),
    /// N connections are opened and held: memory per connection
    Idle(IdleOptions),
    /// N clients connect, log in and leave, over and over: connection rate and CPU per connection
    Connect(ConnectOptions),
}

/// Where the server is, and how to speak to it.
#[derive(Args, Clone)]
pub struct TargetOptions {
    /// Host name or address of the server
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// TCP port [default: 8883 with --tls, else 1883]
    #[arg(long)]
    pub port: Option<u16>,
    /// Use TLS; the server's certificate is always verified
    #[arg(long, requires = "cafile")]
    pub tls: bool,
    /// PEM file with the certificates to trust
    #[arg(long, requires = "tls")]
    pub cafile: Option<PathBuf>,
    /// Name to verify and to send as SNI [default: --host]
    #[arg(long, requires = "tls")]
    pub server_name: Option<String>,
    #[arg(long, default_value = "1.3", requires = "tls")]
    pub tls_version: TlsVersion,
    /// The one key exchange group that is offered
    #[arg(long, default_value = "x25519", requires = "tls")]
    pub key_exchange: KeyExchange,
    /// The one cipher suite that is offered, e.g. TLS13_AES_128_GCM_SHA256 [default: all of them]
    #[arg(long, requires = "tls")]
    pub cipher_suite: Option<String>,
    /// MQTT version
    #[arg(long, default_value = "3.1.1")]
    pub mqtt: MqttVersion,
    #[arg(long)]
    pub username: Option<String>,
    /// File whose first line is the password (never given on the command line, where others could read it)
    #[arg(long, requires = "username")]
    pub password_file: Option<PathBuf>,
    /// File with a user name and a password, separated by a blank, on each line: the clients take them in turn
    #[arg(long, conflicts_with = "username")]
    pub accounts: Option<PathBuf>,
    /// Keep alive in seconds, 0 for none
    #[arg(long, default_value_t = 300)]
    pub keep_alive: u16,
    /// Spread the clients over this many source addresses of 127.0.0.0/8 (server on loopback only)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    pub sources: u16,
    /// Seconds one connection may take to be accepted, from TCP to CONNACK
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub connect_timeout: Duration,
    /// Connections that may be under way at once while a run is set up
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connect_at_once: u16,
    /// Threads of the generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Process id of the server on this machine: measure its CPU and memory
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What a client logs in with.
pub struct Account {
    pub username: String,
    pub password: Option<Vec<u8>>,
}

#[derive(Args, Clone)]
pub struct TrafficOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    /// Pairs, publishers or subscribers, by pattern
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub clients: u32,
    /// QoS of publishers and subscriptions
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes of each message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(PAYLOAD_HEAD as i64..=1 << 20))]
    pub payload: u32,
    /// Topics per publisher, used in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub topics: u32,
    /// Topics are PREFIX/publisher/topic
    #[arg(long, default_value = "postern-load")]
    pub topic_prefix: String,
    /// Messages the publishers together may be ahead of the slowest subscriber. It bounds what the server has to queue,
    /// so that an unthrottled run measures throughput and not what overload makes the server drop. At QoS 2 a message
    /// counts as received with its PUBREL
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub window: u32,
    /// Unacknowledged messages per publisher at QoS 1 and 2 (the server's Receive Maximum may lower it)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub inflight: u16,
    /// Messages per second of all publishers together, 0 for as fast as window and in-flight limit allow
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub rate: f64,
    /// Seconds of traffic before anything but loss, duplicates and order is measured
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub warm_up: Duration,
    /// Seconds of measured traffic [default: 10, unless --messages is given]
    #[arg(long, value_parser = seconds, conflicts_with = "messages")]
    pub duration: Option<Duration>,
    /// Messages each publisher sends in the measured part
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Seconds without a delivery after which what is still missing counts as lost
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub drain: Duration,
    /// The subscribers' sessions outlive their connections (clean session 0, or a session expiry)
    #[arg(long)]
    pub persistent: bool,
    /// Exit with code 1 if anything was lost, doubled, reordered, refused or unexpected
    #[arg(long)]
    pub check: bool,
}

#[derive(Args, Clone)]
pub struct BacklogOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    /// Publishers
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub clients: u32,
    /// QoS of publishers and subscription
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Payload bytes of each message
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(PAYLOAD_HEAD as i64..=1 << 20))]
    pub payload: u32,
    /// Messages of all publishers together
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub messages: u64,
    /// Unacknowledged messages per publisher (the server's Receive Maximum may lower it)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub inflight: u16,
    /// Seconds without progress after which what is still missing counts as lost
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub drain: Duration,
    /// Exit with code 1 if anything was lost, doubled, reordered, refused or unexpected
    #[arg(long)]
    pub check: bool,
}

#[derive(Args, Clone)]
pub struct IdleOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    /// Connections to hold
    #[arg(short = 'n', long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub clients: u32,
    /// Connections that come and go first, so that what the server sets up once is not counted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub warm_up: u32,
    /// Seconds the connections are held, all of them open, before the server's memory is read
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub hold: Duration,
}

#[derive(Args, Clone)]
pub struct ConnectOptions {
    #[command(flatten)]
    pub target: TargetOptions,
    /// Clients that connect at the same time
    #[arg(short = 'n', long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Resume the TLS session of the client's previous connection
    #[arg(long, requires = "tls")]
    pub resume: bool,
    /// Connections per second of all clients together, 0 for as fast as they go
    #[arg(long, default_value_t = 0.0, value_parser = rate)]
    pub rate: f64,
    /// Seconds before anything is measured
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub warm_up: Duration,
    /// Measured seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub duration: Duration,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum KeyExchange {
    X25519,
    P256,
    /// The hybrid with post-quantum ML-KEM
    X25519mlkem768,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum MqttVersion {
    #[value(name = "3.1.1")]
    V311,
    #[value(name = "5")]
    V5,
}

impl Pattern {
    pub fn target(&self) -> &TargetOptions {
        match self {
            Self::OneToOne(traffic) | Self::FanIn(traffic) | Self::FanOut(traffic) => {
                &traffic.target
            }
            Self::Backlog(backlog) => &backlog.target,
            Self::Idle(idle) => &idle.target,
            Self::Connect(connect) => &connect.target,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::OneToOne(_) => "one-to-one",
            Self::FanIn(_) => "fan-in",
            Self::FanOut(_) => "fan-out",
            Self::Backlog(_) => "backlog",
            Self::Idle(_) => "idle",
            Self::Connect(_) => "connect",
        }
    }
}

impl TargetOptions {
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 8883 } else { 1883 })
    }

    pub fn version(&self) -> Version {
        match self.mqtt {
            MqttVersion::V311 => Version::V311,
            MqttVersion::V5 => Version::V5,
        }
    }

    /// Who the clients are: client i is the i-th, and after the last one comes the first again. Empty: nobody.
    ///
    /// # Errors
    /// [`LoadError::File`] if a file cannot be read, [`LoadError::Option`] if what is in it is empty or too long for
    /// MQTT.
    pub fn accounts(&self) -> Result<Vec<Account>, LoadError> {
        if let Some(path) = &self.accounts {
            let wrong = || LoadError::Option {
                option: "--accounts",
                value: path.display().to_string(),
                remedy: "each of its lines has to hold a user name, a blank, and a password of 1 to 65,535 bytes",
            };
            let text = read(path)?;
            let account = |line: &str| {
                let (username, password) = line.split_once(' ')?;
                let fits = |text: &str| (1..=usize::from(u16::MAX)).contains(&text.len());
                (fits(username) && fits(password)).then(|| Account {
                    username: username.to_owned(),
                    password: Some(password.as_bytes().to_vec()),
                })
            };
            let accounts: Option<Vec<_>> = text.lines().map(account).collect();
            return accounts.filter(|all| !all.is_empty()).ok_or_else(wrong);
        }
        let Some(username) = self.username.clone() else {
            return Ok(Vec::new());
        };
        let password = self.password()?;
        Ok(vec![Account { username, password }])
    }

    fn password(&self) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(path) = &self.password_file else {
            return Ok(None);
        };
        let text = read(path)?;
        let password = text.lines().next().unwrap_or_default();
        if password.is_empty() || password.len() > usize::from(u16::MAX) {
            return Err(LoadError::Option {
                option: "--password-file",
                value: path.display().to_string(),
                remedy: "its first line has to hold a password of 1 to 65,535 bytes",
            });
        }
        Ok(Some(password.as_bytes().to_vec()))
    }

    /// What clap cannot see: options that do not fit each other.
    ///
    /// # Errors
    /// [`LoadError::Option`] with the option, its value and the remedy.
    pub fn check(&self) -> Result<(), LoadError> {
        if let Some(name) = &self.username
            && (name.is_empty() || name.len() > 1024)
        {
            return Err(LoadError::Option {
                option: "--username",
                value: format!("{} bytes long", name.len()),
                remedy: "give a name of 1 to 1,024 bytes",
            });
        }
        let loopback = self
            .host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_ipv4() && ip.is_loopback());
        if self.sources > 0 && !loopback {
            return Err(LoadError::Option {
                option: "--sources",
                value: self.sources.to_string(),
                remedy: "source addresses can only be spread towards an IPv4 loopback address; set --host 127.0.0.1",
            });
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, LoadError> {
    fs::read_to_string(path).map_err(|e| LoadError::File {
        path: path.to_owned(),
        why: e.to_string(),
    })
}

impl TrafficOptions {
    /// # Errors
    /// [`LoadError::Option`] if the topics cannot be topic names.
    pub fn check(&self) -> Result<(), LoadError> {
        let prefix = &self.topic_prefix;
        if prefix.is_empty() || prefix.len() > 1024 || prefix.contains(['+', '#', '\0']) {
            return Err(LoadError::Option {
                option: "--topic-prefix",
                value: format!("{prefix:?}"),
                remedy: "give 1 to 1,024 bytes without wildcards",
            });
        }
        self.target.check()
    }

    pub fn duration(&self) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(10))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "give a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("give 0 to 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "give a number per second".to_owned())?;
    if !(0.0..=100_000_000.0).contains(&rate) {
        return Err("give 0 (as fast as possible) to 100000000 per second".to_owned());
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn bad_values_are_refused() {
        let cases: &[&[&str]] = &[
            &["one-to-one", "--qos", "3"],
            &["one-to-one", "--payload", "23"],
            &["one-to-one", "--window", "0"],
            &["one-to-one", "--rate", "-1"],
            &["one-to-one", "--duration", "1", "--messages", "5"],
            &["one-to-one", "--tls"],
            &["one-to-one", "--cafile", "ca.pem"],
            &["one-to-one", "--password-file", "p"],
            &["connect", "--resume"],
            &["backlog", "--qos", "0"],
            &["backlog", "--messages", "0"],
            &["idle", "-n", "0"],
            &["idle", "--hold", "nan"],
        ];
        for case in cases {
            let arguments = ["postern-load"].iter().chain(*case);
            assert!(
                Options::try_parse_from(arguments).is_err(),
                "{case:?} was accepted"
            );
        }
    }

    #[test]
    fn options_that_do_not_fit_each_other_are_refused_by_name() {
        let cases: &[(&[&str], &str)] = &[
            (&["--sources", "9", "--host", "192.0.2.1"], "--sources is 9"),
            (&["--topic-prefix", "a/#"], "--topic-prefix is \"a/#\""),
            (&["--username", ""], "--username is 0 bytes long"),
        ];
        for (case, expected) in cases {
            let arguments = ["postern-load", "fan-in"].iter().chain(*case);
            let Pattern::FanIn(options) = Options::try_parse_from(arguments).unwrap().pattern
            else {
                panic!()
            };
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn accounts(file: &Path) -> Result<Vec<Account>, LoadError> {
        let options =
            Options::parse_from(["postern-load", "idle", "--accounts", file.to_str().unwrap()]);
        options.pattern.target().accounts()
    }

    #[test]
    fn a_file_of_accounts_has_a_name_and_a_password_on_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("accounts");
        fs::write(&file, "ann secret\nbob with blanks in it\n").unwrap();
        let found = accounts(&file).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|account| (&account.username[..], account.password.as_deref().unwrap()))
            .collect();
        assert_eq!(
            found,
            [("ann", &b"secret"[..]), ("bob", b"with blanks in it")]
        );
        for wrong in ["", "ann", "ann \n", " secret", "ann secret\n\n"] {
            fs::write(&file, wrong).unwrap();
            let error = accounts(&file).err().expect(wrong).to_string();
            assert!(
                error.contains("--accounts") && error.contains("user name"),
                "{error}"
            );
        }
        let error = accounts(&folder.path().join("none"))
            .err()
            .expect("no file");
        assert!(error.to_string().contains("none"), "{error}");
    }
}
