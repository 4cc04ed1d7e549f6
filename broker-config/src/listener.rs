//! Which doors there are: `[listeners.NAME]`, the default ones and the operator's own.
//!
//! Conditions of one listener are checked here as well, since they involve several of its keys.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    bans::few,
    client_certificates::ClientCertificates,
    report::{Wrong, quote},
    size::ByteSize,
    value::{Choice, any, within},
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
    /// Request paths of WebSocket, default `/mqtt` and `/`; none for a listener without WebSocket.
    pub paths: Vec<String>,
    /// Largest plaintext of one TLS record to a client; a client's max_fragment_length (RFC 6066,
    /// 4) lowers it further. Default 16 KiB, the most there is; 64 bytes at least.
    pub max_fragment_size: ByteSize,
    /// Let a listener without TLS bind an address that is not loopback. Default false.
    pub allow_plain_remote: bool,
    /// Whether clients prove themselves by certificates, and by which.
    pub clients: ClientCertificates,
    /// Connections come through proxies that say whose they are: each begins with a header of the
    /// PROXY protocol, version 1 or 2 (rule N2). Default false.
    pub proxy_protocol: bool,
    /// The proxies; every other address is refused. Set if and only if `proxy_protocol` is true. At
    /// most 1,000. Default none.
    pub trusted_proxies: Vec<IpNet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Either of the two below, by what the client asks for: its ALPN, else its first byte.
    Any,
    /// MQTT on the byte stream.
    Mqtt,
    /// MQTT in WebSocket binary frames (MQTT 5, 6).
    WebSocket,
}

impl Choice for Protocol {
    const ALL: &'static [(&'static str, Self)] = &[
        ("any", Protocol::Any),
        ("mqtt", Protocol::Mqtt),
        ("websocket", Protocol::WebSocket),
    ];
    const NAMES: &'static str = r#""any", "mqtt" or "websocket""#;
}

impl Protocol {
    fn default_paths(self) -> Vec<String> {
        match self {
            Protocol::Mqtt => Vec::new(),
            Protocol::Any | Protocol::WebSocket => vec!["/mqtt".to_owned(), "/".to_owned()],
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
            max_fragment_size: RECORD,
            allow_plain_remote: false,
            clients: ClientCertificates::default(),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
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
        let mut wrong = self.clients.check(self.tls || !self.is_on());
        if self.protocol != Protocol::Mqtt && self.paths.is_empty() {
            let remedy = r#"write a path such as "/mqtt", or set protocol = "mqtt""#;
            wrong.push(("paths", Wrong::new("is empty", remedy)));
        }
        if self.protocol == Protocol::Mqtt && !self.paths.is_empty() {
            let remedy = r#"remove it, or set protocol = "any" or "websocket""#;
            wrong.push((
                "paths",
                Wrong::new("only a listener with WebSocket has paths", remedy),
            ));
        }
        if !self.tls && self.max_fragment_size != RECORD {
            let remedy = "remove it, or set tls = true";
            wrong.push((
                "max_fragment_size",
                Wrong::new("only a listener with TLS has records", remedy),
            ));
        }
        wrong.extend(self.check_proxies());
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

/// The largest plaintext of a TLS record (RFC 8446, 5.1).
const RECORD: ByteSize = ByteSize::kib(16);
impl Listener {
    /// Rule N2: a header is believed from named addresses only, and never looked for elsewhere.
    fn check_proxies(&self) -> Option<(&'static str, Wrong)> {
        match (self.proxy_protocol, self.trusted_proxies.is_empty()) {
            (true, true) => Some((
                "proxy_protocol",
                Wrong::new(
                    "is set without trusted_proxies: nobody could connect",
                    r#"name the proxies, such as trusted_proxies = ["192.0.2.10"]"#,
                ),
            )),
            (false, false) => Some((
                "trusted_proxies",
                Wrong::new(
                    "is set without proxy_protocol = true",
                    "set both, or neither",
                ),
            )),
            _ => None,
        }
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
            Listener::new(Protocol::Any, true, everywhere(8883)),
        ),
        (
            "wss".to_owned(),
            Listener::new(Protocol::Any, true, everywhere(8083)),
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
            max_fragment_size,
            allow_plain_remote,
            clients,
            proxy_protocol,
            trusted_proxies,
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
        v.key(
            "max_fragment_size",
            Restart,
            max_fragment_size,
            within(ByteSize::from_bytes(64)..=RECORD),
        );
        v.key("allow_plain_remote", Restart, allow_plain_remote, any);
        clients.visit(v);
        v.key("proxy_protocol", Restart, proxy_protocol, any);
        v.key("trusted_proxies", Restart, trusted_proxies, |networks| {
            few(networks)
        });
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
