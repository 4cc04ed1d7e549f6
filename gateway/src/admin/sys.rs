//! `$SYS` topics: what the gateway knows about itself, under Mosquitto's names, retained, readable only by ACL.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    metrics::Metrics,
    mqtt::Qos,
    routing::envelope::{Envelope, Outgoing},
    session::registry::Registry,
};

/// Publishes until the process ends. `interval` is asked before each round; zero turns the topics off.
pub async fn run(registry: Arc<Registry>, interval: impl Fn() -> Duration) {
    let started = Instant::now();
    let mut previous: Vec<(&str, String)> = Vec::new();
    loop {
        let wait = interval();
        if !wait.is_zero() {
            let topics = topics(registry.metrics(), registry.len(), started.elapsed());
            let mut envelope = Envelope::default();
            for (topic, value) in topics.iter().filter(|topic| !previous.contains(topic)) {
                envelope.publish(Outgoing {
                    topic,
                    payload: value.as_bytes(),
                    properties: b"",
                    qos: Qos::AtMostOnce,
                    retain: true,
                    expiry: None,
                    packet_id: None,
                });
            }
            if !envelope.is_empty() {
                registry
                    .bus()
                    .publish_when_possible(0, envelope, None)
                    .await;
            }
            previous = topics;
        }
        tokio::time::sleep(if wait.is_zero() {
            Duration::from_secs(1)
        } else {
            wait
        })
        .await;
    }
}

fn topics(metrics: &Metrics, sessions: usize, uptime: Duration) -> Vec<(&'static str, String)> {
    let connected = metrics.clients_connected.get();
    let sessions = sessions as u64;
    [
        (
            "$SYS/broker/version",
            format!("postern version {}", env!("CARGO_PKG_VERSION")),
        ),
        (
            "$SYS/broker/uptime",
            format!("{} seconds", uptime.as_secs()),
        ),
    ]
    .into_iter()
    .chain(
        [
            ("$SYS/broker/clients/connected", connected),
            ("$SYS/broker/clients/active", connected),
            (
                "$SYS/broker/clients/disconnected",
                sessions.saturating_sub(connected),
            ),
            (
                "$SYS/broker/clients/inactive",
                sessions.saturating_sub(connected),
            ),
            ("$SYS/broker/clients/total", sessions),
            ("$SYS/broker/clients/maximum", metrics.clients_maximum.get()),
            (
                "$SYS/broker/clients/expired",
                metrics.sessions_expired.get(),
            ),
            (
                "$SYS/broker/messages/received",
                metrics.packets_received.get(),
            ),
            ("$SYS/broker/messages/sent", metrics.packets_sent.get()),
            (
                "$SYS/broker/publish/messages/received",
                metrics.publishes_received.get(),
            ),
            (
                "$SYS/broker/publish/messages/sent",
                metrics.publishes_sent.get(),
            ),
            (
                "$SYS/broker/publish/messages/dropped",
                metrics.messages_dropped.get(),
            ),
            (
                "$SYS/broker/store/messages/count",
                metrics.messages_queued.get(),
            ),
            (
                "$SYS/broker/store/messages/bytes",
                metrics.bytes_queued.get(),
            ),
            ("$SYS/broker/bytes/received", metrics.bytes_received.get()),
            ("$SYS/broker/bytes/sent", metrics.bytes_sent.get()),
            (
                "$SYS/broker/retained messages/count",
                metrics.retained_messages.get(),
            ),
            (
                "$SYS/broker/subscriptions/count",
                metrics.subscriptions.get(),
            ),
        ]
        .map(|(topic, value)| (topic, value.to_string())),
    )
    .collect()
}
