//! Versions, cipher suites and key exchange groups.

use std::sync::Arc;

use postern_tests::client::tcp;
use postern_tests::tls::client_config;
use postern_tests::wait::within;
use postern_tests::{Gateway, Setup};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, NamedGroup};
use tokio_rustls::TlsConnector;

use super::{handshakes, openssl};

async fn gateway(tls: &str) -> Gateway {
    Setup::new().toml(&format!("[tls]\n{tls}")).start().await
}

async fn negotiated(gateway: &Gateway, arguments: &[&str]) -> Result<String, String> {
    let finished = openssl(gateway, gateway.addresses.mqtts, arguments).await;
    let alert = finished.stderr.lines().find_map(|line| {
        let (_, alert) = line.split_once("SSL routines:")?;
        alert.contains("alert").then(|| alert.to_owned())
    });
    match (alert, &handshakes(&finished)[..]) {
        (Some(alert), _) => Err(alert),
        (None, [line]) => Ok(line.clone()),
        (None, _) => panic!("neither a handshake nor an alert: {finished}"),
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let gateway = gateway("").await;
    for (version, expected) in [
        ("-tls1_2", "New, TLSv1.2, ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-tls1_3", "New, TLSv1.3, TLS_AES_128_GCM_SHA256"),
    ] {
        assert_eq!(
            negotiated(&gateway, &[version]).await.as_deref(),
            Ok(expected)
        );
    }
    for old in ["-tls1", "-tls1_1"] {
        let refused = negotiated(&gateway, &[old, "-cipher", "ALL:@SECLEVEL=0"]).await;
        assert!(refused.is_err(), "{old}: {refused:?}");
    }
}

#[tokio::test]
async fn the_modern_policy_speaks_tls_1_3_only() {
    let gateway = gateway(r#"ciphers = "modern""#).await;
    let alert = negotiated(&gateway, &["-tls1_2"]).await.unwrap_err();
    assert!(alert.contains("alert protocol version"), "{alert}");
    assert_eq!(
        negotiated(&gateway, &[]).await.as_deref(),
        Ok("New, TLSv1.3, TLS_AES_128_GCM_SHA256")
    );
}

#[tokio::test]
async fn a_list_of_ciphers_is_what_is_offered_in_its_order() {
    let gateway = gateway(
        r#"ciphers = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256",
           "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]"#,
    )
    .await;
    for (arguments, expected) in [
        (&["-tls1_3"][..], "New, TLSv1.3, TLS_AES_256_GCM_SHA384"),
        (
            &[
                "-tls1_3",
                "-ciphersuites",
                "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384",
            ],
            "New, TLSv1.3, TLS_AES_256_GCM_SHA384",
        ),
        (&["-tls1_2"], "New, TLSv1.2, ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let found = negotiated(&gateway, arguments).await;
        assert_eq!(found.as_deref(), Ok(expected), "{arguments:?}");
    }
    for arguments in [
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
    ] {
        let alert = negotiated(&gateway, &arguments).await.expect_err("refused");
        assert!(
            alert.contains("alert handshake failure"),
            "{arguments:?}: {alert}"
        );
    }
}

// C3
#[tokio::test]
async fn the_hybrid_group_is_used_when_its_share_is_sent_and_never_asked_for() {
    let gateway = gateway("").await;
    let cases: [(&[&'static dyn SupportedKxGroup], NamedGroup); 3] = [
        (&[X25519MLKEM768, X25519], NamedGroup::X25519MLKEM768),
        // These two support the hybrid and send another share.
        (&[X25519, X25519MLKEM768], NamedGroup::X25519),
        (&[SECP256R1, X25519MLKEM768], NamedGroup::secp256r1),
    ];
    for (groups, expected) in cases {
        let found = key_exchange(&gateway, groups).await;
        assert_eq!(found, (Some(expected), Some(HandshakeKind::Full)));
    }
}

/// The group that a handshake with these groups, the first one with its share, ends with; and whether it took a retry.
async fn key_exchange(
    gateway: &Gateway,
    groups: &[&'static dyn SupportedKxGroup],
) -> (Option<NamedGroup>, Option<HandshakeKind>) {
    let plain = client_config(&gateway.ca(), &[&TLS13]);
    let mut provider = rustls::crypto::CryptoProvider::clone(plain.crypto_provider());
    provider.kx_groups = groups.to_vec();
    let roots = postern_tests::tls::roots(&gateway.ca());
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("versions and groups fit")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tcp(None, gateway.addresses.mqtts).await;
    let name = "localhost".try_into().expect("a DNS name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = within("a TLS handshake", connecting)
        .await
        .expect("the handshake succeeds");
    let connection = stream.get_ref().1;
    let group = connection.negotiated_key_exchange_group();
    (group.map(|group| group.name()), connection.handshake_kind())
}
