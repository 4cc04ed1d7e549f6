//! Does acknowledged mean synced? Two ways to lose the power: an ext4 image whose file system is shut down under the
//! gateway, and a record of everything that was written to the message store, of which a beginning is kept and what was
//! not synced is dropped or torn. Both need root, the first loop devices, the second a C compiler.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_crash::chance::Chance;
use postern_crash::{Durability, Options, Report, run};
use postern_tests::disk::{Kind, Loss, WriteLog, shim};
use postern_tests::packet::{PUBREL, Packet, ack};
use postern_tests::wait::{until, within};
use postern_tests::{Client, Connect, Gateway, Publish, Setup};
use tempfile::TempDir;
use tokio::sync::Mutex;

const FAILURES: u64 = 10;
/// Attempts to lose something, where something must be lost.
const ATTEMPTS: usize = 5;

/// One test at a time: two would only slow each other down.
static TURN: Mutex<()> = Mutex::const_new(());

async fn cut_power(durability: Durability) -> Report {
    let options = Options {
        durability,
        power_loss: true,
        max_uptime: 900,
        binary: Some(postern_tests::gateway::binary()),
        ..Options::kills(FAILURES)
    };
    let report = run(&options).await.unwrap_or_else(|e| panic!("{e}"));
    println!("{report}");
    report
}

// D1, D2, D6, D7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_by_a_power_failure() {
    let _turn = TURN.lock().await;
    let report = cut_power(Durability::PowerLoss).await;
    assert!(report.is_clean(), "the promise was broken:\n{report}");
    assert!(
        report.verdict.expected > 1000,
        "too little was owed:\n{report}"
    );
}

// D6: if this kept everything, the test above would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_failure_loses_what_was_acknowledged_with_durability_process_crash() {
    let _turn = TURN.lock().await;
    for _ in 0..ATTEMPTS {
        match run_that_may_break(Durability::ProcessCrash).await {
            Some(report) if report.verdict.lost == 0 && report.counts.sessions_lost.get() == 0 => {}
            _ => return,
        }
    }
    panic!("{} power failures lost nothing", FAILURES * ATTEMPTS as u64);
}

/// `None`: so much was lost that a client could not go on.
async fn run_that_may_break(durability: Durability) -> Option<Report> {
    let run = tokio::spawn(async move { cut_power(durability).await });
    run.await.ok()
}

/// A gateway's life with everything it wrote, and what it acknowledged when.
struct Recorded {
    /// The data directory without the message store.
    home: TempDir,
    log: WriteLog,
    /// The length of the log when the reader's SUBACK was there.
    begin: u64,
    /// For QoS 1 and QoS 2: for each message the length of the log when its acknowledgement was there.
    acknowledged: [Vec<u64>; 2],
    /// The same of the values of a retained topic.
    retained: Vec<u64>,
}

/// More than the second or so that acknowledgements and upkeep may wait for a transaction.
const REST: Duration = Duration::from_millis(2500);

const MESSAGES: usize = 600;
const WINDOW: usize = 16;

fn setup(durability: &str) -> Setup {
    // The queue limit of a session is far away: what it drops is not lost in a crash (D8).
    Setup::new().toml(&format!(
        "[store]\ndurability = \"{durability}\"\n[limits]\nmax_sessions_per_principal = 100\n\
         max_queued_messages = 100000\nmax_queued_bytes = \"1GiB\"\n"
    ))
}

fn length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Mostly small, some of several pages, so that checkpoints happen.
fn body(number: usize) -> String {
    let filler = if number % 8 == 5 {
        30_000
    } else {
        number % 300
    };
    format!("{number} {}", "y".repeat(filler))
}

impl Recorded {
    async fn make(durability: &str) -> Self {
        let log_dir = TempDir::with_prefix("postern-log-").expect("a temporary folder");
        let log = log_dir.path().join("writes");
        let gateway = setup(durability)
            .env("LD_PRELOAD", shim().to_str().expect("a plain path"))
            .env("DISK_SHIM_LOG", log.to_str().expect("a plain path"))
            .start()
            .await;
        let mut reader = gateway
            .connect(Connect::v5("reader").persistent(3600))
            .await;
        assert_eq!(reader.subscribe("t/+", 2).await, 2);
        reader.disconnect().await;
        let begin = length(&log);
        assert!(
            begin > 0,
            "the shim saw no write: does the gateway call the C library?"
        );
        let publisher = Connect::v5("publisher").persistent(3600);
        let (one, two, retained) = tokio::join!(
            publish(gateway.v5("one").await, 1, "t/1", false, &log),
            publish(gateway.connect(publisher).await, 2, "t/2", false, &log),
            publish(gateway.v5("retained").await, 1, "kept", true, &log),
        );
        let home = gateway.kill().await;
        let log = WriteLog::read(&log);
        let acknowledged = [one, two];
        Self {
            home,
            log,
            begin,
            acknowledged,
            retained,
        }
    }

