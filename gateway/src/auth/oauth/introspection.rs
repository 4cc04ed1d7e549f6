//! Does its issuer still stand by this token? Token introspection (RFC 7662), with answers remembered for a while (I4).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenResponse, BasicTokenType,
};
use oauth2::{
    AccessToken, Client, ClientId, ClientSecret, ExtraTokenFields, HttpRequest, IntrospectionUrl,
    RequestTokenError, StandardRevocableToken, StandardTokenIntrospectionResponse,
    TokenIntrospectionResponse,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answers::Answers;
use super::claims::Claims;
use super::discovery::Endpoints;
use super::flights::{Flights, Lost};
use super::limiter::Limiter;
use super::origins::{Origins, Share};
use super::status::Status;
use super::token::Token;
use super::transport::{Failed, Transport};
use super::{Asker, TokenProblem, TokenRefusal};
use crate::metrics::Metrics;

/// Questions under way at once.
const UNDER_WAY_MAX: usize = 64;
/// How many of these places are kept for clients that are connected, whatever strangers present. Half of them may be taken
/// for clients that are away.
const UNDER_WAY_KEPT: usize = 16;
/// The part of the questions a second that is kept in the same way, and the part that is kept for all who want to be served
/// now, however many clients are away.
const KEPT_FOR_CONNECTED: f64 = 0.25;
const KEPT_FOR_PRESENT: f64 = 0.5;
/// The part that clients that are away have to themselves, whatever others want.
const FOR_ABSENT: f64 = 0.1;
/// Questions under way for logins from one address, and for all clients that are away.
const UNDER_WAY_ORIGIN_MAX: usize = 8;
/// A token that does not count will hardly count later; but it is forgotten soon, to make room.
const INACTIVE_MAX: Duration = Duration::from_secs(60);

/// The introspection endpoint of one issuer.
pub(super) struct Introspection {
    settings: Settings,
    transport: Transport,
    /// Where the issuer's description says the endpoint is, and since when that is known.
    found: ArcSwapOption<(String, Instant)>,
    limiter: Limiter,
    limiter_for_absent: Limiter,
    flights: Flights<[u8; 32], Outcome>,
    origins: Origins,
    answers: Mutex<Answers>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

pub(super) struct Settings {
    pub issuer: String,
    /// `None`: the issuer's description says it.
    pub url: Option<String>,
    /// For how long that is believed.
    pub url_max_age: Duration,
    pub client_id: String,
    pub client_secret: ClientSecret,
    pub revalidate_every: Duration,
    /// How long who is connected waits for a permit to ask.
    pub patience: Duration,
    pub requests_per_second: u32,
    /// Answers that are remembered.
    pub answers: usize,
    /// Names or paths of the claims that are asked for.
    pub claims: Vec<String>,
}

/// What an issuer said about a token, and when it was asked.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// `None`: the token does not count, or not any more.
    pub claims: Option<Arc<Claims>>,
    pub at: Instant,
}

/// `None`: it did not answer.
type Outcome = Option<Answer>;

impl Introspection {
    pub fn new(
        settings: Settings,
        transport: Transport,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
    ) -> Arc<Introspection> {
        let limiter = |part: f64| {
            let rate = f64::from(settings.requests_per_second) * part;
            Limiter::new(rate, rate.max(1.0))
        };
        Arc::new(Introspection {
            transport,
            found: ArcSwapOption::empty(),
            limiter: limiter(1.0 - FOR_ABSENT),
            limiter_for_absent: limiter(FOR_ABSENT),
            flights: Flights::new(UNDER_WAY_MAX),
            origins: Origins::new(UNDER_WAY_ORIGIN_MAX),
            answers: Mutex::new(Answers::new(settings.answers)),
            status,
            metrics,
            settings,
        })
    }

    /// Takes over where its endpoint is.
    pub fn adopt(&self, before: &Introspection) {
        self.found.store(before.found.load_full());
    }

    /// The claims of a token, asked for no earlier than `since`.
    pub async fn look_up(
        self: &Arc<Self>,
        token: &Token,
        since: Option<Instant>,
        asker: Asker,
    ) -> Result<(Arc<Claims>, Instant), TokenRefusal> {
        let digest = token.digest();
        let known = self.answers.lock().find(&digest, Instant::now());
        let known = known.filter(|known| since.is_none_or(|since| known.at >= since));
        let answer = match known {
            Some(known) => known,
            None => self.ask(token, digest, asker).await?,
        };
        match answer.claims {
            Some(claims) => Ok((claims, answer.at)),
            None => Err(TokenProblem::Inactive.into()),
        }
    }

    async fn ask(
        self: &Arc<Self>,
        token: &Token,
        digest: [u8; 32],
        asker: Asker,
    ) -> Result<Answer, TokenRefusal> {
        let patience = match asker {
            Asker::Stranger(_) | Asker::Absent => Duration::ZERO,
            Asker::Member | Asker::Gateway => self.settings.patience,
        };
        let (kept, kept_places) = match asker {
            Asker::Stranger(_) | Asker::Member => (KEPT_FOR_CONNECTED, UNDER_WAY_KEPT),
            Asker::Absent => (KEPT_FOR_PRESENT, UNDER_WAY_KEPT / 2),
            Asker::Gateway => (0.0, 0),
        };
        let (this, token) = (self.clone(), token.clone());
        let question = |wait: Duration, share: Option<Share>| async move {
            // Until the end, also of a question whose client left.
            let _share = share;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let at = Instant::now();
            this.metrics.token_lookups.add(1);
            match this.request(&token).await {
                Ok(claims) => {
                    this.status.works();
                    let answer = Answer { claims, at };
                    this.remember(digest, &answer);
                    Some(answer)
                }
                Err(Failed(why)) => {
                    this.status.fails(&why);
                    None
                }
            }
        };
        // A permit is taken only where there is a place.
        let begin = || {
            let share = match asker {
                Asker::Stranger(origin) => Some(self.origins.enter(Some(origin))?),
                Asker::Absent => Some(self.origins.enter(None)?),
                Asker::Member | Asker::Gateway => None,
            };
            let now = Instant::now();
            let wait = self.limiter.reserve(now, patience, kept);
            let wait = match asker {
                Asker::Absent => {
                    wait.or_else(|| self.limiter_for_absent.reserve(now, patience, 0.0))
                }
                _ => wait,
            };
            Some(question(wait?, share))
        };
        match self.flights.join(digest, kept_places, begin).await {
            Ok(answer) => answer.ok_or(TokenRefusal::Unavailable),
            Err(Lost::Full | Lost::NotBegun) => Err(TokenRefusal::Busy),
            Err(Lost::Died) => Err(TokenRefusal::Unavailable),
        }
    }

    fn remember(&self, digest: [u8; 32], answer: &Answer) {
        let every = self.settings.revalidate_every;
        let time = match &answer.claims {
            None => every.min(INACTIVE_MAX),
            Some(claims) if !claims.is_small() => return,
            // No longer than the token lives.
            Some(claims) => match claims.lifetime(SystemTime::now(), Duration::ZERO) {
                Ok(Some(end)) => {
                    every.min(end.duration_since(SystemTime::now()).unwrap_or_default())
                }
                Ok(None) => every,
                Err(_) => return,
            },
        };
        self.answers
            .lock()
            .insert(digest, answer.clone(), answer.at + time);
    }

    async fn request(&self, token: &Token) -> Result<Option<Arc<Claims>>, Failed> {
        let url = self.url().await?;
        let url = IntrospectionUrl::new(url)
            .map_err(|_| Failed("its introspection endpoint is no URL".to_owned()))?;
        let id = ClientId::new(self.settings.client_id.clone());
        let client: Client<
            BasicErrorResponse,
            BasicTokenResponse,
            Response,
            StandardRevocableToken,
            BasicRevocationErrorResponse,
        > = Client::new(id);
        let client = client
            .set_client_secret(self.settings.client_secret.clone())
            .set_introspection_url(url);
        let http = |request: HttpRequest| {
            let transport = self.transport.clone();
            async move {
                let uri = request.uri().clone();
                let answer = transport.exchange(request).await?;
                match answer.status().is_server_error() {
                    // What a proxy says instead of the issuer is no answer of OAuth.
                    true => Err(Failed(format!("{uri} answers with {}", answer.status()))),
                    false => Ok(answer),
                }
            }
        };
        let token = AccessToken::new(token.secret().to_owned());
        let request = client
            .introspect(&token)
            .set_token_type_hint("access_token");
        let response = request.request_async(&http).await.map_err(failed)?;
        if !response.active() {
            return Ok(None);
        }
        match serde_json::to_value(response) {
            Ok(Value::Object(claims)) => {
                let mut claims = Claims::new(claims);
                let wanted: Vec<_> = self.settings.claims.iter().map(String::as_str).collect();
                claims.keep(&wanted);
                Ok(Some(Arc::new(claims)))
            }
            _ => Err(Failed("its answer is no object".to_owned())),
        }
    }

    /// The endpoint. One that was found stays in use while the issuer's description cannot be read again.
    async fn url(&self) -> Result<String, Failed> {
        if let Some(url) = &self.settings.url {
            return Ok(url.clone());
        }
        let known = self.found.load_full();
        if let Some(known) = &known
            && known.1.elapsed() < self.settings.url_max_age
        {
            return Ok(known.0.clone());
        }
        let issuer = &self.settings.issuer;
        let found = match Endpoints::fetch(&self.transport, issuer).await {
            Ok(found) => found.introspection_endpoint,
            Err(error) => return known.map(|known| known.0.clone()).ok_or(error),
        };
        let missing = || {
            Failed(format!(
                "{issuer} publishes no introspection_endpoint: set introspection_url"
            ))
        };
        let url = found.ok_or_else(missing)?;
        self.found
            .store(Some(Arc::new((url.clone(), Instant::now()))));
        Ok(url)
    }
}

type Response = StandardTokenIntrospectionResponse<Extra, BasicTokenType>;

/// Claims beside those that RFC 7662 names.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Extra(Map<String, Value>);

impl ExtraTokenFields for Extra {}

/// What went wrong, without what the issuer said in words of its own: it was told the token.
fn failed(error: RequestTokenError<Failed, BasicErrorResponse>) -> Failed {
    match error {
        RequestTokenError::Request(error) => error,
        RequestTokenError::ServerResponse(response) => {
            let code: String = response.error().as_ref().chars().take(64).collect();
            Failed(format!(
                "it refuses to answer ({code:?}): check client_id and client_secret_file"
            ))
        }
        RequestTokenError::Parse(..) => Failed("its answer is not that of RFC 7662".to_owned()),
        RequestTokenError::Other(why) => Failed(why),
    }
}
