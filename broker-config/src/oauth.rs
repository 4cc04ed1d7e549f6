//! Whose tokens are credentials: `[oauth.NAME]`, one section for each issuer.
//!
//! Conditions of one issuer are checked here, those among several in `check`; what a key may say by
//! itself is in `values`.

mod values;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    report::Wrong,
    settings::{realm as realm_usable, role},
    value::{any, within},
    visit::{Applies::Live, Named, Section, Visitor},
};
use values::{about, at_most, audience_usable, each_once, maybe, plain_text, url_usable};

/// One issuer of access tokens (RFC 6749, 1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its identifier: what `iss` of its tokens says (RFC 7519, 4.1.1; RFC 8414, 2). A URL with
    /// `https`, or with `http` on loopback. Where neither keys nor endpoints are named here, they
    /// are found by it.
    pub issuer: String,
    /// How a token is verified. Default `jwt`.
    pub mode: Mode,
    /// What `aud` of a token must have one of (RFC 7519, 4.1.3). `["any"]` leaves it unchecked. At
    /// most 16. No default.
    pub audience: Vec<String>,
    /// Signature algorithms of its tokens. Default `ES256`, `ES384`, `EdDSA`, `RS256`, `PS256`.
    pub algorithms: Vec<SignatureAlgorithm>,
    /// Where its JWK Set is (RFC 7517, 5). Default: found by `issuer`.
    pub jwks_url: Option<String>,
    /// File with its public keys instead: a JWK Set, or PEM.
    pub keys_file: Option<PathBuf>,
    /// File with the secret of HMAC signatures, if `algorithms` names such.
    pub secret_file: Option<PathBuf>,
    /// PEM file of the roots that vouch for its server, instead of the system's.
    pub server_root: Option<PathBuf>,
    /// Where it answers about tokens (RFC 7662). Default: found by `issuer`.
    pub introspection_url: Option<String>,
    /// As whom the gateway asks there.
    pub client_id: Option<String>,
    /// File with the secret of that client.
    pub client_secret_file: Option<PathBuf>,
    /// How long an answer about a token counts, and so how long a revocation may stay without
    /// effect. Default 5 min; 1 s to 1 d.
    pub revalidate_every: Duration,
    /// Age at which its keys are fetched again. Default 1 h; 1 s to 7 d.
    pub keys_max_age: Duration,
    /// How long one request to its server may take. Default 5 s; 100 ms to 1 min.
    pub timeout: Duration,
    /// Questions about tokens each second, logins and live sessions together. Default 100; 1 to
    /// 10,000.
    pub max_requests_per_second: u32,
    /// Answers that are remembered. Default 10,000; 0 to 1,000,000.
    pub token_cache: usize,
    /// By how much its clock may be wrong. Default 60 s; 0 s to 10 min.
    pub clock_skew: Duration,
    /// The claim with the principal's name; a dot leads into an object. Default `sub`.
    pub name_claim: String,
    /// Whether the user name of CONNECT must be the one in the token. Default `any`.
    pub username: UserName,
    /// The claim that it must be then. Default: `name_claim`.
    pub username_claim: Option<String>,
    /// The realm of its principals (rule I1). Default: the name of the section.
    pub realm: Option<String>,
    /// The claim with roles: a list, or text with spaces.
    pub roles_claim: Option<String>,
    /// Which roles of that claim count, and as which. At most 200. Default none.
    pub roles: Vec<RoleOfClaim>,
    /// Roles that all its principals have. At most 32. Default none.
    pub default_roles: Vec<String>,
    /// The claim with scopes: a list, or text with spaces. Default `scope`.
    pub scope_claim: String,
    /// Which scopes are permissions, by their form. Default `postern`.
    pub scopes: Vec<ScopeForm>,
    /// What such scopes begin with. Default empty.
    pub scope_prefix: String,
}

/// How a token is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By its signature (RFC 7519).
    Jwt,
    /// By asking its issuer (RFC 7662).
    Introspection,
}

