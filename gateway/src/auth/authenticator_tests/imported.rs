//! Passwords whose hashes were imported.

use super::*;

/// Puts upgrades into the snapshot at once.
struct Keeper(Arc<Users>);

impl Upgrades for Keeper {
    fn upgrade(&self, upgrade: Upgrade) {
        let mut users = HashMap::clone(&self.0.all());
        let mut user = User::clone(&users[&upgrade.name]);
        if user.credential == Credential::Chosen(upgrade.imported) {
            user.credential = Credential::Chosen(upgrade.own);
            users.insert(user.name.clone(), Arc::new(user));
            self.0.replace(users);
        }
    }
}

// I3
#[tokio::test]
async fn an_imported_hash_is_replaced_when_its_user_logs_in_and_never_before() {
    let world = World::new(Settings::default());
    world
        .login
        .attach_upgrades(Arc::new(Keeper(world.users.clone())));
    world.put("ann", Credential::Chosen(IMPORTED.into()), false);
    let stored = || match &world.users.find("ann").unwrap().credential {
        Credential::Chosen(phc) => phc.to_string(),
        Credential::Generated(_) => panic!("it was chosen"),
    };
    assert_eq!(
        world.login("ann", "wrong").await,
        Err(Refusal::BadCredentials)
    );
    assert_eq!(stored(), IMPORTED);
    assert_eq!(
        world.login("ann", "secret").await.as_deref(),
        Ok("local:ann")
    );
    // The login waits for none of that.
    let deadline = Instant::now() + Duration::from_secs(60);
    while stored() == IMPORTED {
        assert!(Instant::now() < deadline, "it was not replaced");
        tokio::task::yield_now().await;
    }
    let own = stored();
    assert!(own.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{own}");
    // What is remembered is the new hash.
    let hashes = world.login.hashes();
    assert_eq!(
        world.login("ann", "secret").await.as_deref(),
        Ok("local:ann")
    );
    assert_eq!(world.login.hashes(), hashes);
    assert_eq!(
        world.login("ann", "wrong").await,
        Err(Refusal::BadCredentials)
    );
    assert_eq!(stored(), own);
}

// I3
#[tokio::test]
async fn a_login_under_way_is_good_for_the_replaced_hash_and_not_for_a_changed_password() {
    let world = World::new(Settings::default());
    world
        .login
        .attach_upgrades(Arc::new(Keeper(world.users.clone())));
    world.put("ann", Credential::Chosen(IMPORTED.into()), false);
    let credentials = Credentials {
        username: Some("ann"),
        password: Some(b"secret"),
        certificate: None,
    };
    let login = world.login.authenticate(credentials, None);
    let under_way = login.await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let imported = Credential::Chosen(IMPORTED.into());
    while world.users.find("ann").unwrap().credential == imported {
        assert!(Instant::now() < deadline, "it was not replaced");
        tokio::task::yield_now().await;
    }
    assert!(world.login.is_current(&under_way));
    world.put_chosen("ann", "another").await;
    assert!(!world.login.is_current(&under_way));
}

// I3
#[tokio::test]
async fn logins_at_the_same_time_succeed_while_the_hash_is_replaced_under_them() {
    let settings = Settings {
        password_slots: 1,
        ..Settings::default()
    };
    let world = World::new(settings);
    world
        .login
        .attach_upgrades(Arc::new(Keeper(world.users.clone())));
    world.put("ann", Credential::Chosen(IMPORTED.into()), false);
    let all = futures_util::future::join_all((0..6).map(|_| world.login("ann", "secret"))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let wrong = futures_util::future::join_all((0..3).map(|_| world.login("ann", "x"))).await;
    assert!(wrong.iter().all(Result::is_err), "{wrong:?}");
}

// I2
#[tokio::test]
async fn a_wrong_password_costs_as_many_hashes_for_an_imported_user_as_for_any_name() {
    let world = World::new(Settings::default());
    world.put_chosen("ann", "x").await;
    world.put("bob", Credential::Chosen(IMPORTED.into()), false);
    let generated = generate_secret().unwrap();
    world.put("dev", world.login.hash_secret("dev", &generated), false);
    for name in ["ann", "bob", "dev", "nobody"] {
        let before = world.login.hashes();
        assert_eq!(
            world.login(name, "wrong").await,
            Err(Refusal::BadCredentials)
        );
        // One of ours, and 101 iterations.
        assert_eq!(world.login.hashes() - before, 2, "{name}");
    }
}

#[tokio::test]
async fn a_disabled_user_is_kept_out_whatever_its_hash() {
    let world = World::new(Settings::default());
    world.put("ann", Credential::Chosen(IMPORTED.into()), true);
    assert_eq!(world.login("ann", "secret").await, Err(Refusal::Banned));
}
