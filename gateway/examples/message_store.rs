//! What does the message store cost? Run by hand, on the file system that is asked about:
//!
//! ```text
//! cargo run --release -p gateway --example message_store -- DIRECTORY
//! ```
//!
//! It makes `messages.db` in subdirectories of DIRECTORY, which must be empty, and prints one line per figure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway::store::messages::{
    Durability, Messages, ProgressRow, Receiver, RetainedRow, Rows, SessionKey, SessionRow,
};

type Failure = Box<dyn std::error::Error>;

const NOW: i64 = 1_800_000_000;
const BODY: &[u8] = &[0x55; 64];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("which directory?")?);
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        println!("{durability:?}");
        small(&subdirectory(&directory, durability, "small")?, durability).await?;
        large(&subdirectory(&directory, durability, "large")?, durability).await?;
        online(&subdirectory(&directory, durability, "online")?, durability).await?;
    }
    start(&directory.join("start")).await
}

/// One message for one session and its progress in each transaction.
async fn small(directory: &Path, durability: Durability) -> Result<(), Failure> {
    const ROUNDS: u32 = 5_000;
    let (mut messages, _) = Messages::open(directory, durability).await?;
    let mut clock = Clock::default();
    for serial in 1..=u64::from(ROUNDS) {
        let mut rows = Rows::default();
        rows.queued(BODY, None, &[receiver(1, serial)]);
        rows.progress(1, progress(serial + 1));
        clock.time(messages.write(&rows, NOW)).await?;
    }
    clock.print("write: 1 message, 1 progress", ROUNDS);
    messages.close().await;
    Ok(())
}

/// Backlogs: 1,000 messages for one session in each transaction; then read, and finished.
async fn large(directory: &Path, durability: Durability) -> Result<(), Failure> {
    const ROUNDS: u64 = 300;
    const MESSAGES: u64 = 1_000;
    let (mut messages, _) = Messages::open(directory, durability).await?;
    let mut upkeep = messages.upkeep();
    let mut clock = Clock::default();
    for round in 0..ROUNDS {
        let mut rows = Rows::default();
        for serial in round * MESSAGES..(round + 1) * MESSAGES {
            rows.queued(BODY, None, &[receiver(1, serial + 1)]);
        }
        rows.progress(1, progress((round + 1) * MESSAGES + 1));
        clock.time(messages.write(&rows, NOW)).await?;
        upkeep.run().await?;
    }
    clock.print(
        "write, per message: 1,000 messages",
        (ROUNDS * MESSAGES) as u32,
    );
    let mut clock = Clock::default();
    let mut from = Some(1);
    let mut count = 0;
    while let Some(at) = from {
        let page = clock
            .time(messages.page(1, at, u64::MAX, 256 * 1024))
            .await?;
        count += page.entries.len() as u32;
        from = page.next;
    }
    clock.print("page of 256 KiB, per message", count);
    let mut clock = Clock::default();
    for round in 1..=ROUNDS {
        let mut rows = Rows::default();
        rows.done(1, 1, round * MESSAGES);
        rows.progress(1, progress(ROUNDS * MESSAGES + 1));
        clock.time(messages.write(&rows, NOW)).await?;
    }
    clock.print("done: 1,000 messages", ROUNDS as u32);
    messages.close().await;
    Ok(())
}

/// 1,000 sessions that acknowledge what is not on disk, and what is.
async fn online(directory: &Path, durability: Durability) -> Result<(), Failure> {
    const ROUNDS: u64 = 100;
    const SESSIONS: u64 = 1_000;
    let (mut messages, _) = Messages::open(directory, durability).await?;
    let mut upkeep = messages.upkeep();
    let mut clocks = [Clock::default(), Clock::default(), Clock::default()];
    for round in 1..=ROUNDS {
        for (kind, clock) in clocks.iter_mut().enumerate() {
            let mut rows = Rows::default();
            for session in 1..=SESSIONS {
                rows.progress(session, progress(round + 1));
                match kind {
                    0 => rows.done(session, 1, round - 1),
                    1 => rows.queued(BODY, None, &[receiver(session, round)]),
                    _ => rows.done(session, 1, round),
                }
            }
            clock.time(messages.write(&rows, NOW)).await?;
        }
        upkeep.run().await?;
    }
    let [absent, queued, done] = clocks;
    absent.print(
        "write: 1,000 progress, done of nothing stored",
        ROUNDS as u32,
    );
    queued.print(
        "write: 1,000 progress, 1,000 sessions' message",
        ROUNDS as u32,
    );
    done.print("write: 1,000 progress, done of 1,000 stored", ROUNDS as u32);
    messages.close().await;
    Ok(())
}

