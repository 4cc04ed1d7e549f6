//! What if a database is damaged when the gateway starts? A damaged message store is set aside and salvaged, and the
//! gateway starts; damaged accounts, and any schema of a newer version, stop the start (D11).

use std::fs;
use std::path::{Path, PathBuf};

use postern_tests::gateway::gateway_tool;
use postern_tests::peer::{Finished, Tool};
use postern_tests::{Connect, Gateway, Publish, Setup};
use tempfile::TempDir;

const SESSIONS: usize = 30;
const QUEUED: usize = 40;
const RETAINED: usize = 50;

/// What happens to a file.
type Damage = (&'static str, fn(&mut Vec<u8>));

/// The page size of both databases.
const PAGE: usize = 4096;

const DAMAGES: [Damage; 6] = [
    ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
    ("cut in the middle of a page", |bytes| {
        bytes.truncate(bytes.len() / PAGE / 2 * PAGE + 100);
    }),
    ("empty", Vec::clear),
    ("garbage", |bytes| {
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = (n * 7919 % 251) as u8;
        }
    }),
    ("without a head", |bytes| bytes[..PAGE].fill(0)),
    ("overwritten in every fourth page", |bytes| {
        for page in bytes.chunks_mut(PAGE).skip(3).step_by(4) {
            page.fill(0xA5);
        }
    }),
];

/// A data directory with sessions, queued and retained messages, and a user, of a gateway that has stopped.
async fn lived_in() -> TempDir {
    let gateway = Gateway::start().await;
    for n in 0..SESSIONS {
        let id = format!("session-{n}");
        let mut client = gateway.connect(Connect::v5(&id).persistent(3600)).await;
        client.subscribe("q/t", 1).await;
        client.disconnect().await;
    }
    let mut client = gateway.v5("publisher").await;
    for n in 0..QUEUED {
        let text = format!("{n} {}", "q".repeat(200));
        assert!(client.publish(Publish::new("q/t", &text).qos(1)).await < 0x80);
    }
    for n in 0..RETAINED {
        let message = Publish::new(&format!("r/{n}"), &"r".repeat(300))
            .qos(1)
            .retain();
        assert!(client.publish(message).await < 0x80);
    }
    gateway.add_user("somebody", &["role"]).await;
    drop(client);
    let mut home = gateway.stop().await;
    // A busy machine may end it before everything is moved out of the WAL, which would then repair what is damaged here.
    while is_there(&home.path().join("data/messages.db-wal")) {
        home = Setup::new().start_in(home).await.stop().await;
    }
    home
}

fn is_there(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > 0)
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::with_prefix("postern-damage-").expect("a temporary folder");
    copy_folder(&from.join("data"), &to.path().join("data"));
    to
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a folder can be read");
        let kind = entry.file_type().expect("a file has a type");
        if kind.is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
        }
    }
}

/// Damages the file, and returns what it then holds.
fn damage(file: &Path, damage: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = fs::read(file).expect("the database");
    assert!(
        bytes.len() > 8 * PAGE,
        "{} is too small to be damaged",
        file.display()
    );
    let before = bytes.clone();
    damage(&mut bytes);
    assert!(before != bytes, "nothing was damaged");
    fs::write(file, &bytes).expect("the database can be written");
    bytes
}

fn set_aside(data: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("messages.db.damaged-")
            && !name.ends_with("-wal")
            && !name.ends_with("-shm")
    };
    let entries = fs::read_dir(data).expect("the data directory");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.filter(named).collect()
}

/// Works as a new one would, and keeps what it is given now.
async fn works(gateway: Gateway, name: &str) -> TempDir {
    let mut client = gateway.connect(Connect::v5("after").persistent(3600)).await;
    client.subscribe("after", 1).await;
    client.disconnect().await;
    let mut publisher = gateway.v5("publisher").await;
    let code = publisher
        .publish(Publish::new("after", "kept").qos(1))
        .await;
    assert!(code < 0x80, "{name}: {code:#04x}");
    let dir = gateway.kill().await;
    let gateway = Setup::new().start_in(dir).await;
    let mut client = gateway.connect(Connect::v5("after").persistent(3600)).await;
    assert!(client.connack.session_present, "{name}");
    assert_eq!(client.receive().await.text(), "kept", "{name}");
    client.disconnect().await;
    gateway.stop().await
}

