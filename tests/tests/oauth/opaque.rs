//! Opaque tokens: the issuer is asked about them, again and again.

use std::time::{Duration, Instant};

use postern_tests::client::tcp;
use postern_tests::packet::Will;
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;
use postern_tests::{Connect, Publish};
use tokio::io::AsyncWriteExt;

use crate::world::*;

// I4, P3
#[tokio::test]
async fn a_revoked_token_ends_its_connection_within_the_interval_and_its_will_is_not_sent() {
    let issuer = Issuer::start().await;
    let (gateway, _dir) = asking_gateway(&issuer, "revalidate_every = \"3s\"\n").await;
    let mut watcher = gateway.v5("watcher").await;
    watcher.subscribe("tests/sensor-7/#", 1).await;
    let (revoked, kept) = (issuer.token("opaque").await, issuer.token("opaque").await);
    let will = |name: &str| Will::new("tests/sensor-7/will", name).qos(1);
    let mut one = knock(
        &gateway,
        &with_token(Connect::v5("one").persistent(600), &revoked).will(will("one")),
    )
    .await;
    let mut v3 = knock(
        &gateway,
        &with_token(Connect::v311("v3"), &revoked).will(will("v3")),
    )
    .await;
    let mut other = knock(
        &gateway,
        &with_token(Connect::v5("other"), &kept).will(will("other")),
    )
    .await;
    assert_eq!(
        (one.connack.code, v3.connack.code, other.connack.code),
        (0, 0, 0)
    );
    assert_eq!(
        one.publish(Publish::new("tests/sensor-7/a", "x").qos(1))
            .await,
        0
    );
    assert_eq!(watcher.receive().await.payload, b"x");
    let start = Instant::now();
    issuer.revoke(&revoked).await;
    let reason = one.end().await.expect("DISCONNECT");
    assert_eq!(reason.code, 0x87);
    assert_eq!(v3.end().await, None);
    assert!(
        start.elapsed() < Duration::from_millis(3_500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("one"), &revoked))
            .await
            .connack
            .code,
        0x86
    );
    // The proof that no will came: what was sent behind them.
    assert_eq!(
        other
            .publish(Publish::new("tests/sensor-7/end", "x").qos(1))
            .await,
        0
    );
    assert_eq!(watcher.receive_until("tests/sensor-7/end").await, []);
    // The session is its principal's, who may come back with another token.
    let back = knock(
        &gateway,
        &with_token(Connect::v5("one").persistent(600), &kept),
    )
    .await;
    assert!(back.connack.session_present);
    assert_hidden(&gateway, &revoked);
    assert_hidden(&gateway, &kept);
}

// P3, P4
#[tokio::test]
async fn the_token_of_a_client_that_is_away_is_asked_about_and_once_revoked_brings_it_nothing_more()
{
    let issuer = Issuer::start().await;
    let (gateway, _dir) = asking_gateway(&issuer, "revalidate_every = \"2s\"\n").await;
    let mut publisher = gateway.v5("publisher").await;
    let mut say = async |payload: &str| {
        let message = Publish::new("tests/sensor-7/a", payload).qos(1);
        assert_eq!(publisher.publish(message).await, 0);
    };
    let (revoked, kept) = (issuer.token("opaque").await, issuer.token("opaque").await);
    for (id, token) in [("one", &revoked), ("other", &kept)] {
        let connect = with_token(Connect::v5(id).persistent(600), token);
        let mut client = knock(&gateway, &connect).await;
        assert_eq!(client.subscribe("tests/sensor-7/a", 1).await, 1);
        client.disconnect().await;
    }
    say("before").await;
    issuer.revoke(&revoked).await;
    until_some("the audit log says so", async || {
        let audit = gateway.cli(&["audit", "--kind", "withdrawn"], "").await;
        let text = audit.to_string();
        (text.contains("one") && text.contains("does not stand by the token")).then_some(())
    })
    .await;
    say("after").await;
    for (id, more) in [("one", &["before"][..]), ("other", &["before", "after"])] {
        let connect = with_token(Connect::v5(id).persistent(600), &kept);
        let mut back = knock(&gateway, &connect).await;
        assert!(back.connack.session_present, "{id}");
        for payload in more {
            assert_eq!(back.receive().await.payload, payload.as_bytes(), "{id}");
        }
        back.nothing_came().await;
    }
}

#[tokio::test]
async fn while_the_issuer_is_down_sessions_stay_until_their_end_and_new_ones_are_refused() {
    let issuer = Issuer::start().await;
    let (gateway, _dir) = asking_gateway(&issuer, "revalidate_every = \"1s\"\n").await;
    issuer.control("ttl/6").await;
    let token = issuer.token("opaque").await;
    let begun = now();
    let fresh = issuer.token("opaque").await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &token)).await;
    assert_eq!(client.connack.code, 0);
    issuer.control("down").await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("d"), &fresh))
            .await
            .connack
            .code,
        0x88
    );
    assert_eq!(
        knock(&gateway, &with_token(Connect::v311("d"), &fresh))
            .await
            .connack
            .code,
        3
    );
    let health = gateway.cli(&["health"], "").await;
    assert!(
        !health.status.success() && health.to_string().contains("home"),
        "{health}"
    );
    // Asked about in vain, several times.
    while now() < begun + 4 {
        client.ping().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.end_code().await, 0x87);
    assert!(now() <= begun + 8, "{}", now() - begun);
    issuer.control("up").await;
    issuer.control("ttl/60").await;
    let again = issuer.token("opaque").await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("d"), &again))
            .await
            .connack
            .code,
        0
    );
    gateway.cli(&["health"], "").await.expect_success();
}

#[tokio::test]
async fn an_opaque_token_works_in_the_user_name_and_by_the_device_flow_and_ends_at_its_end() {
    let issuer = Issuer::start().await;
    let (gateway, _dir) = asking_gateway(&issuer, "").await;
    issuer.control("ttl/3").await;
    let token = issuer.device_token("opaque", "alice").await;
    let mut connect = Connect::v5("c");
    connect.username = Some(token.clone());
    let mut client = knock(&gateway, &connect).await;
    assert_eq!(client.connack.code, 0);
    assert_eq!(
        client
            .publish(Publish::new("tests/alice/x", "x").qos(1))
            .await,
        0x10
    );
    logged(&gateway, "home:alice").await;
    assert_eq!(client.end_code().await, 0x87);
    connect.username = Some("made-up-token".to_owned());
    assert_eq!(knock(&gateway, &connect).await.connack.code, 0x86);
    assert_hidden(&gateway, &token);
    let log = gateway.process.log().text();
    assert!(
        !log.contains("made-up-token"),
        "a presented token is in the log"
    );
    assert!(!log.contains("gw-secret"));
}

// I4, N1
#[tokio::test]
async fn a_stranger_that_never_waits_for_an_answer_is_banned_all_the_same() {
    let issuer = Issuer::start().await;
    let rules = "[bans]\naddress_failures = 5\n";
    let (gateway, _dir) = asking_gateway(&issuer, rules).await;
    let (address, mut gone) = (own_address(), Vec::new());
    for n in 0..8 {
        let mut stream = tcp(Some(address), gateway.addresses.mqtt).await;
        let connect = Connect::v5("x").user(&format!("name-{n}"), &format!("made-up-{n}"));
        stream.write_all(&connect.bytes()).await.expect("it reads");
        stream.shutdown().await.expect("half of it");
        gone.push(stream);
    }
    logged(&gateway, "banned: too many failures").await;
}
