//! Listeners, TLS files and limits as settings of ours, in TOML.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use broker_config::Config;

use super::conf::{Conf, Listener, Security, Setting};
use super::{Finding, Kind};

/// Options of `mosquitto.conf` that have a key here: the section and key, the unit, and the bounds of the value.
const NUMBERS: &[(&str, &str, &str, &str, u64, u64)] = &[
    (
        "max_packet_size",
        "limits",
        "max_packet_size",
        "",
        128,
        268_435_460,
    ),
    (
        "max_queued_messages",
        "limits",
        "max_queued_messages",
        "",
        1,
        10_000_000,
    ),
    (
        "max_queued_bytes",
        "limits",
        "max_queued_bytes",
        "",
        1024,
        64 << 30,
    ),
    (
        "max_inflight_messages",
        "limits",
        "max_inflight",
        "",
        1,
        65_535,
    ),
    ("max_keepalive", "session", "max_keep_alive", "s", 1, 65_535),
    ("sys_interval", "sys", "interval", "s", 0, 86_400),
];

const EXPIRY: &str = "persistent_client_expiration";
const EXPIRY_MAX_DAYS: u64 = 49_710;

/// Whether this room has something to say about an option that stands outside listeners.
pub(super) fn is_taken(key: &str) -> bool {
    key == EXPIRY || NUMBERS.iter().any(|(theirs, ..)| *theirs == key)
}

/// The settings as a file that can stand alone or be merged into one. `security` is whose users and rules were taken.
pub(super) fn write(
    conf: &Conf,
    security: &Security,
    anonymous: bool,
    findings: &mut Vec<Finding>,
) -> String {
    let mut tables = Tables::default();
    listeners(conf, security, &mut tables, findings);
    tls(conf, &mut tables, findings);
    for setting in &conf.settings {
        number(setting, &mut tables, findings);
    }
    expiry(conf, &mut tables, findings);
    connections(conf, &mut tables);
    if anonymous {
        tables.set("auth", "allow_anonymous", "true".to_owned());
    }
    let text = tables.text();
    if let Err(report) = Config::parse(&text, "the settings below") {
        let text = format!("the settings need a correction before they can be used: {report}");
        findings.push(Finding::new(Kind::Unmapped, None, text));
    }
    text
}

/// Keys by section, in the order of their names.
#[derive(Default)]
struct Tables(BTreeMap<String, BTreeMap<String, String>>);

