//! Logins by token: their ends, and what follows (P3, I4).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use serde_json::json;

use crate::{
    acl::{Action, Effect, Policy},
    auth::{
        Authenticator, Issuers, Principal, SecretKey, Settings, Users, Wrong, oauth::testing::*,
    },
    mqtt::{Auth, Connect, Packet, Qos, ReasonCode},
    session::{Agenda, entitlement::Change, testing::*},
    store::User,
};

/// An issuer that is asked about tokens every second, and a gateway that asks it.
struct Trust {
    server: Server,
    authenticator: Arc<Authenticator>,
    issuers: Arc<Issuers>,
    _dir: tempfile::TempDir,
}

impl Trust {
    async fn new(world: &World) -> Trust {
        Trust::with(world, "revalidate_every = \"1s\"\n").await
    }

    async fn with(world: &World, more: &str) -> Trust {
        let server = Server::start().await;
        let config = introspection(&server.url, more);
        let issuers = Issuers::open(&config.oauth, world.metrics.clone()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = Arc::new(SecretKey::open(dir.path(), None).unwrap());
        let users = Arc::new(Users::default());
        let authenticator = Authenticator::new(users, key, Settings::default()).unwrap();
        let authenticator = Arc::new(authenticator);
        authenticator.attach_issuers(issuers.clone());
        world.registry.attach_authenticator(authenticator.clone());
        tokio::spawn(Agenda::run(world.registry.clone()));
        Trust {
            server,
            authenticator,
            issuers,
            _dir: dir,
        }
    }

    /// The bearer of a token that says so.
    async fn bearer(&self, token: &str, more: serde_json::Value) -> Principal {
        self.vouch(token, more);
        let credentials = crate::auth::Credentials {
            username: None,
            password: None,
            certificate: None,
        };
        let (wrong, authenticator) = (Wrong::default(), &self.authenticator);
        let login =
            authenticator.authenticate_by_token(token.as_bytes(), &credentials, None, &wrong);
        login.await.unwrap()
    }

    fn install(&self, issuers: &BTreeMap<String, broker_config::Issuer>) {
        self.issuers.install(self.issuers.prepare(issuers).unwrap());
    }

    /// The account of the client, from now on.
    fn put(&self, role: &str, disabled: bool) {
        let user = User {
            name: "user".into(),
            credential: self.authenticator.hash_secret("user", "pst_x"),
            disabled,
            roles: [role.into()].into(),
            device: false,
            created_at: 0,
            changed_at: 0,
        };
        let users = [(user.name.clone(), Arc::new(user))];
        self.authenticator
            .users()
            .replace(users.into_iter().collect());
    }

    fn vouch(&self, token: &str, more: serde_json::Value) {
        let mut claims = json!({"active": true, "aud": "mqtt", "sub": "user"});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.server.vouch(token, claims);
    }
}

fn with_will(id: &str, delay: u32) -> Connect {
    Connect {
        will: will("will", id, delay),
        ..resume(id)
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn watcher(world: &World) -> Client {
    let mut watcher = world
        .client_of(connect("watcher"), principal("watcher"))
        .await;
    watcher.subscribe("will", Qos::AtLeastOnce).await;
    watcher
}

// P3
#[tokio::test]
async fn an_expired_token_ends_its_connection_and_the_will_is_sent() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let mut watcher = watcher(&world).await;
    let soon = Principal {
        expires_at: Some(SystemTime::now() + Duration::from_millis(300)),
        ..trust.bearer("t", json!({"exp": now() + 60})).await
    };
    let mut client = world.client_of(with_will("c", 0), soon).await;
    let mut other = world.client(connect("password")).await;
    until("the token ends", || world.metrics.tokens_expired.get() == 1).await;
    client.receive().await;
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
    client.finish().await;
    assert_eq!(watcher.take().await, ["c"]);
    other.receive().await;
    assert!(other.ending.is_none());
    assert!(world.session("c").is_some(), "the session stays");
}

// P3, I4
#[tokio::test]
async fn a_revoked_token_takes_connection_and_will_that_of_an_absent_client_too() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let mut watcher = watcher(&world).await;
    let (bad, good) = (
        trust.bearer("bad", json!({"exp": now() + 60})).await,
        trust.bearer("good", json!({"exp": now() + 60})).await,
    );
    let mut told = world.client_of(with_will("told", 0), bad.clone()).await;
    let away = world.client_of(with_will("away", 60), bad).await;
    away.vanish().await;
    let mut kept = world.client_of(with_will("kept", 0), good).await;
    trust.server.vouch("bad", json!({"active": false}));
    until("it is seen", || world.metrics.tokens_revoked.get() == 1).await;
    until("its will goes", || {
        world
            .session("away")
            .is_some_and(|session| session.rest().will.is_none())
    })
    .await;
    told.receive().await;
    assert_eq!(told.ended_with(), Some(ReasonCode::NotAuthorized));
    told.finish().await;
    kept.receive().await;
    assert!(kept.ending.is_none());
    kept.vanish().await;
    assert_eq!(watcher.take().await, ["kept"]);
    assert!(world.session("told").is_some(), "sessions stay");
}

// P3, P4: the issuer is asked about the tokens of clients that are away, too.
#[tokio::test]
async fn nothing_more_is_delivered_to_a_revoked_token_until_its_principal_has_another() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let mut publisher = world
        .client_of(connect("publisher"), principal("somebody"))
        .await;
    for token in ["bad", "good"] {
        let bearer = trust.bearer(token, json!({"exp": now() + 60})).await;
        let mut client = world.client_of(resume(token), bearer).await;
        client.subscribe("t", Qos::AtLeastOnce).await;
        client.vanish().await;
    }
    let message = |payload| publish_at(Qos::AtLeastOnce, 1, "t", payload);
    publisher.publish(message("before")).await;
    world.settle().await;
    trust.server.vouch("bad", json!({"active": false}));
    let session = world.session("bad").unwrap();
    until("it is seen", || session.discredited.load(Relaxed)).await;
    publisher.publish(message("after")).await;
    world.settle().await;
    let another = trust.bearer("another", json!({"exp": now() + 60})).await;
    let mut back = world.client_of(resume("bad"), another).await;
    assert!(back.session_present);
    publisher.publish(message("again")).await;
    world.settle().await;
    assert_eq!(back.take().await, ["before", "again"]);
    let good = trust.bearer("good", json!({"exp": now() + 60})).await;
    let mut good = world.client_of(resume("good"), good).await;
    assert_eq!(good.take().await, ["before", "after", "again"]);
}

