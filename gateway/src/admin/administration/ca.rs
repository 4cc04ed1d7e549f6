//! The commands about the private CA: what it signs is registered first, what it revokes is in the list on disk and
//! reaches the live sessions before the answer.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;

use super::{AdminError, Administration, Answer, done};
use crate::admin::command::{CaLine, CertificateKind, IssuedLine, RevocationReason};
use crate::auth::check_user_name;
use crate::store::{NewCertificate, StoredCertificate};
use crate::tls::private_ca::signing::{
    CaFacts, Holder, Issued, LIST_LIFETIME, Recognised, Revoked,
};
use crate::tls::{PrivateCa, SubjectName, TlsError};

/// Certificates in one page of a list.
const PAGE: usize = 200;
/// Certificates that the answer to a revocation names.
const NAMED_MAX: usize = 1_000;
/// The longest life of a device's certificate, in days.
const DEVICE_DAYS_MAX: u32 = 3_650;
/// 3 years: a device in the field is seldom visited, and can be revoked.
const DEVICE_DAYS: u32 = 1_095;
/// What clients accept at most is less with some (397 days), and no shorter life is needed.
const SERVER_DAYS_MAX: u32 = 825;
const SERVER_DAYS: u32 = 397;

impl Administration {
    pub(super) async fn init_ca(&self) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        let made = self.on_ca(|ca| ca.init()).await?;
        self.sign_list_if_due().await?;
        let facts = self.ca().await?;
        Ok(Answer::Ca(self.ca_line(facts, made)))
    }

    pub(super) async fn show_ca(&self) -> Result<Answer, AdminError> {
        let facts = self.ca().await?;
        Ok(Answer::Ca(self.ca_line(facts, false)))
    }

    pub(super) async fn issue_certificate(
        &self,
        kind: CertificateKind,
        name: String,
        names: Vec<String>,
        days: Option<u32>,
        request: String,
    ) -> Result<Answer, AdminError> {
        let mut warnings = Vec::new();
        let (longest, usual) = match kind {
            CertificateKind::Device => (DEVICE_DAYS_MAX, DEVICE_DAYS),
            CertificateKind::Server => (SERVER_DAYS_MAX, SERVER_DAYS),
        };
        let days = days.unwrap_or(usual);
        if days == 0 || days > longest {
            return Err(AdminError::Days { days, longest });
        }
        let holder = match kind {
            CertificateKind::Device => {
                warnings.extend(check_user_name(&name)?);
                // A device is meant to have one.
                if let Some(user) = self.users.find(&name).filter(|user| !user.device) {
                    let roles = user.roles.join(", ");
                    warnings.push(format!(
                        "there is an account {name:?}: who has this certificate is that user, with the roles [{roles}]"
                    ));
                }
                Holder::Device(name.clone())
            }
            CertificateKind::Server => {
                let all = std::iter::once(&name).chain(&names);
                Holder::Server(
                    all.map(|name| SubjectName::parse(name))
                        .collect::<Result<_, _>>()?,
                )
            }
        };
        let _turn = self.turn().await?;
        let facts = self.ca().await?;
        let issued = self
            .on_ca(move |ca| ca.sign(&holder, days, &request))
            .await?;
        // A certificate that nobody could revoke by its name is not handed out.
        self.accounts
            .add_certificate(&registered(&facts, kind, &name, &issued))
            .await?;
        Ok(Answer::Issued {
            message: format!("certificate {} for {name} issued", issued.serial),
            certificate: issued.pem,
            ca: facts.pem,
            not_after: issued.not_after,
            warnings,
        })
    }

    /// Revokes every certificate with this name, or the one with this serial number, or the one given in PEM.
    pub(super) async fn revoke_certificate(
        &self,
        which: String,
        reason: RevocationReason,
    ) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        let facts = self.ca().await?;
        let which = if which.starts_with("-----BEGIN ") {
            let text = which.into_bytes();
            let found = self.on_ca(move |ca| ca.recognise(&text)).await?;
            let (certificate, serial) = recognised(&facts, found);
            // One that was issued before there was a register, or after its last backup.
            self.accounts.add_certificate(&certificate).await?;
            serial
        } else {
            which
        };
        let (mut words, mut count, mut has_server) = (Vec::new(), 0, false);
        loop {
            let found = self.accounts.certificates_called(&facts.id, &which).await?;
            if found.is_empty() {
                break;
            }
            let ids: Vec<i64> = found.iter().map(|one| one.id).collect();
            self.accounts
                .revoke_certificates(&ids, reason.code())
                .await?;
            count += found.len();
            has_server |= found.iter().any(|one| one.certificate.kind == "server");
            let room = NAMED_MAX.saturating_sub(words.len());
            words.extend(found.iter().take(room).map(|one| {
                let NewCertificate { serial, name, .. } = &one.certificate;
                format!("certificate {serial} of {name} revoked")
            }));
        }
        if count == 0 {
            return Err(AdminError::NoCertificate(which));
        }
        if count > words.len() {
            words.push(format!("and {} more revoked", count - words.len()));
        }
        let signed = self.sign_list().await;
        signed.map_err(|error| AdminError::ListNotSigned(Box::new(error)))?;
        self.tell_of_certificates().await;
        let mut warnings = Vec::new();
        if has_server {
            warnings.push(
                "clients of a server learn this only if they use the revocation list; change what the server uses as well"
                    .to_owned(),
            );
        }
        Ok(done(words.join("\n"), None, warnings))
    }

    /// Revokes the certificates that a device of this name has, and none of a server. Returns how many.
    pub(super) async fn revoke_certificates_of_device(
        &self,
        name: &str,
        reason: RevocationReason,
    ) -> Result<usize, AdminError> {
        let device = CertificateKind::Device.as_str();
        let _turn = self.turn().await?;
        let facts = self.ca().await?;
        let mut count = 0;
        loop {
            let found = self.accounts.certificates_called(&facts.id, name).await?;
            let own = |one: &&StoredCertificate| {
                one.certificate.name == name && one.certificate.kind == device
            };
            let ids: Vec<i64> = found.iter().filter(own).map(|one| one.id).collect();
            if ids.is_empty() {
                break;
            }
            self.accounts
                .revoke_certificates(&ids, reason.code())
                .await?;
            count += ids.len();
        }
        if count > 0 {
            let signed = self.sign_list().await;
            signed.map_err(|error| AdminError::ListNotSigned(Box::new(error)))?;
            self.tell_of_certificates().await;
        }
        Ok(count)
    }

    pub(super) async fn list_issued(&self, after: Option<i64>) -> Result<Answer, AdminError> {
        let facts = self.ca().await?;
        let mut found = self
            .accounts
            .certificates(&facts.id, after.unwrap_or(0), PAGE + 1)
            .await?;
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let certificates = found.into_iter().map(line).collect();
        Ok(Answer::IssuedCertificates { certificates, more })
    }

    /// The revocation list, signed anew if it should be.
    pub(super) async fn revocation_list(&self) -> Result<Answer, AdminError> {
        let _turn = self.turn().await?;
        self.ca().await?;
        self.sign_list_if_due().await?;
        let (list, path) = self
            .on_ca(|ca| Ok((ca.revocation_list()?, ca.revocation_list_path())))
            .await?;
        Ok(Answer::RevocationList {
            list: list.unwrap_or_default(),
            path: path.display().to_string(),
        })
    }

    /// Brings the register and the revocation list up to date: registers the gateway's own certificate, which the CA
    /// issues by itself, and signs the list if it is missing, lacks something, or is past half of its life. Does
    /// nothing where there is no CA. To be called at start and now and then.
    pub async fn keep_ca(&self) -> Result<(), AdminError> {
        let _turn = self.turn().await?;
        let Some(facts) = self.on_ca(|ca| ca.facts()).await? else {
            return Ok(());
        };
        let own = self
            .on_ca(|ca| match std::fs::read(ca.source().certificate()) {
                Ok(text) => ca.recognise(&text).map(Some),
                Err(_) => Ok(None),
            })
            .await;
        // A certificate that is not of this CA is about to be renewed.
        if let Ok(Some(found)) = own {
            let (certificate, _) = recognised(&facts, found);
            self.accounts.add_certificate(&certificate).await?;
        }
        if self.sign_list_if_due().await? {
            self.tell_of_certificates().await;
        }
        Ok(())
    }

    /// Tells the live sessions that another list is signed.
    async fn tell_of_certificates(&self) {
        let revoked = match self.revoked_fingerprints().await {
            Ok(revoked) => revoked,
            Err(error) => {
                tracing::error!(%error, "which certificates are revoked is not known for sessions of before the start");
                Vec::new()
            }
        };
        self.tell(|live| live.certificates_changed(revoked)).await;
    }

    /// SHA-256 fingerprints of certificates that our own CA revoked.
    pub async fn revoked_fingerprints(&self) -> Result<Vec<[u8; 32]>, AdminError> {
        let Some(facts) = self.on_ca(|ca| ca.facts()).await? else {
            return Ok(Vec::new());
        };
        let found = self.accounts.revoked_certificates(&facts.id, 0).await?;
        Ok(found
            .iter()
            .map(|one| one.certificate.fingerprint)
            .collect())
    }

    /// What the operator should know of certificates that outlive the account of their name.
    pub(super) async fn certificates_left(&self, name: &str) -> Vec<String> {
        let Ok(facts) = self.ca().await else {
            return Vec::new();
        };
        let found = self.accounts.certificates_called(&facts.id, name).await;
        let found = found.unwrap_or_default();
        let valid = |one: &&StoredCertificate| {
            one.certificate.name == name && one.certificate.not_after > now()
        };
        let words = |one: &StoredCertificate| {
            let serial = &one.certificate.serial;
            format!(
                "certificate {serial} of {name} still lets it in where client certificates do, without the account's roles: `postern ca revoke {serial}` ends that"
            )
        };
        found.iter().filter(valid).map(words).collect()
    }

    async fn sign_list_if_due(&self) -> Result<bool, AdminError> {
        let due = self.on_ca(|ca| Ok(ca.list_is_due())).await?;
        if !due && !self.accounts.list_lacks().await? {
            return Ok(false);
        }
        self.sign_list().await?;
        Ok(true)
    }

    /// The caller has the turn, so that a longer list is never replaced by a shorter one.
    async fn sign_list(&self) -> Result<(), AdminError> {
        let facts = self.ca().await?;
        let number = self.accounts.next_list_number().await?;
        // What expired is named once more after it did (RFC 5280, 3.3).
        let still = now() - LIST_LIFETIME;
        let revoked = self.accounts.revoked_certificates(&facts.id, still).await?;
        let revoked: Vec<Revoked> = revoked.iter().filter_map(entry).collect();
        let number = u64::try_from(number).unwrap_or(0);
        self.on_ca(move |ca| ca.sign_list(number, &revoked)).await?;
        Ok(self.accounts.list_is_complete().await?)
    }

    async fn ca(&self) -> Result<CaFacts, AdminError> {
        let facts = self.on_ca(|ca| ca.facts()).await?;
        facts.ok_or(AdminError::NoCa)
    }

    fn ca_line(&self, facts: CaFacts, made: bool) -> CaLine {
        CaLine {
            certificate: facts.pem,
            path: facts.path.display().to_string(),
            not_after: facts.not_after,
            made,
        }
    }

    /// Files and signatures are no work for an async worker.
    async fn on_ca<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PrivateCa) -> Result<T, TlsError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let ca = PrivateCa::at(&self.directory);
        let worked = spawn_blocking(move || work(&ca)).await;
        Ok(worked.map_err(|_| AdminError::Died)??)
    }
}

