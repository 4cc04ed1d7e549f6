//! What valid configurations mean.

use std::{net::IpAddr, time::Duration};

use broker_config::{
    ByteSize, CertificateName, ClientCa, Config, Demand, DeniedPublish, Durability, IpNet,
    LogFormat, LogLevel, Mode, Protocol, Require, ScopeForm, SignatureAlgorithm, TlsVersion,
    UserName,
};

fn parse(text: &str) -> Config {
    match Config::parse(text, "test") {
        Ok(config) => config,
        Err(report) => panic!("{report}"),
    }
}

/// A valid configuration in which no key has its default.
const CHANGED: &str = r#"
data_dir = "/srv/\"odd\"\tname"
runtime_dir = "/run/p"
[log]
level = "trace"
format = "json"
[listeners.mqtts]
enabled = false
protocol = "websocket"
tls = false
bind = "192.0.2.1:1"
paths = "/a"
allow_plain_remote = true
client_certificates = "required"
require = "both"
client_cas = ["own", "/etc/ca.pem", "factory=b=c.pem", "./own"]
client_crls = "crl.pem"
client_fingerprints = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
certificate_name = "none"
certificate_role = "sensor"
proxy_protocol = true
trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
[listeners.wss]
max_fragment_size = 512
[listeners.own_one-2]
protocol = "websocket"
bind = ["[2001:db8::1]:443", "[fe80::1%3]:443"]
[tls]
certificate = "c.pem"
private_key = "k.pem"
server_names = ["*.example.org", "192.0.2.1", "2001:db8::1"]
min_version = "1.3"
watch_interval = "0s"
ciphers = "modern"
session_lifetime = "1m"
session_cache = 0
[certificates.rsa]
certificate = "r.pem"
private_key = "r.key"
[certificates.lan]
domains = "192.0.2.9"
challenge = "tls-alpn-01"
profile = "shortlived"
reuse_key = true
key_type = "ecdsa-p384"
max_chain_bytes = "3KiB"
max_chain_depth = 3
[acme]
domains = ["*.example.org", "example.org"]
contact = "ann@example.org"
directory = "https://ca.example:14000/dir"
directory_root = "r.pem"
challenge = "dns-01"
http_bind = "127.0.0.1:5002"
max_http_connections = 5
dns_hook = ["/etc/postern/hook", "--zone"]
dns_hook_timeout = "5s"
dns_propagation = "10s"
profile = "tlsserver"
reuse_key = false
key_type = "rsa-2048"
max_chain_bytes = "4KiB"
max_chain_depth = 2
external_account_key_id = "kid"
external_account_key_file = "mac"
resolvers = "127.0.0.1:5353"
[limits]
max_connections = 1
max_connections_per_address = 2
max_connecting_per_address = 14
connection_rate = 15
connection_burst = 16
max_handshakes = 3
max_lag = "17ms"
tls_timeout = "1500ms"
connect_timeout = "1m"
first_packet_max = 1000
max_packet_size = "2MiB"
max_subscriptions_per_session = 4
max_topic_levels = 5
max_queued_messages = 6
max_queued_bytes = "7KiB"
receive_maximum = 8
max_inflight = 9
topic_alias_maximum = 0
max_outgoing_topic_aliases = 65535
max_sessions = 10
max_sessions_per_principal = 11
max_sessions_by_role = ["fleet=12", "sensor=1"]
max_retained_messages = 0
max_retained_bytes = "0B"
max_stored_messages = 12
max_stored_bytes = "13KiB"
memory_budget = "1GiB"
[bans]
enabled = false
name_failures = 1
address_failures = 2
forget = "3s"
duration = "4s"
duration_max = "5s"
throttle = "60ms"
allow = ["192.0.2.1"]
deny = ["2001:db8::/32", "198.51.100.0/24"]
remembered = 100
[session]
expiry_max = "0s"
max_keep_alive = "90s"
denied_publish = "disconnect"
restart_will_grace = "0s"
[store]
durability = "process-crash"
retry = "100ms"
credit = "64KiB"
[auth]
allow_anonymous = true
anonymous_role = "gast-f.alle"
password_slots = 1
password_queue = 2
password_cache = 3
[audit]
enabled = false
max_entries = 1000
decisions = 0
[oauth.home]
issuer = "https://id.example:8443/realms/home"
mode = "introspection"
audience = ["mqtt", "urn:gateway"]
server_root = "r.pem"
introspection_url = "https://id.example/introspect"
client_id = "postern"
client_secret_file = "s"
revalidate_every = "30s"
timeout = "300ms"
max_requests_per_second = 7
token_cache = 0
clock_skew = "0s"
name_claim = "preferred_username"
username = "match"
username_claim = "device.label"
realm = "people"
roles_claim = "realm_access.roles"
roles = ["mqtt admins=admin", "sensor"]
default_roles = "person"
scope_claim = "scp"
scopes = ["postern", "rabbitmq"]
scope_prefix = "gw."
[oauth.plant]
issuer = "http://[::1]:9000"
audience = "any"
algorithms = "RS512"
jwks_url = "http://127.0.0.1:9000/jwks"
keys_max_age = "2h"
scopes = []
[oauth.fixed]
issuer = "https://fixed.example"
audience = "x"
keys_file = "k.json"
[oauth.shared]
issuer = "https://shared.example"
audience = "x"
algorithms = ["HS256", "HS512"]
secret_file = "h"
[bus]
ingress_links = 16
permits = "64KiB"
segment_size = "64KiB"
segments = 2
[sys]
interval = 0
"#;

