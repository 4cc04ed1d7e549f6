//! Enhanced authentication (MQTT 5 section 4.12), by MQTT.js and byte by byte.

use postern_tests::client::tcp;
use postern_tests::packet::{Version, frame};
use postern_tests::peer::{Tool, peers_dir};
use postern_tests::property::write_properties;
use postern_tests::scope::own_address;
use postern_tests::{Client, Connect, Gateway, Packet, Property};
use serde_json::json;
use tokio::task::JoinSet;

use crate::world::*;

/// AUTH with a token.
pub fn auth(reason: u8, token: &str) -> Vec<u8> {
    let mut properties = vec![method()];
    if !token.is_empty() {
        properties.push(Property::AuthenticationData(token.into()));
    }
    packet(reason, &properties)
}

fn packet(reason: u8, properties: &[Property]) -> Vec<u8> {
    let mut body = vec![reason];
    write_properties(&mut body, properties);
    frame(0xF0, body)
}

fn method() -> Property {
    Property::AuthenticationMethod("OAUTH2".to_owned())
}

/// A client that logged in by enhanced authentication.
pub async fn connected(gateway: &Gateway, token: &str) -> Client {
    let data = Property::AuthenticationData(token.into());
    let client = knock(gateway, &Connect::v5("enhanced").with(method()).with(data)).await;
    assert_eq!(client.connack.code, 0);
    assert!(client.connack.properties.contains(&method()));
    client
}

/// Re-authenticates with success.
pub async fn renew(client: &mut Client, token: &str) {
    client.send(&auth(0x19, token)).await;
    let answer = client
        .wait_for("AUTH", |packet| matches!(packet, Packet::Auth(_)))
        .await;
    let Packet::Auth(answer) = answer else {
        unreachable!("it fitted");
    };
    assert_eq!((answer.code, answer.properties), (0, vec![method()]));
}

// I4
#[tokio::test]
async fn mqttjs_authenticates_and_re_authenticates() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let folder = peers_dir().join("mqttjs");
    let first = issuer.token("jwt").await;
    let finished = Tool::new("node")
        .arg(folder.join("enhanced.mjs"))
        .current_dir(&folder)
        .env(
            "URL",
            format!("wss://localhost:{}/mqtt", gateway.addresses.wss.port()),
        )
        .env("CA", gateway.ca())
        .env("TOPIC", "tests/sensor-7/enhanced")
        .env("FIRST", &first)
        .env("NEXT", issuer.token("jwt").await)
        .env("OTHER", issuer.sign(json!({"mqtt_user": "sensor-8"})).await)
        .run()
        .await
        .expect_success();
    for scenario in [
        "a_token_in_connect_logs_in",
        "a_client_without_data_is_asked_for_it",
        "a_fresh_token_keeps_the_connection",
        "a_token_of_another_principal_ends_the_connection",
        "a_bad_token_and_another_method_are_refused",
    ] {
        assert!(
            finished.stdout.contains(scenario),
            "{scenario} did not run: {finished}"
        );
    }
    assert_hidden(&gateway, &first);
}

#[tokio::test]
async fn whoever_re_authenticates_again_at_once_waits_a_second() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    let mut client = connected(&gateway, &token).await;
    renew(&mut client, &token).await;
    let start = std::time::Instant::now();
    client.send(&auth(0x19, &token)).await;
    client.ping().await;
    let (pinged, least) = (start.elapsed(), std::time::Duration::from_millis(900));
    let answer = client.wait_for("AUTH", |packet| matches!(packet, Packet::Auth(_)));
    answer.await;
    assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    assert!(pinged < least, "all else goes on: {pinged:?}");
}

#[tokio::test]
async fn nothing_but_the_awaited_auth_may_come_before_connack() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    let other = Property::AuthenticationMethod("OTHER".to_owned());
    let data = Property::AuthenticationData(token.clone().into_bytes());
    let subscribe = postern_tests::Subscribe {
        id: 1,
        ..postern_tests::Subscribe::to("#", 0)
    };
    for (bytes, code) in [
        (auth(0x18, &token), 0),
        (auth(0x18, ""), 0x82),
        (auth(0x19, &token), 0x82),
        (packet(0x18, &[other, data]), 0x82),
        (subscribe.bytes(postern_tests::packet::Version::V5), 0x82),
        (postern_tests::packet::PINGREQ.to_vec(), 0x82),
    ] {
        let mut client = gateway.open().await;
        client.send(&Connect::v5("c").with(method()).bytes()).await;
        let Packet::Auth(ask) = client.packet().await else {
            panic!("the gateway asks for data");
        };
        assert_eq!((ask.code, ask.properties), (0x18, vec![method()]));
        client.send(&bytes).await;
        let Packet::ConnAck(connack) = client.packet().await else {
            panic!("CONNACK");
        };
        assert_eq!(connack.code, code, "{bytes:02x?}");
    }
}

#[tokio::test]
async fn re_authentication_out_of_turn_is_a_protocol_error() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    let other = Property::AuthenticationMethod("OTHER".to_owned());
    for bytes in [
        auth(0x18, &token),
        packet(0x19, &[other]),
        [auth(0x19, ""), auth(0x19, &token)].concat(),
        [auth(0x19, ""), auth(0x18, "")].concat(),
    ] {
        let mut client = connected(&gateway, &token).await;
        client.send(&bytes).await;
        assert_eq!(client.end_code().await, 0x82);
    }
    let mut plain = knock(&gateway, &with_token(Connect::v5("plain"), &token)).await;
    plain.send(&auth(0x19, &token)).await;
    assert_eq!(
        plain.end_code().await,
        0x82,
        "it did not begin with enhanced authentication"
    );
}

// N1
#[tokio::test]
async fn strangers_at_its_address_keep_no_connected_client_from_its_fresh_token() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "[bans]\naddress_failures = 2\n").await;
    let address = own_address();
    let open = async || {
        let stream = tcp(Some(address), gateway.addresses.mqtt).await;
        Client::over(stream, Version::V5)
    };
    let token = issuer.token("jwt").await;
    let data = Property::AuthenticationData(token.as_str().into());
    let mut client = open().await;
    client
        .connect(&Connect::v5("enhanced").with(method()).with(data))
        .await;
    assert_eq!(client.connack.code, 0);
    let fresh = issuer.token("jwt").await;
    let stranger = |n: u32| Connect::v5("x").user(&format!("name-{n}"), "wrong");
    for n in 0..2 {
        let mut refused = open().await;
        refused.connect(&stranger(n)).await;
        assert_eq!(refused.connack.code, 0x86);
    }
    // The address is throttled: so many wait for their turn that the last one may not.
    let mut waiting = JoinSet::new();
    for n in 2..16 {
        let (mut one, connect) = (open().await, stranger(n));
        waiting.spawn(async move {
            one.connect(&connect).await;
            one.connack.code
        });
    }
    let mut next = async || waiting.join_next().await.expect("one is refused");
    while next().await.expect("an answer") != 0x9F {}
    renew(&mut client, &fresh).await;
    // A new connection with a fresh token is no stranger's either.
    let again = issuer.token("jwt").await;
    let mut back = open().await;
    back.connect(&with_token(Connect::v5("back"), &again)).await;
    assert_eq!(back.connack.code, 0);
}
