//! What is the CA answered when it comes to see whether a name is ours? The answers that are published
//! right now, for HTTP-01 (RFC 8555, 8.3) and TLS-ALPN-01 (RFC 8737). Listeners ask; orders publish.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, SanType};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::StartHandshake;

use super::super::{SubjectName, TlsError, server_config};
use crate::metrics::Metrics;

/// The protocol of RFC 8737.
const ACME_TLS: &[u8] = b"acme-tls/1";

/// Whether this is the CA's handshake: it offers this one protocol and nothing else.
pub(in crate::tls) fn is_validation(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none())
}

/// A validation by TLS-ALPN-01 is over, and so is its connection.
#[derive(Debug, thiserror::Error)]
#[error("the CA looked for a challenge ({outcome})")]
pub struct Answered {
    outcome: &'static str,
}

/// The answers. There are only those of orders under way: a few, and most of the time none.
pub struct Challenges {
    /// Key authorizations by token.
    http: RwLock<HashMap<String, String>>,
    tls: Arc<ByServerName>,
    config: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
}

impl Challenges {
    /// # Errors
    /// [`TlsError::Setup`] if the random number generator fails.
    pub fn new(metrics: Arc<Metrics>) -> Result<Arc<Challenges>, TlsError> {
        let tls = Arc::new(ByServerName::default());
        let mut config = ServerConfig::builder_with_provider(server_config::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(tls.clone());
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(Challenges {
            http: RwLock::default(),
            tls,
            config: Arc::new(config),
            metrics,
        }))
    }

    /// The key authorization for `GET /.well-known/acme-challenge/TOKEN`.
    pub fn http_answer(&self, token: &str) -> Option<String> {
        let answer = self.http.read().get(token).cloned();
        if answer.is_some() {
            self.metrics.acme_challenges_answered.add(1);
        }
        answer
    }

    /// Carries a handshake through that [`is_validation`] knows, and closes it (rule C2): the
    /// challenge's certificate by server name, no client certificate, no resumption. Without a
    /// challenge for the name the handshake fails, before it has cost anything. Gives an [`Answered`].
    pub(in crate::tls) async fn answer<S>(&self, start: StartHandshake<S>) -> io::Error
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let outcome = match start.into_stream(self.config.clone()).await {
            Ok(mut stream) => {
                self.metrics.acme_challenges_answered.add(1);
                // RFC 8737, 3: nothing is said on it.
                let _ = stream.shutdown().await;
                "answered"
            }
            Err(_) => "there is none for the name it asks for",
        };
        io::Error::other(Answered { outcome })
    }

    /// Answers HTTP-01 for this token until the guard is dropped.
    pub(super) fn publish_http(
        self: &Arc<Self>,
        token: &str,
        key_authorization: &str,
    ) -> Published {
        self.http
            .write()
            .insert(token.to_owned(), key_authorization.to_owned());
        Published {
            challenges: self.clone(),
            what: What::Http(token.to_owned()),
        }
    }

    /// Answers TLS-ALPN-01 for this name until the guard is dropped. `digest` is the SHA-256 of the
    /// key authorization.
    ///
    /// # Errors
    /// [`TlsError::Issue`].
    pub(super) fn publish_tls(
        self: &Arc<Self>,
        name: &SubjectName,
        digest: &[u8],
    ) -> Result<Published, TlsError> {
        let certificate = Arc::new(challenge_certificate(name, digest)?);
        let server_name = server_name(name);
        self.tls.0.write().insert(server_name.clone(), certificate);
        Ok(Published {
            challenges: self.clone(),
            what: What::Tls(server_name),
        })
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges(..)")
    }
}

/// An answer that is given while this lives.
pub struct Published {
    challenges: Arc<Challenges>,
    what: What,
}

enum What {
    Http(String),
    Tls(String),
}

impl Drop for Published {
    fn drop(&mut self) {
        match &self.what {
            What::Http(token) => drop(self.challenges.http.write().remove(token)),
            What::Tls(name) => drop(self.challenges.tls.0.write().remove(name)),
        }
    }
}

#[derive(Default)]
struct ByServerName(RwLock<HashMap<String, Arc<CertifiedKey>>>);

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.read().get(&name).cloned()
    }
}

impl fmt::Debug for ByServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByServerName(..)")
    }
}

/// Self-signed, for this name alone, with the digest in `id-pe-acmeIdentifier` (RFC 8737, 3).
fn challenge_certificate(name: &SubjectName, digest: &[u8]) -> Result<CertifiedKey, TlsError> {
    // rcgen panics on a digest of another length.
    let digest: &[u8; 32] = digest.try_into().map_err(|_| TlsError::Random)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![match name {
        SubjectName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
        SubjectName::Ip(address) => SanType::IpAddress(*address),
    }];
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let private_key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|problem| rustls::Error::General(problem.to_owned()))?;
    let signing_key = server_config::provider()
        .key_provider
        .load_private_key(private_key)?;
    // Not through rustls' checks: they refuse the critical extension, which they do not know.
    Ok(CertifiedKey::new(
        vec![certificate.der().clone()],
        signing_key,
    ))
}

/// What the CA sends as server name: for an address its name in the reverse zone (RFC 8738, 6).
fn server_name(name: &SubjectName) -> String {
    match name {
        SubjectName::Dns(name) => name.clone(),
        SubjectName::Ip(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        SubjectName::Ip(IpAddr::V6(address)) => {
            let mut text = String::with_capacity(72);
            for octet in address.octets().iter().rev() {
                text.push_str(&format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            }
            text + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_while_it_is_published_and_no_longer() {
        let challenges = Challenges::new(Arc::default()).unwrap();
        let published = challenges.publish_http("token", "token.thumb");
        assert_eq!(
            challenges.http_answer("token").as_deref(),
            Some("token.thumb")
        );
        assert_eq!(challenges.http_answer("other"), None);
        drop(published);
        assert_eq!(challenges.http_answer("token"), None);
    }

    // C2
    #[test]
    fn an_address_is_asked_for_by_its_name_in_the_reverse_zone() {
        for (name, expected) in [
            ("mqtt.example.org", "mqtt.example.org"),
            ("192.0.2.7", "7.2.0.192.in-addr.arpa"),
            (
                "2001:db8::1",
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ] {
            assert_eq!(server_name(&SubjectName::parse(name).unwrap()), expected);
        }
    }

    // C2
    #[test]
    fn a_challenge_certificate_is_there_while_it_is_published_and_names_one_subject() {
        let challenges = Challenges::new(Arc::default()).unwrap();
        let name = SubjectName::parse("192.0.2.7").unwrap();
        let published = challenges.publish_tls(&name, &[7; 32]).unwrap();
        assert_eq!(challenges.tls.0.read().len(), 1);
        let certificate = challenges.tls.0.read()["7.2.0.192.in-addr.arpa"].clone();
        let (_, x509) = x509_parser::parse_x509_certificate(&certificate.cert[0]).unwrap();
        let names = x509.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1);
        let acme = x509
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(acme.critical);
        assert_eq!(acme.value, [&[4, 32][..], &[7; 32]].concat());
        drop(published);
        assert!(challenges.tls.0.read().is_empty());
        assert!(challenges.publish_tls(&name, b"short").is_err());
    }
}
