//! A login lasts as long as its token, and no longer than its issuer is trusted.

use std::time::{Duration, Instant};

use postern_tests::packet::Will;
use postern_tests::{Connect, Publish};
use serde_json::json;

use crate::world::*;

// P3
#[tokio::test]
async fn at_its_end_a_v5_client_is_told_a_v3_client_is_closed_and_their_wills_are_sent() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let mut watcher = gateway.v5("watcher").await;
    watcher.subscribe("tests/sensor-7/will/+", 1).await;
    let end = now() + 6;
    let token = issuer.sign(json!({"exp": end})).await;
    let will = |name: &str| Will::new(&format!("tests/sensor-7/will/{name}"), name).qos(1);
    let mut v5 = knock(
        &gateway,
        &with_token(Connect::v5("v5").persistent(600), &token).will(will("v5")),
    )
    .await;
    let mut v3 = knock(
        &gateway,
        &with_token(Connect::v311("v3"), &token).will(will("v3")),
    )
    .await;
    assert_eq!((v5.connack.code, v3.connack.code), (0, 0));
    assert_eq!(v5.subscribe("tests/sensor-7/a", 1).await, 1);
    let reason = v5.end().await.expect("DISCONNECT");
    assert_eq!(
        (reason.code, reason.string()),
        (0x87, Some("the token has expired"))
    );
    let late = now().saturating_sub(end);
    assert!(now() >= end && late <= 5, "at {} instead of {end}", now());
    assert_eq!(v3.end().await, None);
    let mut wills = [
        watcher.receive().await.payload,
        watcher.receive().await.payload,
    ];
    wills.sort();
    assert_eq!(wills, [b"v3", b"v5"]);

    // The session is still there for who comes with a fresh token, with what came meanwhile.
    watcher
        .publish(Publish::new("tests/sensor-7/a", "meanwhile").qos(1))
        .await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("v5"), &token))
            .await
            .connack
            .code,
        0x86
    );
    let fresh = issuer.token("jwt").await;
    let mut back = knock(
        &gateway,
        &with_token(Connect::v5("v5").persistent(600), &fresh),
    )
    .await;
    assert!(back.connack.session_present);
    assert_eq!(back.receive().await.payload, b"meanwhile");
}

// P3: also after a restart.
#[tokio::test]
async fn while_its_client_is_away_a_session_goes_by_the_scopes_of_its_last_login() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer
        .sign(json!({"scope": "mqtt:sub:tests/a mqtt:sub:tests/b"}))
        .await;
    let connect = |token: &str| with_token(Connect::v5("c").persistent(600), token);
    let mut client = knock(&gateway, &connect(&token)).await;
    assert_eq!(client.subscribe("tests/a", 1).await, 1);
    assert_eq!(client.subscribe("tests/b", 1).await, 1);
    client.disconnect().await;
    let config = gateway.config.clone();
    let text = std::fs::read_to_string(&config).expect("readable");
    let dir = gateway.stop().await;
    let gateway = postern_tests::Setup::new()
        .toml(&text[text.find("[oauth").expect("a section")..])
        .start_in(dir)
        .await;
    let mut publisher = gateway.v5("publisher").await;
    for topic in ["tests/a", "tests/b"] {
        assert_eq!(
            publisher.publish(Publish::new(topic, topic).qos(1)).await,
            0
        );
    }
    // The new login entitles it to less: P3, P4.
    let less = issuer.sign(json!({"scope": "mqtt:sub:tests/a"})).await;
    let mut back = knock(&gateway, &connect(&less)).await;
    assert!(back.connack.session_present);
    assert_eq!(back.end_code().await, 0x87);
    let mut back = knock(&gateway, &connect(&less)).await;
    assert_eq!(back.receive().await.topic, "tests/a");
    back.nothing_came().await;
}

#[tokio::test]
async fn a_fresh_token_by_re_authentication_outlives_the_first_one() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let end = now() + 5;
    let first = issuer
        .sign(json!({"exp": end, "scope": "mqtt:sub:tests/a"}))
        .await;
    let next = issuer
        .sign(json!({"exp": now() + 60, "scope": "mqtt:sub:tests/a mqtt:sub:tests/b"}))
        .await;
    let mut client = crate::enhanced::connected(&gateway, &first).await;
    assert_eq!(client.subscribe("tests/b", 0).await, 0x87);
    crate::enhanced::renew(&mut client, &next).await;
    assert_eq!(
        client.subscribe("tests/b", 0).await,
        0,
        "by the scopes of the new token"
    );
    let start = Instant::now();
    while now() < end + 2 {
        client.ping().await;
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // And what the new one does not say is lost.
    let less = issuer.sign(json!({"scope": "mqtt:sub:tests/a"})).await;
    client.send(&crate::enhanced::auth(0x19, &less)).await;
    assert_eq!(client.end_code().await, 0x87);
}

#[tokio::test]
async fn an_issuer_that_is_taken_out_of_the_configuration_vouches_for_nobody_any_more() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &token)).await;
    let mut admin = gateway.v5("admin").await;
    gateway.write_config(&jwt(&issuer, "default_roles = \"x\"\n"));
    gateway.reload("reloaded").await;
    client.ping().await;
    gateway.write_config("");
    gateway.reload("reloaded").await;
    assert_eq!(client.end_code().await, 0x87);
    admin.ping().await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("c"), &token))
            .await
            .connack
            .code,
        0x86
    );
    // A mistake keeps what is in force.
    gateway.write_config(&jwt(&issuer, "keys_file = \"/nonexistent/keys\"\n"));
    gateway.expect_error("/nonexistent/keys");
    gateway.reload("/nonexistent/keys").await;
    gateway.write_config(&jwt(&issuer, ""));
    gateway.reload("reloaded").await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("c"), &token))
            .await
            .connack
            .code,
        0
    );
}

// P3
#[tokio::test]
async fn an_issuer_that_is_withdrawn_while_the_gateway_is_down_takes_its_wills_along() {
    let issuer = Issuer::start().await;
    let grace = "[session]\nrestart_will_grace = \"0s\"\n";
    let tables = format!("{}{grace}", jwt(&issuer, ""));
    let gateway = postern_tests::Setup::new().toml(&tables).start().await;
    let will = |name: &str| {
        let topic = format!("tests/sensor-7/will/{name}");
        Will::new(&topic, name).qos(1)
    };
    let watching = Connect::v5("watcher").persistent(600);
    let mut watcher = gateway.connect(watching.clone()).await;
    watcher.subscribe("tests/sensor-7/will/+", 1).await;
    let token = issuer.token("jwt").await;
    let by_token = with_token(Connect::v5("token"), &token).persistent(600);
    let by_token = knock(&gateway, &by_token.will(will("token"))).await;
    let by_password = Connect::v5("password").persistent(600);
    let _by_password = gateway.connect(by_password.will(will("password"))).await;
    assert_eq!(by_token.connack.code, 0);
    let dir = gateway.kill().await;
    let setup = postern_tests::Setup::new().toml(grace);
    let gateway = setup.start_in(dir).await;
    let mut watcher = gateway.connect(watching.clone()).await;
    assert!(watcher.connack.session_present);
    assert_eq!(watcher.receive().await.payload, b"password");
    watcher.nothing_came().await;
}
