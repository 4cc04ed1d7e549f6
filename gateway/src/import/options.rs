//! The names of Mosquitto's options: what they belong to, and what becomes of those that are not taken over.

use super::Kind;

/// What an option of `mosquitto.conf` belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Global,
    Listener,
    Security,
    Bridge,
}

const LISTENER: &[&str] = &[
    "listener",
    "port",
    "bind_address",
    "bind_interface",
    "protocol",
    "cafile",
    "capath",
    "certfile",
    "keyfile",
    "crlfile",
    "ciphers",
    "ciphers_tls1.3",
    "dhparamfile",
    "require_certificate",
    "disable_client_cert_date_checks",
    "use_identity_as_username",
    "use_subject_as_username",
    "use_username_as_clientid",
    "tls_version",
    "tls_engine",
    "tls_engine_kpass_sha1",
    "tls_keyform",
    "psk_hint",
    "mount_point",
    "max_connections",
    "max_qos",
    "max_topic_alias",
    "max_topic_alias_broker",
    "socket_domain",
    "http_dir",
    "enable_proxy_protocol",
    "accept_protocol_versions",
];

const SECURITY: &[&str] = &[
    "password_file",
    "acl_file",
    "psk_file",
    "allow_anonymous",
    "plugin",
    "auth_plugin",
    "global_plugin",
    "plugin_load",
    "plugin_use",
    "auth_plugin_deny_special_chars",
    "allow_zero_length_clientid",
    "auto_id_prefix",
];

const BRIDGE: &[&str] = &[
    "connection",
    "address",
    "addresses",
    "cleansession",
    "clientid",
    "idle_timeout",
    "keepalive_interval",
    "local_cleansession",
    "local_clientid",
    "local_password",
    "local_username",
    "notification_topic",
    "notifications",
    "notifications_local_only",
    "password",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "restart_timeout",
    "round_robin",
    "start_type",
    "threshold",
    "topic",
    "try_private",
    "username",
];

pub(super) fn scope(key: &str) -> Scope {
    let plugin_option = key.starts_with("plugin_opt_") || key.starts_with("auth_opt_");
    match key {
        _ if LISTENER.contains(&key) => Scope::Listener,
        _ if plugin_option || SECURITY.contains(&key) => Scope::Security,
        _ if key.starts_with("bridge_") || BRIDGE.contains(&key) => Scope::Bridge,
        _ => Scope::Global,
    }
}

/// What to say of an option that has no counterpart; `None` for one that nobody needs to hear of, or that is taken over
/// elsewhere.
pub(super) fn remark(key: &str, value: &str) -> Option<(Kind, &'static str)> {
    use Kind::{Differs, Unmapped, Wider};
    let yes = matches!(value, "true" | "1");
    Some(match key {
        // What the process needs, and what is always so here.
        "pid_file"
        | "user"
        | "log_dest"
        | "log_facility"
        | "log_timestamp"
        | "log_timestamp_format"
        | "log_type"
        | "connection_messages"
        | "set_tcp_nodelay"
        | "persistence_file"
        | "persistence_location"
        | "autosave_interval"
        | "autosave_on_changes"
        | "allow_duplicate_messages"
        | "websockets_log_level"
        | "websockets_headers_size"
        | "dhparamfile"
        | "plugin_use"
        | "auto_id_prefix" => return None,
        "persistence" if yes => (
            Differs,
            "sessions, queued and retained messages are always kept here, and what is acknowledged is on disk; what \
             Mosquitto has stored is not taken over: clients subscribe again, retained messages are published again",
        ),
        "persistence" => (
            Differs,
            "sessions and retained messages survive a restart here; [store] durability = \"none\" is as close as it gets",
        ),
        "clientid_prefixes" => (
            Wider,
            "client identifiers are not restricted by a prefix here: a session belongs to the user who has it",
        ),
        "mount_point" => (
            Wider,
            "topics cannot be prefixed per listener: its clients would meet the others; give its topics a prefix, and \
             rules for it",
        ),
        "max_qos" => (Unmapped, "every QoS is accepted on every listener"),
        "retain_available" if !yes => (
            Unmapped,
            "retained messages are accepted; [limits] max_retained_messages = 0 \
            keeps none",
        ),
        "retain_available" => return None,
        "check_retain_source" if !yes => return None,
        "check_retain_source" => (
            Differs,
            "who published a retained message is not checked again later; who receives it is",
        ),
        "allow_zero_length_clientid" if !yes => (
            Unmapped,
            "a client may leave its client identifier to the gateway",
        ),
        "allow_zero_length_clientid" => return None,
        "queue_qos0_messages" if yes => (Unmapped, "QoS 0 messages are not kept for who is away"),
        "queue_qos0_messages" => return None,
        "upgrade_outgoing_qos" if yes => (
            Unmapped,
            "a message is never delivered at a higher QoS than it was published",
        ),
        "upgrade_outgoing_qos" => return None,
        "memory_limit" => (Unmapped, "see [limits] memory_budget"),
        "message_size_limit" => (
            Unmapped,
            "see [limits] max_packet_size, which counts the whole packet",
        ),
        "max_inflight_bytes" => (
            Unmapped,
            "messages in flight are counted, not their bytes: [limits] max_inflight",
        ),
        "use_username_as_clientid" if yes => (
            Unmapped,
            "a client keeps the client identifier it sends; nobody can take another user's session over anyway",
        ),
        "use_username_as_clientid" => return None,
        // Taken over, or spoken of, by `settings`.
        "socket_domain"
        | "protocol"
        | "certfile"
        | "keyfile"
        | "tls_version"
        | "max_connections"
        | "max_topic_alias"
        | "cafile"
        | "capath"
        | "crlfile"
        | "require_certificate"
        | "use_identity_as_username"
        | "use_subject_as_username"
        | "psk_hint"
        | "disable_client_cert_date_checks" => return None,
        "ciphers" | "ciphers_tls1.3" => (
            Differs,
            "cipher suites are not chosen: TLS 1.2 with ECDHE and AEAD, and TLS 1.3",
        ),
        "http_dir" => (Unmapped, "no files are served over HTTP"),
        "tls_engine" | "tls_engine_kpass_sha1" | "tls_keyform" => {
            (Unmapped, "keys are files; there are no TLS engines")
        }
        "bind_interface" => (Unmapped, "a listener binds addresses, not interfaces"),
        "auth_plugin_deny_special_chars" => (
            Differs,
            "a name with +, # or / never matches an allow with %u here, whatever this says",
        ),
        "enable_proxy_protocol" => (Unmapped, "see docs/configuration.md for the PROXY protocol"),
        "accept_protocol_versions" => (
            Unmapped,
            "MQTT 3.1, 3.1.1 and 5 are accepted on every listener",
        ),
        _ => (Unmapped, "it has no counterpart here"),
    })
}