impl Tables {
    fn set(&mut self, section: &str, key: &str, value: String) {
        self.0
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned(), value);
    }

    fn text(&self) -> String {
        let mut out =
            "# From mosquitto.conf, by postern import mosquitto. Read it before you use it.\n"
                .to_owned();
        for (section, keys) in &self.0 {
            // Writing to a String does not fail.
            let _ = writeln!(out, "\n[{section}]");
            for (key, value) in keys {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
        out
    }
}

fn listeners(conf: &Conf, security: &Security, tables: &mut Tables, findings: &mut Vec<Finding>) {
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for listener in &conf.listeners {
        let websocket = listener
            .setting("protocol")
            .is_some_and(|setting| setting.value == "websockets");
        let tls = listener.has_tls();
        let (protocol, usual) = match (websocket, tls) {
            (false, true) => ("mqtt", "mqtts"),
            (false, false) => ("mqtt", "mqtt"),
            (true, true) => ("websocket", "wss"),
            (true, false) => ("websocket", "ws"),
        };
        let place = listener.place.as_ref();
        let bind = match addresses(listener) {
            Ok(bind) => bind,
            Err(problem) => {
                let text = format!(
                    "the listener on port {} is left out: {problem}",
                    listener.port
                );
                findings.push(Finding::new(Kind::Unmapped, place, text));
                continue;
            }
        };
        let name = match names.insert(usual.to_owned()) {
            true => usual.to_owned(),
            false => format!("{usual}-{}", listener.port),
        };
        names.insert(name.clone());
        ports.insert(listener.port);
        let section = format!("listeners.{name}");
        tables.set(&section, "protocol", quoted(protocol));
        tables.set(&section, "tls", tls.to_string());
        let list: Vec<String> = bind.iter().map(|address| quoted(address)).collect();
        tables.set(&section, "bind", format!("[{}]", list.join(", ")));
        if !tls && !is_loopback(&bind) {
            tables.set(&section, "allow_plain_remote", "true".to_owned());
            let text = format!(
                "the listener on port {} has no TLS and is open to the network, as it was: passwords can be read on the way; \
                 move its clients to TLS, and then bind it to 127.0.0.1",
                listener.port
            );
            findings.push(Finding::new(Kind::Mapped, place, text));
        }
        certificates(listener, &section, tables, findings);
        if conf.per_listener && !security.is_same(&listener.security) {
            tables.set(&section, "enabled", "false".to_owned());
            let text = format!(
                "the listener on port {} has users and rules of its own, and those of another one were taken: it stays shut \
                 (enabled = false)",
                listener.port
            );
            findings.push(Finding::new(Kind::Unmapped, place, text));
        }
    }
    for (name, port) in [("mqtts", 8883), ("wss", 8083), ("mqtt", 1883)] {
        if !names.contains(name) && ports.contains(&port) {
            tables.set(&format!("listeners.{name}"), "enabled", "false".to_owned());
        }
    }
}

/// What a listener asks of its clients' certificates is not taken over; one that insisted on them stays shut until that is
/// settled.
fn certificates(
    listener: &Listener,
    section: &str,
    tables: &mut Tables,
    findings: &mut Vec<Finding>,
) {
    if !listener.is_set("require_certificate") {
        return;
    }
    tables.set(section, "enabled", "false".to_owned());
    let names = match (
        listener.is_set("use_identity_as_username"),
        listener.is_set("use_subject_as_username"),
    ) {
        (true, _) => ", and took the user name from their common name",
        (_, true) => ", and took the user name from their whole subject",
        _ => "",
    };
    let text = format!(
        "the listener on port {} let in only clients with a certificate of its CA{names}: it is written with enabled = false; \
         set up client certificates for it, then enable it",
        listener.port
    );
    findings.push(Finding::new(Kind::Unmapped, listener.place.as_ref(), text));
}

fn addresses(listener: &Listener) -> Result<Vec<String>, String> {
    if listener.setting("psk_hint").is_some() && listener.setting("certfile").is_none() {
        return Err(
            "there are no pre-shared keys; give its clients passwords and a TLS listener"
                .to_owned(),
        );
    }
    let port = listener.port;
    if port == 0 {
        return Err(
            "there are no Unix sockets for clients; let them use the port on loopback".to_owned(),
        );
    }
    let Some(host) = &listener.host else {
        let domain = listener
            .setting("socket_domain")
            .map(|setting| setting.value.as_str());
        return Ok(vec![match domain {
            Some("ipv4") => format!("0.0.0.0:{port}"),
            _ => format!("[::]:{port}"),
        }]);
    };
    if host == "localhost" {
        return Ok(vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
    }
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![std::net::SocketAddr::new(address, port).to_string()]),
        Err(_) => Err(format!(
            "{host:?} is a name, and listeners bind addresses; write its address"
        )),
    }
}

fn is_loopback(bind: &[String]) -> bool {
    let loopback = |address: &String| {
        let address: Option<std::net::SocketAddr> = address.parse().ok();
        address.is_some_and(|address| address.ip().is_loopback())
    };
    bind.iter().all(loopback)
}

