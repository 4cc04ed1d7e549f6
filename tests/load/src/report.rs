//! What is told at the end of a run? One struct per kind of run, printed as text or as JSON.

use crate::link::Negotiated;
use crate::run::Latencies;
use crate::traffic::Sample;
use serde::Serialize;
use std::fmt;

/// What TLS was negotiated.
#[derive(Serialize)]
pub struct Transport {
    pub tls_version: String,
    pub cipher_suite: String,
    pub key_exchange: String,
}

/// Speed in the measured part of a run.
#[derive(Serialize)]
pub struct Measured {
    pub seconds: f64,
    /// Deliveries, or connections.
    pub count: u64,
    pub per_second: f64,
    pub published_per_second: f64,
    /// From sending to delivery, or from TCP connect to CONNACK, in microseconds.
    pub latency_p50_us: f64,
    pub latency_p99_us: f64,
    pub latency_p999_us: f64,
    pub latency_max_us: f64,
}

/// What the measured part cost. The server's figures are absent without `--server-pid`.
#[derive(Serialize)]
pub struct Cost {
    /// Server CPU microseconds (user and system, all threads) per delivery or per connection.
    pub server_cpu_us_each: Option<f64>,
    /// Server CPU time as a share of one core.
    pub server_busy_percent: Option<f64>,
    /// Bytes written to storage per delivery or per connection.
    pub server_written_bytes_each: Option<f64>,
    pub server_rss_kib_before: Option<u64>,
    pub server_rss_kib_after: Option<u64>,
    pub generator_cpu_us_each: f64,
    /// The generator's CPU time as a share of one core: near 100 per thread, the generator was the limit.
    pub generator_busy_percent: f64,
}

#[derive(Serialize)]
pub struct TrafficReport {
    pub pattern: &'static str,
    pub clients: u32,
    pub qos: u8,
    pub payload_bytes: u32,
    pub transport: Option<Transport>,
    /// Over the whole run, warm-up included, as are all counts below.
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub order_violations: u64,
    pub unexpected: u64,
    pub unacknowledged: u64,
    pub refused: u64,
    pub first_refusal: Option<u8>,
    /// How often a publisher gave up waiting for messages that did not arrive.
    pub stalls: u64,
    pub measured: Measured,
    pub cost: Cost,
}

/// Speed where no latency is to be told.
#[derive(Serialize)]
pub struct Speed {
    pub seconds: f64,
    pub count: u64,
    pub per_second: f64,
}

/// One half of a backlog run.
#[derive(Serialize)]
pub struct Half {
    pub measured: Speed,
    pub cost: Cost,
}

#[derive(Serialize)]
pub struct BacklogReport {
    pub pattern: &'static str,
    /// Publishers.
    pub clients: u32,
    pub qos: u8,
    pub payload_bytes: u32,
    pub transport: Option<Transport>,
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub order_violations: u64,
    pub unexpected: u64,
    pub unacknowledged: u64,
    pub refused: u64,
    pub first_refusal: Option<u8>,
    /// Until the last acknowledgement, with the subscriber away.
    pub stored: Half,
    /// From the subscriber's return to the last message.
    pub drained: Half,
}

#[derive(Serialize)]
pub struct ConnectReport {
    pub pattern: &'static str,
    pub clients: u32,
    pub transport: Option<Transport>,
    /// Connections of the measured part that resumed a TLS session.
    pub resumed: u64,
    pub measured: Measured,
    pub cost: Cost,
}

#[derive(Serialize)]
pub struct IdleReport {
    pub pattern: &'static str,
    pub clients: u32,
    pub transport: Option<Transport>,
    pub opened_in_seconds: f64,
    pub server_cpu_seconds_to_open: Option<f64>,
    pub held_seconds: f64,
    pub server_cpu_seconds_while_held: Option<f64>,
    /// Before any connection of this run.
    pub server_rss_kib_at_start: Option<u64>,
    /// After a few connections have come and gone.
    pub server_rss_kib_before: Option<u64>,
    pub server_rss_kib_held: Option<u64>,
    pub server_rss_kib_per_connection: Option<f64>,
}

impl TrafficReport {
    /// Whether every message arrived once, in order, as it was sent.
    pub fn is_clean(&self) -> bool {
        [
            self.lost,
            self.duplicates,
            self.order_violations,
            self.unexpected,
            self.unacknowledged,
            self.refused,
            self.stalls,
        ]
        .iter()
        .all(|&count| count == 0)
            && self.delivered > 0
    }
}

impl BacklogReport {
    /// Whether every message arrived once, in order, as it was sent.
    pub fn is_clean(&self) -> bool {
        [
            self.lost,
            self.duplicates,
            self.order_violations,
            self.unexpected,
            self.unacknowledged,
            self.refused,
        ]
        .iter()
        .all(|&count| count == 0)
            && self.delivered > 0
    }
}

impl Speed {
    pub fn between(from: &Sample, to: &Sample) -> Self {
        let seconds = seconds(from, to);
        let count = to.done - from.done;
        Self {
            seconds,
            count,
            per_second: count as f64 / seconds,
        }
    }
}

impl From<Negotiated> for Transport {
    fn from(from: Negotiated) -> Self {
        Self {
            tls_version: from.tls_version,
            cipher_suite: from.cipher_suite,
            key_exchange: from.key_exchange,
        }
    }
}

