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
    let mut previous: Vec<(String, String)> = Vec::new();
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

/// Mosquitto's names for what it knows too, and `$SYS/postern/NAME` for every metric of the gateway.
fn topics(metrics: &Metrics, sessions: usize, uptime: Duration) -> Vec<(String, String)> {
    let connected = metrics.clients_connected.get();
    let sessions = sessions as u64;
    let away = sessions.saturating_sub(connected);
    let version = concat!("postern version ", env!("CARGO_PKG_VERSION")).to_owned();
    let mut topics = vec![
        ("$SYS/broker/version".to_owned(), version),
        (
            "$SYS/broker/uptime".to_owned(),
            format!("{} seconds", uptime.as_secs()),
        ),
    ];
    let known = [
        ("clients/connected", connected),
        ("clients/active", connected),
        ("clients/disconnected", away),
        ("clients/inactive", away),
        ("clients/total", sessions),
        ("clients/maximum", metrics.clients_maximum.get()),
        ("clients/expired", metrics.sessions_expired.get()),
        ("messages/received", metrics.packets_received.get()),
        ("messages/sent", metrics.packets_sent.get()),
        (
            "publish/messages/received",
            metrics.publishes_received.get(),
        ),
        ("publish/messages/sent", metrics.publishes_sent.get()),
        ("publish/messages/dropped", metrics.messages_dropped.get()),
        (
            "store/messages/count",
            metrics.messages_queued.get() + metrics.messages_stored.get(),
        ),
        (
            "store/messages/bytes",
            metrics.bytes_queued.get() + metrics.bytes_stored.get(),
        ),
        ("bytes/received", metrics.bytes_received.get()),
        ("bytes/sent", metrics.bytes_sent.get()),
        ("retained messages/count", metrics.retained_messages.get()),
        ("subscriptions/count", metrics.subscriptions.get()),
    ];
    topics.extend(known.map(|(name, value)| (format!("$SYS/broker/{name}"), value.to_string())));
    metrics.each(|name, value| topics.push((format!("$SYS/postern/{name}"), value.to_string())));
    topics
}
