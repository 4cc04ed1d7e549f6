//! Resumed sessions: by ticket, and by id for clients without tickets, such as BearSSL.

use std::net::SocketAddr;

use postern_tests::{Gateway, Setup};

use super::{address, handshakes, kinds, metric_is, openssl};

async fn gateway(tls: &str) -> Gateway {
    Setup::new()
        .toml(&format!(
            "[tls]\n{tls}\n[limits]\nconnect_timeout = \"2s\"\n[sys]\ninterval = \"1s\""
        ))
        .start()
        .await
}

/// The three ways to resume, as options of `openssl s_client`. A ticket of TLS 1.3 comes after the handshake: the client
/// has to stay for it.
const WAYS: [(&str, &[&str]); 3] = [
    ("by id", &["-tls1_2", "-no_ticket"]),
    ("by ticket, TLS 1.2", &["-tls1_2"]),
    ("by ticket, TLS 1.3", &["-tls1_3", "-ign_eof"]),
];

/// A session that a client keeps in a file.
struct Kept<'a> {
    gateway: &'a Gateway,
    way: &'a [&'a str],
    file: String,
}

impl<'a> Kept<'a> {
    /// Makes a new session with `to`.
    async fn new(gateway: &'a Gateway, to: SocketAddr, way: &'a [&'a str], name: &str) -> Self {
        let file = gateway.data.join(name).display().to_string();
        let kept = Self { gateway, way, file };
        let finished = openssl(gateway, to, &[way, &["-sess_out", &kept.file]].concat()).await;
        assert_eq!(kinds(&finished), ["New"], "{finished}");
        kept
    }

    /// `New` or `Reused`: what comes of offering the session to `to`.
    async fn offer(&self, to: SocketAddr) -> String {
        let arguments = [self.way, &["-sess_in", &self.file]].concat();
        let finished = openssl(self.gateway, to, &arguments).await;
        kinds(&finished)
            .pop()
            .unwrap_or_else(|| panic!("no handshake: {finished}"))
    }
}

#[tokio::test]
async fn a_session_is_resumed_by_ticket_and_without_tickets_by_id() {
    let gateway = gateway("").await;
    let to = gateway.addresses.mqtts;
    for (name, way) in WAYS {
        let kept = Kept::new(&gateway, to, way, "session").await;
        for _ in 0..2 {
            assert_eq!(kept.offer(to).await, "Reused", "{name}");
        }
    }
    for way in &WAYS[..2] {
        let finished = openssl(&gateway, to, &[way.1, &["-reconnect"]].concat()).await;
        let expected = ["New", "Reused", "Reused", "Reused", "Reused", "Reused"];
        assert_eq!(kinds(&finished), expected, "{}: {finished}", way.0);
    }
    metric_is(&gateway, "handshakes_resumed", 6 + 10).await;
    metric_is(&gateway, "handshakes_full", 3 + 2).await;
}

#[tokio::test]
async fn a_ticket_says_how_long_it_is_good_and_the_way_by_id_has_none() {
    let gateway = gateway("session_lifetime = \"2h\"").await;
    let to = gateway.addresses.mqtts;
    for (name, way) in WAYS {
        let finished = openssl(&gateway, to, way).await;
        let hint = finished
            .stdout
            .lines()
            .find(|line| line.contains("lifetime hint"));
        let expected = match name {
            "by id" => None,
            _ => Some("    TLS session ticket lifetime hint: 7200 (seconds)"),
        };
        assert_eq!(hint, expected, "{name}: {finished}");
    }
}

// C1
#[tokio::test]
async fn a_session_of_one_listener_is_nothing_to_another() {
    let gateway = gateway("").await;
    let (one, other) = (gateway.addresses.mqtts, gateway.addresses.wss);
    for (name, way) in WAYS {
        let kept = Kept::new(&gateway, one, way, "session").await;
        assert_eq!(kept.offer(other).await, "New", "{name}");
        assert_eq!(kept.offer(one).await, "Reused", "{name}");
    }
}

#[tokio::test]
async fn a_reload_ends_no_session() {
    let gateway = gateway("").await;
    let to = gateway.addresses.mqtts;
    let mut kept = Vec::new();
    for (n, (_, way)) in WAYS.iter().enumerate() {
        kept.push(Kept::new(&gateway, to, way, &format!("session-{n}")).await);
    }
    gateway.reload("configuration").await;
    for (kept, (name, _)) in kept.iter().zip(WAYS) {
        assert_eq!(kept.offer(to).await, "Reused", "{name}");
    }
}

#[tokio::test]
async fn a_full_cache_forgets_the_oldest_session_and_counts_it() {
    let gateway = gateway("session_cache = 2").await;
    let to = gateway.addresses.mqtts;
    let way = WAYS[0].1;
    let mut kept = Vec::new();
    for n in 0..3 {
        kept.push(Kept::new(&gateway, to, way, &format!("session-{n}")).await);
    }
    // The newest first: an offer that fails makes a new session, which takes a place.
    let mut came = Vec::new();
    for kept in kept.iter().rev() {
        came.push(kept.offer(to).await);
    }
    assert_eq!(came, ["Reused", "Reused", "New"]);
    metric_is(&gateway, "tls_sessions", 2).await;
    metric_is(&gateway, "tls_sessions_displaced", 2).await;
}

#[tokio::test]
async fn what_is_switched_off_is_not_resumed() {
    let off = gateway("session_lifetime = \"0s\"").await;
    for (name, way) in WAYS {
        let finished = openssl(&off, off.addresses.mqtts, way).await;
        assert_eq!(handshakes(&finished).len(), 1, "{finished}");
        assert!(!finished.stdout.contains("lifetime hint"), "{name}");
        let repeated = [way, &["-reconnect"]].concat();
        if name != "by ticket, TLS 1.3" {
            let finished = openssl(&off, off.addresses.mqtts, &repeated).await;
            assert_eq!(kinds(&finished), ["New"; 6], "{name}: {finished}");
        }
    }
    let only_tickets = gateway("session_cache = 0").await;
    let to = address(&only_tickets, "mqtts");
    let finished = openssl(&only_tickets, to, &["-tls1_2", "-no_ticket", "-reconnect"]).await;
    assert_eq!(kinds(&finished), ["New"; 6], "{finished}");
    let finished = openssl(&only_tickets, to, &["-tls1_2", "-reconnect"]).await;
    assert_eq!(kinds(&finished)[5], "Reused", "{finished}");
}
