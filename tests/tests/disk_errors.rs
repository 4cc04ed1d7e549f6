//! What if the disk is full, or fails? The gateway stays up, says so, refuses what it cannot keep, and recovers when the
//! disk does (D7). Needs root for a small file system in memory, and a C compiler for the disk that fails.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postern_tests::disk::{Mount, shim};
use postern_tests::packet::{Packet, Reason};
use postern_tests::wait::until_some;
use postern_tests::{Client, Connect, Gateway, Publish, Setup};
use tempfile::TempDir;

/// `store.retry` of these tests.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer may take beyond that.
const PATIENCE: Duration = Duration::from_secs(10);
const BODY: usize = 20_000;
/// What a v5 publisher is told: quota exceeded; of other errors implementation specific error.
const FULL: u8 = 0x97;
const BROKEN: u8 = 0x83;

fn setup(retry: Duration) -> Setup {
    Setup::new().toml(&format!(
        "[store]\nretry = \"{}ms\"\n[sys]\ninterval = \"1s\"\n\
         [limits]\nmax_sessions_per_principal = 1000\nmax_queued_messages = 1000000\nmax_queued_bytes = \"1GiB\"\n",
        retry.as_millis()
    ))
}

fn body(number: usize) -> String {
    format!("{number} {}", "z".repeat(BODY))
}

fn number(publish: &Publish) -> usize {
    let number = publish
        .text()
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok());
    number.expect("a number")
}

/// A session that is away, for which every QoS 1 and 2 message must be stored.
async fn absent_reader(gateway: &Gateway) {
    let mut reader = gateway
        .connect(Connect::v5("reader").persistent(3600))
        .await;
    assert_eq!(reader.subscribe("q/#", 2).await, 2);
    reader.disconnect().await;
}

/// A publisher of numbered messages to the absent session.
struct Filler {
    client: Client,
    /// Its session is kept, and so are its subscriptions.
    lasting: Client,
    next: usize,
    /// What was acknowledged.
    kept: Vec<usize>,
}

impl Filler {
    async fn new(gateway: &Gateway) -> Self {
        let client = gateway.v5("filler").await;
        let lasting = Connect::v5("lasting").persistent(3600);
        let lasting = gateway.connect(lasting).await;
        Self {
            client,
            lasting,
            next: 0,
            kept: Vec::new(),
        }
    }

    /// Publishes one message at QoS 1 or 2, in turn; its reason code.
    async fn publish(&mut self) -> u8 {
        self.publish_at(1 + (self.next % 2) as u8).await
    }

    /// What is on its way at QoS 2 when the disk fails has no answer before it heals.
    async fn publish_at(&mut self, qos: u8) -> u8 {
        let message = Publish::new("q/t", &body(self.next)).qos(qos);
        let code = self.client.publish(message).await;
        if code < 0x80 {
            self.kept.push(self.next);
        }
        self.next += 1;
        code
    }

    /// Until the gateway takes one again.
    async fn until_taken(&mut self) {
        until_some("the gateway to take messages again", async || {
            (self.publish().await < 0x80).then_some(())
        })
        .await;
    }
}

/// Clean sessions at QoS 0 need no disk.
async fn qos_0_is_served(gateway: &Gateway) {
    let mut listener = gateway.v5("listener").await;
    listener.subscribe("live", 0).await;
    let mut speaker = gateway.v5("speaker").await;
    speaker.publish(Publish::new("live", "still here")).await;
    assert_eq!(listener.receive().await.text(), "still here");
}

/// A v3 client cannot be told why: it is disconnected, and its message not acknowledged.
async fn v3_is_disconnected(gateway: &Gateway) {
    for qos in [1, 2] {
        let mut client = gateway.v311("old").await;
        client
            .start_publish(Publish::new("q/v3", &body(0)).qos(qos))
            .await;
        let answer = client
            .next_within("the end of the connection", PATIENCE)
            .await;
        assert_eq!(answer, None, "QoS {qos}");
    }
}