    /// The first entry at which the log has this length.
    fn entry_at(&self, length: u64) -> usize {
        self.log.0.partition_point(|change| change.end < length) + 1
    }

    /// Starts a gateway on what the first `entries` leave behind; what is missing.
    async fn missing_after(&self, entries: usize, loss: Loss, chance: &mut Chance) -> Vec<String> {
        let cut = self.log.0[entries - 1].end;
        let dir = TempDir::with_prefix("postern-replay-").expect("a temporary folder");
        let data = dir.path().join("data");
        copy_without_messages(&self.home.path().join("data"), &data);
        self.log.replay(entries, loss, &data, || chance.percent(50));
        let gateway = setup("power-loss").start_in(dir).await;
        let mut missing = Vec::new();
        let reader = Connect::v5("reader").persistent(3600);
        let mut reader = gateway.connect(reader).await;
        if reader.connack.session_present {
            reader.subscribe("end", 1).await;
            reader.publish(Publish::new("end", "").qos(1)).await;
            let came = reader.receive_until("end").await;
            for (place, topic) in ["t/1", "t/2"].iter().enumerate() {
                missing.extend(self.compare(place, topic, &came, cut));
            }
        } else {
            missing.push("the session of the reader".to_owned());
        }
        missing.extend(self.retained_missing(&gateway, cut).await);
        gateway.check_log();
        missing
    }

    fn compare(&self, place: usize, topic: &str, came: &[Publish], cut: u64) -> Option<String> {
        let owed = self.acknowledged[place].partition_point(|at| *at <= cut);
        let came: Vec<&str> = came
            .iter()
            .filter(|publish| publish.topic == topic)
            .map(Publish::text)
            .collect();
        for (number, text) in came.iter().enumerate() {
            assert!(
                *text == body(number),
                "{topic}: at place {number} is {:.20}: damaged, doubled or out of order",
                text
            );
        }
        (came.len() < owed).then(|| {
            format!(
                "{topic}: {owed} were acknowledged, {} are there",
                came.len()
            )
        })
    }

    async fn retained_missing(&self, gateway: &Gateway, cut: u64) -> Option<String> {
        let owed = self.retained.partition_point(|at| *at <= cut);
        let last = owed.checked_sub(1)?;
        let mut client = gateway.v5("looks").await;
        client.subscribe("kept", 0).await;
        client.subscribe("end", 0).await;
        client.publish(Publish::new("end", "").qos(1)).await;
        let came = client.receive_until("end").await;
        let Some(kept) = came.first() else {
            return Some("the retained message".to_owned());
        };
        let number = kept.text().split(' ').next().and_then(|n| n.parse().ok());
        let number: usize = number.expect("a number");
        assert!(
            kept.text() == body(number),
            "the retained message is damaged"
        );
        (number < last).then(|| format!("retained {last} was acknowledged, {number} is there"))
    }
}

/// Publishes numbered messages with some in flight, and notes at each acknowledgement how long the log is.
async fn publish(mut client: Client, qos: u8, topic: &str, retain: bool, log: &Path) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let mut waiting = VecDeque::new();
    let mut sent = 0;
    while acknowledged.len() < MESSAGES {
        while sent < MESSAGES && waiting.len() < WINDOW {
            let mut message = Publish::new(topic, &body(sent)).qos(qos);
            message.retain = retain;
            waiting.push_back(client.start_publish(message).await.1);
            sent += 1;
        }
        match within("an acknowledgement", client.packet()).await {
            Packet::PubAck(answer) | Packet::PubRec(answer) => {
                assert!(answer.code < 0x80, "refused with {:#04x}", answer.code);
                // D4
                assert_eq!(Some(answer.id), waiting.pop_front());
                acknowledged.push(length(log));
                if qos == 2 {
                    client.send(&ack(PUBREL, answer.id)).await;
                }
            }
            Packet::PubComp(_) => {}
            other => panic!("a publisher received {other:?}"),
        }
    }
    acknowledged
}

/// Syncs and writes of the message store so far.
fn written(log: &Path) -> (usize, usize) {
    let log = WriteLog::read(log);
    (log.count(Kind::Sync), log.count(Kind::Write))
}

/// Until nothing was written for longer than the gateway holds back anything that may ride along.
async fn settled(log: &Path) -> (usize, usize) {
    let (mut last, mut since) = (written(log), Instant::now());
    until("the message store to rest", || {
        let now = written(log);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > REST
    })
    .await;
    last
}

