//! Files that change while the gateway runs.

use std::os::unix::fs::PermissionsExt;

use postern_tests::gateway::gateway_tool;
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::{until, until_some, within};
use postern_tests::{Client, Connect, Gateway, Setup};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::authority::{Authority, EXPIRED, Pair, files};
use crate::{s_client, served};

/// A gateway with one certificate of files, looked at every second.
struct World {
    dir: TempDir,
    ca: Authority,
    gateway: Gateway,
}

const NAME: &str = "mqtt.example.org";

impl World {
    async fn start(first: impl Fn(&Authority) -> Pair) -> (Self, Pair) {
        let dir = TempDir::new().expect("a directory");
        let ca = Authority::new();
        let pair = first(&ca);
        let section = pair.write(dir.path(), "own");
        let gateway = Setup::new()
            .toml("[tls]\nwatch_interval = \"1s\"\n")
            .toml(&format!("[certificates.own]\n{section}"))
            .start()
            .await;
        (Self { dir, ca, gateway }, pair)
    }

    async fn serves(&self, pair: &Pair) {
        until_some("the new certificate", async || {
            (served(&self.gateway, NAME).await == pair.leaf()).then_some(())
        })
        .await;
    }

    async fn health(&self) -> String {
        self.gateway.cli(&["health"], "").await.stdout
    }

    fn lines(&self, part: &str) -> usize {
        let lines = self.gateway.process.log().lines();
        lines.iter().filter(|line| line.contains(part)).count()
    }
}

#[tokio::test]
async fn a_new_pair_is_served_to_new_connections_and_open_ones_stay() {
    let (world, first) = World::start(|ca| ca.ecdsa(&[NAME])).await;
    assert_eq!(served(&world.gateway, NAME).await, first.leaf());
    let roots = world.dir.path().join("ca.pem");
    std::fs::write(&roots, &world.ca.certificate).expect("written");
    let connector = TlsConnector::from(client_config(&roots, ALL_VERSIONS));
    let stream = tokio::net::TcpStream::connect(world.gateway.addresses.mqtts);
    let stream = within("TCP", stream).await.expect("connected");
    let name = NAME.try_into().expect("a DNS name");
    let stream = within("TLS", connector.connect(name, stream)).await;
    let mut client = Client::over(stream.expect("trusted"), postern_tests::packet::Version::V5);
    client
        .connect(&world.gateway.login(&Connect::v5("stays")))
        .await;
    assert_eq!(client.connack.code, 0);

    // As certbot does it: files of a new version, and links that are replaced.
    let second = world.ca.rsa(&[NAME]);
    let archive = world.dir.path().join("archive");
    std::fs::create_dir(&archive).expect("made");
    second.write(&archive, "own");
    let links = files(world.dir.path(), "own");
    for (link, file) in [
        (&links.0, files(&archive, "own").0),
        (&links.1, files(&archive, "own").1),
    ] {
        let fresh = world.dir.path().join("fresh");
        std::os::unix::fs::symlink(file, &fresh).expect("linked");
        std::fs::rename(&fresh, link).expect("renamed");
    }
    world.serves(&second).await;
    assert_eq!(world.lines("new handshakes get a new certificate"), 1);
    client.send(&[0xC0, 0]).await;
    assert_eq!(client.frame().await, Some((0xD0, Vec::new())), "PINGRESP");
}

#[tokio::test]
async fn sighup_reads_the_files_at_once() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let section = ca.ecdsa(&[NAME]).write(dir.path(), "own");
    let tables = |interval: &str| {
        format!("[tls]\nwatch_interval = \"{interval}\"\n[certificates.own]\n{section}")
    };
    let gateway = Setup::new().toml(&tables("0s")).start().await;
    let second = ca.ecdsa(&[NAME]);
    second.write(dir.path(), "own");
    gateway.reload("the configuration was reloaded").await;
    assert_eq!(served(&gateway, NAME).await, second.leaf());

    // A section that is added, and one that goes.
    let third = ca.ecdsa(&["third.example.org"]);
    let more = third.write(dir.path(), "third");
    gateway.write_config(&format!("[certificates.third]\n{more}"));
    gateway.reload("the configuration was reloaded").await;
    assert_eq!(served(&gateway, "third.example.org").await, third.leaf());
    assert_ne!(served(&gateway, NAME).await, second.leaf());
    gateway.write_config(&tables("0s"));
    gateway.reload("the configuration was reloaded").await;
    assert_eq!(served(&gateway, NAME).await, second.leaf());

    gateway.expect_error("the configuration was not reloaded");
    ca.valid(&[NAME], EXPIRED).write(dir.path(), "own");
    gateway.reload("expired").await;
    assert_eq!(served(&gateway, NAME).await, second.leaf());
}

