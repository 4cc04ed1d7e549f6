//! Counters: what has the gateway done, and what does it hold?
//!
//! Everything counts here; `$SYS` topics and later the metrics page read it. No room decides by these numbers.

use std::{
    cmp::Ordering,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

impl Metrics {
    /// Bytes that queues and buffers hold: what the memory budget is about (N4).
    pub fn memory_held(&self) -> usize {
        (self.bytes_queued.get() + self.bytes_buffered.get()) as usize
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Relaxed);
    }

    /// Counts one until the guard is dropped.
    pub fn during(&self) -> impl Drop + '_ {
        self.add(1);
        Counted(self)
    }

    /// Replaces a part of the sum that was `was` by `now`.
    pub fn shift(&self, was: usize, now: usize) {
        match now.cmp(&was) {
            Ordering::Greater => self.add((now - was) as u64),
            Ordering::Less => self.sub((was - now) as u64),
            Ordering::Equal => {}
        }
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

struct Counted<'a>(&'a Gauge);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:ident,)*) => {
        /// All counters of one gateway.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $name: $kind,)*
        }

        impl Metrics {
            /// Name and value of each, for whoever shows them.
            pub fn each(&self, mut show: impl FnMut(&'static str, u64)) {
                $(show(stringify!($name), self.$name.get());)*
            }
        }
    };
}

