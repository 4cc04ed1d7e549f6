//! The configuration as the operator meets it: check, print, environment, SIGHUP.

use std::fs;
use std::path::Path;

use postern_tests::gateway::gateway_tool;
use postern_tests::peer::Finished;
use postern_tests::{Gateway, Property, Publish, Setup};
use tempfile::TempDir;

async fn postern(arguments: &[&str], config: &Path) -> Finished {
    gateway_tool()
        .args(arguments)
        .arg("--config")
        .arg(config)
        .run()
        .await
}

/// The output of `postern check` on `text`.
async fn check(text: &str) -> Finished {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    fs::write(&file, text).expect("written");
    postern(&["check"], &file).await
}

#[tokio::test]
async fn check_accepts_what_is_valid_and_starts_nothing() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    let data = dir.path().join("data");
    fs::write(
        &file,
        format!("data_dir = {data:?}\n[limits]\nmax_connections = 5\n"),
    )
    .expect("written");
    postern(&["check"], &file).await.expect_success();
    assert!(!data.exists(), "check touches nothing");
}

#[tokio::test]
async fn check_names_file_line_key_value_and_remedy() {
    for (text, wanted) in [
        (
            "[limits]\nmax_conections = 5\n",
            vec![":2:", "limits.max_conections", "5", "max_connections"],
        ),
        ("\n\n[limit]\n", vec![":3:", "limit", "limits"]),
        (
            "[limits]\nmax_packet_size = \"9 bananas\"\n",
            vec![":2:", "limits.max_packet_size", "9 bananas"],
        ),
        (
            "[limits]\nmax_connections = \"many\"\n",
            vec![":2:", "limits.max_connections", "many"],
        ),
        (
            "[listeners.mqtt]\nbind = [\"0.0.0.0:1883\"]\n",
            vec![":2:", "listeners.mqtt", "allow_plain_remote"],
        ),
        (
            "[listeners.mqtts]\nbind = [\"nowhere\"]\n",
            vec![":2:", "listeners.mqtts.bind", "nowhere"],
        ),
        (
            "[tls]\ncertificate = \"/a.pem\"\n",
            vec![":2:", "tls.", "private_key"],
        ),
        (
            "[bus]\npermits = \"64MiB\"\n",
            vec![":2:", "bus.permits", "64MiB"],
        ),
        (
            "[session]\ndenied_publish = \"explode\"\n",
            vec![":2:", "session.denied_publish", "explode", "disconnect"],
        ),
        ("[limits\n", vec![":1"]),
    ] {
        let finished = check(text).await;
        assert!(!finished.status.success(), "{text}: {finished}");
        for part in wanted {
            assert!(
                finished.stderr.contains(part),
                "{text:?} should name {part:?}: {finished}"
            );
        }
    }
}

#[tokio::test]
async fn check_reports_all_problems_at_once() {
    let finished =
        check("dat_dir = \"/x\"\n[limits]\nmax_conections = 5\n[sys]\ninterval = \"soon\"\n").await;
    for line in [":1:", ":3:", ":5:"] {
        assert!(finished.stderr.contains(line), "{finished}");
    }
}

#[tokio::test]
async fn a_missing_file_is_an_error() {
    let missing = Path::new("/nonexistent/postern.toml");
    for arguments in [&["check"][..], &["config", "print"], &[]] {
        let finished = postern(arguments, missing).await;
        assert!(
            !finished.status.success() && finished.stderr.contains("/nonexistent/postern.toml"),
            "{finished}"
        );
    }
}

#[tokio::test]
async fn what_print_shows_is_what_it_reads() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    fs::write(
        &file,
        "[limits]\nmax_packet_size = \"64KiB\"\n[sys]\ninterval = \"90s\"\n",
    )
    .expect("written");
    let first = postern(&["config", "print"], &file)
        .await
        .expect_success()
        .stdout;
    assert!(first.contains("64KiB"), "{first}");
    fs::write(&file, &first).expect("written");
    assert_eq!(
        postern(&["config", "print"], &file)
            .await
            .expect_success()
            .stdout,
        first
    );
}

#[tokio::test]
async fn the_defaults_are_the_promised_ports() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    fs::write(&file, "").expect("written");
    let print = postern(&["config", "print"], &file)
        .await
        .expect_success()
        .stdout;
    for address in [
        "\"[::]:8883\"",
        "\"[::]:8083\"",
        "\"127.0.0.1:1883\"",
        "\"[::1]:1883\"",
    ] {
        assert!(print.contains(address), "{address} is missing:\n{print}");
    }
    assert!(print.contains("allow_anonymous = false"));
}

#[tokio::test]
async fn the_sample_is_valid_with_every_line_switched_on() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    fs::write(&file, "").expect("written");
    let sample = postern(&["config", "sample"], &file)
        .await
        .expect_success()
        .stdout;
    fs::write(&file, &sample).expect("written");
    postern(&["check"], &file).await.expect_success();
}

