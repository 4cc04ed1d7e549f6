//! `postern cert`.

use std::fmt::Write as _;
use std::path::Path;

use postern_tests::gateway::gateway_tool;
use postern_tests::peer::{Finished, Tool};
use postern_tests::{Gateway, Setup};
use tempfile::TempDir;

use crate::authority::{Authority, Pair, files};
use crate::served;

async fn openssl(command: &str, directory: &Path) -> String {
    let finished = Tool::new("sh")
        .args(["-c", &format!("openssl {command}")])
        .current_dir(directory)
        .run()
        .await
        .expect_success();
    finished.stdout.trim().to_owned()
}

async fn show(gateway: &Gateway, name: &str) -> serde_json::Value {
    let shown = gateway.cli(&["cert", "show", name, "--json"], "").await;
    serde_json::from_str(&shown.expect_success().only_line()).expect("JSON")
}

/// SHA-1 of what Tasmota puts together, from what OpenSSL says about the key.
async fn tasmota(directory: &Path, name: &str) -> String {
    let unhex = |digits: &str| -> Vec<u8> {
        let octet = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        (0..digits.len()).step_by(2).map(octet).collect()
    };
    let parts: Vec<Vec<u8>> = if name == "rsa" {
        let modulus = openssl("x509 -in rsa.pem -noout -modulus", directory).await;
        let modulus = modulus.strip_prefix("Modulus=").expect("a modulus");
        vec![b"ssh-rsa".to_vec(), vec![1, 0, 1], unhex(modulus)]
    } else {
        let text = openssl(
            "x509 -in ecdsa.pem -noout -pubkey | openssl pkey -pubin -noout -text",
            directory,
        )
        .await;
        let point: String = text
            .lines()
            .filter(|line| line.starts_with("    "))
            .flat_map(|line| line.chars().filter(char::is_ascii_hexdigit))
            .collect();
        vec![b"ecdsa-sha2-nistp256".to_vec(), unhex(&point)]
    };
    let mut input = Vec::new();
    for part in parts {
        input.extend(u32::try_from(part.len()).expect("short").to_be_bytes());
        input.extend(part);
    }
    std::fs::write(directory.join("input"), input).expect("written");
    let digest = openssl("dgst -sha1 -r input", directory).await;
    let mut spaced = String::new();
    for octet in unhex(&digest[..40]) {
        let _ = write!(spaced, " {octet:02X}");
    }
    spaced.trim().to_owned()
}

#[tokio::test]
async fn pins_are_what_openssl_computes() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let mut setup = Setup::new();
    for (name, pair) in [
        ("ecdsa", ca.ecdsa(&["a.example.org"])),
        ("rsa", ca.rsa(&["b.example.org"])),
    ] {
        let section = pair.write(dir.path(), name);
        setup = setup.toml(&format!("[certificates.{name}]\n{section}"));
    }
    let gateway = setup.start().await;
    for name in ["ecdsa", "rsa"] {
        let shown = show(&gateway, name).await;
        let pins = &shown["pins"];
        for (pin, digest) in [("sha1", "-sha1"), ("sha256", "-sha256")] {
            let command = format!("x509 -in {name}.pem -noout -fingerprint {digest}");
            let answer = openssl(&command, dir.path()).await;
            let (_, fingerprint) = answer.split_once('=').expect("NAME=VALUE");
            assert_eq!(pins[pin], fingerprint);
        }
        let digits = pins["sha1"]
            .as_str()
            .expect("text")
            .replace(':', "")
            .to_lowercase();
        assert_eq!(pins["sha1-digits"], digits);
        let public = format!("x509 -in {name}.pem -noout -pubkey");
        assert_eq!(
            pins["public-key"].as_str().map(str::trim),
            Some(&*openssl(&public, dir.path()).await)
        );
        let spki = format!("{public} | openssl pkey -pubin -outform der | openssl dgst -sha256 -r");
        assert_eq!(pins["spki-sha256"], openssl(&spki, dir.path()).await[..64]);
        assert_eq!(pins["tasmota"], tasmota(dir.path(), name).await);

        let text = gateway
            .cli(&["cert", "show", name], "")
            .await
            .expect_success();
        for pin in [
            "sha1",
            "sha256",
            "sha1-digits",
            "spki-sha256",
            "tasmota",
            "public-key",
        ] {
            assert!(
                text.stdout.contains(pins[pin].as_str().expect("text")),
                "{pin} in {text}"
            );
        }
        let chain = shown["chain"].as_array().expect("a chain");
        let bytes: u64 = chain.iter().filter_map(|link| link["bytes"].as_u64()).sum();
        assert_eq!(shown["certificate"]["chain-bytes"], bytes);
        let der = openssl(
            &format!("x509 -in {name}.pem -outform der | wc -c"),
            dir.path(),
        )
        .await;
        assert_eq!(chain[0]["bytes"].to_string(), der);
    }
}

