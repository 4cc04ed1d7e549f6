//! Which certificate does this handshake get? A set of named slots, swapped as a whole while
//! connections stay up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};

use super::certificate::{Certificate, CertificateSource};
use super::fingerprint::hex_with_colons;
use super::{SubjectName, TlsError};

/// The certificates that new handshakes get, by slot. Reading takes no lock and allocates nothing;
/// each change replaces the whole set.
///
/// A client gets a certificate for the server name it asks for (exactly, else by wildcard). A client
/// that sends none gets one for the address it came to ([`at`](Certificates::at)). Everybody else,
/// devices that send wrong names included, gets the default: the slot [`DEFAULT_SLOT`], or, while
/// that holds only what the built-in CA made, [`ACME_SLOT`], or the first other slot by name. Among several
/// certificates for the same name a client gets the cheapest that it can verify: ECDSA, then
/// Ed25519, then RSA.
///
/// [`DEFAULT_SLOT`]: Certificates::DEFAULT_SLOT
/// [`ACME_SLOT`]: Certificates::ACME_SLOT
#[derive(Default)]
pub struct Certificates {
    current: ArcSwap<Set>,
    /// Never touched by a handshake.
    problems: Mutex<BTreeMap<String, String>>,
}

impl Certificates {
    /// The slot of `[tls]`, or of the built-in private CA.
    pub const DEFAULT_SLOT: &'static str = "default";
    /// The slot of `[acme]`.
    pub const ACME_SLOT: &'static str = "acme";

    /// An empty set: no handshake succeeds until something is installed.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A set with this pair in the default slot.
    ///
    /// A certificate that has expired or is not valid yet is loaded all the same, with an error in
    /// the log: a gateway that refused to start would also take away what still works.
    ///
    /// # Errors
    /// As for [`Certificate::load`].
    pub fn load(source: &CertificateSource) -> Result<Arc<Self>, TlsError> {
        let certificates = Self::new();
        certificates.load_default(source)?;
        Ok(certificates)
    }

    /// Fills the default slot at start, as [`load`](Self::load) does.
    ///
    /// # Errors
    /// As for [`Certificate::load`].
    pub fn load_default(&self, source: &CertificateSource) -> Result<(), TlsError> {
        self.install(Self::DEFAULT_SLOT, load_for_start(source)?);
        Ok(())
    }

    /// Loads and validates the pair, then swaps it into the default slot. Returns whether the leaf
    /// changed.
    ///
    /// # Errors
    /// As for [`Certificate::load`] and [`Certificate::check`]. On every error the current
    /// certificate stays.
    pub fn reload(&self, source: &CertificateSource) -> Result<bool, TlsError> {
        let certificate = Certificate::load(source)?;
        certificate.check(SystemTime::now())?;
        let before = self.get(Self::DEFAULT_SLOT);
        let changed = before.is_none_or(|before| !before.is_same(&certificate));
        self.install(Self::DEFAULT_SLOT, certificate);
        Ok(changed)
    }

    /// Puts the certificate into the slot. New handshakes get it; open connections keep what they
    /// have. Whether it is valid is the caller's to check ([`Certificate::check`]).
    pub fn install(&self, slot: &str, certificate: Certificate) {
        let certificate = Arc::new(certificate);
        self.current.rcu(|set| {
            let mut slots = set.slots.clone();
            slots.insert(slot.to_owned(), Arc::clone(&certificate));
            Set::new(slots)
        });
    }

    /// Empties the slot; nothing happens if it is empty.
    pub fn remove(&self, slot: &str) {
        self.current.rcu(|set| {
            let mut slots = set.slots.clone();
            slots.remove(slot);
            Set::new(slots)
        });
        self.set_problem(slot, None);
    }

    /// The certificate in this slot.
    pub fn get(&self, slot: &str) -> Option<Arc<Certificate>> {
        self.current.load().slots.get(slot).cloned()
    }

    /// All slots by name.
    pub fn slots(&self) -> BTreeMap<String, Arc<Certificate>> {
        self.current.load().slots.clone()
    }

    /// Notes what is wrong with a slot, in words for the operator, until it is taken back.
    pub fn set_problem(&self, slot: &str, problem: Option<String>) {
        let mut problems = self.problems.lock();
        match problem {
            Some(problem) => problems.insert(slot.to_owned(), problem),
            None => problems.remove(slot),
        };
    }

    /// What is wrong, by slot.
    pub fn problems(&self) -> BTreeMap<String, String> {
        self.problems.lock().clone()
    }

    /// Slots of which the second is for a name of the first, and never served for it: their keys are
    /// of the same kind.
    pub fn overlaps(&self) -> BTreeSet<(String, String)> {
        let set = self.current.load();
        let slot = |wanted: &Arc<Certificate>| {
            let mut slots = set.slots.iter();
            let found = slots.find(|(_, certificate)| Arc::ptr_eq(certificate, wanted));
            found.map(|(slot, _)| slot.clone()).unwrap_or_default()
        };
        (set.exact.values())
            .chain(set.wildcard.values())
            .chain(set.address.values())
            .flat_map(|ranked| ranked.windows(2))
            .filter(|pair| pair.iter().all(|certificate| !certificate.is_built_in()))
            .filter(|pair| pair[0].preference() == pair[1].preference())
            .map(|pair| (slot(&pair[0]), slot(&pair[1])))
            .collect()
    }

    /// The certificate of a client that asks for no name we have.
    pub fn fallback(&self) -> Option<Arc<Certificate>> {
        self.current.load().fallback.first().cloned()
    }

