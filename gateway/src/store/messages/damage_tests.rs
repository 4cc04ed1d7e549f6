//! Damaged files (D11): whatever is done to `messages.db`, the store opens, and gives nothing that was never written.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::tests::{progress_row, receiver, session_row};
use super::*;

const SESSIONS: u64 = 20;
const MESSAGES: u64 = 30;

/// A directory whose `messages.db` has rows in every table, and its bytes.
async fn filled() -> (TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut messages, _) = Messages::open(dir.path(), Durability::ProcessCrash)
        .await
        .unwrap();
    fill(&mut messages).await;
    messages.close().await;
    let bytes = fs::read(file(&dir)).unwrap();
    (dir, bytes)
}

async fn fill(messages: &mut Messages) {
    let mut rows = Rows::default();
    for key in 1..=SESSIONS {
        rows.session(key, session_row(&format!("client-{key}")));
        rows.progress(key, progress_row(MESSAGES + 1, 1));
        rows.subscription(key, "a/+".into(), Some(vec![1]));
        rows.received(key, 5, Some(0));
        let message = RetainedRow {
            expires: None,
            message: vec![key as u8; 100].into(),
        };
        rows.retained(&format!("topic/{key}"), Some(message));
    }
    messages.write(&rows, 1000).await.unwrap();
    for serial in 1..=MESSAGES {
        let mut rows = Rows::default();
        let receivers: Vec<_> = (1..=SESSIONS).map(|key| receiver(key, serial)).collect();
        rows.queued(&body(serial), Some(5000), &receivers);
        messages.write(&rows, 1000).await.unwrap();
    }
}

/// Every other one is shared.
fn body(serial: u64) -> Vec<u8> {
    vec![serial as u8; if serial.is_multiple_of(2) { 1000 } else { 50 }]
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join(Messages::FILE)
}

fn asides(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().contains(".damaged-"))
        .collect()
}

/// Opens, reads everything there is, writes, and opens again; returns how many messages there were.
async fn survives(dir: &Path, what: &str) -> (u64, Option<SetAside>) {
    let (mut messages, aside) = Messages::open(dir, Durability::ProcessCrash)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut there = 0;
    let loaded = messages.load().await.unwrap();
    for (_, retained) in &loaded.retained {
        assert!(retained.message.len() == 100, "{what}");
    }
    for session in &loaded.sessions {
        let mut at = Some(0);
        while let Some(from) = at {
            // Damage that only reading a message shows sets the file aside, too.
            let page = match messages.page(session.key, from, u64::MAX, 20_000).await {
                Err(error) if error.is_damage() => {
                    messages.page(session.key, from, u64::MAX, 20_000).await
                }
                page => page,
            };
            let page = page.unwrap_or_else(|error| panic!("{what}: {error}"));
            for entry in &page.entries {
                assert_eq!(entry.body, body(entry.serial), "{what}");
            }
            there += page.entries.len() as u64;
            at = page.next;
        }
    }
    // Damage in an index shows when rows are removed: the rows are written again after it.
    let mut rows = Rows::default();
    rows.session(loaded.next_session, session_row("later"));
    for session in &loaded.sessions {
        rows.done(session.key, 1, u64::MAX);
        rows.ended(session.key + 1_000_000);
    }
    for (topic, _) in &loaded.retained {
        rows.retained(topic, None);
    }
    if let Err(error) = messages.write(&rows, 2000).await {
        assert!(error.is_damage(), "{what}: {error}");
        messages.write(&rows, 2000).await.unwrap();
    }
    for _ in 0..3 {
        if let Err(error) = messages.sweep(9000, &|_, _| false).await {
            assert!(error.is_damage(), "{what}: {error}");
        }
    }
    messages.close().await;
    let (messages, aside_again) = Messages::open(dir, Durability::ProcessCrash)
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    messages.close().await;
    (there, aside.or(aside_again))
}

// D11
#[tokio::test]
async fn garbage_and_an_empty_file_are_set_aside_as_they_were() {
    for bytes in [Vec::new(), b"no database".repeat(1000), vec![0; 8192]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(&dir), &bytes).unwrap();
        let (mut messages, aside) = Messages::open(dir.path(), Durability::PowerLoss)
            .await
            .unwrap();
        let aside = aside.unwrap();
        assert_eq!(asides(dir.path()), std::slice::from_ref(&aside.path));
        assert_eq!(fs::read(&aside.path).unwrap(), bytes);
        assert!(messages.load().await.unwrap().sessions.is_empty());
    }
}