/// 100,000 sessions, 1,000,000 queued messages in a segment each, 100,000 retained messages.
async fn start(directory: &Path) -> Result<(), Failure> {
    const SESSIONS: u64 = 100_000;
    fs::create_dir_all(directory)?;
    let (mut messages, _) = Messages::open(directory, Durability::ProcessCrash).await?;
    let mut upkeep = messages.upkeep();
    let mut clock = Clock::default();
    for some in 0..SESSIONS / 1_000 {
        let mut rows = Rows::default();
        for session in some * 1_000 + 1..=(some + 1) * 1_000 {
            rows.session(session, session_row(session));
            rows.progress(session, progress(11));
            rows.subscription(
                session,
                format!("devices/{session}/#").into(),
                Some(vec![1]),
            );
            let message = RetainedRow {
                expires: None,
                message: Bytes::from_static(BODY),
            };
            rows.retained(&format!("devices/{session}/state"), Some(message));
        }
        clock.time(messages.write(&rows, NOW)).await?;
        upkeep.run().await?;
    }
    for serial in 1..=10 {
        for some in 0..SESSIONS / 1_000 {
            let mut rows = Rows::default();
            for session in some * 1_000 + 1..=(some + 1) * 1_000 {
                rows.queued(BODY, Some(NOW + 9_999), &[receiver(session, serial)]);
            }
            clock.time(messages.write(&rows, NOW)).await?;
            upkeep.run().await?;
        }
    }
    clock.print("filling", 1);
    drop(upkeep);
    messages.close().await;
    let length = fs::metadata(directory.join(Messages::FILE))?.len();
    println!("  {:<50} {:>10.1} MB", "file", length as f64 / 1e6);
    for _ in 0..3 {
        let started = Instant::now();
        let (mut messages, _) = Messages::open(directory, Durability::PowerLoss).await?;
        let opened = started.elapsed();
        let loaded = messages.load().await?;
        let all = started.elapsed();
        let queued: u64 = loaded.sessions.iter().map(|s| s.queued.messages).sum();
        println!(
            "  start: {} sessions, {queued} queued, {} retained: open {opened:.2?}, with load {all:.2?}",
            loaded.sessions.len(),
            loaded.retained.len(),
        );
        messages.close().await;
    }
    Ok(())
}

#[derive(Default)]
struct Clock(Duration);

impl Clock {
    async fn time<T>(&mut self, what: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = what.await;
        self.0 += started.elapsed();
        result
    }

    fn print(&self, what: &str, count: u32) {
        let each = self.0.as_secs_f64() * 1e6 / f64::from(count);
        println!("  {what:<50} {each:>10.2} µs");
    }
}

fn subdirectory(
    directory: &Path,
    durability: Durability,
    name: &str,
) -> Result<PathBuf, std::io::Error> {
    let path = directory.join(format!("{durability:?}-{name}"));
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn receiver(session: SessionKey, serial: u64) -> Receiver {
    Receiver {
        session,
        serial,
        head: b"devices/12/telemetry".to_vec(),
    }
}

fn progress(next: u64) -> ProgressRow {
    ProgressRow {
        next,
        sent: next - 1,
        state: vec![0; 12],
    }
}

fn session_row(session: SessionKey) -> SessionRow {
    SessionRow {
        client_id: format!("device-{session}").into(),
        realm: "local".into(),
        name: format!("device-{session}").into(),
        login: vec![7; 24],
        expiry: 604_800,
        connected: false,
        since: NOW,
        will: None,
    }
}
