//! Ways in with a JWT, and what it then permits.

use postern_tests::packet::Version;
use postern_tests::peer::{Tool, installed_dir, peers_dir};
use postern_tests::scope::own_address;
use postern_tests::{Connect, Publish, Scope};
use serde_json::json;

use crate::world::*;

// I1
#[tokio::test]
async fn a_token_in_the_password_field_is_a_login_in_every_version_and_its_scopes_are_permissions()
{
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    for version in [Version::V31, Version::V311, Version::V5] {
        let connect = with_token(Connect::new(version, "c"), &token);
        let mut client = knock(&gateway, &connect).await;
        assert_eq!(client.connack.code, 0, "{version:?}");
        assert_eq!(client.subscribe("tests/sensor-7/#", 1).await, 1);
        client
            .publish(Publish::new("tests/sensor-7/a", "x").qos(1))
            .await;
        assert_eq!(client.receive().await.payload, b"x");
        if version == Version::V5 {
            assert_eq!(
                client
                    .publish(Publish::new("tests/sensor-8/a", "x").qos(1))
                    .await,
                0x87
            );
            assert_eq!(client.subscribe("tests/#", 0).await, 0x87);
            // "%u" is the name of the token, and nobody else's.
            assert_eq!(client.subscribe("tests/+/a", 0).await, 0x87);
        }
    }
    logged(&gateway, "home:sensor-7").await;
    assert_hidden(&gateway, &token);
}

#[tokio::test]
async fn the_device_flow_gives_a_person_a_login() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.device_token("jwt", "alice").await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &token)).await;
    assert_eq!(client.connack.code, 0);
    assert_eq!(
        client
            .publish(Publish::new("tests/alice/a", "x").qos(1))
            .await,
        0x10
    );
    assert_eq!(
        client
            .publish(Publish::new("tests/sensor-7/a", "x").qos(1))
            .await,
        0x87
    );
}

#[tokio::test]
async fn rules_may_be_for_a_scope_a_mapped_role_and_a_user_of_the_issuers_realm() {
    let issuer = Issuer::start().await;
    let more = "roles_claim = \"groups\"\nroles = \"mqtt-devices=device\"\nscopes = []\n";
    let gateway = gateway(&issuer, more).await;
    gateway.acl("allow publish by/scope --scope sensors").await;
    gateway.acl("allow publish by/role --role device").await;
    gateway
        .acl("allow publish by/user --user sensor-7 --realm home")
        .await;
    let token = issuer.token_for("jwt", &format!("sensors {SCOPE}")).await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &token)).await;
    for (topic, code) in [
        ("by/scope", 0x10),
        ("by/role", 0x10),
        ("by/user", 0x10),
        // Scopes are no permissions here, and the group "admin" of the issuer is not our role.
        ("tests/sensor-7/a", 0x87),
        ("anything", 0x87),
    ] {
        assert_eq!(
            client.publish(Publish::new(topic, "x").qos(1)).await,
            code,
            "{topic}"
        );
    }
    let without = issuer.token_for("jwt", "mqtt:sub:tests/shared").await;
    let mut client = knock(&gateway, &with_token(Connect::v5("d"), &without)).await;
    assert_eq!(
        client.publish(Publish::new("by/scope", "x").qos(1)).await,
        0x87
    );
    let list = gateway.cli(&["acl", "list"], "").await.expect_success();
    assert!(list.stdout.contains("scope:sensors"), "{list}");
}

