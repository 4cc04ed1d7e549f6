//! SUBSCRIBE and UNSUBSCRIBE: filters, options, answers.

use postern_tests::packet::{NO_LOCAL, Version};
use postern_tests::property::Property;
use postern_tests::{Publish, Scope, Setup, Subscribe};

use crate::gateway;

// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]
#[tokio::test]
async fn each_filter_gets_its_code_in_order() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    let subscribe = Subscribe {
        id: 0xFEDC,
        ..Subscribe::to(&scope.topic("a"), 2)
    }
    .and("a/#/b", 1)
    .and(&scope.topic("b"), 0)
    .and("$share/+/x", 1)
    .and(&scope.topic("c/+"), 1);
    let suback = client.subscribe_all(subscribe).await;
    assert_eq!(
        (suback.id, suback.codes),
        (0xFEDC, vec![2, 0x8F, 0, 0x8F, 1])
    );
    for topic in ["a", "b", "c/d"] {
        client
            .publish(Publish::new(&scope.topic(topic), topic).qos(1))
            .await;
        assert_eq!(
            client.receive().await.text(),
            topic,
            "the valid filters of the packet hold"
        );
    }
}

// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[tokio::test]
async fn an_invalid_filter_gets_0x8f_and_the_connection_lives() {
    let gateway = gateway().await;
    let mut client = gateway.v5(&Scope::new().id("a")).await;
    for filter in [
        "a/#/b",
        "#/a",
        "##",
        "a#",
        "#a",
        "a/b#",
        "a+",
        "+a",
        "a/+b/c",
        "a/b+",
        "++",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/g+/a",
        "$share/#/a",
        "$share/g#/a",
        "$share/g/a/#/b",
        "$share/g/a+",
    ] {
        assert_eq!(client.subscribe(filter, 1).await, 0x8F, "{filter:?}");
    }
    client.nothing_came().await;
}

// Sections 4.7.1 to 4.7.3
#[tokio::test]
async fn filters_match_what_the_specification_says() {
    let gateway = gateway().await;
    for (filter, matching, others) in [
        (
            "sport/#",
            vec!["sport", "sport/", "sport/tennis", "sport/tennis/p1"],
            vec!["sports", "Sport/x", "/sport/x"],
        ),
        (
            "sport/+",
            vec!["sport/a", "sport/"],
            vec!["sport", "sport/a/b", "sports/a"],
        ),
        (
            "+/+",
            vec!["/finance", "a/b", "/"],
            vec!["finance", "a/b/c"],
        ),
        (
            "/+",
            vec!["/finance", "/"],
            vec!["finance", "a/finance", "/finance/b"],
        ),
        ("+", vec!["finance", ""], vec!["/finance"]),
        (
            "sport/+/player",
            vec!["sport/a/player", "sport//player"],
            vec!["sport/player", "sport/a/b/player"],
        ),
        (
            "+/tennis/#",
            vec!["a/tennis", "a/tennis/b", "/tennis/b/c"],
            vec!["tennis", "a/b/tennis"],
        ),
        ("a//b", vec!["a//b"], vec!["a/b", "a/x/b"]),
        ("$data/+", vec!["$data/x"], vec!["data/x"]),
        ("a b/c", vec!["a b/c"], vec!["a  b/c"]),
    ] {
        let scope = Scope::new();
        let mut client = gateway.v5(&scope.id("a")).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        assert_eq!(
            client.subscribe(&scope.topic(filter), 1).await,
            1,
            "{filter}"
        );
        let end = format!("end-of-{}", scope.id("matching"));
        client.subscribe(&end, 1).await;
        for topic in matching.iter().chain(&others) {
            publisher
                .publish(Publish::new(&scope.topic(topic), topic).qos(1))
                .await;
        }
        publisher.publish(Publish::new(&end, "").qos(1)).await;
        let came = client.receive_until(&end).await;
        let came: Vec<&str> = came.iter().map(Publish::text).collect();
        assert_eq!(came, matching, "{filter}");
    }
}

// [MQTT-3.8.4-3]
#[tokio::test]
async fn the_same_filter_again_replaces_the_subscription() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway.v5(&scope.id("a")).await;
    for (qos, id) in [(0, 1), (2, 2), (1, 3)] {
        client
            .subscribe_all(Subscribe::to(&topic, qos).identified(id))
            .await;
        client.publish(Publish::new(&topic, "x").qos(2)).await;
        let message = client.receive().await;
        assert_eq!((message.qos, message.subscription_ids()), (qos, vec![id]));
        client.nothing_came().await;
    }
    client.subscribe(&topic, 1).await;
    client.publish(Publish::new(&topic, "x").qos(2)).await;
    assert_eq!(
        client.receive().await.subscription_ids(),
        [0; 0],
        "without an identifier the old one is gone"
    );
    assert_eq!(client.unsubscribe(&[&topic]).await, [0]);
    client.publish(Publish::new(&topic, "x").qos(2)).await;
    client.nothing_came().await;
}

// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
#[tokio::test]
async fn unsubscribe_answers_each_filter() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    let (one, two, three) = (
        scope.topic("one"),
        scope.topic("two/+"),
        scope.topic("three"),
    );
    let shared = format!("$share/g/{three}");
    for filter in [&one, &two, &three, &shared] {
        client.subscribe(filter, 1).await;
    }
    let never = scope.topic("never");
    // Filters are compared as they are written: a wildcard does not remove what it covers.
    let codes = client
        .unsubscribe(&[&one, &never, &scope.topic("+"), &two, &one, &shared])
        .await;
    assert_eq!(codes, [0, 0x11, 0x11, 0, 0x11, 0]);
    for topic in ["one", "two/x", "three"] {
        client
            .publish(Publish::new(&scope.topic(topic), topic).qos(1))
            .await;
    }
    assert_eq!(client.receive().await.text(), "three");
    client.nothing_came().await;
}

// [MQTT-3.8.3-4]
#[tokio::test]
async fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let gateway = gateway().await;
    let mut client = gateway.v5(&Scope::new().id("a")).await;
    client
        .send(
            &Subscribe {
                id: 1,
                ..Subscribe::to("$share/g/a", 1 | NO_LOCAL)
            }
            .bytes(Version::V5),
        )
        .await;
    assert_eq!(client.end_code().await, 0x82);
}

// [MQTT-4.7.2-1]: a leading wildcard stays out of $ topics, a literal one does not.
#[tokio::test]
async fn a_literal_dollar_filter_gets_what_a_wildcard_does_not() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client
        .subscribe_all(Subscribe::to("#", 0).identified(1))
        .await;
    client
        .subscribe_all(Subscribe::to("+/broker/uptime", 0).identified(2))
        .await;
    client
        .subscribe_all(Subscribe::to("$SYS/broker/uptime", 0).identified(3))
        .await;
    loop {
        let message = client.receive().await;
        if message.topic == "$SYS/broker/uptime" {
            assert_eq!(message.subscription_ids(), [3]);
            return;
        }
    }
}

// The door: limits on subscriptions and levels, each with its reason code.
#[tokio::test]
async fn limits_on_subscriptions_and_levels_hold() {
    let limits = "[limits]\nmax_subscriptions_per_session = 3\nmax_topic_levels = 5\n";
    let gateway = Setup::new().toml(limits).start().await;
    let mut client = gateway.v5("a").await;
    let subscribe = Subscribe::to("one", 0)
        .and("two", 0)
        .and("three", 0)
        .and("four", 0);
    assert_eq!(client.subscribe_all(subscribe).await.codes, [0, 0, 0, 0x97]);
    assert_eq!(client.subscribe("four", 0).await, 0x97);
    assert_eq!(
        client.subscribe("one", 1).await,
        1,
        "a replaced one is not one more"
    );
    assert_eq!(client.unsubscribe(&["two"]).await, [0]);
    assert_eq!(client.subscribe("1/2/3/4/5", 0).await, 0);
    assert_eq!(client.unsubscribe(&["one"]).await, [0]);
    assert_eq!(client.subscribe("1/2/3/4/5/6", 0).await, 0x8F);
    assert_eq!(
        client
            .publish(Publish::new("1/2/3/4/5/6", "x").qos(1))
            .await,
        0x90
    );
    client.publish(Publish::new("1/2/3/4/5", "x").qos(1)).await;
    assert_eq!(client.receive().await.text(), "x");
}

// Section 3.8.2.1.2: identifiers of every encoded length.
#[tokio::test]
async fn subscription_identifiers_of_every_length_come_back() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    for id in [
        1,
        127,
        128,
        16_383,
        16_384,
        2_097_151,
        2_097_152,
        268_435_455,
    ] {
        client
            .subscribe_all(Subscribe::to(&scope.topic("a"), 0).identified(id))
            .await;
        client.publish(Publish::new(&scope.topic("a"), "x")).await;
        assert_eq!(
            client.receive().await.properties,
            [Property::SubscriptionId(id)]
        );
    }
}