// D11
#[tokio::test]
async fn what_a_damaged_page_does_not_hide_is_salvaged() {
    let (dir, mut bytes) = filled().await;
    // A page of messages, somewhere in the middle of their table.
    let leaf = |page: &&[u8]| page[0] == 0x0d && page.windows(7).any(|text| text == b"head 9 ");
    let leaves = bytes
        .chunks(4096)
        .enumerate()
        .filter(|(_, page)| leaf(page));
    let leaves: Vec<usize> = leaves.map(|(number, _)| number).collect();
    bytes[leaves[leaves.len() / 2] * 4096..][..4096].fill(0x5a);
    fs::write(file(&dir), &bytes).unwrap();
    let opened = Messages::open(dir.path(), Durability::PowerLoss).await;
    let (mut messages, aside) = opened.unwrap();
    let aside = aside.unwrap();
    assert!(aside.incomplete);
    assert_eq!((aside.sessions, aside.subscriptions), (SESSIONS, SESSIONS));
    assert_eq!(aside.retained, SESSIONS);
    assert!(aside.messages > SESSIONS * MESSAGES / 2, "{aside:?}");
    assert!(fs::read(&aside.path).unwrap() == bytes, "it was changed");
    let name = aside.path.file_name().unwrap().to_str().unwrap();
    let date = name.strip_prefix("messages.db.damaged-").unwrap();
    assert!(date.len() == 15 && date.as_bytes()[8] == b'-', "{name}");
    let loaded = messages.load().await.unwrap();
    assert_eq!(loaded.sessions.len() as u64, SESSIONS);
    assert_eq!(
        (loaded.last_commit, loaded.next_session),
        (1000, SESSIONS + 1)
    );
    for session in &loaded.sessions {
        assert_eq!(session.received, [(5, 0)]);
        assert_eq!(session.progress, progress_row(MESSAGES + 1, 1));
    }
    messages.close().await;
    let (there, again) = survives(dir.path(), "salvaged").await;
    assert!(there > SESSIONS * MESSAGES / 3, "{there}");
    assert!(again.is_none());
}

// D11
#[tokio::test]
async fn a_session_without_readable_progress_gets_one_that_repeats_nothing_under_a_wrong_name() {
    let dir = tempfile::tempdir().unwrap();
    let (mut messages, _) = Messages::open(dir.path(), Durability::PowerLoss)
        .await
        .unwrap();
    fill(&mut messages).await;
    let connection = messages.connection.as_mut().unwrap();
    let forget = "DELETE FROM progress WHERE session = 3";
    sqlx::raw_sql(forget).execute(connection).await.unwrap();
    messages.close().await;
    let (mut messages, _) = Messages::open(dir.path(), Durability::PowerLoss)
        .await
        .unwrap();
    let loaded = messages.load().await.unwrap();
    let progress = &loaded.sessions[2].progress;
    // Everything that waits may have been sent.
    assert_eq!((progress.next, progress.sent), (MESSAGES + 1, MESSAGES));
    assert!(progress.state.is_empty());
}

// D11
#[tokio::test]
async fn a_file_cut_off_anywhere_opens() {
    let (dir, bytes) = filled().await;
    let pages = bytes.len() / 4096;
    for step in 0..40 {
        let dir = TempDir::new_in(dir.path()).unwrap();
        let length = match step % 2 {
            0 => pages * step / 40 * 4096,
            _ => bytes.len() * step / 40 + step,
        };
        fs::write(file(&dir), &bytes[..length]).unwrap();
        let (there, aside) = survives(dir.path(), &format!("cut off at {length}")).await;
        assert!(there <= SESSIONS * MESSAGES);
        assert!(aside.is_some(), "cut off at {length}");
    }
}

// D11
#[tokio::test]
async fn a_file_with_a_flipped_bit_anywhere_opens_and_shows_no_other_message() {
    let (dir, bytes) = filled().await;
    let mut most = 0;
    // A stride that meets every offset in a page and every bit of a byte, and each byte of the header.
    let header = (0..100).map(|at| at * 8 + at % 8);
    let everywhere = (0..100).map(|n| (n * 104_729 * 8 + n) % (bytes.len() * 8));
    let schema = (0..40).map(|n| (100 + n * 97) * 8 + n % 8);
    for bit in header.chain(everywhere).chain(schema) {
        let dir = TempDir::new_in(dir.path()).unwrap();
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(file(&dir), &flipped).unwrap();
        let (there, _) = survives(dir.path(), &format!("bit {bit}")).await;
        assert!(there <= SESSIONS * MESSAGES);
        most = most.max(there);
    }
    assert_eq!(most, SESSIONS * MESSAGES);
}

