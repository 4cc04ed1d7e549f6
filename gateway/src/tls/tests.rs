//! Whole handshakes against the private CA, over an in-memory stream.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    SupportedCipherSuite, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

use super::fingerprint::{hex_with_colons, sha256};
use super::*;

struct Gateway {
    directory: TempDir,
    ca: PrivateCa,
    certificates: Arc<Certificates>,
    acceptor: TlsAcceptor,
}

impl Gateway {
    fn new(settings: &ServerTlsSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = PrivateCa::open(directory.path(), names(&["mqtt.example.org"])).unwrap();
        let certificates = Certificates::load(&ca.source()).unwrap();
        let configs = ServerConfigs::new(Arc::clone(&certificates), settings).unwrap();
        Self {
            directory,
            ca,
            certificates,
            acceptor: TlsAcceptor::new(Arc::new(configs)),
        }
    }

    fn client(&self, client: &Client) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.ca.ca_certificate()).unwrap())
            .unwrap();
        let mut provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
        if !client.groups.is_empty() {
            provider.kx_groups = client.groups.clone();
        }
        if !client.suites.is_empty() {
            provider.cipher_suites = client.suites.clone();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[client.version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = client
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        config
    }

    async fn connect(
        &self,
        client: &Client,
    ) -> (io::Result<TlsStream<DuplexStream>>, io::Result<Connected>) {
        self.connect_with(Arc::new(self.client(client)), "localhost")
            .await
    }

    async fn connect_with(
        &self,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> (io::Result<TlsStream<DuplexStream>>, io::Result<Connected>) {
        let (near, far) = duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        tokio::join!(
            self.acceptor.accept(near),
            TlsConnector::from(config).connect(name, far)
        )
    }
}

type Connected = client::TlsStream<DuplexStream>;

struct Client {
    version: &'static SupportedProtocolVersion,
    groups: Vec<&'static dyn SupportedKxGroup>,
    suites: Vec<SupportedCipherSuite>,
    alpn: Vec<&'static str>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            version: &TLS13,
            groups: Vec::new(),
            suites: Vec::new(),
            alpn: Vec::new(),
        }
    }
}

fn names(configured: &[&str]) -> BTreeSet<SubjectName> {
    let configured: Vec<String> = configured.iter().map(|name| (*name).to_owned()).collect();
    server_names(&configured).unwrap()
}

async fn echo(server: &mut TlsStream<DuplexStream>, client: &mut Connected) {
    client.write_all(b"to the gateway").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 14];
    server.read_exact(&mut got).await.unwrap();
    server.write_all(&got).await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"to the gateway");
}

#[tokio::test]
async fn a_client_that_trusts_the_private_ca_connects_with_either_version_by_any_name() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    for (version, number) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let config = Arc::new(gateway.client(&Client {
            version,
            ..Client::default()
        }));
        for name in ["localhost", "127.0.0.1", "::1", "mqtt.example.org"] {
            let (server, client) = gateway.connect_with(Arc::clone(&config), name).await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.get_ref().1.protocol_version(), Some(number));
            echo(&mut server, &mut client).await;
        }
        let (_, client) = gateway.connect_with(config, "elsewhere.example.org").await;
        assert!(client.is_err());
    }
}

#[tokio::test]
async fn a_listener_for_tls_1_3_refuses_1_2() {
    let gateway = Gateway::new(&ServerTlsSettings {
        min_version: MinVersion::Tls13,
        ..Default::default()
    });
    let (server, client) = gateway
        .connect(&Client {
            version: &TLS12,
            ..Client::default()
        })
        .await;
    assert!(server.is_err() && client.is_err());
    let (server, client) = gateway.connect(&Client::default()).await;
    assert!(server.is_ok() && client.is_ok());
}

#[tokio::test]
async fn alpn_is_optional_but_a_list_without_ours_is_refused() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    const REFUSED: &str = "refused";
    let cases: [(&[&str], &str); 5] = [
        (&[], ""),
        (&["mqtt"], "mqtt"),
        (&["h2", "http/1.1"], "http/1.1"),
        (&["http/1.1", "mqtt"], "mqtt"),
        (&["h2"], REFUSED),
    ];
    for (offered, expected) in cases {
        for version in [&TLS12, &TLS13] {
            let (server, client) = gateway
                .connect(&Client {
                    version,
                    alpn: offered.to_vec(),
                    ..Client::default()
                })
                .await;
            let chosen = client.map_or(REFUSED.to_owned(), |client| {
                let name = client.get_ref().1.alpn_protocol().unwrap_or_default();
                String::from_utf8(name.to_vec()).unwrap()
            });
            assert_eq!(chosen, expected, "{offered:?}");
            assert_eq!(server.is_ok(), expected != REFUSED);
        }
    }
}

