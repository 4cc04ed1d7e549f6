//! Which client certificates a listener asks for, and what they prove: the keys of
//! `[listeners.NAME]` about clients that have one.

use std::path::PathBuf;

use crate::{
    report::{Wrong, quote},
    settings::{realm as realm_usable, role},
    value::{Choice, Leaf, Scalar, Value, any},
    visit::{
        Applies::{Live, Restart},
        Section, Visitor,
    },
};

/// Client certificates at one listener (RFC 8446, 4.4.2; RFC 5246, 7.4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Default `off`.
    pub demand: Demand,
    /// Whether a certificate suffices (rule I2). Default `one`.
    pub require: Require,
    /// Who may have issued them. Empty: nobody, only `fingerprints` counts, and certificates may
    /// be self-signed. At most 16. Default the gateway's own CA.
    pub cas: Vec<ClientCa>,
    /// PEM or DER files with certificate revocation lists of the CAs in files; the list of the own
    /// CA is always used. At most 64. Default none.
    pub crls: Vec<PathBuf>,
    /// If not empty, only certificates with one of these fingerprints pass. At most 10,000.
    /// Default empty.
    pub fingerprints: Vec<Fingerprint>,
    /// The field that names the principal. Default `cn`.
    pub name: CertificateName,
    /// The role of a principal without an account of its name. Default `device`.
    pub role: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Certificates are not asked for.
    Off,
    /// A client may have one; one that is presented must be good.
    Optional,
    /// No handshake succeeds without one.
    Required,
}

/// Rule I2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// A certificate, or a user name with a password where there is no certificate.
    One,
    /// A certificate, and the password of the user that it names.
    Both,
}

/// Which field of a certificate is the principal's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of the subject.
    Cn,
    /// A dNSName of the subject alternative names (RFC 5280, 4.2.1.6).
    SanDns,
    /// An rfc822Name.
    SanEmail,
    /// A uniformResourceIdentifier.
    SanUri,
    /// None: the certificate opens the door, the password names the principal.
    None,
}

/// A CA whose certificates are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCa {
    /// The gateway's own one; its principals are in the realm `local`.
    Own,
    /// A PEM file with one or more CA certificates.
    File {
        /// The realm of its principals. `None`: one that is made from the CA's key (rule I1).
        realm: Option<String>,
        path: PathBuf,
    },
}

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Default for ClientCertificates {
    fn default() -> Self {
        ClientCertificates {
            demand: Demand::Off,
            require: Require::One,
            cas: vec![ClientCa::Own],
            crls: Vec::new(),
            fingerprints: Vec::new(),
            name: CertificateName::Cn,
            role: "device".to_owned(),
        }
    }
}

impl ClientCertificates {
    /// Conditions over several keys: the key to blame and what is wrong. `tls`: whether the listener
    /// has TLS, or needs none because it is off.
    pub(crate) fn check(&self, tls: bool) -> Vec<(&'static str, Wrong)> {
        let mut wrong = Vec::new();
        if self.demand == Demand::Off {
            if self.require == Require::Both {
                wrong.push(("require", needs_required()));
            }
            return wrong;
        }
        if !tls {
            let remedy = r#"set tls = true, or client_certificates = "off""#;
            wrong.push((
                "client_certificates",
                Wrong::new("needs TLS, and this listener has none", remedy),
            ));
        }
        if self.require == Require::Both && self.demand != Demand::Required {
            wrong.push(("require", needs_required()));
        }
        if self.name == CertificateName::None && self.require != Require::Both {
            let remedy = r#"set require = "both", or name the field that holds the name"#;
            wrong.push((
                "certificate_name",
                Wrong::new("leaves a client with only a certificate nameless", remedy),
            ));
        }
        if self.cas.is_empty() && self.fingerprints.is_empty() {
            let remedy = r#"name a CA, such as "own", or list client_fingerprints"#;
            wrong.push((
                "client_cas",
                Wrong::new(
                    "is empty, and no fingerprint is listed: nobody could pass",
                    remedy,
                ),
            ));
        }
        let from_file = |ca: &ClientCa| matches!(ca, ClientCa::File { .. });
        if !self.crls.is_empty() && !self.cas.iter().any(from_file) {
            let remedy = "add the file of the CA that signed them to client_cas; the list of the \
                          own CA needs no key";
            wrong.push((
                "client_crls",
                Wrong::new(
                    "lists revocations of CAs that are not in client_cas",
                    remedy,
                ),
            ));
        }
        wrong
    }
}

fn needs_required() -> Wrong {
    Wrong::new(
        r#"asks for a certificate that client_certificates does not"#,
        r#"set client_certificates = "required""#,
    )
}

