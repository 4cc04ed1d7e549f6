//! `$SYS`: statistics with Mosquitto's names.

use std::collections::HashMap;

use postern_tests::wait::within;
use postern_tests::{Client, Gateway, Publish, Scope, Setup};

/// A client that follows all statistics.
struct Statistics {
    client: Client,
    newest: HashMap<String, String>,
}

impl Statistics {
    async fn follow(gateway: &Gateway) -> Self {
        let mut client = gateway.v5("statistics").await;
        client.subscribe("$SYS/broker/#", 0).await;
        let newest = HashMap::new();
        Self { client, newest }
    }

    /// Reads on until the newest values are as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        within(what, async {
            while !wanted(self) {
                let message = self.client.receive().await;
                self.newest
                    .insert(message.topic.clone(), message.text().to_owned());
            }
        })
        .await;
    }

    fn text(&self, name: &str) -> &str {
        self.newest
            .get(&format!("$SYS/broker/{name}"))
            .map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }
}

#[tokio::test]
async fn the_statistics_follow_what_happens() {
    let gateway = Setup::new().toml("[sys]\ninterval = \"1s\"").start().await;
    let mut statistics = Statistics::follow(&gateway).await;
    let names = [
        "messages/received",
        "bytes/received",
        "bytes/sent",
        "clients/connected",
    ];
    statistics
        .until("the first values", |s| {
            names.iter().all(|name| s.number(name).is_some())
        })
        .await;
    statistics
        .until("a version", |s| s.text("version").contains("ostern"))
        .await;
    statistics
        .until("an uptime", |s| s.text("uptime").ends_with(" seconds"))
        .await;
    let before = names.map(|name| statistics.number(name).expect("it is there"));

    let mut others = Vec::new();
    for n in 0..3 {
        others.push(gateway.v5(&format!("other{n}")).await);
    }
    for _ in 0..50 {
        others[0].publish(Publish::new("a", "x").qos(1)).await;
    }
    statistics
        .until("four connected clients", |s| {
            s.number("clients/connected") == Some(4)
        })
        .await;
    statistics
        .until("fifty messages more", |s| {
            s.number(names[0]) >= Some(before[0] + 50)
        })
        .await;
    for n in [1, 2] {
        statistics
            .until(names[n], |s| s.number(names[n]) >= Some(before[n] + 200))
            .await;
    }
    others.pop().expect("three").disconnect().await;
    statistics
        .until("three connected clients", |s| {
            s.number("clients/connected") == Some(3)
        })
        .await;
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
