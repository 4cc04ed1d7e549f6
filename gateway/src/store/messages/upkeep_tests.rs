//! Failures of the disk (D7), what is kept small (D12), copies and how commits are synced.

use super::tests::{
    BODIES, SEGMENTS, USERS, number, opened, progress_row, receiver, serials, session_row, sharing,
};
use super::*;

// D12
#[tokio::test]
async fn a_segment_that_is_mostly_finished_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    for serial in 1..=900 {
        rows.queued(&[1; 40], Some(9000), &[receiver(1, serial)]);
    }
    messages.write(&rows, 1).await.unwrap();
    let bytes = "SELECT sum(length(entries)) FROM segments";
    assert!(number(&mut messages, bytes).await > 50_000);
    // The fifth is never acknowledged.
    let mut rows = Rows::default();
    rows.done(1, 1, 4);
    rows.done(1, 6, 890);
    messages.write(&rows, 1).await.unwrap();
    let swept = messages.sweep(2, &|_, _| false).await.unwrap();
    assert_eq!(swept, Swept::default());
    assert!(number(&mut messages, bytes).await < 2_000);
    let page = messages.page(1, 1, 1000, 1 << 20).await.unwrap();
    let left: Vec<u64> = serials(&page)
        .into_iter()
        .filter(|serial| *serial > 4)
        .collect();
    assert_eq!(left[0], 5);
    assert_eq!(left[1..], (891..=900).collect::<Vec<_>>());
    let expires = "SELECT count(*) FROM segments WHERE expires = 9000";
    assert_eq!(number(&mut messages, expires).await, 1);
    let mut rows = Rows::default();
    rows.done(1, 1, 900);
    messages.write(&rows, 1).await.unwrap();
    assert_eq!(number(&mut messages, SEGMENTS).await, 0);
}

// D12
#[tokio::test]
async fn an_unfinished_message_keeps_at_most_a_segment_of_finished_ones() {
    let mut rows = Rows::default();
    for serial in 1..=50 {
        let body = vec![0; if serial % 10 == 0 { 300_000 } else { 20_000 }];
        rows.queued(&body, None, &[receiver(1, serial)]);
    }
    for serial in 51..=5000 {
        rows.queued(b"", None, &[receiver(1, serial)]);
    }
    for segment in &rows.segments {
        let alone = segment.messages == 1;
        assert!(alone || segment.entries.len() <= 64 * 1024, "{segment:?}");
        assert!(segment.messages <= 1024);
    }
    let messages: u32 = rows.segments.iter().map(|segment| segment.messages).sum();
    assert_eq!(messages, 5000);
}

// D7
#[tokio::test]
async fn rows_that_are_written_again_with_more_are_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    rows.session(2, session_row("two"));
    let large = [3; 1000];
    rows.queued(&large, None, &[receiver(1, 1), receiver(2, 1)]);
    rows.queued(b"a", None, &[receiver(1, 2)]);
    // The transaction was written, but nobody was told so; one of its bodies has lost a user since.
    messages.write(&rows, 1).await.unwrap();
    let mut acknowledged = Rows::default();
    acknowledged.done(2, 1, 1);
    messages.write(&acknowledged, 1).await.unwrap();
    messages.reopen().await.unwrap();
    rows.queued(b"b", None, &[receiver(1, 3)]);
    rows.queued(&large, None, &[receiver(1, 4), receiver(2, 4)]);
    messages.write(&rows, 2).await.unwrap();
    let page = messages.page(1, 1, 100, 1 << 20).await.unwrap();
    assert_eq!((serials(&page), page.lost), (vec![1, 2, 3, 4], 0));
    let totals = messages.load().await.unwrap().sessions[0].queued;
    assert_eq!(totals.messages, 4);
    assert_eq!(number(&mut messages, BODIES).await, 2);
    assert_eq!(number(&mut messages, USERS).await, 4);
}

