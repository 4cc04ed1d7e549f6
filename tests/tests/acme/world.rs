//! A gateway with a CA, and what is asked of it again and again.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use postern_tests::client::tcp;
use postern_tests::packet::Version;
use postern_tests::peer::{Finished, Tool};
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::{until_some, within};
use postern_tests::{Client, Connect, Gateway, Setup};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::authority::{HTTP_PORT, Pebble, TLS_PORT};

pub const NAME: &str = "mqtt.example.org";

pub struct World {
    pub pebble: Pebble,
    pub gateway: Gateway,
}

/// The configuration that points a gateway to this Pebble; `acme` are further lines of `[acme]`.
pub fn config(pebble: &Pebble, acme: &str) -> String {
    let ip = pebble.ip;
    let directory = match acme.contains("directory = ") {
        true => String::new(),
        false => format!("directory = \"{}\"\n", pebble.directory()),
    };
    format!(
        "[listeners.validated]\nprotocol = \"mqtt\"\nbind = [\"{}\"]\n\
         [acme]\ncontact = \"ann@example.org\"\ndirectory_root = {:?}\nhttp_bind = [\"{}\"]\n\
         resolvers = [\"{}\"]\n{directory}{acme}\n",
        SocketAddr::new(ip, TLS_PORT),
        pebble.directory_root(),
        SocketAddr::new(ip, HTTP_PORT),
        pebble.dns(),
    )
}

impl World {
    /// A gateway that has, or will have, a certificate by these lines of `[acme]`.
    pub async fn start(pebble: Pebble, acme: &str) -> World {
        let gateway = Setup::new().toml(&config(&pebble, acme)).start().await;
        World { pebble, gateway }
    }

    /// The same, and waits for the first certificate.
    pub async fn issued(pebble: Pebble, acme: &str) -> World {
        let world = World::start(pebble, acme).await;
        world.certificate("acme").await;
        world
    }

    /// What `postern cert status` says of a slot.
    pub async fn status(&self, slot: &str) -> Option<Value> {
        let finished = self.gateway.cli(&["cert", "status", "--json"], "").await;
        let lines = finished.expect_success().stdout;
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .find(|line| line["name"] == slot)
    }

    /// Waits for a certificate in this slot, and gives what `postern cert show` says of it.
    pub async fn certificate(&self, slot: &str) -> Value {
        until_some(&format!("a certificate {slot}"), async || {
            let status = self.status(slot).await?;
            (!status["certificate"].is_null()).then_some(())
        })
        .await;
        self.show(slot).await
    }

    pub async fn show(&self, slot: &str) -> Value {
        let shown = self
            .gateway
            .cli(&["cert", "show", slot, "--json"], "")
            .await;
        serde_json::from_str(&shown.expect_success().stdout).expect("JSON")
    }

    /// SHA-256 of the certificate in this slot.
    pub async fn fingerprint(&self, slot: &str) -> String {
        text(&self.show(slot).await["pins"]["sha256"])
    }

    /// Waits until another certificate is in this slot; gives what is shown of it.
    pub async fn another_than(&self, fingerprint: &str, slot: &str) -> Value {
        until_some("another certificate", async || {
            let shown = self.show(slot).await;
            (text(&shown["pins"]["sha256"]) != fingerprint).then_some(shown)
        })
        .await
    }

    /// Whether OpenSSL, which asks for `name`, trusts what it gets because of Pebble's root.
    pub async fn trusted(&self, name: &str) -> Finished {
        let root = self.pebble.issuing_root().await;
        Tool::new("openssl")
            .args([
                "s_client",
                "-connect",
                &self.gateway.addresses.mqtts.to_string(),
            ])
            .args(["-verify_return_error", "-verify_hostname", name])
            .args(["-servername", name])
            .arg("-CAfile")
            .arg(root)
            .run()
            .await
    }

    /// An MQTT client that came by TLS and trusts only the certificates in `ca`.
    pub async fn client(&self, name: &str, ca: &Path, client_id: &str) -> Client {
        let connector = TlsConnector::from(client_config(ca, ALL_VERSIONS));
        let stream = tcp(None, self.gateway.addresses.mqtts).await;
        let name = name.to_owned().try_into().expect("a DNS name");
        let stream = within("a TLS handshake", connector.connect(name, stream))
            .await
            .expect("the certificate is trusted");
        let mut client = Client::over(stream, Version::V5);
        let connect = self.gateway.login(&Connect::v5(client_id));
        client.connect(&connect).await;
        assert_eq!(client.connack.code, 0);
        client
    }

    pub async fn health(&self) -> String {
        self.gateway.cli(&["health"], "").await.stdout
    }

    /// Waits until `postern health` complains with these words; gives all it says.
    pub async fn complains(&self, part: &str) -> String {
        until_some(&format!("{part:?} in postern health"), async || {
            let health = self.health().await;
            health.contains(part).then_some(health)
        })
        .await
    }

    pub async fn renew(&self, arguments: &[&str]) -> Finished {
        let all = [&["cert", "renew"], arguments].concat();
        self.gateway.cli(&all, "").await
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// A hook for DNS-01 that tells challtestsrv, and notes how it was called. If it `waits`, it does nothing before there
/// is a file `go` beside it.
pub fn hook(pebble: &Pebble, waits: bool) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hook");
    let script = format!(
        r#"#!/usr/bin/env python3
import json, os, sys, time, urllib.request
action, domain, record, value = sys.argv[1:]
with open({calls:?}, "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
for _ in range(200 if {waits} else 0):
    if not os.path.exists({go:?}):
        time.sleep(0.1)
verb = "set-txt" if action == "present" else "clear-txt"
body = {{"host": record + "."}}
if action == "present":
    body["value"] = value
print("said", value)
urllib.request.urlopen("http://{management}/" + verb, json.dumps(body).encode())
"#,
        calls = directory.path().join("calls"),
        go = directory.path().join("go"),
        waits = if waits { "True" } else { "False" },
        management = pebble.dns_management(),
    );
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
    (directory, path)
}