// P3: silence is no statement; when the issuer speaks again, it is heard.
#[tokio::test]
async fn a_token_without_an_end_is_asked_about_again_after_the_issuer_was_silent() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let endless = trust.bearer("endless", json!({})).await;
    let away = world.client_of(resume("away"), endless.clone()).await;
    away.vanish().await;
    let mut here = world.client_of(resume("here"), endless).await;
    let sessions = ["away", "here"].map(|id| world.session(id).unwrap());
    trust.server.answer("/introspect", 503, "{}");
    let failed = || world.metrics.issuer_requests_failed.get();
    let long = Instant::now() + Duration::from_millis(1_500);
    until("it was asked in vain for longer than answers count", || {
        failed() > 2 && Instant::now() > long
    })
    .await;
    here.receive().await;
    assert_eq!(here.ended_with(), Some(ReasonCode::NotAuthorized));
    here.finish().await;
    let discredited = || {
        let each = sessions.each_ref();
        each.map(|session| session.discredited.load(Relaxed))
    };
    assert_eq!(discredited(), [false, false]);
    trust.server.vouch("endless", json!({"active": false}));
    trust.server.answer_as_usual("/introspect");
    until("it is seen", || discredited() == [true, true]).await;
}

// I4
#[tokio::test]
async fn silence_of_the_issuer_ends_only_tokens_that_have_no_end_of_their_own() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let endless = trust.bearer("endless", json!({})).await;
    let mut lasting = {
        let principal = trust.bearer("lasting", json!({"exp": now() + 60})).await;
        world.client_of(connect("lasting"), principal).await
    };
    let mut endless = world.client_of(connect("endless"), endless).await;
    trust.server.stop();
    until("it was asked in vain", || {
        world.metrics.issuer_requests_failed.get() > 2
    })
    .await;
    until("the endless one ends", || {
        world.metrics.tokens_expired.get() == 1
    })
    .await;
    endless.receive().await;
    assert_eq!(endless.ended_with(), Some(ReasonCode::NotAuthorized));
    lasting.receive().await;
    assert!(lasting.ending.is_none());
    assert_eq!(world.metrics.tokens_revoked.get(), 0);
}

