//! Who signed a token, with what, and where the keys come from.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

/// A key pair by its algorithm, from the library that makes signatures; tokens are verified by another one.
enum Pair {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
}

impl Pair {
    fn new(algorithm: &str) -> Pair {
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
            Pair::Ec(EcdsaKeyPair::generate(algorithm).unwrap())
        };
        let rsa = |encoding: &'static dyn RsaEncoding| {
            Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding)
        };
        match algorithm {
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            other => panic!("{other}"),
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        let random = SystemRandom::new();
        let signature = match self {
            Pair::Ec(pair) => {
                let signature = pair.sign(&random, message.as_bytes()).unwrap();
                signature.as_ref().to_vec()
            }
            Pair::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message.as_bytes(), &mut signature)
                    .unwrap();
                signature
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// RFC 7518, 6 and RFC 8037, 2.
    fn jwk(&self) -> Value {
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        match self {
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    _ => "P-384",
                };
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
            Pair::Rsa(pair, _) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                json!({
                    "kty": "RSA",
                    "n": text(n.big_endian_without_leading_zero()),
                    "e": text(e.big_endian_without_leading_zero()),
                })
            }
        }
    }

    fn pem(&self) -> String {
        fn der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
            key.as_der().unwrap().as_ref().to_vec()
        }
        let der = match self {
            Pair::Ec(pair) => der(pair.public_key()),
            Pair::Ed(pair) => der(pair.public_key()),
            Pair::Rsa(pair, _) => {
                let key: &PublicKey = pair.public_key();
                AsDer::<PublicKeyX509Der>::as_der(key)
                    .unwrap()
                    .as_ref()
                    .to_vec()
            }
        };
        pem::encode(&pem::Pem::new("PUBLIC KEY", der))
    }
}

// The ones that an issuer may use without being asked for, and the others that can be named.
#[tokio::test]
async fn every_algorithm_counts_where_it_is_named_by_a_key_of_a_set_or_of_a_pem_file() {
    let issuer = "https://id.example";
    let file = tempfile::NamedTempFile::new().unwrap();
    let keys = format!("keys_file = {:?}\n", file.path());
    for (algorithm, is_default) in [
        ("ES256", true),
        ("ES384", true),
        ("EdDSA", true),
        ("RS256", true),
        ("PS256", true),
        ("RS384", false),
        ("RS512", false),
        ("PS384", false),
        ("PS512", false),
    ] {
        let (pair, other) = (Pair::new(algorithm), Pair::new(algorithm));
        let header = json!({"alg": algorithm, "typ": "at+jwt"});
        let sign = |pair: &Pair| pair.sign(&header, &claims(issuer));
        let named = format!("{keys}algorithms = {algorithm:?}\n");
        let elsewhere = match algorithm {
            "RS512" => "PS512",
            _ => "RS512",
        };
        let unnamed = format!("{keys}algorithms = {elsewhere:?}\n");
        for text in [
            json!({"keys": [other.jwk(), pair.jwk()]}).to_string(),
            format!("{}{}", other.pem(), pair.pem()),
        ] {
            std::fs::write(file.path(), &text).unwrap();
            for (more, good) in [(&named, true), (&unnamed, false), (&keys, is_default)] {
                let (issuers, _) = open(&config(issuer, more));
                let verified = verify(&issuers, &sign(&pair), Claimed::Unasked).await;
                match good {
                    true => assert!(verified.is_ok(), "{algorithm}: {verified:?}, {more}"),
                    false => assert_eq!(problem(verified), TokenProblem::Algorithm, "{more}"),
                }
            }
            let (issuers, _) = open(&config(issuer, &named));
            let stranger = sign(&Pair::new(algorithm));
            let refused = verify(&issuers, &stranger, Claimed::Unasked).await;
            assert_eq!(problem(refused), TokenProblem::Signature, "{algorithm}");
        }
    }
}

