//! Which doors there are: `[listeners.NAME]`, the default ones and the operator's own.
//!
//! Conditions of one listener are checked here as well, since they involve several of its keys.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::{
    report::{Wrong, quote},
    value::{Choice, any},
    visit::{Applies::Restart, Named, Section, Visitor},
};

/// One listener. A table of the configuration is merged over the default of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Off without forgetting the rest. Default true.
    pub enabled: bool,
    pub protocol: Protocol,
    /// Default true for a listener with a name of its own.
    pub tls: bool,
    /// Addresses and ports; an IPv6 wildcard also takes IPv4 (rule N3). Port 0 lets the system
    /// choose. Empty: off. At most 64.
    pub bind: Vec<SocketAddr>,
    /// Request paths of a WebSocket listener, default `/mqtt` and `/`; none for other protocols.
    pub paths: Vec<String>,
    /// Let a listener without TLS bind an address that is not loopback. Default false.
    pub allow_plain_remote: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT on the byte stream.
    Mqtt,
    /// MQTT in WebSocket binary frames (MQTT 5, 6).
    WebSocket,
}

impl Choice for Protocol {
    const ALL: &'static [(&'static str, Self)] =
        &[("mqtt", Protocol::Mqtt), ("websocket", Protocol::WebSocket)];
    const NAMES: &'static str = r#""mqtt" or "websocket""#;
}

impl Protocol {
    fn default_paths(self) -> Vec<String> {
        match self {
            Protocol::Mqtt => Vec::new(),
            Protocol::WebSocket => vec!["/mqtt".to_owned(), "/".to_owned()],
        }
    }
}

impl Listener {
    /// Whether it accepts connections.
    pub fn is_on(&self) -> bool {
        self.enabled && !self.bind.is_empty()
    }

    fn new(protocol: Protocol, tls: bool, bind: Vec<SocketAddr>) -> Self {
        Listener {
            enabled: true,
            protocol,
            tls,
            bind,
            paths: protocol.default_paths(),
            allow_plain_remote: false,
        }
    }
}

impl Named for Listener {
    const NOUN: &'static str = "listener";
    const MANY: &'static str = "let listeners bind several addresses instead";
    const REQUIRED: &'static [&'static str] = &["protocol", "bind"];

    fn blank() -> Self {
        Listener::new(Protocol::Mqtt, true, Vec::new())
    }

    fn defaults() -> BTreeMap<String, Self> {
        defaults()
    }

    fn check(&self) -> Vec<(&'static str, Wrong)> {
        let mut wrong = Vec::new();
        if self.protocol == Protocol::WebSocket && self.paths.is_empty() {
            wrong.push((
                "paths",
                Wrong::new("is empty", r#"write a path such as "/mqtt""#),
            ));
        }
        if self.protocol == Protocol::Mqtt && !self.paths.is_empty() {
            let remedy = r#"remove it, or set protocol = "websocket""#;
            wrong.push((
                "paths",
                Wrong::new("only a websocket listener has paths", remedy),
            ));
        }
        let remote = |address: &&SocketAddr| !address.ip().to_canonical().is_loopback();
        if self.is_on()
            && !self.tls
            && !self.allow_plain_remote
            && let Some(address) = self.bind.iter().find(remote)
        {
            wrong.push((
                "bind",
                Wrong {
                    entry: Some((quote(&address.to_string()), None)),
                    ..Wrong::new(
                        "is not a loopback address, and this listener has no TLS: \
                         passwords would cross the network readable",
                        "bind 127.0.0.1 or [::1], set tls = true, or set \
                         allow_plain_remote = true",
                    )
                },
            ));
        }
        wrong
    }
}

/// The listeners of a gateway without configuration.
pub(crate) fn defaults() -> BTreeMap<String, Listener> {
    let everywhere = |port| vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
    let loopback = |port| {
        vec![
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ]
    };
    BTreeMap::from([
        (
            "mqtts".to_owned(),
            Listener::new(Protocol::Mqtt, true, everywhere(8883)),
        ),
        (
            "wss".to_owned(),
            Listener::new(Protocol::WebSocket, true, everywhere(8083)),
        ),
        (
            "mqtt".to_owned(),
            Listener::new(Protocol::Mqtt, false, loopback(1883)),
        ),
        (
            "ws".to_owned(),
            Listener::new(Protocol::WebSocket, false, Vec::new()),
        ),
    ])
}

/// Whether binding one address makes binding the other fail. An IPv6 wildcard is dual-stack
/// (rule N3); port 0 never collides.
pub(crate) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    let takes = |wild: IpAddr, other: IpAddr| match wild {
        IpAddr::V4(wild) => wild.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(wild) => wild.is_unspecified(),
    };
    a.port() != 0 && a.port() == b.port() && (x == y || takes(x, y) || takes(y, x))
}

impl Section for Listener {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            enabled,
            protocol,
            tls,
            bind,
            paths,
            allow_plain_remote,
        } = self;
        v.key("enabled", Restart, enabled, any);
        let before = *protocol;
        v.key("protocol", Restart, protocol, any);
        if *protocol != before {
            *paths = protocol.default_paths();
        }
        v.key("tls", Restart, tls, any);
        v.key("bind", Restart, bind, |bind| match bind.len() {
            0..=64 => Ok(()),
            _ => Err(Wrong::new("has more than 64 addresses", "leave some out")),
        });
        v.key("paths", Restart, paths, |paths| paths_usable(paths));
        v.key("allow_plain_remote", Restart, allow_plain_remote, any);
    }
}

/// Paths as they stand in a request line: absolute, and nothing that a client would have to
/// percent-encode.
fn paths_usable(paths: &[String]) -> Result<(), Wrong> {
    if paths.len() > 16 {
        return Err(Wrong::new("has more than 16 paths", "leave some out"));
    }
    let usable = |path: &&String| {
        path.starts_with('/')
            && path.len() <= 256
            && path
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b))
    };
    match paths.iter().find(|path| !usable(path)) {
        None => Ok(()),
        Some(path) => Err(Wrong {
            entry: Some((quote(path), None)),
            ..Wrong::new(
                "is not a path",
                r#"write it like "/mqtt", at most 256 characters"#,
            )
        }),
    }
}
