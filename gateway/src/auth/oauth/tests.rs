//! Tokens against one configured issuer: what gets in, what does not, and what the issuer is asked meanwhile.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use broker_config::Config;
use serde_json::{Value, json};

use super::testing::*;
use super::*;
use crate::auth::Next;

mod signatures;

struct World {
    server: Server,
    key: SigningKey,
    issuers: Arc<Issuers>,
    metrics: Arc<Metrics>,
}

impl World {
    async fn new(more: &str) -> World {
        let server = Server::start().await;
        let key = SigningKey::new("k1");
        server.publish(&[&key]);
        let (issuers, metrics) = open(&config(&server.url, more));
        World {
            server,
            key,
            issuers,
            metrics,
        }
    }

    fn claims(&self, change: Value) -> Value {
        let mut claims = claims(&self.server.url);
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    async fn try_with(&self, token: &str) -> Result<Principal, TokenRefusal> {
        verify(&self.issuers, token, Claimed::Unasked).await
    }

    async fn sign(&self, change: Value) -> Result<Principal, TokenRefusal> {
        self.try_with(&self.key.sign(&self.claims(change))).await
    }
}

fn open(config: &Config) -> (Arc<Issuers>, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    (
        Issuers::open(&config.oauth, metrics.clone()).unwrap(),
        metrics,
    )
}

async fn verify(
    issuers: &Issuers,
    token: &str,
    claimed: Claimed<'_>,
) -> Result<Principal, TokenRefusal> {
    verify_from(1, issuers, token, claimed).await
}

async fn verify_from(
    host: u8,
    issuers: &Issuers,
    token: &str,
    claimed: Claimed<'_>,
) -> Result<Principal, TokenRefusal> {
    let asker = Asker::Stranger(IpAddr::from([192, 0, 2, host]));
    issuers
        .verify(&Token::new(token.as_bytes()).unwrap(), claimed, asker)
        .await
}

/// 80 logins at once, each with a token of its own, so many from each address. They end when this is dropped.
fn crowd(issuers: &Arc<Issuers>, from_one_address: u8) -> tokio::task::JoinSet<()> {
    (0..80)
        .map(|n| {
            let issuers = issuers.clone();
            async move {
                let token = format!("t{n}");
                let _ = verify_from(n / from_one_address, &issuers, &token, Claimed::Unasked).await;
            }
        })
        .collect()
}

fn problem(refused: Result<Principal, TokenRefusal>) -> TokenProblem {
    match refused {
        Err(TokenRefusal::Token(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

fn names(all: &[Arc<str>]) -> Vec<&str> {
    all.iter().map(|one| &**one).collect()
}

// I1
#[tokio::test]
async fn a_token_of_a_configured_issuer_names_a_principal_in_a_realm_of_its_own() {
    let world = World::new("roles_claim = \"realm.roles\"\nroles = [\"ops=admin\", \"sensor\"]\ndefault_roles = \"home\"\n").await;
    let bearer = world
        .sign(json!({"realm": {"roles": ["sensor", "ops", "admin", "x"]}}))
        .await
        .unwrap();
    assert_eq!((&*bearer.realm, &*bearer.name), ("home", "sensor-7"));
    // A role counts only if it is mapped: what the issuer calls "admin" is not our admin.
    assert_eq!(names(&bearer.roles), ["admin", "home", "sensor"]);
    let bearer = world
        .sign(json!({"realm": {"roles": ["admin"]}}))
        .await
        .unwrap();
    assert_eq!(names(&bearer.roles), ["home"]);
    assert_eq!(names(&bearer.scopes), ["mqtt:pub:a/#", "openid"]);
    assert!(bearer.expires_at.is_some() && !bearer.anonymous);
    assert_eq!(
        (
            world.metrics.tokens_verified.get(),
            world.metrics.tokens_refused.get()
        ),
        (2, 0)
    );
}

#[tokio::test]
async fn a_token_for_somebody_else_of_somebody_else_or_out_of_time_is_refused() {
    let world = World::new("").await;
    for (change, expected) in [
        (json!({"aud": "other"}), TokenProblem::Audience),
        (json!({"aud": null}), TokenProblem::Audience),
        (
            json!({"iss": "https://elsewhere.example"}),
            TokenProblem::Issuer,
        ),
        (
            json!({"iss": format!("{}/", world.server.url)}),
            TokenProblem::Issuer,
        ),
        (json!({"exp": now() - 61}), TokenProblem::Expired),
        (json!({"exp": null}), TokenProblem::Malformed),
        (json!({"exp": "never"}), TokenProblem::Malformed),
        (json!({"nbf": now() + 65}), TokenProblem::NotYet),
        (json!({"sub": null}), TokenProblem::NoName),
        (json!({"sub": ""}), TokenProblem::NoName),
        (json!({"sub": "a\nb"}), TokenProblem::NoName),
        (json!({"sub": 7}), TokenProblem::NoName),
    ] {
        assert_eq!(
            problem(world.sign(change.clone()).await),
            expected,
            "{change}"
        );
    }
    assert!(
        world
            .sign(json!({"nbf": now() + 50, "exp": now() - 50}))
            .await
            .is_ok(),
        "skew"
    );
    let far = world.sign(json!({"exp": u64::MAX})).await.unwrap();
    assert!(far.expires_at.is_some());
}

#[tokio::test]
async fn a_token_for_another_purpose_or_with_demands_that_are_not_known_is_refused() {
    let world = World::new("").await;
    let claims = world.claims(json!({}));
    for (header, good) in [
        (json!({"alg": "ES256"}), true),
        (json!({"alg": "ES256", "typ": "JWT"}), true),
        (json!({"alg": "ES256", "typ": "application/at+jwt"}), true),
        (json!({"alg": "ES256", "typ": "logout+jwt"}), false),
        (json!({"alg": "ES256", "typ": "dpop+jwt"}), false),
        (
            json!({"alg": "ES256", "crit": ["b64"], "b64": false}),
            false,
        ),
    ] {
        let verified = world.try_with(&world.key.sign_with(&header, &claims)).await;
        assert_eq!(verified.is_ok(), good, "{header}");
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_once_for_all_and_not_too_often() {
    let world = Arc::new(World::new("").await);
    assert!(world.sign(json!({})).await.is_ok());
    assert!(world.sign(json!({})).await.is_ok());
    assert_eq!(world.server.asked("/jwks"), 1, "then it is known");
    let next = SigningKey::new("k2");
    world.server.publish(&[&next, &world.key]);
    world.server.delay(Duration::from_millis(50));
    let token = next.sign(&world.claims(json!({})));
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (world, token) = (world.clone(), token.clone());
            tokio::spawn(async move { world.try_with(&token).await })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap().is_ok());
    }
    assert_eq!(world.server.asked("/jwks"), 2);
    assert!(
        world.sign(json!({})).await.is_ok(),
        "the old key is published still"
    );
    // Made-up names keep the issuer busy a few times, and not more.
    world.server.delay(Duration::ZERO);
    for n in 0..20 {
        let header = json!({"alg": "ES256", "kid": format!("made-up-{n}")});
        let refused = world
            .try_with(&next.sign_with(&header, &world.claims(json!({}))))
            .await;
        assert_eq!(problem(refused), TokenProblem::UnknownKey);
    }
    assert!(
        world.server.asked("/jwks") <= 6,
        "{}",
        world.server.asked("/jwks")
    );
}

#[tokio::test]
async fn keys_are_kept_while_the_issuer_is_down_and_without_any_nobody_is_let_in() {
    let world = World::new("keys_max_age = \"1s\"\n").await;
    let token = world.key.sign(&world.claims(json!({})));
    assert!(world.try_with(&token).await.is_ok());
    world.server.stop();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert!(world.try_with(&token).await.is_ok());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while world.metrics.issuers_failing.get() == 0 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        world.try_with(&token).await.is_ok(),
        "they are old, and the only ones"
    );
    let told = world.issuers.problems();
    assert!(told.len() == 1 && told[0].contains("home"), "{told:?}");
    let unknown = SigningKey::new("new").sign(&world.claims(json!({})));
    assert_eq!(
        world.try_with(&unknown).await.unwrap_err(),
        TokenRefusal::Unavailable,
        "it may be a new key"
    );

    let (fresh, metrics) = open(&config(&world.server.url, ""));
    let refused = verify(&fresh, &token, Claimed::Unasked).await;
    assert_eq!(refused.unwrap_err(), TokenRefusal::Unavailable);
    assert_eq!(metrics.issuers_failing.get(), 1);
    drop(fresh);
    assert_eq!(metrics.issuers_failing.get(), 0);
}

#[tokio::test]
async fn a_description_of_another_issuer_is_not_believed() {
    let world = World::new("").await;
    world.server.describe(json!({"issuer": "https://elsewhere.example", "jwks_uri": format!("{}/jwks", world.server.url)}));
    assert_eq!(
        world.sign(json!({})).await.unwrap_err(),
        TokenRefusal::Unavailable
    );
    assert_eq!(world.server.asked("/jwks"), 0);
    assert!(world.issuers.problems()[0].contains("elsewhere.example"));
}

#[tokio::test]
async fn the_user_name_must_be_the_one_in_the_token_where_that_is_asked_for() {
    let world = World::new("username = \"match\"\n").await;
    let token = world.key.sign(&world.claims(json!({})));
    for (claimed, good) in [
        (Claimed::Name("sensor-7"), true),
        (Claimed::Name("sensor-8"), false),
        (Claimed::Nothing, false),
        (Claimed::Unasked, true),
    ] {
        let verified = verify(&world.issuers, &token, claimed).await;
        assert_eq!(verified.is_ok(), good, "{claimed:?}");
    }
    // Of another claim than the principal's name.
    let more = "username = \"match\"\nusername_claim = \"device.label\"\n";
    let (label, _) = open(&config(&world.server.url, more));
    let claims = world.claims(json!({"device": {"label": "lamp"}}));
    let labelled = world.key.sign(&claims);
    for (token, claimed, good) in [
        (&labelled, Claimed::Name("lamp"), true),
        (&labelled, Claimed::Name("sensor-7"), false),
        (&labelled, Claimed::Nothing, false),
        (&token, Claimed::Name("lamp"), false),
        (&token, Claimed::Name(""), false),
    ] {
        let verified = verify(&label, token, claimed).await;
        assert_eq!(verified.is_ok(), good, "{claimed:?}");
        if let Ok(principal) = verified {
            assert_eq!(&*principal.name, "sensor-7");
        }
    }
    let (any, _) = open(&config(&world.server.url, ""));
    assert!(
        verify(&any, &token, Claimed::Name("sensor-8"))
            .await
            .is_ok()
    );
}

// I4
#[tokio::test]
async fn an_opaque_token_is_asked_about_once_and_again_after_a_while() {
    let server = Server::start().await;
    let (issuers, metrics) = open(&introspection(&server.url, "revalidate_every = \"3s\"\n"));
    server.vouch("good", json!({"active": true, "aud": ["mqtt"], "sub": "s", "scope": "a b", "exp": now() + 60, "extra": 1}));
    server.vouch(
        "other",
        json!({"active": true, "aud": "elsewhere", "sub": "s"}),
    );
    server.vouch(
        "foreign",
        json!({"active": true, "aud": "mqtt", "sub": "s", "iss": "https://elsewhere.example"}),
    );
    server.vouch(
        "late",
        json!({"active": true, "aud": "mqtt", "sub": "s", "exp": now() - 61}),
    );
    server.delay(Duration::from_millis(30));
    let all: Vec<_> = (0..30)
        .map(|_| {
            let issuers = issuers.clone();
            tokio::spawn(async move { verify(&issuers, "good", Claimed::Unasked).await })
        })
        .collect();
    for one in all {
        let bearer = one.await.unwrap().unwrap();
        assert_eq!(
            (&*bearer.name, names(&bearer.scopes)),
            ("s", vec!["a", "b"])
        );
    }
    assert_eq!(
        server.asked("/introspect"),
        1,
        "concurrent look-ups are one"
    );
    server.delay(Duration::ZERO);
    for (token, expected) in [
        ("other", TokenProblem::Audience),
        ("foreign", TokenProblem::Issuer),
        ("late", TokenProblem::Expired),
        ("made-up", TokenProblem::Inactive),
        ("made-up", TokenProblem::Inactive),
    ] {
        assert_eq!(
            problem(verify(&issuers, token, Claimed::Unasked).await),
            expected,
            "{token}"
        );
    }
    assert_eq!(
        server.asked("/introspect"),
        5,
        "what does not count is remembered as well"
    );
    server.vouch("good", json!({"active": false}));
    assert!(
        verify(&issuers, "good", Claimed::Unasked).await.is_ok(),
        "the answer counts for a while"
    );
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    assert_eq!(
        problem(verify(&issuers, "good", Claimed::Unasked).await),
        TokenProblem::Inactive
    );
    assert_eq!(metrics.token_lookups.get(), 6);
}

// I4
#[tokio::test]
async fn a_revocation_is_seen_by_asking_again_and_silence_is_no_statement() {
    let server = Server::start().await;
    let (issuers, _) = open(&introspection(&server.url, "revalidate_every = \"4s\"\n"));
    server.vouch("t", json!({"active": true, "aud": "mqtt", "sub": "s"}));
    let bearer = verify(&issuers, "t", Claimed::Unasked).await.unwrap();
    let login = bearer.token.unwrap();
    assert!(matches!(login.next(None, 1), Next::Wait(wait) if wait < Duration::from_secs(4)));
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(issuers.verify_again(&login, Asker::Gateway).await.is_ok());
    server.vouch("t", json!({"active": false}));
    assert!(
        issuers.verify_again(&login, Asker::Gateway).await.is_ok(),
        "it was asked just now"
    );
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        problem(issuers.verify_again(&login, Asker::Gateway).await),
        TokenProblem::Inactive
    );
    server.stop();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        issuers
            .verify_again(&login, Asker::Gateway)
            .await
            .unwrap_err(),
        TokenRefusal::Unavailable
    );
    assert_eq!(
        verify(&issuers, "new", Claimed::Unasked).await.unwrap_err(),
        TokenRefusal::Unavailable
    );
}

// I4
#[tokio::test]
async fn questions_to_an_issuer_are_limited() {
    let server = Server::start().await;
    let (issuers, _) = open(&introspection(&server.url, "max_requests_per_second = 5\n"));
    let mut busy = 0;
    for n in 0..20 {
        match verify(&issuers, &format!("made-up-{n}"), Claimed::Unasked).await {
            Err(TokenRefusal::Busy) => busy += 1,
            other => assert_eq!(problem(other), TokenProblem::Inactive),
        }
    }
    assert!(busy >= 10, "{busy}");
    assert!(server.asked("/introspect") <= 10);
}

// I4
#[tokio::test]
async fn questions_about_clients_that_are_away_keep_nobody_from_logging_in() {
    let server = Server::start().await;
    let extra = "max_requests_per_second = 20\n";
    let (issuers, _) = open(&introspection(&server.url, extra));
    let ask_about_absent = async |name: String| {
        let token = Token::new(name.as_bytes()).unwrap();
        issuers
            .verify(&token, Claimed::Unasked, Asker::Absent)
            .await
    };
    // Eight at once may be under way: what ends this is that there are no permits.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    for round in 0.. {
        let questions = (0..8).map(|n| ask_about_absent(format!("absent-{round}-{n}")));
        let outcomes = futures_util::future::join_all(questions).await;
        let mut refusals = outcomes.into_iter().map(Result::unwrap_err);
        if refusals.any(|refused| refused == TokenRefusal::Busy) {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
    }
    let logins = (0..4).map(async |n| {
        let token = format!("login-{n}");
        verify_from(n, &issuers, &token, Claimed::Unasked).await
    });
    for login in futures_util::future::join_all(logins).await {
        assert_eq!(problem(login), TokenProblem::Inactive, "it was asked about");
    }
}

// P3, I4
#[tokio::test]
async fn logins_keep_no_client_that_is_away_from_being_asked_about() {
    let server = Server::start().await;
    let extra = "max_requests_per_second = 20\ntimeout = \"10s\"\n";
    let (issuers, metrics) = open(&introspection(&server.url, extra));
    server.delay(Duration::from_secs(5));
    // They take all permits that they may take, and wait for their answers.
    let _strangers = crowd(&issuers, 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while metrics.tokens_refused.get() == 0 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.delay(Duration::ZERO);
    let token = Token::new(b"absent").unwrap();
    let asked = issuers.verify(&token, Claimed::Unasked, Asker::Absent);
    assert_eq!(problem(asked.await), TokenProblem::Inactive);
}

// I4
#[tokio::test]
async fn strangers_keep_nobody_who_is_connected_from_being_asked_about() {
    let server = Server::start().await;
    let (issuers, metrics) = open(&introspection(
        &server.url,
        "revalidate_every = \"1s\"\ntimeout = \"10s\"\n",
    ));
    server.vouch("t", json!({"active": true, "aud": "mqtt", "sub": "s"}));
    let login = verify(&issuers, "t", Claimed::Unasked).await.unwrap();
    let login = login.token.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.delay(Duration::from_secs(5));
    // All of them wait for the issuer, and there are permits left: places are what is missing.
    let _strangers = crowd(&issuers, 8);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while metrics.tokens_refused.get() < 32 || server.asked("/introspect") < 49 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} were refused, {} asked about",
            metrics.tokens_refused.get(),
            server.asked("/introspect")
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.delay(Duration::ZERO);
    assert!(issuers.verify_again(&login, Asker::Gateway).await.is_ok());
    assert_eq!(metrics.tokens_refused.get(), 32, "they wait still");
}

// I4, N1
#[tokio::test]
async fn one_address_has_a_few_questions_at_once_and_keeps_them_when_it_leaves() {
    let server = Server::start().await;
    let (issuers, metrics) = open(&introspection(&server.url, "timeout = \"10s\"\n"));
    server.vouch("good", json!({"active": true, "aud": "mqtt", "sub": "s"}));
    let known = verify_from(1, &issuers, "known", Claimed::Unasked).await;
    assert_eq!(problem(known), TokenProblem::Inactive);
    server.delay(Duration::from_secs(5));
    let mut left = Vec::new();
    for n in 0..8 {
        let issuers = issuers.clone();
        left.push(tokio::spawn(async move {
            verify_from(1, &issuers, &format!("made-up-{n}"), Claimed::Unasked).await
        }));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while server.asked("/introspect") < 9 {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for one in left {
        one.abort();
    }
    server.delay(Duration::ZERO);
    let before = metrics.token_lookups.get();
    let refused = verify_from(1, &issuers, "good", Claimed::Unasked).await;
    assert_eq!(refused.unwrap_err(), TokenRefusal::Busy);
    assert_eq!(metrics.token_lookups.get(), before, "nobody was asked");
    let known = verify_from(1, &issuers, "known", Claimed::Unasked).await;
    assert_eq!(problem(known), TokenProblem::Inactive, "no question");
    let neighbour = verify_from(2, &issuers, "good", Claimed::Unasked).await;
    assert!(neighbour.is_ok());
}

#[tokio::test]
async fn an_issuer_that_does_not_know_the_gateway_vouches_for_nobody() {
    let server = Server::start().await;
    server.answer(
        "/introspect",
        401,
        r#"{"error":"invalid_client","error_description":"t0ken"}"#,
    );
    let (issuers, _) = open(&introspection(&server.url, ""));
    assert_eq!(
        verify(&issuers, "t0ken", Claimed::Unasked)
            .await
            .unwrap_err(),
        TokenRefusal::Unavailable
    );
    let told = issuers.problems().concat();
    assert!(
        told.contains("invalid_client") && told.contains("client_secret_file"),
        "{told}"
    );
    assert!(!told.contains("t0ken") && !told.contains("hush"), "{told}");
    for body in ["", "[]", "{\"active\": \"yes\"}", "<html>"] {
        server.answer("/introspect", 200, body);
        let refused = verify(&issuers, &format!("x{}", body.len()), Claimed::Unasked).await;
        assert_eq!(refused.unwrap_err(), TokenRefusal::Unavailable, "{body}");
    }
}

// I2
#[tokio::test]
async fn a_token_is_for_one_issuer_alone() {
    let (one, two) = (Server::start().await, Server::start().await);
    let (key_one, key_two) = (SigningKey::new("k"), SigningKey::new("k"));
    one.publish(&[&key_one]);
    two.publish(&[&key_two]);
    let mut both = config(&one.url, "");
    both.oauth.insert(
        "work".to_owned(),
        config(&two.url, "").oauth.remove("home").unwrap(),
    );
    let (issuers, _) = open(&both);
    let bearer = verify(&issuers, &key_two.sign(&claims(&two.url)), Claimed::Unasked)
        .await
        .unwrap();
    assert_eq!(&*bearer.realm, "work");
    let refused = verify(&issuers, &key_two.sign(&claims(&one.url)), Claimed::Unasked).await;
    assert_eq!(problem(refused), TokenProblem::Signature);
    assert_eq!(
        problem(verify(&issuers, "opaque", Claimed::Unasked).await),
        TokenProblem::Issuer
    );
    let login = bearer.token.unwrap();
    assert!(issuers.knows(&login));
    issuers.install(issuers.prepare(&config(&one.url, "").oauth).unwrap());
    assert!(
        !issuers.knows(&login),
        "it was taken out of the configuration"
    );
    let kept = verify(&issuers, &key_one.sign(&claims(&one.url)), Claimed::Unasked).await;
    assert!(kept.is_ok());
}
