//! Which certificates pass, and which do not.

use postern_tests::packet::Version;
use postern_tests::peer::Tool;
use postern_tests::websocket::{self, upgrade};
use postern_tests::{Connect, Publish, Scope, Shared};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::AlertDescription;
use rustls::client::Tls12Resumption;
use tempfile::TempDir;

use crate::ca::{Ca, DAY, Device, Wanted};
use crate::gateway;
use crate::world::{TLS12, TLS13, address, config, connect, issue, let_in, refusal, usual};

/// A Mosquitto client at the listener `required`.
fn mosquitto(gateway: &Shared, program: &str, version: &str, device: Option<&TempDir>) -> Tool {
    let port = address(gateway, "required").port().to_string();
    let tool = Tool::new("stdbuf")
        .args(["-oL", program, "-h", "localhost", "-p", &port])
        .args(["-A", &postern_tests::scope::own_address().to_string()])
        .args(["-V", "mqttv5", "--tls-version", version, "--cafile"])
        .arg(gateway.ca());
    match device {
        None => tool,
        Some(folder) => tool
            .arg("--cert")
            .arg(folder.path().join("d.pem"))
            .arg("--key")
            .arg(folder.path().join("d.key")),
    }
}

#[tokio::test]
async fn mosquitto_clients_need_a_certificate_and_no_password() {
    let gateway = gateway().await;
    let folder = TempDir::new().expect("a folder");
    issue(&gateway, "mosquitto-1")
        .await
        .write(folder.path(), "d");
    let topic = Scope::new().topic("devices/mosquitto-1");
    gateway
        .acl(&format!(
            "allow publish {} --role device",
            topic.replace("mosquitto-1", "%d")
        ))
        .await;
    gateway
        .acl(&format!(
            "allow subscribe {} --role device",
            topic.replace("mosquitto-1", "%u")
        ))
        .await;
    for version in ["tlsv1.2", "tlsv1.3"] {
        let subscriber = mosquitto(&gateway, "mosquitto_sub", version, Some(&folder));
        let mut subscriber = subscriber.args(["-d", "-t", &topic]).start().await;
        subscriber.line_with("Subscribed (mid").await;
        mosquitto(&gateway, "mosquitto_pub", version, Some(&folder))
            .args(["-t", &topic, "-m", version, "-q", "1"])
            .run()
            .await
            .expect_success();
        subscriber.line_with(version).await;
        let without = mosquitto(&gateway, "mosquitto_pub", version, None)
            .args(["-t", &topic, "-m", "x", "-q", "1"])
            .run()
            .await;
        assert!(!without.status.success(), "{without:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_with_the_alert_that_says_why() {
    let gateway = gateway().await;
    let own = Ca::of_gateway(&gateway.data);
    let stranger = Ca::new("Stranger");
    let server = Wanted {
        usage: ExtendedKeyUsagePurpose::ServerAuth,
        ..Wanted::called("lamp")
    };
    let twice = Wanted {
        common_names: vec!["lamp".to_owned(), "admin".to_owned()],
        ..Wanted::called("")
    };
    let cases: [(&str, Device, AlertDescription); 6] = [
        (
            "expired",
            own.sign(&Wanted::called("lamp").for_seconds(-2 * DAY, -DAY)),
            AlertDescription::CertificateExpired,
        ),
        (
            "not valid yet",
            own.sign(&Wanted::called("lamp").for_seconds(DAY, 2 * DAY)),
            AlertDescription::CertificateExpired,
        ),
        (
            "of another CA",
            stranger.sign(&Wanted::called("lamp")),
            AlertDescription::UnknownCA,
        ),
        (
            "self-signed",
            Wanted::called("lamp").self_signed(),
            AlertDescription::UnknownCA,
        ),
        (
            "for servers",
            own.sign(&server),
            AlertDescription::UnsupportedCertificate,
        ),
        (
            "with two names",
            own.sign(&twice),
            AlertDescription::CertificateUnknown,
        ),
    ];
    for (what, device, alert) in &cases {
        for versions in [TLS12, TLS13] {
            let by = Tls12Resumption::SessionIdOrTickets;
            let config = config(&gateway, Some(device), versions, by);
            for listener in ["required", "optional"] {
                let found = refusal(address(&gateway, listener), &config).await;
                assert_eq!(found, *alert, "{what} at {listener}");
            }
        }
    }
}

// The gateway's own server certificate comes from the same CA, and must not be a key to its door.
#[tokio::test]
async fn the_server_certificate_of_the_gateway_is_no_client_certificate() {
    let gateway = gateway().await;
    let read = |name: &str| std::fs::read_to_string(gateway.data.join("tls").join(name));
    let device = Device::of(read("server.pem").unwrap(), read("server.key").unwrap());
    let config = usual(&gateway, Some(&device));
    let alert = refusal(address(&gateway, "required"), &config).await;
    assert_eq!(alert, AlertDescription::UnsupportedCertificate);
}

#[tokio::test]
async fn required_needs_one_and_optional_takes_a_password_instead() {
    let gateway = gateway().await;
    let nobody = usual(&gateway, None);
    let alert = refusal(address(&gateway, "required"), &nobody).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);

    let optional = address(&gateway, "optional");
    let admin = Connect::v5("").user(&gateway.admin.name, &gateway.admin.password);
    let_in(optional, &nobody, &admin).await.disconnect().await;
    let refused = connect(optional, &nobody, &Connect::v5("")).await;
    assert_eq!(refused.connack.code, 0x87);
    let device = issue(&gateway, "optional-1").await;
    let config = usual(&gateway, Some(&device));
    let_in(optional, &config, &Connect::v5("")).await;
}

// I2: the certificate decides; who says it is somebody else hears of it.
#[tokio::test]
async fn a_user_name_beside_a_certificate_must_be_the_same_one() {
    let gateway = gateway().await;
    let device = issue(&gateway, "named-1").await;
    let config = usual(&gateway, Some(&device));
    let required = address(&gateway, "required");
    let same = Connect::v5("").user("named-1", "not looked at");
    let_in(required, &config, &same).await.disconnect().await;
    // Not even the right password of another user changes whose connection this is.
    let other = Connect::v5("").user(&gateway.admin.name, &gateway.admin.password);
    let refused = connect(required, &config, &other).await;
    assert_eq!(refused.connack.code, 0x86);
}

// I2: require = "both"
#[tokio::test]
async fn both_means_the_certificate_and_the_password_of_the_user_it_names() {
    let gateway = gateway().await;
    let both = address(&gateway, "both");
    gateway.add_user_with("both-1", "correct horse", &[]).await;
    gateway.add_user_with("both-2", "correct horse", &[]).await;
    let device = issue(&gateway, "both-1").await;
    let config = usual(&gateway, Some(&device));
    for (user, password, code) in [
        (Some("both-1"), "correct horse", 0),
        (Some("both-1"), "wrong", 0x86),
        (Some("both-2"), "correct horse", 0x86),
        (None, "", 0x87),
    ] {
        let mut packet = Connect::v5("");
        if let Some(user) = user {
            packet = packet.user(user, password);
        }
        let answered = connect(both, &config, &packet).await;
        assert_eq!(answered.connack.code, code, "{user:?} {password:?}");
    }
    let without = usual(&gateway, None);
    let alert = refusal(both, &without).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn a_nameless_certificate_opens_the_door_and_the_password_says_who_it_is() {
    let gateway = gateway().await;
    let nameless = address(&gateway, "nameless");
    let user = gateway.add_user("nameless-1", &[]).await;
    let device = issue(&gateway, "fleet").await;
    let config = usual(&gateway, Some(&device));
    let packet = Connect::v5("").user(&user.name, &user.password);
    let_in(nameless, &config, &packet).await;
    let refused = connect(nameless, &config, &Connect::v5("")).await;
    assert_eq!(refused.connack.code, 0x87);
}

#[tokio::test]
async fn a_websocket_listener_asks_for_certificates_as_well() {
    let gateway = gateway().await;
    let web = address(&gateway, "web");
    let alert = refusal(web, &usual(&gateway, None)).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);

    let device = issue(&gateway, "web-1").await;
    let stream = crate::world::handshake(web, &usual(&gateway, Some(&device))).await;
    let stream = stream.expect("the handshake succeeds");
    let (status, head, mut socket) =
        websocket::request_over(stream, "/mqtt", &upgrade("mqtt")).await;
    assert_eq!(status, 101, "{head}");
    let connect = Connect::v5("").bytes();
    socket.send(true, websocket::BINARY, &connect).await;
    let connack = socket.binary(4).await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    // A revoked one is cut off here too.
    gateway
        .cli(&["ca", "revoke", "web-1"], "")
        .await
        .expect_success();
    let closed = async { while socket.next().await.is_some() {} };
    postern_tests::wait::within("the end of the connection", closed).await;
}

#[tokio::test]
async fn version_3_clients_are_let_in_by_certificate_too() {
    let gateway = gateway().await;
    let device = issue(&gateway, "old-1").await;
    let config = usual(&gateway, Some(&device));
    let required = address(&gateway, "required");
    let mut client = let_in(required, &config, &Connect::v311("old-1")).await;
    assert_eq!(client.version, Version::V311);
    // Deny by default: the role `device` has no rule for this.
    client.publish(Publish::new("old/1", "x").qos(1)).await;
    assert_eq!(client.subscribe("old/1", 0).await, 0x80);
}
