//! Queued and retained messages: whole, in order, within their limits, and for as long as they last.

use std::time::Duration;

use postern_tests::packet::{RETAIN_AS_PUBLISHED, Version};
use postern_tests::{Connect, Property, Publish};
use tokio::time::Instant;

use crate::{ENDS, House, LONG, texts_until_end};

/// Every property that a message may have, but its expiry.
fn described(publish: Publish) -> Publish {
    publish
        .with(Property::PayloadFormat(1))
        .with(Property::ContentType("text/plain".into()))
        .with(Property::ResponseTopic("answers/here".into()))
        .with(Property::CorrelationData(vec![0, 255, 7]))
        .with(Property::user("a", "1"))
        .with(Property::user("b", "ä"))
        .with(Property::user("a", "2"))
}

/// The remaining expiry, and all other properties in a fixed order, user properties in theirs.
fn taken_apart(publish: &Publish) -> (Option<u32>, Vec<Property>) {
    let mut expiry = None;
    let mut rest = Vec::new();
    for property in &publish.properties {
        match property {
            Property::MessageExpiry(seconds) => expiry = Some(*seconds),
            other => rest.push(other.clone()),
        }
    }
    let place = |p: &Property| match p {
        Property::PayloadFormat(_) => 0,
        Property::ContentType(_) => 1,
        Property::ResponseTopic(_) => 2,
        Property::CorrelationData(_) => 3,
        Property::User(..) => 4,
        _ => 5,
    };
    rest.sort_by_key(place);
    (expiry, rest)
}

fn retained(topic: &str, text: &str) -> Publish {
    Publish::new(topic, text).qos(1).retain()
}

// D1, section 3.3.1.3
#[tokio::test]
async fn retained_messages_keep_payload_properties_and_remaining_expiry() {
    for end in ENDS {
        let mut house = House::start().await;
        let full = described(retained("r/full", "full")).with(Property::MessageExpiry(1000));
        house.publish(full.clone()).await;
        house.publish(retained("r/qos2", "qos2").qos(2)).await;
        house
            .publish(retained("r/short", "short").with(Property::MessageExpiry(2)))
            .await;
        house.publish(retained("r/cleared", "cleared")).await;
        house.publish(retained("r/cleared", "")).await;
        house.publish(retained("r/replaced", "old")).await;
        house.publish(retained("r/replaced", "new")).await;
        let over = Instant::now() + Duration::from_millis(3100);
        house.restart_after(end, over).await;

        let mut client = house.v5("c").await;
        client.subscribe("r/#", 2).await;
        client.subscribe("end", 1).await;
        client.publish(Publish::new("end", "").qos(1)).await;
        let mut came = client.receive_until("end").await;
        came.sort_by(|a, b| a.topic.cmp(&b.topic));
        let got: Vec<_> = came
            .iter()
            .map(|p| (p.topic.as_str(), p.text(), p.qos, p.retain))
            .collect();
        let wanted = [
            ("r/full", "full", 1, true),
            ("r/qos2", "qos2", 2, true),
            ("r/replaced", "new", 1, true),
        ];
        assert_eq!(got, wanted, "{end:?}");
        let (expiry, rest) = taken_apart(&came[0]);
        assert_eq!(rest, taken_apart(&full).1, "{end:?}");
        let left = expiry.expect("an expiry");
        assert!((900..=997).contains(&left), "{end:?}: {left} s are left");
    }
}

// D1, D8, section 3.3.2.3.3
#[tokio::test]
async fn queued_messages_keep_everything_and_expire_while_no_gateway_runs() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut client = house.lasting("c").await;
        let subscribe = postern_tests::Subscribe::to("q/#", 2 | RETAIN_AS_PUBLISHED).identified(9);
        client.subscribe_all(subscribe).await;
        client.disconnect().await;
        let full = described(Publish::new("q/full", "full").qos(2).retain())
            .with(Property::MessageExpiry(1000));
        house.publish(full.clone()).await;
        let short = Publish::new("q/short", "short").qos(2);
        house.publish(short.with(Property::MessageExpiry(2))).await;
        let binary = Publish::new("q/binary", "")
            .qos(1)
            .payload(vec![0, 1, 254, 255]);
        house.publish(binary).await;
        let over = Instant::now() + Duration::from_millis(3100);
        house.restart_after(end, over).await;

        let mut client = house.back("c").await;
        client.subscribe("end", 1).await;
        client.publish(Publish::new("end", "").qos(1)).await;
        let came = client.receive_until("end").await;
        let topics: Vec<_> = came.iter().map(|p| p.topic.as_str()).collect();
        assert_eq!(topics, ["q/full", "q/binary"], "{end:?}");
        assert_eq!((came[0].qos, came[0].retain), (2, true));
        assert_eq!((came[1].qos, came[1].retain), (1, false));
        assert_eq!(came[1].payload, [0, 1, 254, 255]);
        assert_eq!(came[0].subscription_ids(), [9]);
        let (expiry, rest) = taken_apart(&came[0]);
        let mut wanted = taken_apart(&full).1;
        wanted.push(Property::SubscriptionId(9));
        assert_eq!(rest, wanted, "{end:?}");
        let left = expiry.expect("an expiry");
        assert!((900..=997).contains(&left), "{end:?}: {left} s are left");
    }
}

