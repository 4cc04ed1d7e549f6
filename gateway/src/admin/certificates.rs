//! What does the operator see of the server's certificates, and go back to? Which client gets which
//! is `tls`' matter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{AdminError, Answer};
use crate::tls::acme::Renewals;
use crate::tls::{Certificate, CertificateStore, Certificates, ChainLink, Pins, unix_seconds};

/// The certificates of one gateway: those that it serves, and those that it keeps.
pub struct CertificateDesk {
    certificates: Arc<Certificates>,
    store: CertificateStore,
    renewals: Option<Arc<Renewals>>,
}

/// A slot, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateLine {
    pub name: String,
    /// Nothing where there is only a problem.
    pub certificate: Option<CertificateFacts>,
    /// Whether there is a previous certificate to go back to.
    pub previous: bool,
    /// When the gateway renews it next, if it does: seconds since 1970.
    pub renewal: Option<i64>,
    pub problem: Option<String>,
}

/// What is said about a certificate in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateFacts {
    pub names: Vec<String>,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    pub key: String,
    /// Octets of all certificates in DER.
    pub chain_bytes: usize,
    /// Certificates in the chain.
    pub depth: usize,
    /// The file it was read from.
    pub source: String,
    /// Whether the built-in private CA issued it.
    pub built_in: bool,
}

/// Everything about one certificate that is not secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateDetails {
    pub name: String,
    pub certificate: CertificateFacts,
    pub chain: Vec<ChainLine>,
    pub pins: Pins,
    pub previous: bool,
    pub problem: Option<String>,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainLine {
    pub subject: String,
    pub issuer: String,
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    pub key: String,
    /// Octets in DER.
    pub bytes: usize,
}

impl CertificateDesk {
    pub fn new(certificates: Arc<Certificates>, store: CertificateStore) -> Self {
        Self {
            certificates,
            store,
            renewals: None,
        }
    }

    /// The same, of a gateway that runs and renews.
    pub fn with_renewals(mut self, renewals: Arc<Renewals>) -> Self {
        self.renewals = Some(renewals);
        self
    }

    /// Those that are served.
    pub(super) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What renews, if anything does.
    pub(super) fn renewals(&self) -> Option<Arc<Renewals>> {
        self.renewals.clone()
    }

    /// All slots. Does file I/O, as everything here.
    pub(super) fn list(&self) -> Answer {
        let (served, problems) = (self.certificates.slots(), self.certificates.problems());
        let renewals = self.renewals.as_ref().map(|renewals| renewals.statuses());
        let renewals = renewals.unwrap_or_default();
        let names: BTreeSet<&String> = (served.keys())
            .chain(problems.keys())
            .chain(renewals.keys())
            .collect();
        let certificates = names
            .into_iter()
            .map(|name| CertificateLine {
                name: name.clone(),
                certificate: served.get(name).map(|certificate| facts(certificate)),
                previous: self.has_previous(name),
                renewal: renewals.get(name).and_then(|status| status.next),
                problem: problems.get(name).cloned(),
            })
            .collect();
        Answer::Certificates { certificates }
    }

    pub(super) fn show(&self, name: &str) -> Result<Answer, AdminError> {
        let certificate = self
            .certificates
            .get(name)
            .ok_or_else(|| self.unknown(name))?;
        Ok(Answer::Certificate(Box::new(CertificateDetails {
            name: name.to_owned(),
            certificate: facts(&certificate),
            chain: certificate.chain().iter().map(chain_line).collect(),
            pins: Pins::of(&certificate),
            previous: self.has_previous(name),
            problem: self.certificates.problems().remove(name),
        })))
    }

