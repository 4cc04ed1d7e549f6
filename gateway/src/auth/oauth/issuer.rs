//! One issuer: is this token one of its tokens, and who is its bearer?

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use broker_config::{Issuer as Config, Mode, UserName};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use oauth2::ClientSecret;
use serde_json::{Map, Value};

use super::claims::Claims;
use super::introspection::{Introspection, Settings};
use super::jwks::Jwks;
use super::keys::{self, Keys};
use super::login::TokenLogin;
use super::scopes::scopes;
use super::status::Status;
use super::terms::{self, Origin};
use super::token::Token;
use super::transport::Transport;
use super::{Asker, Claimed, OAuthError, TokenProblem, TokenRefusal, file};
use crate::auth::{Principal, check_user_name};
use crate::metrics::Metrics;

/// One configured issuer, with what is known of it.
pub(super) struct Issuer {
    name: Arc<str>,
    realm: Arc<str>,
    terms: [u8; 32],
    config: Config,
    algorithms: Vec<Algorithm>,
    default_roles: Vec<Arc<str>>,
    source: Source,
    status: Arc<Status>,
}

enum Source {
    Fixed(Keys),
    Published(Arc<Jwks>),
    Introspection(Arc<Introspection>),
}

impl Issuer {
    /// Reads the files that the configuration names; asks nobody yet.
    pub fn open(
        name: &str,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Issuer>, OAuthError> {
        let status = Status::new(name.into(), metrics.clone());
        let algorithms: Vec<_> = config
            .algorithms
            .iter()
            .map(|one| keys::algorithm(*one))
            .collect();
        let transport = || {
            let root = config.server_root.as_deref();
            Transport::new(name, &config.issuer, root, config.timeout)
        };
        let mut terms = terms::terms(config, &algorithms, &Origin::Server);
        let source = match config.mode {
            Mode::Introspection => {
                let settings = introspection(name, config)?;
                let (status, metrics) = (status.clone(), metrics.clone());
                Source::Introspection(Introspection::new(settings, transport()?, status, metrics))
            }
            Mode::Jwt => match (&config.keys_file, &config.secret_file) {
                (Some(path), _) => {
                    let text = file::read(name, "keys_file", path)?;
                    let unusable = |why| {
                        file::unusable(name, "keys_file", path, format!("cannot be used: {why}"))
                    };
                    terms = terms::terms(config, &algorithms, &Origin::Keys(&text));
                    Source::Fixed(Keys::from_file(&text).map_err(unusable)?)
                }
                (None, Some(path)) => {
                    let secret = file::read_secret(name, "secret_file", path)?;
                    let least = keys::secret_min(&algorithms);
                    if secret.len() < least {
                        let problem = format!(
                            "has a secret of {} bytes; these algorithms need at least {least}",
                            secret.len()
                        );
                        return Err(file::unusable(name, "secret_file", path, problem));
                    }
                    terms = terms::terms(config, &algorithms, &Origin::Secret(&secret));
                    Source::Fixed(Keys::from_secret(&secret))
                }
                (None, None) => Source::Published(Jwks::new(
                    config.issuer.clone(),
                    config.jwks_url.clone(),
                    config.keys_max_age,
                    transport()?,
                    status.clone(),
                )),
            },
        };
        Ok(Arc::new(Issuer {
            name: name.into(),
            realm: config.realm.as_deref().unwrap_or(name).into(),
            terms,
            default_roles: config
                .default_roles
                .iter()
                .map(|role| role.as_str().into())
                .collect(),
            config: config.clone(),
            algorithms,
            source,
            status,
        }))
    }

    /// Takes over what is known of the same issuer.
    pub fn adopt(&self, before: &Issuer) {
        match (&self.source, &before.source) {
            (Source::Published(jwks), Source::Published(before)) => jwks.adopt(before),
            (Source::Introspection(asked), Source::Introspection(before)) => asked.adopt(before),
            _ => {}
        }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A digest of what its logins rest on.
    pub fn terms(&self) -> &[u8; 32] {
        &self.terms
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn problem(&self) -> Option<String> {
        self.status.problem()
    }

    /// Fetches its keys before the first token comes.
    pub async fn prepare(&self) {
        if let Source::Published(jwks) = &self.source {
            jwks.refresh().await;
        }
    }

    /// The bearer of a token. `claimed`: the user name that came with it.
    pub async fn verify(
        &self,
        token: &Token,
        claimed: Claimed<'_>,
        asker: Asker,
    ) -> Result<Principal, TokenRefusal> {
        match &self.source {
            Source::Fixed(_) | Source::Published(_) => {
                let claims = self.verify_signed(token).await?;
                let login = self.login();
                Ok(self.principal(&claims, claimed, login)?)
            }
            Source::Introspection(introspection) => {
                self.ask(introspection, token, claimed, None, asker).await
            }
        }
    }

    /// The bearer of a token that was good before, as its issuer knows it now.
    pub async fn verify_again(
        &self,
        login: &TokenLogin,
        asker: Asker,
    ) -> Result<Principal, TokenRefusal> {
        let (Source::Introspection(introspection), Some(token)) = (&self.source, login.token())
        else {
            // It was taken over by other means since: nobody vouches for this token any more.
            return Err(TokenProblem::Inactive.into());
        };
        let since = login.fresh_since();
        let claimed = Claimed::Unasked;
        self.ask(introspection, token, claimed, since, asker).await
    }

    async fn ask(
        &self,
        introspection: &Arc<Introspection>,
        token: &Token,
        claimed: Claimed<'_>,
        since: Option<Instant>,
        asker: Asker,
    ) -> Result<Principal, TokenRefusal> {
        let (claims, at) = introspection.look_up(token, since, asker).await?;
        if claims
            .issuer()
            .is_some_and(|issuer| *issuer != *self.config.issuer)
        {
            return Err(TokenProblem::Issuer.into());
        }
        if self.config.checks_audience() && !claims.is_for(&self.config.audience) {
            return Err(TokenProblem::Audience.into());
        }
        let every = self.config.revalidate_every;
        let login = self.login().asked(token.clone(), at, every);
        Ok(self.principal(&claims, claimed, login)?)
    }

    /// The claims of a JWT whose signature is good and which is for us (RFC 7519, 7.2; RFC 8725, 3).
    async fn verify_signed(&self, token: &Token) -> Result<Claims, TokenRefusal> {
        let header =
            jsonwebtoken::decode_header(token.secret()).map_err(|_| TokenProblem::Algorithm)?;
        if !is_understood(&header) {
            return Err(TokenProblem::Malformed.into());
        }
        if !self.algorithms.contains(&header.alg) {
            return Err(TokenProblem::Algorithm.into());
        }
        let id = header.kid.as_deref();
        let keys = match &self.source {
            Source::Fixed(keys) => keys.candidates(header.alg, id),
            Source::Published(jwks) => jwks.candidates(header.alg, id).await?,
            Source::Introspection(_) => Vec::new(),
        };
        let mut problem = TokenProblem::UnknownKey;
        for key in keys {
            match self.decode(token, header.alg, &key) {
                Ok(claims) => return Ok(claims),
                Err(found) => problem = found,
            }
            if problem != TokenProblem::Signature {
                break;
            }
        }
        Err(problem.into())
    }

    fn decode(
        &self,
        token: &Token,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Claims, TokenProblem> {
        use jsonwebtoken::errors::ErrorKind;
        // Of one algorithm: that of the header, which was allowed, and for which the key is.
        let mut rules = Validation::new(algorithm);
        rules.leeway = self.config.clock_skew.as_secs();
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_required_spec_claims(&["exp", "iss"]);
        rules.validate_aud = self.config.checks_audience();
        if rules.validate_aud {
            rules.set_audience(&self.config.audience);
            rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        }
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(token.secret(), key, &rules);
        decoded
            .map(|decoded| Claims::new(decoded.claims))
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenProblem::Signature,
                ErrorKind::ExpiredSignature => TokenProblem::Expired,
                ErrorKind::ImmatureSignature => TokenProblem::NotYet,
                ErrorKind::InvalidIssuer => TokenProblem::Issuer,
                ErrorKind::InvalidAudience => TokenProblem::Audience,
                ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => TokenProblem::Audience,
                ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => TokenProblem::Issuer,
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidKeyFormat => {
                    TokenProblem::Algorithm
                }
                _ => TokenProblem::Malformed,
            })
    }

    fn login(&self) -> TokenLogin {
        TokenLogin::signed(self.name.clone(), self.terms)
    }

    /// Claims to a principal.
    fn principal(
        &self,
        claims: &Claims,
        claimed: Claimed<'_>,
        login: TokenLogin,
    ) -> Result<Principal, TokenProblem> {
        let config = &self.config;
        let expires_at = claims.lifetime(SystemTime::now(), config.clock_skew)?;
        let name = claims
            .text(&config.name_claim)
            .ok_or(TokenProblem::NoName)?;
        check_user_name(name).map_err(|_| TokenProblem::NoName)?;
        if config.username == UserName::Match {
            let wanted = match &config.username_claim {
                Some(claim) => claims.text(claim),
                None => Some(name),
            };
            let is_good = match claimed {
                Claimed::Name(given) => wanted == Some(given),
                Claimed::Nothing => false,
                Claimed::Unasked => true,
            };
            if !is_good {
                return Err(TokenProblem::UserName);
            }
        }
        let words = claims.words(&config.scope_claim);
        Ok(Principal {
            realm: self.realm.clone(),
            name: name.into(),
            roles: self.roles(claims).into(),
            scopes: scopes(&words, &config.scopes, &config.scope_prefix)?,
            device: None,
            account: false,
            shown: None,
            expires_at,
            certificate: None,
            token: Some(Arc::new(login)),
            anonymous: false,
        })
    }

    /// Roles that all its principals have, and those of the claim that are mapped. No other.
    fn roles(&self, claims: &Claims) -> Vec<Arc<str>> {
        let mut roles = self.default_roles.clone();
        if let Some(path) = &self.config.roles_claim {
            let claimed = claims.words(path);
            let mapped = self.config.roles.iter();
            let mapped = mapped.filter(|known| claimed.contains(&known.claimed.as_str()));
            roles.extend(mapped.map(|known| Arc::from(known.role.as_str())));
        }
        roles.sort();
        roles.dedup();
        roles
    }
}

fn introspection(name: &str, config: &Config) -> Result<Settings, OAuthError> {
    let secret = match &config.client_secret_file {
        Some(path) => file::read_secret(name, "client_secret_file", path)?,
        None => Vec::new(),
    };
    let secret = String::from_utf8(secret).map_err(|_| {
        let path = config.client_secret_file.clone().unwrap_or_default();
        file::unusable(name, "client_secret_file", &path, "is not text".to_owned())
    })?;
    Ok(Settings {
        issuer: config.issuer.clone(),
        url: config.introspection_url.clone(),
        url_max_age: config.keys_max_age,
        client_id: config.client_id.clone().unwrap_or_default(),
        client_secret: ClientSecret::new(secret),
        revalidate_every: config.revalidate_every,
        patience: config.timeout,
        requests_per_second: config.max_requests_per_second,
        answers: config.token_cache,
        claims: [&config.name_claim, &config.scope_claim]
            .into_iter()
            .chain(&config.roles_claim)
            .chain(&config.username_claim)
            .cloned()
            .collect(),
    })
}

/// Whether a header asks for nothing that we do not know (RFC 7515, 4.1.11), and is that of an access token or says nothing
/// about its kind (RFC 9068, 2.1): tokens for other purposes are none (RFC 8725, 3.11).
fn is_understood(header: &Header) -> bool {
    let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
    let kind = kind
        .as_deref()
        .map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
    header.crit.is_none() && matches!(kind, None | Some("jwt" | "at+jwt"))
}