// D9: a message in flight does not expire.
#[tokio::test]
async fn a_message_in_flight_does_not_expire_while_no_gateway_runs() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut client = house.lasting("c").await;
        client.subscribe("t", 1).await;
        let short = Publish::new("t", "short").qos(1);
        house.publish(short.with(Property::MessageExpiry(2))).await;
        let id = client.message().await.id;
        house.settle().await;
        let over = Instant::now() + Duration::from_millis(3100);
        house.restart_after(end, over).await;
        let mut client = house.back("c").await;
        let again = client.receive().await;
        let got = (again.text(), again.id, again.dup);
        assert_eq!(got, ("short", id, true), "{end:?}");
    }
}

// D1
#[tokio::test]
async fn a_backlog_arrives_whole_and_in_order_over_several_restarts() {
    const EACH: usize = 200;
    for end in ENDS {
        let mut house = House::with("[limits]\nmax_sessions_per_principal = 100\n").await;
        house.absent("c", "b/+", 1).await;
        house.absent("v3", "b/+", 2).await;
        let text = |n: usize| {
            // Short ones, ones that are stored once for both sessions, and some of many pages.
            let filler = [0, 10, 900, 40_000][n % 4 * usize::from(n.is_multiple_of(7))];
            format!("{n} {}", "x".repeat(filler))
        };
        for round in 0..3 {
            let mut publisher = house.v5("p").await;
            for n in round * EACH..(round + 1) * EACH {
                let message = Publish::new(&format!("b/{}", n % 3), &text(n)).qos(2);
                assert_eq!(publisher.publish(message).await, 0);
            }
            drop(publisher);
            house.restart(end).await;
        }
        for id in ["c", "v3"] {
            let mut client = house.back(id).await;
            client.subscribe("end", 1).await;
            let came = texts_until_end(&mut client).await;
            let wanted: Vec<_> = (0..3 * EACH).map(text).collect();
            assert_eq!(came.len(), wanted.len(), "{end:?}");
            assert!(
                came == wanted,
                "{end:?}: {id} has them in another order, or changed"
            );
        }
    }
}

// D8: the oldest leave, before and after a restart, and the publisher is never refused.
#[tokio::test]
async fn the_queue_limit_of_a_session_holds_over_a_restart() {
    for end in ENDS {
        let limits = "[limits]\nmax_sessions_per_principal = 100\nmax_queued_messages = 10\n";
        let mut house = House::with(limits).await;
        house.absent("c", "t", 1).await;
        let mut number = 0;
        for _ in 0..2 {
            for _ in 0..15 {
                house
                    .publish(Publish::new("t", &number.to_string()).qos(1))
                    .await;
                number += 1;
            }
            house.restart(end).await;
        }
        house
            .publish(Publish::new("t", &number.to_string()).qos(1))
            .await;
        let mut client = house.back("c").await;
        for wanted in number - 9..=number {
            assert_eq!(client.receive().await.text(), wanted.to_string(), "{end:?}");
        }
        client.subscribe("end", 1).await;
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// D1: QoS 0 is no promise, and does not come back as one.
#[tokio::test]
async fn a_v311_session_gets_what_came_while_it_was_away() {
    for end in ENDS {
        let mut house = House::start().await;
        let lasting = Connect::new(Version::V311, "old").persistent(LONG);
        let mut client = house.connect(lasting.clone()).await;
        client.subscribe("t", 2).await;
        client.subscribe("end", 1).await;
        client.disconnect().await;
        house.publish(Publish::new("t", "before").qos(2)).await;
        house.restart(end).await;
        house.publish(Publish::new("t", "after").qos(2)).await;
        let mut client = house.connect(lasting).await;
        assert!(client.connack.session_present);
        let came = texts_until_end(&mut client).await;
        assert_eq!(came, ["before", "after"], "{end:?}");
    }
}
