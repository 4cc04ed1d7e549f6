//! What the rules themselves say: deny by default, coverage, denies inside, variables, roles, `$SYS`.

use postern_tests::{Publish, Scope};

use crate::{NOT_AUTHORIZED, connect, gateway, got, seen, user, watch};

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
