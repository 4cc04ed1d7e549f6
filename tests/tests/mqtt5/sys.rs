//! `$SYS`: statistics with Mosquitto's names.

use postern_tests::wait::until_some;
use postern_tests::{Client, Publish, Scope, Setup};

/// The newest value of one statistic.
async fn value(client: &mut Client, topic: &str) -> Option<String> {
    client.subscribe(topic, 0).await;
    let message = client.receive().await;
    client.unsubscribe(&[topic]).await;
    Some(message.text().to_owned())
}

async fn number(client: &mut Client, topic: &str) -> u64 {
    value(client, topic)
        .await
        .expect("a value")
        .parse()
        .unwrap_or_else(|e| panic!("{topic}: {e}"))
}

#[tokio::test]
async fn the_statistics_follow_what_happens() {
    let gateway = Setup::new().toml("[sys]\ninterval = \"1s\"").start().await;
    let mut watcher = gateway.v5("watcher").await;
    assert!(
        value(&mut watcher, "$SYS/broker/version")
            .await
            .expect("a value")
            .contains("ostern")
    );
    let uptime = value(&mut watcher, "$SYS/broker/uptime")
        .await
        .expect("a value");
    assert!(uptime.ends_with(" seconds"), "{uptime}");
    let mut others = Vec::new();
    for n in 0..3 {
        others.push(gateway.v5(&format!("other{n}")).await);
    }
    let before = number(&mut watcher, "$SYS/broker/messages/received").await;
    for _ in 0..50 {
        others[0].publish(Publish::new("a", "x").qos(1)).await;
    }
    let mut probe = gateway.v5("probe").await;
    until_some(
        "four or more connected clients and fifty messages",
        async || {
            let connected = number(&mut probe, "$SYS/broker/clients/connected").await;
            let received = number(&mut probe, "$SYS/broker/messages/received").await;
            (connected == 5 && received >= before + 50).then_some(())
        },
    )
    .await;
    assert!(number(&mut probe, "$SYS/broker/bytes/received").await > 50);
    assert!(number(&mut probe, "$SYS/broker/bytes/sent").await > 50);
}

#[tokio::test]
async fn no_statistics_are_sent_where_they_are_switched_off() {
    let gateway = Setup::new().toml("[sys]\ninterval = \"0s\"").start().await;
    let scope = Scope::new();
    let mut client = gateway.v5("a").await;
    client.subscribe("$SYS/#", 0).await;
    client.subscribe(&scope.topic("end"), 0).await;
    client.publish(Publish::new(&scope.topic("end"), "")).await;
    assert_eq!(client.receive_until(&scope.topic("end")).await, []);
}