impl From<(&Latencies, &Sample, &Sample)> for Measured {
    fn from((latencies, from, to): (&Latencies, &Sample, &Sample)) -> Self {
        let seconds = seconds(from, to);
        let count = to.done - from.done;
        Self {
            seconds,
            count,
            per_second: count as f64 / seconds,
            published_per_second: (to.sent - from.sent) as f64 / seconds,
            latency_p50_us: latencies.microseconds(0.5),
            latency_p99_us: latencies.microseconds(0.99),
            latency_p999_us: latencies.microseconds(0.999),
            latency_max_us: latencies.max_microseconds(),
        }
    }
}

impl Cost {
    /// Between two samples; `measured` tells whether there was a server to sample.
    pub fn between(
        measured: bool,
        from: &Sample,
        to: &Sample,
        server_rss_kib_before: Option<u64>,
        server_rss_kib_after: Option<u64>,
    ) -> Self {
        let count = (to.done - from.done).max(1) as f64;
        let (server, own) = (to.server_cpu - from.server_cpu, to.own_cpu - from.own_cpu);
        let seconds = seconds(from, to);
        Self {
            server_cpu_us_each: measured.then_some(server * 1e6 / count),
            server_busy_percent: measured.then_some(server * 100.0 / seconds),
            server_written_bytes_each: written(from, to).map(|bytes| bytes as f64 / count),
            server_rss_kib_before,
            server_rss_kib_after,
            generator_cpu_us_each: own * 1e6 / count,
            generator_busy_percent: own * 100.0 / seconds,
        }
    }
}

fn written(from: &Sample, to: &Sample) -> Option<u64> {
    to.server_written?.checked_sub(from.server_written?)
}

fn seconds(from: &Sample, to: &Sample) -> f64 {
    (to.at - from.at).max(1) as f64 / 1e9
}

impl fmt::Display for TrafficReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} n={} QoS {}, {} B, ",
            self.pattern, self.clients, self.qos, self.payload_bytes
        )?;
        transport(f, self.transport.as_ref())?;
        write!(
            f,
            ": {:.0} messages/s, {}",
            self.measured.per_second, self.measured
        )?;
        writeln!(f)?;
        write!(
            f,
            "  lost {}, duplicates {}, order violations {}, of {} delivered",
            self.lost, self.duplicates, self.order_violations, self.delivered
        )?;
        for (count, what) in [
            (self.unexpected, "unexpected"),
            (self.unacknowledged, "unacknowledged"),
            (self.refused, "refused"),
            (self.stalls, "stalls"),
        ] {
            if count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        if let Some(code) = self.first_refusal {
            write!(f, " (first reason code {code:#04x})")?;
        }
        writeln!(f)?;
        write!(f, "  {}", self.cost)
    }
}

impl fmt::Display for BacklogReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} n={} QoS {}, {} B, ",
            self.pattern, self.clients, self.qos, self.payload_bytes
        )?;
        transport(f, self.transport.as_ref())?;
        writeln!(
            f,
            ": lost {}, duplicates {}, order violations {}, unexpected {}, refused {}, unacknowledged {}, of {}",
            self.lost,
            self.duplicates,
            self.order_violations,
            self.unexpected,
            self.refused,
            self.unacknowledged,
            self.published
        )?;
        for (name, half, end) in [
            ("stored", &self.stored, "\n"),
            ("drained", &self.drained, ""),
        ] {
            let rate = half.measured.per_second;
            write!(f, "  {name}: {rate:.0} messages/s; {}{end}", half.cost)?;
        }
        Ok(())
    }
}

impl fmt::Display for ConnectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connect n={}, ", self.clients)?;
        transport(f, self.transport.as_ref())?;
        writeln!(
            f,
            ": {:.0} connections/s, {} of {} resumed, {}",
            self.measured.per_second, self.resumed, self.measured.count, self.measured
        )?;
        write!(f, "  {}", self.cost)
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "idle n={}, ", self.clients)?;
        transport(f, self.transport.as_ref())?;
        write!(
            f,
            ": opened in {:.1} s, held for {:.1} s",
            self.opened_in_seconds, self.held_seconds
        )?;
        if let Some(cpu) = self.server_cpu_seconds_to_open {
            write!(f, "\n  server CPU {cpu:.2} s to open them")?;
        }
        if let (Some(start), Some(before), Some(held), Some(each)) = (
            self.server_rss_kib_at_start,
            self.server_rss_kib_before,
            self.server_rss_kib_held,
            self.server_rss_kib_per_connection,
        ) {
            write!(
                f,
                "\n  server resident {start} KiB at start, {before} KiB warm, {held} KiB with all: \
                 {each:.1} KiB per connection"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "latency p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
            self.latency_p50_us, self.latency_p99_us, self.latency_p999_us, self.latency_max_us
        )
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(each), Some(busy)) = (self.server_cpu_us_each, self.server_busy_percent) {
            write!(f, "server {each:.2} µs CPU each, {busy:.0} % of a core; ")?;
        }
        if let Some(bytes) = self.server_written_bytes_each {
            write!(f, "{bytes:.0} bytes written each; ")?;
        }
        if let (Some(before), Some(after)) = (self.server_rss_kib_before, self.server_rss_kib_after)
        {
            write!(f, "resident {before} KiB before, {after} KiB after; ")?;
        }
        write!(
            f,
            "generator {:.2} µs CPU each, {:.0} % of a core",
            self.generator_cpu_us_each, self.generator_busy_percent
        )
    }
}

fn transport(f: &mut fmt::Formatter<'_>, transport: Option<&Transport>) -> fmt::Result {
    match transport {
        Some(t) => write!(f, "{} {} {}", t.tls_version, t.cipher_suite, t.key_exchange),
        None => write!(f, "plain"),
    }
}
