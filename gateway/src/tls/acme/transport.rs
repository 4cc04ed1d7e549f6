//! How are the CA's answers fetched? HTTPS with a deadline and a bound on every answer, and a note of
//! two header fields that the ACME library does not pass on: `Retry-After` and `Date`.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};

use super::super::{TlsError, pem, server_config};
use super::AcmeError;
use crate::causes::with_causes;

/// One exchange, from connecting to the last octet.
const DEADLINE: Duration = Duration::from_secs(30);
/// A chain or an order is a few KB.
const ANSWER_MAX: usize = 1 << 20;
/// The longest pause that a CA is believed to want. The library adds what it says to the time, and
/// dies where that is more than time can be.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);
const AGENT: &str = concat!("postern/", env!("CARGO_PKG_VERSION"));

/// A client for one CA. Cheap to clone; clones share what was noted.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    notes: Arc<Mutex<Notes>>,
}

/// What the CA said beside its answers.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Notes {
    /// Of the last answer that was a refusal (RFC 9110, 10.2.3).
    pub retry_after: Option<SystemTime>,
    /// How far the CA's clock is ahead of ours, in seconds; negative if ours is ahead.
    pub clock_ahead: Option<i64>,
}

impl Transport {
    /// `root`: PEM file of the only roots to trust; `None`: the system's. Does file I/O.
    pub fn new(root: Option<&Path>) -> Result<Transport, AcmeError> {
        let config = ClientConfig::builder_with_provider(server_config::provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::from)?;
        let connector = match root {
            Some(path) => {
                let roots = roots(path)?;
                HttpsConnectorBuilder::new()
                    .with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
            }
            None => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(server_config::provider())
                .map_err(|error| AcmeError::Unreachable {
                    directory: "any address".to_owned(),
                    cause: format!(
                        "the system has no root certificates ({error}); install ca-certificates, or \
                         set acme.directory_root"
                    ),
                })?,
        };
        let connector = connector.https_only().enable_http1().build();
        Ok(Transport {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(1)
                .build(connector),
            notes: Arc::default(),
        })
    }

    pub fn notes(&self) -> Notes {
        *self.notes.lock()
    }

    /// A plain GET.
    pub async fn get(&self, url: &str) -> Result<Bytes, AcmeError> {
        let failed = |cause: String| AcmeError::Unreachable {
            directory: url.to_owned(),
            cause,
        };
        let request = Request::get(url)
            .body(BodyWrapper::default())
            .map_err(|error| failed(error.to_string()))?;
        let answer = self
            .exchange(request)
            .await
            .map_err(|error| failed(with_causes(&*error)))?;
        let (parts, body) = answer.into_parts();
        if !parts.status.is_success() {
            return Err(failed(format!("it answers with {}", parts.status)));
        }
        let body = body
            .collect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(body.to_bytes())
    }

    async fn exchange(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        let agent = request
            .headers()
            .get(USER_AGENT)
            .and_then(|library| library.to_str().ok())
            .map_or_else(|| AGENT.to_owned(), |library| format!("{AGENT} {library}"));
        if let Ok(agent) = HeaderValue::from_str(&agent) {
            request.headers_mut().insert(USER_AGENT, agent);
        }
        let answer = tokio::time::timeout(DEADLINE, async {
            let (mut parts, body) = self.client.request(request).await?.into_parts();
            bound_retry_after(&mut parts.headers, SystemTime::now());
            let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
            Ok::<_, Failure>(Response::from_parts(parts, Full::new(body)))
        })
        .await
        .map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))??;
        self.note(answer.status(), answer.headers());
        Ok(answer)
    }

    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        let now = SystemTime::now();
        let mut notes = self.notes.lock();
        if let Some(date) = http_date(headers, &DATE) {
            notes.clock_ahead = Some(seconds_from(now, date));
        }
        if status.is_client_error() || status.is_server_error() {
            notes.retry_after = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok())
                .and_then(|seconds| now.checked_add(Duration::from_secs(seconds)))
                .or_else(|| http_date(headers, &RETRY_AFTER));
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            match this.exchange(request).await {
                Ok(answer) => Ok(BytesResponse::from(answer)),
                Err(error) => Err(instant_acme::Error::Other(with_causes(&*error).into())),
            }
        })
    }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    const REMEDY: &str =
        "put the CA's root certificates there in PEM, or remove acme.directory_root";
    let mut roots = RootCertStore::empty();
    for certificate in pem::read_certificates(path, REMEDY)? {
        roots.add(certificate).map_err(|error| TlsError::Damaged {
            path: path.to_owned(),
            problem: format!("not a root certificate ({error})"),
            remedy: REMEDY,
        })?;
    }
    Ok(roots)
}

/// Cuts what `Retry-After` (RFC 9110, 10.2.3) asks for to [`PAUSE_MAX`].
fn bound_retry_after(headers: &mut HeaderMap, now: SystemTime) {
    let Some(Ok(text)) = headers.get(RETRY_AFTER).map(HeaderValue::to_str) else {
        return;
    };
    let text = text.trim();
    let number = text.strip_prefix('+').unwrap_or(text);
    let over = match number.is_empty() || number.bytes().any(|b| !b.is_ascii_digit()) {
        // More digits than a u64 has are a long time, too.
        false => number.parse().unwrap_or(u64::MAX) > PAUSE_MAX.as_secs(),
        true => http_date(headers, &RETRY_AFTER).is_some_and(|date| date > now + PAUSE_MAX),
    };
    if over {
        headers.insert(RETRY_AFTER, HeaderValue::from(PAUSE_MAX.as_secs()));
    }
}

fn http_date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let text = headers.get(name)?.to_str().ok()?;
    httpdate::HttpDate::from_str(text)
        .ok()
        .map(SystemTime::from)
}

fn seconds_from(one: SystemTime, other: SystemTime) -> i64 {
    match other.duration_since(one) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
        Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_may_ask_for_a_week_and_for_no_pause_that_time_cannot_hold() {
        for (said, heard) in [
            ("120", "120"),
            ("604800", "604800"),
            ("604801", "604800"),
            ("18446744073709551615", "604800"),
            ("+18446744073709551615", "604800"),
            ("99999999999999999999999999", "604800"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "604800"),
            (
                "Thu, 01 Jan 1970 00:00:00 GMT",
                "Thu, 01 Jan 1970 00:00:00 GMT",
            ),
            ("soon", "soon"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(said));
            bound_retry_after(&mut headers, SystemTime::now());
            assert_eq!(headers[RETRY_AFTER], heard, "{said}");
        }
    }
}
