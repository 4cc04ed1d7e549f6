//! Does a backup hold everything, and does a restore give it back? The gateway is backed up while clients use it, and
//! another directory gets what the file holds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gateway::admin::Part;
use postern_tests::client::tls;
use postern_tests::gateway::gateway_tool;
use postern_tests::packet::Version;
use postern_tests::peer::Finished;
use postern_tests::tls::ALL_VERSIONS;
use postern_tests::wait::until;
use postern_tests::{Account, Client, Connect, Gateway, Publish, Setup};
use tempfile::TempDir;

/// What a data directory has beside what a backup holds: made anew by every start, or part of a database that is open.
const PASSING: [&str; 9] = [
    "lock",
    "addresses.json",
    "control.sock",
    "accounts.db-wal",
    "accounts.db-shm",
    "audit.db-shm",
    "audit.db-wal",
    "messages.db-wal",
    "messages.db-shm",
];

/// `postern restore` into the data directory that [`Setup::start_in`] will use.
async fn restore(file: &Path, dir: &TempDir, more: &[&str]) -> Finished {
    gateway_tool()
        .arg("restore")
        .arg(file)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(more)
        .run()
        .await
}

async fn back_up(gateway: &Gateway, file: &Path) -> Finished {
    let file = file.to_str().expect("a path of ours");
    gateway.cli(&["backup", file], "").await.expect_success()
}

