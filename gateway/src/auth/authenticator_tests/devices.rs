//! Devices: their secrets, what they are without an account, and the client identifiers that are theirs.

use super::*;

impl World {
    /// Puts a device into the snapshot; gives its secret.
    fn put_device(&self, id: &str) -> String {
        let secret = generate_device_secret().unwrap();
        self.put(id, self.login.hash_secret(id, &secret), false);
        let mut users = HashMap::clone(&self.users.all());
        let mut user = User::clone(&users[id]);
        user.device = true;
        users.insert(user.name.clone(), Arc::new(user));
        self.users.replace(users);
        secret
    }
}

// I2, P1: a known device id means secret, and %d is the device's and nobody else's.
#[tokio::test]
async fn a_device_shows_its_secret_and_is_known_by_its_id() {
    let world = World::new(Settings::default());
    let secret = world.put_device("lamp");
    world.put_chosen("ann", "correct horse").await;
    let login = async |name: &'static str, password: &str| {
        let credentials = Credentials {
            username: Some(name),
            password: Some(password.as_bytes()),
            certificate: None,
        };
        world.login.authenticate(credentials, None).await
    };
    let lamp = login("lamp", &secret).await.unwrap();
    assert_eq!(lamp.to_string(), "local:lamp");
    assert_eq!(lamp.device.as_deref(), Some("lamp"));
    assert_eq!(login("ann", "correct horse").await.unwrap().device, None);
    for (name, wrong) in [("lamp", "correct horse"), ("ann", secret.as_str())] {
        assert_eq!(
            login(name, wrong).await.unwrap_err(),
            Refusal::BadCredentials
        );
    }
    // Its certificate is as good, and means the same account.
    let shown = certificate("local", Some("lamp"), true);
    let by_certificate = world.present(&shown, None).await.unwrap();
    assert!(by_certificate.is_same(&lamp));
    assert_eq!(by_certificate.roles[..], lamp.roles[..]);
    assert_eq!(by_certificate.device.as_deref(), Some("lamp"));
    // A session of before knows it after a restart, and a user that replaces it is another matter.
    let stored = Principal {
        device: None,
        ..lamp.clone()
    };
    assert!(!world.login.is_current(&stored));
    assert_eq!(world.login.renew(stored).unwrap().device, lamp.device);
    world.put_chosen("lamp", "correct horse").await;
    assert!(!world.login.is_current(&lamp));
}

// I3: the wait for a session may be long, and a secret may have been taken back meanwhile.
#[tokio::test]
async fn a_login_with_a_secret_that_was_replaced_before_it_was_over_is_not_current() {
    let world = World::new(Settings::default());
    let secret = world.put_device("lamp");
    world.put_chosen("ann", "correct horse").await;
    let login = async |name, password: &str| {
        let credentials = Credentials {
            username: Some(name),
            password: Some(password.as_bytes()),
            certificate: None,
        };
        world.login.authenticate(credentials, None).await.unwrap()
    };
    let (lamp, ann) = (
        login("lamp", &secret).await,
        login("ann", "correct horse").await,
    );
    assert!(world.login.is_current(&lamp) && world.login.is_current(&ann));
    world.put_device("lamp");
    world.put_chosen("ann", "correct horse").await;
    assert!(!world.login.is_current(&lamp) && !world.login.is_current(&ann));
    // What is kept of it is another matter: its sessions hear of the change.
    assert!(world.login.is_current(&lamp.settled()));
}

// P3: what was revoked while the gateway was down is nobody at its start, whatever its last login showed.
#[tokio::test]
async fn a_device_is_nobody_without_its_account() {
    let world = World::new(Settings::default());
    let secret = world.put_device("lamp");
    let shown = certificate("local", Some("lamp"), true);
    let by_certificate = world.present(&shown, None).await.unwrap();
    let beside = world.present(&shown, Some(("lamp", &secret))).await;
    world.users.replace(HashMap::new());
    for principal in [by_certificate, beside.unwrap()] {
        assert!(!world.login.is_current(&principal));
        assert!(world.login.renew(principal).is_none());
    }
}

// S5
#[tokio::test]
async fn the_client_identifier_of_a_device_is_kept_for_it() {
    let world = World::new(Settings::default());
    let secret = world.put_device("lamp");
    world.put_chosen("ann", "correct horse").await;
    let credentials = Credentials {
        username: Some("lamp"),
        password: Some(secret.as_bytes()),
        certificate: None,
    };
    let lamp = world.login.authenticate(credentials, None).await.unwrap();
    let namesake = world
        .present(&certificate("factory", Some("lamp"), true), None)
        .await
        .unwrap();
    let anonymous = Principal::anonymous(&"anonymous".into());
    let without_account = certificate("local", Some("fan"), true);
    let fan = world.present(&without_account, None).await.unwrap();
    let of = |id: &str, who: &Principal| world.users.reservation(id, who);
    assert_eq!(of("lamp", &lamp), Reservation::Own);
    for other in [&namesake, &anonymous] {
        assert_eq!(of("lamp", other), Reservation::Other, "{other}");
        assert!(!world.users.is_device(other));
    }
    assert_eq!(of("fan", &fan), Reservation::Own, "its certificate says so");
    assert!(!world.users.is_device(&fan), "it has no account");
    for free in ["ann", "lamp-2", ""] {
        assert_eq!(of(free, &lamp), Reservation::None, "{free:?}");
    }
    assert!(world.users.is_device(&lamp));
}

#[tokio::test]
async fn a_device_without_an_account_is_still_known_after_a_restart_and_a_removed_user_is_not() {
    let world = World::new(Settings::default());
    world.put_chosen("ann", "correct horse").await;
    let of = async |name| {
        let certificate = certificate("local", Some(name), true);
        world.present(&certificate, None).await.unwrap()
    };
    let (lamp, ann) = (of("lamp").await, of("ann").await);
    world.users.replace(HashMap::new());
    assert_eq!(
        world.login.renew(lamp).unwrap().roles[..],
        ["device".into()]
    );
    assert!(
        !world.login.is_current(&ann),
        "its roles went with its account"
    );
    assert!(world.login.renew(ann).is_none());
}
