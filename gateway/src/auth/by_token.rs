//! The login by token: where in a CONNECT a token may be, and what it takes to come in by it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use super::authenticator::{Authenticator, Credentials, Refusal, with_certificate};
use super::oauth::{Asker, Claimed, label, looks_like_jwt};
use super::{Certificate, Principal, Token, TokenLogin, TokenProblem, TokenRefusal, Wrong};

/// A token in the user name or the password of a CONNECT, if it is one.
pub(super) struct Presented<'a> {
    bytes: &'a [u8],
    claimed: Claimed<'a>,
}

impl Authenticator {
    /// The name under which failures of these credentials are counted, and which may be logged: the user name, unless there is
    /// a token. It depends on nothing but what is presented and whether there are issuers, so that it tells nobody which
    /// names exist.
    pub fn counted_name<'a>(&self, credentials: &Credentials<'a>) -> Cow<'a, str> {
        let name = credentials.username.unwrap_or_default();
        let password = credentials.password.unwrap_or_default();
        if looks_like_jwt(name.as_bytes()) {
            return self.name_of_token(name.as_bytes()).into();
        }
        let has_issuers = self.has_issuers();
        if has_issuers && looks_like_jwt(password) {
            return self.name_of_token(password).into();
        }
        if has_issuers && password.is_empty() && !name.is_empty() {
            return label(name.as_bytes()).into();
        }
        name.into()
    }

    /// [`Self::counted_name`] of a token that comes by enhanced authentication.
    pub fn name_of_token(&self, token: &[u8]) -> String {
        let claimed = || self.issuers.get()?.label_of_jwt(token);
        let claimed = looks_like_jwt(token).then(claimed).flatten();
        claimed.unwrap_or_else(|| label(token))
    }

    /// Whether tokens are credentials here.
    pub fn has_issuers(&self) -> bool {
        self.issuers
            .get()
            .is_some_and(|issuers| !issuers.is_empty())
    }

    /// Who presents this token by enhanced authentication (MQTT 5 section 4.12)? A user name beside it is one that is claimed.
    /// `origin` as for [`Self::authenticate`]; without one it is a client that is connected. `wrong` as for
    /// [`Self::authenticate_and_tell`].
    ///
    /// # Errors
    /// As of [`Self::authenticate`]; [`Refusal::NotAuthorized`] where a client certificate has said already who this is (I2).
    pub async fn authenticate_by_token(
        &self,
        token: &[u8],
        credentials: &Credentials<'_>,
        origin: Option<IpAddr>,
        wrong: &Wrong,
    ) -> Result<Principal, Refusal> {
        let certificate = credentials.certificate;
        if certificate.is_some_and(|certificate| certificate.suffices) {
            return Err(Refusal::NotAuthorized);
        }
        let claimed = credentials.username.map_or(Claimed::Unasked, Claimed::Name);
        let principal = self.bearer(token, claimed, origin, wrong).await?;
        self.with_both(principal, certificate)
    }

    /// The bearer of the token of this login, as its issuer knows it now.
    pub async fn verify_again(
        &self,
        login: &TokenLogin,
        certificate: Option<&Arc<Certificate>>,
        asker: Asker,
    ) -> Result<Principal, Refusal> {
        let issuers = self.issuers.get().ok_or(Refusal::NotAuthorized)?;
        let principal = issuers.verify_again(login, asker).await.map_err(refusal)?;
        self.with_both(self.admit_bearer(principal)?, certificate)
    }

    /// What is wrong with issuers, in words for the operator.
    pub fn issuer_problems(&self) -> Vec<String> {
        let issuers = self.issuers.get();
        issuers.map_or(Vec::new(), |issuers| issuers.problems())
    }

    /// Whether the login of this principal may still stand by its token's issuer.
    pub fn trusts_issuer_of(&self, principal: &Principal) -> bool {
        let knows = |login: &Arc<TokenLogin>| {
            let issuers = self.issuers.get();
            issuers.is_some_and(|issuers| issuers.knows(login))
        };
        principal.token.as_ref().is_none_or(knows)
    }

    /// I2: a known user name means its password; otherwise, where there are issuers, what is presented is a token: the user
    /// name if it has the form of one or comes alone, else the password.
    pub(super) fn presented_token<'a>(
        &self,
        credentials: &Credentials<'a>,
    ) -> Option<Presented<'a>> {
        if !self.has_issuers() {
            return None;
        }
        let name = credentials.username;
        if name.is_some_and(|name| self.is_known(name)) {
            return None;
        }
        match (name, credentials.password) {
            (Some(name), password)
                if looks_like_jwt(name.as_bytes()) || password.is_none_or(<[u8]>::is_empty) =>
            {
                Some(Presented {
                    bytes: name.as_bytes(),
                    claimed: Claimed::Nothing,
                })
            }
            (name, Some(password)) => Some(Presented {
                bytes: password,
                claimed: name.map_or(Claimed::Nothing, Claimed::Name),
            }),
            _ => None,
        }
    }

    /// The token decides. A refused one costs what a wrong password costs: the name beside it may be that of a user.
    pub(super) async fn by_token(
        &self,
        presented: Presented<'_>,
        origin: Option<IpAddr>,
        wrong: &Wrong,
    ) -> Result<Principal, Refusal> {
        let Presented { bytes, claimed } = presented;
        match self.bearer(bytes, claimed, origin, wrong).await {
            Err(Refusal::Token(problem)) => {
                self.pay_in_vain(bytes, origin, wrong).await?;
                Err(Refusal::Token(problem))
            }
            other => other,
        }
    }

    /// Whether this user name selects another method than a token (I2).
    fn is_known(&self, name: &str) -> bool {
        self.users.find(name).is_some()
    }

    async fn bearer(
        &self,
        token: &[u8],
        claimed: Claimed<'_>,
        origin: Option<IpAddr>,
        wrong: &Wrong,
    ) -> Result<Principal, Refusal> {
        let issuers = self.issuers.get().ok_or(Refusal::NotAuthorized)?;
        let asker = origin.map_or(Asker::Member, Asker::Stranger);
        let verified = async {
            let token = Token::new(token).ok_or(TokenProblem::Malformed)?;
            let _asking = wrong.ask();
            issuers.verify(&token, claimed, asker).await
        };
        let admitted = verified
            .await
            .map_err(refusal)
            .and_then(|principal| self.admit_bearer(principal));
        if let Err(Refusal::Token(_)) = &admitted {
            wrong.tell();
        }
        admitted
    }

    /// A realm that is mapped to our accounts has their names, their roles and their state (I1).
    fn admit_bearer(&self, principal: Principal) -> Result<Principal, Refusal> {
        if principal.realm != self.realm {
            return Ok(principal);
        }
        let user = self.users.find(&principal.name);
        let user = user.ok_or(Refusal::Token(TokenProblem::NoAccount))?;
        let Principal {
            scopes,
            expires_at,
            token,
            ..
        } = principal;
        Ok(Principal {
            scopes,
            expires_at,
            token,
            ..self.admit(&user)?
        })
    }

    fn with_both(
        &self,
        principal: Principal,
        certificate: Option<&Arc<Certificate>>,
    ) -> Result<Principal, Refusal> {
        match certificate {
            Some(certificate) => with_certificate(principal, certificate),
            None => Ok(principal),
        }
    }
}

fn refusal(refused: TokenRefusal) -> Refusal {
    match refused {
        TokenRefusal::Token(problem) => Refusal::Token(problem),
        TokenRefusal::Unavailable => Refusal::Unavailable,
        TokenRefusal::Busy => Refusal::Busy,
    }
}

#[cfg(test)]
#[path = "by_token_tests.rs"]
mod tests;
