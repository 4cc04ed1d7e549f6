//! Which certificates there are beside the one of `[tls]`: `[certificates.NAME]`.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    acme::{Challenge, KeyType, chain_bytes_usable, domains_usable, profile_usable},
    report::Wrong,
    size::ByteSize,
    value::{any, within},
    visit::{Applies::Live, Named, Section, Visitor},
};

/// One more certificate. Clients get it by the names in it; two for the same names are welcome if
/// their keys are of different kinds (ECDSA and RSA).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Certificate {
    /// PEM file, leaf first, then intermediates. Relative to the working directory. Set together
    /// with `private_key`.
    pub certificate: Option<PathBuf>,
    /// PEM file (PKCS #8, PKCS #1 or SEC 1). Relative to the working directory.
    pub private_key: Option<PathBuf>,
    /// Names of a certificate that the gateway gets by ACME instead: DNS names and IP addresses, at
    /// most 100. Default none.
    pub domains: Vec<String>,
    /// As in `[acme]`, where it is taken from if it is not set; so are those below.
    pub challenge: Option<Challenge>,
    pub profile: Option<String>,
    pub reuse_key: Option<bool>,
    pub key_type: Option<KeyType>,
    /// 256 B to 64 KiB.
    pub max_chain_bytes: Option<ByteSize>,
    /// 1 to 10.
    pub max_chain_depth: Option<usize>,
}

/// Names of slots that the gateway fills itself: from `[tls]` and from `[acme]`.
const RESERVED: [&str; 2] = ["default", "acme"];

impl Section for Certificate {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            certificate,
            private_key,
            domains,
            challenge,
            profile,
            reuse_key,
            key_type,
            max_chain_bytes,
            max_chain_depth,
        } = self;
        v.key("certificate", Live, certificate, any);
        v.key("private_key", Live, private_key, any);
        v.key("domains", Live, domains, |names| domains_usable(names));
        v.key("challenge", Live, challenge, any);
        v.key("profile", Live, profile, profile_usable);
        v.key("reuse_key", Live, reuse_key, any);
        v.key("key_type", Live, key_type, any);
        v.key("max_chain_bytes", Live, max_chain_bytes, |bytes| {
            bytes.as_ref().map_or(Ok(()), chain_bytes_usable)
        });
        v.key("max_chain_depth", Live, max_chain_depth, |depth| {
            depth.as_ref().map_or(Ok(()), within(1..=10))
        });
    }
}

impl Named for Certificate {
    const NOUN: &'static str = "certificate";
    const MANY: &'static str = "let certificates carry several names instead";
    const REQUIRED: &'static [&'static str] = &[];

    fn blank() -> Self {
        Certificate::default()
    }

    fn defaults() -> BTreeMap<String, Self> {
        BTreeMap::new()
    }

    fn name_usable(name: &str) -> Result<(), Wrong> {
        match RESERVED.contains(&name) {
            false => Ok(()),
            true => Err(Wrong::new(
                "is the name of the certificate of [tls] or [acme]",
                "choose another name",
            )),
        }
    }

    fn check(&self) -> Vec<(&'static str, Wrong)> {
        let acme = !self.domains.is_empty();
        let (set, missing) = match (&self.certificate, &self.private_key) {
            (Some(_), _) | (_, Some(_)) if acme => {
                let wrong = Wrong::new(
                    "is there beside files",
                    "leave out domains, or certificate and private_key",
                );
                return vec![("domains", wrong)];
            }
            (Some(_), Some(_)) => return self.without_domains(),
            (None, None) if acme => return Vec::new(),
            (None, None) => {
                let wrong = Wrong::new(
                    "names neither files nor domains",
                    "set certificate and private_key, or domains",
                );
                return vec![("", wrong)];
            }
            (Some(_), None) => ("certificate", "private_key"),
            (None, Some(_)) => ("private_key", "certificate"),
        };
        let wrong = Wrong::new(
            format!("is set without {missing}"),
            "set both, or remove the section",
        );
        vec![(set, wrong)]
    }
}

impl Certificate {
    /// What only a certificate of ACME has.
    fn without_domains(&self) -> Vec<(&'static str, Wrong)> {
        let set = [
            ("challenge", self.challenge.is_some()),
            ("profile", self.profile.is_some()),
            ("reuse_key", self.reuse_key.is_some()),
            ("key_type", self.key_type.is_some()),
            ("max_chain_bytes", self.max_chain_bytes.is_some()),
            ("max_chain_depth", self.max_chain_depth.is_some()),
        ];
        let wrong = |key| {
            let wrong = Wrong::new(
                "is for certificates that the gateway gets itself",
                "remove it, or set domains instead of certificate and private_key",
            );
            (key, wrong)
        };
        set.into_iter()
            .filter(|(_, set)| *set)
            .map(|(key, _)| wrong(key))
            .collect()
    }
}
