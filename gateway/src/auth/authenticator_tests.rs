use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use hashbrown::HashMap;
use tempfile::TempDir;

use super::{Authenticator, Credentials, Refusal, Settings};
use crate::auth::{
    Certificate, Principal, Reservation, SecretKey, Upgrade, Upgrades, Users, Wrong,
    generate_device_secret, generate_secret,
};
use crate::mqtt::ReasonCode;
use crate::store::{Credential, User};

#[path = "authenticator_tests/devices.rs"]
mod devices;
#[path = "authenticator_tests/imported.rs"]
mod imported;

/// What mosquitto_passwd 2.0.11 made of "secret".
const IMPORTED: &str = "$7$101$MPgamSnFibpsTeyg$lpmPfc7F1Mtkpg5JKJAFHc4m41MmpfvCPo6J9E4As2x9Javgg2flI4gNrBuiGdfeIAeCOoA3lM4rpEk0+bRxrw==";

struct World {
    users: Arc<Users>,
    login: Authenticator,
    _dir: TempDir,
}

impl World {
    fn new(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let users = Arc::new(Users::default());
        let key = Arc::new(SecretKey::open(dir.path(), None).unwrap());
        World {
            login: Authenticator::new(users.clone(), key, settings).unwrap(),
            users,
            _dir: dir,
        }
    }

    /// Puts a user into the snapshot, as a change of the accounts does.
    fn put(&self, name: &str, credential: Credential, disabled: bool) {
        let roles = ["staff".into()].into();
        let user = User {
            name: name.into(),
            credential,
            disabled,
            device: false,
            roles,
            created_at: 0,
            changed_at: 0,
        };
        let mut users = HashMap::clone(&self.users.all());
        users.insert(user.name.clone(), Arc::new(user));
        self.users.replace(users);
    }

    async fn put_chosen(&self, name: &str, password: &str) -> Credential {
        let credential = self.login.hash_password(password.as_bytes()).await.unwrap();
        self.put(name, credential.clone(), false);
        credential
    }

    async fn login(&self, name: &str, password: &str) -> Result<String, Refusal> {
        let credentials = Credentials {
            username: Some(name),
            password: Some(password.as_bytes()),
            certificate: None,
        };
        self.login
            .authenticate(credentials, None)
            .await
            .map(|principal| principal.to_string())
    }
}

#[tokio::test]
async fn a_chosen_password_lets_its_user_in_and_nobody_else() {
    let world = World::new(Settings::default());
    world.put_chosen("ann", "correct horse").await;
    assert_eq!(
        world.login("ann", "correct horse").await.as_deref(),
        Ok("local:ann")
    );
    assert_eq!(
        world.login("ann", "correct horse").await.as_deref(),
        Ok("local:ann"),
        "remembered"
    );
    for (name, password) in [
        ("ann", "wrong"),
        ("ann", ""),
        ("bob", "correct horse"),
        ("Ann", "correct horse"),
        ("", ""),
    ] {
        assert_eq!(
            world.login(name, password).await,
            Err(Refusal::BadCredentials),
            "{name} {password}"
        );
    }
}

#[tokio::test]
async fn a_generated_secret_lets_its_user_in_without_the_pool() {
    // One slot that is busy and no room: whatever needs the pool is refused.
    let world = World::new(Settings {
        password_slots: 1,
        password_queue: 1,
        ..Settings::default()
    });
    let secret = generate_secret().unwrap();
    world.put("dev", world.login.hash_secret("dev", &secret), false);
    let fill = futures_util::future::join_all((0..8).map(|_| world.login("nobody", "x")));
    let (fill, principal) = futures_util::future::join(fill, world.login("dev", &secret)).await;
    assert_eq!(principal.as_deref(), Ok("local:dev"));
    assert!(fill.contains(&Err(Refusal::Busy)), "the pool was full");
    assert_eq!(
        world.login("dev", "pst_wrong").await,
        Err(Refusal::BadCredentials)
    );
}