// P4: what its issuer says about a token may change while its client is connected.
#[tokio::test]
async fn scopes_that_an_issuer_takes_away_are_lost_at_once() {
    let world = World::new();
    world.policy.replace(Policy::new([]));
    let trust = Trust::new(&world).await;
    let scope = "mqtt:sub:a mqtt:sub:b";
    let principal = trust
        .bearer("t", json!({"exp": now() + 60, "scope": scope}))
        .await;
    let mut client = world.client_of(resume("c"), principal).await;
    assert_eq!(client.subscribe("a", Qos::AtLeastOnce).await, 1);
    assert_eq!(client.subscribe("b", Qos::AtLeastOnce).await, 1);
    assert_eq!(client.subscribe("c", Qos::AtLeastOnce).await, 0x87);
    trust.vouch("t", json!({"exp": now() + 60, "scope": "mqtt:sub:a"}));
    let session = world.session("c").unwrap();
    until("b is lost", || session.subscription_count() == 1).await;
    client.receive().await;
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
}

// P3: after a start, too.
#[tokio::test]
async fn the_scopes_of_the_last_login_are_on_disk() {
    let world = World::new();
    world.policy.replace(Policy::new([]));
    let scopes = |names: &[&str]| Principal {
        scopes: names.iter().map(|name| Arc::from(*name)).collect(),
        ..principal("user")
    };
    let mut client = world
        .client_of(resume("c"), scopes(&["mqtt:sub:a", "openid", "mqtt:sub:b"]))
        .await;
    client.subscribe("a", Qos::AtLeastOnce).await;
    client.subscribe("b", Qos::AtLeastOnce).await;
    client.vanish().await;
    world.settle().await;
    let world = world.crash().await;
    let session = world.session("c").unwrap();
    assert_eq!(session.principal().scopes.len(), 3);
    assert_eq!(session.subscription_count(), 2);
    // A rule may be for one of them.
    world.policy.replace(Policy::new([crate::acl::Rule {
        id: 1,
        effect: Effect::Deny,
        action: Action::Subscribe,
        filter: "a".parse().unwrap(),
        who: crate::acl::Who::Scope("openid".into()),
    }]));
    world.registry.policy_changed().await;
    assert_eq!(session.subscription_count(), 1);
    // Less at the next login: what it has no more goes.
    let mut back = world.client_of(resume("c"), scopes(&["mqtt:sub:a"])).await;
    assert!(back.session_present);
    back.receive().await;
    assert_eq!(back.ended_with(), Some(ReasonCode::NotAuthorized));
}

// P3: while the gateway is down an issuer may be withdrawn; what is on disk says whose word each login was.
#[tokio::test]
async fn the_wills_of_a_withdrawn_issuer_are_not_sent_after_a_start_and_sessions_stay() {
    let world = World::with(|settings| settings.restart_will_grace = Duration::ZERO);
    let trust = Trust::new(&world).await;
    let bearer = trust.bearer("t", json!({"exp": now() + 60})).await;
    for (id, who) in [("token", bearer), ("password", principal("user"))] {
        let client = world.client_of(with_will(id, 3600), who).await;
        client.vanish().await;
    }
    world.settle().await;
    let has_will = |world: &World, id| {
        let session = world.session(id).expect("sessions stay");
        session.rest().identity.will.is_some()
    };

    let world = world.crash().await;
    let attach = |world: &World| {
        let authenticator = trust.authenticator.clone();
        world.registry.attach_authenticator(authenticator);
        world.registry.clone()
    };
    attach(&world).issuers_changed().await;
    let principal = world.session("token").unwrap().principal();
    assert!(trust.authenticator.trusts_issuer_of(&principal));
    let renewed = trust.authenticator.renew((*principal).clone());
    assert!(renewed.is_some_and(|renewed| renewed.token.is_some()));
    assert!(has_will(&world, "token"), "it is the same issuer");
    world.settle().await;

    // Another one by its name.
    let world = world.crash().await;
    let config = introspection(&trust.server.url, "realm = \"other\"\n");
    trust.install(&config.oauth);
    assert_eq!(
        attach(&world).issuers_changed().await,
        0,
        "nobody is connected"
    );
    assert!(!has_will(&world, "token"));
    assert!(has_will(&world, "password"));
    world.settle().await;
    let world = world.crash().await;
    assert!(!has_will(&world, "token"), "it is gone from the disk too");
    let principal = world.session("token").unwrap().principal();
    assert!(trust.authenticator.renew((*principal).clone()).is_some());
}