#[tokio::test]
async fn a_token_may_be_the_user_name_and_is_never_logged() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.token("jwt").await;
    let bad = issuer.forge("foreign", claims()).await;
    for (user, password, code) in [
        (&token, None, 0),
        (&token, Some(""), 0),
        (&token, Some("ignored"), 0),
        (&bad, None, 0x86),
        (&bad, Some("x"), 0x86),
    ] {
        let mut connect = Connect::v5("c");
        connect.username = Some(user.clone());
        connect.password = password.map(Into::into);
        assert_eq!(
            knock(&gateway, &connect).await.connack.code,
            code,
            "{password:?}"
        );
        connect.version = Version::V311;
        let v3 = if code == 0 { 0 } else { 4 };
        assert_eq!(knock(&gateway, &connect).await.connack.code, v3);
    }
    logged(&gateway, "signature of the token is wrong").await;
    assert_hidden(&gateway, &token);
    assert_hidden(&gateway, &bad);
}

// I2
#[tokio::test]
async fn a_known_user_name_means_its_password_and_nothing_else() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.sign(json!({"mqtt_user": "ann"})).await;
    let ann = gateway.add_user("ann", &[]).await;
    let connect = |password: &str| Connect::v5("c").user("ann", password);
    assert_eq!(knock(&gateway, &connect(&token)).await.connack.code, 0x86);
    assert_eq!(
        knock(&gateway, &connect(&ann.password)).await.connack.code,
        0
    );
    assert_eq!(
        knock(&gateway, &Connect::v5("c").user("bob", &ann.password))
            .await
            .connack
            .code,
        0x86
    );
    // Another realm, another principal: its session is not ann's (S5).
    let client = knock(&gateway, &connect(&ann.password).persistent(60)).await;
    client.disconnect().await;
    let other = Connect::v5("c").user("whoever", &token);
    assert_eq!(knock(&gateway, &other).await.connack.code, 0x85);
}

// I1
#[tokio::test]
async fn a_realm_that_is_mapped_to_local_has_our_accounts_with_their_roles_and_their_state() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "realm = \"local\"\nscopes = []\n").await;
    gateway.add_user("ann", &["family"]).await;
    gateway.acl("allow publish home/# --role family").await;
    let ann = issuer.sign(json!({"mqtt_user": "ann"})).await;
    let nobody = issuer.sign(json!({"mqtt_user": "nobody"})).await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &ann)).await;
    assert_eq!(
        client.publish(Publish::new("home/x", "x").qos(1)).await,
        0x10
    );
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("d"), &nobody))
            .await
            .connack
            .code,
        0x86
    );
    gateway
        .cli(&["user", "disable", "ann"], "")
        .await
        .expect_success();
    assert_eq!(client.end_code().await, 0x87);
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("c"), &ann))
            .await
            .connack
            .code,
        0x8A
    );
}

#[tokio::test]
async fn the_user_name_can_be_required_to_match() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "username = \"match\"\n").await;
    let token = issuer.token("jwt").await;
    for (name, code) in [(USER, 0), ("sensor-8", 0x86), ("", 0x86)] {
        let connect = Connect::v5("c").user(name, &token);
        assert_eq!(knock(&gateway, &connect).await.connack.code, code, "{name}");
    }
    let by_subject = "username = \"match\"\nusername_claim = \"client_id\"\n";
    let gateway = self::gateway(&issuer, by_subject).await;
    for (name, code) in [("dev", 0), (USER, 0x86)] {
        let connect = Connect::v5("c").user(name, &token);
        assert_eq!(knock(&gateway, &connect).await.connack.code, code, "{name}");
    }
    logged(&gateway, "home:sensor-7").await;
}

#[tokio::test]
async fn scopes_of_rabbitmq_are_permissions_where_they_are_asked_for() {
    let issuer = Issuer::start().await;
    let gateway = gateway(
        &issuer,
        "scopes = \"rabbitmq\"\nscope_prefix = \"rabbitmq.\"\n",
    )
    .await;
    let scope =
        "rabbitmq.read:*/*/tests.shared.* rabbitmq.write:%2F/amq.topic/tests.%u.* write:*/*/*";
    let token = issuer.sign(json!({ "scope": scope })).await;
    let mut client = knock(&gateway, &with_token(Connect::v5("c"), &token)).await;
    assert_eq!(client.subscribe("tests/shared/#", 0).await, 0);
    assert_eq!(client.subscribe("tests/#", 0).await, 0x87);
    assert_eq!(
        client
            .publish(Publish::new("tests/sensor-7/a/b", "x").qos(1))
            .await,
        0x10
    );
    assert_eq!(
        client
            .publish(Publish::new("tests/sensor-8/a", "x").qos(1))
            .await,
        0x87
    );
}

