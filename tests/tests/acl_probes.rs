//! Is there a way around the access rules? Every door a message or a subscription could slip through, with rules made
//! by the command line against a running gateway.

use std::time::Duration;

use postern_tests::packet::{RETAIN_NEVER, Version, Will};
use postern_tests::wait::until_some;
use postern_tests::{
    Account, Client, Connect, Gateway, Property, Publish, Scope, Setup, Shared, Subscribe,
};

const NOT_AUTHORIZED: u8 = 0x87;

async fn gateway() -> Shared {
    Shared::start(Setup::new()).await
}

/// A user who may publish and subscribe `allowed` (filters relative to the scope), and its scope.
async fn user(gateway: &Gateway, scope: &Scope, allowed: &[&str]) -> Account {
    let account = gateway.add_user(&scope.id("user"), &[]).await;
    for filter in allowed {
        for action in ["publish", "subscribe"] {
            gateway
                .acl(&format!(
                    "allow {action} {} --user {}",
                    scope.topic(filter),
                    account.name
                ))
                .await;
        }
    }
    account
}

async fn connect(gateway: &Gateway, account: &Account, id: &str) -> Client {
    gateway
        .connect(Connect::v5(id).user(&account.name, &account.password))
        .await
}

/// The first account sees everything of the scope.
async fn watch(gateway: &Gateway, scope: &Scope) -> Client {
    let mut watcher = gateway.v5(&scope.id("watcher")).await;
    watcher.subscribe(&scope.topic("#"), 2).await;
    watcher
}

/// The topics that the watcher saw before a marker.
async fn seen(watcher: &mut Client, scope: &Scope) -> Vec<String> {
    let end = scope.topic("end");
    watcher.publish(Publish::new(&end, "").qos(2)).await;
    watcher
        .receive_until(&end)
        .await
        .into_iter()
        .map(|message| message.topic)
        .collect()
}

/// What a client of the user got before a marker that it may see.
async fn got(client: &mut Client, publisher: &mut Client, marker: &str) -> Vec<String> {
    publisher.publish(Publish::new(marker, "").qos(1)).await;
    client
        .receive_until(marker)
        .await
        .into_iter()
        .map(|message| message.topic)
        .collect()
}

// Deny by default, S1.
#[tokio::test]
async fn without_a_rule_nothing_is_allowed() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &[]).await;
    let mut watcher = watch(&gateway, &scope).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    for qos in [1, 2] {
        assert_eq!(
            client
                .publish(Publish::new(&scope.topic("a"), "x").qos(qos))
                .await,
            NOT_AUTHORIZED
        );
        assert_eq!(
            client
                .publish(Publish::new(&scope.topic("a"), "x").qos(qos).retain())
                .await,
            NOT_AUTHORIZED
        );
    }
    client.publish(Publish::new(&scope.topic("a"), "x")).await;
    client.ping().await;
    for filter in ["#", "+", "$SYS/#", "$SYS/broker/uptime", "$share/g/#"] {
        assert_eq!(
            client.subscribe(filter, 1).await,
            NOT_AUTHORIZED,
            "{filter}"
        );
    }
    assert_eq!(client.subscribe(&scope.topic("a"), 1).await, NOT_AUTHORIZED);
    assert_eq!(seen(&mut watcher, &scope).await, [""; 0]);
}

// P2: one allow rule must cover the whole filter; unions are not considered.
#[tokio::test]
async fn a_wildcard_needs_one_rule_that_covers_all_of_it() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#", "a/+/x", "a/b/+"]).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    for filter in [
        "own",
        "own/#",
        "own/+",
        "own/+/x/#",
        "a/+/x",
        "a/b/+",
        "a/b/x",
    ] {
        assert_eq!(
            client.subscribe(&scope.topic(filter), 1).await,
            1,
            "{filter}"
        );
    }
    for filter in [
        "#", "+", "+/#", "own+", "a/#", "a/+/+", "a/b/#", "a/+", "+/x", "ow/#", "own2", "Own/#",
    ] {
        let code = client.subscribe(&scope.topic(filter), 1).await;
        assert!(code >= 0x80, "{filter}: {code:#x}");
    }
    for filter in ["#", "+/#", "+/own/#", "/#", "$share/g/#", "$SYS/#"] {
        assert_eq!(
            client.subscribe(filter, 1).await,
            NOT_AUTHORIZED,
            "{filter}"
        );
    }
}