/// What `$SYS/postern/NAME` says next.
async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let mut client = gateway.v5("metrics").await;
    client.subscribe(&format!("$SYS/postern/{name}"), 0).await;
    // The retained value may be older than what is asked for; the next one is not.
    let retained = client.receive().await;
    let value = if retained.retain {
        client.receive().await
    } else {
        retained
    };
    value.text().parse().expect("a number")
}

async fn metric_becomes(gateway: &Gateway, name: &str, wanted: u64) {
    until_some(&format!("{name} to become {wanted}"), async || {
        (metric(gateway, name).await == wanted).then_some(())
    })
    .await;
}

/// Everything that was acknowledged is there, in order, also for the next gateway.
async fn everything_kept_is_there(gateway: &Gateway, kept: &[usize]) {
    let mut reader = gateway
        .connect(Connect::v5("reader").persistent(3600))
        .await;
    assert!(reader.connack.session_present);
    reader.subscribe("end", 1).await;
    reader.publish(Publish::new("end", "").qos(1)).await;
    let came = reader.receive_until("end").await;
    let mut numbers = Vec::new();
    for publish in came.iter().filter(|publish| publish.topic == "q/t") {
        assert!(
            publish.text() == body(number(publish)),
            "a message is damaged"
        );
        numbers.push(number(publish));
    }
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "doubled or out of order: {numbers:?}"
    );
    // A refused message may be there: it had its place before the disk refused it.
    let missing: Vec<_> = kept.iter().filter(|n| !numbers.contains(n)).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} were acknowledged and are lost"
    );
}

fn says(gateway: &Gateway, part: &str) -> bool {
    let lines = gateway.process.log().lines();
    lines.iter().any(|line| line.contains(part))
}

/// The answers while the store fails for longer than `store.retry`.
async fn refusals(gateway: &Gateway, filler: &mut Filler, expected: u8) {
    metric_becomes(gateway, "store_failing", 1).await;
    let errors = metric(gateway, "store_errors").await;
    assert!(errors > 0);
    assert!(says(gateway, "the message store cannot write"));
    assert!(says(gateway, "QoS 1 and 2 are refused"));
    // Before dispatch, so at once.
    let start = Instant::now();
    for _ in 0..2 {
        let code = filler.publish().await;
        assert_eq!(code, expected, "refused with {code:#04x}");
    }
    let granted = filler.lasting.subscribe("more", 1).await;
    assert_eq!(granted, expected, "a subscription that is kept");
    let took = start.elapsed();
    assert!(
        took < RETRY,
        "refusing two messages and a subscription took {took:?}"
    );
    v3_is_disconnected(gateway).await;
    qos_0_is_served(gateway).await;
    let health = gateway.cli(&["health"], "").await;
    assert!(!health.status.success(), "{health}");
    assert!(
        health.stdout.contains("the disk of the message store"),
        "{health}"
    );
}

async fn recovery(gateway: &Gateway, filler: &mut Filler) {
    filler.until_taken().await;
    metric_becomes(gateway, "store_failing", 0).await;
    for _ in 0..4 {
        assert!(filler.publish().await < 0x80);
    }
    assert_eq!(filler.lasting.subscribe("more", 1).await, 1);
    assert!(says(gateway, "the message store writes again"));
    let health = gateway.cli(&["health"], "").await.expect_success();
    assert_eq!(health.stdout, "healthy\n");
    qos_0_is_served(gateway).await;
}

// D7
#[tokio::test]
async fn a_full_disk_refuses_what_must_be_kept_and_recovers_when_there_is_space() {
    let disk = Mount::memory(16 << 20).unwrap_or_else(|e| panic!("{e}"));
    let data = disk.path().join("data");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![7; 8 << 20]).expect("half of the disk");
    let gateway = setup(RETRY).data_in(&data).start().await;
    absent_reader(&gateway).await;
    let mut filler = Filler::new(&gateway).await;
    let code = loop {
        let start = Instant::now();
        let code = filler.publish_at(1).await;
        if code >= 0x80 {
            let took = start.elapsed();
            assert!(took >= RETRY / 2, "it was refused after {took:?} already");
            break code;
        }
        assert!(filler.next < 2000, "40 MB fitted on a disk of 16 MiB");
    };
    assert_eq!(code, FULL, "refused with {code:#04x}");
    assert!(filler.kept.len() > 20, "only {} fitted", filler.kept.len());
    refusals(&gateway, &mut filler, FULL).await;
    std::fs::remove_file(&ballast).expect("it is there");
    recovery(&gateway, &mut filler).await;
    let dir = gateway.kill().await;
    let gateway = setup(RETRY).data_in(&data).start_in(dir).await;
    everything_kept_is_there(&gateway, &filler.kept).await;
    gateway.stop().await;
}

