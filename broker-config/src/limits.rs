//! `[limits]`: its keys, defaults and bounds. Everything here applies on reload.

use std::time::Duration;

use crate::{
    report::Wrong,
    role_limit::RoleLimit,
    size::ByteSize,
    value::{any, within},
    visit::{Applies::Live, Section, Visitor},
};

/// `[limits]`: what one client, and all clients together, may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open connections on all listeners. Default 20,000; 1 to 1,000,000.
    pub max_connections: usize,
    /// Open connections from one address (IPv4 address or IPv6 /64). Default 2,000; 1 to 1,000,000.
    pub max_connections_per_address: usize,
    /// Connections from one address that have not come to a CONNACK. Default 1,000; 1 to 1,000,000.
    pub max_connecting_per_address: usize,
    /// New connections per second from one address, beyond `connection_burst`. Default 100; 0 for
    /// any number; at most 1,000,000.
    pub connection_rate: u32,
    /// New connections at once from one address. Default 1,000; 1 to 1,000,000.
    pub connection_burst: u32,
    /// TLS handshakes under way at once, from a complete ClientHello on; further ones wait, and one
    /// address gets at most a quarter. Default 500; 1 to 100,000.
    pub max_handshakes: usize,
    /// How late the event loop may be before new connections wait; when it stays so four times as
    /// long, they are closed. Default 500 ms; 0 s for never, else 10 ms to 1 min.
    pub max_lag: Duration,
    /// From accept to the end of the TLS handshake. Default 10 s; 10 ms to 5 min.
    pub tls_timeout: Duration,
    /// From the end of the TLS handshake to a complete CONNECT. Default 10 s; 10 ms to 5 min.
    pub connect_timeout: Duration,
    /// Bytes of a CONNECT packet; where `max_packet_size` is smaller, that one holds. Default
    /// 16 KiB; 128 bytes to 1 MiB.
    pub first_packet_max: ByteSize,
    /// Bytes of any packet in both directions, the fixed header included (MQTT 5, 3.1.2.11.4).
    /// Default 1 MiB; 128 bytes to 268,435,460 (the largest MQTT packet).
    pub max_packet_size: ByteSize,
    /// Default 1,000; 1 to 1,000,000.
    pub max_subscriptions_per_session: usize,
    /// Levels of a topic name or topic filter. Default 64; 1 to 1,024.
    pub max_topic_levels: usize,
    /// Messages that wait for one session. Default 1,000; 1 to 10,000,000.
    pub max_queued_messages: usize,
    /// Bytes that wait for one session. Default 4 MiB; 1 KiB to 64 GiB (or what the platform can
    /// count).
    pub max_queued_bytes: ByteSize,
    /// QoS > 0 messages we accept unacknowledged from one client (MQTT 5, 3.2.2.3.3). Default
    /// 256; 1 to 65,535.
    pub receive_maximum: u16,
    /// QoS > 0 messages we send unacknowledged to one client; its own Receive Maximum may lower
    /// it (MQTT 5, 3.1.2.11.3). Default 256; 1 to 65,535.
    pub max_inflight: u16,
    /// Topic aliases a client may use towards us (MQTT 5, 3.2.2.3.8). Default 16; 0 turns them
    /// off.
    pub topic_alias_maximum: u16,
    /// Topic aliases we use towards a client, if it allows as many (MQTT 5, 3.1.2.11.5). Default
    /// 16; 0 turns them off.
    pub max_outgoing_topic_aliases: u16,
    /// Sessions, connected or not. Default 50,000; 1 to 10,000,000.
    pub max_sessions: usize,
    /// Sessions of one principal (rule S5). Default 10; 1 to 10,000,000.
    pub max_sessions_per_principal: usize,
    /// Sessions of one principal with one of these roles instead; the largest of its roles counts.
    /// At most 100 roles. Default none.
    pub max_sessions_by_role: Vec<RoleLimit>,
    /// Retained messages. Default 100,000; 0 to 100,000,000.
    pub max_retained_messages: usize,
    /// Bytes of all retained messages. Default 64 MiB; 0 to 64 GiB.
    pub max_retained_bytes: ByteSize,
    /// Messages that wait on disk for all sessions together, each counted once for every session
    /// that waits for it; over it a publish at QoS > 0 that would have to wait for an absent session
    /// is refused (rule D8). Default 1,000,000; 1 to 1,000,000,000.
    pub max_stored_messages: usize,
    /// Bytes of those messages on disk; what is over it is refused likewise. Default 1 GiB; 1 KiB
    /// to 64 GiB.
    pub max_stored_bytes: ByteSize,
    /// Half-received packets, outboxes and in-memory queues of all clients together (rule N4).
    /// Default 192 MiB; 1 MiB to 64 GiB, and at least `max_packet_size`.
    pub memory_budget: ByteSize,
}