// The design: a deny inside an allowed subscription is enforced on each delivery.
#[tokio::test]
async fn a_deny_inside_an_allowed_filter_holds_on_delivery_and_for_retained_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["#"]).await;
    for action in ["publish", "subscribe"] {
        gateway
            .acl(&format!(
                "deny {action} {} --user {}",
                scope.topic("secret/#"),
                account.name
            ))
            .await;
    }
    let mut admin = gateway.v5(&scope.id("admin")).await;
    for topic in ["secret/kept", "open/kept"] {
        admin
            .publish(Publish::new(&scope.topic(topic), "x").qos(1).retain())
            .await;
    }
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    assert_eq!(
        client.subscribe(&scope.topic("secret/kept"), 1).await,
        NOT_AUTHORIZED
    );
    for filter in ["#", "+/kept", "+/+"] {
        assert_eq!(
            client.subscribe(&scope.topic(filter), 1).await,
            1,
            "the filter is covered"
        );
    }
    client
        .subscribe(&format!("$share/{}/{}", scope.id("g"), scope.topic("#")), 1)
        .await;
    for topic in ["secret", "secret/a", "secret/a/b", "open/a"] {
        for qos in 0..=2 {
            admin
                .publish(Publish::new(&scope.topic(topic), "x").qos(qos))
                .await;
        }
    }
    let topics = got(&mut client, &mut admin, &scope.topic("marker")).await;
    assert!(
        topics.contains(&scope.topic("open/kept")) && topics.contains(&scope.topic("open/a")),
        "{topics:?}"
    );
    let leaked: Vec<&String> = topics
        .iter()
        .filter(|topic| topic.contains("secret"))
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
    assert_eq!(
        client
            .publish(Publish::new(&scope.topic("secret/a"), "x").qos(1))
            .await,
        NOT_AUTHORIZED
    );
}

// S4: a shared subscription is no way around a deny, and a member that may not have a message does not swallow it.
#[tokio::test]
async fn a_shared_subscription_gives_denied_messages_to_members_who_may_have_them() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["#"]).await;
    gateway
        .acl(&format!(
            "deny subscribe {} --user {}",
            scope.topic("secret/#"),
            account.name
        ))
        .await;
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("#"));
    let mut poor = connect(&gateway, &account, &scope.id("poor")).await;
    assert_eq!(poor.subscribe(&filter, 1).await, 1);
    let mut rich = gateway.v5(&scope.id("rich")).await;
    rich.subscribe(&filter, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    for n in 0..20 {
        publisher
            .publish(Publish::new(&scope.topic("secret/a"), &n.to_string()).qos(1))
            .await;
    }
    for n in 0..20 {
        assert_eq!(rich.receive().await.text(), n.to_string());
    }
    poor.nothing_came().await;
}

// P2: for $share/GROUP/FILTER the rule is checked on FILTER.
#[tokio::test]
async fn a_shared_subscription_is_checked_on_its_filter() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    for (filter, code) in [
        ("own/#", 1),
        ("own/a", 1),
        ("other/#", NOT_AUTHORIZED),
        ("#", NOT_AUTHORIZED),
    ] {
        let filter = format!("$share/g/{}", scope.topic(filter));
        assert_eq!(client.subscribe(&filter, 1).await, code, "{filter}");
    }
    // A group name that spells an allowed topic changes nothing.
    let filter = format!(
        "$share/{}/{}",
        scope.topic("own").replace('/', "-"),
        scope.topic("other")
    );
    assert_eq!(client.subscribe(&filter, 1).await, NOT_AUTHORIZED);
}

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

// `$SYS` is read only by rule, and written by nobody.
#[tokio::test]
async fn sys_is_readable_by_rule_and_writable_by_nobody() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["#"]).await;
    gateway
        .acl(&format!("allow subscribe # --user {}", account.name))
        .await;
    gateway
        .acl(&format!("allow publish # --user {}", account.name))
        .await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    // `#` never matches a $ topic, in a rule as in a filter.
    assert_eq!(client.subscribe("#", 1).await, 1);
    for filter in [
        "$SYS/#",
        "$SYS/broker/uptime",
        "$SYS/+/uptime",
        "$share/g/$SYS/#",
        "$other/#",
    ] {
        assert_eq!(
            client.subscribe(filter, 1).await,
            NOT_AUTHORIZED,
            "{filter}"
        );
    }
    let mut admin = gateway.v5(&scope.id("admin")).await;
    gateway
        .acl(&format!("allow publish $SYS/# --user {}", account.name))
        .await;
    for client in [&mut client, &mut admin] {
        for topic in [
            "$SYS/broker/uptime",
            "$SYS/mine",
            "$share/g/a",
            "$other/a",
            "$",
        ] {
            assert_eq!(
                client
                    .publish(Publish::new(topic, "x").qos(1).retain())
                    .await,
                NOT_AUTHORIZED,
                "{topic}"
            );
        }
    }
    gateway
        .acl(&format!(
            "allow subscribe $SYS/broker/uptime --user {}",
            account.name
        ))
        .await;
    assert_eq!(client.subscribe("$SYS/broker/uptime", 1).await, 1);
    assert_eq!(
        client.subscribe("$SYS/broker/version", 1).await,
        NOT_AUTHORIZED
    );
}

