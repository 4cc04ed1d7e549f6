//! Whose token is this, and does it count? Access tokens of configured issuers as credentials (RFC 6749, 6750, 7519, 7662).
//!
//! A token belongs to exactly one issuer: a JWT says whose it is, and every other token is for the one issuer that is asked
//! about tokens (I2). An issuer that is configured for signatures never trusts anything but keys: its own published ones, a
//! file, or a shared secret; a token chooses neither the algorithm nor the kind of key. Where a token comes from in a CONNECT
//! is `authenticator`'s business, and what follows from its end `session`'s. No token appears in a log, an error or a metric.

mod answers;
mod claims;
mod discovery;
mod file;
mod flights;
mod introspection;
mod issuer;
mod jwks;
mod keys;
mod limiter;
mod login;
mod origins;
mod scopes;
mod status;
mod terms;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod token;
mod transport;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use login::{Next, TokenLogin};
pub use token::Token;
pub(super) use token::{label, looks_like_jwt};

use super::Principal;
use crate::metrics::Metrics;
use claims::Claims;
use issuer::Issuer;

/// Why an issuer of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OAuthError {
    #[error("oauth.{name}.{key}: {} {problem}", path.display())]
    File {
        name: String,
        key: &'static str,
        path: PathBuf,
        problem: String,
    },
    #[error("oauth.{name}: no TLS to its server: {cause}")]
    Tls { name: String, cause: String },
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub enum TokenProblem {
    Malformed,
    Algorithm,
    UnknownKey,
    Signature,
    Issuer,
    Audience,
    Expired,
    NotYet,
    Inactive,
    NoName,
    UserName,
    TooMany,
    NoAccount,
}

impl TokenProblem {
    /// In words, without anything of the token.
    pub fn words(self) -> &'static str {
        match self {
            TokenProblem::Malformed => "the token cannot be understood",
            TokenProblem::Algorithm => "the token is not signed by an algorithm that is allowed",
            TokenProblem::UnknownKey => {
                "the token is signed by a key that its issuer does not publish"
            }
            TokenProblem::Signature => "the signature of the token is wrong",
            TokenProblem::Issuer => "the token is of no issuer that is trusted",
            TokenProblem::Audience => "the token is not for this gateway (aud)",
            TokenProblem::Expired => "the token has expired",
            TokenProblem::NotYet => "the token does not count yet (nbf)",
            TokenProblem::Inactive => "the issuer does not stand by the token",
            TokenProblem::NoName => "the token names nobody, or has a name that cannot be used",
            TokenProblem::UserName => "the user name is not the one in the token",
            TokenProblem::TooMany => {
                "the token has more scopes than are looked at (128, of 16 KiB together)"
            }
            TokenProblem::NoAccount => "the token names no account here",
        }
    }
}

/// Why a token does not let its bearer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRefusal {
    Token(TokenProblem),
    /// Its issuer does not answer.
    Unavailable,
    /// Too many questions to its issuer at once.
    Busy,
}

impl From<TokenProblem> for TokenRefusal {
    fn from(problem: TokenProblem) -> Self {
        TokenRefusal::Token(problem)
    }
}

/// The user name that came with a token.
#[derive(Debug, Clone, Copy)]
pub enum Claimed<'a> {
    Name(&'a str),
    /// There is none, or the token is there.
    Nothing,
    /// A user name is not expected.
    Unasked,
}

/// On whose behalf an issuer is asked about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody at this address, or in this network, who wants to log in: asked now or not at all.
    Stranger(IpAddr),
    /// A client that is connected, about another token: may wait for its turn.
    Member,
    /// The gateway, about a login whose client is away: asked now or not at all, and behind all others but for a small share.
    Absent,
    /// The gateway, about a client that is connected: comes before all others.
    Gateway,
}

/// The issuers whose tokens are credentials.
pub struct Issuers {
    all: ArcSwap<Vec<Arc<Issuer>>>,
    metrics: Arc<Metrics>,
}

/// Issuers of a new configuration that can be put in force.
pub struct Prepared(Vec<Arc<Issuer>>);

type Config = BTreeMap<String, broker_config::Issuer>;

impl Issuers {
    /// Reads the files that the configuration names; asks no issuer yet. Does file I/O.
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<Issuers>, OAuthError> {
        let issuers = Issuers {
            all: ArcSwap::default(),
            metrics,
        };
        let prepared = issuers.prepare(config)?;
        issuers.all.store(Arc::new(prepared.0));
        Ok(Arc::new(issuers))
    }

