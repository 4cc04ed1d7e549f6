//! The login: from what a CONNECT presents to a principal or a refusal.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use super::cache::PasswordCache;
use super::password;
use super::pool::{Overflow, Pool, Vain, Wrong};
use super::{
    AuthError, Certificate, Issuers, LOCAL_REALM, Principal, SecretKey, TokenProblem, Upgrade,
    Upgrades, Users, check_user_name, imported,
};
use crate::mqtt::ReasonCode;
use crate::store::{Credential, User};

/// What a CONNECT presents (MQTT 5.0 sections 3.1.3.5 and 3.1.3.6).
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    /// A client certificate, verified.
    pub certificate: Option<&'a Arc<Certificate>>,
}

/// Why a client is not let in. What it is told is in [`Self::reason_code`]; what is logged is this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("unknown user name or wrong password")]
    BadCredentials,
    #[error("no credentials, and anonymous clients are not allowed")]
    NotAuthorized,
    #[error("the user name is not the one in the client certificate, or that name cannot be used")]
    OtherName,
    #[error("the account is disabled")]
    Banned,
    #[error("too many logins wait to be looked at")]
    Busy,
    #[error(transparent)]
    Token(TokenProblem),
    #[error("the issuer that would have to vouch for the token does not answer")]
    Unavailable,
}

impl Refusal {
    /// What a client may be told that has no user name which these words could say something about.
    pub fn words(self) -> &'static str {
        match self {
            Refusal::BadCredentials => "wrong user name or password",
            Refusal::OtherName => "the user name is not the one in the client certificate",
            Refusal::NotAuthorized => "not allowed to connect",
            Refusal::Banned => "the account is disabled",
            Refusal::Busy => "too many logins at once, try again",
            Refusal::Token(problem) => problem.words(),
            Refusal::Unavailable => "the issuer of the token does not answer, try again",
        }
    }

    /// The CONNACK reason code (MQTT 5.0 section 3.2.2.2).
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Refusal::BadCredentials | Refusal::OtherName | Refusal::Token(_) => {
                ReasonCode::BadUserNameOrPassword
            }
            Refusal::Unavailable => ReasonCode::ServerUnavailable,
            Refusal::NotAuthorized => ReasonCode::NotAuthorized,
            Refusal::Busy => ReasonCode::ServerBusy,
            Refusal::Banned => ReasonCode::Banned,
        }
    }
}

/// What of the configuration concerns logins. All of it can change while clients are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether a client that presents neither user name nor password is let in (I5).
    pub allow_anonymous: bool,
    /// The role such a client has.
    pub anonymous_role: Arc<str>,
    /// Threads that hash passwords, 19 MiB each while they work; 0: one per core.
    pub password_slots: usize,
    /// Logins that may wait for such a thread.
    pub password_queue: usize,
    /// Names whose last verified password is remembered.
    pub password_cache: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            allow_anonymous: false,
            anonymous_role: "anonymous".into(),
            password_slots: 0,
            password_queue: 500,
            password_cache: 10_000,
        }
    }
}

/// Verifies credentials against the users in memory.
pub struct Authenticator {
    pub(super) users: Arc<Users>,
    key: Arc<SecretKey>,
    cache: Arc<PasswordCache>,
    pool: Pool,
    settings: ArcSwap<Settings>,
    pub(super) issuers: OnceLock<Arc<Issuers>>,
    /// Hashed against when there is nothing else to hash against.
    decoy: Arc<str>,
    pub(super) realm: Arc<str>,
    upgrades: OnceLock<Arc<dyn Upgrades>>,
    /// Whose imported hashes are being replaced: once for each, however many of them log in.
    replacing: Arc<Mutex<HashSet<Arc<str>>>>,
    /// What their hashes were replaced by, by name: as many as there were accounts with imported hashes.
    replaced: Arc<Mutex<HashMap<Arc<str>, Arc<str>>>>,
}

impl Authenticator {
    pub fn new(
        users: Arc<Users>,
        key: Arc<SecretKey>,
        settings: Settings,
    ) -> Result<Self, AuthError> {
        Ok(Authenticator {
            users,
            key,
            cache: Arc::new(PasswordCache::new(settings.password_cache)?),
            pool: Pool::new(settings.password_slots, settings.password_queue)?,
            settings: ArcSwap::from_pointee(settings),
            issuers: OnceLock::new(),
            decoy: password::decoy()?.into(),
            realm: LOCAL_REALM.into(),
            upgrades: OnceLock::new(),
            replacing: Arc::default(),
            replaced: Arc::default(),
        })
    }

