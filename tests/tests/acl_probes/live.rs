//! Changes of policy and accounts while clients are connected (P4).

use std::time::Duration;

use postern_tests::{Connect, Publish, Scope, Subscribe};

use crate::{NOT_AUTHORIZED, connect, gateway, got, user};

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