pub fn everything_changed() -> Config {
    parse(CHANGED)
}

/// The lines of `print` that set `key = value` under each section.
fn lines(config: &Config) -> Vec<String> {
    let mut section = String::new();
    let mut lines = Vec::new();
    for line in config.print().lines() {
        match line {
            "" => {}
            header if header.starts_with('[') => section = header.to_owned(),
            key => lines.push(format!("{section} {key}")),
        }
    }
    lines
}

#[test]
fn every_key_that_is_written_is_read() {
    let (default, changed) = (Config::default(), everything_changed());
    // Other listeners of the default stay as they are. Records are a matter of TLS, which `mqtts` gave up.
    let untouched = [
        "[listeners.mqtt]",
        "[listeners.ws]",
        "[listeners.wss]",
        "[listeners.mqtts] max_fragment_size",
    ];
    let touched = "[listeners.wss] max_fragment_size";
    let changed = lines(&changed);
    for line in lines(&default) {
        let expected = untouched.iter().any(|s| line.starts_with(s)) && !line.starts_with(touched);
        assert_eq!(changed.contains(&line), expected, "{line}");
    }
}

#[test]
fn values_mean_what_they_say() {
    let config = everything_changed();
    assert_eq!(
        config.data_dir.as_deref(),
        Some("/srv/\"odd\"\tname".as_ref())
    );
    assert_eq!(
        (config.log.level, config.log.format),
        (LogLevel::Trace, LogFormat::Json)
    );
    assert_eq!(config.log.level.as_str(), "trace");
    assert_eq!(config.tls.min_version, TlsVersion::Tls13);
    assert_eq!(config.tls.watch_interval, Duration::ZERO);
    let rsa = &config.certificates["rsa"];
    assert_eq!(rsa.certificate.as_deref(), Some("r.pem".as_ref()));
    assert_eq!(rsa.private_key.as_deref(), Some("r.key".as_ref()));
    assert_eq!(config.limits.tls_timeout, Duration::from_millis(1_500));
    assert_eq!(config.limits.connect_timeout, Duration::from_secs(60));
    assert_eq!(config.limits.first_packet_max, ByteSize::from_bytes(1_000));
    assert_eq!(config.limits.max_queued_bytes.bytes(), 7 * 1_024);
    assert_eq!(config.limits.memory_budget.bytes(), 1 << 30);
    assert_eq!(config.session.denied_publish, DeniedPublish::Disconnect);
    assert_eq!(config.limits.max_stored_messages, 12);
    assert_eq!(config.limits.max_stored_bytes.bytes(), 13 * 1_024);
    assert_eq!(config.session.restart_will_grace, Duration::ZERO);
    assert_eq!(config.store.durability, Durability::ProcessCrash);
    assert_eq!(config.store.retry, Duration::from_millis(100));
    assert_eq!(config.store.credit, ByteSize::kib(64));
    assert_eq!(config.sys.interval, Duration::ZERO);
    assert_eq!(config.limits.max_lag, Duration::from_millis(17));
    assert_eq!(config.bans.throttle, Duration::from_millis(60));
    let address: IpAddr = "192.0.2.1".parse().expect("an address");
    assert_eq!(config.bans.allow, [IpNet::from(address)]);
    assert!(config.bans.deny[1].contains(&IpAddr::from([198, 51, 100, 255])));
    assert!(config.listeners["mqtts"].trusted_proxies[0].contains(&IpAddr::from([10, 1, 2, 3])));

    let clients = &config.listeners["mqtts"].clients;
    assert_eq!(
        (clients.demand, clients.require, clients.name),
        (Demand::Required, Require::Both, CertificateName::None)
    );
    let file = |realm: Option<&str>, path: &str| ClientCa::File {
        realm: realm.map(str::to_owned),
        path: path.into(),
    };
    assert_eq!(
        clients.cas,
        [
            ClientCa::Own,
            file(None, "/etc/ca.pem"),
            file(Some("factory"), "b=c.pem"),
            file(None, "./own"),
        ]
    );
    assert_eq!(clients.fingerprints[0].0[..2], [0x00, 0x11]);

    let home = &config.oauth["home"];
    assert_eq!(home.mode, Mode::Introspection);
    assert_eq!(home.username, UserName::Match);
    assert_eq!(home.scopes, [ScopeForm::Postern, ScopeForm::RabbitMq]);
    assert_eq!(home.roles[0].claimed, "mqtt admins");
    assert_eq!(home.roles[0].role, "admin");
    assert_eq!(home.roles[1].claimed, home.roles[1].role);
    assert_eq!(home.realm.as_deref(), Some("people"));
    assert!(home.checks_audience());
    let plant = &config.oauth["plant"];
    assert!(!plant.checks_audience() && plant.scopes.is_empty());
    assert_eq!(plant.algorithms, [SignatureAlgorithm::Rs512]);

    let own = &config.listeners["own_one-2"];
    assert!(own.tls && own.is_on() && own.protocol == Protocol::WebSocket);
    assert_eq!(own.paths, ["/mqtt", "/"]);
}

