//! Postern's configuration: which keys there are, what they may say, and what they mean for the
//! embedded rumqttd.
//!
//! A [`Config`] is either complete and valid or does not exist: [`Config::load`] reports every
//! problem of its sources with file, line, key, value and remedy. The crate reads the
//! configuration file and nothing else: whether a certificate exists, a port is free or a
//! directory is writable is for the gateway to find out.

mod acme;
mod audit;
mod bans;
mod certificate;
mod check;
mod ciphers;
mod client_certificates;
mod limits;
mod list;
mod listener;
mod oauth;
mod read;
mod report;
mod role_limit;
mod settings;
mod size;
mod source;
mod store;
mod tls;
mod value;
mod visit;

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

pub use acme::{Acme, Challenge, KeyType};
pub use audit::Audit;
pub use bans::Bans;
pub use certificate::Certificate;
pub use ciphers::{CipherSuite, Ciphers};
pub use client_certificates::{
    CertificateName, ClientCa, ClientCertificates, Demand, Fingerprint, Require,
};
pub use ipnet::IpNet;
pub use limits::Limits;
pub use listener::{Listener, Protocol};
pub use oauth::{ANY_AUDIENCE, Issuer, Mode, RoleOfClaim, ScopeForm, SignatureAlgorithm, UserName};
pub use report::{Problem, Report};
pub use role_limit::RoleLimit;
#[cfg(feature = "rumqttd")]
pub use rumqttd::RouterConfig;
pub use settings::{Auth, Bus, DeniedPublish, Log, LogFormat, LogLevel, Session, Sys};
pub use size::ByteSize;
pub use source::{ENV_PREFIX, Sources};
pub use store::{Durability, Store};
pub use tls::{Tls, TlsVersion};

use list::{Entry, entries};
use read::Reader;
use source::Table;
use value::any;
use visit::{
    Applies::{self, Restart},
    Section, Visitor,
};

/// Every key with its default, commented out, and a sentence about it.
pub const SAMPLE: &str = include_str!("../postern.sample.toml");

/// Links of rumqttd beside the ingress links: the dispatcher's, and a margin, since rumqttd
/// silently drops a link beyond its maximum.
#[cfg(feature = "rumqttd")]
const SPARE_LINKS: usize = 12;
/// Envelopes rumqttd hands to a link in one go: the capacity of its own buffer for a link.
#[cfg(feature = "rumqttd")]
const ENVELOPES_PER_READ: u64 = 200;

/// The whole configuration. `Config::default()` is a working gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where accounts, keys and messages live; the gateway decides if it is not set (rule N3).
    pub data_dir: Option<PathBuf>,
    /// Where the control socket lives; the gateway decides if it is not set.
    pub runtime_dir: Option<PathBuf>,
    pub log: Log,
    /// By name. Default: `mqtts`, `wss`, `mqtt` on loopback, and `ws` without an address.
    pub listeners: BTreeMap<String, Listener>,
    pub tls: Tls,
    pub acme: Acme,
    /// By name. Default none.
    pub certificates: BTreeMap<String, Certificate>,
    pub limits: Limits,
    pub bans: Bans,
    pub session: Session,
    pub store: Store,
    pub auth: Auth,
    pub audit: Audit,
    /// Issuers of tokens, by name. Default none.
    pub oauth: BTreeMap<String, Issuer>,
    pub bus: Bus,
    pub sys: Sys,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: None,
            runtime_dir: None,
            log: Log::default(),
            listeners: listener::defaults(),
            tls: Tls::default(),
            acme: Acme::default(),
            certificates: BTreeMap::new(),
            limits: Limits::default(),
            bans: Bans::default(),
            session: Session::default(),
            store: Store::default(),
            auth: Auth::default(),
            audit: Audit::default(),
            oauth: BTreeMap::new(),
            bus: Bus::default(),
            sys: Sys::default(),
        }
    }
}

