//! What can a hostile client do to the others? Attack after attack against a live gateway, while a well-behaved pair
//! exchanges a QoS 1 message every 20 ms: nothing may be lost, no gap may exceed 250 ms, and the memory comes back.

mod attacks;
mod pair;

use std::future::Future;
use std::time::{Duration, Instant};

use pair::Pair;
use postern_tests::{Gateway, Setup};

/// The longest time between two messages of the pair.
const LONGEST_GAP: Duration = Duration::from_millis(250);
/// How much more memory than before the attacks the gateway may keep: what the allocator holds back, no more.
const MEMORY_KEPT_KIB: u64 = 48 * 1024;
/// Deadlines of the gateway, shortened so that their effect can be awaited.
const TIMEOUTS: &str =
    "[limits]\ntls_timeout = \"4s\"\nconnect_timeout = \"4s\"\nmax_sessions_per_principal = 5000\n";

/// Runs one attack, and prints and checks what the pair felt.
async fn under(pair: &Pair, gateway: &Gateway, name: &str, attack: impl Future<Output = ()>) {
    pair.start_measuring();
    let start = Instant::now();
    attack.await;
    let felt = pair.measured();
    println!(
        "{name:<44} {:>6.1} s  {:>5} messages  longest gap {:>4} ms  own stall {:>4} ms  {:>6} KiB",
        start.elapsed().as_secs_f64(),
        felt.messages,
        felt.longest_gap.as_millis(),
        felt.own_stall.as_millis(),
        gateway.process.resident_kib(),
    );
    // When the machine did not even run this test's own clock, that is not the gateway's doing.
    let gap = felt.longest_gap.saturating_sub(felt.own_stall);
    assert!(gap <= LONGEST_GAP, "{name}: {gap:?} without a message");
    assert!(felt.messages > 0, "{name}: no message at all");
}

/// The attacks hold more sockets than the usual soft limit allows.
fn raise_file_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid pointer to a structure that outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    assert!(
        raised && limit.rlim_cur >= 4096,
        "4,096 open files are needed, {} are allowed",
        limit.rlim_cur
    );
}

// The whole hostile suite: N1, N4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_behaved_pair_does_not_notice_any_attack() {
    raise_file_limit();
    let gateway = Setup::new().toml(TIMEOUTS).start().await;
    let pair = Pair::start(&gateway).await;
    // The first connections of each kind make the gateway and this test allocate what they keep.
    attacks::violations(&gateway).await;
    let (memory, files) = (gateway.process.resident_kib(), gateway.process.open_files());

    let g = &gateway;
    under(&pair, g, "garbage on every port", attacks::garbage(g)).await;
    under(&pair, g, "packets cut at every byte", attacks::truncated(g)).await;
    under(&pair, g, "protocol violations", attacks::violations(g)).await;
    under(
        &pair,
        g,
        "huge remaining length, then silence",
        attacks::huge_then_silence(g),
    )
    .await;
    under(
        &pair,
        g,
        "a large packet begun, then silence",
        attacks::large_then_silence(g),
    )
    .await;
    under(
        &pair,
        g,
        "one byte per second",
        attacks::one_byte_per_second(g),
    )
    .await;
    under(&pair, g, "half-open TLS", attacks::half_open_tls(g)).await;
    under(
        &pair,
        g,
        "1,000 sockets that never CONNECT",
        attacks::never_connect(g),
    )
    .await;
    under(&pair, g, "64 KB topics", attacks::long_topics(g)).await;
    under(&pair, g, "10,000 filters", attacks::many_filters(g)).await;
    under(
        &pair,
        g,
        "a subscriber that never reads",
        attacks::deaf_subscriber(g),
    )
    .await;
    under(&pair, g, "wrong passwords", attacks::wrong_passwords(g)).await;
    under(
        &pair,
        g,
        "TLS handshakes that end at once",
        attacks::handshake_storm(g),
    )
    .await;
    under(
        &pair,
        g,
        "connections reset in mid-flight",
        attacks::resets(g),
    )
    .await;
    under(
        &pair,
        g,
        "WebSocket handshakes gone wrong",
        attacks::bad_upgrades(g),
    )
    .await;
    under(
        &pair,
        g,
        "a flood of retained messages",
        attacks::retained_flood(g),
    )
    .await;
    under(&pair, g, "takeovers in a row", attacks::takeovers(g)).await;
    under(&pair, g, "all at once", attacks::all_at_once(g)).await;

    attacks::settled(&gateway, "sockets", || {
        gateway.process.open_files() <= files + 8
    })
    .await;
    attacks::settled(&gateway, "memory", || {
        gateway.process.resident_kib() <= memory + MEMORY_KEPT_KIB
    })
    .await;
    println!(
        "memory before {memory} KiB, after {} KiB; open files before {files}, after {}",
        gateway.process.resident_kib(),
        gateway.process.open_files()
    );
    let report = pair.stop().await;
    println!(
        "the pair: {} messages sent, {} received in order, none twice",
        report.sent, report.received
    );
    assert_eq!(report.sent, report.received, "nothing is lost");
}
