//! Which keys does an issuer sign with at the moment? Its JWK Set, cached: fetched again when it is old or a token names a key
//! that is not in it, not too often, once for all who wait, and kept while the issuer does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::{Algorithm, DecodingKey};

use super::discovery::Endpoints;
use super::flights::Flights;
use super::keys::Keys;
use super::limiter::Limiter;
use super::status::Status;
use super::transport::{Failed, Transport};
use super::{TokenProblem, TokenRefusal};

/// Tokens with made-up key names must not keep an issuer busy: one fetch in ten seconds, and some more now and then.
const FETCHES_PER_SECOND: f64 = 0.1;
const FETCHES_BURST: f64 = 5.0;

/// The published keys of one issuer.
pub(super) struct Jwks {
    issuer: String,
    /// `None`: the issuer's description says it.
    url: Option<String>,
    max_age: Duration,
    transport: Transport,
    known: ArcSwapOption<Known>,
    limiter: Limiter,
    flights: Flights<(), ()>,
    status: Arc<Status>,
}

struct Known {
    keys: Keys,
    at: Instant,
}

impl Jwks {
    pub fn new(
        issuer: String,
        url: Option<String>,
        max_age: Duration,
        transport: Transport,
        status: Arc<Status>,
    ) -> Arc<Jwks> {
        Arc::new(Jwks {
            issuer,
            url,
            max_age,
            transport,
            known: ArcSwapOption::empty(),
            limiter: Limiter::new(FETCHES_PER_SECOND, FETCHES_BURST),
            flights: Flights::new(1),
            status,
        })
    }

    /// Takes over the keys: an issuer that is down at a reload is still known.
    pub fn adopt(&self, before: &Jwks) {
        self.known.store(before.known.load_full());
    }

    /// The keys that may have signed with `algorithm`, under the name `id` if the token says one.
    pub async fn candidates(
        self: &Arc<Self>,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Vec<DecodingKey>, TokenRefusal> {
        if let Some(known) = self.known.load_full() {
            let found = known.keys.candidates(algorithm, id);
            if !found.is_empty() {
                if known.at.elapsed() >= self.max_age {
                    // The login does not wait for it.
                    let this = self.clone();
                    tokio::spawn(async move { this.refresh().await });
                }
                return Ok(found);
            }
        }
        self.refresh().await;
        match self.known.load_full() {
            None => Err(TokenRefusal::Unavailable),
            Some(known) => match known.keys.candidates(algorithm, id) {
                // It may have a new key that it cannot tell us of.
                found if found.is_empty() && self.status.is_failing() => {
                    Err(TokenRefusal::Unavailable)
                }
                found if found.is_empty() => Err(TokenProblem::UnknownKey.into()),
                found => Ok(found),
            },
        }
    }

    /// Fetches the keys, unless that was done too often; who comes while that goes on waits for it.
    pub async fn refresh(self: &Arc<Self>) {
        let this = self.clone();
        let fetch = async move {
            let fetched = this.fetch().await;
            match fetched {
                Ok(keys) => {
                    let at = Instant::now();
                    this.known.store(Some(Arc::new(Known { keys, at })));
                    this.status.works();
                }
                Err(Failed(why)) => this.status.fails(&why),
            }
        };
        let begin = || self.limiter.take(Instant::now()).then_some(fetch);
        // Whatever came of it, the keys tell.
        let _ = self.flights.join((), 0, begin).await;
    }

    async fn fetch(&self) -> Result<Keys, Failed> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None => {
                let found = Endpoints::fetch(&self.transport, &self.issuer).await?;
                let missing = || Failed(format!("{} publishes no jwks_uri", self.issuer));
                found.jwks_uri.ok_or_else(missing)?
            }
        };
        let text = self.transport.get(&url).await?;
        Keys::from_set(&text).map_err(|why| Failed(format!("{url}: {why}")))
    }
}