impl Section for ClientCertificates {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            demand,
            require,
            cas,
            crls,
            fingerprints,
            name,
            role: role_name,
        } = self;
        v.key("client_certificates", Restart, demand, any);
        v.key("require", Restart, require, any);
        v.key("client_cas", Restart, cas, |cas| {
            at_most(cas, 16)?;
            let twice = |(n, ca): (usize, &ClientCa)| cas[..n].contains(ca);
            match cas.iter().enumerate().any(twice) {
                true => Err(Wrong::new("names a CA twice", "leave one out")),
                false => Ok(()),
            }
        });
        v.key("client_crls", Restart, crls, |crls| at_most(crls, 64));
        v.key("client_fingerprints", Live, fingerprints, |all| {
            at_most(all, 10_000)
        });
        v.key("certificate_name", Restart, name, any);
        v.key("certificate_role", Restart, role_name, |name| role(name));
    }
}

fn at_most<T>(list: &[T], max: usize) -> Result<(), Wrong> {
    match list.len() > max {
        true => Err(Wrong::new(
            format!("has more than {max} entries"),
            "leave some out",
        )),
        false => Ok(()),
    }
}

impl Choice for Demand {
    const ALL: &'static [(&'static str, Self)] = &[
        ("off", Demand::Off),
        ("optional", Demand::Optional),
        ("required", Demand::Required),
    ];
    const NAMES: &'static str = r#""off", "optional" or "required""#;
}

impl Choice for Require {
    const ALL: &'static [(&'static str, Self)] = &[("one", Require::One), ("both", Require::Both)];
    const NAMES: &'static str = r#""one" or "both""#;
}

impl Choice for CertificateName {
    const ALL: &'static [(&'static str, Self)] = &[
        ("cn", CertificateName::Cn),
        ("san_dns", CertificateName::SanDns),
        ("san_email", CertificateName::SanEmail),
        ("san_uri", CertificateName::SanUri),
        ("none", CertificateName::None),
    ];
    const NAMES: &'static str = r#""cn", "san_dns", "san_email", "san_uri" or "none""#;
}

/// `"own"`, `"/path/ca.pem"` or `"REALM=/path/ca.pem"`.
impl Value for ClientCa {
    const WANT: &'static str = r#""own", a path such as "/etc/postern/ca.pem", or one with its realm, "factory=/etc/postern/ca.pem""#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let Scalar::Text(text) = &leaf.scalar else {
            return Err(Wrong::new(
                format!("is {}", leaf.kind()),
                format!("write {}", Self::WANT),
            ));
        };
        if text == "own" {
            return Ok(ClientCa::Own);
        }
        let (realm, path) = match text.split_once('=') {
            // A path may hold the sign as well.
            Some((realm, path)) if !realm.contains('/') => (Some(realm), path),
            _ => (None, text.as_str()),
        };
        let path = PathBuf::read(&Leaf::text(path))?;
        if let Some(name) = realm {
            let named = |wrong| Wrong {
                message: format!("has {} for its realm", quote(name)),
                ..wrong
            };
            realm_usable(name).map_err(named)?;
        }
        let realm = realm.map(str::to_owned);
        Ok(ClientCa::File { realm, path })
    }

    fn show(&self) -> Option<String> {
        match self {
            ClientCa::Own => Some(quote("own")),
            ClientCa::File { realm: None, path } => {
                let path = path.to_string_lossy();
                // A relative path with the sign, or named like ours, could not be read back.
                let plain = path.contains('/') || !(path.contains('=') || path == "own");
                Some(quote(&if plain {
                    path.into_owned()
                } else {
                    format!("./{path}")
                }))
            }
            ClientCa::File {
                realm: Some(realm),
                path,
            } => Some(quote(&format!("{realm}={}", path.to_string_lossy()))),
        }
    }
}

impl Value for Fingerprint {
    const WANT: &'static str =
        "SHA-256 of a certificate: 64 hexadecimal digits, with or without colons";

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let unusable = || Wrong::new("is not a fingerprint", format!("write the {}", Self::WANT));
        let Scalar::Text(text) = &leaf.scalar else {
            return Err(unusable());
        };
        Fingerprint::parse(text).ok_or_else(unusable)
    }

    fn show(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Fingerprint {
    /// 64 hexadecimal digits, or 32 pairs with colons between them.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        let digits: Vec<u8> = match text.len() {
            64 => text.bytes().collect(),
            95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => {
                text.bytes().filter(|b| *b != b':').collect()
            }
            _ => return None,
        };
        let mut octets = [0; 32];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks(2)) {
            let digit = |b: &u8| char::from(*b).to_digit(16);
            let (high, low) = (digit(pair.first()?)?, digit(pair.get(1)?)?);
            *octet = u8::try_from(high * 16 + low).ok()?;
        }
        (digits.len() == 64).then_some(Fingerprint(octets))
    }
}

/// As `openssl x509 -fingerprint -sha256` prints it.
impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, octet) in self.0.iter().enumerate() {
            let colon = if n == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02X}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}
