//! What becomes of sessions whose client certificate is revoked, or expires (P3).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{
    auth::{Certificate, Principal},
    mqtt::{Connect, Qos, ReasonCode},
    session::testing::*,
};

fn with_certificate(fingerprint: u8, not_after: SystemTime) -> Principal {
    let user = principal("user");
    let certificate = Certificate {
        realm: user.realm.clone(),
        name: Some(user.name.clone()),
        role: "device".into(),
        suffices: true,
        listener: "mqtts".into(),
        fingerprint: [fingerprint; 32],
        not_after,
        chain: Box::default(),
    };
    Principal {
        certificate: Some(Arc::new(certificate)),
        ..user
    }
}

fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn with_will(id: &str, delay: u32) -> Connect {
    Connect {
        will: will("will", id, delay),
        ..resume(id)
    }
}

async fn watcher(world: &World) -> Client {
    let watcher = world.client_of(connect("watcher"), principal("watcher"));
    let mut watcher = watcher.await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    watcher
}

fn is_good(certificate: &Certificate) -> bool {
    certificate.fingerprint != [1; 32]
}

// P3
#[tokio::test]
async fn a_revoked_certificate_takes_connection_and_will_and_leaves_the_session() {
    let world = World::new();
    let mut watcher = watcher(&world).await;
    let revoked = || with_certificate(1, later());
    let mut told = world.client_of(with_will("told", 0), revoked()).await;
    // It is gone before it can be told.
    let lost = world.client_of(with_will("lost", 0), revoked()).await;
    let away = world.client_of(with_will("away", 60), revoked()).await;
    away.vanish().await;
    let mut other = world
        .client_of(with_will("other", 0), with_certificate(2, later()))
        .await;
    let mut password = world.client(with_will("password", 0)).await;

    assert_eq!(world.registry.certificates_changed(is_good).await, 2);
    told.receive().await;
    assert_eq!(told.ended_with(), Some(ReasonCode::NotAuthorized));
    told.finish().await;
    lost.vanish().await;
    assert_eq!(watcher.take().await, [""; 0]);
    assert_eq!(world.registry.len(), 6, "sessions stay");
    for client in [&mut other, &mut password] {
        client.receive().await;
        assert!(client.ending.is_none());
    }
    other.vanish().await;
    assert_eq!(watcher.take().await, ["other"], "others keep their wills");

    // The next login is another matter.
    let again = world
        .client_of(with_will("lost", 0), with_certificate(2, later()))
        .await;
    assert!(again.session_present);
    again.vanish().await;
    assert_eq!(watcher.take().await, ["lost"]);
}

// P3, D10: what was dropped does not come back with a crash.
#[tokio::test]
async fn the_dropped_will_of_an_absent_client_is_gone_from_the_disk_too() {
    let world = World::with(|settings| settings.restart_will_grace = Duration::ZERO);
    for (id, fingerprint) in [("gone", 1), ("kept", 2)] {
        let who = with_certificate(fingerprint, later());
        world
            .client_of(with_will(id, 3600), who)
            .await
            .vanish()
            .await;
    }
    world.registry.certificates_changed(is_good).await;
    world.settle().await;
    let world = world.crash().await;
    let has_will = |id| {
        let session = world.session(id).expect("it is there");
        session.rest().identity.will.is_some()
    };
    assert!(!has_will("gone"));
    assert!(has_will("kept"));
    // The login of before is known by its fingerprint.
    let fingerprint = |id| {
        let principal = world.session(id).expect("it is there").principal();
        principal.certificate.as_ref().map(|one| one.fingerprint)
    };
    assert_eq!(fingerprint("kept"), Some([2; 32]));
}

// P3
#[tokio::test]
async fn an_expired_certificate_ends_its_connection_and_the_will_is_sent() {
    let world = World::new();
    let mut watcher = watcher(&world).await;
    let soon = SystemTime::now();
    let mut short = world
        .client_of(with_will("short", 0), with_certificate(1, soon))
        .await;
    let mut long = world
        .client_of(with_will("long", 0), with_certificate(2, later()))
        .await;
    assert_eq!(
        world.registry.certificates_expired(soon),
        0,
        "its last second"
    );
    let after = soon + Duration::from_secs(1);
    assert_eq!(world.registry.certificates_expired(after), 1);
    assert_eq!(world.registry.certificates_expired(after), 0, "told once");
    short.receive().await;
    assert_eq!(short.ended_with(), Some(ReasonCode::MaximumConnectTime));
    short.finish().await;
    assert_eq!(watcher.take().await, ["short"]);
    long.receive().await;
    assert!(long.ending.is_none());
}