    /// Says who stores the hashes that replace imported ones. The first one stays.
    pub fn attach_upgrades(&self, upgrades: Arc<dyn Upgrades>) {
        let _ = self.upgrades.set(upgrades);
    }

    /// The users that logins read.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Says whose tokens are credentials. The first one stays.
    pub fn attach_issuers(&self, issuers: Arc<Issuers>) {
        let _ = self.issuers.set(issuers);
    }

    /// Takes new settings over; logins under way finish by the old ones.
    pub fn apply(&self, settings: Settings) -> Result<(), AuthError> {
        self.pool
            .resize(settings.password_slots, settings.password_queue)?;
        self.cache.resize(settings.password_cache);
        self.settings.store(Arc::new(settings));
        Ok(())
    }

    /// Who presents these credentials? May wait for a place in the hashing pool; that wait should not count against
    /// the client's CONNECT deadline (I3). The principal's account may change the moment this returns: ask
    /// [`Self::is_current`] once the session is where a change would reach it.
    ///
    /// Origins take turns in the pool; `None` is one of them.
    pub async fn authenticate(
        &self,
        credentials: Credentials<'_>,
        origin: Option<IpAddr>,
    ) -> Result<Principal, Refusal> {
        let wrong = Wrong::default();
        self.authenticate_and_tell(credentials, origin, &wrong)
            .await
    }

    /// [`Self::authenticate`]; `wrong` is told of a wrong password before the answer is due: a guess counts although its
    /// client does not wait for the answer.
    pub async fn authenticate_and_tell(
        &self,
        credentials: Credentials<'_>,
        origin: Option<IpAddr>,
        wrong: &Wrong,
    ) -> Result<Principal, Refusal> {
        let Some(certificate) = credentials.certificate else {
            return self.by_password(credentials, origin, true, wrong).await;
        };
        if certificate.suffices {
            return self.by_certificate(certificate, credentials.username);
        }
        let principal = self.by_password(credentials, origin, false, wrong).await?;
        with_certificate(principal, certificate)
    }

    /// The password decides, or that there is none.
    async fn by_password(
        &self,
        credentials: Credentials<'_>,
        origin: Option<IpAddr>,
        may_be_anonymous: bool,
        wrong: &Wrong,
    ) -> Result<Principal, Refusal> {
        if let Some(presented) = self.presented_token(&credentials) {
            return self.by_token(presented, origin, wrong).await;
        }
        let (name, password) = match (credentials.username, credentials.password) {
            (None, None) if may_be_anonymous => return self.anonymous(),
            (None, None) => return Err(Refusal::NotAuthorized),
            (Some(name), Some(password)) => (name, password),
            // A name without a password, or a password without a name: the answer tells nothing about any account. A name
            // that is not known is a token where there are issuers, and costs something (I2).
            _ => {
                if self.has_issuers() {
                    self.pay_in_vain(&[], origin, wrong).await?;
                }
                return Err(Refusal::BadCredentials);
            }
        };
        let mut user = self.users.find(name);
        loop {
            if let Some(user) = &user
                && self.is_proven_fast(user, password)
            {
                return self.admit_shown(user);
            }
            let phc = match user.as_deref().map(|user| &user.credential) {
                Some(Credential::Chosen(phc)) => phc,
                _ => &self.decoy,
            };
            // All of it is one job: an answer says whether there was room, or whether the password was right.
            let vain = Vain {
                efforts: self.users.efforts(),
                decoy: self.decoy.clone(),
                wrong: wrong.clone(),
            };
            let verified = self
                .pool
                .verify(origin, password, phc.clone(), vain)
                .await
                .map_err(|Overflow| Refusal::Busy)?;
            if !verified {
                return Err(Refusal::BadCredentials);
            }
            // The user may have changed while this waited (I3). A decoy never verifies.
            let now = self.users.find(name);
            match (&user, &now) {
                (Some(before), Some(now)) if now.credential == before.credential => {
                    self.cache.remember(&now.name, phc, password);
                    if imported::is_imported(phc) {
                        self.replace(now, phc, password, origin);
                    }
                    return self.admit_shown(now);
                }
                // Another login of the same user may have had the hash replaced: asked again, of one of ours.
                (Some(_), Some(_)) if imported::is_imported(phc) => user = now,
                _ => return Err(Refusal::BadCredentials),
            }
        }
    }