metrics! {
    /// Router threads of the bus that died and were replaced.
    bus_restarts: Counter,
    /// Envelopes that the bus's log lost: always 0 unless there is a bug.
    bus_gaps: Counter,
    /// Envelopes that came off the bus a second time after a restart, and were ignored.
    bus_duplicates: Counter,
    /// Network connections that are open now, those before CONNECT included.
    connections: Gauge,
    /// Network connections accepted.
    connections_accepted: Counter,
    /// Connections closed at accept because a limit was reached.
    connections_refused: Counter,
    /// Connections closed at accept because their address is banned.
    connections_banned: Counter,
    /// Connections closed at accept because their address connects too often.
    connections_too_often: Counter,
    /// Connections closed at accept because the event loop lagged.
    connections_shed: Counter,
    /// Connections closed for want of a proper PROXY header, or because they came from no trusted proxy.
    proxy_refused: Counter,
    /// Microseconds by which the event loop was late when it was last measured.
    lag_us: Gauge,
    /// Networks and addresses that are banned now, those of `bans.deny` not included.
    bans: Gauge,
    /// Bans that failures led to.
    bans_made: Counter,
    /// User names that are refused at an address now.
    names_barred: Gauge,
    /// Addresses, and names with their address, that the door remembers.
    addresses_remembered: Gauge,
    /// Log lines about refused connections that were left out, because there were many.
    complaints_left_out: Counter,
    /// TLS handshakes under way.
    handshakes: Gauge,
    /// TLS handshakes that failed or took too long.
    handshakes_failed: Counter,
    /// Certificates renewed, those of the private CA included.
    certificate_renewals: Counter,
    /// Attempts to renew a certificate that failed.
    certificate_renewals_failed: Counter,
    /// Seconds until the next attempt to renew a certificate of the CA; 0 if none is to be renewed.
    certificate_renewal_seconds: Gauge,
    /// Challenges of the CA that were answered.
    acme_challenges_answered: Counter,
    /// Seconds until the first of the server's certificates expires; 0 once one has.
    certificate_seconds_left: Gauge,
    /// Certificates that were read again because their files changed.
    certificate_reloads: Counter,
    /// Changes of certificate files to something that cannot be served: the old one stayed.
    certificate_reloads_failed: Counter,
    /// Certificates that something is wrong with, as `postern cert status` says.
    certificates_failing: Gauge,
    /// TLS handshakes that made a new session.
    handshakes_full: Counter,
    /// TLS handshakes that resumed a session, by ticket or by id.
    handshakes_resumed: Counter,
    /// TLS sessions that are remembered for clients without tickets.
    tls_sessions: Gauge,
    /// TLS sessions that made room for others before their time was over.
    tls_sessions_displaced: Counter,
    /// Client certificates that did not pass after a handshake: revoked since the one that was resumed, for example.
    client_certificates_refused: Counter,
    /// Connections ended because their client certificate was revoked, is not listed any more, or expired.
    client_certificates_ended: Counter,
    /// Revocation lists that cannot be read or have ended.
    revocation_lists_failing: Gauge,
    /// TLS handshakes that were ended because they stalled while others waited for a place.
    handshakes_stalled: Counter,
    /// Clients that are connected and past CONNECT.
    clients_connected: Gauge,
    /// The most clients that were connected at once.
    clients_maximum: Gauge,
    /// CONNECTs refused for wrong credentials.
    logins_failed: Counter,
    /// CONNECTs whose credentials are being looked at, or wait for it.
    logins_waiting: Gauge,
    /// CONNECTs refused because too many passwords waited to be checked.
    logins_busy: Counter,
    /// CONNECTs that had to wait because their address is throttled.
    logins_throttled: Counter,
    /// CONNECTs refused because their name is refused at that address, or too many of that address waited.
    logins_barred: Counter,
    /// Tokens that were verified, at a login or a re-authentication: account and certificate are looked at after that.
    tokens_verified: Counter,
    /// Tokens that were refused, those that their issuer could not be asked about included.
    tokens_refused: Counter,
    /// Questions to issuers about tokens (introspection).
    token_lookups: Counter,
    /// Connections ended because the token of their login had expired.
    tokens_expired: Counter,
    /// Connections ended because an issuer did not stand by their token any more, or is trusted no more.
    tokens_revoked: Counter,
    /// Sessions to which nothing more is delivered until their next login: what the last one showed was revoked.
    sessions_discredited: Counter,
    /// Requests to issuers that failed: for keys, descriptions, or about tokens.
    issuer_requests_failed: Counter,
    /// Issuers that did not answer as they should when they were last asked.
    issuers_failing: Gauge,
    /// CONNECTs refused because a session belongs to another principal.
    sessions_foreign: Counter,
    /// CONNECTs refused because their client identifier is that of a device.
    client_identifiers_reserved: Counter,
    /// Times that a device came or left, as far as they were written down.
    device_sightings: Counter,
    /// Sessions in memory, connected or not.
    sessions: Gauge,
    /// Sessions that expired.
    sessions_expired: Counter,
    /// Bytes received from clients, after TLS.
    bytes_received: Counter,
    /// Bytes sent to clients, before TLS.
    bytes_sent: Counter,
    /// MQTT control packets received.
    packets_received: Counter,
    /// MQTT control packets sent.
    packets_sent: Counter,
    /// PUBLISH packets received.
    publishes_received: Counter,
    /// PUBLISH packets sent.
    publishes_sent: Counter,
    /// PUBLISH packets refused or ignored: not allowed, over a limit.
    publishes_refused: Counter,
    /// Messages dropped for slow or absent consumers.
    messages_dropped: Counter,
    /// Messages that expired before they could be sent.
    messages_expired: Counter,
    /// Messages that wait in the memory of sessions.
    messages_queued: Gauge,
    /// Bytes that wait in the memory of sessions.
    bytes_queued: Gauge,
    /// Messages that wait on disk only.
    messages_stored: Gauge,
    /// Bytes that wait on disk only.
    bytes_stored: Gauge,
    /// Messages at QoS 1 and 2 refused because as many wait on disk as may.
    messages_refused: Counter,
    /// Messages that could not be read back from disk.
    messages_damaged: Counter,
    /// Bytes of messages that were handed to the store and are not on disk yet.
    store_bytes_pending: Gauge,
    /// Pages in the message store's write-ahead log, of 4 KiB.
    store_log_pages: Gauge,
    /// Transactions of the message store.
    store_commits: Counter,
    /// Attempts of the message store to write, read or tidy up that failed.
    store_errors: Counter,
    /// 1 while the message store has failed for longer than `store.retry`: QoS 1 and 2 are refused.
    store_failing: Gauge,
    /// Bytes of half-received packets, of output that slow clients have not taken, and of messages in flight.
    bytes_buffered: Gauge,
    /// Retained messages.
    retained_messages: Gauge,
    /// Bytes of retained messages.
    retained_bytes: Gauge,
    /// Retained messages refused at the limit, or not retained while the disk refuses.
    retained_refused: Counter,
    /// Subscriptions.
    subscriptions: Gauge,
    /// Subscriptions refused.
    subscriptions_refused: Counter,
    /// Entries of the audit log on disk.
    audit_entries: Gauge,
    /// Transactions of the audit log.
    audit_commits: Counter,
    /// Entries of the audit log that found no room in memory before they could be written.
    audit_dropped: Counter,
    /// Decisions that are remembered for dry runs.
    decisions_remembered: Gauge,
    /// Sessions whose stored messages are being checked anew after a change of policy.
    rechecks_waiting: Gauge,
    /// Packets that broke the protocol, and ended their connection.
    protocol_errors: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_in_the_documentation_for_operators() {
        let documentation = include_str!("../../docs/operating.md");
        let mut missing = Vec::new();
        Metrics::default().each(|name, _| {
            if !documentation.contains(&format!("\n| `{name}` | ")) {
                missing.push(name);
            }
        });
        assert_eq!(missing, [""; 0]);
    }
}
