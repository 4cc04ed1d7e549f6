//! What was tried to get in without a good token.

use postern_tests::{Connect, Property};
use serde_json::{Value, json};

use crate::world::*;

#[tokio::test]
async fn forged_misdirected_and_expired_tokens_are_refused() {
    let issuer = Issuer::start().await;
    let stranger = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let with = |change: Value| {
        let mut claims = claims();
        for (name, value) in change.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        claims
    };
    let good = issuer.forge("signed", claims()).await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("c"), &good))
            .await
            .connack
            .code,
        0
    );
    let mut bad = vec![
        ("alg=none", issuer.forge("none", claims()).await),
        ("a stranger's key", issuer.forge("foreign", claims()).await),
        // The public RSA key of the issuer, in each form that somebody might take for a secret.
        (
            "RS256 key as HMAC secret, PEM",
            issuer.forge("hmac-pem", claims()).await,
        ),
        (
            "RS256 key as HMAC secret, DER",
            issuer.forge("hmac-der", claims()).await,
        ),
        (
            "RS256 key as HMAC secret, modulus",
            issuer.forge("hmac-modulus", claims()).await,
        ),
        ("another issuer", stranger.token("jwt").await),
        (
            "another issuer that says it is ours",
            stranger
                .forge("signed", with(json!({"iss": issuer.url})))
                .await,
        ),
        (
            "an opaque token where JWTs are taken",
            issuer.token("opaque").await,
        ),
        (
            "the token without its signature",
            good.rsplit_once('.').expect("three parts").0.to_owned() + ".",
        ),
        ("the token and more", format!("{good}x")),
        ("two dots", "..".to_owned()),
        ("nothing", String::new()),
    ];
    for (what, change) in [
        ("another audience", json!({"aud": "urn:mqtt:opaque"})),
        ("no audience", json!({"aud": null})),
        ("expired", json!({"exp": now() - 1})),
        ("no end", json!({"exp": null})),
        ("not yet", json!({"nbf": now() + 100})),
        ("no name", json!({"mqtt_user": null})),
        (
            "another issuer in iss",
            json!({"iss": "https://elsewhere.example"}),
        ),
    ] {
        bad.push((what, issuer.forge("signed", with(change)).await));
    }
    for (what, token) in &bad {
        // Each from an address of its own: nobody is banned here.
        let refused = knock(&gateway, &with_token(Connect::v5("c"), token)).await;
        assert_eq!(refused.connack.code, 0x86, "{what}");
        let refused = knock(&gateway, &with_token(Connect::v311("c"), token)).await;
        assert_eq!(refused.connack.code, 4, "{what}");
        if !token.is_empty() {
            let enhanced = Connect::v5("c")
                .with(Property::AuthenticationMethod("OAUTH2".to_owned()))
                .with(Property::AuthenticationData(token.clone().into_bytes()));
            assert_eq!(
                knock(&gateway, &enhanced).await.connack.code,
                0x87,
                "{what}"
            );
        }
        assert_hidden(&gateway, token);
    }
}

#[tokio::test]
async fn a_client_that_goes_on_with_a_bad_token_is_banned() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "[bans]\naddress_failures = 3\n").await;
    let bad = issuer.forge("foreign", claims()).await;
    let address = postern_tests::scope::own_address();
    let mut codes = Vec::new();
    for _ in 0..4 {
        let stream = postern_tests::client::tcp(Some(address), gateway.addresses.mqtt).await;
        let mut client = postern_tests::Client::over(stream, postern_tests::packet::Version::V5);
        if client
            .try_send(&with_token(Connect::v5("c"), &bad).bytes())
            .await
            .is_ok()
            && let Some(postern_tests::Packet::ConnAck(connack)) = client.next().await
        {
            codes.push(connack.code);
        }
    }
    assert_eq!(codes, [0x86; 3]);
    let bans = gateway.cli(&["ban", "list"], "").await.expect_success();
    assert!(bans.stdout.contains(&address.to_string()), "{bans}");
    assert!(!bans.stdout.contains("eyJ"), "{bans}");
}
