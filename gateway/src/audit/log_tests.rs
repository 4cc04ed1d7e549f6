use super::*;

async fn log(directory: &Path, max_entries: usize) -> (Arc<AuditLog>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let settings = Settings {
        enabled: true,
        max_entries,
    };
    let log = AuditLog::open(directory, settings, metrics.clone()).await;
    (log.unwrap(), metrics)
}

fn note<'a>(principal: &'a str, reason: &'a str) -> Note<'a> {
    Note {
        principal,
        address: Some([192, 0, 2, 1].into()),
        client: "c",
        subject: "t",
        reason,
    }
}

async fn all(log: &AuditLog) -> Vec<AuditEntry> {
    let wanted = AuditQuery {
        limit: 10_000,
        ..AuditQuery::default()
    };
    let mut all = log.find(&wanted).await.unwrap();
    all.reverse();
    all
}

#[tokio::test]
async fn the_same_refusal_within_a_minute_is_one_entry_with_a_count() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = log(directory.path(), 1_000).await;
    for second in 100..160 {
        let topic = format!("t/{second}");
        let denied = Note {
            subject: &topic,
            ..note("local:ann", "no rule allows it")
        };
        log.note_at(Kind::PublishDenied, denied, 2, second);
        log.flush_at(second).await.unwrap();
    }
    log.note_at(
        Kind::PublishDenied,
        note("local:ann", "no rule allows it"),
        1,
        160,
    );
    log.note_at(
        Kind::PublishDenied,
        note("local:ann", "another reason"),
        1,
        160,
    );
    log.note_at(
        Kind::SubscribeDenied,
        note("local:ann", "no rule allows it"),
        1,
        160,
    );
    log.note_at(
        Kind::PublishDenied,
        note("local:bob", "no rule allows it"),
        1,
        160,
    );
    let all = all(&log).await;
    assert_eq!(all.len(), 5, "{all:?}");
    let first = &all[0];
    assert_eq!((first.count, first.at, first.last), (120, 100, 159));
    assert_eq!((&*first.subject, &*first.address), ("t/100", "192.0.2.1"));
    assert!(
        all[1..]
            .iter()
            .all(|entry| entry.count == 1 && entry.at == 160)
    );
}

#[tokio::test]
async fn logins_of_two_clients_and_changes_of_two_things_are_two_entries() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = log(directory.path(), 1_000).await;
    for client in ["a", "b", "a"] {
        let login = Note {
            client,
            ..note("local:ann", "password")
        };
        log.note(Kind::Login, login);
        let change = Note {
            subject: client,
            ..note("uid 0", "done")
        };
        log.note(Kind::Change, change);
    }
    let counts: Vec<_> = all(&log).await.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, [2, 2, 1, 1]);
}

#[tokio::test]
async fn a_guesser_with_many_names_grows_neither_memory_nor_file_and_pushes_no_change_out() {
    let directory = tempfile::tempdir().unwrap();
    let (log, metrics) = log(directory.path(), 1_000).await;
    log.note(Kind::Change, note("uid 0", "disable \"mallory\""));
    log.note(Kind::Login, note("local:ann", ""));
    for n in 0..20_000 {
        log.note(Kind::LoginFailed, note(&format!("guess-{n}"), "wrong"));
    }
    {
        let state = log.state.lock();
        assert!(state.recent.len() <= IN_MEMORY && state.new.len() <= IN_MEMORY);
    }
    assert_eq!(metrics.audit_dropped.get(), 20_002 - IN_MEMORY as u64);
    let entries = all(&log).await;
    assert_eq!(
        metrics.audit_entries.get(),
        402,
        "their share is two fifths"
    );
    assert_eq!(entries.len(), 402);
    assert_eq!((&*entries[0].kind, &*entries[1].kind), ("change", "login"));
}

#[tokio::test]
async fn what_could_not_be_written_is_written_later_with_what_was_counted_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = log(directory.path(), 1_000).await;
    log.note_at(Kind::Login, note("local:ann", ""), 1, 100);
    let taken = log.state.lock().take(100);
    log.note_at(Kind::Login, note("local:ann", ""), 1, 101);
    log.note_at(Kind::Login, note("local:bob", ""), 1, 102);
    // A minute later the first is another entry, and its old one waits to be written.
    log.note_at(Kind::Login, note("local:ann", ""), 1, 170);
    log.state.lock().put_back(taken);
    let counts: Vec<_> = all(&log)
        .await
        .iter()
        .map(|entry| (entry.at, entry.count))
        .collect();
    assert_eq!(counts, [(100, 2), (102, 1), (170, 1)]);
}

