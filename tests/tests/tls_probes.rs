//! What do the well-known probes find? sslyze against Mozilla's intermediate profile, and testssl.sh. What they say
//! about the private CA is expected here, finding by finding; anything else fails.
//!
//! testssl.sh takes 15 seconds for protocols, server defaults and vulnerabilities. With POSTERN_TESTSSL=full it does
//! everything it knows, which takes a minute.

use std::collections::BTreeSet;
use std::time::Duration;

use postern_tests::peer::{Finished, Tool, installed_dir};
use postern_tests::{Gateway, Setup};
use serde_json::Value;

/// The findings of testssl.sh above INFO that are expected, as severity and id.
///
/// `cert_revocation`: a certificate of the private CA names neither a CRL nor an OCSP responder, since nobody but the
/// operator could say at which address clients find one.
const EXPECTED: [(&str, &str); 1] = [("HIGH", "cert_revocation")];

/// Findings that depend on what the listener speaks, on the version of testssl.sh or on the local OpenSSL.
///
/// `HSTS` and `HTTP_status_code`: on a listener with WebSocket it finds HTTP, which has no page to show. The gateway
/// must not send Strict-Transport-Security: it would bind every other web server of that host, on all ports
/// (RFC 6797, 8.2). `engine_problem`: OpenSSL without GOST. `sessionresumption_ticket`: the probe closes before
/// the tickets of TLS 1.3 are there.
const MAY_BE: [(&str, &str); 4] = [
    ("LOW", "HSTS"),
    ("WARN", "HTTP_status_code"),
    ("WARN", "engine_problem"),
    ("WARN", "sessionresumption_ticket"),
];

async fn gateway() -> Gateway {
    Setup::new()
        .toml("[listeners.only-mqtt]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:0\"]")
        // They fail hundreds of handshakes on purpose.
        .toml("[bans]\nallow = [\"127.0.0.1\"]")
        .start()
        .await
}

fn port(gateway: &Gateway, listener: &str) -> u16 {
    let text = std::fs::read_to_string(gateway.data.join("addresses.json")).expect("addresses");
    let json: Value = serde_json::from_str(&text).expect("addresses.json is JSON");
    let address = json[listener][0].as_str().expect("an address");
    address
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn sslyze_finds_mozillas_intermediate_profile() {
    let gateway = gateway().await;
    for listener in ["mqtts", "only-mqtt"] {
        let finished = Tool::new(installed_dir().join("sslyze/bin/sslyze"))
            .arg("--mozilla_config=intermediate")
            .arg(format!("--certinfo_ca_file={}", gateway.ca().display()))
            .arg(format!("localhost:{}", port(&gateway, listener)))
            .run()
            .await;
        assert!(finished.stdout.contains("COMPLIANCE AGAINST"), "{finished}");
        let complaints: Vec<&str> = finished
            .stdout
            .lines()
            .filter_map(|line| line.trim().strip_prefix("* "))
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            .map(|(key, _)| key)
            .collect();
        // The profile is for the web, where no certificate may live for more than 366 days; that of the private CA,
        // which the gateway renews by itself, lives for 397.
        assert_eq!(complaints, ["maximum_certificate_lifespan"], "{finished}");
    }
}

#[tokio::test]
async fn testssl_finds_nothing_that_is_not_expected() {
    let gateway = gateway().await;
    let full = std::env::var("POSTERN_TESTSSL").is_ok_and(|value| value == "full");
    for listener in ["only-mqtt", "mqtts"] {
        if listener == "mqtts" && !full {
            continue;
        }
        let found = testssl(&gateway, listener, full).await;
        let expected = EXPECTED.map(|(severity, id)| format!("{severity} {id}"));
        let may_be = MAY_BE.map(|(severity, id)| format!("{severity} {id}"));
        for finding in &expected {
            assert!(
                found.contains(finding),
                "{listener}: no {finding} in {found:?}"
            );
        }
        let others: Vec<_> = found
            .iter()
            .filter(|finding| !expected.contains(finding) && !may_be.contains(finding))
            .collect();
        assert!(others.is_empty(), "{listener}: {others:?}");
        if listener == "only-mqtt" {
            assert!(!found.contains("LOW HSTS"), "MQTT is taken for HTTP");
        }
    }
}

/// The findings above INFO, as `SEVERITY ID`.
async fn testssl(gateway: &Gateway, listener: &str, full: bool) -> BTreeSet<String> {
    let report = gateway.data.join(format!("testssl-{listener}.json"));
    let mut tool = Tool::new("testssl")
        .args([
            "--quiet",
            "--warnings",
            "batch",
            "--color",
            "0",
            "--nodns",
            "none",
        ])
        .arg("--add-ca")
        .arg(gateway.ca())
        .arg("--jsonfile")
        .arg(&report);
    if !full {
        tool = tool.args(["-p", "-S", "-U"]);
    }
    let finished: Finished = tool
        .arg(format!("localhost:{}", port(gateway, listener)))
        .run_within(Duration::from_secs(600))
        .await;
    let text = std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {finished}"));
    let findings: Vec<Value> = serde_json::from_str(&text).expect("a list of findings");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    for (id, expected) in [
        ("SSLv3", "not offered"),
        ("TLS1", "not offered"),
        ("TLS1_1", "not offered"),
        ("TLS1_2", "offered"),
        ("TLS1_3", "offered with final"),
        ("heartbleed", "not vulnerable, no heartbeat extension"),
        ("secure_client_renego", "not vulnerable"),
    ] {
        let said = findings.iter().find(|finding| text(finding, "id") == id);
        let said = said
            .map(|finding| text(finding, "finding"))
            .unwrap_or_default();
        assert!(
            said.contains(expected),
            "{id}: {said:?} instead of {expected:?}"
        );
    }
    findings
        .iter()
        .filter(|finding| !["OK", "INFO", "DEBUG"].contains(&text(finding, "severity").as_str()))
        .map(|finding| format!("{} {}", text(finding, "severity"), text(finding, "id")))
        .collect()
}