    /// What a new configuration needs, and nothing of it in force. Does file I/O: files of an issuer that did not change are
    /// read again, but its published keys stay.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, OAuthError> {
        let now = self.all.load();
        let issuer = |(name, config): (&String, &broker_config::Issuer)| {
            let same = now
                .iter()
                .find(|one| **one.name() == **name && one.config() == config);
            let has_files = config.keys_file.is_some()
                || config.secret_file.is_some()
                || config.server_root.is_some()
                || config.client_secret_file.is_some();
            match same {
                Some(same) if !has_files => Ok(same.clone()),
                Some(same) => {
                    let issuer = Issuer::open(name, config, &self.metrics)?;
                    issuer.adopt(same);
                    Ok(issuer)
                }
                None => Issuer::open(name, config, &self.metrics),
            }
        };
        let all = config.iter().map(issuer).collect::<Result<_, _>>()?;
        Ok(Prepared(all))
    }

    pub fn install(&self, prepared: Prepared) {
        self.all.store(Arc::new(prepared.0));
    }

    /// Fetches what is published, so that the first login need not wait for it.
    pub async fn warm_up(self: Arc<Self>) {
        for issuer in self.all.load_full().iter() {
            issuer.prepare().await;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.load().is_empty()
    }

    /// Whether a login by a token of its issuer may go on: the issuer is there, and still the same one.
    pub fn knows(&self, login: &TokenLogin) -> bool {
        let all = self.all.load();
        let issuer = all.iter().find(|one| one.name() == login.issuer());
        issuer.is_some_and(|issuer| issuer.terms() == login.terms())
    }

    /// In words for the operator.
    pub fn problems(&self) -> Vec<String> {
        self.all
            .load()
            .iter()
            .filter_map(|one| one.problem())
            .collect()
    }

    /// The bearer of a token.
    pub async fn verify(
        &self,
        token: &Token,
        claimed: Claimed<'_>,
        asker: Asker,
    ) -> Result<Principal, TokenRefusal> {
        let verified = match self.issuer_of(token) {
            Some(issuer) => issuer.verify(token, claimed, asker).await,
            None => Err(TokenProblem::Issuer.into()),
        };
        match verified {
            Ok(_) => self.metrics.tokens_verified.add(1),
            Err(_) => self.metrics.tokens_refused.add(1),
        }
        verified
    }

    /// The bearer of the token of this login, asked for again.
    pub async fn verify_again(
        &self,
        login: &TokenLogin,
        asker: Asker,
    ) -> Result<Principal, TokenRefusal> {
        let all = self.all.load_full();
        match all.iter().find(|one| one.name() == login.issuer()) {
            Some(issuer) => issuer.verify_again(login, asker).await,
            None => Err(TokenProblem::Issuer.into()),
        }
    }

    /// What stands for a JWT where failures are counted: a digest of the issuer and the name that it claims, so that a fresh token
    /// of the same bearer is no stranger's. Nothing of it is believed; it is worth what a user name is worth that is claimed.
    /// `None`: it claims neither.
    pub(super) fn label_of_jwt(&self, token: &[u8]) -> Option<String> {
        let claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        let claims = Claims::new(claims);
        let issuer = claims.issuer()?.as_str()?;
        let all = self.all.load();
        let known = all.iter().find(|one| one.config().issuer == issuer);
        let name = known.map_or("sub", |known| &known.config().name_claim);
        let claimed = serde_json::to_vec(&(issuer, claims.text(name)?)).ok()?;
        Some(label(&claimed))
    }

    fn issuer_of(&self, token: &Token) -> Option<Arc<Issuer>> {
        use broker_config::Mode;
        let all = self.all.load();
        if !token.is_jwt() {
            let asks = |one: &&Arc<Issuer>| one.config().mode == Mode::Introspection;
            return all.iter().find(asks).cloned();
        }
        #[derive(serde::Deserialize)]
        struct Says {
            iss: String,
        }
        // Not believed: whoever it says must prove it by its keys.
        let says: Says = jsonwebtoken::dangerous::insecure_decode_claims(token.secret()).ok()?;
        all.iter()
            .find(|one| one.config().issuer == says.iss)
            .cloned()
    }
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all.load();
        f.debug_list()
            .entries(all.iter().map(|one| one.name()))
            .finish()
    }
}