// I3
#[tokio::test]
async fn a_remembered_password_needs_no_pool_and_the_account_is_read_all_the_same() {
    let world = World::new(Settings {
        password_slots: 1,
        password_queue: 1,
        ..Settings::default()
    });
    let credential = world.put_chosen("ann", "correct horse").await;
    world.login("ann", "correct horse").await.unwrap();
    let fill = futures_util::future::join_all((0..8).map(|_| world.login("nobody", "x")));
    let (_, again) = futures_util::future::join(fill, world.login("ann", "correct horse")).await;
    assert_eq!(again.as_deref(), Ok("local:ann"));
    world.put("ann", credential, true);
    assert_eq!(
        world.login("ann", "correct horse").await,
        Err(Refusal::Banned)
    );
    assert_eq!(
        world.login("ann", "wrong").await,
        Err(Refusal::BadCredentials),
        "only who knows the password learns it"
    );
}

// I3
#[tokio::test]
async fn a_changed_password_makes_the_remembered_one_worthless() {
    let world = World::new(Settings::default());
    world.put_chosen("ann", "old").await;
    world.login("ann", "old").await.unwrap();
    world.put_chosen("ann", "new").await;
    assert_eq!(
        world.login("ann", "old").await,
        Err(Refusal::BadCredentials)
    );
    assert_eq!(world.login("ann", "new").await.as_deref(), Ok("local:ann"));
}

// I3
#[tokio::test]
async fn a_change_while_a_login_waits_is_seen_by_it() {
    let world = World::new(Settings::default());
    let credential = world.put_chosen("ann", "old").await;
    let changes: [(Box<dyn Fn()>, Refusal); 3] = [
        (
            Box::new(|| world.put("ann", credential.clone(), true)),
            Refusal::Banned,
        ),
        (
            Box::new(|| world.put("ann", Credential::Generated([0; 32]), false)),
            Refusal::BadCredentials,
        ),
        (
            Box::new(|| world.users.replace(HashMap::new())),
            Refusal::BadCredentials,
        ),
    ];
    for (change, expected) in changes {
        world.put("ann", credential.clone(), false);
        world.login.cache.resize(0);
        let mut login = Box::pin(world.login("ann", "old"));
        assert!(
            (&mut login).now_or_never().is_none(),
            "it waits in the pool"
        );
        change();
        assert_eq!(login.await, Err(expected));
    }
}

// I3
#[tokio::test]
async fn a_full_pool_answers_server_busy() {
    let world = World::new(Settings {
        password_slots: 1,
        password_queue: 2,
        ..Settings::default()
    });
    let answers = futures_util::future::join_all((0..10).map(|_| world.login("ann", "x"))).await;
    assert!(
        answers.contains(&Err(Refusal::Busy)) && answers.contains(&Err(Refusal::BadCredentials))
    );
    assert_eq!(Refusal::Busy.reason_code(), ReasonCode::ServerBusy);
}

// I2
#[tokio::test]
async fn every_wrong_answer_costs_one_hash_whatever_the_name() {
    let world = World::new(Settings::default());
    world.put_chosen("chosen", "x").await;
    world.put(
        "generated",
        world.login.hash_secret("generated", "pst_x"),
        false,
    );
    world.put(
        "disabled",
        world.login.hash_secret("disabled", "pst_x"),
        true,
    );
    for name in ["chosen", "generated", "disabled", "unknown", ""] {
        let before = world.login.hashes();
        assert_eq!(
            world.login(name, "wrong").await,
            Err(Refusal::BadCredentials),
            "{name}"
        );
        assert_eq!(world.login.hashes(), before + 1, "{name}");
    }
    let before = world.login.hashes();
    world.login("generated", "pst_x").await.unwrap();
    assert_eq!(world.login.hashes(), before, "a good secret costs none");
}