// P1: what a client chooses cannot become a wildcard or another level.
#[tokio::test]
async fn variables_stay_inside_their_level() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = gateway.add_user(&scope.id("user"), &[]).await;
    for action in ["publish", "subscribe"] {
        gateway
            .acl(&format!(
                "allow {action} {} --user {}",
                scope.topic("id/%c/#"),
                account.name
            ))
            .await;
        gateway
            .acl(&format!(
                "allow {action} {} --user {}",
                scope.topic("user/%u"),
                account.name
            ))
            .await;
        gateway
            .acl(&format!(
                "deny {action} {} --user {}",
                scope.topic("id/%c/deny"),
                account.name
            ))
            .await;
    }
    let own = scope.id("own");
    let mut client = connect(&gateway, &account, &own).await;
    assert_eq!(
        client
            .subscribe(&scope.topic(&format!("id/{own}/#")), 1)
            .await,
        1
    );
    assert_eq!(
        client.subscribe(&scope.topic("id/+/#"), 1).await,
        NOT_AUTHORIZED
    );
    assert_eq!(
        client.subscribe(&scope.topic("id/%c/#"), 1).await,
        NOT_AUTHORIZED
    );
    assert_eq!(
        client
            .subscribe(&scope.topic(&format!("user/{}", account.name)), 1)
            .await,
        1
    );
    assert_eq!(
        client
            .publish(Publish::new(&scope.topic("user/admin"), "x").qos(1))
            .await,
        NOT_AUTHORIZED
    );
    for id in ["+", "#", "a/b", "/", "+/x", "a/+", "a#"] {
        let mut client = connect(&gateway, &account, id).await;
        for filter in ["id/#", "id/+/#", "id/a/#", "id/a/b/#", "id/x", "id//#"] {
            assert_eq!(
                client.subscribe(&scope.topic(filter), 1).await,
                NOT_AUTHORIZED,
                "{id}: {filter}"
            );
        }
        for topic in ["id/a/b", "id/x/deny", "id/a"] {
            let code = client
                .publish(Publish::new(&scope.topic(topic), "x").qos(1))
                .await;
            assert_eq!(code, NOT_AUTHORIZED, "{id}: {topic}");
        }
    }
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

// S5
#[tokio::test]
async fn another_users_session_cannot_be_taken_over() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let thief = gateway.add_user(&scope.id("thief"), &[]).await;
    gateway
        .acl(&format!(
            "allow subscribe {} --user {}",
            scope.topic("#"),
            thief.name
        ))
        .await;
    let id = scope.id("victim");
    let mut victim = gateway.connect(Connect::v5(&id).persistent(600)).await;
    victim.subscribe(&scope.topic("private"), 1).await;
    // While it is connected and while it is not, with and without a clean start, in every version.
    for connected in [true, false] {
        for (version, refused) in [(Version::V31, 2), (Version::V311, 2), (Version::V5, 0x85)] {
            for clean in [true, false] {
                let connect = Connect::new(version, &id)
                    .user(&thief.name, &thief.password)
                    .clean(clean);
                let mut client = gateway.try_connect(&connect).await;
                assert_eq!(
                    client.connack.code, refused,
                    "{version:?}, clean {clean}, connected {connected}"
                );
                assert_eq!(client.frame().await, None);
            }
        }
        if connected {
            victim.nothing_came().await;
            victim.disconnect().await;
            victim = gateway.v5(&scope.id("other")).await;
        }
    }
    victim
        .publish(Publish::new(&scope.topic("private"), "x").qos(1))
        .await;
    let mut owner = gateway.connect(Connect::v5(&id).persistent(0)).await;
    assert!(owner.connack.session_present, "the session is untouched");
    assert_eq!(owner.receive().await.text(), "x");
    // When the owner ends the session, the identifier is free.
    owner.disconnect().await;
    let connect = Connect::v5(&id).user(&thief.name, &thief.password);
    let client = until_some("the identifier to be free", async || {
        let client = gateway.try_connect(&connect).await;
        (client.connack.code == 0).then_some(client)
    })
    .await;
    assert!(!client.connack.session_present);
}

