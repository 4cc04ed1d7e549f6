use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::HashMap;
use serde_json::json;
use tempfile::TempDir;

use super::super::oauth::testing::*;
use super::super::{Issuers, SecretKey, Settings, Users};
use super::*;
use crate::store::User;

struct World {
    login: Authenticator,
    users: Arc<Users>,
    server: Server,
    key: SigningKey,
    _dir: TempDir,
}

impl World {
    async fn new(more: &str) -> World {
        let (server, key) = (Server::start().await, SigningKey::new("k"));
        server.publish(&[&key]);
        let dir = tempfile::tempdir().unwrap();
        let users = Arc::new(Users::default());
        let secret = Arc::new(SecretKey::open(dir.path(), None).unwrap());
        let login = Authenticator::new(users.clone(), secret, Settings::default()).unwrap();
        let issuers = Issuers::open(&config(&server.url, more).oauth, Arc::default());
        login.attach_issuers(issuers.unwrap());
        World {
            login,
            users,
            server,
            key,
            _dir: dir,
        }
    }

    fn put(&self, name: &str, disabled: bool) {
        let user = User {
            name: name.into(),
            credential: self.login.hash_secret(name, "pst_x"),
            disabled,
            roles: ["staff".into()].into(),
            device: false,
            created_at: 0,
            changed_at: 0,
        };
        let mut users = HashMap::clone(&self.users.all());
        users.insert(user.name.clone(), Arc::new(user));
        self.users.replace(users);
    }

    fn token(&self, name: &str) -> String {
        let mut claims = claims(&self.server.url);
        claims["sub"] = json!(name);
        self.key.sign(&claims)
    }

    async fn present(&self, name: Option<&str>, password: Option<&str>) -> Result<String, Refusal> {
        let credentials = credentials(name, password);
        let principal = self.login.authenticate(credentials, None).await;
        principal.map(|principal| principal.to_string())
    }
}

fn credentials<'a>(name: Option<&'a str>, password: Option<&'a str>) -> Credentials<'a> {
    Credentials {
        username: name,
        password: password.map(str::as_bytes),
        certificate: None,
    }
}

fn certificate(realm: &str, name: &str, suffices: bool) -> Arc<Certificate> {
    Arc::new(Certificate {
        realm: realm.into(),
        name: Some(name.into()),
        role: "device".into(),
        suffices,
        listener: "mqtts".into(),
        fingerprint: [1; 32],
        not_after: SystemTime::now() + std::time::Duration::from_secs(30),
        chain: Box::default(),
    })
}

// I2
#[tokio::test]
async fn what_is_presented_selects_one_method_and_no_other_is_tried() {
    let world = World::new("").await;
    world.put("ann", false);
    let token = world.token("ann");
    for (name, password, expected) in [
        (Some("ann"), Some("pst_x"), Ok("local:ann")),
        (Some("ann"), Some(&*token), Err(Refusal::BadCredentials)),
        (Some("bob"), Some(&*token), Ok("home:ann")),
        (None, Some(&*token), Ok("home:ann")),
        (Some(&*token), None, Ok("home:ann")),
        (Some(&*token), Some(""), Ok("home:ann")),
        (Some(&*token), Some("pst_x"), Ok("home:ann")),
        // An unknown name never means a password of somebody.
        (
            Some("bob"),
            Some("pst_x"),
            Err(Refusal::Token(TokenProblem::Issuer)),
        ),
        (
            Some(""),
            Some(""),
            Err(Refusal::Token(TokenProblem::Malformed)),
        ),
        (None, None, Err(Refusal::NotAuthorized)),
    ] {
        let found = world.present(name, password).await;
        assert_eq!(found, expected.map(str::to_owned), "{name:?}");
    }
}

// I2
#[tokio::test]
async fn a_refused_token_costs_what_a_wrong_password_costs_and_a_good_one_nothing() {
    let world = World::new("").await;
    world.put("ann", false);
    let (token, before) = (world.token("s"), world.login.hashes());
    world.present(Some("x"), Some(&token)).await.unwrap();
    assert_eq!(world.login.hashes(), before);
    let forged = SigningKey::new("k").sign(&claims(&world.server.url));
    for (name, password) in [
        ("ann", Some("wrong")),
        ("bob", Some("wrong")),
        ("ann", Some(&*forged)),
        ("bob", Some(&*forged)),
        ("ann", None),
        ("bob", None),
    ] {
        let before = world.login.hashes();
        let refused = world.present(Some(name), password).await.unwrap_err();
        assert_eq!(refused.reason_code(), Refusal::BadCredentials.reason_code());
        assert_eq!(world.login.hashes(), before + 1, "{name}");
    }
}

