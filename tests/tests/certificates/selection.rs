//! By server name, by address, by what a client can verify.

use std::net::SocketAddr;

use postern_tests::Setup;
use tempfile::TempDir;

use crate::authority::{Authority, first_certificate};
use crate::{s_client, served};

#[tokio::test]
async fn each_server_name_gets_its_certificate_and_unknown_ones_the_default() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let main = ca.ecdsa(&["main.example.org"]);
    let wild = ca.ecdsa(&["*.example.org"]);
    let other = ca.rsa(&["other.example.net"]);
    let gateway = Setup::new()
        .toml(&format!("[tls]\n{}", main.write(dir.path(), "main")))
        .toml(&format!(
            "[certificates.wild]\n{}",
            wild.write(dir.path(), "wild")
        ))
        .toml(&format!(
            "[certificates.other]\n{}",
            other.write(dir.path(), "other")
        ))
        .start()
        .await;
    for (name, pair) in [
        ("main.example.org", &main),
        ("any.example.org", &wild),
        ("ANY.Example.org", &wild),
        ("other.example.net", &other),
        ("unknown.example.com", &main),
        ("a.any.example.org", &main),
    ] {
        assert_eq!(served(&gateway, name).await, pair.leaf(), "{name}");
    }
    let nameless = s_client(gateway.addresses.mqtts, &["-noservername"]).await;
    assert_eq!(first_certificate(&nameless.stdout), Some(main.leaf()));
}

#[tokio::test]
async fn without_a_server_name_the_address_decides() {
    // C2
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let main = ca.ecdsa(&["main.example.org"]);
    let two = ca.ecdsa(&["127.0.0.2"]);
    let gateway = Setup::new()
        .toml("[listeners.two]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.2:0\"]\n")
        .toml(&format!("[tls]\n{}", main.write(dir.path(), "main")))
        .toml(&format!(
            "[certificates.two]\n{}",
            two.write(dir.path(), "two")
        ))
        .start()
        .await;
    let text = std::fs::read_to_string(gateway.data.join("addresses.json")).expect("it is there");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let address: SocketAddr = json["two"][0]
        .as_str()
        .and_then(|address| address.parse().ok())
        .expect("an address");
    for version in ["-tls1_2", "-tls1_3"] {
        for (to, options, pair) in [
            (address, &["-noservername"][..], &two),
            (address, &["-servername", "main.example.org"], &main),
            (address, &["-servername", "unknown.example.org"], &main),
            (gateway.addresses.mqtts, &["-noservername"], &main),
        ] {
            let finished = s_client(to, &[options, &[version]].concat()).await;
            assert_eq!(
                first_certificate(&finished.stdout),
                Some(pair.leaf()),
                "{finished}"
            );
        }
    }
}

#[tokio::test]
async fn ecdsa_and_rsa_stand_side_by_side_and_each_client_gets_what_it_can_verify() {
    let dir = TempDir::new().expect("a directory");
    let ca = Authority::new();
    let ecdsa = ca.ecdsa(&["mqtt.example.org"]);
    let rsa = ca.rsa(&["mqtt.example.org"]);
    let gateway = Setup::new()
        .toml(&format!("[tls]\n{}", rsa.write(dir.path(), "rsa")))
        .toml(&format!(
            "[certificates.ecdsa]\n{}",
            ecdsa.write(dir.path(), "ecdsa")
        ))
        .start()
        .await;
    for name in ["mqtt.example.org", "unknown.example.org"] {
        for (options, pair) in [
            (&[][..], &ecdsa),
            (&["-tls1_2"], &ecdsa),
            (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], &rsa),
            (&["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], &ecdsa),
            (&["-tls1_2", "-sigalgs", "RSA+SHA256"], &rsa),
            (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], &rsa),
            (
                &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
                &ecdsa,
            ),
        ] {
            let options = [&["-servername", name], options].concat();
            let finished = s_client(gateway.addresses.mqtts, &options).await;
            assert_eq!(
                first_certificate(&finished.stdout),
                Some(pair.leaf()),
                "{finished}"
            );
            assert!(finished.stdout.contains("Cipher is "), "{finished}");
            assert!(!finished.stdout.contains("Cipher is (NONE)"), "{finished}");
        }
    }
}
