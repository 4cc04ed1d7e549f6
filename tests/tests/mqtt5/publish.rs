//! PUBLISH: QoS, properties, topic aliases, packet sizes, expiry.

use postern_tests::packet::{NO_LOCAL, Packet, Version, Will};
use postern_tests::wait::until_some;
use postern_tests::{Connect, Gateway, Property, Publish, Scope, Subscribe};

use crate::gateway;

// [MQTT-3.8.4-8] [MQTT-2.2.1-2] [MQTT-3.3.1-2]
#[tokio::test]
async fn the_effective_qos_is_the_lower_of_publish_and_subscription() {
    let gateway = gateway().await;
    for subscribed in 0..=2 {
        let scope = Scope::new();
        let topic = scope.topic("a");
        let mut subscriber = gateway.v5(&scope.id("s")).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        assert_eq!(subscriber.subscribe(&topic, subscribed).await, subscribed);
        for published in 0..=2 {
            publisher
                .publish(Publish::new(&topic, "x").qos(published))
                .await;
            let message = subscriber.receive().await;
            assert_eq!(
                message.qos,
                published.min(subscribed),
                "{published} to {subscribed}"
            );
            assert!(!message.dup && !message.retain);
        }
    }
}

// [MQTT-3.3.1-3]
#[tokio::test]
async fn the_dup_flag_of_the_publisher_goes_no_further() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&scope.topic("a"), 2).await;
    for qos in [1, 2] {
        client
            .publish(Publish::new(&scope.topic("a"), "x").qos(qos).dup())
            .await;
        assert!(!client.receive().await.dup);
    }
}

// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
#[tokio::test]
async fn properties_are_forwarded_unchanged_and_in_order() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&topic, 2).await;
    let all = vec![
        Property::PayloadFormat(1),
        Property::ContentType("text/plain; charset=utf-8".into()),
        Property::ResponseTopic("some/where".into()),
        Property::CorrelationData((0..=255).collect()),
        Property::user("b", "1"),
        Property::user("a", "2"),
        Property::user("b", "1"),
        Property::user("", ""),
        Property::user("ключ", "\u{feff}значение"),
    ];
    for qos in 0..=2 {
        let mut publish = Publish::new(&topic, "x").qos(qos);
        publish.properties = all.clone();
        client.publish(publish).await;
        let mut came = client.receive().await.properties;
        // The order of different properties means nothing, that of user properties does.
        let users = |list: &[Property]| -> Vec<Property> {
            list.iter()
                .filter(|p| matches!(p, Property::User(..)))
                .cloned()
                .collect()
        };
        assert_eq!(users(&came), users(&all));
        for property in &all {
            let at = came
                .iter()
                .position(|p| p == property)
                .unwrap_or_else(|| panic!("{property:?} is missing"));
            came.remove(at);
        }
        assert_eq!(came, [], "nothing was added");
    }
}

// Section 3.3.2.3.2: checking is allowed, dropping valid payloads is not; this one is valid.
#[tokio::test]
async fn a_payload_may_be_anything_from_nothing_up() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&topic, 1).await;
    for length in [0, 1, 127, 128, 16_383, 16_384, 65_536, 1_000_000] {
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        client
            .publish(Publish::new(&topic, "").qos(1).payload(payload.clone()))
            .await;
        assert!(client.receive().await.payload == payload, "{length} bytes");
    }
}

// [MQTT-4.7.3-3]: a topic name of the maximum length, with the largest allowed packet around it.
#[tokio::test]
async fn a_topic_name_may_have_65535_bytes() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut topic = scope.topic("");
    topic.push_str(&"x".repeat(65_535 - topic.len()));
    let mut client = gateway.v5(&scope.id("a")).await;
    assert_eq!(client.subscribe(&topic, 1).await, 1);
    client.publish(Publish::new(&topic, "x").qos(1)).await;
    assert_eq!(client.receive().await.topic, topic);
}