// N1: a disk that fails for long is no way to fill the memory, and no count is lost for want of room.
#[tokio::test]
async fn what_waits_for_a_failing_disk_is_bounded_and_what_was_counted_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (log, metrics) = log(directory.path(), 100_000).await;
    log.note_at(Kind::LoginFailed, note("ann", "wrong"), 1, 100);
    log.flush_at(100).await.unwrap();
    log.note_at(Kind::LoginFailed, note("ann", "wrong"), 4, 101);
    for round in 0..3 {
        let taken = (round > 0).then(|| log.state.lock().take(102));
        for n in 0..IN_MEMORY {
            let name = format!("{round}-{n}");
            log.note_at(Kind::LoginFailed, note(&name, "wrong"), 1, 102);
        }
        // A minute later it would be another entry.
        log.note_at(Kind::LoginFailed, note("ann", "wrong"), 1, 170);
        if let Some(taken) = taken {
            log.state.lock().put_back(taken);
        }
        assert_eq!(log.state.lock().new.len(), IN_MEMORY, "{round}");
    }
    assert_eq!(metrics.audit_dropped.get(), 2 * IN_MEMORY as u64 + 3);
    let entries = all(&log).await;
    assert_eq!((entries[0].count, entries[0].last), (5, 101));
    assert_eq!(entries.len(), IN_MEMORY + 1);
}

#[tokio::test]
async fn entries_survive_a_restart_and_get_no_id_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (first, _) = log(directory.path(), 1_000).await;
    first.note(Kind::Gateway, note("", "started"));
    first.close().await;
    first.note(Kind::Gateway, note("", "too late"));
    let (second, _) = log(directory.path(), 1_000).await;
    second.note(Kind::Gateway, note("", "started"));
    let ids: Vec<_> = all(&second).await.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test]
async fn texts_are_bounded_and_tokens_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = log(directory.path(), 1_000).await;
    let long = "x y ".repeat(20_000);
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
    let everywhere = Note {
        principal: token,
        client: token,
        subject: &long,
        reason: &long,
        address: None,
    };
    log.note(Kind::LoginFailed, everywhere);
    log.note(
        Kind::Change,
        Note {
            principal: &long,
            ..everywhere
        },
    );
    let entries = all(&log).await;
    let text = format!("{entries:?}");
    assert!(
        !text.contains("c2lnbmF0dXJl") && !text.contains("eyJzdWIi"),
        "{text}"
    );
    let longest = entries.iter().map(|entry| {
        let texts = [
            &entry.principal,
            &entry.client,
            &entry.subject,
            &entry.reason,
        ];
        texts.iter().map(|text| text.len()).sum::<usize>()
    });
    assert!(longest.max().unwrap() < 900);
}

#[tokio::test]
async fn a_log_that_is_off_keeps_nothing_and_makes_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        enabled: false,
        ..Settings::default()
    };
    let log = AuditLog::open(directory.path(), settings, Arc::default())
        .await
        .unwrap();
    log.note(Kind::Login, note("local:ann", ""));
    assert_eq!(all(&log).await, []);
    assert!(!directory.path().join(AuditFile::FILE).exists());
}

// N1: more than memory holds at once, and than may come within a minute.
#[tokio::test]
async fn nothing_is_lost_of_a_storm_that_is_written_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (log, metrics) = log(directory.path(), 100_000).await;
    for round in 0..4 {
        for n in 0..IN_MEMORY {
            let name = format!("local:{round}-{n}");
            log.note(Kind::Login, note(&name, "secret"));
        }
        log.flush().await.unwrap();
    }
    assert_eq!(metrics.audit_dropped.get(), 0);
    assert_eq!(metrics.audit_entries.get(), 4 * IN_MEMORY as u64);
}

// I3, N1: a restart with everybody at the door is a handful of transactions, not one for each login.
#[tokio::test]
async fn a_storm_of_logins_is_written_together() {
    let directory = tempfile::tempdir().unwrap();
    let (log, metrics) = log(directory.path(), 10_000).await;
    let writing = tokio::spawn(log.clone().run());
    for n in 0..2_000 {
        log.note(Kind::Login, note(&format!("local:device-{n}"), "secret"));
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let start = std::time::Instant::now();
    while metrics.audit_entries.get() < 2_000 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "they are not written"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writing.abort();
    assert!(
        metrics.audit_commits.get() <= 3,
        "{}",
        metrics.audit_commits.get()
    );
}
