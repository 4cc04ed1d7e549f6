use std::sync::Arc;

use futures_util::FutureExt;
use hashbrown::HashMap;
use tempfile::TempDir;

use super::{Authenticator, Credentials, Refusal, Settings};
use crate::auth::{SecretKey, Users, generate_secret};
use crate::mqtt::ReasonCode;
use crate::store::{Credential, User};

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