// C3
#[tokio::test]
async fn a_share_that_was_sent_is_used_and_the_hybrid_group_is_never_asked_for() {
    use kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let cases: [(Vec<&'static dyn SupportedKxGroup>, NamedGroup); 5] = [
        (vec![X25519MLKEM768, X25519], NamedGroup::X25519MLKEM768),
        // Offers the hybrid, sends the share of its first group only.
        (vec![X25519, X25519MLKEM768], NamedGroup::X25519),
        (
            vec![SECP256R1, X25519MLKEM768, X25519],
            NamedGroup::secp256r1,
        ),
        (vec![SECP384R1, X25519], NamedGroup::secp384r1),
        (vec![X25519], NamedGroup::X25519),
    ];
    for (groups, expected) in cases {
        let (server, client) = gateway
            .connect(&Client {
                groups,
                ..Client::default()
            })
            .await;
        let client = client.unwrap();
        let connection = client.get_ref().1;
        assert_eq!(
            connection
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
            Some(expected)
        );
        assert_eq!(
            connection.handshake_kind(),
            Some(HandshakeKind::Full),
            "{expected:?}"
        );
        assert!(server.is_ok());
    }
}

#[tokio::test]
async fn aes_128_is_preferred_unless_the_client_puts_chacha20_first() {
    use cipher_suite::*;
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let tls13 = [
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
        TLS13_AES_128_GCM_SHA256,
    ];
    let tls12 = [
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ];
    for (version, suites, aes, chacha) in [
        (
            &TLS13,
            tls13,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (
            &TLS12,
            tls12,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ] {
        let mut chacha_first = suites.to_vec();
        chacha_first.swap(0, 1);
        for (suites, expected) in [(suites.to_vec(), aes), (chacha_first, chacha)] {
            let (server, _client) = gateway
                .connect(&Client {
                    version,
                    suites,
                    ..Client::default()
                })
                .await;
            let chosen = server
                .unwrap()
                .get_ref()
                .1
                .negotiated_cipher_suite()
                .map(|suite| suite.suite());
            assert_eq!(chosen, Some(expected));
        }
    }
}

#[tokio::test]
async fn a_client_resumes_by_ticket_and_without_tickets_by_id() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    for (version, resumption) in [
        (&TLS13, Resumption::in_memory_sessions(8)),
        (&TLS12, Resumption::in_memory_sessions(8)),
        (
            &TLS12,
            Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly),
        ),
    ] {
        let mut config = gateway.client(&Client {
            version,
            ..Client::default()
        });
        config.resumption = resumption;
        let config = Arc::new(config);
        for expected in [
            HandshakeKind::Full,
            HandshakeKind::Resumed,
            HandshakeKind::Resumed,
        ] {
            let (server, client) = gateway.connect_with(Arc::clone(&config), "localhost").await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            echo(&mut server, &mut client).await;
            assert_eq!(
                client.get_ref().1.handshake_kind(),
                Some(expected),
                "{version:?}"
            );
        }
    }
}

// C1
#[tokio::test]
async fn a_ticket_of_one_listener_is_nothing_to_another() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let configs = ServerConfigs::new(
        Arc::clone(&gateway.certificates),
        &ServerTlsSettings::default(),
    )
    .unwrap();
    let other = Gateway {
        acceptor: TlsAcceptor::new(Arc::new(configs)),
        ..Gateway::new(&ServerTlsSettings::default())
    };
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(gateway.client(&Client {
            version,
            ..Client::default()
        }));
        for gateway in [&gateway, &other] {
            let (server, client) = gateway.connect_with(Arc::clone(&config), "localhost").await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            echo(&mut server, &mut client).await;
            assert_eq!(
                client.get_ref().1.handshake_kind(),
                Some(HandshakeKind::Full)
            );
        }
    }
}