// N1
#[tokio::test]
async fn failures_are_counted_by_what_is_presented_and_never_under_a_token() {
    let world = World::new("").await;
    world.put("ann", false);
    let token = world.token("s");
    let name = |name, password| {
        let credentials = credentials(name, password);
        world.login.counted_name(&credentials).into_owned()
    };
    assert_eq!(name(Some("ann"), Some("x")), "ann");
    assert_eq!(name(Some("bob"), Some("x")), "bob");
    for (given, password) in [
        (Some(&*token), None),
        (Some(&*token), Some("x")),
        (Some("opaque-token"), None),
        (Some("opaque-token"), Some("")),
        (Some("ann"), Some(&*token)),
    ] {
        let name = name(given, password);
        assert!(name.starts_with("token:") && name.len() == 14, "{name}");
    }
    // A fresh token of the same bearer is counted as the one before, and one of anybody else is not.
    let of = |token: &str| world.login.name_of_token(token.as_bytes());
    let signed = |issuer: &str, more: &str| {
        let mut claims = claims(issuer);
        claims["sub"] = json!("s");
        claims["jti"] = json!(more);
        world.key.sign(&claims)
    };
    assert_eq!(of(&token), name(None, Some(&token)));
    assert_eq!(of(&token), of(&signed(&world.server.url, "2")));
    assert_ne!(of(&token), of(&world.token("t")));
    assert_ne!(of(&token), of(&signed("https://elsewhere.example", "2")));
    let nobodys = "eyJhbGciOiJub25lIn0.e30.";
    assert_ne!(
        of(nobodys),
        of("eyJhbGciOiJub25lIn0.e30.x"),
        "who claims nothing is counted by the token itself"
    );
    // Known or not makes no difference: it would tell.
    assert_eq!(
        name(Some("ann"), Some(&token)),
        name(Some("bob"), Some(&token))
    );
    let without = World::new("").await;
    without.login.issuers.get().unwrap().install(
        without
            .login
            .issuers
            .get()
            .unwrap()
            .prepare(&Default::default())
            .unwrap(),
    );
    let plain = credentials(Some("ann"), None);
    assert_eq!(without.login.counted_name(&plain), "ann");
    let jwt = credentials(Some(&token), None);
    assert!(
        without.login.counted_name(&jwt).starts_with("token:"),
        "even without issuers"
    );
}

// N1
#[tokio::test]
async fn the_name_that_is_counted_is_that_of_the_claim_which_names_principals() {
    let world = World::new("name_claim = \"device\"\n").await;
    let name = |device: &str, sub: &str| {
        let mut claims = claims(&world.server.url);
        claims["sub"] = json!(sub);
        claims["device"] = json!(device);
        let token = world.key.sign(&claims);
        world.login.name_of_token(token.as_bytes())
    };
    assert_eq!(name("press", "a"), name("press", "b"));
    assert_ne!(name("press", "a"), name("drill", "a"));
}

// I1
#[tokio::test]
async fn a_realm_mapped_to_local_has_the_roles_and_the_state_of_the_account() {
    let world = World::new("realm = \"local\"\n").await;
    world.put("ann", false);
    let token = world.token("ann");
    let of = async |token: &str| {
        let credentials = credentials(None, Some(token));
        world.login.authenticate(credentials, None).await
    };
    let ann = of(&token).await.unwrap();
    assert_eq!(ann.to_string(), "local:ann");
    assert_eq!(*ann.roles, ["staff".into()]);
    assert_eq!(ann.scopes.len(), 2, "scopes are those of the token");
    assert!(world.login.is_current(&ann));
    world.put("ann", true);
    assert!(!world.login.is_current(&ann));
    assert_eq!(of(&token).await.unwrap_err(), Refusal::Banned);
    let nobody = Refusal::Token(TokenProblem::NoAccount);
    assert_eq!(of(&world.token("bob")).await.unwrap_err(), nobody);
}

// I2: require = "both"
#[tokio::test]
async fn beside_a_certificate_a_token_must_be_of_the_same_principal() {
    let world = World::new("").await;
    let token = world.token("press");
    let with = async |certificate: Arc<Certificate>, enhanced: bool| {
        let credentials = Credentials {
            certificate: Some(&certificate),
            ..credentials(None, Some(&token))
        };
        let wrong = Wrong::default();
        match enhanced {
            true => {
                world
                    .login
                    .authenticate_by_token(token.as_bytes(), &credentials, None, &wrong)
                    .await
            }
            false => world.login.authenticate(credentials, None).await,
        }
    };
    for enhanced in [true, false] {
        let both = with(certificate("home", "press", false), enhanced)
            .await
            .unwrap();
        assert_eq!(both.to_string(), "home:press");
        let end = both.certificate.as_ref().unwrap().not_after;
        assert_eq!(both.expires_at, Some(end), "what ends first counts");
        for other in [
            certificate("home", "other", false),
            certificate("factory", "press", false),
        ] {
            assert_eq!(with(other, enhanced).await.unwrap_err(), Refusal::OtherName);
        }
    }
    // One that suffices has said who this is.
    let alone = with(certificate("factory", "press", true), false)
        .await
        .unwrap();
    assert_eq!(alone.to_string(), "factory:press");
    let refused = with(certificate("factory", "press", true), true).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotAuthorized);
}