#[tokio::test]
async fn the_environment_overrides_the_file() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("postern.toml");
    fs::write(&file, "[limits]\nmax_connections = 5\n").expect("written");
    let print = |key: &'static str, value: &'static str| {
        gateway_tool()
            .env(key, value)
            .args(["config", "print"])
            .arg("--config")
            .arg(&file)
            .run()
    };
    let shown = print("POSTERN__LIMITS__MAX_CONNECTIONS", "7")
        .await
        .expect_success()
        .stdout;
    assert!(shown.contains("max_connections = 7"), "{shown}");
    let wrong = print("POSTERN__LIMITS__MAX_CONECTIONS", "7").await;
    assert!(
        !wrong.status.success() && wrong.stderr.to_lowercase().contains("max_connections"),
        "{wrong}"
    );
    let wrong = print("POSTERN__LIMITS__MAX_CONNECTIONS", "many").await;
    assert!(
        !wrong.status.success() && wrong.stderr.contains("many"),
        "{wrong}"
    );
}

/// The maximum packet size that a new connection is told.
async fn maximum(gateway: &Gateway) -> u32 {
    let client = gateway.v5("probe").await;
    let maximum = |p: &Property| {
        if let Property::MaximumPacketSize(n) = p {
            Some(*n)
        } else {
            None
        }
    };
    client
        .connack
        .properties
        .iter()
        .find_map(maximum)
        .expect("a maximum packet size")
}

#[tokio::test]
async fn sighup_changes_what_can_change_while_clients_stay_connected() {
    let gateway = Gateway::start().await;
    let mut old = gateway.v5("old").await;
    old.subscribe("a", 1).await;
    assert_eq!(maximum(&gateway).await, 1 << 20);
    gateway.write_config("[limits]\nmax_packet_size = \"64KiB\"\n");
    gateway.reload("reloaded").await;
    assert_eq!(maximum(&gateway).await, 1 << 16);
    // Who was told a larger maximum keeps it.
    old.publish(Publish::new("a", "").qos(1).payload(vec![b'x'; 100_000]))
        .await;
    assert_eq!(old.receive().await.payload.len(), 100_000);
}

#[tokio::test]
async fn a_bad_reload_changes_nothing_at_all() {
    let gateway = Gateway::start().await;
    gateway.expect_error("not reloaded");
    for bad in [
        "[limits]\nmax_packet_size = \"64KiB\"\nmax_conections = 5\n",
        "[limits]\nmax_packet_size = \"64KiB\"\n[sys]\ninterval = \"soon\"\n",
        "[limits]\nmax_packet_size = \"64KiB\"\n[broken\n",
        "[limits]\nmax_packet_size = \"64KiB\"\n[tls]\ncertificate = \"/no/a.pem\"\nprivate_key = \"/no/a.key\"\n",
    ] {
        gateway.write_config(bad);
        gateway.reload("not reloaded").await;
        assert_eq!(maximum(&gateway).await, 1 << 20, "{bad}");
    }
    gateway.write_config("[limits]\nmax_packet_size = \"64KiB\"\n");
    gateway.reload("was reloaded").await;
    assert_eq!(maximum(&gateway).await, 1 << 16);
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_named() {
    let gateway = Gateway::start().await;
    gateway.write_config("[bus]\ningress_links = 2\n[limits]\nmax_packet_size = \"64KiB\"\n");
    gateway.reload("bus").await;
    assert_eq!(maximum(&gateway).await, 1 << 16, "the rest takes effect");
}

#[tokio::test]
async fn a_certificate_of_the_operator_is_used_and_swapped_while_connections_stay_up() {
    let dir = TempDir::new().expect("a temporary directory");
    let name = |file: &str| dir.path().join(file).display().to_string();
    let (certificate, key) = (name("server.pem"), name("server.key"));
    let issue = async || {
        let command = format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
             -keyout {key} -out {certificate} && chmod 600 {key}"
        );
        postern_tests::peer::Tool::new("sh")
            .args(["-c", &command])
            .run()
            .await
            .expect_success();
    };
    issue().await;
    let tables = format!("[tls]\ncertificate = {certificate:?}\nprivate_key = {key:?}\n");
    let gateway = Setup::new().toml(&tables).start().await;
    let presented = async || {
        let port = gateway.addresses.mqtts.port();
        let command = format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername localhost | openssl x509"
        );
        postern_tests::peer::Tool::new("sh")
            .args(["-c", &command])
            .run()
            .await
            .expect_success()
            .stdout
    };
    let first = presented().await;
    assert_eq!(
        first.trim(),
        fs::read_to_string(&certificate).expect("readable").trim()
    );
    let mut client = gateway.v5("a").await;
    issue().await;
    gateway.reload("reloaded").await;
    let second = presented().await;
    assert_ne!(first, second);
    assert_eq!(
        second.trim(),
        fs::read_to_string(&certificate).expect("readable").trim()
    );
    client.nothing_came().await;
    // A key that does not belong to the certificate changes nothing.
    gateway.expect_error("not reloaded");
    fs::copy(gateway.data.join("secret.key"), &key).expect("copied");
    gateway.reload("not reloaded").await;
    assert_eq!(presented().await, second);
}