/// Publishes at QoS 1 from several clients until it is told to stop; how much was acknowledged is counted.
async fn traffic(gateway: &Gateway, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) {
    let mut client = gateway.v5("traffic").await;
    while !stop.load(Ordering::Relaxed) {
        let code = client.publish(Publish::new("noise/a", "n").qos(1)).await;
        assert!(code < 0x80, "{code:#x}");
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    client.disconnect().await;
}

/// A TLS connection to `gateway` by a client that trusts `ca` and nothing else.
async fn trusting(gateway: &Gateway, ca: &Path, account: &Account) -> Client {
    let stream = tls(gateway.addresses.mqtts, ca, ALL_VERSIONS).await;
    let mut client = Client::over(stream, Version::V5);
    let connect = Connect::v5("trusting").user(&account.name, &account.password);
    client.connect(&connect).await;
    assert_eq!(client.connack.code, 0);
    client
}

// D11
#[tokio::test]
async fn a_gateway_that_is_backed_up_under_traffic_comes_back_in_another_directory() {
    let gateway = Setup::new().start().await;
    let device = gateway.add_user("device", &["devices"]).await;
    gateway.acl("allow publish d/%u/# --role devices").await;
    let keeper = || Connect::v5("keeper").persistent(3600);
    let mut subscriber = gateway.connect(keeper()).await;
    assert_eq!(subscriber.subscribe("q/#", 1).await, 1);
    subscriber.disconnect().await;
    let mut publisher = gateway.v5("publisher").await;
    publisher
        .publish(Publish::new("state/lamp", "on").qos(1).retain())
        .await;
    for number in 0..20 {
        let message = Publish::new("q/a", &number.to_string()).qos(1);
        assert_eq!(publisher.publish(message).await, 0);
    }

    let folder = TempDir::new().expect("a temporary directory");
    let file = folder.path().join("backup.tar");
    let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let during = async {
        until("traffic", || acknowledged.load(Ordering::Relaxed) > 10).await;
        back_up(&gateway, &file).await;
        let so_far = acknowledged.load(Ordering::Relaxed);
        until("traffic after the backup", || {
            acknowledged.load(Ordering::Relaxed) > so_far + 10
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        traffic(&gateway, stop.clone(), acknowledged.clone()),
        during
    );
    publisher
        .publish(Publish::new("state/lamp", "off").qos(1).retain())
        .await;
    publisher.publish(Publish::new("q/a", "after").qos(1)).await;
    let mode = fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let dir = TempDir::with_prefix("postern-test-").expect("a temporary directory");
    restore(&file, &dir, &[]).await.expect_success();
    let restored = Setup::new().start_in(dir).await;

    trusting(&restored, &gateway.ca(), &device).await;
    let mut subscriber = restored.connect(keeper()).await;
    assert!(!subscriber.connack.session_present, "once");
    for number in 0..20 {
        let message = subscriber.receive().await;
        assert_eq!((message.text(), message.dup), (&*number.to_string(), false));
    }
    subscriber.nothing_came().await;
    subscriber.disconnect().await;
    let mut subscriber = restored.connect(keeper()).await;
    assert!(subscriber.connack.session_present, "only once");
    let mut publisher = restored.v5("publisher").await;
    publisher.publish(Publish::new("q/a", "new").qos(1)).await;
    assert_eq!(subscriber.receive().await.text(), "new", "the subscription");
    subscriber.subscribe("state/#", 1).await;
    assert_eq!(subscriber.receive().await.text(), "on");
    let explained = restored
        .cli(&["acl", "explain", "device", "publish", "d/device/x"], "")
        .await
        .expect_success();
    assert!(explained.stdout.contains("allowed"), "{}", explained.stdout);
}

// D11
#[tokio::test]
async fn a_backup_of_a_stopped_gateway_comes_back_in_its_own_directory_by_force() {
    let gateway = Setup::new().start().await;
    gateway.add_user("early", &[]).await;
    let ca = fs::read(gateway.ca()).expect("a CA");
    let dir = gateway.stop().await;
    let data = dir.path().join("data");
    let file = dir.path().join("backup.tar");
    let by = |verb: &str| {
        gateway_tool()
            .arg(verb)
            .arg(&file)
            .arg("--data-dir")
            .arg(&data)
    };
    by("backup").run().await.expect_success();
    // What comes later is not in it.
    let gateway = Setup::new().start_in(dir).await;
    gateway.add_user("late", &[]).await;
    let refused = by("restore").arg("--force").run().await;
    let line = refused.expect_one_line_failure();
    assert!(line.contains("is in use by process"), "{line}");
    let dir = gateway.stop().await;
    let refused = by("restore").run().await;
    let line = refused.expect_one_line_failure();
    assert!(line.contains("add --force"), "{line}");
    restore(&file, &dir, &["--force"]).await.expect_success();
    let gateway = Setup::new().start_in(dir).await;
    let users = gateway.cli(&["user", "list"], "").await.expect_success();
    assert!(
        users.stdout.contains("early") && !users.stdout.contains("late"),
        "{}",
        users.stdout
    );
    assert_eq!(fs::read(gateway.ca()).expect("a CA"), ca);
    let aside = fs::read_dir(&gateway.data)
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name.to_string_lossy().starts_with("before-restore-"))
        .count();
    assert_eq!(aside, 1);
}

#[tokio::test]
async fn every_file_of_a_data_directory_is_backed_up_or_made_anew() {
    let gateway = Setup::new().start().await;
    let keeper = Connect::v5("keeper").persistent(3600);
    gateway.connect(keeper).await.subscribe("q/#", 1).await;
    let kept: BTreeSet<PathBuf> = Part::ALL
        .iter()
        .map(|part| PathBuf::from(&*part.name))
        .collect();
    let passing: BTreeSet<PathBuf> = PASSING.iter().map(Into::into).collect();
    let there = files(&gateway.data, &gateway.data);
    let unknown: Vec<_> = there.difference(&kept).collect();
    let unknown: Vec<_> = unknown
        .into_iter()
        .filter(|f| !passing.contains(*f))
        .collect();
    assert!(
        unknown.is_empty(),
        "neither in a backup nor made anew by a start: {unknown:?}"
    );
    let missing: Vec<_> = kept.difference(&there).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}");
}

fn files(root: &Path, folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(root, &path)),
            false => {
                let inside = path.strip_prefix(root).expect("it is inside");
                found.insert(inside.to_owned());
            }
        }
    }
    found
}