// D7
#[tokio::test]
async fn after_an_error_nothing_of_the_transaction_is_there_and_the_next_one_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let connection = messages.connection.as_mut().unwrap();
    let full = "CREATE TEMP TRIGGER full BEFORE INSERT ON main.body_users \
                BEGIN SELECT RAISE(ABORT, 'no room'); END";
    sqlx::raw_sql(full).execute(connection).await.unwrap();
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    rows.session(2, session_row("two"));
    rows.queued(&[3; 1000], None, &[receiver(1, 1), receiver(2, 1)]);
    let error = messages.write(&rows, 1).await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert!(!error.is_full() && !error.is_damage());
    // The temporary trigger went with its connection.
    messages.reopen().await.unwrap();
    assert_eq!(
        number(&mut messages, "SELECT count(*) FROM sessions").await,
        0
    );
    messages.write(&rows, 1).await.unwrap();
    let page = messages.page(2, 1, 1, 1).await.unwrap();
    assert_eq!(page.entries[0].body, vec![3; 1000]);
}

// D7
#[tokio::test]
async fn a_full_disk_is_named_and_the_same_rows_are_written_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let connection = messages.connection.as_mut().unwrap();
    let pages: i64 = sqlx::query_scalar("PRAGMA max_page_count = 1")
        .fetch_one(connection)
        .await
        .unwrap();
    let mut rows = Rows::default();
    rows.queued(&vec![1; 4096 * pages as usize], None, &[receiver(1, 1)]);
    let error = messages.write(&rows, 1).await.unwrap_err();
    assert!(error.is_full(), "{error}");
    messages.write(&rows, 1).await.unwrap();
    assert_eq!(messages.page(1, 1, 1, 1).await.unwrap().entries.len(), 1);
}

// D7
#[tokio::test]
async fn reopening_empties_the_log_and_says_so_if_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    messages.write(&rows, 1).await.unwrap();
    let log = dir.path().join("messages.db-wal");
    assert!(log.metadata().unwrap().len() > 0);
    messages.reopen().await.unwrap();
    assert_eq!(log.metadata().unwrap().len(), 0);

    let options = options(&dir.path().join(Messages::FILE));
    let mut reader = connect(&options).await.unwrap();
    let reading = "BEGIN; SELECT count(*) FROM sessions";
    sqlx::raw_sql(reading).execute(&mut reader).await.unwrap();
    messages.write(&rows, 2).await.unwrap();
    let error = messages.reopen().await.unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    assert!(messages.write(&rows, 2).await.is_err());
    reader.close().await.unwrap();
    messages.write(&rows, 2).await.unwrap();
}

// D12
#[tokio::test]
async fn checkpoints_are_made_off_the_commit_path_and_the_log_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (mut messages, _) = Messages::open(dir.path(), Durability::ProcessCrash)
        .await
        .unwrap();
    let mut upkeep = messages.upkeep();
    let log = dir.path().join("messages.db-wal");
    let mut longest = 0;
    let mut serial = 0;
    let mut fill = async |messages: &mut Messages| {
        let mut rows = Rows::default();
        serial += 1;
        rows.queued(&vec![1; 1 << 20], None, &[receiver(1, serial)]);
        rows.done(1, 1, serial - 1);
        messages.write(&rows, 1).await.unwrap();
    };
    for _ in 0..40 {
        fill(&mut messages).await;
        let state = upkeep.run().await.unwrap();
        assert!(
            state.frames < 1024 || state.moved == state.frames,
            "{state:?}"
        );
        longest = longest.max(log.metadata().unwrap().len());
    }
    assert!(longest < 16 << 20, "{longest}");
    // A checkpoint that never gets to the end, as under constant load: with a reader in the way.
    let mut reader = connect(&options(&dir.path().join(Messages::FILE)))
        .await
        .unwrap();
    let reading = "BEGIN; SELECT count(*) FROM sessions";
    sqlx::raw_sql(reading).execute(&mut reader).await.unwrap();
    for _ in 0..70 {
        fill(&mut messages).await;
    }
    let state = upkeep.run().await.unwrap();
    assert!(
        state.frames >= 16 * 1024 && state.moved < state.frames,
        "{state:?}"
    );
    reader.close().await.unwrap();
    fill(&mut messages).await;
    assert!(log.metadata().unwrap().len() < 16 << 20);
}