#[tokio::test]
async fn what_cannot_be_served_is_told_once_and_the_old_certificate_stays() {
    let (world, first) = World::start(|ca| ca.ecdsa(&[NAME])).await;
    world.gateway.expect_error("cannot be served");
    assert_eq!(world.health().await, "healthy\n");
    let other = world.ca.ecdsa(&[NAME]);
    let mismatch = Pair {
        chain: world.ca.ecdsa(&[NAME]).chain,
        key: other.key.clone(),
    };
    let expired = world.ca.valid(&[NAME], EXPIRED);
    for (count, (bad, problem)) in [(&mismatch, "does not belong"), (&expired, "expired")]
        .into_iter()
        .enumerate()
    {
        bad.write(world.dir.path(), "own");
        until_some("the problem", async || {
            world.health().await.contains(problem).then_some(())
        })
        .await;
        assert_eq!(world.lines("cannot be served; the one"), count + 1);
        assert_eq!(served(&world.gateway, NAME).await, first.leaf());
        let status = world
            .gateway
            .cli(&["cert", "status"], "")
            .await
            .expect_success();
        assert!(status.stdout.contains(problem), "{status}");
    }
    let secret = other.key.lines().nth(1).expect("a line of the key");
    assert!(!world.gateway.process.log().text().contains(secret));

    other.write(world.dir.path(), "own");
    world.serves(&other).await;
    assert_eq!(world.health().await, "healthy\n");
}

#[tokio::test]
async fn a_pair_that_is_half_written_is_no_problem_once_it_is_whole() {
    let (world, first) = World::start(|ca| ca.ecdsa(&[NAME])).await;
    let second = world.ca.rsa(&[NAME, "more.example.org"]);
    let (certificate, key) = files(world.dir.path(), "own");
    std::fs::write(certificate, &second.chain).expect("written");
    assert_eq!(served(&world.gateway, NAME).await, first.leaf());
    std::fs::write(key, &second.key).expect("written");
    world.serves(&second).await;
    world.gateway.check_log();
}

#[tokio::test]
async fn a_certificate_for_fewer_names_is_served_with_a_warning() {
    let (world, _) = World::start(|ca| ca.ecdsa(&[NAME, "second.example.org"])).await;
    let fewer = world.ca.ecdsa(&[NAME]);
    fewer.write(world.dir.path(), "own");
    world.serves(&fewer).await;
    until("the warning", || world.lines("second.example.org") == 1).await;
}

#[tokio::test]
async fn a_start_with_files_that_do_not_fit_is_refused_in_one_line() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let (one, other) = (ca.ecdsa(&[NAME]), ca.ecdsa(&[NAME]));
    let leaf = one.chain.replace(&ca.certificate, "");
    let foreign = Authority::new().certificate;
    for (chain, key, problem) in [
        (
            one.chain.clone(),
            &other.key,
            "does not belong to the certificate",
        ),
        (format!("{leaf}{foreign}"), &one.key, "is not a chain"),
        (
            format!("{}{leaf}", ca.certificate),
            &one.key,
            "is not a chain",
        ),
        (String::new(), &one.key, "there is no certificate in it"),
    ] {
        let pair = Pair {
            chain,
            key: key.clone(),
        };
        let section = pair.write(dir.path(), "own");
        let config = dir.path().join("postern.toml");
        let text = format!(
            "data_dir = {:?}\n[listeners.mqtts]\nbind = [\"127.0.0.1:0\"]\n[listeners.wss]\nbind = []\n\
             [listeners.mqtt]\nbind = []\n[certificates.own]\n{section}",
            dir.path().join("data")
        );
        std::fs::write(&config, text).expect("written");
        let finished = gateway_tool().arg("--config").arg(&config).run().await;
        let line = finished.expect_one_line_failure();
        assert!(line.contains(problem) && line.contains("own.pem"), "{line}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_served_at_start_and_said_to_be_a_problem() {
    let dir = TempDir::new().expect("a directory");
    let pair = Authority::new().valid(&[NAME], EXPIRED);
    let section = pair.write(dir.path(), "own");
    let (_, key) = files(dir.path(), "own");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let gateway = Setup::new()
        .toml(&format!("[certificates.own]\n{section}"))
        .start()
        .await;
    gateway.expect_error("expired");
    let log = gateway.process.log().text();
    assert!(
        log.contains("everybody on this machine could read the private key"),
        "{log}"
    );
    let mode = std::fs::metadata(&key).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "it is hidden from everybody");
    let finished = s_client(gateway.addresses.mqtts, &["-servername", NAME]).await;
    assert!(
        finished.stdout.contains("certificate has expired"),
        "{finished}"
    );
    let health = gateway.cli(&["health"], "").await;
    assert!(
        !health.status.success() && health.stdout.contains("expired"),
        "{health}"
    );
}