// D11
#[tokio::test]
async fn a_damaged_message_store_is_set_aside_and_the_gateway_starts() {
    let home = lived_in().await;
    for (name, how) in DAMAGES {
        let dir = copy(home.path());
        let data = dir.path().join("data");
        let damaged = damage(&data.join("messages.db"), how);
        let gateway = Setup::new().start_in(dir).await;
        gateway.expect_error("the message store was damaged");
        let aside = set_aside(&data);
        assert_eq!(aside.len(), 1, "{name}: {aside:?}");
        assert!(
            fs::read(&aside[0]).expect("it is there") == damaged,
            "{name}: it was changed"
        );
        let log = gateway.process.log().lines();
        // One line, whatever SQLite says of the damage: it begins with the time and names everything.
        let says: Vec<&String> = log
            .iter()
            .filter(|line| line.contains("the message store was damaged"))
            .collect();
        let [says] = says[..] else {
            panic!("{name}: the log says it in {} lines:\n{log:#?}", says.len());
        };
        assert!(says.contains(" ERROR "), "{name}: {says}");
        let file = aside[0].file_name().expect("a name").to_string_lossy();
        let parts = [
            "detail=",
            "set_aside_as=",
            "sessions=",
            "subscriptions=",
            "retained=",
            "messages=",
            "dropped=",
            "incomplete=",
        ];
        for part in parts.into_iter().chain([&*file]) {
            assert!(
                says.contains(part),
                "{name}: the log does not say {part}:\n{says}"
            );
        }
        let dir = works(gateway, name).await;
        assert_eq!(
            set_aside(&dir.path().join("data")),
            aside,
            "{name}: set aside once"
        );
    }
}

// D11: what can be read is there again, whole.
#[tokio::test]
async fn what_is_readable_of_a_damaged_message_store_is_salvaged() {
    let home = lived_in().await;
    let data = home.path().join("data");
    damage(&data.join("messages.db"), |bytes| {
        // The last page: a leaf of one table.
        let last = bytes.len() - PAGE;
        bytes[last..].fill(0xA5);
    });
    let gateway = Setup::new().start_in(home).await;
    gateway.expect_error("the message store was damaged");
    let mut sessions = 0;
    for n in 0..SESSIONS {
        let id = format!("session-{n}");
        let client = gateway.connect(Connect::v5(&id).persistent(3600)).await;
        sessions += usize::from(client.connack.session_present);
        client.disconnect().await;
    }
    let mut client = gateway.v5("looks").await;
    client.subscribe("r/+", 0).await;
    client.subscribe("end", 0).await;
    client.publish(Publish::new("end", "").qos(1)).await;
    let retained = client.receive_until("end").await;
    println!(
        "salvaged: {sessions} sessions, {} retained messages",
        retained.len()
    );
    assert!(sessions + retained.len() >= (SESSIONS + RETAINED) / 2);
    assert!(
        retained
            .iter()
            .all(|publish| publish.text() == "r".repeat(300))
    );
    gateway.stop().await;
}

async fn refused_start(dir: &Path) -> Finished {
    let config = dir.join("postern.toml");
    let text = format!(
        "data_dir = {:?}\n[listeners.mqtt]\nbind = [\"127.0.0.1:0\"]\n[listeners.mqtts]\nenabled = false\n[listeners.wss]\nenabled = false\n",
        dir.join("data")
    );
    fs::write(&config, text).expect("the configuration can be written");
    let finished = gateway_tool().arg("--config").arg(&config).run().await;
    assert!(!finished.status.success(), "it started");
    finished
}

// D11: it fails closed.
#[tokio::test]
async fn damaged_accounts_stop_the_start_with_the_remedy_and_stay_as_they_are() {
    let home = lived_in().await;
    for (name, how) in DAMAGES {
        let dir = copy(home.path());
        let accounts = dir.path().join("data/accounts.db");
        let damaged = damage(&accounts, how);
        let finished = refused_start(dir.path()).await;
        assert_eq!(finished.status.code(), Some(1), "{name}");
        for part in ["accounts.db", "damaged", "restore it from a backup"] {
            assert!(
                finished.stderr.contains(part),
                "{name}: {}",
                finished.stderr
            );
        }
        assert!(
            fs::read(&accounts).expect("it is there") == damaged,
            "{name}: it was changed"
        );
    }
}

/// As if a later version had added a migration.
async fn age(database: &Path) {
    let script = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.execute(\"INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                    VALUES (99991231235959, 'later', 1, x'00', 1)\")\n\
        db.commit()\n\
        db.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n";
    Tool::new("python3")
        .args(["-c", script])
        .arg(database)
        .run()
        .await
        .expect_success();
}

// D11, and the migrations' promise.
#[tokio::test]
async fn a_database_of_a_newer_version_stops_the_start() {
    let home = lived_in().await;
    for file in ["messages.db", "accounts.db"] {
        let dir = copy(home.path());
        let data = dir.path().join("data");
        age(&data.join(file)).await;
        let finished = refused_start(dir.path()).await;
        for part in [file, "newer version", "99991231235959"] {
            assert!(
                finished.stderr.contains(part),
                "{file}: {}",
                finished.stderr
            );
        }
        assert!(set_aside(&data).is_empty(), "it was set aside");
    }
}