    /// Has a hash of ours made of a password whose hash was imported. The login does not wait for it; if there is no room
    /// for it, the next login will do.
    fn replace(&self, user: &User, phc: &Arc<str>, password: &[u8], origin: Option<IpAddr>) {
        let Some(upgrades) = self.upgrades.get().cloned() else {
            return;
        };
        let name = user.name.clone();
        let Some(replacing) = Replacing::begin(&self.replacing, name.clone()) else {
            return;
        };
        let (imported, cache) = (phc.clone(), self.cache.clone());
        let replaced = self.replaced.clone();
        let secret: Box<[u8]> = password.into();
        self.pool.replace(origin, password, move |own| {
            cache.remember(&name, &own, &secret);
            let own: Arc<str> = own.into();
            replaced.lock().insert(name.clone(), own.clone());
            upgrades.upgrade(Upgrade {
                name,
                imported,
                own,
            });
            drop(replacing);
        });
    }

    /// Whether a principal that was let in would be let in now, with the same roles. To be asked after the session is
    /// registered: a change between login and registration reaches nobody else.
    pub fn is_current(&self, principal: &Principal) -> bool {
        if principal.anonymous {
            let settings = self.settings.load();
            return settings.allow_anonymous
                && *principal.roles == [settings.anonymous_role.clone()];
        }
        self.trusts_issuer_of(principal) && self.has_account(principal)
    }

    /// The part of [`Self::is_current`] that is about what we have of the principal ourselves.
    fn has_account(&self, principal: &Principal) -> bool {
        if principal.realm != self.realm {
            return true;
        }
        match self.users.find(&principal.name) {
            Some(user) => {
                !user.disabled
                    && user.roles == principal.roles
                    && user.device_id() == principal.device.as_ref()
                    && principal
                        .shown
                        .as_ref()
                        .is_none_or(|shown| self.is_still_good(shown, &user.credential))
            }
            // Somebody may have removed the account meanwhile, and its roles with it.
            None => needs_no_account(principal),
        }
    }

    /// Whether what was shown for the credential of that time is as good now. An imported hash may have become one of ours
    /// meanwhile, of the same password.
    fn is_still_good(&self, shown: &User, now: &Credential) -> bool {
        let is_ours = || match (&shown.credential, now) {
            (Credential::Chosen(before), Credential::Chosen(now))
                if imported::is_imported(before) =>
            {
                self.replaced.lock().get(&shown.name) == Some(now)
            }
            _ => false,
        };
        shown.credential == *now || is_ours()
    }

    /// A principal of an earlier time with the roles of today; `None` if there is nobody any more who could be let in. Whether
    /// the issuer of its token is trusted is another question: what is left without one is somebody's who may come back.
    pub fn renew(&self, mut principal: Principal) -> Option<Principal> {
        if !principal.anonymous && principal.realm == self.realm {
            match self.users.find(&principal.name) {
                Some(user) => {
                    principal.roles = user.roles.clone();
                    principal.device = user.device_id().cloned();
                    principal.account = true;
                }
                // Its certificate said who it is, and is asked for again when it comes back.
                None if needs_no_account(&principal) => {}
                None => return None,
            }
        }
        let is_current = match principal.anonymous {
            true => self.is_current(&principal),
            false => self.has_account(&principal),
        };
        is_current.then_some(principal)
    }

    /// The hash under which a new chosen password is to be stored; made in the same bounded pool.
    pub async fn hash_password(&self, password: &[u8]) -> Result<Credential, AuthError> {
        Ok(Credential::Chosen(self.pool.hash(password).await?.into()))
    }

    /// What to store for a generated secret of this user.
    pub fn hash_secret(&self, name: &str, secret: &str) -> Credential {
        Credential::Generated(self.key.hash(name, secret.as_bytes()))
    }

    /// Slow hashes computed since the start: first logins, new passwords, and wrong answers of every kind.
    pub fn hashes(&self) -> u64 {
        self.pool.done()
    }

    /// Whether the password is proven without a slow hash: a generated secret, or one that was verified before.
    fn is_proven_fast(&self, user: &User, password: &[u8]) -> bool {
        match &user.credential {
            Credential::Generated(hash) => self.key.verify(&user.name, password, hash),
            Credential::Chosen(phc) => self.cache.knows(&user.name, phc, password),
        }
    }