#[test]
fn what_is_printed_reads_back_equal() {
    for config in [Config::default(), everything_changed()] {
        let printed = config.print();
        assert_eq!(Config::parse(&printed, "printed"), Ok(config), "{printed}");
    }
}

#[test]
fn the_default_listeners_are_these() {
    let config = Config::default();
    let on: Vec<_> = config.listeners.iter().filter(|(_, l)| l.is_on()).collect();
    let shown: Vec<_> = on
        .iter()
        .map(|(name, l)| (name.as_str(), l.protocol, l.tls, format!("{:?}", l.bind)))
        .collect();
    assert_eq!(
        shown,
        [
            (
                "mqtt",
                Protocol::Mqtt,
                false,
                "[127.0.0.1:1883, [::1]:1883]".to_owned()
            ),
            ("mqtts", Protocol::Any, true, "[[::]:8883]".to_owned()),
            ("wss", Protocol::Any, true, "[[::]:8083]".to_owned()),
        ]
    );
}

// N3: loopback is 127.0.0.0/8 and ::1, also in its mapped form.
#[test]
fn a_plain_listener_may_bind_any_loopback_address() {
    let bind = r#"["127.1.2.3:1883", "[::1]:1883", "[::ffff:127.0.0.1]:1884"]"#;
    parse(&format!("[listeners.mqtt]\nbind = {bind}\n"));
    let mapped = "[listeners.mqtt]\nbind = \"[::ffff:192.0.2.1]:1883\"\n";
    assert!(Config::parse(mapped, "test").is_err());
}

#[test]
fn a_plain_listener_binds_other_addresses_only_if_told_to() {
    let text = "[listeners.mqtt]\nbind = \"0.0.0.0:1883\"\n";
    assert!(Config::parse(text, "test").is_err());
    parse(&format!("{text}allow_plain_remote = true\n"));
    parse(&format!("{text}enabled = false\n"));
}