// S5: sessions per principal are limited.
#[tokio::test]
async fn one_user_cannot_have_more_sessions_than_allowed() {
    let gateway = Setup::new()
        .toml("[limits]\nmax_sessions_per_principal = 3\n")
        .start()
        .await;
    let connect = |id: &str| Connect::v5(id).persistent(600);
    for id in ["a", "b", "c"] {
        gateway.connect(connect(id)).await.disconnect().await;
    }
    assert_eq!(gateway.try_connect(&connect("d")).await.connack.code, 0x97);
    assert!(
        gateway.connect(connect("a")).await.connack.session_present,
        "an existing one is not one more"
    );
    gateway.connect(Connect::v5("a")).await.disconnect().await;
    gateway.connect(connect("d")).await;
}

// P4: a change of policy reaches a live subscription at once, and nobody goes silently deaf.
#[tokio::test]
async fn a_withdrawn_subscription_disconnects_with_0x87_and_its_filter() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#", "more/#"]).await;
    let id = scope.id("a");
    let connect = || {
        Connect::v5(&id)
            .user(&account.name, &account.password)
            .persistent(600)
    };
    let mut client = gateway.connect(connect()).await;
    client
        .subscribe_all(Subscribe::to(&scope.topic("own/#"), 1).and(&scope.topic("more/+"), 1))
        .await;
    gateway
        .acl(&format!(
            "deny subscribe {} --user {}",
            scope.topic("more/#"),
            account.name
        ))
        .await;
    let reason = client.end().await.expect("DISCONNECT");
    assert_eq!(reason.code, NOT_AUTHORIZED);
    let text = reason.string().unwrap_or_default();
    assert!(
        text.contains(&scope.topic("more/+")),
        "the reason string names the filter: {text:?}"
    );
    let mut admin = gateway.v5(&scope.id("admin")).await;
    for topic in ["own/a", "more/a", "own/b"] {
        admin
            .publish(Publish::new(&scope.topic(topic), "x").qos(1))
            .await;
    }
    let mut client = gateway.connect(connect()).await;
    assert!(client.connack.session_present);
    assert_eq!(client.receive().await.topic, scope.topic("own/a"));
    assert_eq!(client.receive().await.topic, scope.topic("own/b"));
    client.nothing_came().await;
}

// P4, v3: closed.
#[tokio::test]
async fn a_withdrawn_subscription_closes_a_v3_connection() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let connect = Connect::v311(&scope.id("a")).user(&account.name, &account.password);
    let mut client = gateway.connect(connect).await;
    client.subscribe(&scope.topic("own/#"), 1).await;
    gateway
        .acl(&format!(
            "deny subscribe {} --user {}",
            scope.topic("#"),
            account.name
        ))
        .await;
    assert_eq!(client.frame().await, None);
}

// P4: a deny inside a subscription takes no subscription away, and counts from the next message on.
#[tokio::test]
async fn a_new_deny_inside_a_live_subscription_counts_at_once() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let mut client = connect(&gateway, &account, &scope.id("a")).await;
    client.subscribe(&scope.topic("own/#"), 1).await;
    let mut admin = gateway.v5(&scope.id("admin")).await;
    admin
        .publish(Publish::new(&scope.topic("own/a"), "before").qos(1))
        .await;
    assert_eq!(client.receive().await.text(), "before");
    gateway
        .acl(&format!(
            "deny subscribe {} --user {}",
            scope.topic("own/a"),
            account.name
        ))
        .await;
    admin
        .publish(Publish::new(&scope.topic("own/a"), "after").qos(1))
        .await;
    assert_eq!(
        got(&mut client, &mut admin, &scope.topic("own/marker")).await,
        [""; 0]
    );
    // And a new deny on publishing.
    gateway
        .acl(&format!(
            "deny publish {} --user {}",
            scope.topic("own/a"),
            account.name
        ))
        .await;
    assert_eq!(
        client
            .publish(Publish::new(&scope.topic("own/a"), "x").qos(1))
            .await,
        NOT_AUTHORIZED
    );
}

