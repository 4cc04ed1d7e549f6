//! Wills: when they are sent, and what they carry.

use std::time::{Duration, Instant};

use postern_tests::packet::{PINGREQ, Packet, Version, Will, disconnect, frame};
use postern_tests::{Client, Connect, Gateway, Property, Publish, Scope};

use crate::gateway;

async fn watch(gateway: &Gateway, scope: &Scope) -> Client {
    let mut client = gateway.v5(&scope.id("watcher")).await;
    client.subscribe(&scope.topic("#"), 2).await;
    client
}

fn with_will(scope: &Scope, will: Will) -> Connect {
    Connect::v5(&scope.id("a")).will(will)
}

/// The marker came, and nothing before it.
async fn nothing_before_a_marker(watcher: &mut Client, scope: &Scope) {
    watcher
        .publish(Publish::new(&scope.topic("end"), "").qos(2))
        .await;
    assert_eq!(watcher.receive_until(&scope.topic("end")).await, []);
}

// [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.14.4-3], S2
#[tokio::test]
async fn every_end_but_disconnect_0x00_sends_the_will() {
    let gateway = gateway().await;
    let codes = [
        0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    ];
    let mut ends: Vec<(String, Vec<u8>)> = codes
        .iter()
        .map(|code| (format!("DISCONNECT {code:#04x}"), disconnect(*code, &[])))
        .collect();
    ends.push(("nothing but the end".into(), vec![]));
    ends.push(("half a packet".into(), vec![0x30, 0x10, 0x00]));
    ends.push(("a malformed packet".into(), vec![0x36, 0x00]));
    ends.push(("a second CONNECT".into(), frame(0x10, vec![])));
    for (name, bytes) in ends {
        let scope = Scope::new();
        let mut watcher = watch(&gateway, &scope).await;
        let mut client = gateway
            .connect(with_will(
                &scope,
                Will::new(&scope.topic("will"), "gone").qos(1),
            ))
            .await;
        client.send(&bytes).await;
        client.vanish();
        let will = watcher.receive().await;
        assert_eq!(
            (will.text(), will.qos, will.retain),
            ("gone", 1, false),
            "{name}"
        );
        nothing_before_a_marker(&mut watcher, &scope).await;
    }
    for end in [vec![0xE0, 0x00], vec![0xE0, 0x01, 0x00], disconnect(0, &[])] {
        let scope = Scope::new();
        let mut watcher = watch(&gateway, &scope).await;
        let mut client = gateway
            .connect(with_will(
                &scope,
                Will::new(&scope.topic("will"), "gone").qos(1),
            ))
            .await;
        client.send(&end).await;
        assert_eq!(client.end().await, None);
        nothing_before_a_marker(&mut watcher, &scope).await;
    }
}

// Section 3.1.2.5: a keep alive timeout is such an end.
#[tokio::test]
async fn a_keep_alive_timeout_sends_the_will() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let connect = with_will(&scope, Will::new(&scope.topic("will"), "silent")).keep_alive(1);
    let _client = gateway.connect(connect).await;
    assert_eq!(watcher.receive().await.text(), "silent");
}

// [MQTT-3.1.2-9] [MQTT-3.1.2-11] [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT-3.1.3-10], section 3.1.3.2
#[tokio::test]
async fn a_will_carries_its_qos_retain_flag_and_properties() {
    let gateway = gateway().await;
    for (qos, retain) in [(0, false), (1, true), (2, false), (2, true)] {
        let scope = Scope::new();
        let properties = vec![
            Property::PayloadFormat(1),
            Property::MessageExpiry(50),
            Property::ContentType("t".into()),
            Property::ResponseTopic("r".into()),
            Property::CorrelationData(vec![9]),
            Property::user("b", "1"),
            Property::user("a", "2"),
        ];
        let mut will = Will::new(&scope.topic("will"), "gone").qos(qos);
        will.retain = retain;
        will.properties = properties.clone();
        let mut watcher = watch(&gateway, &scope).await;
        gateway.connect(with_will(&scope, will)).await.vanish();
        let came = watcher.receive().await;
        assert_eq!((came.text(), came.qos, came.retain), ("gone", qos, false));
        assert_eq!(came.properties.len(), properties.len());
        for property in &properties {
            let there = match property {
                Property::MessageExpiry(_) => came
                    .properties
                    .iter()
                    .any(|p| matches!(p, Property::MessageExpiry(45..=50))),
                other => came.properties.contains(other),
            };
            assert!(there, "{property:?} is missing in {came:?}");
        }
        let users = |list: &[Property]| -> Vec<Property> {
            let mut users = list.to_vec();
            users.retain(|p| matches!(p, Property::User(..)));
            users
        };
        assert_eq!(users(&came.properties), users(&properties), "in order");
        let mut later = gateway.v5(&scope.id("later")).await;
        later.subscribe(&scope.topic("will"), 2).await;
        later.subscribe(&scope.topic("end"), 2).await;
        later
            .publish(Publish::new(&scope.topic("end"), "").qos(2))
            .await;
        assert_eq!(
            later.receive_until(&scope.topic("end")).await.len(),
            usize::from(retain)
        );
    }
}

