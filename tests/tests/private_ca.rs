//! Does OpenSSL take what the private CA makes, and does what it takes back stay taken back? The command line with the
//! gateway running and without one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use postern_tests::gateway::gateway_tool;
use postern_tests::peer::{Finished, Tool};
use postern_tests::{Gateway, Setup};
use tempfile::TempDir;

/// A data directory without a gateway.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> World {
        World {
            dir: TempDir::with_prefix("postern-ca-").expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `postern ca ...`, with `password` on standard input.
    async fn try_ca(&self, arguments: &[&str], password: &str) -> Finished {
        gateway_tool()
            .arg("ca")
            .args(arguments)
            .arg("--data-dir")
            .arg(self.path("data"))
            .current_dir(self.dir.path())
            .stdin(password)
            .run()
            .await
    }

    async fn ca(&self, arguments: &[&str]) -> Finished {
        self.try_ca(arguments, "").await.expect_success()
    }

    async fn openssl(&self, arguments: &[&str]) -> Finished {
        let tool = Tool::new("openssl").args(arguments);
        tool.current_dir(self.dir.path()).run().await
    }

    fn mode(&self, name: &str) -> u32 {
        let metadata = std::fs::metadata(self.path(name)).expect("it is there");
        metadata.permissions().mode() & 0o777
    }
}