// I5
#[tokio::test]
async fn a_client_without_credentials_is_refused_unless_anonymous_clients_are_allowed() {
    let world = World::new(Settings::default());
    let nothing = Credentials {
        username: None,
        password: None,
        certificate: None,
    };
    assert_eq!(
        world.login.authenticate(nothing, None).await.unwrap_err(),
        Refusal::NotAuthorized
    );
    let settings = Settings {
        allow_anonymous: true,
        anonymous_role: "guest".into(),
        ..Settings::default()
    };
    world.login.apply(settings).unwrap();
    let principal = world.login.authenticate(nothing, None).await.unwrap();
    assert!(principal.anonymous && principal.name.is_empty());
    assert_eq!(*principal.roles, [Arc::from("guest")]);
    assert!(world.login.is_current(&principal));
    // Half of the credentials is not none of them.
    for half in [
        Credentials {
            username: Some("ann"),
            password: None,
            certificate: None,
        },
        Credentials {
            username: None,
            password: Some(b"x"),
            certificate: None,
        },
    ] {
        assert_eq!(
            world.login.authenticate(half, None).await.unwrap_err(),
            Refusal::BadCredentials
        );
    }
    world.login.apply(Settings::default()).unwrap();
    assert!(!world.login.is_current(&principal));
}

#[tokio::test]
async fn a_principal_is_current_until_its_account_changes() {
    let world = World::new(Settings::default());
    let hash = world.login.hash_secret("dev", "pst_x");
    world.put("dev", hash.clone(), false);
    let credentials = Credentials {
        username: Some("dev"),
        password: Some(b"pst_x"),
        certificate: None,
    };
    let principal = world.login.authenticate(credentials, None).await.unwrap();
    assert!(world.login.is_current(&principal));
    world.put("dev", hash, true);
    assert!(!world.login.is_current(&principal));
    world.users.replace(HashMap::new());
    assert!(!world.login.is_current(&principal));
}

fn certificate(realm: &str, name: Option<&str>, suffices: bool) -> Arc<Certificate> {
    Arc::new(Certificate {
        realm: realm.into(),
        name: name.map(Into::into),
        role: "device".into(),
        suffices,
        listener: "mqtts".into(),
        fingerprint: [1; 32],
        not_after: SystemTime::now() + Duration::from_secs(3600),
        chain: Box::default(),
    })
}

impl World {
    async fn present(
        &self,
        certificate: &Arc<Certificate>,
        user: Option<(&str, &str)>,
    ) -> Result<Principal, Refusal> {
        let credentials = Credentials {
            username: user.map(|(name, _)| name),
            password: user.map(|(_, password)| password.as_bytes()),
            certificate: Some(certificate),
        };
        self.login.authenticate(credentials, None).await
    }
}

// I2: the certificate is the one method; no password is tried instead of it.
#[tokio::test]
async fn a_certificate_alone_suffices_and_a_name_beside_it_must_be_the_same() {
    let world = World::new(Settings::default());
    let secret = generate_secret().unwrap();
    world.put("ann", world.login.hash_secret("ann", &secret), false);
    let lamp = certificate("local", Some("lamp"), true);
    let principal = world.present(&lamp, None).await.unwrap();
    assert_eq!(principal.to_string(), "local:lamp");
    assert_eq!(principal.roles[..], ["device".into()]);
    assert_eq!(principal.device.as_deref(), Some("lamp"));
    assert_eq!(principal.expires_at, Some(lamp.not_after));
    assert!(world.login.is_current(&principal));

    let same = world.present(&lamp, Some(("lamp", "wrong"))).await.unwrap();
    assert!(same.is_same(&principal));
    let other = world.present(&lamp, Some(("ann", &secret))).await;
    assert_eq!(other.unwrap_err(), Refusal::OtherName);
    for unusable in ["", "a\nb", " a"] {
        let odd = certificate("local", Some(unusable), true);
        let refused = world.present(&odd, None).await;
        assert_eq!(refused.unwrap_err(), Refusal::OtherName, "{unusable:?}");
    }
    let nobody = certificate("local", None, true);
    let refused = world.present(&nobody, None).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotAuthorized);
    assert_eq!(world.login.hashes(), 0);
}

