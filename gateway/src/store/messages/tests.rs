use bytestring::ByteString;
use sqlx::Row;
use tempfile::TempDir;

use super::*;

pub(super) async fn opened(dir: &TempDir) -> Messages {
    let (messages, aside) = Messages::open(dir.path(), Durability::PowerLoss)
        .await
        .unwrap();
    assert!(aside.is_none(), "{aside:?}");
    messages
}

pub(super) fn session_row(name: &str) -> SessionRow {
    SessionRow {
        client_id: name.into(),
        realm: "local".into(),
        name: name.into(),
        login: b"login".to_vec(),
        expiry: 3600,
        connected: true,
        since: 1000,
        will: Some(WillRow {
            message: b"gone".to_vec(),
            due: Some(2000),
        }),
    }
}

pub(super) fn progress_row(next: u64, sent: u64) -> ProgressRow {
    ProgressRow {
        next,
        sent,
        state: b"state".to_vec(),
    }
}

pub(super) fn receiver(session: SessionKey, serial: u64) -> Receiver {
    Receiver {
        session,
        serial,
        head: format!("head {session} {serial}").into_bytes(),
    }
}

pub(super) fn serials(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.serial).collect()
}

#[tokio::test]
async fn what_was_written_is_loaded_and_paged() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    for key in 1..=3 {
        rows.session(key, session_row(&format!("client-{key}")));
        rows.progress(key, progress_row(4, 2));
    }
    let filter = ByteString::from("a/+");
    rows.subscription(1, filter.clone(), Some(vec![1]));
    rows.received(2, 77, Some(0));
    let retained = RetainedRow {
        expires: Some(99),
        message: bytes::Bytes::from_static(b"retained"),
    };
    rows.retained("a/b", Some(retained.clone()));
    let large = vec![9; 2000];
    rows.queued(b"small", Some(5000), &[receiver(1, 1), receiver(2, 1)]);
    rows.queued(&large, None, &[receiver(1, 2), receiver(2, 2)]);
    rows.queued(b"", None, &[receiver(1, 3)]);
    messages.write(&rows, 1234).await.unwrap();
    messages.close().await;

    let mut messages = opened(&dir).await;
    let loaded = messages.load().await.unwrap();
    assert_eq!((loaded.last_commit, loaded.next_session), (1234, 4));
    assert!(!loaded.restored);
    assert_eq!(loaded.retained, [("a/b".into(), retained)]);
    assert_eq!(loaded.sessions.len(), 3);
    let one = &loaded.sessions[0];
    assert_eq!((one.key, &one.row), (1, &session_row("client-1")));
    assert_eq!(one.progress, progress_row(4, 2));
    assert_eq!(one.subscriptions, [(filter, vec![1])]);
    assert_eq!(loaded.sessions[1].received, [(77, 0)]);
    assert_eq!(
        (one.queued.messages, one.queued.first, one.queued.last),
        (3, 1, 3)
    );
    assert!(one.queued.bytes > 2000);
    assert_eq!(loaded.sessions[2].queued, Totals::default());

    let page = messages.page(1, 1, u64::MAX, 1 << 20).await.unwrap();
    assert_eq!(serials(&page), [1, 2, 3]);
    assert_eq!((page.next, page.lost), (None, 0));
    assert_eq!(&page.entries[0].body[..], b"small");
    assert_eq!(page.entries[0].expires, Some(5000));
    assert_eq!(&page.entries[0].head[..], b"head 1 1");
    assert_eq!(page.entries[1].body, large);
    assert!(page.entries[2].body.is_empty());
    let page = messages.page(1, 1, 3, 1).await.unwrap();
    assert_eq!((serials(&page), page.next), (vec![1], Some(2)));
    let page = messages.page(1, 2, 2, 1).await.unwrap();
    assert_eq!((serials(&page), page.next), (vec![2], None));
    let page = messages.page(3, 1, 9, 1).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
}