/// The state and the serial number of the only certificate of this name.
async fn state(world: &World, name: &str) -> (String, String) {
    let listed = world.ca(&["list", "--json"]).await;
    let lines = listed
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut found: Vec<serde_json::Value> = lines
        .filter(|one: &serde_json::Value| one["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{}", listed.stdout);
    let one = found.remove(0);
    let state = match one["revoked-at"].is_null() {
        true => "valid".to_owned(),
        false => one["reason"].as_str().expect("a reason").to_owned(),
    };
    (state, one["serial"].as_str().expect("text").to_owned())
}

#[tokio::test]
async fn openssl_verifies_what_is_issued_for_what_it_is_for_and_nothing_else() {
    let world = World::new();
    world.ca(&["init"]).await;
    world.ca(&["issue", "device", "lamp", "--out", "out"]).await;
    world
        .ca(&[
            "issue",
            "server",
            "broker.example.org",
            "--name",
            "192.0.2.7",
            "--days",
            "30",
            "--out",
            "out",
        ])
        .await;
    let verify = async |purpose: &str, more: &[&str], file: &str| {
        let arguments = [
            &[
                "verify",
                "-x509_strict",
                "-CAfile",
                "out/ca.pem",
                "-purpose",
                purpose,
            ],
            more,
            &[file],
        ];
        world.openssl(&arguments.concat()).await.status.success()
    };
    assert!(verify("sslclient", &[], "out/lamp.pem").await);
    assert!(!verify("sslserver", &[], "out/lamp.pem").await);
    let server = "out/broker.example.org.pem";
    assert!(
        verify(
            "sslserver",
            &["-verify_hostname", "broker.example.org"],
            server
        )
        .await
    );
    assert!(verify("sslserver", &["-verify_ip", "192.0.2.7"], server).await);
    assert!(
        !verify(
            "sslserver",
            &["-verify_hostname", "other.example.org"],
            server
        )
        .await
    );
    assert!(!verify("sslclient", &[], server).await);

    // DER is the same certificate and the same key; an ESP32 takes P-256 in either form.
    for (der, pem) in [
        ("out/lamp.der", "out/lamp.pem"),
        ("out/ca.der", "out/ca.pem"),
    ] {
        let from = world
            .openssl(&["x509", "-inform", "DER", "-in", der])
            .await
            .expect_success();
        let text = std::fs::read_to_string(world.path(pem)).expect("PEM");
        assert_eq!(from.stdout, text);
    }
    let key = [
        "pkey",
        "-inform",
        "DER",
        "-in",
        "out/lamp.key.der",
        "-noout",
        "-text",
    ];
    let key = world.openssl(&key).await.expect_success();
    assert!(key.stdout.contains("prime256v1"), "{}", key.stdout);
    let public = |file: &'static str| ["pkey", "-in", file, "-pubout"];
    let from_key = world
        .openssl(&public("out/lamp.key"))
        .await
        .expect_success();
    let from_certificate = ["x509", "-in", "out/lamp.pem", "-noout", "-pubkey"];
    let from_certificate = world.openssl(&from_certificate).await.expect_success();
    assert_eq!(from_key.stdout, from_certificate.stdout);
    for (file, mode) in [
        ("out/lamp.key", 0o600),
        ("out/lamp.key.der", 0o600),
        ("out/lamp.pem", 0o644),
    ] {
        assert_eq!(world.mode(file), mode, "{file}");
    }
}

#[tokio::test]
async fn show_prints_the_fingerprints_and_the_pin_that_openssl_computes() {
    let world = World::new();
    world.ca(&["init"]).await;
    let shown = world.ca(&["show"]).await.stdout;
    let pem = world.ca(&["show", "--pem"]).await.stdout;
    std::fs::write(world.path("ca.pem"), pem).expect("written");
    for digest in ["-sha256", "-sha1"] {
        let print = ["x509", "-in", "ca.pem", "-noout", "-fingerprint", digest];
        let print = world.openssl(&print).await.expect_success().stdout;
        let print = print
            .trim()
            .split('=')
            .nth(1)
            .expect("a fingerprint")
            .to_owned();
        assert!(shown.contains(&print), "{shown}");
    }
    let pin = "openssl x509 -in ca.pem -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64";
    let pin = Tool::new("sh")
        .args(["-c", pin])
        .current_dir(world.dir.path())
        .run()
        .await;
    let pin = pin.expect_success().only_line();
    assert!(shown.contains(&pin), "{pin} is not in {shown}");
}

#[tokio::test]
async fn a_second_init_keeps_the_ca() {
    let world = World::new();
    let missing = world.try_ca(&["show"], "").await.expect_one_line_failure();
    assert!(
        missing.contains("no accounts") || missing.contains("ca init"),
        "{missing}"
    );
    world.ca(&["init"]).await;
    let first = world.ca(&["show", "--pem"]).await.stdout;
    let again = world.ca(&["init"]).await.stdout;
    assert!(!again.contains("was made"), "{again}");
    assert_eq!(world.ca(&["show", "--pem"]).await.stdout, first);
}

#[tokio::test]
async fn openssl_opens_the_pkcs12_file_with_its_password_and_without_it_does_not() {
    let world = World::new();
    world.ca(&["init"]).await;
    let generated = [
        "issue",
        "device",
        "phone",
        "--pkcs12",
        "phone.p12",
        "--generate",
    ];
    let password = world.ca(&generated).await.only_line();
    let chosen = ["issue", "device", "tablet", "--pkcs12", "tablet.p12"];
    world.try_ca(&chosen, "pass wörd\n").await.expect_success();
    for (file, password, name) in [
        ("phone.p12", password.as_str(), "phone"),
        ("tablet.p12", "pass wörd", "tablet"),
    ] {
        assert_eq!(world.mode(file), 0o600);
        let open = async |password: &str| {
            let password = format!("pass:{password}");
            world
                .openssl(&["pkcs12", "-in", file, "-nodes", "-passin", &password])
                .await
        };
        let opened = open(password).await.expect_success().stdout;
        for part in [
            "BEGIN PRIVATE KEY",
            &format!("subject=CN = {name}"),
            "subject=CN = Postern private CA",
        ] {
            assert!(opened.contains(part), "{part}: {opened}");
        }
        std::fs::write(world.path("opened.pem"), opened).expect("written");
        let certificate = [
            "verify",
            "-CAfile",
            "ca.pem",
            "-purpose",
            "sslclient",
            "opened.pem",
        ];
        world.openssl(&certificate).await.expect_success();
        assert!(!open("wrong").await.status.success());
    }
}

#[tokio::test]
async fn revoked_by_name_by_serial_or_by_file_is_revoked_for_openssl() {
    let world = World::new();
    world.ca(&["init"]).await;
    for name in ["one", "two", "three", "four", "stays"] {
        world.ca(&["issue", "device", name]).await;
    }
    world
        .ca(&["revoke", "one", "--reason", "key-compromise"])
        .await;
    let (_, serial) = state(&world, "two").await;
    // As OpenSSL prints them, too.
    world.ca(&["revoke", &serial.to_uppercase()]).await;
    world.ca(&["revoke", "./three.pem"]).await;
    world.ca(&["revoke", "four.der"]).await;
    world.ca(&["crl", "--out", "list.pem"]).await;
    world.ca(&["crl", "--out", "list.der", "--der"]).await;
    let check = [
        "crl", "-in", "list.pem", "-noout", "-text", "-CAfile", "ca.pem",
    ];
    let list = world.openssl(&check).await.expect_success();
    assert!(list.stderr.contains("verify OK"), "{}", list.stderr);
    assert!(list.stdout.contains("Key Compromise"), "{}", list.stdout);
    let der = ["crl", "-inform", "DER", "-in", "list.der"];
    let der = world.openssl(&der).await.expect_success().stdout;
    assert_eq!(
        der,
        std::fs::read_to_string(world.path("list.pem")).expect("PEM")
    );
    for (name, revoked) in [
        ("one", true),
        ("two", true),
        ("three", true),
        ("four", true),
        ("stays", false),
    ] {
        let file = format!("{name}.pem");
        let verify = [
            "verify",
            "-CAfile",
            "ca.pem",
            "-CRLfile",
            "list.pem",
            "-crl_check",
            &file,
        ];
        let verified = world.openssl(&verify).await;
        assert_eq!(
            verified.stderr.contains("certificate revoked"),
            revoked,
            "{name}"
        );
        assert_eq!(verified.status.success(), !revoked, "{name}");
        assert_eq!(state(&world, name).await.0 != "valid", revoked, "{name}");
    }
    assert_eq!(state(&world, "one").await.0, "key-compromise");
    // What is not there, or not ours, is named.
    for (which, words) in [("one", "\"one\""), ("nobody", "postern ca list")] {
        let failed = world
            .try_ca(&["revoke", which], "")
            .await
            .expect_one_line_failure();
        assert!(failed.contains(words), "{failed}");
    }
    let foreign = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        "f.key",
        "-out",
        "f.pem",
    ];
    world.openssl(&foreign).await.expect_success();
    let failed = world
        .try_ca(&["revoke", "f.pem"], "")
        .await
        .expect_one_line_failure();
    assert!(failed.contains("did not issue"), "{failed}");
}