#[tokio::test]
async fn a_reload_gives_new_connections_the_new_certificate_and_leaves_the_old_ones_up() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let leaf = |client: &Connected| {
        client.get_ref().1.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    let (server, client) = gateway.connect(&Client::default()).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    let before = gateway.certificates.fingerprint();
    assert_eq!(hex_with_colons(&sha256(&leaf(&client))), before);
    assert!(!gateway.certificates.reload(&gateway.ca.source()).unwrap());

    let renewed = PrivateCa::open(
        gateway.directory.path(),
        names(&["mqtt.example.org", "new.example.org"]),
    )
    .unwrap();
    assert!(gateway.certificates.reload(&renewed.source()).unwrap());
    assert_ne!(gateway.certificates.fingerprint(), before);
    echo(&mut server, &mut client).await;
    let config = Arc::new(gateway.client(&Client::default()));
    let (_, client) = gateway.connect_with(config, "new.example.org").await;
    assert_eq!(
        hex_with_colons(&sha256(&leaf(&client.unwrap()))),
        gateway.certificates.fingerprint()
    );
}

#[tokio::test]
async fn a_failed_reload_keeps_the_certificate_and_says_why() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let other = Gateway::new(&ServerTlsSettings::default());
    let file = |gateway: &Gateway, name: &str| gateway.directory.path().join("tls").join(name);
    let (good, key) = (file(&gateway, "server.pem"), file(&gateway, "server.key"));
    let expired = tempfile::tempdir().unwrap();
    PrivateCa::open_at(
        expired.path(),
        names(&[]),
        UNIX_EPOCH + Duration::from_secs(1_740_000_000),
    )
    .unwrap();
    let encrypted = gateway.directory.path().join("encrypted.key");
    fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let cases = [
        (
            good.clone(),
            file(&other, "server.key"),
            "does not belong to the certificate",
        ),
        (good.clone(), good.clone(), "there is no PEM private key"),
        (good.clone(), encrypted, "openssl pkey"),
        (key.clone(), key.clone(), "there is no certificate"),
        (
            gateway.directory.path().join("absent.pem"),
            key.clone(),
            "absent.pem",
        ),
        (
            gateway.directory.path().to_owned(),
            key.clone(),
            "not a regular file",
        ),
        (
            Path::new("/dev/zero").to_owned(),
            key.clone(),
            "not a regular file",
        ),
        (
            expired.path().join("tls/server.pem"),
            expired.path().join("tls/server.key"),
            "expired",
        ),
    ];
    let before = gateway.certificates.fingerprint();
    for (certificate, private_key, expected) in cases {
        let source = CertificateSource::files(certificate, private_key);
        let message = gateway
            .certificates
            .reload(&source)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{expected:?} in {message}");
        assert!(!message.contains("AAAA"), "{message}");
        assert_eq!(gateway.certificates.fingerprint(), before);
    }
    let (server, client) = gateway.connect(&Client::default()).await;
    assert!(server.is_ok() && client.is_ok());
}

#[test]
fn an_expired_certificate_of_the_operator_still_starts() {
    let directory = tempfile::tempdir().unwrap();
    PrivateCa::open_at(
        directory.path(),
        names(&[]),
        UNIX_EPOCH + Duration::from_secs(1_740_000_000),
    )
    .unwrap();
    let tls = directory.path().join("tls");
    let loaded = Certificates::load(&CertificateSource::files(
        tls.join("server.pem"),
        tls.join("server.key"),
    ))
    .unwrap();
    assert!(loaded.not_after() < SystemTime::now());
}

#[test]
fn a_record_size_that_rustls_would_refuse_at_the_first_handshake_is_refused_at_once() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    for (bytes, accepted) in [
        (63, false),
        (64, true),
        (512, true),
        (16_384, true),
        (16_385, false),
    ] {
        let settings = ServerTlsSettings {
            max_fragment: Some(bytes),
            ..Default::default()
        };
        let configs = ServerConfigs::new(Arc::clone(&gateway.certificates), &settings);
        assert_eq!(configs.is_ok(), accepted, "{bytes}");
        if let Ok(configs) = configs {
            rustls::ServerConnection::new(configs.for_client(&ClientHelloFacts::default()))
                .unwrap();
        }
    }
}

/// The plaintext sizes of the records that carry `length` bytes to a client.
async fn record_sizes(gateway: &Gateway, facts: &ClientHelloFacts, length: usize) -> Vec<usize> {
    let config = gateway.client(&Client {
        version: &TLS12,
        ..Client::default()
    });
    let configs = ServerConfigs::new(
        Arc::clone(&gateway.certificates),
        &ServerTlsSettings {
            max_fragment: None,
            ..Default::default()
        },
    )
    .unwrap();
    let mut server = rustls::ServerConnection::new(configs.for_client(facts)).unwrap();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap())
            .unwrap();
    while server.is_handshaking() || client.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        pump(&mut wire.as_slice(), |rest| server.read_tls(rest).unwrap());
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    io::Write::write_all(&mut server.writer(), &vec![0; length]).unwrap();
    let mut wire = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    let mut sizes = Vec::new();
    let mut rest = wire.as_slice();
    while let [_, _, _, high, low, tail @ ..] = rest {
        let body = usize::from(u16::from_be_bytes([*high, *low]));
        // AES-GCM in TLS 1.2: eight bytes of nonce and sixteen of tag.
        sizes.push(body - 24);
        rest = &tail[body..];
    }
    sizes
}

