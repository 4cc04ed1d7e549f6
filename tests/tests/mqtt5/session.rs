//! Sessions: clean start, session present, expiry, takeover.

use postern_tests::packet::{Packet, Version, Will, disconnect};
use postern_tests::{Connect, Property, Publish, Scope};

use crate::gateway;

// [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
#[tokio::test]
async fn session_present_says_what_was_kept() {
    let gateway = gateway().await;
    // (clean start, session expiry of the first connection; clean start of the second; session present)
    for (first_clean, expiry, second_clean, present) in [
        (true, 0, false, false),
        (false, 0, false, false),
        (true, 60, false, true),
        (false, 60, false, true),
        (true, 60, true, false),
        (false, 60, true, false),
    ] {
        let scope = Scope::new();
        let (id, topic) = (scope.id("a"), scope.topic("a"));
        let mut first = Connect::v5(&id).persistent(expiry);
        first.clean = first_clean;
        let mut client = gateway.connect(first).await;
        assert!(!client.connack.session_present);
        client.subscribe(&topic, 1).await;
        client.disconnect().await;
        let mut second = Connect::v5(&id).persistent(60);
        second.clean = second_clean;
        let mut client = gateway.connect(second).await;
        let case = (first_clean, expiry, second_clean);
        assert_eq!(client.connack.session_present, present, "{case:?}");
        // The subscription is part of the session.
        let mut publisher = gateway.v5(&scope.id("p")).await;
        publisher.publish(Publish::new(&topic, "x").qos(1)).await;
        client.subscribe(&scope.topic("end"), 1).await;
        publisher
            .publish(Publish::new(&scope.topic("end"), "").qos(1))
            .await;
        let came = client.receive_until(&scope.topic("end")).await.len();
        assert_eq!(came, usize::from(present), "{case:?}");
        client.disconnect().await;
    }
}

// [MQTT-3.1.4-3] [MQTT-3.1.2-5] [MQTT-4.13.2-1]
#[tokio::test]
async fn a_second_connection_takes_the_session_over_with_0x8e() {
    let gateway = gateway().await;
    let scope = Scope::new();
    for encrypted in [false, true] {
        let id = scope.id(if encrypted { "tls" } else { "plain" });
        let connect = || Connect::v5(&id).persistent(60);
        let mut first = if encrypted {
            gateway.connect_tls(connect()).await
        } else {
            gateway.connect(connect()).await
        };
        first.subscribe(&scope.topic("a"), 1).await;
        let mut second = if encrypted {
            gateway.connect_tls(connect()).await
        } else {
            gateway.connect(connect()).await
        };
        assert!(second.connack.session_present);
        assert_eq!(first.end_code().await, 0x8E);
        second
            .publish(Publish::new(&scope.topic("a"), &id).qos(1))
            .await;
        assert_eq!(second.receive().await.text(), id);
    }
}

// [MQTT-3.1.4-3]: also when nothing of the old connection is kept.
#[tokio::test]
async fn takeover_with_a_clean_start_forgets_the_subscriptions() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let id = scope.id("a");
    let mut first = gateway.connect(Connect::v5(&id).persistent(60)).await;
    first.subscribe(&scope.topic("a"), 1).await;
    let mut second = gateway.connect(Connect::v5(&id)).await;
    assert!(!second.connack.session_present);
    assert_eq!(first.end_code().await, 0x8E);
    second.subscribe(&scope.topic("end"), 1).await;
    second
        .publish(Publish::new(&scope.topic("a"), "x").qos(1))
        .await;
    second
        .publish(Publish::new(&scope.topic("end"), "").qos(1))
        .await;
    assert_eq!(second.receive_until(&scope.topic("end")).await, []);
}

// Many takeovers in a row end with exactly one connection.
#[tokio::test]
async fn a_storm_of_takeovers_leaves_the_last_connection_working() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let connect = Connect::v5(&scope.id("a")).persistent(60);
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(gateway.connect(connect.clone()).await);
    }
    let mut last = clients.pop().expect("thirty");
    for client in &mut clients {
        assert_eq!(client.end_code().await, 0x8E);
    }
    last.subscribe(&scope.topic("a"), 1).await;
    last.publish(Publish::new(&scope.topic("a"), "x").qos(1))
        .await;
    assert_eq!(last.receive().await.text(), "x");
    last.nothing_came().await;
}

