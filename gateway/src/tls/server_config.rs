//! How does a listener speak TLS? The rustls configurations of one listener, by what a ClientHello
//! asks for.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

use super::ciphers;
use super::client_hello::CHACHA20;
use super::resumption::Resumption;
use super::{Certificates, ClientHelloFacts, TlsError};
use crate::metrics::Metrics;

/// The lowest version of TLS that a listener speaks. Nothing below 1.2 exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinVersion {
    #[default]
    Tls12,
    Tls13,
}

/// The application protocols (RFC 7301) that a listener names. A client that sends no ALPN
/// extension is always welcome; a client whose list has none of these is refused with
/// `no_application_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alpn {
    /// `mqtt`, as registered with IANA.
    pub mqtt: bool,
    /// `http/1.1`, which browsers offer for a WebSocket.
    pub http: bool,
}

impl Default for Alpn {
    fn default() -> Self {
        Self {
            mqtt: true,
            http: true,
        }
    }
}

/// What an operator may set about the TLS of one listener.
#[derive(Debug, Clone)]
pub struct ServerTlsSettings {
    pub min_version: MinVersion,
    pub alpn: Alpn,
    /// The cipher suites, the preferred one first; see [`cipher_suites`](super::cipher_suites).
    pub ciphers: Vec<SupportedCipherSuite>,
    /// How long a session may be resumed; zero for no resumption.
    pub session_lifetime: Duration,
    /// Sessions that clients without tickets may resume by id, at most; the oldest goes first.
    /// About 0.3 KB each.
    pub session_cache: usize,
    /// The largest plaintext of one record to this listener's clients, 64 to 16384 bytes; `None` is
    /// 16384. A client's `max_fragment_length` can lower it further.
    pub max_fragment: Option<usize>,
    /// Where the sessions of the cache are counted.
    pub metrics: Arc<Metrics>,
}

impl Default for ServerTlsSettings {
    fn default() -> Self {
        Self {
            min_version: MinVersion::Tls12,
            alpn: Alpn::default(),
            ciphers: ciphers::all(),
            session_lifetime: Duration::from_secs(12 * 3_600),
            session_cache: 4_096,
            max_fragment: None,
            metrics: Arc::default(),
        }
    }
}

/// The rustls configurations of one listener. They share the certificate, the ticket keys and the
/// session cache, and differ only in what a ClientHello may ask for; two listeners must never share
/// one of these (rule C1).
#[derive(Debug)]
pub struct ServerConfigs {
    /// By key exchange, then preferred cipher, then record size.
    variants: Vec<Arc<ServerConfig>>,
    certificates: Arc<Certificates>,
}

impl ServerConfigs {
    /// # Errors
    /// [`TlsError::RecordSize`]; [`TlsError::Setup`], in practice only if the random number
    /// generator fails.
    pub fn new(
        certificates: Arc<Certificates>,
        settings: &ServerTlsSettings,
    ) -> Result<Self, TlsError> {
        Self::asking(certificates, settings, None)
    }

