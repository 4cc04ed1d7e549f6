//! Whose session it is (S5).

use postern_tests::packet::Version;
use postern_tests::wait::until_some;
use postern_tests::{Connect, Publish, Scope, Setup};

use crate::gateway;

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
