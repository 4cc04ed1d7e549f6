//! Does a crash of the process cost anything that was acknowledged? The short version of `tests/crash/run`: the real
//! gateway is killed some ten times under load. Which setting must survive that, and which must not, rule D6 says.

use postern_crash::{Durability, Options, Report, run};
use tokio::sync::Mutex;

const KILLS: u64 = 10;
/// Runs that show no loss, after which `none` counts as safe, which it must not be. On a quiet machine about every
/// second one shows one: the writer is seldom far behind.
const ATTEMPTS: u64 = 16;

/// One run at a time: two would only slow each other down.
static TURN: Mutex<()> = Mutex::const_new(());

async fn crash(durability: Durability, network_only: bool) -> Report {
    let _turn = TURN.lock().await;
    let options = Options {
        durability,
        network_only,
        max_uptime: 900,
        binary: Some(postern_tests::gateway::binary()),
        ..Options::kills(KILLS)
    };
    let report = run(&options).await.unwrap_or_else(|e| panic!("{e}"));
    println!("{report}");
    report
}

fn assert_kept(report: &Report) {
    assert!(report.is_clean(), "the promise was broken:\n{report}");
    assert_eq!(report.counts.refused.get(), 0, "nothing was refused");
    for qos in [1, 2] {
        let acknowledged = report.counts.acknowledged[qos].get();
        assert!(
            acknowledged > 100,
            "QoS {qos}: only {acknowledged} acknowledged"
        );
    }
    assert!(
        report.verdict.expected > 1000,
        "too few deliveries were owed"
    );
    assert!(
        report.counts.sessions_resumed.get() > KILLS,
        "sessions were resumed"
    );
}

// D1, D2, D3, D4, D6, D10, D11, S4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_by_sigkill_with_durability_power_loss() {
    assert_kept(&crash(Durability::PowerLoss, false).await);
}

// D6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_by_sigkill_with_durability_process_crash() {
    assert_kept(&crash(Durability::ProcessCrash, false).await);
}

// D6: if this kept everything, the two tests above would prove nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sigkill_breaks_the_promise_with_durability_none() {
    for _ in 0..ATTEMPTS {
        if crash(Durability::None, false).await.shows_loss() {
            return;
        }
    }
    panic!(
        "{} kills lost nothing: the harness sees no loss",
        KILLS * ATTEMPTS
    );
}

// The other half of the proof: without a crash, the same clients find nothing to complain about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_alone_lose_and_double_nothing() {
    assert_kept(&crash(Durability::ProcessCrash, true).await);
}