fn tls(conf: &Conf, tables: &mut Tables, findings: &mut Vec<Finding>) {
    let mut first: Option<(&Setting, &Setting)> = None;
    let (mut all_13, mut any) = (true, false);
    for listener in &conf.listeners {
        let (Some(certificate), Some(key)) =
            (listener.setting("certfile"), listener.setting("keyfile"))
        else {
            continue;
        };
        any = true;
        let version = listener.setting("tls_version");
        all_13 &= version.is_some_and(|setting| setting.value == "tlsv1.3");
        if let Some(old) =
            version.filter(|setting| matches!(setting.value.as_str(), "tlsv1.1" | "tlsv1"))
        {
            let text = format!("{}: TLS 1.2 is the oldest version here", old.value);
            findings.push(Finding::new(Kind::Unmapped, Some(&old.place), text));
        }
        match first {
            None => first = Some((certificate, key)),
            Some((known, _)) if known.value != certificate.value => {
                let text = format!(
                    "the listener on port {} has a certificate of its own, {}: the settings name one for all listeners",
                    listener.port, certificate.value
                );
                findings.push(Finding::new(Kind::Differs, Some(&certificate.place), text));
            }
            Some(_) => {}
        }
        if let Some(chain) = listener
            .setting("cafile")
            .filter(|_| !listener.is_set("require_certificate"))
        {
            let text = format!(
                "cafile {}: if it has intermediate certificates of the server, [tls] certificate must name a file with the \
                 server's certificate and them",
                chain.value
            );
            findings.push(Finding::new(Kind::Differs, Some(&chain.place), text));
        }
    }
    if let Some((certificate, key)) = first {
        tables.set("tls", "certificate", quoted(&certificate.value));
        tables.set("tls", "private_key", quoted(&key.value));
        let text = "the gateway's user must be able to read the private key, or it does not start";
        findings.push(Finding::new(Kind::Mapped, Some(&key.place), text));
    }
    if any && all_13 {
        tables.set("tls", "min_version", quoted("1.3"));
    }
}

fn number(setting: &Setting, tables: &mut Tables, findings: &mut Vec<Finding>) {
    let Some((_, section, key, unit, least, most)) =
        NUMBERS.iter().find(|(key, ..)| *key == setting.key)
    else {
        return;
    };
    match setting.value.parse::<u64>() {
        Ok(value) if (*least..=*most).contains(&value) && unit.is_empty() => {
            tables.set(section, key, value.to_string());
        }
        Ok(value) if (*least..=*most).contains(&value) => {
            tables.set(section, key, quoted(&format!("{value}{unit}")));
        }
        _ => {
            let text = format!(
                "{} {} (0 has no limit there): [{section}] {key} takes {least} to {most}, and keeps its default",
                setting.key, setting.value
            );
            findings.push(Finding::new(Kind::Unmapped, Some(&setting.place), text));
        }
    }
}

fn expiry(conf: &Conf, tables: &mut Tables, findings: &mut Vec<Finding>) {
    let Some(setting) = conf.settings.iter().rfind(|setting| setting.key == EXPIRY) else {
        let text = "Mosquitto keeps the session of an absent client for ever; here for 7 days, or [session] expiry_max";
        findings.push(Finding::new(Kind::Differs, None, text));
        return;
    };
    let value = setting.value.as_str();
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let hours = match &value[digits.len()..] {
        "h" => Some(1),
        "d" => Some(24),
        "w" => Some(24 * 7),
        "m" => Some(24 * 30),
        "y" => Some(24 * 365),
        _ => None,
    };
    let total = hours.and_then(|hours| digits.parse::<u64>().ok()?.checked_mul(hours));
    match total {
        Some(total) => {
            let bounded = total.min(EXPIRY_MAX_DAYS * 24);
            tables.set("session", "expiry_max", quoted(&format!("{bounded}h")));
        }
        None => {
            let text = format!(
                "{EXPIRY} {value} is no time that Mosquitto knows (14d, 2m): the default holds"
            );
            findings.push(Finding::new(Kind::Unmapped, Some(&setting.place), text));
        }
    }
}

/// Limits of listeners that have none of their own here.
fn connections(conf: &Conf, tables: &mut Tables) {
    let limits = conf.listeners.iter().map(|listener| {
        listener
            .setting("max_connections")?
            .value
            .parse::<u64>()
            .ok()
    });
    let all: Option<Vec<u64>> = limits.collect();
    let sum = |limits: Vec<u64>| limits.into_iter().try_fold(0, u64::checked_add);
    if let Some(sum) = all
        .and_then(sum)
        .filter(|sum| (1..=1_000_000).contains(sum))
    {
        tables.set("limits", "max_connections", sum.to_string());
    }
    let aliases = conf
        .listeners
        .iter()
        .filter_map(|listener| listener.setting("max_topic_alias"));
    if let Some(most) = aliases
        .filter_map(|setting| setting.value.parse::<u16>().ok())
        .max()
    {
        tables.set("limits", "topic_alias_maximum", most.to_string());
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