// [MQTT-4.1.0-2], section 3.1.2.11.2. A will that is due at the end of the session says when that was.
#[tokio::test]
async fn a_session_ends_after_its_expiry() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("ended"), 1).await;
    let will = Will::new(&scope.topic("ended"), "")
        .qos(1)
        .with(Property::WillDelay(3600));
    let connect = Connect::v5(&scope.id("a")).persistent(1).will(will);
    gateway.connect(connect).await.vanish();
    watcher.receive().await;
    let client = gateway
        .connect(Connect::v5(&scope.id("a")).persistent(1))
        .await;
    assert!(!client.connack.session_present);
}

// Section 3.14.2.2.2
#[tokio::test]
async fn disconnect_can_change_the_expiry() {
    let gateway = gateway().await;
    for (at_connect, at_disconnect, present) in [
        (600, Some(0), false),
        (600, Some(60), true),
        (600, None, true),
    ] {
        let id = Scope::new().id("a");
        let mut client = gateway
            .connect(Connect::v5(&id).persistent(at_connect))
            .await;
        let properties: Vec<Property> = at_disconnect
            .map(Property::SessionExpiry)
            .into_iter()
            .collect();
        client.send(&disconnect(0, &properties)).await;
        assert_eq!(client.end().await, None);
        let client = gateway.connect(Connect::v5(&id).persistent(0)).await;
        assert_eq!(
            client.connack.session_present, present,
            "{at_connect} then {at_disconnect:?}"
        );
    }
}

// Section 3.14.2.2.2: an expiry of 0 in CONNECT cannot be raised later.
#[tokio::test]
async fn disconnect_cannot_make_a_session_persistent() {
    let gateway = gateway().await;
    let mut client = gateway.v5(&Scope::new().id("a")).await;
    client
        .send(&disconnect(0, &[Property::SessionExpiry(60)]))
        .await;
    assert_eq!(client.end_code().await, 0x82);
}

// [MQTT-3.1.2-23] [MQTT-4.5.0-1] [MQTT-4.6.0-5]: what came meanwhile, of every QoS that is kept, in order.
#[tokio::test]
async fn messages_wait_for_an_offline_session_in_order() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (id, topic) = (scope.id("a"), scope.topic("a"));
    let mut client = gateway.connect(Connect::v5(&id).persistent(60)).await;
    client.subscribe(&topic, 2).await;
    client.vanish();
    let mut publisher = gateway.v5(&scope.id("p")).await;
    for n in 0..100 {
        publisher
            .publish(Publish::new(&topic, &n.to_string()).qos(1 + n % 2))
            .await;
    }
    let mut client = gateway.connect(Connect::v5(&id).persistent(60)).await;
    for n in 0..100 {
        let message = client.receive().await;
        // What was sent into the old connection comes again, with DUP; order and number are the same.
        assert_eq!(
            (message.text(), message.qos),
            (n.to_string().as_str(), 1 + n % 2)
        );
    }
    client.nothing_came().await;
}

// [MQTT-3.1.3-2]: the same session over different protocol versions.
#[tokio::test]
async fn a_session_outlives_a_change_of_the_protocol_version() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (id, topic) = (scope.id("a"), scope.topic("a"));
    let mut client = gateway.connect(Connect::v311(&id).persistent(0)).await;
    client.subscribe(&topic, 1).await;
    client.vanish();
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(
            Publish::new(&topic, "x")
                .qos(1)
                .with(Property::user("a", "b")),
        )
        .await;
    let mut client = gateway.connect(Connect::v5(&id).persistent(60)).await;
    assert!(client.connack.session_present);
    assert_eq!(
        client.receive().await.properties,
        [Property::user("a", "b")]
    );
    client.vanish();
    publisher
        .publish(
            Publish::new(&topic, "y")
                .qos(1)
                .with(Property::user("a", "b")),
        )
        .await;
    let mut client = gateway.connect(Connect::v311(&id).persistent(0)).await;
    assert_eq!(client.version, Version::V311);
    assert!(client.connack.session_present);
    assert!(matches!(client.packet().await, Packet::Publish(publish) if publish.payload == b"y"));
}
