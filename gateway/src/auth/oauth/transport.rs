//! How is an issuer's server asked? HTTPS, or HTTP on loopback, with a deadline and a bound on every answer. Redirects are
//! not followed: an issuer says itself where its endpoints are.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{OAuthError, file};
use crate::causes::with_causes;

/// A set of keys or a list of endpoints is a few KB.
const ANSWER_MAX: usize = 512 * 1024;
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

/// A client for one issuer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    /// The issuer itself is asked without TLS, on loopback.
    plain: bool,
}

/// Why there is no answer, in words without anything that was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct Failed(pub String);

impl Transport {
    /// `root`: PEM file of the only roots to trust; `None`: the system's. Does file I/O. Connections without TLS are only for
    /// an issuer whose own URL, `issuer`, is without.
    pub fn new(
        name: &str,
        issuer: &str,
        root: Option<&Path>,
        timeout: Duration,
    ) -> Result<Transport, OAuthError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let unusable = |cause: String| OAuthError::Tls {
            name: name.to_owned(),
            cause,
        };
        let connector = match root {
            Some(path) => {
                let config = ClientConfig::builder_with_provider(provider.into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| unusable(error.to_string()))?;
                let roots = roots(name, path)?;
                HttpsConnectorBuilder::new()
                    .with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
            }
            None => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .map_err(|error| {
                    unusable(format!(
                        "the system has no root certificates ({error}); install ca-certificates, or set server_root"
                    ))
                })?,
        };
        let plain = issuer.starts_with("http://");
        let connector = connector.https_or_http().enable_http1().build();
        Ok(Transport {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(4)
                .build(connector),
            timeout,
            plain,
        })
    }

    /// A plain GET of JSON.
    pub async fn get(&self, url: &str) -> Result<Bytes, Failed> {
        let request = Request::get(url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Vec::new())
            .map_err(|error| Failed(format!("{url}: {error}")))?;
        let answer = self.exchange(request).await?;
        match answer.status().is_success() {
            true => Ok(answer.into_body().into()),
            false => Err(Failed(format!("{url} answers with {}", answer.status()))),
        }
    }

    pub async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Failed> {
        let uri = request.uri().clone();
        self.check(&uri)?;
        let mut request = request.map(|body| Full::new(Bytes::from(body)));
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let exchange = async {
            let (parts, body) = self.client.request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::from_parts(
                parts,
                body.into(),
            ))
        };
        // Of the URL, what the operator configured or the issuer published: never what a client sent.
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failed(format!("{uri}: {}", with_causes(&*error)))),
            Err(_) => Err(Failed(format!(
                "{uri}: no answer within {:?}",
                self.timeout
            ))),
        }
    }

    /// What an issuer publishes may not lead from TLS to plain text, nor a remote issuer to this machine.
    fn check(&self, uri: &Uri) -> Result<(), Failed> {
        let is_loopback = uri.host().is_some_and(|host| {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let address = bare.parse::<std::net::IpAddr>();
            address.map_or(host == "localhost", |address| address.is_loopback())
        });
        match uri.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if self.plain && is_loopback => Ok(()),
            _ => Err(Failed(format!("{uri} is not an https URL"))),
        }
    }
}

fn roots(name: &str, path: &Path) -> Result<RootCertStore, OAuthError> {
    let text = file::read(name, "server_root", path)?;
    let unusable = |problem: String| OAuthError::File {
        name: name.to_owned(),
        key: "server_root",
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| unusable(format!("is not PEM ({error})")))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(format!("has what is no root certificate ({error})")))?;
    }
    match roots.is_empty() {
        true => Err(unusable("has no certificate".to_owned())),
        false => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_issuer_publishes_cannot_lead_to_plain_text_or_to_this_machine() {
        let root = crate::auth::oauth::testing::root_file();
        let transport = |issuer: &str| {
            Transport::new("home", issuer, Some(root.path()), Duration::from_secs(1)).unwrap()
        };
        let check =
            |issuer: &str, url: &str| transport(issuer).check(&url.parse().unwrap()).is_ok();
        assert!(check("https://id.example", "https://keys.example/jwks"));
        assert!(check("http://127.0.0.1:1", "http://127.0.0.1:2/jwks"));
        assert!(check("http://[::1]:1", "http://[::1]:2/jwks"));
        for (issuer, url) in [
            ("https://id.example", "http://id.example/jwks"),
            ("https://id.example", "http://127.0.0.1/jwks"),
            ("http://127.0.0.1:1", "http://id.example/jwks"),
            ("http://127.0.0.1:1", "ftp://127.0.0.1/jwks"),
            ("http://127.0.0.1:1", "/jwks"),
        ] {
            assert!(!check(issuer, url), "{issuer} {url}");
        }
    }
}