// An empty retained will clears the retained message.
#[tokio::test]
async fn an_empty_retained_will_removes_the_retained_message() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    watcher
        .publish(
            Publish::new(&scope.topic("state"), "online")
                .qos(1)
                .retain(),
        )
        .await;
    watcher.receive().await;
    gateway
        .connect(with_will(
            &scope,
            Will::new(&scope.topic("state"), "").qos(1).retain(),
        ))
        .await
        .vanish();
    assert!(watcher.receive().await.payload.is_empty());
    let mut later = gateway.v5(&scope.id("later")).await;
    later.subscribe(&scope.topic("state"), 1).await;
    later.nothing_came().await;
}

// Section 3.1.3.2.2: the will delay counts from the end of the connection.
#[tokio::test]
async fn a_will_waits_for_its_delay() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let will = Will::new(&scope.topic("will"), "late").with(Property::WillDelay(2));
    gateway
        .connect(with_will(&scope, will).persistent(600))
        .await
        .vanish();
    let start = Instant::now();
    let came = watcher.receive().await;
    assert!(
        start.elapsed() > Duration::from_millis(1_900),
        "after {:?}",
        start.elapsed()
    );
    assert_eq!(
        (came.text(), &came.properties[..]),
        ("late", &[][..]),
        "the delay itself is not forwarded"
    );
}

// [MQTT-3.1.3-9]
#[tokio::test]
async fn coming_back_within_the_delay_cancels_the_will() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let delayed =
        |text: &str, delay| Will::new(&scope.topic("will"), text).with(Property::WillDelay(delay));
    gateway
        .connect(with_will(&scope, delayed("cancelled", 1)).persistent(600))
        .await
        .vanish();
    let client = gateway
        .connect(Connect::v5(&scope.id("a")).persistent(600))
        .await;
    assert!(client.connack.session_present);
    // A later will with the same delay tells that the time is over.
    let other = Connect::v5(&scope.id("b"))
        .persistent(600)
        .will(delayed("clock", 2));
    gateway.connect(other).await.vanish();
    assert_eq!(watcher.receive().await.text(), "clock");
    nothing_before_a_marker(&mut watcher, &scope).await;
}

// Section 3.1.3.2.2: the end of the session sends a will that is still waiting, and a clean start ends the session.
#[tokio::test]
async fn the_end_of_the_session_sends_a_delayed_will_at_once() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let will = || Will::new(&scope.topic("will"), "ended").with(Property::WillDelay(3_600));
    // Session expiry 0: it ends with the connection.
    gateway.connect(with_will(&scope, will())).await.vanish();
    assert_eq!(watcher.receive().await.text(), "ended");
    // A clean start by somebody who comes back.
    gateway
        .connect(with_will(&scope, will()).persistent(600))
        .await
        .vanish();
    gateway.v5(&scope.id("a")).await.disconnect().await;
    assert_eq!(watcher.receive().await.text(), "ended");
    // DISCONNECT with will, and an expiry of 0.
    let mut client = gateway
        .connect(with_will(&scope, will()).persistent(600))
        .await;
    client
        .send(&disconnect(0x04, &[Property::SessionExpiry(0)]))
        .await;
    assert_eq!(watcher.receive().await.text(), "ended");
    nothing_before_a_marker(&mut watcher, &scope).await;
}

// [MQTT-3.1.4-3], D10: on takeover a will without delay is sent, before anything of the new connection.
#[tokio::test]
async fn takeover_sends_the_will_before_the_new_connections_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let mut old = gateway
        .connect(with_will(&scope, Will::new(&scope.topic("will"), "old")).persistent(600))
        .await;
    let mut bytes = gateway
        .login(&Connect::v5(&scope.id("a")).persistent(600))
        .bytes();
    bytes.extend(Publish::new(&scope.topic("new"), "new").bytes(Version::V5));
    bytes.extend(PINGREQ);
    let mut new = gateway.open().await;
    new.send(&bytes).await;
    assert!(matches!(new.packet().await, Packet::ConnAck(connack) if connack.code == 0));
    assert_eq!(old.end_code().await, 0x8E);
    assert_eq!(watcher.receive().await.text(), "old");
    assert_eq!(watcher.receive().await.text(), "new");
}

// Section 3.1.4: with a delay, and the session going on, it is not.
#[tokio::test]
async fn takeover_of_a_continued_session_does_not_send_a_delayed_will() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = watch(&gateway, &scope).await;
    let will = Will::new(&scope.topic("will"), "old").with(Property::WillDelay(3_600));
    let mut old = gateway
        .connect(with_will(&scope, will).persistent(600))
        .await;
    let new = gateway
        .connect(Connect::v5(&scope.id("a")).persistent(600))
        .await;
    assert_eq!(old.end_code().await, 0x8E);
    new.disconnect().await;
    nothing_before_a_marker(&mut watcher, &scope).await;
}

// A will goes to subscriptions like any message: no local, overlapping, shared.
#[tokio::test]
async fn a_will_reaches_the_clients_own_persistent_subscription() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let connect = with_will(&scope, Will::new(&scope.topic("will"), "mine").qos(1)).persistent(600);
    let mut client = gateway.connect(connect).await;
    client.subscribe(&scope.topic("will"), 1).await;
    client.vanish();
    let mut client = gateway
        .connect(Connect::v5(&scope.id("a")).persistent(600))
        .await;
    assert_eq!(client.receive().await.text(), "mine");
}
