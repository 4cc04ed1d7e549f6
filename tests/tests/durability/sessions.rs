//! Sessions: that they are there, with their subscriptions, for whom, and for how long.

use std::time::Duration;

use postern_tests::packet::{
    NO_LOCAL, RETAIN_AS_PUBLISHED, RETAIN_IF_NEW, Subscribe, Version, disconnect,
};
use postern_tests::{Connect, Property, Publish};
use tokio::time::Instant;

use crate::{ENDS, End, House, LONG, texts_until_end};

// D1, D11
#[tokio::test]
async fn session_present_is_said_for_persistent_sessions_of_every_version_and_no_other() {
    for end in ENDS {
        let mut house = House::start().await;
        let lasting = |version| Connect::new(version, &format!("{version:?}")).persistent(LONG);
        for version in [Version::V311, Version::V5] {
            let client = house.connect(lasting(version)).await;
            assert!(!client.connack.session_present);
        }
        let passing = Connect::v5("passing").clean(false);
        house.connect(passing.clone()).await;
        let clean = Connect::v311("clean");
        house.connect(clean.clone()).await;
        for _ in 0..2 {
            house.restart(end).await;
            for version in [Version::V311, Version::V5] {
                let client = house.connect(lasting(version)).await;
                assert!(client.connack.session_present, "{end:?}, {version:?}");
            }
        }
        assert!(!house.connect(passing).await.connack.session_present);
        assert!(
            !house
                .connect(clean.clean(false))
                .await
                .connack
                .session_present
        );
    }
}

// D1, section 3.8.3.1
#[tokio::test]
async fn subscriptions_keep_their_qos_options_and_identifiers() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut client = house.lasting("c").await;
        client.subscribe("opt/0", 0).await;
        client.subscribe("opt/local", 1 | NO_LOCAL).await;
        let identified = Subscribe::to("opt/+/rap", 2 | RETAIN_AS_PUBLISHED).identified(300_000);
        client.subscribe_all(identified).await;
        let two = Subscribe::to("opt/1", 1).and("opt/2", 2).identified(7);
        client.subscribe_all(two).await;
        client.subscribe("end", 1).await;
        house.restart(end).await;

        let mut client = house.back("c").await;
        let mut other = house.v5("other").await;
        for topic in ["opt/0", "opt/local", "opt/x/rap", "opt/1", "opt/2"] {
            client
                .publish(Publish::new(topic, "own").qos(2).retain())
                .await;
            other
                .publish(Publish::new(topic, "other").qos(2).retain())
                .await;
        }
        client.publish(Publish::new("end", "").qos(1)).await;
        let mut came: Vec<_> = client.receive_until("end").await;
        // Messages of different QoS have no common order.
        came.sort_by_key(|p| (p.topic.clone(), p.text() == "other"));
        let got: Vec<_> = came
            .iter()
            .map(|p| {
                let ids = p.subscription_ids();
                (p.topic.as_str(), p.text(), p.qos, p.retain, ids)
            })
            .collect();
        let wanted = [
            ("opt/0", "own", 0, false, vec![]),
            ("opt/0", "other", 0, false, vec![]),
            ("opt/1", "own", 1, false, vec![7]),
            ("opt/1", "other", 1, false, vec![7]),
            ("opt/2", "own", 2, false, vec![7]),
            ("opt/2", "other", 2, false, vec![7]),
            ("opt/local", "other", 1, false, vec![]),
            ("opt/x/rap", "own", 2, true, vec![300_000]),
            ("opt/x/rap", "other", 2, true, vec![300_000]),
        ];
        assert_eq!(got, wanted, "{end:?}");
    }
}

// Section 3.8.3.1, Retain Handling 1
#[tokio::test]
async fn a_subscription_from_before_is_not_new_when_it_is_made_again() {
    for end in ENDS {
        let mut house = House::start().await;
        house
            .publish(Publish::new("kept", "v").qos(1).retain())
            .await;
        let mut client = house.lasting("c").await;
        client.subscribe("kept", 1 | RETAIN_IF_NEW).await;
        assert_eq!(client.receive().await.text(), "v");
        client.subscribe("end", 1).await;
        house.settle().await;
        house.restart(end).await;
        let mut client = house.back("c").await;
        client.subscribe("kept", 1 | RETAIN_IF_NEW).await;
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// D1
#[tokio::test]
async fn what_was_unsubscribed_stays_unsubscribed_and_what_was_replaced_stays_replaced() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut client = house.lasting("c").await;
        for filter in ["gone", "lowered", "end"] {
            client.subscribe(filter, 2).await;
        }
        client.unsubscribe(&["gone"]).await;
        client.subscribe("lowered", 0).await;
        house.restart(end).await;
        let mut client = house.back("c").await;
        client.publish(Publish::new("gone", "x").qos(1)).await;
        client.publish(Publish::new("lowered", "x").qos(1)).await;
        client.publish(Publish::new("end", "").qos(1)).await;
        let came = client.receive_until("end").await;
        let got: Vec<_> = came.iter().map(|p| (p.topic.as_str(), p.qos)).collect();
        assert_eq!(got, [("lowered", 0)], "{end:?}");
    }
}