#[tokio::test]
async fn status_tells_of_every_certificate_whether_the_gateway_runs_or_not() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let section = ca
        .rsa(&["a.example.org", "192.0.2.1"])
        .write(dir.path(), "own");
    let gateway = Setup::new()
        .toml(&format!("[certificates.own]\n{section}"))
        .start()
        .await;
    let running = gateway.cli(&["cert", "status"], "").await.expect_success();
    let line_of_own = |finished: &Finished| {
        let own = finished
            .stdout
            .lines()
            .find(|line| line.starts_with("own "));
        own.unwrap_or_else(|| panic!("no line about it: {finished}"))
            .to_owned()
    };
    let own = line_of_own(&running);
    for part in [
        "a.example.org,192.0.2.1",
        "CN=Test CA",
        " 7 ",
        "RSA 2048",
        "2 (",
        "own.pem",
    ] {
        assert!(own.contains(part), "{part:?} in {own}");
    }
    assert!(running.stdout.contains("private CA, "), "{running}");
    let unknown = gateway.cli(&["cert", "show", "nobody"], "").await;
    assert!(unknown.expect_one_line_failure().contains("default, own"));

    let config = gateway.config.clone();
    let data = gateway.stop().await;
    let stopped = gateway_tool()
        .args(["cert", "status", "--config"])
        .arg(&config)
        .run()
        .await
        .expect_success();
    assert_eq!(line_of_own(&stopped), own);
    assert!(stopped.stdout.contains("private CA, "), "{stopped}");
    let (certificate, _) = files(dir.path(), "own");
    std::fs::write(certificate, "nothing").expect("written");
    let broken = gateway_tool()
        .args(["cert", "status", "--config"])
        .arg(&config)
        .run()
        .await
        .expect_success();
    assert!(
        broken.stdout.contains("there is no certificate in it"),
        "{broken}"
    );
    drop(data);
}

/// Puts pairs where the gateway keeps its own.
fn keep(data: &Path, current: &Pair, previous: &Pair) {
    let slot = data.join("certificates/main");
    std::fs::create_dir_all(&slot).expect("made");
    for (name, pair) in [("pair.pem", current), ("previous.pem", previous)] {
        std::fs::write(slot.join(name), format!("{}{}", pair.key, pair.chain)).expect("written");
    }
}

#[tokio::test]
async fn a_rollback_is_in_force_at_once_and_a_second_one_undoes_it() {
    let ca = Authority::new();
    let (old, new) = (
        ca.ecdsa(&["main.example.org"]),
        ca.ecdsa(&["main.example.org"]),
    );
    let gateway = Gateway::start().await;
    keep(&gateway.data, &new, &old);
    for pair in [&old, &new, &old] {
        let done = gateway
            .cli(&["cert", "rollback", "main"], "")
            .await
            .expect_success();
        assert!(done.stdout.contains("main is in force"), "{done}");
        assert_eq!(served(&gateway, "main.example.org").await, pair.leaf());
        let shown = gateway
            .cli(&["cert", "show", "main"], "")
            .await
            .expect_success();
        assert!(
            shown.stdout.contains("postern cert rollback main"),
            "{shown}"
        );
    }
    let config = gateway.config.clone();
    let _data = gateway.stop().await;
    let direct = gateway_tool()
        .args(["cert", "rollback", "main", "--config"])
        .arg(&config);
    direct.run().await.expect_success();
    let shown = gateway_tool()
        .args(["cert", "show", "main", "--json", "--config"])
        .arg(&config)
        .run()
        .await
        .expect_success();
    assert!(shown.stdout.contains("\"previous\":true"), "{shown}");
}

#[tokio::test]
async fn only_what_the_gateway_keeps_can_be_rolled_back() {
    let dir = TempDir::new().expect("a directory");
    let section = Authority::new()
        .ecdsa(&["a.example.org"])
        .write(dir.path(), "own");
    let gateway = Setup::new()
        .toml(&format!("[certificates.own]\n{section}"))
        .start()
        .await;
    for (name, words) in [
        ("own", "put the old files back"),
        ("default", "private CA"),
        ("nobody", "there is no certificate \"nobody\""),
        ("../tls", "there is no certificate"),
    ] {
        let refused = gateway.cli(&["cert", "rollback", name], "").await;
        let line = refused.expect_one_line_failure();
        assert!(line.contains(words), "{line}");
    }
}