    /// Serves the previous certificate again. Only what the gateway keeps itself has one.
    pub(super) fn roll_back(&self, name: &str) -> Result<Answer, AdminError> {
        if let Some(certificate) = self.certificates.get(name)
            && !self.is_kept(name)
        {
            let file = certificate.shown_as().display();
            return Err(AdminError::Refused(match certificate.is_built_in() {
                true => format!(
                    "the certificate {name:?} ({file}) is of the private CA, which keeps none but the present one"
                ),
                false => format!(
                    "the certificate {name:?} is read from {file}: put the old files back there, and they are served again"
                ),
            }));
        }
        if !self.is_kept(name) {
            return Err(self.unknown(name));
        }
        let certificate = self.store.rollback(name)?;
        let until = date(unix_seconds(certificate.not_after()));
        self.certificates.install(name, certificate);
        self.certificates.set_problem(name, None);
        Ok(Answer::Done {
            message: format!("the previous certificate of {name} is in force, valid until {until}"),
            warnings: Vec::new(),
        })
    }

    /// What does not work as it should, in words.
    pub(super) fn problems(&self, now: SystemTime) -> Vec<String> {
        let mut problems: Vec<String> = self
            .certificates
            .problems()
            .iter()
            .map(|(name, problem)| format!("the certificate {name}: {problem}"))
            .collect();
        for (name, certificate) in self.certificates.slots() {
            if let Err(error) = certificate.check(now) {
                problems.push(error.to_string());
            } else if let Some(days) = ends_soon(&certificate, now) {
                problems.push(format!(
                    "the certificate {name} ({}) is valid for {days} more days only, and was not \
                     renewed; renew it",
                    certificate.shown_as().display()
                ));
            }
        }
        problems
    }

    fn has_previous(&self, name: &str) -> bool {
        matches!(self.store.previous(name), Ok(Some(_)))
    }

    fn is_kept(&self, name: &str) -> bool {
        self.store
            .slots()
            .is_ok_and(|slots| slots.iter().any(|slot| slot == name))
    }

    fn unknown(&self, name: &str) -> AdminError {
        let known: Vec<String> = self.certificates.slots().into_keys().collect();
        AdminError::Refused(format!(
            "there is no certificate {name:?}; there are: {}",
            known.join(", ")
        ))
    }
}

/// Whole days that are left, if that is so little that a renewal must have failed: less than a sixth
/// of the lifetime, and less than two weeks. Whoever renews does it with a third left.
fn ends_soon(certificate: &Certificate, now: SystemTime) -> Option<u64> {
    const TWO_WEEKS: Duration = Duration::from_secs(14 * 86_400);
    let life = certificate
        .not_after()
        .duration_since(certificate.not_before())
        .ok()?;
    let left = certificate.not_after().duration_since(now).ok()?;
    (left < TWO_WEEKS.min(life / 6)).then_some(left.as_secs() / 86_400)
}

fn facts(certificate: &Certificate) -> CertificateFacts {
    CertificateFacts {
        names: certificate
            .names()
            .iter()
            .map(ToString::to_string)
            .collect(),
        issuer: certificate
            .chain()
            .first()
            .map(|leaf| leaf.issuer.clone())
            .unwrap_or_default(),
        not_before: unix_seconds(certificate.not_before()),
        not_after: unix_seconds(certificate.not_after()),
        key: certificate.key_kind().to_string(),
        chain_bytes: certificate.chain_bytes(),
        depth: certificate.depth(),
        source: certificate.shown_as().display().to_string(),
        built_in: certificate.is_built_in(),
    }
}

fn chain_line(link: &ChainLink) -> ChainLine {
    ChainLine {
        subject: link.subject.clone(),
        issuer: link.issuer.clone(),
        serial: link.serial.clone(),
        not_before: unix_seconds(link.not_before),
        not_after: unix_seconds(link.not_after),
        key: link.key.to_string(),
        bytes: link.bytes,
    }
}

/// `2027-01-31 12:00 UTC`, of seconds since 1970.
pub fn date(seconds: i64) -> String {
    let parsed = x509_parser::time::ASN1Time::from_timestamp(seconds);
    let Ok(time) = parsed.map(|time| time.to_datetime()) else {
        return format!("{seconds} s since 1970");
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
