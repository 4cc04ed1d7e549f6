//! Retained messages.

use postern_tests::packet::{Packet, RETAIN_AS_PUBLISHED, RETAIN_IF_NEW, RETAIN_NEVER};
use postern_tests::wait::until_some;
use postern_tests::{Client, Connect, Property, Publish, Scope, Subscribe};

use crate::gateway;

/// What a subscription with these options brings before a marker, as texts.
async fn retained(client: &mut Client, scope: &Scope, filter: &str, options: u8) -> Vec<Publish> {
    let end = scope.id("end-of-retained");
    client.subscribe(&scope.topic(filter), options).await;
    client.subscribe(&end, 2).await;
    client.publish(Publish::new(&end, "").qos(2)).await;
    let messages = client.receive_until(&end).await;
    client.unsubscribe(&[&end]).await;
    messages
}

fn texts(messages: &[Publish]) -> Vec<&str> {
    let mut texts: Vec<&str> = messages.iter().map(Publish::text).collect();
    texts.sort_unstable();
    texts
}

// [MQTT-3.3.1-5] [MQTT-3.3.1-9] [MQTT-3.8.4-8]
#[tokio::test]
async fn the_last_retained_message_of_each_topic_comes_with_a_new_subscription() {
    let gateway = gateway().await;
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut publisher = gateway.v5(&scope.id("p")).await;
        for (topic, text) in [
            ("x/a", "old"),
            ("x/a", "a"),
            ("x/b", "b"),
            ("x", "root"),
            ("y", "elsewhere"),
        ] {
            publisher
                .publish(Publish::new(&scope.topic(topic), text).qos(qos).retain())
                .await;
        }
        for (filter, wanted) in [
            ("x/a", vec!["a"]),
            ("x/+", vec!["a", "b"]),
            ("x/#", vec!["a", "b", "root"]),
            ("+/a", vec!["a"]),
            ("z", vec![]),
        ] {
            for subscribed in 0..=2 {
                let mut client = gateway.v5(&scope.id("s")).await;
                let messages = retained(&mut client, &scope, filter, subscribed).await;
                assert_eq!(texts(&messages), wanted, "{filter}");
                assert!(
                    messages
                        .iter()
                        .all(|m| m.retain && !m.dup && m.qos == qos.min(subscribed)),
                    "{messages:?}"
                );
            }
        }
    }
}

// [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8]
#[tokio::test]
async fn only_an_empty_retained_message_removes_one() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    let topic = scope.topic("x");
    client
        .publish(Publish::new(&topic, "kept").qos(1).retain())
        .await;
    client.publish(Publish::new(&topic, "").qos(1)).await;
    client.publish(Publish::new(&topic, "other").qos(1)).await;
    assert_eq!(
        texts(&retained(&mut client, &scope, "x", 1).await),
        ["kept"]
    );
    // To a subscriber that is there the removal is an ordinary message.
    client
        .publish(Publish::new(&topic, "").qos(1).retain())
        .await;
    let removal = client.receive().await;
    assert!(removal.payload.is_empty() && !removal.retain);
    assert_eq!(retained(&mut client, &scope, "x", 1).await, []);
}

// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]
#[tokio::test]
async fn retain_handling_decides_whether_a_subscription_brings_retained_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(Publish::new(&scope.topic("x"), "kept").qos(1).retain())
        .await;
    for (handling, at_first, again) in [
        (0, true, true),
        (RETAIN_IF_NEW, true, false),
        (RETAIN_NEVER, false, false),
    ] {
        let mut client = gateway
            .connect(Connect::v5(&scope.id("s")).persistent(60).clean(true))
            .await;
        let count = |came: bool| usize::from(came);
        assert_eq!(
            retained(&mut client, &scope, "x", 1 | handling).await.len(),
            count(at_first),
            "{handling:#x}"
        );
        assert_eq!(
            retained(&mut client, &scope, "x", 1 | handling).await.len(),
            count(again),
            "{handling:#x}"
        );
        // Another QoS does not make it a new subscription, an unsubscribed one is new again.
        assert_eq!(
            retained(&mut client, &scope, "x", 2 | handling).await.len(),
            count(again),
            "{handling:#x}"
        );
        client.unsubscribe(&[&scope.topic("x")]).await;
        assert_eq!(
            retained(&mut client, &scope, "x", 1 | handling).await.len(),
            count(at_first),
            "{handling:#x}"
        );
        // A resumed session is not a new subscription.
        client.disconnect().await;
        let mut client = gateway
            .connect(Connect::v5(&scope.id("s")).persistent(60))
            .await;
        assert_eq!(
            retained(&mut client, &scope, "x", 1 | handling).await.len(),
            count(again),
            "{handling:#x}"
        );
    }
}

// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[tokio::test]
async fn retain_as_published_decides_the_flag_of_forwarded_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    for (option, retain) in [(0, false), (RETAIN_AS_PUBLISHED, true)] {
        let mut client = gateway.v5(&scope.id("s")).await;
        client
            .subscribe(&scope.topic("x"), 1 | option | RETAIN_NEVER)
            .await;
        client
            .publish(Publish::new(&scope.topic("x"), "retained").qos(1).retain())
            .await;
        assert_eq!(client.receive().await.retain, retain);
        client
            .publish(Publish::new(&scope.topic("x"), "ordinary").qos(1))
            .await;
        assert!(!client.receive().await.retain);
    }
}