// I1
#[tokio::test]
async fn only_the_local_realm_knows_our_accounts() {
    let world = World::new(Settings::default());
    world.put_chosen("ann", "correct horse").await;
    let own = certificate("local", Some("ann"), true);
    let principal = world.present(&own, None).await.unwrap();
    assert_eq!(principal.roles[..], ["staff".into()]);
    assert_eq!(principal.device, None);

    let foreign = certificate("factory", Some("ann"), true);
    let stranger = world.present(&foreign, None).await.unwrap();
    assert_eq!(stranger.to_string(), "factory:ann");
    assert_eq!(stranger.roles[..], ["device".into()]);
    assert!(!stranger.is_same(&principal));

    let users = world.users.all();
    let credential = users["ann"].credential.clone();
    world.put("ann", credential, true);
    assert_eq!(
        world.present(&own, None).await.unwrap_err(),
        Refusal::Banned
    );
    assert!(!world.login.is_current(&principal));
    assert!(world.login.is_current(&stranger));
}

// I2: require = "both"
#[tokio::test]
async fn where_both_are_required_they_must_be_of_the_same_one() {
    let world = World::new(Settings {
        allow_anonymous: true,
        ..Settings::default()
    });
    for name in ["ann", "bob"] {
        world.put_chosen(name, "correct horse").await;
    }
    let ann = certificate("factory", Some("ann"), false);
    let both = world.present(&ann, Some(("ann", "correct horse"))).await;
    let principal = both.unwrap();
    assert_eq!(principal.to_string(), "local:ann", "the password says who");
    assert_eq!(principal.certificate.as_ref(), Some(&ann));
    for (user, refusal) in [
        (Some(("ann", "wrong")), Refusal::BadCredentials),
        (Some(("bob", "correct horse")), Refusal::OtherName),
        // Not even where nobody needs a password.
        (None, Refusal::NotAuthorized),
    ] {
        assert_eq!(world.present(&ann, user).await.unwrap_err(), refusal);
    }
    let nameless = certificate("factory", None, false);
    let bob = world
        .present(&nameless, Some(("bob", "correct horse")))
        .await;
    assert_eq!(bob.unwrap().to_string(), "local:bob");
}

// I2, N1
#[tokio::test]
async fn a_guess_is_known_to_be_wrong_before_its_answer_and_a_full_pool_hides_none() {
    let settings = Settings {
        password_slots: 1,
        password_queue: 1,
        ..Settings::default()
    };
    let world = World::new(settings);
    let slow = IMPORTED.replace("$101$", "$3000000$");
    world.put("bob", Credential::Chosen(IMPORTED.into()), false);
    world.put("slow", Credential::Chosen(slow.into()), false);
    let credentials = Credentials {
        username: Some("bob"),
        password: Some(b"guess"),
        certificate: None,
    };
    let wrong = Wrong::default();
    let mut guess = Box::pin(world.login.authenticate_and_tell(credentials, None, &wrong));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !wrong.is_known() {
        assert!(Instant::now() < deadline, "nobody looked at it");
        let answer = (&mut guess).now_or_never();
        assert!(answer.is_none(), "answered before it was known");
        tokio::task::yield_now().await;
    }
    // While the pool pays for it, others fill the queue: its answer is the same.
    let others = (0..4).map(|_| world.login("nobody", "x"));
    let (answer, others) =
        futures_util::future::join(guess, futures_util::future::join_all(others)).await;
    assert_eq!(answer.unwrap_err(), Refusal::BadCredentials);
    assert!(others.contains(&Err(Refusal::Busy)), "the queue was full");
    let right = Credentials {
        password: Some(b"secret"),
        ..credentials
    };
    let wrong = Wrong::default();
    assert!(
        world
            .login
            .authenticate_and_tell(right, None, &wrong)
            .await
            .is_ok()
    );
    assert!(!wrong.is_known());
}