/// A signature algorithm (RFC 7518, 3.1; RFC 8037). There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    Es256,
    Es384,
    EdDsa,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Hs256,
    Hs384,
    Hs512,
}

impl SignatureAlgorithm {
    /// Whether whoever verifies a signature could make one, too.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// What the user name of CONNECT has to do with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserName {
    /// Nothing.
    Any,
    /// It is what the token says.
    Match,
}

/// A form in which scopes are permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeForm {
    /// `mqtt:pub:FILTER`, `mqtt:sub:FILTER`.
    Postern,
    /// `write:VHOST/EXCHANGE/ROUTING_KEY`, `read:…`.
    RabbitMq,
}

/// A role in a claim, and the role it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleOfClaim {
    pub claimed: String,
    pub role: String,
}

/// Stands in `audience` for every audience.
pub const ANY_AUDIENCE: &str = "any";

const DAY: Duration = Duration::from_secs(86_400);

impl Issuer {
    /// Whether the audience of its tokens is checked.
    pub fn checks_audience(&self) -> bool {
        self.audience != [ANY_AUDIENCE]
    }
}

impl Named for Issuer {
    const NOUN: &'static str = "token issuer";
    const MANY: &'static str = "let one issuer stand for several";
    const REQUIRED: &'static [&'static str] = &["issuer", "audience"];

    fn blank() -> Self {
        use SignatureAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256};
        Issuer {
            issuer: String::new(),
            mode: Mode::Jwt,
            audience: Vec::new(),
            algorithms: vec![Es256, Es384, EdDsa, Rs256, Ps256],
            jwks_url: None,
            keys_file: None,
            secret_file: None,
            server_root: None,
            introspection_url: None,
            client_id: None,
            client_secret_file: None,
            revalidate_every: Duration::from_secs(300),
            keys_max_age: Duration::from_secs(3_600),
            timeout: Duration::from_secs(5),
            max_requests_per_second: 100,
            token_cache: 10_000,
            clock_skew: Duration::from_secs(60),
            name_claim: "sub".to_owned(),
            username: UserName::Any,
            username_claim: None,
            realm: None,
            roles_claim: None,
            roles: Vec::new(),
            default_roles: Vec::new(),
            scope_claim: "scope".to_owned(),
            scopes: vec![ScopeForm::Postern],
            scope_prefix: String::new(),
        }
    }

    fn defaults() -> BTreeMap<String, Self> {
        BTreeMap::new()
    }

    fn name_usable(name: &str) -> Result<(), Wrong> {
        match name {
            "pinned" => Err(Wrong::new(
                "is the realm of certificates that nobody but the operator vouches for",
                "choose another name",
            )),
            "local" => Err(Wrong::new(
                "is the realm of our own accounts",
                r#"choose another name; realm = "local" maps the issuer's names to our accounts"#,
            )),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Vec<(&'static str, Wrong)> {
        let mut wrong = match self.mode {
            Mode::Jwt => self.check_keys(),
            Mode::Introspection => self.check_introspection(),
        };
        let roles = [
            ("roles_claim", self.roles_claim.is_some(), "roles"),
            ("roles", !self.roles.is_empty(), "roles_claim"),
        ];
        for (n, (key, set, other)) in roles.iter().enumerate() {
            if *set && !roles[1 - n].1 {
                let remedy = "set both, or neither";
                wrong.push((key, Wrong::new(format!("is set without {other}"), remedy)));
            }
        }
        if self.username_claim.is_some() && self.username == UserName::Any {
            let remedy = r#"set username = "match", or remove it"#;
            let message = "is set, and the user name may be anything";
            wrong.push(("username_claim", Wrong::new(message, remedy)));
        }
        let has_roles = !self.roles.is_empty() || !self.default_roles.is_empty();
        if self.realm.as_deref() == Some("local") && has_roles {
            let remedy = "give the roles to the accounts, or leave out realm";
            let message = "maps names to our own accounts, whose roles are their own";
            wrong.push(("realm", Wrong::new(message, remedy)));
        }
        if self.scopes.is_empty() && !self.scope_prefix.is_empty() {
            let remedy = "remove it, or say in scopes which form they have";
            let message = "is set, and no scopes are permissions";
            wrong.push(("scope_prefix", Wrong::new(message, remedy)));
        }
        wrong
    }
}

impl Issuer {
    /// Where the keys of mode `jwt` come from, and which algorithms go with them.
    fn check_keys(&self) -> Vec<(&'static str, Wrong)> {
        let usual = Self::blank();
        let remedy = r#"remove it, or set mode = "introspection""#;
        let set = [
            ("introspection_url", self.introspection_url.is_some()),
            ("client_id", self.client_id.is_some()),
            ("client_secret_file", self.client_secret_file.is_some()),
            (
                "revalidate_every",
                self.revalidate_every != usual.revalidate_every,
            ),
            (
                "max_requests_per_second",
                self.max_requests_per_second != usual.max_requests_per_second,
            ),
            ("token_cache", self.token_cache != usual.token_cache),
        ];
        let mut wrong = foreign(&set, "is for introspection", remedy);
        wrong.extend(self.check_requests());
        let symmetric = self.algorithms.iter().filter(|one| one.is_symmetric());
        match (symmetric.count(), self.secret_file.is_some()) {
            (0, true) => wrong.push((
                "secret_file",
                Wrong::new(
                    "is set, and no algorithm uses a secret",
                    r#"name one, such as algorithms = ["HS256"], or remove secret_file"#,
                ),
            )),
            (1.., false) => wrong.push((
                "algorithms",
                Wrong::new(
                    "has one that needs a shared secret, and there is none",
                    "set secret_file, or leave out HS256, HS384 and HS512",
                ),
            )),
            (count, true) if count < self.algorithms.len() => wrong.push((
                "algorithms",
                Wrong::new(
                    "has algorithms with a shared secret beside others",
                    "name only one kind: who knows a public key must not be able to sign",
                ),
            )),
            _ => {}
        }
        let sources = [
            ("keys_file", self.keys_file.is_some()),
            ("jwks_url", self.jwks_url.is_some()),
            ("secret_file", self.secret_file.is_some()),
        ];
        let set: Vec<_> = sources.iter().filter(|(_, set)| *set).collect();
        if let [(one, _), (other, _), ..] = set[..] {
            let message = format!("is set beside {other}");
            wrong.push((one, Wrong::new(message, "name one source of keys")));
        }
        wrong
    }

    /// Keys about requests, for an issuer with its keys in a file: it is asked nothing.
    fn check_requests(&self) -> Vec<(&'static str, Wrong)> {
        let usual = Self::blank();
        let file = match (&self.keys_file, &self.secret_file) {
            (Some(_), _) => "keys_file",
            (None, Some(_)) => "secret_file",
            (None, None) => return Vec::new(),
        };
        let set = [
            ("server_root", self.server_root.is_some()),
            ("timeout", self.timeout != usual.timeout),
            ("keys_max_age", self.keys_max_age != usual.keys_max_age),
        ];
        let remedy = format!("remove it, or {file}");
        foreign(&set, "is for keys that are fetched", &remedy)
    }

    fn check_introspection(&self) -> Vec<(&'static str, Wrong)> {
        let remedy = r#"remove it, or set mode = "jwt""#;
        let set = [
            ("jwks_url", self.jwks_url.is_some()),
            ("keys_file", self.keys_file.is_some()),
            ("secret_file", self.secret_file.is_some()),
            ("algorithms", self.algorithms != Self::blank().algorithms),
        ];
        let mut wrong = foreign(&set, "is for tokens that are verified by keys", remedy);
        if self.introspection_url.is_some() && self.keys_max_age != Self::blank().keys_max_age {
            let message = "is for an endpoint that is found by issuer";
            let remedy = "remove it, or introspection_url";
            wrong.push(("keys_max_age", Wrong::new(message, remedy)));
        }
        let (id, secret) = (&self.client_id, &self.client_secret_file);
        if id.is_none() || secret.is_none() {
            let (key, missing) = match id {
                None => ("mode", "client_id"),
                Some(_) => ("client_id", "client_secret_file"),
            };
            wrong.push((
                key,
                Wrong::new(
                    format!("needs {missing}: an issuer answers only to clients that it knows"),
                    "set client_id and client_secret_file",
                ),
            ));
        }
        wrong
    }
}

/// Keys that are set and belong to another mode. One that says its default changes nothing anywhere: it
/// may stay, as printing writes it.
fn foreign(
    keys: &[(&'static str, bool)],
    message: &str,
    remedy: &str,
) -> Vec<(&'static str, Wrong)> {
    let set = keys.iter().filter(|(_, set)| *set);
    set.map(|(key, _)| (*key, Wrong::new(message, remedy)))
        .collect()
}

impl Section for Issuer {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            issuer,
            mode,
            audience,
            algorithms,
            jwks_url,
            keys_file,
            secret_file,
            server_root,
            introspection_url,
            client_id,
            client_secret_file,
            revalidate_every,
            keys_max_age,
            timeout,
            max_requests_per_second,
            token_cache,
            clock_skew,
            name_claim,
            username,
            username_claim,
            realm,
            roles_claim,
            roles,
            default_roles,
            scope_claim,
            scopes,
            scope_prefix,
        } = self;
        let second = Duration::from_secs(1);
        v.key("issuer", Live, issuer, |url| url_usable(url));
        v.key("mode", Live, mode, any);
        v.key("audience", Live, audience, |all| audience_usable(all));
        v.key("algorithms", Live, algorithms, |all| {
            each_once(all, "an algorithm")
        });
        v.key("jwks_url", Live, jwks_url, maybe(url_usable));
        v.key("keys_file", Live, keys_file, any);
        v.key("secret_file", Live, secret_file, any);
        v.key("server_root", Live, server_root, any);
        v.key(
            "introspection_url",
            Live,
            introspection_url,
            maybe(url_usable),
        );
        v.key("client_id", Live, client_id, maybe(plain_text));
        v.key("client_secret_file", Live, client_secret_file, any);
        v.key(
            "revalidate_every",
            Live,
            revalidate_every,
            within(second..=DAY),
        );
        v.key("keys_max_age", Live, keys_max_age, within(second..=7 * DAY));
        let tenth = Duration::from_millis(100);
        v.key("timeout", Live, timeout, within(tenth..=60 * second));
        let rate = within(1..=10_000);
        v.key(
            "max_requests_per_second",
            Live,
            max_requests_per_second,
            rate,
        );
        v.key("token_cache", Live, token_cache, within(0..=1_000_000));
        let skew = within(Duration::ZERO..=600 * second);
        v.key("clock_skew", Live, clock_skew, skew);
        v.key("name_claim", Live, name_claim, |claim| plain_text(claim));
        v.key("username", Live, username, any);
        v.key("username_claim", Live, username_claim, maybe(plain_text));
        v.key("realm", Live, realm, maybe(realm_usable));
        v.key("roles_claim", Live, roles_claim, maybe(plain_text));
        v.key("roles", Live, roles, |roles| at_most(roles, 200));
        v.key("default_roles", Live, default_roles, |roles| {
            at_most(roles, 32)?;
            roles.iter().try_for_each(|name| about(name, role(name)))
        });
        v.key("scope_claim", Live, scope_claim, |claim| plain_text(claim));
        v.key("scopes", Live, scopes, |forms| match forms.is_empty() {
            true => Ok(()),
            false => each_once(forms, "a form"),
        });
        v.key("scope_prefix", Live, scope_prefix, |text| {
            match text.is_empty() {
                true => Ok(()),
                false => plain_text(text),
            }
        });
    }
}