/// 64 GiB, or all a smaller platform can count.
const HUGE: ByteSize = ByteSize::mib(64 << 10);
/// Remaining Length of at most 268,435,455 and five bytes before it (MQTT 5, 2.1.4).
const LARGEST_PACKET: ByteSize = ByteSize::from_bytes(268_435_460);

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 20_000,
            max_connections_per_address: 2_000,
            max_connecting_per_address: 1_000,
            connection_rate: 100,
            connection_burst: 1_000,
            max_handshakes: 500,
            max_lag: Duration::from_millis(500),
            tls_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            first_packet_max: ByteSize::kib(16),
            max_packet_size: ByteSize::mib(1),
            max_subscriptions_per_session: 1_000,
            max_topic_levels: 64,
            max_queued_messages: 1_000,
            max_queued_bytes: ByteSize::mib(4),
            receive_maximum: 256,
            max_inflight: 256,
            topic_alias_maximum: 16,
            max_outgoing_topic_aliases: 16,
            max_sessions: 50_000,
            max_sessions_per_principal: 10,
            max_sessions_by_role: Vec::new(),
            max_retained_messages: 100_000,
            max_retained_bytes: ByteSize::mib(64),
            max_stored_messages: 1_000_000,
            max_stored_bytes: ByteSize::mib(1_024),
            memory_budget: ByteSize::mib(192),
        }
    }
}

impl Section for Limits {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            max_connections,
            max_connections_per_address,
            max_connecting_per_address,
            connection_rate,
            connection_burst,
            max_handshakes,
            max_lag,
            tls_timeout,
            connect_timeout,
            first_packet_max,
            max_packet_size,
            max_subscriptions_per_session,
            max_topic_levels,
            max_queued_messages,
            max_queued_bytes,
            receive_maximum,
            max_inflight,
            topic_alias_maximum,
            max_outgoing_topic_aliases,
            max_sessions,
            max_sessions_per_principal,
            max_sessions_by_role,
            max_retained_messages,
            max_retained_bytes,
            max_stored_messages,
            max_stored_bytes,
            memory_budget,
        } = self;
        let deadline = || within(Duration::from_millis(10)..=Duration::from_secs(300));
        let b = ByteSize::from_bytes;

        v.key(
            "max_connections",
            Live,
            max_connections,
            within(1..=1_000_000),
        );
        let per_address = max_connections_per_address;
        v.key(
            "max_connections_per_address",
            Live,
            per_address,
            within(1..=1_000_000),
        );
        let connecting = max_connecting_per_address;
        v.key(
            "max_connecting_per_address",
            Live,
            connecting,
            within(1..=1_000_000),
        );
        v.key(
            "connection_rate",
            Live,
            connection_rate,
            within(0..=1_000_000),
        );
        v.key(
            "connection_burst",
            Live,
            connection_burst,
            within(1..=1_000_000),
        );
        v.key("max_handshakes", Live, max_handshakes, within(1..=100_000));
        v.key("max_lag", Live, max_lag, |lag| match lag.is_zero() {
            true => Ok(()),
            false => within(Duration::from_millis(10)..=Duration::from_secs(60))(lag),
        });
        v.key("tls_timeout", Live, tls_timeout, deadline());
        v.key("connect_timeout", Live, connect_timeout, deadline());
        v.key(
            "first_packet_max",
            Live,
            first_packet_max,
            within(b(128)..=ByteSize::mib(1)),
        );
        v.key(
            "max_packet_size",
            Live,
            max_packet_size,
            within(b(128)..=LARGEST_PACKET),
        );
        let subscriptions = max_subscriptions_per_session;
        v.key(
            "max_subscriptions_per_session",
            Live,
            subscriptions,
            within(1..=1_000_000),
        );
        v.key(
            "max_topic_levels",
            Live,
            max_topic_levels,
            within(1..=1_024),
        );
        v.key(
            "max_queued_messages",
            Live,
            max_queued_messages,
            within(1..=10_000_000),
        );
        v.key(
            "max_queued_bytes",
            Live,
            max_queued_bytes,
            within(ByteSize::kib(1)..=HUGE),
        );
        v.key(
            "receive_maximum",
            Live,
            receive_maximum,
            within(1..=u16::MAX),
        );
        v.key("max_inflight", Live, max_inflight, within(1..=u16::MAX));
        v.key("topic_alias_maximum", Live, topic_alias_maximum, any);
        v.key(
            "max_outgoing_topic_aliases",
            Live,
            max_outgoing_topic_aliases,
            any,
        );
        v.key("max_sessions", Live, max_sessions, within(1..=10_000_000));
        let per_principal = max_sessions_per_principal;
        v.key(
            "max_sessions_per_principal",
            Live,
            per_principal,
            within(1..=10_000_000),
        );
        v.key(
            "max_sessions_by_role",
            Live,
            max_sessions_by_role,
            |roles| match roles.len() {
                0..=100 => Ok(()),
                many => Err(Wrong::new(
                    format!("has {many} entries"),
                    "write at most 100",
                )),
            },
        );
        v.key(
            "max_retained_messages",
            Live,
            max_retained_messages,
            within(0..=100_000_000),
        );
        v.key(
            "max_retained_bytes",
            Live,
            max_retained_bytes,
            within(b(0)..=HUGE),
        );
        v.key(
            "max_stored_messages",
            Live,
            max_stored_messages,
            within(1..=1_000_000_000),
        );
        v.key(
            "max_stored_bytes",
            Live,
            max_stored_bytes,
            within(ByteSize::kib(1)..=HUGE),
        );
        v.key(
            "memory_budget",
            Live,
            memory_budget,
            within(ByteSize::mib(1)..=HUGE),
        );
    }
}