pub(super) async fn number(messages: &mut Messages, sql: &'static str) -> i64 {
    let connection = messages.connection.as_mut().unwrap();
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

pub(super) const SEGMENTS: &str = "SELECT count(*) FROM segments";
pub(super) const BODIES: &str = "SELECT count(*) FROM bodies";
pub(super) const USERS: &str = "SELECT count(*) FROM body_users";

/// Sessions 1 and 2, each with ten messages of 2,000 bytes that they share, one transaction to a message.
pub(super) async fn sharing(messages: &mut Messages) {
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    rows.session(2, session_row("two"));
    messages.write(&rows, 1).await.unwrap();
    for serial in 1..=10 {
        let mut rows = Rows::default();
        let receivers = [receiver(1, serial), receiver(2, serial)];
        rows.queued(&[serial as u8; 2000], None, &receivers);
        messages.write(&rows, 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_shared_body_goes_with_the_last_session_that_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    sharing(&mut messages).await;
    assert_eq!(number(&mut messages, BODIES).await, 10);
    let mut rows = Rows::default();
    rows.done(1, 1, 10);
    rows.done(2, 1, 4);
    messages.write(&rows, 2).await.unwrap();
    assert_eq!(number(&mut messages, BODIES).await, 6);
    assert_eq!(number(&mut messages, SEGMENTS).await, 6);
    let page = messages.page(2, 1, 100, 1 << 20).await.unwrap();
    assert_eq!(serials(&page), [5, 6, 7, 8, 9, 10]);
    let mut rows = Rows::default();
    rows.done(2, 1, 10);
    messages.write(&rows, 3).await.unwrap();
    assert_eq!(number(&mut messages, BODIES).await, 0);
    assert_eq!(number(&mut messages, USERS).await, 0);
}

#[tokio::test]
async fn an_ended_session_is_not_loaded_and_its_messages_go_in_small_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    sharing(&mut messages).await;
    for serial in 11..=1500 {
        let mut rows = Rows::default();
        rows.queued(b"x", None, &[receiver(1, serial)]);
        messages.write(&rows, 1).await.unwrap();
    }
    let mut rows = Rows::default();
    rows.ended(1);
    // Of the same batch: the end wins.
    rows.session(1, session_row("one"));
    rows.progress(1, progress_row(9, 9));
    rows.subscription(1, "a".into(), Some(vec![]));
    rows.received(1, 1, Some(0));
    rows.queued(b"x", None, &[receiver(1, 1501)]);
    messages.write(&rows, 2).await.unwrap();
    messages.close().await;

    let mut messages = opened(&dir).await;
    let loaded = messages.load().await.unwrap();
    let keys: Vec<_> = loaded.sessions.iter().map(|session| session.key).collect();
    assert_eq!((keys, loaded.next_session), (vec![2], 3));
    assert_eq!(number(&mut messages, SEGMENTS).await, 1510);
    let mut sweeps = 0;
    loop {
        let before = number(&mut messages, SEGMENTS).await;
        let swept = messages.sweep(3, &|_, _| false).await.unwrap();
        assert!(swept.removed.is_empty());
        let after = number(&mut messages, SEGMENTS).await;
        assert!(before - after <= 512, "{before} {after}");
        sweeps += 1;
        if !swept.more {
            break;
        }
    }
    assert!(sweeps >= 3);
    assert_eq!(number(&mut messages, SEGMENTS).await, 10);
    assert_eq!(number(&mut messages, BODIES).await, 10);
    assert_eq!(number(&mut messages, USERS).await, 10);
}

#[tokio::test]
async fn keys_of_sessions_are_not_used_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    assert_eq!(messages.load().await.unwrap().next_session, 1);
    let mut rows = Rows::default();
    rows.session(7, session_row("seven"));
    messages.write(&rows, 1).await.unwrap();
    let mut rows = Rows::default();
    rows.ended(7);
    messages.write(&rows, 1).await.unwrap();
    messages.close().await;
    assert_eq!(opened(&dir).await.load().await.unwrap().next_session, 8);
}

// D8, D9
#[tokio::test]
async fn expired_messages_go_but_not_those_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    rows.session(2, session_row("two"));
    for serial in 1..=6 {
        let expires = [None, Some(100), Some(300)][serial as usize % 3];
        let large = vec![1; 600];
        rows.queued(&large, expires, &[receiver(1, serial), receiver(2, serial)]);
    }
    messages.write(&rows, 1).await.unwrap();
    let before = messages.load().await.unwrap().sessions[0].queued;
    // 1 and 4 expire at 100, 2 and 5 at 300.
    let nothing = messages.sweep(99, &|_, _| false).await.unwrap();
    assert_eq!(nothing, Swept::default());
    let spare = |session, serial| session == 1 && serial == 1;
    let mut swept = messages.sweep(100, &spare).await.unwrap();
    swept.removed.sort();
    let [(1, 1, bytes), (2, 2, _)] = swept.removed[..] else {
        panic!("{swept:?}");
    };
    let page = messages.page(1, 1, 100, 1 << 20).await.unwrap();
    assert_eq!(serials(&page), [1, 2, 3, 5, 6]);
    let page = messages.page(2, 1, 100, 1 << 20).await.unwrap();
    assert_eq!(serials(&page), [2, 3, 5, 6]);
    let after = messages.load().await.unwrap().sessions[0].queued;
    assert_eq!(after.messages, before.messages - 1);
    assert_eq!(after.bytes, before.bytes - bytes);
    assert_eq!(number(&mut messages, USERS).await, 9);
    // What is spared does not keep the sweep busy, and goes when it is not spared any more.
    let swept = messages.sweep(101, &spare).await.unwrap();
    assert_eq!(swept, Swept::default());
    let swept = messages.sweep(200, &|_, _| false).await.unwrap();
    assert_eq!(swept.removed, [(1, 1, bytes)]);
    let mut swept = messages.sweep(400, &|_, _| false).await.unwrap();
    swept.removed.sort();
    assert_eq!(swept.removed.len(), 2);
    assert_eq!(number(&mut messages, USERS).await, 4);
    assert_eq!(number(&mut messages, BODIES).await, 2);
    for session in [1, 2] {
        let page = messages.page(session, 1, 100, 1 << 20).await.unwrap();
        assert_eq!((serials(&page), page.lost), (vec![3, 6], 0));
    }
}