/// A gateway on a disk that fails as the file says.
struct Failing {
    gateway: Gateway,
    switch: PathBuf,
    _dir: TempDir,
}

impl Failing {
    async fn start(retry: Duration) -> Self {
        let dir = TempDir::with_prefix("postern-switch-").expect("a temporary folder");
        let switch = dir.path().join("fails");
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let gateway = setup(retry)
            .env("LD_PRELOAD", &text(shim()))
            .env("DISK_SHIM_FAIL", &text(&switch))
            .start()
            .await;
        Self {
            gateway,
            switch,
            _dir: dir,
        }
    }

    fn fail(&self, what: &str) {
        // In one step: the gateway must not see half of it.
        let new = self.switch.with_extension("new");
        std::fs::write(&new, what).expect("the switch can be written");
        std::fs::rename(&new, &self.switch).expect("the switch can be set");
    }

    fn heal(&self) {
        std::fs::remove_file(&self.switch).expect("it was set");
    }
}

// D7: what fails is a sync, a write, or the space.
#[tokio::test]
async fn a_disk_that_fails_for_long_refuses_what_must_be_kept_and_recovers() {
    for (what, expected) in [("sync", BROKEN), ("write", BROKEN), ("full", FULL)] {
        let failing = Failing::start(RETRY).await;
        let gateway = &failing.gateway;
        absent_reader(gateway).await;
        let mut filler = Filler::new(gateway).await;
        for _ in 0..5 {
            assert!(filler.publish().await < 0x80);
        }
        failing.fail(what);
        let code = filler.publish_at(1).await;
        assert_eq!(code, expected, "{what}: {code:#04x}");
        refusals(gateway, &mut filler, expected).await;
        failing.heal();
        recovery(gateway, &mut filler).await;
        let dir = failing.gateway.kill().await;
        let gateway = setup(RETRY).start_in(dir).await;
        everything_kept_is_there(&gateway, &filler.kept).await;
        gateway.stop().await;
    }
}

// D7, D3: refused, it would arrive all the same, and again when it is sent again.
#[tokio::test]
async fn a_qos_2_message_on_its_way_waits_for_the_disk_and_arrives_once() {
    let failing = Failing::start(RETRY).await;
    let gateway = &failing.gateway;
    gateway.expect_error("the message store");
    absent_reader(gateway).await;
    let mut writer = gateway
        .connect(Connect::v5("writer").persistent(3600))
        .await;
    failing.fail("write");
    let message = Publish::new("q/t", &body(1)).qos(2);
    let (_, id) = writer.start_publish(message).await;
    metric_becomes(gateway, "store_failing", 1).await;
    writer.nothing_came().await;
    failing.heal();
    assert_eq!(writer.pubrec(id).await.code, 0);
    let dir = failing.gateway.kill().await;
    let gateway = setup(RETRY).start_in(dir).await;
    everything_kept_is_there(&gateway, &[1]).await;
    gateway.stop().await;
}