#[tokio::test]
async fn a_device_that_makes_its_own_key_sends_a_request() {
    let world = World::new();
    world.ca(&["init"]).await;
    let request = [
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-nodes",
        "-subj",
        "/CN=somebody-else",
        "-keyout",
        "own.key",
        "-out",
        "own.csr",
    ];
    world.openssl(&request).await.expect_success();
    world
        .ca(&["issue", "device", "own", "--csr", "own.csr", "--out", "out"])
        .await;
    assert!(!world.path("out/own.key").exists(), "no key is made");
    let subject = [
        "x509",
        "-in",
        "out/own.pem",
        "-noout",
        "-subject",
        "-pubkey",
    ];
    let subject = world.openssl(&subject).await.expect_success().stdout;
    let public = world
        .openssl(&["pkey", "-in", "own.key", "-pubout"])
        .await
        .expect_success();
    assert_eq!(
        subject,
        format!("subject=CN = own\n{}", public.stdout),
        "the name is the operator's, the key the device's"
    );

    std::fs::write(world.path("no.csr"), "nothing").expect("written");
    let mut forged = std::fs::read(world.path("own.csr")).expect("PEM");
    // A bit of the signature, in the last line of base64.
    let at = forged.len() - 50;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    std::fs::write(world.path("forged.csr"), forged).expect("written");
    for file in ["no.csr", "forged.csr"] {
        let issue = ["issue", "device", "bad", "--csr", file];
        let failed = world.try_ca(&issue, "").await.expect_one_line_failure();
        assert!(failed.contains("request"), "{failed}");
    }
}

#[tokio::test]
async fn what_cannot_be_issued_is_refused_before_anything_is_written() {
    let world = World::new();
    world.ca(&["init"]).await;
    let long = "x".repeat(65);
    for (arguments, words) in [
        (&["device", "a", "--days", "0"][..], "1 to 3650"),
        (&["device", "a", "--days", "3651"], "1 to 3650"),
        (&["server", "localhost", "--days", "826"], "1 to 825"),
        (&["device", ""], "empty"),
        (&["device", " a"], "white space"),
        (&["device", &long], "room for 1 to 64"),
        (&["server", "not a name"], "DNS name"),
        (&["server", "localhost", "--name", "*"], "wildcard"),
    ] {
        let arguments = [&["issue"], arguments, &["--out", "out"]].concat();
        let failed = world.try_ca(&arguments, "").await.expect_one_line_failure();
        assert!(failed.contains(words), "{arguments:?}: {failed}");
    }
    let left: Vec<_> = std::fs::read_dir(world.path("out"))
        .expect("made")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    world.ca(&["issue", "device", "a", "--out", "out"]).await;
    let again = world
        .try_ca(&["issue", "device", "a", "--out", "out"], "")
        .await;
    assert!(again.expect_one_line_failure().contains("--force"));
    // The CA's own files: the same are welcome, others are not replaced unasked, and no device takes their name.
    world.ca(&["issue", "device", "b", "--out", "out"]).await;
    world.ca(&["revoke", "b"]).await;
    std::fs::create_dir(world.path("other")).expect("made");
    std::fs::write(world.path("other/ca.pem"), "another CA").expect("written");
    for (name, folder, words) in [("b", "other", "--force"), ("CA", "out", "another name")] {
        let arguments = ["issue", "device", name, "--out", folder];
        let failed = world.try_ca(&arguments, "").await.expect_one_line_failure();
        assert!(failed.contains(words), "{failed}");
    }
    let there = std::fs::read(world.path("other/ca.pem")).expect("there");
    assert_eq!(there, b"another CA");
    assert_eq!(
        world.ca(&["list"]).await.stdout.lines().count(),
        3,
        "head and two certificates"
    );
    world
        .ca(&["issue", "device", "a", "--out", "out", "--force"])
        .await;
}

