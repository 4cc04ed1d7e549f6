//! What the configuration says about sessions, in the units they use. Read anew for each connection.

use std::{sync::Arc, time::Duration};

use broker_config::{Config, DeniedPublish, RoleLimit};

use super::queue::QueueLimits;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub queue: QueueLimits,
    pub max_topic_levels: usize,
    pub max_subscriptions: usize,
    /// Largest packet a client may send, bytes.
    pub max_packet_size: u32,
    /// PUBLISH packets at QoS 1 and 2 that a v5 client may have under way (our Receive Maximum).
    pub receive_maximum: u16,
    /// The same towards clients; a client's own Receive Maximum may be lower.
    pub max_inflight: u16,
    /// Topic aliases a client may set.
    pub topic_alias_maximum: u16,
    /// Topic aliases that we set at most.
    pub max_outgoing_topic_aliases: u16,
    pub expiry_max: Duration,
    pub max_keep_alive: Duration,
    /// How long the will of a client waits for it to come back after a start, at least (D10).
    pub restart_will_grace: Duration,
    /// What a v3 client gets whose PUBLISH is denied (S1).
    pub denied_publish: DeniedPublish,
    pub max_sessions: usize,
    pub max_sessions_per_principal: usize,
    pub max_sessions_by_role: Vec<RoleLimit>,
    /// Bytes that all queues and buffers together may hold (N4).
    pub memory_budget: usize,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        let limits = &config.limits;
        Settings {
            queue: QueueLimits {
                messages: limits.max_queued_messages,
                bytes: limits.max_queued_bytes.bytes(),
            },
            max_topic_levels: limits.max_topic_levels,
            max_subscriptions: limits.max_subscriptions_per_session,
            max_packet_size: u32::try_from(limits.max_packet_size.bytes()).unwrap_or(u32::MAX),
            receive_maximum: limits.receive_maximum,
            max_inflight: limits.max_inflight,
            topic_alias_maximum: limits.topic_alias_maximum,
            max_outgoing_topic_aliases: limits.max_outgoing_topic_aliases,
            expiry_max: config.session.expiry_max,
            max_keep_alive: config.session.max_keep_alive,
            restart_will_grace: config.session.restart_will_grace,
            denied_publish: config.session.denied_publish,
            max_sessions: limits.max_sessions,
            max_sessions_per_principal: limits.max_sessions_per_principal,
            max_sessions_by_role: limits.max_sessions_by_role.clone(),
            memory_budget: limits.memory_budget.bytes(),
        }
    }

    /// How many sessions one principal with these roles may have (S5).
    pub fn max_sessions_of(&self, roles: &[Arc<str>]) -> usize {
        let by_role = self.max_sessions_by_role.iter();
        let of_roles = by_role.filter(|limit| roles.iter().any(|role| **role == *limit.role));
        let largest = of_roles.map(|limit| limit.sessions).max();
        largest.unwrap_or(self.max_sessions_per_principal)
    }

    /// The session expiry interval that a client gets for the one it asked for, in seconds; `u32::MAX` asks for no
    /// end, and gets the longest we give (S5).
    pub fn session_expiry(&self, asked: u32) -> u32 {
        asked.min(u32::try_from(self.expiry_max.as_secs()).unwrap_or(u32::MAX))
    }
}