// [MQTT-4.7.3-4] [MQTT-1.5.4-3]
#[tokio::test]
async fn topic_names_are_neither_normalized_nor_stripped() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    // "é" composed and decomposed, with and without a byte order mark, upper and lower case, with a space.
    let names = [
        "\u{e9}",
        "e\u{301}",
        "\u{feff}\u{e9}",
        "ACCOUNTS",
        "Accounts",
        "a b",
        "/",
        "//",
        "a/",
        "/a",
    ];
    let topics: Vec<String> = names.iter().map(|name| scope.topic(name)).collect();
    for (n, topic) in topics.iter().enumerate() {
        client
            .subscribe_all(Subscribe::to(topic, 1).identified(1 + n as u32))
            .await;
    }
    for (n, topic) in topics.iter().enumerate() {
        client.publish(Publish::new(topic, "").qos(1)).await;
        let message = client.receive().await;
        assert_eq!(
            (&message.topic, message.subscription_ids()),
            (topic, vec![1 + n as u32])
        );
    }
    client.nothing_came().await;
}

// [MQTT-3.3.2-12], section 3.3.2.3.4
#[tokio::test]
async fn a_topic_alias_stands_for_its_topic_until_it_is_set_anew() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    client.subscribe(&scope.topic("#"), 2).await;
    let aliased = |topic: &str, alias| Publish::new(topic, "").with(Property::TopicAlias(alias));
    for qos in 0..=2 {
        for (topic, alias, wanted) in [
            ("one", 1, "one"),
            ("", 1, "one"),
            ("two", 16, "two"),
            ("", 1, "one"),
            ("", 16, "two"),
            ("three", 1, "three"),
            ("", 1, "three"),
        ] {
            let topic = if topic.is_empty() {
                String::new()
            } else {
                scope.topic(topic)
            };
            client.publish(aliased(&topic, alias).qos(qos)).await;
            assert_eq!(client.receive().await.topic, scope.topic(wanted));
        }
    }
}

// [MQTT-3.3.2-7]
#[tokio::test]
async fn a_topic_alias_ends_with_its_connection() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let connect = Connect::v5(&scope.id("a")).persistent(60);
    let mut client = gateway.connect(connect.clone()).await;
    client
        .publish(
            Publish::new(&scope.topic("a"), "")
                .qos(1)
                .with(Property::TopicAlias(1)),
        )
        .await;
    client.disconnect().await;
    let mut client = gateway.connect(connect).await;
    client
        .start_publish(Publish::new("", "").qos(1).with(Property::TopicAlias(1)))
        .await;
    assert_eq!(client.end_code().await, 0x82);
}

// [MQTT-3.3.2-8] [MQTT-3.3.2-11] [MQTT-3.1.2-26] [MQTT-3.1.2-27]
#[tokio::test]
async fn the_gateway_uses_only_the_aliases_it_was_given() {
    let gateway = gateway().await;
    for maximum in [0, 1, 2, 65_535] {
        let scope = Scope::new();
        let mut subscriber = gateway
            .connect(Connect::v5(&scope.id("s")).with(Property::TopicAliasMaximum(maximum)))
            .await;
        subscriber.subscribe(&scope.topic("#"), 1).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        let mut known = std::collections::HashMap::new();
        for round in 0..40 {
            let topic = scope.topic(&format!("a/long/topic/{}", round % 4));
            publisher
                .publish(Publish::new(&topic, "").qos(round % 2))
                .await;
            let message = subscriber.receive().await;
            let alias = message.properties.iter().find_map(|p| match p {
                Property::TopicAlias(alias) => Some(*alias),
                _ => None,
            });
            assert!(
                alias.is_none_or(|a| a > 0 && a <= maximum),
                "{alias:?} of {maximum}"
            );
            match alias {
                Some(alias) if !message.topic.is_empty() => {
                    known.insert(alias, message.topic.clone());
                    assert_eq!(message.topic, topic);
                }
                Some(alias) => assert_eq!(known.get(&alias), Some(&topic)),
                None => assert_eq!(message.topic, topic),
            }
        }
        if maximum >= 2 {
            assert!(
                !known.is_empty(),
                "aliases are used where the client offers them"
            );
        }
    }
}

// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[tokio::test]
async fn a_message_too_large_for_a_client_is_dropped_as_if_it_were_delivered() {
    let gateway = gateway().await;
    for qos in 0..=2 {
        let scope = Scope::new();
        let topic = scope.topic("a");
        let limits = [
            Property::MaximumPacketSize(100),
            Property::ReceiveMaximum(2),
        ];
        let mut connect = Connect::v5(&scope.id("small"));
        connect.properties.extend(limits);
        let mut small = gateway.connect(connect).await;
        let mut large = gateway.v5(&scope.id("large")).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        for client in [&mut small, &mut large] {
            client.subscribe(&topic, qos).await;
        }
        // PUBLISH: 2 or 3 bytes of header, topic, packet identifier, property length, payload.
        let room = 100 - 2 - 2 - topic.len() - if qos > 0 { 2 } else { 0 } - 1;
        for length in [room + 1, room, 5_000, 5_000, 5_000, 1] {
            publisher
                .publish(
                    Publish::new(&topic, "")
                        .qos(qos)
                        .payload(vec![b'x'; length]),
                )
                .await;
            assert_eq!(large.receive().await.payload.len(), length);
        }
        assert_eq!(
            small.receive().await.payload.len(),
            room,
            "exactly the maximum passes"
        );
        assert_eq!(
            small.receive().await.payload.len(),
            1,
            "dropped messages hold no receive maximum"
        );
        small.nothing_came().await;
    }
}

// [MQTT-3.2.2-15]
#[tokio::test]
async fn a_packet_above_our_maximum_gets_0x95_as_soon_as_its_size_is_known() {
    let gateway = gateway().await;
    for length in [(1 << 20) - 3, 1 << 20, 268_435_455] {
        let mut client = gateway.v5(&Scope::new().id("a")).await;
        let mut bytes = vec![0x30];
        postern_tests::property::write_variable(&mut bytes, length);
        client.send(&bytes).await;
        assert_eq!(client.end_code().await, 0x95, "remaining length {length}");
    }
}

/// Whether a new subscription gets the retained message on `topic`.
pub(crate) async fn is_retained(gateway: &Gateway, scope: &Scope, topic: &str) -> bool {
    let mut client = gateway.v5(&scope.id("probe")).await;
    let end = scope.topic("probe/end");
    client.subscribe(topic, 1).await;
    client.subscribe(&end, 1).await;
    client.publish(Publish::new(&end, "").qos(1)).await;
    !client.receive_until(&end).await.is_empty()
}

// [MQTT-3.3.2-5] [MQTT-3.3.2-6]. A retained message that is published last and expires tells the time.
#[tokio::test]
async fn an_expired_message_is_not_delivered_and_another_says_what_is_left() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (topic, clock) = (scope.topic("a"), scope.topic("clock"));
    let left = scope.topic("left");
    let connect = Connect::v5(&scope.id("s"))
        .persistent(60)
        .will(Will::new(&left, ""));
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher.subscribe(&left, 0).await;
    let mut subscriber = gateway.connect(connect.clone()).await;
    subscriber.subscribe(&topic, 2).await;
    subscriber.vanish();
    publisher.receive().await;
    for (text, expiry) in [
        ("gone", Some(1)),
        ("counted", Some(100)),
        ("zero", Some(0)),
        ("kept", None),
    ] {
        let mut publish = Publish::new(&topic, text).qos(1);
        publish
            .properties
            .extend(expiry.map(Property::MessageExpiry));
        publisher.publish(publish).await;
    }
    publisher
        .publish(
            Publish::new(&clock, "tick")
                .qos(1)
                .retain()
                .with(Property::MessageExpiry(2)),
        )
        .await;
    until_some("the retained message to expire", async || {
        (!is_retained(&gateway, &scope, &clock).await).then_some(())
    })
    .await;
    let mut subscriber = gateway.connect(connect).await;
    let counted = subscriber.receive().await;
    assert_eq!(counted.text(), "counted");
    assert!(
        matches!(counted.properties[..], [Property::MessageExpiry(80..=99)]),
        "{:?}",
        counted.properties
    );
    let kept = subscriber.receive().await;
    assert_eq!((kept.text(), &kept.properties[..]), ("kept", &[][..]));
    subscriber.nothing_came().await;
}

// [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[tokio::test]
async fn overlapping_subscriptions_respect_each_ones_qos_and_identifiers() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a/b");
    let mut client = gateway.v5(&scope.id("a")).await;
    for (filter, qos, id) in [
        ("a/b", 0, Some(1)),
        ("a/+", 2, Some(2)),
        ("a/#", 1, None),
        ("#", 1, Some(268_435_455)),
    ] {
        let mut subscribe = Subscribe::to(&scope.topic(filter), qos);
        subscribe
            .properties
            .extend(id.map(Property::SubscriptionId));
        client.subscribe_all(subscribe).await;
    }
    client.subscribe(&scope.topic("end"), 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher.publish(Publish::new(&topic, "x").qos(2)).await;
    publisher
        .publish(Publish::new(&scope.topic("end"), "").qos(1))
        .await;
    let copies = client.receive_until(&scope.topic("end")).await;
    assert_eq!(
        copies.iter().map(|copy| copy.qos).max(),
        Some(2),
        "the highest QoS of all: {copies:?}"
    );
    let mut ids: Vec<u32> = copies.iter().flat_map(Publish::subscription_ids).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 268_435_455], "{copies:?}");
    assert!(
        copies.len() == 1 || copies.len() == 4,
        "one message, or one for each subscription: {copies:?}"
    );
}