// Roles: a rule for a role counts for who has it, and for nobody else.
#[tokio::test]
async fn a_rule_for_a_role_counts_for_who_has_it() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let role = scope.id("role");
    let with = gateway.add_user(&scope.id("with"), &[&role]).await;
    let without = gateway.add_user(&scope.id("without"), &[]).await;
    gateway
        .acl(&format!(
            "allow subscribe {} --role {role}",
            scope.topic("a")
        ))
        .await;
    for (account, code) in [(&with, 1), (&without, NOT_AUTHORIZED)] {
        let mut client = connect(&gateway, account, &scope.id(&account.name)).await;
        assert_eq!(
            client.subscribe(&scope.topic("a"), 1).await,
            code,
            "{}",
            account.name
        );
    }
}

// A disabled user is out at once and stays out; its sessions end, whatever it presents.
#[tokio::test]
async fn a_disabled_user_is_disconnected_and_refused() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let generated = user(&gateway, &scope, &["own/#"]).await;
    let chosen = gateway
        .add_user_with(&scope.id("chosen"), "correct horse battery staple", &[])
        .await;
    for account in [&generated, &chosen] {
        let mut clients = Vec::new();
        for n in 0..3 {
            clients.push(
                connect(
                    &gateway,
                    account,
                    &scope.id(&format!("{}{n}", account.name)),
                )
                .await,
            );
        }
        gateway
            .cli(&["user", "disable", &account.name], "")
            .await
            .expect_success();
        for client in &mut clients {
            assert_eq!(client.end_code().await, NOT_AUTHORIZED);
        }
        let login = Connect::v5(&scope.id("a")).user(&account.name, &account.password);
        let refused = gateway.try_connect(&login).await.connack.code;
        assert!(matches!(refused, 0x86 | 0x87 | 0x8A), "{refused:#x}");
        gateway
            .cli(&["user", "enable", &account.name], "")
            .await
            .expect_success();
        gateway.connect(login).await;
    }
}

// A changed password ends what the old one opened, and the old one does not work again (I3: the cache forgets it).
#[tokio::test]
async fn a_changed_password_counts_at_once() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = gateway
        .add_user_with(&scope.id("user"), "the old password", &[])
        .await;
    let login = |password: &str| Connect::v5(&scope.id("a")).user(&account.name, password);
    let mut client = gateway.connect(login("the old password")).await;
    gateway
        .cli(&["user", "password", &account.name], "the new password\n")
        .await
        .expect_success();
    client.end_within(Duration::from_secs(5)).await;
    assert_eq!(
        gateway
            .try_connect(&login("the old password"))
            .await
            .connack
            .code,
        0x86
    );
    gateway.connect(login("the new password")).await;
}

// A removed user is gone with its rules: a new one of the same name inherits nothing.
#[tokio::test]
async fn a_removed_users_rules_and_sessions_are_not_inherited() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let old = user(&gateway, &scope, &["own/#"]).await;
    let connect = Connect::v5(&scope.id("a"))
        .user(&old.name, &old.password)
        .persistent(600);
    let mut client = gateway.connect(connect).await;
    client.subscribe(&scope.topic("own/#"), 1).await;
    gateway
        .cli(&["user", "remove", &old.name], "")
        .await
        .expect_success();
    client.end().await;
    let new = gateway.add_user(&old.name, &[]).await;
    let connect = Connect::v5(&scope.id("a"))
        .user(&new.name, &new.password)
        .persistent(600);
    let mut client = gateway.connect(connect).await;
    assert!(
        !client.connack.session_present,
        "the session went with its user"
    );
    assert_eq!(
        client.subscribe(&scope.topic("own/#"), 1).await,
        NOT_AUTHORIZED
    );
}

// "May X do Y, and by which rule": the answer agrees with what happens.
#[tokio::test]
async fn explain_names_the_deciding_rule() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let account = user(&gateway, &scope, &["own/#"]).await;
    let denied = scope.topic("own/secret");
    gateway
        .acl(&format!("deny publish {denied} --everyone"))
        .await;
    let explain = async |action: &str, topic: &str| {
        let arguments = ["acl", "explain", &account.name, action, topic];
        gateway.cli(&arguments, "").await.stdout
    };
    let allowed = explain("publish", &scope.topic("own/a")).await;
    assert!(
        allowed.contains("allow") && allowed.contains(&scope.topic("own/#")),
        "{allowed}"
    );
    let refused = explain("publish", &denied).await;
    assert!(
        refused.contains("den") && refused.contains(&denied),
        "{refused}"
    );
    let nothing = explain("publish", &scope.topic("other")).await;
    assert!(nothing.contains("no rule"), "{nothing}");
}
