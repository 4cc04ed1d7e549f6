//! I3: passwords wait for their check without losing their connection, and strangers cannot fill the log.

use postern_tests::client::tcp;
use postern_tests::packet::Version;
use postern_tests::scope::own_address;

use super::*;

/// CONNECTs of one user with a chosen password, all at once from addresses of their own; their codes.
async fn together(gateway: &Gateway, count: usize, version: Version) -> Vec<u8> {
    let mut clients = Vec::new();
    for n in 0..count {
        let stream = tcp(Some(own_address()), gateway.addresses.mqtt).await;
        let mut client = Client::over(stream, version);
        let connect = Connect::new(version, &format!("c{n}")).user("chosen", "correct horse");
        client.send(&connect.bytes()).await;
        clients.push(client);
    }
    let mut codes = Vec::new();
    for mut client in clients {
        match within_time("CONNACK", SOON, client.next()).await {
            Some(Packet::ConnAck(connack)) => codes.push(connack.code),
            other => panic!("instead of CONNACK came {other:?}"),
        }
    }
    codes
}

// I3
#[tokio::test]
async fn waiting_for_a_password_check_does_not_count_against_the_deadline_for_connect() {
    let setup =
        "[limits]\nconnect_timeout = \"150ms\"\n[auth]\npassword_slots = 1\npassword_cache = 0\n";
    let gateway = gateway(setup).await;
    gateway.add_user_with("chosen", "correct horse", &[]).await;
    let start = std::time::Instant::now();
    let codes = together(&gateway, 40, Version::V311).await;
    assert!(
        codes.iter().all(|code| *code == 0 || *code == 3),
        "{codes:?}"
    );
    let took = start.elapsed();
    assert!(took > Duration::from_millis(300), "{took:?} prove nothing");
    // The same user's sessions are limited to ten: those who were let in had their password checked.
    assert!(codes.iter().filter(|code| **code == 0).count() >= 10);
}

// I3
#[tokio::test]
async fn more_passwords_than_may_wait_are_told_to_come_back() {
    let setup = "[auth]\npassword_slots = 1\npassword_queue = 2\npassword_cache = 0\n";
    let gateway = gateway(setup).await;
    gateway.add_user_with("chosen", "correct horse", &[]).await;
    let mut watcher = watcher(&gateway).await;
    for (version, busy) in [(Version::V5, 0x89), (Version::V311, 3)] {
        let codes = together(&gateway, 30, version).await;
        assert!(codes.contains(&0) && codes.contains(&busy), "{codes:02x?}");
    }
    metric(&mut watcher, "logins_busy", |n| n >= 2).await;
    metric(&mut watcher, "logins_waiting", |n| n == 0).await;
    // Who was told to come back has not failed.
    metric(&mut watcher, "logins_failed", |n| n == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_gives_its_place_back() {
    let setup = "[auth]\npassword_slots = 1\npassword_queue = 3\npassword_cache = 0\n";
    let gateway = gateway(setup).await;
    gateway.add_user_with("chosen", "correct horse", &[]).await;
    let connect = Connect::v5("gone").user("chosen", "correct horse");
    for _ in 0..100 {
        drop(say(gateway.addresses.mqtt, own_address(), &connect.bytes()).await);
    }
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "logins_waiting", |n| n == 0).await;
    let code = login(&gateway, own_address(), &connect).await;
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn refused_strangers_cannot_fill_the_log() {
    let gateway = gateway("[bans]\nenabled = false\n").await;
    let address = own_address();
    for n in 0..300 {
        let guess = wrong(&format!("guess-{n}"));
        // The password queue may be full.
        let code = login(&gateway, address, &guess).await;
        assert!(matches!(code, Some(0x86 | 0x89)), "{code:02x?}");
    }
    let written = lines(&gateway, "not connected");
    assert!((1..=20).contains(&written), "{written} lines");
    // Another address still has its line.
    let other = own_address();
    login(&gateway, other, &wrong("x")).await;
    logged(&gateway, &format!("peer={other}:")).await;
    let mut watcher = watcher(&gateway).await;
    metric(&mut watcher, "complaints_left_out", |n| n >= 280).await;
}