impl Section for Config {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            data_dir,
            runtime_dir,
            log,
            listeners,
            tls,
            acme,
            certificates,
            limits,
            bans,
            session,
            store,
            auth,
            audit,
            oauth,
            bus,
            sys,
        } = self;
        v.key("data_dir", Restart, data_dir, any);
        v.key("runtime_dir", Restart, runtime_dir, any);
        v.section("log", log);
        v.tables("listeners", listeners);
        v.section("tls", tls);
        v.section("acme", acme);
        v.tables("certificates", certificates);
        v.section("limits", limits);
        v.section("bans", bans);
        v.section("session", session);
        v.section("store", store);
        v.section("auth", auth);
        v.section("audit", audit);
        v.tables("oauth", oauth);
        v.section("bus", bus);
        v.section("sys", sys);
    }
}

impl Config {
    /// Reads the file, if one is named, and lays the environment over it: a variable
    /// `POSTERN__LIMITS__MAX_CONNECTIONS` sets `limits.max_connections`, its value read as TOML
    /// or, failing that, as a string.
    ///
    /// # Errors
    /// Every problem of all sources; only the syntax errors if the file is not TOML.
    pub fn load(sources: &Sources) -> Result<Config, Report> {
        let (tree, problems) = sources.tree().map_err(Report)?;
        Config::build(tree, problems)
    }

    /// Reads a TOML document; `origin` is what problems call it. Never panics, whatever the text.
    ///
    /// # Errors
    /// Every problem of the text; only the syntax errors if it is not TOML.
    pub fn parse(text: &str, origin: &str) -> Result<Config, Report> {
        Config::build(source::parse(text, origin).map_err(Report)?, Vec::new())
    }

    fn build(tree: Table, mut problems: Vec<Problem>) -> Result<Config, Report> {
        let mut config = Config::default();
        let everywhere: Vec<_> = entries(&config).iter().map(Entry::path).collect();
        let mut reader = Reader::new(tree, &everywhere);
        config.visit(&mut reader);
        let mut findings = reader.finish();
        check::check(&config, &mut findings);
        problems.append(&mut findings.problems);
        problems.sort_by(|a, b| {
            (a.line.is_none(), a.line, &a.origin).cmp(&(b.line.is_none(), b.line, &b.origin))
        });
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Report(problems))
        }
    }

    /// All values in effect, as TOML that [`Config::parse`] reads back to an equal configuration.
    /// There is no secret among the keys.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut section = String::new();
        for entry in entries(self) {
            if entry.section != section {
                // Writing to a String does not fail.
                let _ = writeln!(out, "\n[{}]", entry.section);
                section.clone_from(&entry.section);
            }
            let _ = match &entry.value {
                Some(value) => writeln!(out, "{} = {value}", entry.name),
                None => writeln!(out, "# {} is not set", entry.name),
            };
        }
        out
    }

    /// The keys whose values differ between `self`, with which the gateway runs, and `new`, and
    /// which take effect only when it starts. Empty: all of `new` can be applied on reload.
    pub fn restart_keys(&self, new: &Config) -> Vec<String> {
        let fixed = |config: &Config| -> BTreeMap<String, Option<String>> {
            let fixed = |entry: &Entry| entry.applies == Applies::Restart;
            entries(config)
                .into_iter()
                .filter(fixed)
                .map(|e| (e.path(), e.value))
                .collect()
        };
        let (old, new) = (fixed(self), fixed(new));
        let mut keys: Vec<String> = old
            .iter()
            .filter(|(key, value)| new.get(*key) != Some(*value))
            .map(|(key, _)| key.clone())
            .chain(new.keys().filter(|key| !old.contains_key(*key)).cloned())
            .collect();
        keys.sort();
        keys
    }

    /// The log and the links of the embedded rumqttd (rule B5).
    #[cfg(feature = "rumqttd")]
    pub fn router(&self) -> RouterConfig {
        RouterConfig {
            max_connections: self.bus.ingress_links + SPARE_LINKS,
            max_outgoing_packet_count: ENVELOPES_PER_READ,
            max_segment_size: self.bus.segment_size.bytes(),
            max_segment_count: self.bus.segments,
            ..RouterConfig::default()
        }
    }
}