// D11
#[tokio::test]
async fn a_damaged_log_is_no_damage_and_ends_where_it_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut messages, _) = Messages::open(dir.path(), Durability::ProcessCrash)
        .await
        .unwrap();
    fill(&mut messages).await;
    // As a crash leaves them.
    let copy = |suffix| fs::read(dir.path().join(format!("messages.db{suffix}"))).unwrap();
    let (main, log) = (copy(""), copy("-wal"));
    messages.close().await;
    for step in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(&dir), &main).unwrap();
        let mut damaged = log.clone();
        let at = log.len() * step / 20;
        match step % 2 {
            0 => damaged.truncate(at),
            _ => damaged[at] ^= 1,
        }
        fs::write(dir.path().join("messages.db-wal"), damaged).unwrap();
        let (_, aside) = survives(dir.path(), &format!("log at {at}")).await;
        assert!(aside.is_none(), "log at {at}: {aside:?}");
    }
}

// D11
#[tokio::test]
async fn damage_that_shows_while_running_is_set_aside_at_the_next_call() {
    let (dir, _) = filled().await;
    let opened = Messages::open(dir.path(), Durability::PowerLoss).await;
    let (mut messages, aside) = opened.unwrap();
    assert!(aside.is_none());
    let mut upkeep = messages.upkeep();
    upkeep.run().await.unwrap();
    // The index begins at a page that can be none of its pages.
    let connection = messages.connection.as_mut().unwrap();
    let spoil = "PRAGMA writable_schema = ON; \
        UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'segments_by_session'; PRAGMA writable_schema = RESET";
    sqlx::raw_sql(spoil).execute(connection).await.unwrap();
    let mut rows = Rows::default();
    rows.queued(b"more", None, &[receiver(1, MESSAGES + 1)]);
    rows.done(1, 1, 3);
    let mut damaged = false;
    for _ in 0..3 {
        damaged |= messages
            .write(&rows, 2000)
            .await
            .is_err_and(|error| error.is_damage());
    }
    assert!(damaged);
    messages.write(&rows, 2000).await.unwrap();
    // With its log, which another connection has open.
    assert_eq!(asides(dir.path()).len(), 3);
    let aside = messages.set_aside().unwrap();
    assert_eq!(aside.sessions, SESSIONS);
    assert_eq!(messages.set_aside(), None);
    upkeep.run().await.unwrap();
    let log = dir.path().join("messages.db-wal");
    assert!(log.metadata().unwrap().len() > 0);
    let page = messages.page(1, 1, u64::MAX, 1 << 20).await.unwrap();
    assert_eq!(page.entries.last().unwrap().serial, MESSAGES + 1);
    assert_eq!(page.entries.len() as u64, MESSAGES - 2);
}

// D11
#[tokio::test]
async fn an_interrupted_exchange_is_finished_by_the_next_start() {
    for moved in 0..3 {
        let (dir, bytes) = filled().await;
        let salvaged = dir.path().join("messages.db.salvaged");
        let (other, _) = filled().await;
        fs::copy(file(&other), &salvaged).unwrap();
        fs::write(dir.path().join("messages.db-wal"), b"log").unwrap();
        let aside = dir.path().join("messages.db.damaged-20200101-000000");
        if moved > 0 {
            let log = dir.path().join("messages.db-wal");
            fs::rename(
                log,
                dir.path().join("messages.db.damaged-20200101-000000-wal"),
            )
            .unwrap();
        }
        if moved > 1 {
            fs::rename(file(&dir), &aside).unwrap();
        }
        let opened = Messages::open(dir.path(), Durability::PowerLoss).await;
        let (mut messages, found) = opened.unwrap();
        assert!(found.is_some() && !salvaged.exists());
        assert_eq!(
            messages.load().await.unwrap().sessions.len() as u64,
            SESSIONS
        );
        let kept = asides(dir.path());
        let mains = kept.iter().filter(|path| fs::read(path).unwrap() == bytes);
        assert_eq!(mains.count(), 1, "{kept:?}");
    }
}

// D11
#[tokio::test]
async fn a_newer_schema_and_an_unreadable_file_stop_the_start_and_change_nothing() {
    let (dir, _) = filled().await;
    let mut connection = connect(&options(&file(&dir))).await.unwrap();
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
        VALUES (99990101000000, 'later', 1, x'00', 0)";
    sqlx::raw_sql(later).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let error = Messages::open(dir.path(), Durability::PowerLoss)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("messages.db"), "{error}");
    assert!(asides(dir.path()).is_empty());

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(file(&dir)).unwrap();
    let error = Messages::open(dir.path(), Durability::PowerLoss)
        .await
        .unwrap_err();
    assert!(!error.is_damage(), "{error}");
    assert!(asides(dir.path()).is_empty());
}