    /// The certificate decides. A user name that comes with it must be the same one: who connects as somebody else
    /// than it says should hear of it. A password that comes with it proves nothing and is not looked at (I2).
    fn by_certificate(
        &self,
        certificate: &Arc<Certificate>,
        username: Option<&str>,
    ) -> Result<Principal, Refusal> {
        let Some(name) = &certificate.name else {
            return Err(Refusal::NotAuthorized);
        };
        if check_user_name(name).is_err() || username.is_some_and(|given| *given != **name) {
            return Err(Refusal::OtherName);
        }
        let local = certificate.realm == self.realm;
        let principal = match self.users.find(name).filter(|_| local) {
            Some(user) => self.admit(&user)?,
            None => Principal {
                realm: certificate.realm.clone(),
                name: name.clone(),
                roles: [certificate.role.clone()].into(),
                scopes: Arc::default(),
                device: Some(name.clone()),
                account: false,
                shown: None,
                expires_at: None,
                certificate: None,
                token: None,
                anonymous: false,
            },
        };
        Ok(Principal {
            expires_at: Some(certificate.not_after),
            certificate: Some(certificate.clone()),
            ..principal
        })
    }

    /// The last step for who showed its password or secret.
    fn admit_shown(&self, user: &Arc<User>) -> Result<Principal, Refusal> {
        Ok(Principal {
            shown: Some(user.clone()),
            ..self.admit(user)?
        })
    }

    /// The last step for who proved its name.
    pub(super) fn admit(&self, user: &User) -> Result<Principal, Refusal> {
        if user.disabled {
            return Err(Refusal::Banned);
        }
        Ok(Principal {
            realm: self.realm.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
            scopes: Arc::default(),
            device: user.device_id().cloned(),
            account: true,
            shown: None,
            expires_at: None,
            certificate: None,
            token: None,
            anonymous: false,
        })
    }

    /// Costs what a wrong password costs: neither the time nor the answer of a refusal tells whether a name is known (I2).
    pub(super) async fn pay_in_vain(
        &self,
        presented: &[u8],
        origin: Option<IpAddr>,
        wrong: &Wrong,
    ) -> Result<(), Refusal> {
        let vain = Vain {
            efforts: self.users.efforts(),
            decoy: self.decoy.clone(),
            wrong: wrong.clone(),
        };
        // A decoy never verifies.
        let hashed = self
            .pool
            .verify(origin, presented, self.decoy.clone(), vain);
        hashed.await.map_err(|Overflow| Refusal::Busy)?;
        Ok(())
    }

    fn anonymous(&self) -> Result<Principal, Refusal> {
        let settings = self.settings.load();
        match settings.allow_anonymous {
            true => Ok(Principal::anonymous(&settings.anonymous_role)),
            false => Err(Refusal::NotAuthorized),
        }
    }
}

/// A user whose imported hash is being replaced, until this is dropped.
struct Replacing {
    all: Arc<Mutex<HashSet<Arc<str>>>>,
    name: Arc<str>,
}

impl Replacing {
    fn begin(all: &Arc<Mutex<HashSet<Arc<str>>>>, name: Arc<str>) -> Option<Replacing> {
        let is_first = all.lock().insert(name.clone());
        let all = all.clone();
        is_first.then_some(Replacing { all, name })
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        self.all.lock().remove(&self.name);
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// Two factors of two principals are no factors of one. A password is that of a local user, whatever CA names it; a token
/// names its principal itself.
pub(super) fn with_certificate(
    principal: Principal,
    certificate: &Arc<Certificate>,
) -> Result<Principal, Refusal> {
    let is_other = |name: &Arc<str>| {
        *name != principal.name
            || (principal.token.is_some() && certificate.realm != principal.realm)
    };
    if certificate.name.as_ref().is_some_and(is_other) {
        return Err(Refusal::OtherName);
    }
    let end = certificate.not_after;
    Ok(Principal {
        expires_at: Some(principal.expires_at.map_or(end, |token| token.min(end))),
        certificate: Some(certificate.clone()),
        ..principal
    })
}

/// A name without an account that a certificate vouched for: it is its own device id.
fn needs_no_account(principal: &Principal) -> bool {
    !principal.account && principal.device.as_ref() == Some(&principal.name)
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