async fn issue(gateway: &Gateway, name: &str, out: &Path) {
    let out = out.to_str().expect("a path of ours");
    gateway
        .cli(&["ca", "issue", "device", name, "--out", out], "")
        .await
        .expect_success();
}

// C4: what the gateway issues for itself is in the register as well.
#[tokio::test]
async fn the_commands_work_on_a_running_gateway_whose_own_certificate_is_registered() {
    let gateway = Gateway::start().await;
    let out = TempDir::new().expect("a folder");
    issue(&gateway, "lamp", out.path()).await;
    let listed = gateway
        .cli(&["ca", "list"], "")
        .await
        .expect_success()
        .stdout;
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with("Postern") && line.contains("server")),
        "{listed}"
    );
    assert!(
        listed
            .lines()
            .any(|line| line.starts_with("lamp") && line.contains("device")),
        "{listed}"
    );
    let shown = gateway
        .cli(&["ca", "show", "--pem"], "")
        .await
        .expect_success()
        .stdout;
    assert_eq!(shown, std::fs::read_to_string(gateway.ca()).expect("PEM"));
    // The log says who did it, and holds no key.
    let log = gateway.process.log().text();
    assert!(
        log.contains("issue a device certificate for \"lamp\""),
        "{log}"
    );
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[tokio::test]
async fn a_backup_keeps_the_ca_its_register_and_its_list() {
    let gateway = Gateway::start().await;
    let out = TempDir::new().expect("a folder");
    issue(&gateway, "kept", out.path()).await;
    issue(&gateway, "gone", out.path()).await;
    gateway
        .cli(&["ca", "revoke", "gone"], "")
        .await
        .expect_success();
    let list = gateway
        .cli(&["ca", "list"], "")
        .await
        .expect_success()
        .stdout;
    let crl = gateway
        .cli(&["ca", "crl"], "")
        .await
        .expect_success()
        .stdout;
    let file = out.path().join("backup.tar");
    let path = file.to_str().expect("a path of ours");
    gateway.cli(&["backup", path], "").await.expect_success();
    gateway.stop().await;

    let dir = TempDir::with_prefix("postern-test-").expect("a folder");
    let data = dir.path().join("data");
    gateway_tool()
        .arg("restore")
        .arg(&file)
        .arg("--data-dir")
        .arg(&data)
        .run()
        .await
        .expect_success();
    let restored = std::fs::read_to_string(data.join("tls/ca.crl")).expect("PEM");
    assert_eq!(restored, crl);
    let gateway = Setup::new().start_in(dir).await;
    assert_eq!(
        gateway
            .cli(&["ca", "list"], "")
            .await
            .expect_success()
            .stdout,
        list
    );
    assert_eq!(
        gateway
            .cli(&["ca", "crl"], "")
            .await
            .expect_success()
            .stdout,
        crl
    );
}

#[tokio::test]
async fn a_list_that_is_lost_or_broken_is_signed_anew() {
    let gateway = Gateway::start().await;
    let out = TempDir::new().expect("a folder");
    issue(&gateway, "gone", out.path()).await;
    gateway
        .cli(&["ca", "revoke", "gone"], "")
        .await
        .expect_success();
    let dir = gateway.stop().await;
    let path = dir.path().join("data/tls/ca.crl");
    for broken in [None, Some("broken")] {
        match broken {
            None => std::fs::remove_file(&path).expect("it is there"),
            Some(text) => std::fs::write(&path, text).expect("written"),
        }
        let crl = gateway_tool()
            .args(["ca", "crl", "--data-dir"])
            .arg(dir.path().join("data"));
        let crl = crl.run().await.expect_success().stdout;
        std::fs::write(out.path().join("list.pem"), crl).expect("written");
        let arguments = [
            "crl", "-in", "list.pem", "-noout", "-text", "-CAfile", "ca.pem",
        ];
        let text = Tool::new("openssl").args(arguments).current_dir(out.path());
        let text = text.run().await.expect_success();
        assert!(text.stdout.contains("Serial Number"), "{}", text.stdout);
    }
}