// D1, D8: CONNACK of a new persistent session says that the old one is gone.
#[tokio::test]
async fn a_clean_start_of_a_persistent_session_removes_the_old_one_before_connack() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("c", "t", 1).await;
        house.publish(Publish::new("t", "old").qos(1)).await;
        let fresh = Connect::v5("c").persistent(LONG).clean(true);
        let client = house.connect(fresh).await;
        assert!(!client.connack.session_present);
        house.restart(end).await;
        let mut client = house.back("c").await;
        client.nothing_came().await;
        house.publish(Publish::new("t", "new").qos(1)).await;
        client.subscribe("end", 1).await;
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// D1, D8: nor does what a session discards that is not kept itself come back.
#[tokio::test]
async fn a_clean_start_removes_everything_for_good() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("c", "t", 1).await;
        house.publish(Publish::new("t", "old").qos(1)).await;
        house.v5("c").await.disconnect().await;
        house.restart(end).await;
        let mut client = house.lasting("c").await;
        assert!(!client.connack.session_present, "{end:?}");
        house.publish(Publish::new("t", "new").qos(1)).await;
        client.subscribe("end", 1).await;
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// Section 3.14.2.2.2
#[tokio::test]
async fn a_session_that_ended_with_disconnect_does_not_come_back() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut client = house.lasting("c").await;
        client.subscribe("t", 1).await;
        client
            .send(&disconnect(0, &[Property::SessionExpiry(0)]))
            .await;
        client.end().await;
        house.settle().await;
        house.restart(end).await;
        let client = house.lasting("c").await;
        assert!(!client.connack.session_present, "{end:?}");
    }
}

// Section 3.1.2.11.2: the wall time that passed while no gateway ran counts.
#[tokio::test]
async fn a_session_expires_while_no_gateway_runs() {
    for end in ENDS {
        let mut house = House::start().await;
        let short = Connect::v5("short").persistent(2);
        let mut client = house.connect(short.clone()).await;
        client.subscribe("t", 1).await;
        client.disconnect().await;
        house.absent("long", "t", 1).await;
        house.publish(Publish::new("t", "x").qos(1)).await;
        let over = Instant::now() + Duration::from_millis(3100);
        house.restart_after(end, over).await;
        let mut client = house.connect(short).await;
        assert!(!client.connack.session_present, "{end:?}");
        client.nothing_came().await;
        assert_eq!(house.back("long").await.receive().await.text(), "x");
    }
}

// S5
#[tokio::test]
async fn a_session_still_belongs_to_its_principal() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("mine", "t", 1).await;
        let thief = house.add_user("thief", &["admin"]).await;
        let theft = |connect: Connect| connect.user(&thief.name, &thief.password);
        house.restart(end).await;
        let refused = house.try_connect(&theft(Connect::v5("mine"))).await;
        assert_eq!(refused.connack.code, 0x85, "{end:?}");
        let refused = house.try_connect(&theft(Connect::v311("mine"))).await;
        assert_eq!(refused.connack.code, 0x02, "{end:?}");
        house.back("mine").await;
    }
}

// P3: an offline session queues by the roles of its last login.
#[tokio::test]
async fn an_absent_session_queues_by_the_roles_of_its_last_login() {
    for end in ENDS {
        let mut house = House::start().await;
        let user = house.add_user("u", &["reader"]).await;
        house.acl("allow subscribe a/# --role reader").await;
        house.acl("allow subscribe end --role reader").await;
        house.acl("allow publish end --role reader").await;
        let login = Connect::v5("c")
            .persistent(LONG)
            .user(&user.name, &user.password);
        let mut client = house.connect(login.clone()).await;
        client.subscribe("a/#", 1).await;
        client.subscribe("end", 1).await;
        client.disconnect().await;
        house.restart(end).await;
        house.acl("deny subscribe a/secret --role reader").await;
        house.publish(Publish::new("a/open", "open").qos(1)).await;
        house
            .publish(Publish::new("a/secret", "secret").qos(1))
            .await;
        house.restart(end).await;
        let mut client = house.connect(login).await;
        assert!(client.connack.session_present);
        assert_eq!(texts_until_end(&mut client).await, ["open"], "{end:?}");
    }
}

// P3, P4: what was taken away while no gateway ran is gone when the client comes back.
#[tokio::test]
async fn a_permission_that_was_taken_away_meanwhile_is_gone() {
    let mut house = House::start().await;
    let user = house.add_user("u", &["reader", "ender"]).await;
    house.acl("allow subscribe a/# --role reader").await;
    house.acl("allow subscribe end --role ender").await;
    house.acl("allow publish end --role ender").await;
    let login = Connect::v5("c")
        .persistent(LONG)
        .user(&user.name, &user.password);
    let mut client = house.connect(login.clone()).await;
    client.subscribe("a/#", 1).await;
    client.subscribe("end", 1).await;
    client.disconnect().await;
    house.publish(Publish::new("a/x", "before").qos(1)).await;
    let dir = house.end(End::Kill).await;
    let config = dir.path().join("postern.toml");
    postern_tests::gateway::gateway_tool()
        .args(["user", "roles", "u", "ender", "--config"])
        .arg(&config)
        .run()
        .await
        .expect_success();
    house.start_again(dir).await;
    // It is told when it comes back, and may then stay with what is left.
    let mut client = house.connect(login.clone()).await;
    assert_eq!(client.end_code().await, 0x87);
    let mut client = house.connect(login).await;
    assert!(client.connack.session_present);
    house.publish(Publish::new("a/x", "after").qos(1)).await;
    assert_eq!(texts_until_end(&mut client).await, [""; 0]);
}
