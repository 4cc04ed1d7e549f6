//! How long does a start take with everything that a busy gateway may have kept? 100,000 sessions, 1,000,000 messages that
//! wait for them and 100,000 retained messages: clients are accepted within five seconds, in bounded memory.

use std::path::Path;
use std::time::{Duration, Instant};

use postern_tests::packet::{Packet, Version};
use postern_tests::peer::Tool;
use postern_tests::wait::within;
use postern_tests::{Client, Connect, Gateway, Publish, Setup};

const SESSIONS: usize = 100_000;
const MESSAGES: usize = 1_000_000;
const RETAINED: usize = 100_000;

/// Messages for each copied session, and for the one with a deep queue.
const EACH: usize = 9;
const DEEP: usize = MESSAGES - (SESSIONS - 2) * EACH;

/// The promise is for a release build; unoptimised code may take some times longer.
const START: Duration = Duration::from_secs(if cfg!(debug_assertions) { 25 } else { 5 });
const MEMORY_KIB: u64 = 400 * 1024;

/// Messages in flight to the gateway.
const WINDOW: usize = 200;

fn setup() -> Setup {
    Setup::new().toml(
        "[limits]\nmax_sessions_per_principal = 1000000\nmax_sessions = 200000\nmax_queued_messages = 1000000\n\
         max_queued_bytes = \"1GiB\"\nmax_stored_messages = 2000000\nmax_retained_messages = 200000\n\
         [sys]\ninterval = \"1s\"\n",
    )
}

fn lasting(client_id: &str) -> Connect {
    Connect::v5(client_id).persistent(86_400)
}

/// Publishes `count` numbered messages, many at once.
async fn publish(client: &mut Client, topic: &str, count: usize) {
    for from in (0..count).step_by(WINDOW) {
        let numbers = from..count.min(from + WINDOW);
        let mut bytes = Vec::new();
        for n in numbers.clone() {
            let message = Publish::new(topic, &n.to_string()).qos(1);
            bytes.extend(message.id(1 + (n - from) as u16).bytes(Version::V5));
        }
        client.send(&bytes).await;
        for _ in numbers {
            match client.packet().await {
                Packet::PubAck(ack) => assert!(ack.code < 0x80, "{ack:?}"),
                other => panic!("instead of PUBACK came {other:?}"),
            }
        }
    }
}

async fn session(gateway: &Gateway, client_id: &str, topic: &str) {
    let mut client = gateway.connect(lasting(client_id)).await;
    assert_eq!(client.subscribe(topic, 1).await, 1);
    client.disconnect().await;
}

async fn multiply(database: &Path) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/startup_scale/multiply.py"
    );
    let copies = (SESSIONS - 2).to_string();
    Tool::new("python3")
        .arg(script)
        .arg(database)
        .args([&copies, &RETAINED.to_string()])
        .run()
        .await
        .expect_success();
}

/// The queue of a session is whole and in order.
async fn drain(gateway: &Gateway, client_id: &str, count: usize) {
    let mut client = gateway.connect(lasting(client_id)).await;
    assert!(client.connack.session_present, "{client_id}");
    for n in 0..count {
        assert_eq!(client.receive().await.text(), n.to_string(), "{client_id}");
    }
    client.nothing_came().await;
    client.disconnect().await;
}

async fn metric(client: &mut Client, name: &str) -> u64 {
    let topic = format!("$SYS/postern/{name}");
    client.subscribe(&topic, 0).await;
    client.receive().await.text().parse().expect("a number")
}

#[tokio::test]
async fn a_start_with_everything_kept_accepts_clients_within_five_seconds_in_bounded_memory() {
    let gateway = setup().start().await;
    session(&gateway, "template", "q").await;
    session(&gateway, "deep", "deep").await;
    let mut publisher = gateway.v5("publisher").await;
    publish(&mut publisher, "q", EACH).await;
    publish(&mut publisher, "deep", DEEP).await;
    let retained = Publish::new("r/000000", "the same everywhere")
        .qos(1)
        .retain();
    assert!(publisher.publish(retained).await < 0x80);
    drop(publisher);
    let dir = gateway.stop().await;
    let database = dir.path().join("data/messages.db");
    multiply(&database).await;
    let size = std::fs::metadata(&database).expect("the database").len();

    let begin = Instant::now();
    let gateway = setup().start_in(dir).await;
    let client = gateway.connect(lasting("copy-050000")).await;
    let took = begin.elapsed();
    let resident = gateway.process.resident_kib();
    println!(
        "{SESSIONS} sessions, {MESSAGES} messages, {RETAINED} retained messages, {} MB on disk: accepted after {took:?}, \
         {} MB resident",
        size >> 20,
        resident >> 10
    );
    assert!(client.connack.session_present);
    assert!(took < START, "the first CONNACK came after {took:?}");
    assert!(resident < MEMORY_KIB, "{resident} KiB are resident");
    drop(client);

    for number in ["000000", "000007", "099997"] {
        drain(&gateway, &format!("copy-{number}"), EACH).await;
    }
    drain(&gateway, "template", EACH).await;
    within_a_minute(drain(&gateway, "deep", DEEP)).await;
    let mut looks = gateway.v5("looks").await;
    for topic in ["r/000000", "r/000001", "r/099999"] {
        looks.subscribe(topic, 0).await;
        let kept = within("a retained message", looks.receive()).await;
        assert_eq!(
            (kept.topic.as_str(), kept.text()),
            (topic, "the same everywhere")
        );
    }
    // With the two clients of this test, or without them.
    let sessions = metric(&mut looks, "sessions").await as usize;
    assert!(
        (SESSIONS..SESSIONS + 3).contains(&sessions),
        "{sessions} sessions"
    );
    let retained = metric(&mut looks, "retained_messages").await as usize;
    assert!(
        (RETAINED..RETAINED + 500).contains(&retained),
        "{retained} retained"
    );
    let resident = gateway.process.resident_kib();
    println!(
        "after draining {DEEP} messages: {} MB resident",
        resident >> 10
    );
    assert!(resident < MEMORY_KIB, "{resident} KiB are resident");
    gateway.stop().await;
}

async fn within_a_minute(work: impl Future<Output = ()>) {
    let minute = Duration::from_secs(60);
    postern_tests::wait::within_time("a deep queue to arrive", minute, work).await;
}