#[tokio::test]
async fn a_login_is_current_while_its_issuer_is_trusted() {
    let world = World::new("").await;
    let token = world.token("s");
    let login = world
        .login
        .authenticate(credentials(None, Some(&token)), None);
    let principal = login.await.unwrap();
    assert!(world.login.is_current(&principal));
    let issuers = world.login.issuers.get().unwrap();
    issuers.install(issuers.prepare(&Default::default()).unwrap());
    assert!(!world.login.is_current(&principal));
    assert!(!world.login.has_issuers());
    let refused = world
        .login
        .authenticate(credentials(Some("x"), Some(&token)), None)
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::BadCredentials);
}

// P3: by the same name in the configuration, another one may be meant.
#[tokio::test]
async fn a_login_counts_only_by_the_issuer_that_vouched_for_it_and_for_what_it_vouched() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let write = |path: &std::path::Path, keys: &[&SigningKey]| {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        std::fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
    };
    let world = World::new("").await;
    let (key, other) = (&world.key, SigningKey::new("other"));
    write(&keys, &[key]);
    let issuers = world.login.issuers.get().unwrap();
    let reload = |more: &str| {
        let config = config(&world.server.url, more);
        issuers.install(issuers.prepare(&config.oauth).unwrap());
    };
    let file = format!("keys_file = {keys:?}\n");
    let login = async || {
        let mut claims = claims(&world.server.url);
        claims["groups"] = json!("staff");
        let token = key.sign(&claims);
        let login = credentials(None, Some(&token));
        world.login.authenticate(login, None).await.unwrap()
    };
    let is_current = |principal: &Principal| world.login.is_current(principal);
    for (before, other) in [
        ("", "realm = \"elsewhere\"\n"),
        ("realm = \"local\"\n", ""),
        ("", "name_claim = \"groups\"\n"),
        ("", "algorithms = [\"ES256\"]\n"),
        ("", "jwks_url = \"https://keys.example.org/\"\n"),
        ("", &file),
    ] {
        world.put("sensor-7", false);
        reload(before);
        let principal = login().await;
        reload(&format!("{before}clock_skew = 0\nkeys_max_age = \"2h\"\n"));
        assert!(is_current(&principal), "what the next login reads");
        reload(other);
        assert!(!is_current(&principal), "{other}");
        reload(before);
        assert!(is_current(&principal), "nothing changed after all");
    }
    // Compromised keys are replaced: those who came by the old ones go, and nothing else in the configuration differs.
    reload(&file);
    let principal = login().await;
    write(&keys, &[&other]);
    assert!(is_current(&principal), "not before it is read");
    reload(&file);
    assert!(!is_current(&principal));
    write(&keys, &[key]);
    reload(&file);
    assert!(is_current(&principal), "the same keys");
    let elsewhere = Server::start().await;
    let config = config(&elsewhere.url, &file);
    issuers.install(issuers.prepare(&config.oauth).unwrap());
    assert!(!is_current(&principal), "another `iss`");
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_is_no_wrong_password() {
    let world = World::new("").await;
    world.server.stop();
    let (token, before) = (world.token("s"), world.login.hashes());
    let refused = world.present(Some("x"), Some(&token)).await.unwrap_err();
    assert_eq!(refused, Refusal::Unavailable);
    assert_eq!(
        refused.reason_code(),
        crate::mqtt::ReasonCode::ServerUnavailable
    );
    assert_eq!(world.login.hashes(), before);
}

// N1, I4
#[tokio::test]
async fn a_refused_token_is_known_to_be_wrong_before_anything_is_paid_for_it() {
    let world = World::new("").await;
    world.put("ann", false);
    let forged = SigningKey::new("k").sign(&claims(&world.server.url));
    let wrong = Wrong::default();
    let credentials = credentials(Some("x"), Some(&forged));
    let before = world.login.hashes();
    let mut login = Box::pin(world.login.authenticate_and_tell(credentials, None, &wrong));
    while !wrong.is_known() {
        let answer = futures_util::FutureExt::now_or_never(&mut login);
        assert!(answer.is_none(), "answered before it was known");
        // The keys are fetched: who leaves now is not gone.
        assert!(wrong.is_known() || wrong.is_asked_about());
        tokio::task::yield_now().await;
    }
    assert!(!wrong.is_asked_about());
    let refused = login.await.unwrap_err();
    assert_eq!(refused, Refusal::Token(TokenProblem::Signature));
    assert_eq!(world.login.hashes(), before + 1);
}
