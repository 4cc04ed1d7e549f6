//! The first certificate, by each way to prove a name.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use postern_tests::Setup;
use postern_tests::gateway::Process;
use postern_tests::peer::Tool;
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::{until_some, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::{HTTP_PORT, Options, TLS_PORT};
use crate::world::{NAME, World, config, hook, text};

#[tokio::test]
async fn a_domain_is_all_it_takes() {
    let pebble = Options::default().start().await;
    let world = World::issued(pebble, &format!("domains = \"{NAME}\"")).await;
    world.trusted(NAME).await.expect_success();
    assert!(
        world
            .gateway
            .process
            .log()
            .text()
            .contains("the private CA's certificate is served until"),
        "it says what is served meanwhile"
    );
    // Who asks for no name we have gets it too.
    let root = world.pebble.issuing_root().await;
    let other = Tool::new("openssl")
        .args([
            "s_client",
            "-connect",
            &world.gateway.addresses.mqtts.to_string(),
        ])
        .args([
            "-verify_return_error",
            "-servername",
            "unknown.example",
            "-CAfile",
        ])
        .arg(root)
        .run()
        .await;
    other.expect_success();
    // The private CA still answers to its own names.
    drop(
        world
            .gateway
            .connect_tls(postern_tests::Connect::v5("lan"))
            .await,
    );
    assert_eq!(world.health().await, "healthy\n");
    let status = world.status("acme").await.expect("listed");
    assert!(
        status["renewal"].as_i64().is_some_and(|at| at > 0),
        "{status}"
    );
    assert_private(&world.gateway.data.join("acme"));
    assert_private(&world.gateway.data.join("certificates"));
}

/// No file in there is for others.
fn assert_private(directory: &Path) {
    let mut files = 0;
    for entry in std::fs::read_dir(directory).expect("it is there") {
        let entry = entry.expect("readable");
        if entry.path().is_dir() {
            assert_private(&entry.path());
            continue;
        }
        let mode = entry.metadata().expect("readable").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
        files += 1;
    }
    assert!(
        files > 0 || directory.ends_with("certificates"),
        "nothing in {}",
        directory.display()
    );
}

// C2, N1
#[tokio::test]
async fn tls_alpn_01_is_answered_by_a_listener_that_serves_clients_too() {
    let pebble = Options::default().start().await;
    let acme = format!(
        "domains = \"{NAME}\"\nchallenge = \"tls-alpn-01\"\n[sys]\ninterval = \"1s\"\n\
         [limits]\nconnection_rate = 1\nconnection_burst = 10\n"
    );
    let world = World::issued(pebble, &acme).await;
    world.trusted(NAME).await.expect_success();
    let http = (world.pebble.ip, HTTP_PORT);
    assert!(
        TcpStream::connect(http).await.is_err(),
        "port 80 is not needed, and closed"
    );
    // Afterwards the CA's protocol finds nothing, and ordinary clients are served on that port.
    let at = std::net::SocketAddr::new(world.pebble.ip, TLS_PORT);
    for _ in 0..30 {
        assert!(!offers(&world, at, b"acme-tls/1").await);
    }
    // Nor did it count against a limit.
    assert!(offers(&world, at, b"mqtt").await);
    // None of that was a failure of a client.
    let mut client = world.gateway.v5("looks").await;
    client
        .subscribe("$SYS/postern/acme_challenges_answered", 0)
        .await;
    within("the CA's visits to be counted", async {
        while client.receive().await.text() == "0" {}
    })
    .await;
    client.subscribe("$SYS/postern/handshakes_failed", 0).await;
    assert_eq!(client.receive().await.text(), "0");
}

async fn offers(world: &World, at: std::net::SocketAddr, protocol: &[u8]) -> bool {
    let root = world.pebble.issuing_root().await;
    let mut config = (*client_config(&root, ALL_VERSIONS)).clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(at).await.expect("it listens");
    let name = NAME.try_into().expect("a name");
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    within("an answer", connector.connect(name, stream))
        .await
        .is_ok()
}

#[tokio::test]
async fn http_01_passes_nginx_on_port_80_with_the_documented_line() {
    const PAGE: &str = include_str!("../../../docs/certificates.md");
    let (_, line) = PAGE.split_once("```nginx\n").expect("lines for nginx");
    let (line, _) = line.split_once("```").expect("their end");
    let pebble = Options::default().start().await;
    let (public, ours) = (
        format!("{}:{HTTP_PORT}", pebble.ip),
        format!("{}:8089", pebble.ip),
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("nginx.conf");
    let server = format!(
        "pid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{ access_log off; server {{ listen {public};\n{}}} }}\n",
        line.replace("127.0.0.1:8089", &ours)
    );
    assert!(server.contains(&ours), "{server}");
    std::fs::write(&file, server).expect("written");
    let prefix = format!("{}/", directory.path().display());
    let nginx = Process::start(
        Tool::new("/usr/sbin/nginx")
            .args(["-p", &prefix, "-g", "daemon off;", "-c"])
            .arg(&file),
    );
    until_some("nginx to listen", async || {
        assert_eq!(nginx.status(), None, "{}", nginx.log().text());
        TcpStream::connect(&public).await.ok()
    })
    .await;
    let acme = format!("domains = \"{NAME}\"\nchallenge = \"http-01\"");
    let settings = config(&pebble, &acme).replace(&public, &ours);
    let gateway = Setup::new().toml(&settings).start().await;
    let world = World { pebble, gateway };
    world.certificate("acme").await;
    world.trusted(NAME).await.expect_success();
    nginx.signal(libc::SIGTERM);
    within("nginx to leave", nginx.wait()).await;
}

#[tokio::test]
async fn dns_01_by_a_hook_proves_a_wildcard_and_its_domain() {
    let pebble = Options::default().start().await;
    let (directory, hook) = hook(&pebble, false);
    let acme = format!(
        "domains = [\"*.example.org\", \"example.org\"]\nchallenge = \"dns-01\"\ndns_hook = {hook:?}"
    );
    let world = World::issued(pebble, &acme).await;
    world.trusted("device.example.org").await.expect_success();
    world.trusted("example.org").await.expect_success();
    let calls = std::fs::read_to_string(directory.path().join("calls")).expect("it was called");
    let count = |word: &str| calls.lines().filter(|line| line.starts_with(word)).count();
    let wanted = "present example.org _acme-challenge.example.org";
    assert_eq!((count(wanted), count("cleanup")), (2, 2), "{calls}");
    // Values of challenges are in no log.
    let log = world.gateway.process.log().text();
    for value in calls.lines().filter_map(|line| line.split(' ').nth(3)) {
        assert!(!log.contains(value), "{value} is in the log");
    }
}

#[tokio::test]
async fn an_ip_address_is_proven_by_http_01_and_by_tls_alpn_01() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let pebble = Options::default().start().await;
        let ip = pebble.ip;
        let acme = format!("domains = \"{ip}\"\nchallenge = \"{challenge}\"");
        let world = World::issued(pebble, &acme).await;
        let shown = world.show("acme").await;
        assert_eq!(
            shown["certificate"]["names"],
            serde_json::json!([ip.to_string()])
        );
        // C2: a client that came to this address and named nothing gets it.
        let root = world.pebble.issuing_root().await;
        let finished = Tool::new("openssl")
            .args([
                "s_client",
                "-connect",
                &format!("{ip}:{TLS_PORT}"),
                "-noservername",
            ])
            .args([
                "-verify_return_error",
                "-verify_ip",
                &ip.to_string(),
                "-CAfile",
            ])
            .arg(root)
            .run()
            .await;
        finished.expect_success();
    }
}