// D7: a failed batch is written again, and who waits for it does not learn of it.
#[tokio::test]
async fn a_disk_that_fails_for_a_moment_delays_and_refuses_nothing() {
    for what in ["sync", "write", "full"] {
        let failing = Failing::start(Duration::from_secs(10)).await;
        let gateway = &failing.gateway;
        gateway.expect_error("the message store cannot");
        absent_reader(gateway).await;
        let mut filler = Filler::new(gateway).await;
        let mut retained = gateway.v5("retained").await;
        for _ in 0..3 {
            failing.fail(what);
            let pause = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                failing.heal();
            };
            let start = Instant::now();
            let message = Publish::new("kept", &filler.next.to_string())
                .qos(1)
                .retain();
            let (code, retained, ()) =
                tokio::join!(filler.publish(), retained.publish(message), pause);
            assert!(code < 0x80, "{what}: {code:#04x}");
            assert!(retained < 0x80, "{what}: {retained:#04x}");
            let took = start.elapsed();
            assert!(
                took >= Duration::from_millis(300),
                "{what}: acknowledged after {took:?}"
            );
            assert!(filler.publish().await < 0x80);
        }
        let last = filler.next - 2;
        let dir = failing.gateway.kill().await;
        let gateway = setup(RETRY).start_in(dir).await;
        everything_kept_is_there(&gateway, &filler.kept).await;
        let mut client = gateway.v5("looks").await;
        client.subscribe("kept", 0).await;
        assert_eq!(client.receive().await.text(), last.to_string());
        gateway.stop().await;
    }
}

// D1, D7: a session that cannot be kept is not promised, and one that needs no disk is let in.
#[tokio::test]
async fn no_connack_promises_a_session_that_cannot_be_stored() {
    let failing = Failing::start(RETRY).await;
    let gateway = &failing.gateway;
    gateway.expect_error("the message store");
    failing.fail("write");
    let login = gateway.login(&Connect::v5("lasting").persistent(3600));
    let mut client = gateway.open().await;
    client.send(&login.bytes()).await;
    let answer = client.next_within("an answer to CONNECT", PATIENCE).await;
    match answer {
        None => {}
        Some(Packet::ConnAck(connack)) => assert!(connack.code >= 0x80, "{connack:?}"),
        Some(Packet::Disconnect(Reason { code, .. })) => assert!(code >= 0x80),
        Some(other) => panic!("CONNECT was answered with {other:?}"),
    }
    qos_0_is_served(gateway).await;
    failing.heal();
    let again = until_some("the gateway to store sessions again", async || {
        let client = gateway
            .try_connect(&Connect::v5("lasting").persistent(3600))
            .await;
        (client.connack.code == 0).then_some(client)
    })
    .await;
    drop(again);
}

// D7, S4: a CONNECT that would end a session, whose messages other members of a shared group are to have, is answered
// while the disk does not give them; and its end comes when it does.
#[tokio::test]
async fn a_clean_start_of_a_member_of_a_shared_group_is_refused_in_words_while_the_disk_fails() {
    let failing = Failing::start(RETRY).await;
    let gateway = &failing.gateway;
    gateway.expect_error("the message store");
    let members = [
        Connect::v5("five").persistent(3600),
        Connect::v311("three").clean(false),
    ];
    for member in &members {
        let mut client = gateway.connect(member.clone()).await;
        assert_eq!(client.subscribe("$share/g/q/#", 1).await, 1);
        client.disconnect().await;
    }
    absent_reader(gateway).await;
    let mut filler = Filler::new(gateway).await;
    for _ in 0..6 {
        assert!(filler.publish().await < 0x80);
    }
    failing.fail("write");
    assert_eq!(filler.publish_at(1).await, BROKEN);
    for (anew, code) in [(Connect::v5("five"), 0x88), (Connect::v311("three"), 3)] {
        // The second attempt finds a session that is to end.
        for _ in 0..2 {
            let began = Instant::now();
            assert_eq!(gateway.try_connect(&anew).await.connack.code, code);
            assert!(began.elapsed() < PATIENCE);
        }
    }
    qos_0_is_served(gateway).await;
    failing.heal();
    for anew in [Connect::v5("five"), Connect::v311("three")] {
        let client = until_some("the end of the session before", async || {
            let client = gateway.try_connect(&anew).await;
            (client.connack.code == 0).then_some(client)
        })
        .await;
        assert!(!client.connack.session_present);
        client.disconnect().await;
    }
}