// A token chooses neither its algorithm nor the kind of key (RFC 8725, 3.1 and 3.2).
#[tokio::test]
async fn alg_none_and_a_public_key_as_a_secret_and_foreign_keys_are_refused() {
    let world = World::new("algorithms = [\"ES256\", \"RS256\"]\n").await;
    let claims = world.claims(json!({}));
    for alg in ["none", "None", "NONE", ""] {
        let header = json!({"alg": alg, "kid": "k1"});
        for signature in ["", "c2ln"] {
            let token = format!("{}.{signature}", unsigned(&header, &claims));
            assert_eq!(
                problem(world.try_with(&token).await),
                TokenProblem::Algorithm,
                "{alg}"
            );
        }
    }
    // The public key is known to everybody, in each of its forms.
    let jwk = world.key.jwk();
    for secret in [
        jwk.to_string(),
        jwk["x"].as_str().unwrap().to_owned(),
        String::new(),
    ] {
        let header = json!({"alg": "HS256", "kid": "k1"});
        let message = unsigned(&header, &claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
        let refused = world.try_with(&format!("{message}.{signature}")).await;
        assert_eq!(problem(refused), TokenProblem::Algorithm);
    }
    let other = SigningKey::new("k1");
    assert_eq!(
        problem(world.try_with(&other.sign(&claims)).await),
        TokenProblem::Signature
    );
    // A key that comes with the token proves nothing.
    let stranger = SigningKey::new("k9");
    let header =
        json!({"alg": "ES256", "kid": "k9", "jwk": stranger.jwk(), "jku": "http://127.0.0.1:1/"});
    let refused = world.try_with(&stranger.sign_with(&header, &claims)).await;
    assert_eq!(problem(refused), TokenProblem::UnknownKey);
    let header = json!({"alg": "RS256", "kid": "k1"});
    let refused = world.try_with(&world.key.sign_with(&header, &claims)).await;
    assert_eq!(
        problem(refused),
        TokenProblem::UnknownKey,
        "the key is for another algorithm"
    );
    // Changed after it was signed.
    let good = world.key.sign(&claims);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let forged = unsigned(
        &json!({"alg": "ES256", "kid": "k1"}),
        &world.claims(json!({"sub": "admin"})),
    );
    assert_eq!(
        problem(world.try_with(&format!("{forged}.{signature}")).await),
        TokenProblem::Signature
    );
    assert!(world.try_with(&good).await.is_ok());
    assert!(world.try_with(head).await.is_err());
}

#[tokio::test]
async fn an_hmac_works_with_the_shared_secret_alone_and_only_where_it_is_named() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    let text = "0123456789abcdef0123456789abcdef";
    std::io::Write::write_all(&mut secret, text.as_bytes()).unwrap();
    let issuer = "https://id.example";
    let more = format!(
        "algorithms = \"HS256\"\nsecret_file = {:?}\n",
        secret.path()
    );
    let (issuers, _) = open(&config(issuer, &more));
    let message = unsigned(&json!({"alg": "HS256"}), &claims(issuer));
    let sign = |secret: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()))
        )
    };
    assert!(
        verify(&issuers, &sign(text), Claimed::Unasked)
            .await
            .is_ok()
    );
    let refused = verify(
        &issuers,
        &sign("0123456789abcdef0123456789abcdee"),
        Claimed::Unasked,
    )
    .await;
    assert_eq!(problem(refused), TokenProblem::Signature);

    std::fs::write(secret.path(), "short").unwrap();
    let error = Issuers::open(&config(issuer, &more).oauth, Arc::default()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("at least 32")
            && error.contains("oauth.home.secret_file")
            && !error.contains("short"),
        "{error}"
    );
}

#[tokio::test]
async fn keys_from_a_file_need_no_server() {
    let key = SigningKey::new("k1");
    let file = tempfile::NamedTempFile::new().unwrap();
    let issuer = "https://id.example";
    let more = format!("keys_file = {:?}\n", file.path());
    let good = || std::fs::write(file.path(), json!({"keys": [key.jwk()]}).to_string()).unwrap();
    good();
    let (issuers, _) = open(&config(issuer, &more));
    assert!(
        verify(&issuers, &key.sign(&claims(issuer)), Claimed::Unasked)
            .await
            .is_ok()
    );
    for (text, word) in [
        ("", "no public key"),
        ("no key at all", "no public key"),
        (
            "-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----\n",
            "neither a JWK Set nor PEM",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nMC4=\n-----END PUBLIC KEY-----\n",
            "of a kind that is not known",
        ),
        ("{}", "not a JWK Set"),
        (
            r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#,
            "no key that verifies",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n",
            "only public keys",
        ),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let Err(error) = Issuers::open(&config(issuer, &more).oauth, Arc::default()) else {
            panic!("{text:?} was taken");
        };
        let error = error.to_string();
        assert!(error.contains(word), "{text:?}: {error}");
    }
}