#[tokio::test]
async fn several_certificates_are_ordered_and_chosen_by_name() {
    let pebble = Options::default().start().await;
    let acme = format!(
        "domains = \"{NAME}\"\n[certificates.other]\ndomains = [\"a.example.net\", \"b.example.net\"]\n\
         key_type = \"rsa-2048\"\nchallenge = \"tls-alpn-01\"\n"
    );
    let world = World::issued(pebble, &acme).await;
    let other = world.certificate("other").await;
    assert_eq!(text(&other["certificate"]["key"]), "RSA 2048");
    for name in [NAME, "a.example.net", "b.example.net"] {
        world.trusted(name).await.expect_success();
    }
}

#[tokio::test]
async fn a_ca_that_asks_for_an_external_account_gets_it() {
    let pebble = Options::default()
        .config("externalAccountBindingRequired", true)
        .config("externalAccountMACKeys", serde_json::json!({"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}))
        .start()
        .await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mac");
    std::fs::write(
        &file,
        "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n",
    )
    .expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");
    let acme = format!(
        "domains = \"{NAME}\"\nexternal_account_key_id = \"kid-1\"\nexternal_account_key_file = {file:?}"
    );
    let world = World::issued(pebble, &acme).await;
    world.trusted(NAME).await.expect_success();
}

#[tokio::test]
async fn the_port_for_http_01_knows_challenges_and_nothing_else() {
    let pebble = Options::default().start().await;
    let world = World::issued(
        pebble,
        &format!("domains = \"{NAME}\"\nmax_http_connections = 8"),
    )
    .await;
    let at = std::net::SocketAddr::new(world.pebble.ip, HTTP_PORT);
    let ask = async |request: String| {
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let _ = within("an answer", stream.read_to_string(&mut answer)).await;
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    assert!(ask(get("/")).await.contains("404"));
    assert!(
        ask(get("/.well-known/acme-challenge/guessed"))
            .await
            .contains("404")
    );
    assert!(
        ask(get("/.well-known/acme-challenge/../../etc"))
            .await
            .contains("404")
    );
    assert!(
        ask(format!("POST / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"))
            .await
            .contains("405")
    );
    let long = "x".repeat(20_000);
    assert!(!ask(get(&long)).await.contains("200"));
    // One address has an eighth of the places, and four at least: the fifth connection is closed unread.
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(TcpStream::connect(at).await.expect("it listens"));
    }
    let mut fifth = TcpStream::connect(at).await.expect("it listens");
    let mut nothing = Vec::new();
    let end = within("the fifth to be closed", fifth.read_to_end(&mut nothing)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{nothing:?}");
}
