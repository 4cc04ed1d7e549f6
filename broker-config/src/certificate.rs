//! Which certificates there are beside the one of `[tls]`: `[certificates.NAME]`.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    report::Wrong,
    value::any,
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
}

/// Names of slots that the gateway fills itself: from `[tls]` and from `[acme]`.
const RESERVED: [&str; 2] = ["default", "acme"];

impl Section for Certificate {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            certificate,
            private_key,
        } = self;
        v.key("certificate", Live, certificate, any);
        v.key("private_key", Live, private_key, any);
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
        let missing = match (&self.certificate, &self.private_key) {
            (Some(_), Some(_)) => return Vec::new(),
            (None, None) => {
                let wrong = Wrong::new("names no files", "set certificate and private_key");
                return vec![("", wrong)];
            }
            (Some(_), None) => ("certificate", "private_key"),
            (None, Some(_)) => ("private_key", "certificate"),
        };
        let (set, missing) = missing;
        let wrong = Wrong::new(
            format!("is set without {missing}"),
            "set both, or remove the section",
        );
        vec![(set, wrong)]
    }
}