fn copy_without_messages(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("the data directory") {
        let entry = entry.expect("the data directory can be read");
        let kind = entry.file_type().expect("a file has a type");
        let name = entry.file_name();
        let target: PathBuf = to.join(&name);
        if kind.is_dir() {
            copy_without_messages(&entry.path(), &target);
        } else if kind.is_file() && !name.to_string_lossy().starts_with("messages.db") {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

// D1, D6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_moment_of_the_write_log_holds_what_was_acknowledged_before_it() {
    const MOMENTS: usize = 12;
    let _turn = TURN.lock().await;
    let seed = Chance::fresh_seed();
    println!("seed {seed}");
    let mut chance = Chance::new(seed);
    let recorded = Recorded::make("power-loss").await;
    let entries = recorded.log.0.len();
    println!(
        "{entries} entries, {} syncs",
        recorded.log.count(Kind::Sync)
    );
    assert!(recorded.log.count(Kind::Sync) > 20, "too few syncs");
    let first = recorded.entry_at(recorded.begin);
    for moment in 0..MOMENTS {
        let loss = [Loss::All, Loss::Writes, Loss::Sectors][moment % 3];
        let cut = chance.between(first as u64, entries as u64) as usize;
        let missing = recorded.missing_after(cut, loss, &mut chance).await;
        assert!(
            missing.is_empty(),
            "cut after entry {cut} of {entries}, {loss:?}: missing {missing:?}"
        );
    }
}

// D6: the same must find a loss where nobody promised otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_log_of_process_crash_has_moments_that_lose_what_was_acknowledged() {
    const MOMENTS: usize = 20;
    let _turn = TURN.lock().await;
    let mut chance = Chance::new(Chance::fresh_seed());
    let recorded = Recorded::make("process-crash").await;
    let entries = recorded.log.0.len();
    let first = recorded.entry_at(recorded.begin);
    for _ in 0..MOMENTS {
        let cut = chance.between(first as u64, entries as u64) as usize;
        let missing = recorded.missing_after(cut, Loss::All, &mut chance).await;
        if !missing.is_empty() {
            return;
        }
    }
    panic!("{MOMENTS} moments lost nothing");
}

// D5: they are written, about once a second, but nobody waits for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribers_pubacks_cause_no_sync() {
    const COUNT: usize = 60;
    const EVERY: Duration = Duration::from_millis(50);
    let _turn = TURN.lock().await;
    let log_dir = TempDir::with_prefix("postern-log-").expect("a temporary folder");
    let log = log_dir.path().join("writes");
    let gateway = setup("power-loss")
        .env("LD_PRELOAD", shim().to_str().expect("a plain path"))
        .env("DISK_SHIM_LOG", log.to_str().expect("a plain path"))
        .start()
        .await;
    let connect = Connect::v5("reader").persistent(3600);
    let mut reader = gateway.connect(connect.clone()).await;
    assert_eq!(reader.subscribe("t", 1).await, 1);
    reader.disconnect().await;
    let mut publisher = gateway.v5("publisher").await;
    for number in 0..COUNT {
        let message = Publish::new("t", &body(number)).qos(1);
        assert!(publisher.publish(message).await < 0x80);
    }
    let mut reader = gateway.connect(connect.clone()).await;
    let mut delivered = Vec::new();
    for _ in 0..COUNT {
        delivered.push(within("a message", reader.message()).await);
    }
    let (syncs, writes) = settled(&log).await;
    assert!(syncs > COUNT / 2, "the shim saw {syncs} syncs");

    // One at a time, for three seconds: the pace is what is tested, not something to wait for.
    let mut pace = tokio::time::interval(EVERY);
    for message in &delivered {
        pace.tick().await;
        reader.answer(message).await;
    }
    let (syncs_then, writes_then) = settled(&log).await;
    assert_eq!(syncs_then - syncs, 0, "PUBACKs alone synced");
    assert!(writes_then > writes, "no PUBACK was written");

    // The same disk syncs for whoever waits, and what rode along is there after the next start.
    reader.disconnect().await;
    let message = Publish::new("t", "one more").qos(1);
    assert!(publisher.publish(message).await < 0x80);
    assert!(written(&log).0 > syncs_then, "no sync before PUBACK");
    let dir = gateway.kill().await;
    let gateway = setup("power-loss").start_in(dir).await;
    let mut reader = gateway.connect(connect).await;
    assert_eq!(reader.receive().await.text(), "one more");
    reader.nothing_came().await;
    gateway.stop().await;
}