    /// SHA-256 of [`fallback`](Self::fallback)'s leaf, as `openssl x509 -fingerprint -sha256`
    /// prints it.
    pub fn fingerprint(&self) -> String {
        self.fallback()
            .map(|certificate| hex_with_colons(&certificate.sha256()))
            .unwrap_or_default()
    }

    /// When [`fallback`](Self::fallback)'s leaf ends.
    pub fn not_after(&self) -> SystemTime {
        self.fallback()
            .map_or(UNIX_EPOCH, |certificate| certificate.not_after())
    }

    /// The certificate for a client that sent no server name and came to the address `local` (rule
    /// C2), if it is another one than [`resolve`](ResolvesServerCert::resolve) gives: rustls does
    /// not know addresses.
    pub(super) fn at(&self, hello: &ClientHello<'_>, local: IpAddr) -> Option<Arc<CertifiedKey>> {
        if hello.server_name().is_some() {
            return None;
        }
        let (set, offer) = (self.current.load(), Offer::of(hello));
        let here = set.choose(None, Some(local.to_canonical()), offer)?;
        let anywhere = set.choose(None, None, offer)?;
        (!Arc::ptr_eq(here, anywhere)).then(|| Arc::clone(here.certified_key()))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.current.load();
        let chosen = set.choose(hello.server_name(), None, Offer::of(&hello))?;
        Some(Arc::clone(chosen.certified_key()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.current.load().slots.iter())
            .finish()
    }
}

/// Loads a certificate at start, where one outside its validity is better than none.
///
/// # Errors
/// As for [`Certificate::load`].
pub(super) fn load_for_start(source: &CertificateSource) -> Result<Certificate, TlsError> {
    let certificate = Certificate::load(source)?;
    if let Err(error) = certificate.check(SystemTime::now()) {
        tracing::error!(%error, "clients that verify certificates will refuse this gateway");
    }
    Ok(certificate)
}

/// What a client can verify.
#[derive(Clone, Copy)]
struct Offer<'a> {
    schemes: &'a [SignatureScheme],
    suites: &'a [CipherSuite],
}

impl<'a> Offer<'a> {
    fn of(hello: &'a ClientHello<'_>) -> Self {
        Offer {
            schemes: hello.signature_schemes(),
            suites: hello.cipher_suites(),
        }
    }
}

/// Certificates for the same purpose, best first.
type Ranked = Vec<Arc<Certificate>>;

#[derive(Default)]
struct Set {
    slots: BTreeMap<String, Arc<Certificate>>,
    exact: HashMap<Box<str>, Ranked>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Ranked>,
    address: HashMap<IpAddr, Ranked>,
    fallback: Ranked,
}

impl Set {
    fn new(slots: BTreeMap<String, Arc<Certificate>>) -> Self {
        let mut set = Set {
            fallback: fallback(&slots),
            ..Set::default()
        };
        // In the order of the fallback, so that the default slot wins and the built-in CA loses.
        for certificate in &set.fallback {
            for name in certificate.names() {
                let ranked = match name {
                    SubjectName::Ip(address) => {
                        set.address.entry(address.to_canonical()).or_default()
                    }
                    SubjectName::Dns(name) => match name.strip_prefix("*.") {
                        Some(parent) => set.wildcard.entry(parent.into()).or_default(),
                        None => set.exact.entry(name.as_str().into()).or_default(),
                    },
                };
                ranked.push(Arc::clone(certificate));
            }
        }
        let ranked = (set.exact.values_mut())
            .chain(set.wildcard.values_mut())
            .chain(set.address.values_mut());
        for ranked in ranked {
            ranked.sort_by_key(|certificate| (certificate.is_built_in(), certificate.preference()));
        }
        set.slots = slots;
        set
    }

    /// The first that the client can verify; if it can verify none, the first, so that the handshake
    /// fails with the alert that says so.
    fn choose(
        &self,
        server_name: Option<&str>,
        local: Option<IpAddr>,
        offer: Offer<'_>,
    ) -> Option<&Arc<Certificate>> {
        let exact = server_name.and_then(|name| self.exact.get(name));
        let wildcard = server_name
            .and_then(|name| name.split_once('.'))
            .and_then(|(_, parent)| self.wildcard.get(parent));
        let address = local.and_then(|local| self.address.get(&local));
        let candidates = || {
            [exact, wildcard, address, Some(&self.fallback)]
                .into_iter()
                .flatten()
                .flatten()
        };
        candidates()
            .find(|certificate| certificate.suits(offer.schemes, offer.suites))
            .or_else(|| candidates().next())
    }
}

/// All certificates: first the default with what else covers its names, then the others, then the
/// built-in one.
fn fallback(slots: &BTreeMap<String, Arc<Certificate>>) -> Ranked {
    let mut order: Vec<_> = slots.iter().collect();
    order.sort_by_key(|(slot, certificate)| {
        let rank = match slot.as_str() {
            Certificates::DEFAULT_SLOT => 0,
            Certificates::ACME_SLOT => 1,
            _ => 2,
        };
        (certificate.is_built_in(), rank)
    });
    let mut ranked: Ranked = order
        .into_iter()
        .map(|(_, certificate)| Arc::clone(certificate))
        .collect();
    let Some(default) = ranked.first().cloned() else {
        return ranked;
    };
    ranked.sort_by_key(|certificate| {
        let beside = certificate.covers(default.names());
        let preference = if beside { certificate.preference() } else { 0 };
        (certificate.is_built_in(), !beside, preference)
    });
    ranked
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