#[test]
fn port_0_never_collides_but_a_wildcard_takes_every_address_of_its_port() {
    let bind = |a: &str, b: &str| {
        let text = format!("[listeners.mqtts]\nbind = \"{a}\"\n[listeners.wss]\nbind = \"{b}\"\n");
        Config::parse(&text, "test").is_ok()
    };
    assert!(bind("[::]:0", "[::]:0"));
    assert!(bind("0.0.0.0:5", "[2001:db8::1]:5"));
    assert!(bind("192.0.2.1:5", "192.0.2.2:5"));
    assert!(!bind("192.0.2.1:5", "[::ffff:192.0.2.1]:5"));
    assert!(!bind("[::]:5", "192.0.2.1:5"));
    assert!(!bind("0.0.0.0:5", "192.0.2.1:5"));
    assert!(!bind("[2001:db8::1]:5", "[::]:5"));
}

#[test]
fn a_listener_that_changes_its_protocol_gets_the_paths_of_the_new_one() {
    let config = parse("[listeners.mqtt]\nprotocol = \"any\"\n");
    assert_eq!(config.listeners["mqtt"].paths, ["/mqtt", "/"]);
    let config = parse("[listeners.wss]\nprotocol = \"mqtt\"\n");
    assert!(config.listeners["wss"].paths.is_empty());
}

#[test]
fn only_what_cannot_change_live_needs_a_restart() {
    let old = Config::default();
    assert_eq!(old.restart_keys(&old), [""; 0]);

    let live = "[log]\nlevel = \"debug\"\n[limits]\nmax_connections = 3\n\
                [session]\nexpiry_max = \"1d\"\n[auth]\nallow_anonymous = true\n\
                [tls]\ncertificate = \"c\"\nprivate_key = \"k\"\n[sys]\ninterval = 5\n\
                [listeners.wss]\nclient_fingerprints = \"00112233445566778899AABBCCDDEEFF00112233445566778899AABBCCDDEEFF\"\n";
    assert_eq!(old.restart_keys(&parse(live)), [""; 0]);

    let fixed = parse(
        "data_dir = \"/x\"\n[bus]\nsegments = 4\n[listeners.mqtts]\nbind = \"[::]:1\"\n\
         [listeners.own]\nprotocol = \"mqtt\"\nbind = \"[::]:2\"\n",
    );
    let own = [
        "allow_plain_remote",
        "bind",
        "certificate_name",
        "certificate_role",
        "client_cas",
        "client_certificates",
        "client_crls",
        "enabled",
        "max_fragment_size",
        "paths",
        "protocol",
        "proxy_protocol",
        "require",
        "tls",
        "trusted_proxies",
    ];
    let mut expected = vec!["bus.segments".to_owned(), "data_dir".to_owned()];
    expected.push("listeners.mqtts.bind".to_owned());
    expected.extend(own.map(|key| format!("listeners.own.{key}")));
    assert_eq!(old.restart_keys(&fixed), expected);
    // A listener that is gone needs one as well.
    assert_eq!(fixed.restart_keys(&old), expected);
}

#[test]
fn cipher_suites_are_a_profile_or_a_list_in_order_of_preference() {
    let suites = |text: &str| {
        let config = parse(&format!("[tls]\nciphers = {text}\n"));
        let suites = config.tls.ciphers.suites();
        suites.iter().map(|suite| suite.name()).collect::<Vec<_>>()
    };
    let (all, modern) = (suites(r#""intermediate""#), suites(r#""modern""#));
    assert_eq!(all.len(), 9);
    assert_eq!(all[..3], modern);
    assert!(modern.iter().all(|name| !name.contains("WITH")));
    let chosen = [
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_AES_256_GCM_SHA384",
    ];
    assert_eq!(suites(&format!("{chosen:?}")), chosen);
    assert_eq!(suites(r#""TLS_AES_128_GCM_SHA256""#), modern[..1]);
}

// B5
#[test]
fn the_log_of_the_router_holds_more_than_all_permits_after_it_wraps() {
    for config in [Config::default(), everything_changed()] {
        let router = config.router();
        let kept = (router.max_segment_count - 1) * router.max_segment_size;
        assert!(config.bus.permits.bytes() <= kept);
        assert!(
            router.max_connections > config.bus.ingress_links,
            "no link left to dispatch"
        );
        assert!(router.max_outgoing_packet_count > 0);
    }
    let router = Config::default().router();
    assert_eq!(
        (router.max_segment_count, router.max_segment_size),
        (3, 2 << 20)
    );
}