// [MQTT-3.8.3-3]
#[tokio::test]
async fn no_local_keeps_back_only_what_the_same_client_published() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    let mut client = gateway.v5(&scope.id("a")).await;
    let mut other = gateway.v5(&scope.id("b")).await;
    client.subscribe(&topic, 1 | NO_LOCAL).await;
    client.publish(Publish::new(&topic, "own").qos(1)).await;
    other.publish(Publish::new(&topic, "other").qos(1)).await;
    assert_eq!(client.receive().await.text(), "other");
    // An overlapping subscription without it still gets the client's own.
    client.subscribe(&scope.topic("+"), 1).await;
    client.publish(Publish::new(&topic, "own").qos(1)).await;
    assert_eq!(client.receive().await.text(), "own");
    client.nothing_came().await;
}

// Section 4.10
#[tokio::test]
async fn request_and_response_find_each_other() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut requester = gateway.v5(&scope.id("requester")).await;
    let mut responder = gateway.v5(&scope.id("responder")).await;
    requester.subscribe(&scope.topic("answers"), 1).await;
    responder.subscribe(&scope.topic("questions"), 1).await;
    let question = Publish::new(&scope.topic("questions"), "?")
        .qos(1)
        .with(Property::ResponseTopic(scope.topic("answers")))
        .with(Property::CorrelationData(vec![0, 255]));
    requester.publish(question).await;
    let question = responder.receive().await;
    let mut answer = Publish::new("", "!").qos(1);
    for property in question.properties {
        match property {
            Property::ResponseTopic(topic) => answer.topic = topic,
            other => answer.properties.push(other),
        }
    }
    responder.publish(answer).await;
    let answer = requester.receive().await;
    assert_eq!(
        (answer.text(), &answer.properties[..]),
        ("!", &[Property::CorrelationData(vec![0, 255])][..])
    );
}

// [MQTT-4.6.0-5] [MQTT-4.6.0-6]
#[tokio::test]
async fn messages_of_one_publisher_on_one_topic_stay_in_order() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let topic = scope.topic("a");
    for qos in 0..=2u8 {
        let mut subscriber = gateway.v5(&scope.id("s")).await;
        subscriber.subscribe(&topic, qos).await;
        let mut publisher = gateway.connect_tls(Connect::v5(&scope.id("p"))).await;
        let receiving = tokio::spawn(async move {
            for n in 0..500 {
                assert_eq!(subscriber.receive().await.text(), n.to_string());
            }
        });
        for n in 0..500 {
            publisher
                .publish(Publish::new(&topic, &n.to_string()).qos(qos))
                .await;
        }
        receiving.await.expect("in order");
    }
}

// D4, [MQTT-4.6.0-2] [MQTT-4.6.0-3] [MQTT-4.6.0-4]
#[tokio::test]
async fn acknowledgements_leave_in_the_order_of_the_messages_refusals_included() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    for (qos, kind) in [(1, "PUBACK"), (2, "PUBREC")] {
        let mut bytes = Vec::new();
        let topic = |id| {
            if id % 3 == 0 {
                "$SYS/denied".to_owned()
            } else {
                scope.topic("a")
            }
        };
        for id in 1..=18 {
            bytes.extend(
                Publish::new(&topic(id), "")
                    .qos(qos)
                    .id(id)
                    .bytes(Version::V5),
            );
        }
        client.send(&bytes).await;
        for id in 1..=18 {
            let ack = match client.packet().await {
                Packet::PubAck(ack) | Packet::PubRec(ack) => ack,
                other => panic!("instead of {kind} came {other:?}"),
            };
            assert_eq!((ack.id, ack.code >= 0x80), (id, id % 3 == 0), "{kind}");
        }
    }
}
