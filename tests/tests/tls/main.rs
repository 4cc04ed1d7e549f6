//! What does a TLS client meet? Versions, cipher suites and groups, resumed sessions, small records, and one port for
//! MQTT and WebSocket, with OpenSSL, BearSSL, Mosquitto's clients and rustls.

mod one_port;
mod resumption;
mod small_records;
mod versions;

use std::net::SocketAddr;
use std::path::Path;

use postern_tests::peer::{Finished, Tool};
use postern_tests::wait::DEADLINE;
use postern_tests::{Connect, Gateway};

/// Where the gateway listens under this name.
fn address(gateway: &Gateway, listener: &str) -> SocketAddr {
    let path = gateway.data.join("addresses.json");
    let text = std::fs::read_to_string(path).expect("addresses.json is there while it runs");
    let json: serde_json::Value = serde_json::from_str(&text).expect("addresses.json is JSON");
    json[listener][0]
        .as_str()
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("no {listener} in {text}"))
}

/// `openssl s_client` to `to` with `arguments`, and what it printed. It leaves after the handshake; with `-ign_eof` only
/// when the gateway closes the connection, which is after `connect_timeout`.
async fn openssl(gateway: &Gateway, to: SocketAddr, arguments: &[&str]) -> Finished {
    s_client(&to.to_string(), &gateway.ca())
        .args(arguments)
        .run()
        .await
}

fn s_client(to: &str, ca: &Path) -> Tool {
    Tool::new("openssl")
        .args(["s_client", "-connect", to, "-servername", "localhost"])
        .args(["-verify_return_error", "-CAfile"])
        .arg(ca)
}

/// What the client says of each handshake: `New` or `Reused`, version and cipher suite.
fn handshakes(finished: &Finished) -> Vec<String> {
    let line = |line: &&str| line.starts_with("New, ") || line.starts_with("Reused, ");
    let found = finished.stdout.lines().filter(line);
    found
        .map(|line| line.replace(", Cipher is ", ", "))
        .collect()
}

/// The first words of [`handshakes`].
fn kinds(finished: &Finished) -> Vec<String> {
    let kind = |line: &String| line.split(',').next().unwrap_or_default().to_owned();
    handshakes(finished).iter().map(kind).collect()
}

/// Waits until `$SYS/postern/NAME` says `expected`; `[sys] interval` makes that come soon.
async fn metric_is(gateway: &Gateway, name: &str, expected: u64) {
    let mut client = gateway.connect(Connect::v5(&format!("reads-{name}"))).await;
    client.subscribe(&format!("$SYS/postern/{name}"), 0).await;
    let mut last = String::from("nothing");
    let says = async {
        while last != expected.to_string() {
            last = String::from_utf8(client.message().await.payload).expect("a number");
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, says).await;
    assert!(outcome.is_ok(), "{name} is {last} instead of {expected}");
}
