//! Ways that are neither a plain PUBLISH nor a plain SUBSCRIBE: wills, topic aliases, subscribing again.

use postern_tests::packet::{RETAIN_NEVER, Version, Will};
use postern_tests::{Connect, Property, Publish, Scope};

use crate::{NOT_AUTHORIZED, connect, gateway, got, seen, user, watch};

// S1: the will topic is checked at CONNECT.
#[tokio::test]
async fn a_denied_will_topic_is_refused_at_connect() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    for (topic, retain) in [("other", false), ("other", true), ("own", false)] {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut will = Will::new(&scope.topic(topic), "x").qos(1);
            will.retain = retain;
            let connect = Connect::new(version, &scope.id("a"))
                .user(&account.name, &account.password)
                .will(will);
            let client = gateway.try_connect(&connect).await;
            let refused = if version == Version::V5 {
                NOT_AUTHORIZED
            } else {
                5
            };
            let wanted = if topic == "own" { 0 } else { refused };
            assert_eq!(client.connack.code, wanted, "{topic} {version:?}");
            client.vanish();
        }
    }
    for topic in ["$SYS/broker/version", "$share/g/a"] {
        let connect = Connect::v5("a")
            .user(&account.name, &account.password)
            .will(Will::new(topic, "x"));
        let client = gateway.try_connect(&connect).await;
        assert!(client.connack.code >= 0x80, "{topic}");
    }
}

// S1, P3: and again when it is sent.
#[tokio::test]
async fn a_will_whose_topic_was_denied_meanwhile_is_not_sent() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let mut watcher = watch(&gateway, &scope).await;
    let will = |topic: &str| Will::new(&scope.topic(topic), "x").qos(1);
    let connect = |id: &str, topic: &str| {
        Connect::v5(&scope.id(id))
            .user(&account.name, &account.password)
            .will(will(topic))
    };
    let denied = gateway.connect(connect("denied", "own/denied")).await;
    let allowed = gateway.connect(connect("allowed", "own/allowed")).await;
    gateway
        .acl(&format!(
            "deny publish {} --user {}",
            scope.topic("own/denied"),
            account.name
        ))
        .await;
    denied.vanish();
    allowed.vanish();
    assert_eq!(watcher.receive().await.topic, scope.topic("own/allowed"));
    assert_eq!(seen(&mut watcher, &scope).await, [""; 0]);
}

// P3: the will of a disabled principal is dropped.
#[tokio::test]
async fn the_will_of_a_disabled_user_is_not_sent() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let mut watcher = watch(&gateway, &scope).await;
    let will = Will::new(&scope.topic("own/will"), "x").qos(1);
    let connect = Connect::v5(&scope.id("a"))
        .user(&account.name, &account.password)
        .will(will);
    let mut client = gateway.connect(connect).await;
    gateway
        .cli(&["user", "disable", &account.name], "")
        .await
        .expect_success();
    client.end().await;
    assert_eq!(seen(&mut watcher, &scope).await, [""; 0]);
}

// The topic behind an alias is checked each time, not only when the alias is set.
#[tokio::test]
async fn a_topic_alias_is_no_way_around_a_rule() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let mut watcher = watch(&gateway, &scope).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    let aliased = |topic: &str, alias| {
        Publish::new(topic, "x")
            .qos(1)
            .with(Property::TopicAlias(alias))
    };
    assert_eq!(
        client.publish(aliased(&scope.topic("own/a"), 1)).await & 0x80,
        0
    );
    assert_eq!(client.publish(aliased("", 1)).await & 0x80, 0);
    // An alias set by a denied publish stands for the denied topic.
    assert_eq!(
        client.publish(aliased(&scope.topic("other"), 2)).await,
        NOT_AUTHORIZED
    );
    assert_eq!(client.publish(aliased("", 2)).await, NOT_AUTHORIZED);
    assert_eq!(
        client.publish(aliased(&scope.topic("other"), 1)).await,
        NOT_AUTHORIZED
    );
    assert_eq!(client.publish(aliased("", 1)).await, NOT_AUTHORIZED);
    // A rule that comes later counts for an alias that is set.
    assert_eq!(
        client.publish(aliased(&scope.topic("own/b"), 3)).await & 0x80,
        0
    );
    gateway
        .acl(&format!(
            "deny publish {} --user {}",
            scope.topic("own/b"),
            account.name
        ))
        .await;
    assert_eq!(client.publish(aliased("", 3)).await, NOT_AUTHORIZED);
    assert_eq!(
        seen(&mut watcher, &scope).await,
        [
            scope.topic("own/a"),
            scope.topic("own/a"),
            scope.topic("own/b")
        ]
    );
}

#[tokio::test]
async fn unsubscribe_and_subscribe_again_asks_again() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#", "more/#"]).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    let filter = scope.topic("more/#");
    assert_eq!(client.subscribe(&filter, 1).await, 1);
    assert_eq!(client.unsubscribe(&[&filter]).await, [0]);
    gateway
        .acl(&format!("deny subscribe {filter} --user {}", account.name))
        .await;
    assert_eq!(
        client.subscribe(&filter, 1 | RETAIN_NEVER).await,
        NOT_AUTHORIZED
    );
    let mut admin = gateway.v5(&scope.id("admin")).await;
    admin
        .publish(Publish::new(&scope.topic("more/a"), "x").qos(1))
        .await;
    client.subscribe(&scope.topic("own/#"), 1).await;
    assert_eq!(
        got(&mut client, &mut admin, &scope.topic("own/marker")).await,
        [""; 0]
    );
}