// P3, P4: at once, and for a client that is away, too.
#[tokio::test]
async fn nothing_more_is_delivered_to_a_revoked_certificate_until_its_principal_shows_another() {
    let world = World::new();
    let mut publisher = world
        .client_of(connect("publisher"), principal("somebody"))
        .await;
    let mut told = world
        .client_of(resume("told"), with_certificate(1, later()))
        .await;
    told.subscribe("t", Qos::AtLeastOnce).await;
    for (id, fingerprint) in [("away", 1), ("other", 2)] {
        let who = with_certificate(fingerprint, later());
        let mut client = world.client_of(resume(id), who).await;
        client.subscribe("t", Qos::AtLeastOnce).await;
        client.subscribe("$share/g/s", Qos::AtLeastOnce).await;
        client.vanish().await;
    }
    let mut say = async |topic: &str, payload: &str| {
        let message = publish_at(Qos::AtLeastOnce, 1, topic, payload);
        publisher.publish(message).await;
        world.settle().await;
    };
    say("t", "before").await;
    assert_eq!(world.registry.certificates_changed(is_good).await, 1);
    say("t", "after").await;
    for message in ["1", "2", "3"] {
        say("s", message).await;
    }
    told.receive().await;
    told.finish().await;
    say("t", "later").await;

    // The disk knows.
    let world = world.crash().await;
    let mut publisher = world
        .client_of(connect("publisher"), principal("somebody"))
        .await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 1, "t", "restarted"))
        .await;
    world.settle().await;
    for (id, expected) in [
        ("away", &["before"][..]),
        (
            "other",
            &[
                "before",
                "after",
                "1",
                "2",
                "3",
                "later",
                "restarted",
                "again",
            ],
        ),
    ] {
        let mut back = world
            .client_of(resume(id), with_certificate(2, later()))
            .await;
        assert!(back.session_present);
        assert_eq!(back.take().await, expected, "{id}");
        publisher
            .publish(publish_at(Qos::AtLeastOnce, 1, "t", "again"))
            .await;
        world.settle().await;
        assert_eq!(back.take().await, ["again"], "{id}");
        back.disconnect(ReasonCode::Success, Some(0)).await;
    }
    let mut told = world
        .client_of(resume("told"), with_certificate(2, later()))
        .await;
    assert_eq!(told.take().await, ["before"]);
}

// S4: it has what it was given, and may give it to others; it gets nothing more.
#[tokio::test]
async fn what_a_discredited_member_of_a_shared_group_holds_is_not_lost() {
    let world = World::new();
    let mut publisher = world
        .client_of(connect("publisher"), principal("somebody"))
        .await;
    let revoked = world.client_of(resume("member"), with_certificate(1, later()));
    let mut member = revoked.await;
    member.subscribe("$share/g/s", Qos::AtLeastOnce).await;
    for (id, payload) in [(1, "1"), (2, "2")] {
        let message = publish_at(Qos::AtLeastOnce, id, "s", payload);
        publisher.publish(message).await;
    }
    world.settle().await;
    assert_eq!(member.payloads().await.len(), 2, "in flight");
    assert_eq!(world.registry.certificates_changed(is_good).await, 1);
    member.receive().await;
    member.finish().await;
    world.settle().await;
    publisher
        .publish(publish_at(Qos::AtLeastOnce, 3, "s", "nobody's"))
        .await;
    world.settle().await;
    let good = world.client_of(resume("member"), with_certificate(2, later()));
    let mut member = good.await;
    assert_eq!(member.take().await, ["1", "2"]);
}

// P3: whoever logged in meanwhile is not judged by the login before.
#[tokio::test]
async fn a_judgement_about_a_login_is_none_about_the_next_one() {
    let world = World::new();
    let before = world.client_of(resume("c"), with_certificate(1, later()));
    before.await.vanish().await;
    let session = world.session("c").unwrap();
    let judged = session.principal();
    let is_judged = |now: &Principal| {
        let (now, judged) = (now.certificate.as_ref(), judged.certificate.as_ref());
        now.zip(judged)
            .is_some_and(|(now, judged)| Arc::ptr_eq(now, judged))
    };
    let discredit = || {
        let notice = crate::session::mailbox::Notice::CertificateRevoked;
        world
            .registry
            .discredit(&session, is_judged, notice, "revoked")
    };
    let is_discredited = || {
        session
            .discredited
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let good = world.client_of(resume("c"), with_certificate(2, later()));
    let mut client = good.await;
    assert!(!discredit() && !is_discredited());
    client.receive().await;
    assert!(client.ending.is_none());
    client.vanish().await;

    // One that is let in with what was revoked meanwhile is, before it is turned away.
    let bad = world.client_of(resume("c"), with_certificate(1, later()));
    let late = bad.await;
    assert!(!is_discredited(), "its login is the last one");
    world.registry.login_was_revoked(&session);
    late.vanish().await;
    assert!(is_discredited());
    assert_eq!(world.metrics.sessions_discredited.get(), 1);
}