#[tokio::test]
async fn tokens_by_every_default_algorithm_are_good_and_only_those_that_are_named_are_where_some_are()
 {
    let issuer = Issuer::start().await;
    let mut tokens = Vec::new();
    for algorithm in ["ES256", "ES384", "EdDSA", "PS256", "RS256"] {
        issuer.control(&format!("algorithm/{algorithm}")).await;
        tokens.push((algorithm, issuer.token("jwt").await));
    }
    let picky = "algorithms = [\"RS256\"]\n";
    let (all, one) = (gateway(&issuer, "").await, gateway(&issuer, picky).await);
    for (algorithm, token) in tokens {
        let connect = with_token(Connect::v5("a"), &token);
        let good = knock(&all, &connect).await.connack.code;
        assert_eq!(good, 0, "{algorithm}");
        let named = knock(&one, &connect).await.connack.code == 0;
        assert_eq!(named, algorithm == "RS256", "{algorithm}");
    }
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_still_counts() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let old = issuer.token("jwt").await;
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("a"), &old))
            .await
            .connack
            .code,
        0
    );
    issuer.control("rotate").await;
    let new = issuer.token("jwt").await;
    for token in [&new, &old] {
        assert_eq!(
            knock(&gateway, &with_token(Connect::v5("a"), token))
                .await
                .connack
                .code,
            0
        );
    }
    issuer.control("down").await;
    // What is known is kept; what is not known cannot be found.
    assert_eq!(
        knock(&gateway, &with_token(Connect::v5("a"), &new))
            .await
            .connack
            .code,
        0
    );
    issuer.control("up").await;
}

#[tokio::test]
async fn mosquitto_and_paho_log_in_with_a_token_as_their_password() {
    let issuer = Issuer::start().await;
    let gateway = gateway(&issuer, "").await;
    let token = issuer.sign(json!({"scope": "mqtt:pub:# mqtt:sub:#"})).await;
    for version in ["mqttv311", "mqttv5"] {
        let topic = Scope::new().topic("a");
        let tool = |program: &str| {
            Tool::new("stdbuf")
                .args([
                    "-oL",
                    program,
                    "-V",
                    version,
                    "-A",
                    &own_address().to_string(),
                ])
                .args([
                    "-h",
                    "localhost",
                    "-p",
                    &gateway.addresses.mqtts.port().to_string(),
                ])
                .args([
                    "-u", "any", "-P", &token, "-t", &topic, "-q", "1", "--cafile",
                ])
                .arg(gateway.ca())
        };
        let mut subscriber = tool("mosquitto_sub")
            .args(["-d", "-F", "GOT %p"])
            .start()
            .await;
        subscriber.line_with("Subscribed (mid").await;
        tool("mosquitto_pub")
            .args(["-m", "hello"])
            .run()
            .await
            .expect_success();
        assert_eq!(subscriber.line_with("GOT").await, "GOT hello");
    }
    for version in ["3.1.1", "5"] {
        Tool::new(installed_dir().join("venv/bin/python"))
            .arg(peers_dir().join("paho/exercise.py"))
            .args(["every_qos_arrives_in_order_once", version, "tcp"])
            .env("PORT", gateway.addresses.mqtts.port().to_string())
            .env("CA", gateway.ca())
            .env("USERNAME", "any")
            .env("PASSWORD", &token)
            .env("SCOPE", Scope::new().id("paho"))
            .run()
            .await
            .expect_success();
    }
    assert_hidden(&gateway, &token);
}
