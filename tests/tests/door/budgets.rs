//! What a connection may cost: how many, how fast, how long, and what happens when the gateway has more to do than it
//! can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern_tests::client::tcp;
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;

use super::*;

#[tokio::test]
async fn an_address_connects_as_often_as_the_bucket_allows_and_others_are_not_touched() {
    let gateway = gateway("[limits]\nconnection_rate = 1\nconnection_burst = 5\n").await;
    let (one, other) = (own_address(), own_address());
    let mut codes = Vec::new();
    for n in 0..8 {
        codes.push(login(&gateway, one, &good(&gateway, &format!("c{n}"))).await);
    }
    assert_eq!(codes[..5], [Some(0); 5]);
    assert!(codes[5..].contains(&None), "{codes:?}");
    assert_eq!(login(&gateway, other, &good(&gateway, "o")).await, Some(0));
    until_some("a token", async || {
        login(&gateway, one, &good(&gateway, "again")).await
    })
    .await;
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "connections_too_often", |n| n > 0).await;
}

#[tokio::test]
async fn connections_without_a_login_have_a_limit_of_their_own_for_each_address() {
    let gateway = gateway("[limits]\nmax_connecting_per_address = 3\n").await;
    let (one, other) = (own_address(), own_address());
    let mut clients = Vec::new();
    // Who has logged in does not count.
    for n in 0..5 {
        let stream = tcp(Some(one), gateway.addresses.mqtt).await;
        let (code, client) = login_on(stream, &good(&gateway, &format!("c{n}")))
            .await
            .expect("an answer");
        assert_eq!(code, 0);
        clients.push(client);
    }
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tcp(Some(one), gateway.addresses.mqtts).await);
    }
    assert!(is_closed(tcp(Some(one), gateway.addresses.mqtts).await).await);
    assert_eq!(login(&gateway, other, &good(&gateway, "o")).await, Some(0));
    silent.pop();
    until_some("the place of one that left", async || {
        login(&gateway, one, &good(&gateway, "again")).await
    })
    .await;
}

#[tokio::test]
async fn sockets_that_say_nothing_hold_no_place_of_a_handshake() {
    let gateway = gateway("[limits]\nmax_handshakes = 4\ntls_timeout = \"1m\"\n").await;
    let (one, other) = (own_address(), own_address());
    let mut silent = Vec::new();
    for n in 0..200 {
        let address = if n % 2 == 0 { one } else { other };
        let some = &client_hello(&gateway)[..n % 50];
        silent.push(say(gateway.addresses.mqtts, address, some).await);
    }
    // Neither those of other addresses nor those of the same one wait for them.
    for address in [one, own_address()] {
        let stream = tcp(Some(address), gateway.addresses.mqtts).await;
        let stream = tls_over(&gateway, stream).await.expect("a handshake");
        let (code, _) = login_on(stream, &good(&gateway, "c"))
            .await
            .expect("CONNACK");
        assert_eq!(code, 0);
    }
}

#[tokio::test]
async fn handshakes_that_stall_lose_their_places_to_those_who_wait() {
    let gateway = gateway("[limits]\nmax_handshakes = 4\ntls_timeout = \"6s\"\n").await;
    let mut stalled = Vec::new();
    let hello = client_hello(&gateway);
    for _ in 0..4 {
        stalled.push(say(gateway.addresses.mqtts, own_address(), &hello).await);
    }
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "handshakes", |n| n == 4).await;
    let stream = tcp(None, gateway.addresses.mqtts).await;
    let stream = tls_over(&gateway, stream).await.expect("a handshake");
    let (code, _) = login_on(stream, &good(&gateway, "c"))
        .await
        .expect("CONNACK");
    assert_eq!(code, 0);
    metric(&mut watcher, "handshakes_stalled", |n| n >= 1).await;
}

/// Lets the gateway run a few milliseconds at a time only, with pauses in between.
struct Starved {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Starved {
    fn begin(gateway: &Gateway, pause: Duration) -> Starved {
        let over = Arc::new(AtomicBool::new(false));
        let (watched, pid) = (over.clone(), gateway.process.pid() as libc::pid_t);
        let thread = std::thread::spawn(move || {
            while !watched.load(Ordering::Relaxed) {
                // SAFETY: kill takes two integers and touches no memory of ours.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
                std::thread::sleep(pause);
                unsafe { libc::kill(pid, libc::SIGCONT) };
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        Starved {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tokio::test]
async fn a_gateway_that_lags_turns_new_connections_away_and_keeps_the_old_ones() {
    let gateway = gateway("[limits]\nmax_lag = \"200ms\"\n").await;
    let mut old = gateway.v5("old").await;
    let starved = Starved::begin(&gateway, Duration::from_millis(400));
    let start = std::time::Instant::now();
    let mut turned_away = false;
    while !turned_away {
        assert!(start.elapsed() < SOON, "nobody was turned away");
        let stream = tcp(None, gateway.addresses.mqtt).await;
        turned_away = login_on(stream, &good(&gateway, "new")).await.is_none();
    }
    old.ping().await;
    drop(starved);
    until_some("the door to be open again", async || {
        login(&gateway, own_address(), &good(&gateway, "new")).await
    })
    .await;
    old.ping().await;
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "connections_shed", |n| n >= 1).await;
    metric(&mut watcher, "lag_us", |n| n < 200_000).await;
}

#[tokio::test]
async fn one_stall_only_makes_new_connections_wait() {
    let gateway = gateway("[limits]\nmax_lag = \"200ms\"\n").await;
    let mut old = gateway.v5("old").await;
    gateway.process.freeze().await.expect("stopped");
    // They come while the gateway does not run, wait in the kernel, and are served when it does.
    let (one, other) = (own_address(), own_address());
    let connect = good(&gateway, "new");
    let (first, second, ()) = tokio::join!(
        login(&gateway, one, &connect),
        login(&gateway, other, &connect),
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            gateway.process.signal(libc::SIGCONT);
        }
    );
    assert!(first.is_some() && second.is_some(), "{first:?} {second:?}");
    old.ping().await;
}