#[tokio::test]
async fn no_statement_of_a_transaction_looks_through_a_whole_table() {
    /// By their names, and as statements call them; the state has one row.
    const TABLES: [&str; 10] = [
        "sessions",
        "progress",
        "subscriptions",
        "received",
        "retained",
        "segments",
        "bodies",
        "body_users",
        "s",
        "u",
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    let mut rows = Rows::default();
    rows.session(1, session_row("one"));
    rows.progress(1, progress_row(2, 0));
    rows.ended(9);
    rows.subscription(1, "a".into(), Some(vec![]));
    rows.subscription(1, "b".into(), None);
    rows.received(1, 1, Some(0));
    rows.received(1, 2, None);
    rows.retained("a", None);
    rows.queued(&[0; 600], None, &[receiver(1, 1), receiver(2, 1)]);
    rows.done(1, 1, 1);
    let mut stock = Stock::default();
    stock.add(1, 1, 1);
    let context = write::Context {
        now: 1,
        state: (0, 0),
        stock: &stock,
        next_body: 1,
        again: true,
    };
    let connection = messages.connection.as_mut().unwrap();
    let mut plans = 0;
    for sql in write::script(&rows, &context).statements() {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        for row in sqlx::raw_sql(explain)
            .fetch_all(&mut *connection)
            .await
            .unwrap()
        {
            let step: String = row.get(3);
            plans += 1;
            let scanned = step.strip_prefix("SCAN ").unwrap_or_default();
            let scanned = scanned.split(' ').next().unwrap_or_default();
            assert!(!TABLES.contains(&scanned), "{sql}: {step}");
        }
    }
    assert!(plans > 20, "{plans}");
}

#[tokio::test]
async fn a_range_without_an_end_finishes_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    sharing(&mut messages).await;
    let mut rows = Rows::default();
    rows.done(1, 0, u64::MAX);
    messages.write(&rows, 1).await.unwrap();
    let page = messages.page(1, 0, u64::MAX, 1).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
    assert_eq!(number(&mut messages, SEGMENTS).await, 10);
}

#[tokio::test]
async fn the_time_of_the_last_commit_and_the_next_session_are_kept_though_not_written_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut messages = opened(&dir).await;
    for (now, key) in [(100, 5), (100, 3), (90, 6), (100, 6), (101, 6)] {
        let mut rows = Rows::default();
        rows.session(key, session_row("one"));
        messages.write(&rows, now).await.unwrap();
    }
    messages.reopen().await.unwrap();
    messages.write(&Rows::default(), 101).await.unwrap();
    messages.close().await;
    let mut messages = opened(&dir).await;
    let loaded = messages.load().await.unwrap();
    assert_eq!((loaded.last_commit, loaded.next_session), (101, 7));
    messages.write(&Rows::default(), 102).await.unwrap();
    messages.close().await;
    let loaded = opened(&dir).await.load().await.unwrap();
    assert_eq!((loaded.last_commit, loaded.next_session), (102, 7));
}