// D12
#[tokio::test]
async fn the_file_shrinks_in_steps_when_a_backlog_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    for serial in 1..=100 {
        rows.queued(&vec![1; 100_000], None, &[receiver(1, serial)]);
    }
    messages.write(&rows, 1).await.unwrap();
    messages.reopen().await.unwrap();
    let file = dir.path().join(Messages::FILE);
    assert!(file.metadata().unwrap().len() > 10_000_000);
    let mut rows = Rows::default();
    rows.done(1, 1, 100);
    messages.write(&rows, 1).await.unwrap();
    let mut steps = 1;
    while messages.shrink().await.unwrap() {
        steps += 1;
    }
    assert!(steps > 5, "{steps}");
    assert!(!messages.shrink().await.unwrap());
    messages.reopen().await.unwrap();
    assert!(file.metadata().unwrap().len() < 1_300_000);
}

// D11
#[tokio::test]
async fn a_copy_holds_what_was_committed_and_forgets_packet_identifiers_when_restored() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    sharing(&mut messages).await;
    let mut rows = Rows::default();
    rows.received(1, 5, Some(0));
    rows.progress(1, progress_row(11, 3));
    messages.write(&rows, 50).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join(Messages::FILE);
    Messages::snapshot(dir.path(), &copy).await.unwrap();
    let taken = Messages::snapshot(dir.path(), &copy).await.unwrap_err();
    assert!(taken.to_string().contains("messages.db"), "{taken}");
    Messages::mark_restored(&copy).await.unwrap();
    let mut restored = opened(&other).await;
    let loaded = restored.load().await.unwrap();
    assert!(loaded.restored && loaded.last_commit == 50);
    assert!(loaded.sessions[0].received.is_empty());
    assert_eq!(loaded.sessions[0].queued.messages, 10);
    assert_eq!(loaded.sessions[0].progress, progress_row(11, 3));
    restored.close().await;
    let mut restored = opened(&other).await;
    assert!(
        restored.load().await.unwrap().restored,
        "nobody has taken it up"
    );
    let mut rows = Rows::default();
    rows.backup_taken_up();
    restored.write(&rows, 50).await.unwrap();
    restored.close().await;
    let mut restored = opened(&other).await;
    assert!(!restored.load().await.unwrap().restored);
    assert_eq!(
        restored
            .page(2, 1, 99, 1 << 20)
            .await
            .unwrap()
            .entries
            .len(),
        10
    );
    // D12
    assert_eq!(number(&mut restored, "PRAGMA auto_vacuum").await, 2);
    let mode = std::os::unix::fs::PermissionsExt::mode(&copy.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

// D6
#[tokio::test]
async fn durability_is_how_commits_are_synced() {
    for (durability, synchronous) in [
        (Durability::PowerLoss, 2),
        (Durability::ProcessCrash, 1),
        (Durability::Nothing, 1),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut messages, _) = Messages::open(dir.path(), durability).await.unwrap();
        for (pragma, expected) in [
            ("PRAGMA synchronous", synchronous),
            ("PRAGMA wal_autocheckpoint", 0),
            ("PRAGMA auto_vacuum", 2),
        ] {
            assert_eq!(number(&mut messages, pragma).await, expected, "{pragma}");
        }
        messages.reopen().await.unwrap();
        assert_eq!(
            number(&mut messages, "PRAGMA synchronous").await,
            synchronous
        );
    }
}

// D11
#[tokio::test]
async fn rows_that_failed_because_of_damage_are_written_to_the_new_file_without_being_asked_to_reopen()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    sharing(&mut messages).await;
    messages.damage = Some("a test says so".to_owned());
    if let Some(connection) = messages.connection.take() {
        connection.close().await.unwrap();
    }
    let mut rows = Rows::default();
    rows.queued(&[77; 2000], None, &[receiver(1, 11), receiver(2, 11)]);
    messages.write(&rows, 1).await.unwrap();
    for session in [1, 2] {
        let page = messages.page(session, 1, 100, 1 << 20).await.unwrap();
        assert_eq!((serials(&page), page.lost), ((1..=11).collect(), 0));
        for entry in &page.entries[..10] {
            assert_eq!(entry.body, vec![entry.serial as u8; 2000]);
        }
        assert_eq!(page.entries[10].body, vec![77; 2000]);
    }
    assert_eq!(number(&mut messages, BODIES).await, 11);
}