// Section 3.3.1.3: sent because of a new subscription, the flag is 1 whatever the option says.
#[tokio::test]
async fn retained_messages_of_a_new_subscription_have_the_flag_in_any_case() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("s")).await;
    client
        .publish(Publish::new(&scope.topic("x"), "kept").qos(1).retain())
        .await;
    for option in [0, RETAIN_AS_PUBLISHED] {
        assert!(retained(&mut client, &scope, "x", 1 | option).await[0].retain);
    }
}

// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-18] [MQTT-3.3.4-3]
#[tokio::test]
async fn a_retained_message_keeps_its_properties_and_gets_the_subscription_identifier() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("s")).await;
    let properties = vec![
        Property::PayloadFormat(1),
        Property::ContentType("t".into()),
        Property::ResponseTopic("r".into()),
        Property::CorrelationData(vec![1]),
        Property::user("b", "1"),
        Property::user("a", "2"),
    ];
    let mut publish = Publish::new(&scope.topic("x"), "kept").qos(1).retain();
    publish.properties = properties.clone();
    client.publish(publish).await;
    client
        .subscribe_all(Subscribe::to(&scope.topic("x"), 1).identified(77))
        .await;
    let mut message = client.receive().await;
    assert_eq!(message.subscription_ids(), [77]);
    message
        .properties
        .retain(|p| !matches!(p, Property::SubscriptionId(_)));
    assert_eq!(message.properties, properties);
}

// [MQTT-3.3.2-6], section 3.3.1.3: an expired retained message is no longer retained.
#[tokio::test]
async fn a_retained_message_expires() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("s")).await;
    for (topic, expiry) in [("x", 2), ("y", 100)] {
        let publish = Publish::new(&scope.topic(topic), topic).qos(1).retain();
        client
            .publish(publish.with(Property::MessageExpiry(expiry)))
            .await;
    }
    let first = retained(&mut client, &scope, "#", 1).await;
    assert_eq!(texts(&first), ["x", "y"]);
    let mut probe = gateway.v5(&scope.id("probe")).await;
    let last = loop {
        let messages = retained(&mut probe, &scope, "#", 1).await;
        if messages.len() == 1 {
            break messages;
        }
        assert_eq!(texts(&messages), ["x", "y"]);
    };
    assert_eq!(last[0].text(), "y");
    assert!(
        matches!(last[0].properties[..], [Property::MessageExpiry(80..=99)]),
        "{:?}",
        last[0].properties
    );
}

// B7, section 3.8.4: nothing of a subscription comes before its SUBACK.
#[tokio::test]
async fn suback_comes_before_the_retained_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("s")).await;
    for n in 0..50 {
        client
            .publish(
                Publish::new(&scope.topic(&format!("x/{n}")), "kept")
                    .qos(1)
                    .retain(),
            )
            .await;
    }
    for _ in 0..10 {
        let mut client = gateway.v5(&scope.id("t")).await;
        let subscribe = Subscribe {
            id: 5,
            ..Subscribe::to(&scope.topic("x/#"), 0)
        };
        client.send(&subscribe.bytes(client.version)).await;
        assert!(matches!(client.packet().await, Packet::SubAck(suback) if suback.id == 5));
        for _ in 0..50 {
            assert!(client.message().await.retain);
        }
    }
}

// B7: a new subscription sees one value of a changing retained topic as retained, and then every later one, in order.
#[tokio::test]
async fn a_subscription_misses_no_value_behind_the_retained_one_and_sees_none_twice() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("counter");
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(Publish::new(&topic, "0").qos(1).retain())
        .await;
    let publishing = {
        let topic = topic.clone();
        tokio::spawn(async move {
            for n in 1..=1_000 {
                publisher
                    .publish(Publish::new(&topic, &n.to_string()).qos(1).retain())
                    .await;
            }
        })
    };
    while !publishing.is_finished() {
        let mut client = gateway.v5(&scope.id("s")).await;
        client.subscribe(&topic, 1).await;
        let first = client.receive().await;
        assert!(first.retain, "the first is the retained one");
        let value: u32 = first.text().parse().expect("a number");
        for wanted in (value + 1..=1_000).take(20) {
            let next = client.receive().await;
            assert_eq!(
                (next.text(), next.retain),
                (wanted.to_string().as_str(), false)
            );
        }
    }
    publishing.await.expect("published");
}

// [MQTT-4.7.2-1]
#[tokio::test]
async fn a_leading_wildcard_brings_no_retained_dollar_topic() {
    let gateway = gateway().await;
    let scope = Scope::new();
    // Wait until there are statistics at all.
    until_some("$SYS/broker/uptime", async || {
        let mut client = gateway.v5(&scope.id("probe")).await;
        client.subscribe("$SYS/broker/uptime", 1).await;
        client.subscribe(&scope.topic("probe"), 1).await;
        client
            .publish(Publish::new(&scope.topic("probe"), "").qos(1))
            .await;
        (!client.receive_until(&scope.topic("probe")).await.is_empty()).then_some(())
    })
    .await;
    for filter in ["#", "+/broker/uptime", "+/#"] {
        let mut client = gateway.v5(&scope.id("s")).await;
        client.subscribe(filter, 0).await;
        client.subscribe(&scope.topic("end"), 0).await;
        client.publish(Publish::new(&scope.topic("end"), "")).await;
        let before = client.receive_until(&scope.topic("end")).await;
        assert!(
            before.iter().all(|message| !message.topic.starts_with('$')),
            "{filter}: {before:?}"
        );
    }
}