fn pump(rest: &mut &[u8], mut read: impl FnMut(&mut &[u8]) -> usize) {
    while !rest.is_empty() {
        read(rest);
    }
}

#[tokio::test]
async fn a_client_that_asks_for_small_records_gets_full_ones_of_that_size() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let facts = |max_fragment_length| ClientHelloFacts {
        max_fragment_length,
        ..Default::default()
    };
    assert_eq!(
        record_sizes(&gateway, &facts(Some(512)), 1200).await,
        [512, 512, 176]
    );
    assert_eq!(
        record_sizes(&gateway, &facts(Some(4096)), 5000).await,
        [4096, 904]
    );
    assert_eq!(record_sizes(&gateway, &facts(None), 5000).await, [5000]);
}

/// Whether the server answers this ClientHello with a HelloRetryRequest (RFC 8446, 4.1.3).
fn asks_for_a_retry(config: Arc<rustls::ServerConfig>, hello: &[u8]) -> bool {
    const RETRY_RANDOM: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];
    let mut server = rustls::ServerConnection::new(config).unwrap();
    server.read_tls(&mut &*hello).unwrap();
    server.process_new_packets().unwrap();
    let mut wire = Vec::new();
    server.write_tls(&mut wire).unwrap();
    assert_eq!((wire[0], wire[5]), (22, 2), "a ServerHello");
    wire[11..15] == RETRY_RANDOM
}

// C3
#[test]
fn a_client_that_prefers_a_group_but_sends_the_share_of_another_is_not_made_to_retry() {
    use super::client_hello::tests::{extension, key_share, message, record, versions};
    const HYBRID: u16 = 0x11ec;
    const X25519: u16 = 0x001d;
    const P256: u16 = 0x0017;
    let hello = |groups: &[u16], shares: &[u16]| {
        let list: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.to_be_bytes())
            .collect();
        let groups = [&(list.len() as u16).to_be_bytes()[..], &list].concat();
        let signatures = extension(13, &[0, 2, 0x04, 0x03]);
        record(&message(
            &[0x1301],
            &[
                extension(10, &groups),
                signatures,
                key_share(shares),
                versions(&[0x0304]),
            ],
        ))
    };
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let configs = ServerConfigs::new(
        Arc::clone(&gateway.certificates),
        &ServerTlsSettings::default(),
    )
    .unwrap();
    let plain = Arc::new(
        rustls::ServerConfig::builder_with_provider(server_config::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&gateway.certificates) as _),
    );
    for groups in [&[HYBRID, X25519][..], &[P256, HYBRID, X25519]] {
        let hello = hello(groups, &[X25519]);
        let ours = configs.for_client(&client_hello_facts(&hello));
        assert!(!asks_for_a_retry(ours, &hello), "{groups:?}");
        assert!(
            asks_for_a_retry(Arc::clone(&plain), &hello),
            "rustls alone would ask: {groups:?}"
        );
    }
    // No usable share: the retry asks for a group that is not the hybrid one.
    let hello = hello(&[HYBRID, P256], &[]);
    assert!(asks_for_a_retry(
        configs.for_client(&client_hello_facts(&hello)),
        &hello
    ));
}

#[tokio::test]
async fn a_client_hello_without_end_is_refused_after_16_kib() {
    let gateway = Gateway::new(&ServerTlsSettings::default());
    let (near, mut far) = duplex(64 * 1024);
    // A handshake message of 60,000 bytes by its own word, in full records, that stays incomplete.
    let mut hello = vec![1, 0, 0xea, 0x60];
    hello.resize(2 * 16_384, 0);
    for part in hello.chunks(16_384) {
        far.write_all(&[0x16, 3, 1, 0x40, 0]).await.unwrap();
        far.write_all(part).await.unwrap();
    }
    let refused = tokio::time::timeout(Duration::from_secs(20), gateway.acceptor.accept(near));
    let error = refused.await.expect("it waits for more").unwrap_err();
    assert!(error.to_string().contains("ClientHello"), "{error}");
}
