//! What the keys of an issuer may say one by one: URLs, texts, lists, and the names of choices.

use super::{ANY_AUDIENCE, Mode, RoleOfClaim, ScopeForm, SignatureAlgorithm, UserName};
use crate::{
    report::{Wrong, quote},
    settings::role,
    value::{Choice, Leaf, Scalar, Value},
};

/// The check of a key that may be left out.
pub(super) fn maybe(
    check: impl Fn(&str) -> Result<(), Wrong>,
) -> impl Fn(&Option<String>) -> Result<(), Wrong> {
    move |value| value.as_deref().map_or(Ok(()), &check)
}

/// A URL of an issuer's server: `https`, or `http` on loopback, where nobody listens in.
pub(super) fn url_usable(url: &str) -> Result<(), Wrong> {
    let plain = url.len() <= 2_048 && url.bytes().all(|b| b.is_ascii_graphic());
    let host = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let port = |host: &str, port: &str| {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            (digits && !host.ends_with(':')).then(|| host.to_owned())
        };
        match authority.rsplit_once(':') {
            Some((host, digits)) if !digits.contains(']') => port(host, digits),
            _ => Some(authority.to_owned()),
        }
    };
    let form =
        r#"write one that begins with https://, such as "https://id.example.org/realms/home""#;
    let (rest, secure) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        _ => return Err(Wrong::new("is not the URL of an issuer", form)),
    };
    match host(rest) {
        Some(host) if plain && !host.is_empty() && !host.contains('@') && !url.contains('#') => {
            match secure || is_loopback(&host) {
                true => Ok(()),
                false => Err(Wrong::new(
                    "is without TLS: whoever is in between could let anybody in",
                    "use https; http is for an issuer on this machine (127.0.0.1, [::1], localhost)",
                )),
            }
        }
        _ => Err(Wrong::new("is not the URL of an issuer", form)),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = bare.unwrap_or(host).parse::<std::net::IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

pub(super) fn audience_usable(all: &[String]) -> Result<(), Wrong> {
    let remedy = r#"write what the issuer puts into "aud" for this gateway, or "any""#;
    if all.is_empty() || all.len() > 16 {
        return Err(Wrong::new("must have 1 to 16 entries", remedy));
    }
    if all.len() > 1 && all.iter().any(|one| one == ANY_AUDIENCE) {
        return Err(Wrong::new(
            r#"has "any" beside others"#,
            "leave out the others, or \"any\"",
        ));
    }
    all.iter().try_for_each(|one| about(one, plain_text(one)))
}

/// Text without white space at its ends or control characters, of 1 to 256 bytes.
pub(super) fn plain_text(text: &str) -> Result<(), Wrong> {
    let usable = (1..=256).contains(&text.len())
        && !text.chars().any(char::is_control)
        && text.trim() == text;
    match usable {
        true => Ok(()),
        false => Err(Wrong::new(
            "cannot be used",
            "write 1 to 256 bytes without control characters, and no space at either end",
        )),
    }
}

pub(super) fn about(entry: &str, result: Result<(), Wrong>) -> Result<(), Wrong> {
    result.map_err(|wrong| Wrong {
        entry: Some((quote(entry), None)),
        ..wrong
    })
}

pub(super) fn at_most<T>(list: &[T], max: usize) -> Result<(), Wrong> {
    match list.len() > max {
        true => Err(Wrong::new(
            format!("has more than {max} entries"),
            "leave some out",
        )),
        false => Ok(()),
    }
}

pub(super) fn each_once<T: PartialEq>(list: &[T], what: &str) -> Result<(), Wrong> {
    if list.is_empty() {
        return Err(Wrong::new("is empty", format!("name {what}")));
    }
    let twice = |(n, one): (usize, &T)| list[..n].contains(one);
    match list.iter().enumerate().any(twice) {
        true => Err(Wrong::new(format!("names {what} twice"), "leave one out")),
        false => Ok(()),
    }
}

impl Choice for Mode {
    const ALL: &'static [(&'static str, Self)] =
        &[("jwt", Mode::Jwt), ("introspection", Mode::Introspection)];
    const NAMES: &'static str = r#""jwt" or "introspection""#;
}

impl Choice for UserName {
    const ALL: &'static [(&'static str, Self)] =
        &[("any", UserName::Any), ("match", UserName::Match)];
    const NAMES: &'static str = r#""any" or "match""#;
}

impl Choice for ScopeForm {
    const ALL: &'static [(&'static str, Self)] = &[
        ("postern", ScopeForm::Postern),
        ("rabbitmq", ScopeForm::RabbitMq),
    ];
    const NAMES: &'static str = r#""postern" or "rabbitmq""#;
}

impl Choice for SignatureAlgorithm {
    const ALL: &'static [(&'static str, Self)] = &[
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
    ];
    const NAMES: &'static str = r#""ES256", "ES384", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384" or "PS512"; with secret_file "HS256", "HS384" or "HS512""#;
}

/// `"ROLE"`, or `"CLAIMED=ROLE"` where the claim calls it otherwise.
impl Value for RoleOfClaim {
    const WANT: &'static str = r#"a role such as "sensor", or one with the name that the claim has for it, "mqtt-devices=sensor""#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let Scalar::Text(text) = &leaf.scalar else {
            return Err(Wrong::new(
                format!("is {}", leaf.kind()),
                format!("write {}", Self::WANT),
            ));
        };
        let (claimed, name) = text.rsplit_once('=').unwrap_or((text, text));
        plain_text(claimed)?;
        role(name)?;
        Ok(RoleOfClaim {
            claimed: claimed.to_owned(),
            role: name.to_owned(),
        })
    }

    fn show(&self) -> Option<String> {
        let RoleOfClaim { claimed, role } = self;
        match claimed == role {
            true => Some(quote(role)),
            false => Some(quote(&format!("{claimed}={role}"))),
        }
    }
}