// P3
#[tokio::test]
async fn a_reload_that_withdraws_an_issuer_takes_the_wills_of_absent_clients_along() {
    let world = World::new();
    let trust = Trust::new(&world).await;
    let bearer = trust.bearer("t", json!({"exp": now() + 60})).await;
    let away = world.client_of(with_will("away", 60), bearer.clone()).await;
    away.vanish().await;
    let mut here = world.client_of(with_will("here", 60), bearer).await;
    trust.install(&Default::default());
    assert_eq!(world.registry.issuers_changed().await, 1);
    let away = world.session("away").expect("sessions stay");
    assert!(away.rest().will.is_none() && away.rest().identity.will.is_none());
    here.receive().await;
    assert_eq!(here.ended_with(), Some(ReasonCode::NotAuthorized));
}

// P4: roles are read when a token is looked at, and the account changes before its session has them.
#[tokio::test]
async fn a_role_that_was_taken_away_does_not_come_back_with_a_new_proof() {
    let world = World::new();
    let allow = |id, role: &str, filter: &str| crate::acl::Rule {
        id,
        effect: Effect::Allow,
        action: Action::Subscribe,
        filter: filter.parse().unwrap(),
        who: crate::acl::Who::Role(role.into()),
    };
    let rules = [allow(1, "old", "secret"), allow(2, "new", "open")];
    world.policy.replace(Policy::new(rules));
    let trust = Trust::with(&world, "realm = \"local\"\n").await;
    trust.put("old", false);
    let end = json!({"exp": now() + 60});
    let first = trust.bearer("first", end.clone()).await;
    let mut client = world.client_of(resume("c"), first).await;
    let proof = trust.bearer("next", end.clone()).await;
    assert_eq!(*proof.roles, ["old".into()]);
    trust.put("new", false);
    let roles = proof.roles.clone();
    let registry = world.registry.clone();
    registry
        .roles_changed("local", "user", ["new".into()].into())
        .await;
    let session = world.session("c").unwrap();
    let (epoch, login) = (session.epoch(), proof.token.clone());
    registry.renew_login(&session, epoch, proof.clone()).await;
    let principal = session.principal();
    assert_eq!(*principal.roles, ["new".into()], "not {roles:?}");
    let same = std::ptr::eq(
        principal.token.as_deref().unwrap(),
        login.as_deref().unwrap(),
    );
    assert!(same, "it goes by the new token");
    assert_eq!(client.subscribe("secret", Qos::AtMostOnce).await, 0x87);
    assert_eq!(client.subscribe("open", Qos::AtMostOnce).await, 0);
    // Nor does an account that was disabled meanwhile.
    trust.put("new", true);
    registry.renew_login(&session, epoch, proof).await;
    client.receive().await;
    assert_eq!(client.ended_with(), Some(ReasonCode::NotAuthorized));
}

// P4
#[tokio::test]
async fn a_change_of_roles_never_brings_an_earlier_login_back() {
    let world = World::new();
    let _client = world.client(resume("c")).await;
    let session = world.session("c").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let roles = Change::Account(["r".into()].into());
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                session.take_up(&roles);
            }
        });
        for seconds in 0..50_000 {
            let end = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            let login = Principal {
                expires_at: end,
                ..principal("user")
            };
            session.take_up(&Change::Login(login));
            let found = session.principal().expires_at;
            if found != end {
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            assert_eq!(found, end);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

// B3: a client that proves itself over and over costs others little.
#[tokio::test]
async fn a_client_waits_for_its_turn_to_prove_itself_anew() {
    let world = World::new();
    let connect = Connect {
        authentication_method: Some("OAUTH2".into()),
        ..connect("c")
    };
    let mut client = world.client(connect).await;
    let auth = || {
        Packet::Auth(Box::new(Auth {
            reason: ReasonCode::ReAuthenticate,
            method: Some("OAUTH2".into()),
            data: Some("token".into()),
            reason_string: None,
            user_properties: Vec::new(),
        }))
    };
    let start = Instant::now();
    let mut waits = Vec::new();
    for after in [0, 100, 1_500, 60_000] {
        client.send(auth()).await;
        let (_, wait) = client
            .renew(start + Duration::from_millis(after))
            .expect("it is there");
        waits.push(wait.as_millis());
    }
    assert_eq!(waits, [0, 900, 500, 0]);
}