fn registered(
    facts: &CaFacts,
    kind: CertificateKind,
    name: &str,
    issued: &Issued,
) -> NewCertificate {
    NewCertificate {
        issuer: facts.id.clone(),
        serial: issued.serial.clone(),
        kind: kind.as_str().to_owned(),
        name: name.to_owned(),
        fingerprint: issued.fingerprint,
        not_after: issued.not_after,
    }
}

fn recognised(facts: &CaFacts, found: Recognised) -> (NewCertificate, String) {
    let kind = match found.is_server {
        true => CertificateKind::Server,
        false => CertificateKind::Device,
    };
    let certificate = NewCertificate {
        issuer: facts.id.clone(),
        serial: found.serial.clone(),
        kind: kind.as_str().to_owned(),
        name: found.name,
        fingerprint: found.fingerprint,
        not_after: found.not_after,
    };
    (certificate, found.serial)
}

fn line(stored: StoredCertificate) -> IssuedLine {
    IssuedLine {
        id: stored.id,
        kind: stored.certificate.kind,
        name: stored.certificate.name,
        serial: stored.certificate.serial,
        fingerprint: broker_config::Fingerprint(stored.certificate.fingerprint).to_string(),
        issued_at: stored.issued_at,
        not_after: stored.certificate.not_after,
        revoked_at: stored.revocation.map(|one| one.at),
        reason: stored
            .revocation
            .map(|one| RevocationReason::of(one.reason).as_str().to_owned()),
    }
}

fn entry(stored: &StoredCertificate) -> Option<Revoked> {
    let revocation = stored.revocation?;
    Some(Revoked {
        serial: stored.certificate.serial.clone(),
        at: revocation.at,
        reason: revocation.reason,
    })
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| elapsed.as_secs() as i64)
}