    /// [`new`](Self::new) for a listener that asks for client certificates, where `clients` says
    /// which ones are good.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn asking(
        certificates: Arc<Certificates>,
        settings: &ServerTlsSettings,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        if let Some(bytes) = settings
            .max_fragment
            .filter(|bytes| !(64..=16_384).contains(bytes))
        {
            return Err(TlsError::RecordSize { bytes });
        }
        let resumption = Resumption::new(
            settings.session_lifetime,
            settings.session_cache,
            &settings.metrics,
        )?;
        let versions = settings.versions();
        let mut variants = Vec::with_capacity(KEY_EXCHANGES * PREFERENCES * RECORD_SIZES.len());
        for key_exchange in 0..KEY_EXCHANGES {
            for chacha_first in [false, true] {
                let provider = Arc::new(variant_provider(
                    &settings.ciphers,
                    key_exchange,
                    chacha_first,
                ));
                for record_size in RECORD_SIZES {
                    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                        .with_protocol_versions(&versions)?;
                    let builder = match &clients {
                        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
                        None => builder.with_no_client_auth(),
                    };
                    let mut config = builder.with_cert_resolver(Arc::clone(&certificates) as _);
                    resumption.apply(&mut config);
                    config.alpn_protocols = settings.alpn.protocols();
                    config.max_fragment_size = smaller(settings.max_fragment, record_size)
                        .map(|plaintext| plaintext + RECORD_HEADER);
                    // Our order, and a variant for clients that want ChaCha20 most.
                    config.ignore_client_order = true;
                    config.send_half_rtt_data = false;
                    config.max_early_data_size = 0;
                    variants.push(Arc::new(config));
                }
            }
        }
        Ok(Self {
            variants,
            certificates,
        })
    }

    /// The configuration for a client that said this.
    pub fn for_client(&self, facts: &ClientHelloFacts) -> Arc<ServerConfig> {
        let key_exchange = SHARE_PREFERENCE
            .iter()
            .position(|group| facts.key_shares.contains(group))
            .map_or(0, |index| index + 1);
        let preference = usize::from(facts.prefers_chacha20);
        let record_size = RECORD_SIZES
            .iter()
            .position(|size| *size == facts.max_fragment_length)
            .unwrap_or(0);
        let index = (key_exchange * PREFERENCES + preference) * RECORD_SIZES.len() + record_size;
        Arc::clone(&self.variants[index])
    }

    /// `config`, or a copy of it with the certificate for the address that this client came to
    /// (rule C2). The copy shares ticket keys and session cache with the original, and is made only
    /// where the address makes a difference.
    pub(super) fn at(
        &self,
        local: IpAddr,
        hello: &ClientHello<'_>,
        config: Arc<ServerConfig>,
    ) -> Arc<ServerConfig> {
        let Some(certified_key) = self.certificates.at(hello, local) else {
            return config;
        };
        let mut config = (*config).clone();
        config.cert_resolver = Arc::new(One(certified_key));
        Arc::new(config)
    }
}

/// The same certificate for every handshake.
#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// The cryptography of this gateway: aws-lc-rs.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Which of several key shares we take. rustls follows the order of the client's `supported_groups`
/// and answers with a HelloRetryRequest if the first common group has no share, even where another
/// share would do; so a variant is confined to the one group whose share we want, and the hybrid
/// group is never asked for (rule C3).
const SHARE_PREFERENCE: [NamedGroup; 4] = [
    NamedGroup::X25519MLKEM768,
    NamedGroup::X25519,
    NamedGroup::secp256r1,
    NamedGroup::secp384r1,
];
/// No usable share (TLS 1.2, or a retry is needed anyway), and one for each share.
const KEY_EXCHANGES: usize = SHARE_PREFERENCE.len() + 1;
/// AES-128-GCM first, and ChaCha20-Poly1305 first.
const PREFERENCES: usize = 2;
/// `max_fragment_length` (RFC 6066, 4) as the client may send it.
const RECORD_SIZES: [Option<usize>; 5] = [None, Some(512), Some(1_024), Some(2_048), Some(4_096)];

/// rustls counts the record header in `max_fragment_size`.
const RECORD_HEADER: usize = 5;

fn variant_provider(
    ciphers: &[SupportedCipherSuite],
    key_exchange: usize,
    chacha_first: bool,
) -> CryptoProvider {
    let groups: [&'static dyn SupportedKxGroup; 4] = [
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    let kx_groups = match key_exchange {
        0 => groups[1..].to_vec(),
        only => vec![groups[only - 1]],
    };
    let mut cipher_suites = ciphers.to_vec();
    if chacha_first {
        // Stable: all ChaCha20 suites move up, in the same order.
        cipher_suites.sort_by_key(|suite| !CHACHA20.contains(&suite.suite()));
    }
    CryptoProvider {
        cipher_suites,
        kx_groups,
        ..(*provider()).clone()
    }
}

impl ServerTlsSettings {
    /// The versions that are allowed and that have a cipher suite: what has none would only fail
    /// later, and with a misleading alert.
    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        [&TLS13, &TLS12]
            .into_iter()
            .filter(|version| {
                self.min_version == MinVersion::Tls12 || version.version == TLS13.version
            })
            .filter(|version| self.ciphers.iter().any(|suite| suite.version() == *version))
            .collect()
    }
}

impl Alpn {
    /// The name of `mqtt` on the wire.
    pub const MQTT: &[u8] = b"mqtt";
    /// The name of `http` on the wire.
    pub const HTTP: &[u8] = b"http/1.1";

    fn protocols(self) -> Vec<Vec<u8>> {
        let mut protocols = Vec::new();
        if self.mqtt {
            protocols.push(Self::MQTT.to_vec());
        }
        if self.http {
            protocols.push(Self::HTTP.to_vec());
        }
        protocols
    }
}

fn smaller(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
