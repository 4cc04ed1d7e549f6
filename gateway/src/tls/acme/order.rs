//! How does an order become a certificate? One order (RFC 8555, 7.4), new or taken up where a restart
//! or a failure left it: names proven, key and request sent, chain fetched. What is done with the
//! chain is `renewals`' question.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};

use super::super::SubjectName;
use super::super::certificate::unix_seconds;
use super::account::{self, explain};
use super::challenges::{Challenges, Published};
use super::hook::Action;
use super::problem;
use super::state::{OrderUnderWay, StateFile, TxtRecord};
use super::transport::Transport;
use super::{AcmeError, Ca, Challenge, Wanted, key};

/// How long the CA may take for one step. Let's Encrypt needs seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile; it may ask for longer pauses.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(PATIENCE);

/// How old an order may be that is taken up, in seconds: whatever it waits for must not stand in the
/// way of a new one for ever.
const ORDER_MAX: i64 = 86_400;

/// What an order needs beside itself.
pub(super) struct Issuer {
    pub ca: Ca,
    /// `<data directory>/acme/`.
    pub directory: PathBuf,
    pub account: Account,
    pub transport: Transport,
    pub challenges: Arc<Challenges>,
}

/// A chain as the CA issued it, unchecked, with its key: PEM.
pub(super) struct Issued {
    pub chain: String,
    pub private_key: String,
}

impl Issuer {
    /// Carries an order through. `present_key` is the key to keep, if one is to be kept;
    /// `replaces` the certificate that this one is for (RFC 9773, 5).
    ///
    /// # Errors
    /// [`AcmeError`]. Unless it ends the order, that is kept and taken up by the next call.
    pub async fn issue(
        &mut self,
        wanted: &Wanted,
        file: &mut StateFile,
        present_key: Option<&str>,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Issued, AcmeError> {
        self.clean_up(file).await;
        let mut order = match self.resume(file).await? {
            Some(order) => order,
            None => self.begin(wanted, file, replaces).await?,
        };
        let outcome = self.carry(&mut order, wanted, file, present_key).await;
        match &outcome {
            Err(error) if error.ends_order() || order.state().status == OrderStatus::Invalid => {
                forget(file).await;
            }
            // The CA still works on it, or will take it later.
            Err(_) => {}
            // Kept until the certificate is installed: a crash until then takes it from the CA again.
            Ok(_) => {}
        }
        outcome
    }

    /// The order under way, if there is one that can still become a certificate.
    async fn resume(&mut self, file: &mut StateFile) -> Result<Option<Order>, AcmeError> {
        let Some(under_way) = file.state.order.clone() else {
            return Ok(None);
        };
        let now = unix_seconds(std::time::SystemTime::now());
        if !(0..ORDER_MAX).contains(&(now - under_way.begun_at)) {
            tracing::info!("the order under way got nowhere in a day: a new one is made");
            forget(file).await;
            return Ok(None);
        }
        let found = self.account.order(under_way.url.clone()).await;
        let mut order = match found.map_err(|error| self.explain(error)) {
            Ok(order) => order,
            Err(error) if !is_gone(&error) => return Err(error),
            Err(error) => {
                tracing::info!(%error, "the order under way is gone at the CA: a new one is made");
                forget(file).await;
                return Ok(None);
            }
        };
        let status = order.state().status;
        let lost_key = file.pending_key().is_none();
        // Its request named a key that is no more.
        let useless = matches!(status, OrderStatus::Valid | OrderStatus::Processing) && lost_key;
        if status == OrderStatus::Invalid || useless {
            tracing::info!(
                ?status,
                "the order under way has come to nothing: a new one is made"
            );
            forget(file).await;
            return Ok(None);
        }
        tracing::info!(
            order = under_way.url,
            ?status,
            "the order under way is taken up"
        );
        Ok(Some(order))
    }

    async fn begin(
        &mut self,
        wanted: &Wanted,
        file: &mut StateFile,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Order, AcmeError> {
        let identifiers: Vec<Identifier> = wanted.names.iter().map(identifier).collect();
        let profile = self.profile(wanted)?;
        let new = || {
            let order = NewOrder::new(&identifiers);
            match &profile {
                Some(profile) => order.profile(profile),
                None => order,
            }
        };
        let mut made = match replaces {
            Some(replaces) => match self.account.new_order(&new().replaces(replaces)).await {
                // Not every CA takes it, and one that issued the replacement already refuses it
                // (RFC 9773, 5): an ordinary order is what remains.
                Err(error) if is_about_replacing(&error) => {
                    tracing::debug!(%error, "ordered without saying what is replaced");
                    self.account.new_order(&new()).await
                }
                made => made,
            },
            None => self.account.new_order(&new()).await,
        };
        if let Err(instant_acme::Error::Api(problem)) = &made
            && problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
        {
            self.account =
                account::register_again(&self.directory, &self.ca, &self.transport).await?;
            made = self.account.new_order(&new()).await;
        }
        let order = made.map_err(|error| self.explain(error))?;
        file.clear_pending_key();
        file.state.order = Some(OrderUnderWay {
            url: order.url().to_owned(),
            begun_at: unix_seconds(std::time::SystemTime::now()),
        });
        // An order that is not remembered is made again, and the CA counts them.
        file.secure().await?;
        tracing::info!(
            certificate = wanted.slot,
            names = wanted
                .names
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
            "ordered a certificate"
        );
        Ok(order)
    }

    /// The profile to ask for: the configured one, which the CA must have; for IP addresses the
    /// short-lived one, if it has it.
    fn profile(&self, wanted: &Wanted) -> Result<Option<String>, AcmeError> {
        let offered: Vec<&str> = self
            .account
            .profiles()
            .map(|profile| profile.name)
            .collect();
        match &wanted.profile {
            Some(profile) if offered.contains(&profile.as_str()) => Ok(Some(profile.clone())),
            Some(profile) => Err(AcmeError::NoProfile {
                profile: profile.clone(),
                offered: match offered.is_empty() {
                    true => "none".to_owned(),
                    false => offered.join(", "),
                },
            }),
            None => {
                let address = wanted
                    .names
                    .iter()
                    .any(|name| matches!(name, SubjectName::Ip(_)));
                let short = address && offered.contains(&Wanted::SHORT_LIVED);
                Ok(short.then(|| Wanted::SHORT_LIVED.to_owned()))
            }
        }
    }

    async fn carry(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        file: &mut StateFile,
        present_key: Option<&str>,
    ) -> Result<Issued, AcmeError> {
        if order.state().status == OrderStatus::Pending {
            self.prove(order, wanted, file).await?;
        }
        if order.state().status == OrderStatus::Ready {
            self.finalize(order, wanted, file, present_key).await?;
        }
        let polled = order.poll_certificate(&POLL).await;
        let chain = match polled.map_err(|error| self.explain(error)) {
            Ok(chain) => chain,
            Err(error) => return Err(self.why(order, wanted, error).await),
        };
        let private_key = file.pending_key().ok_or_else(|| {
            AcmeError::Unusable("its private key is gone from the data directory".to_owned())
        })?;
        Ok(Issued { chain, private_key })
    }

    async fn finalize(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        file: &mut StateFile,
        present_key: Option<&str>,
    ) -> Result<(), AcmeError> {
        let present = present_key.map(str::to_owned);
        let (names, key_type, kept) = (wanted.names.clone(), wanted.key_type, file.clone());
        let request = tokio::task::spawn_blocking(move || {
            let private_key = match present.or_else(|| kept.pending_key()) {
                Some(key) => key,
                None => key_type.generate()?,
            };
            // On disk before the CA hears of it: a certificate without its key is lost.
            kept.set_pending_key(&private_key)?;
            key::request(&names, &private_key)
        });
        let request = request
            .await
            .map_err(|_| AcmeError::Unusable("no key could be made".to_owned()))??;
        order
            .finalize_csr(&request)
            .await
            .map_err(|error| self.explain(error))
    }

    /// Proves every name that the CA does not take for proven.
    async fn prove(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        file: &mut StateFile,
    ) -> Result<(), AcmeError> {
        let published = self.publish(order, wanted, file).await;
        let outcome = match &published {
            Ok(_) => self.validate(order, wanted).await,
            Err(_) => Ok(()),
        };
        self.clean_up(file).await;
        drop(published?);
        outcome
    }

    /// Makes the answers to all challenges ready. What it gives keeps them ready.
    async fn publish(
        &self,
        order: &mut Order,
        wanted: &Wanted,
        file: &mut StateFile,
    ) -> Result<Vec<Published>, AcmeError> {
        let mut published = Vec::new();
        let mut records = 0;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.explain(error))?;
            let name = authorization.identifier().to_string();
            if !is_ordered(wanted, &name) {
                return Err(AcmeError::Stranger { name });
            }
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let offered: Vec<String> = authorization
                .challenges
                .iter()
                .map(|challenge| format!("{:?}", challenge.r#type))
                .collect();
            let Some(challenge) = authorization.challenge(wanted.challenge.into()) else {
                return Err(AcmeError::NoChallenge {
                    challenge: wanted.challenge,
                    name,
                    offered: offered.join(", "),
                });
            };
            let answer = challenge.key_authorization();
            match wanted.challenge {
                Challenge::Http01 => {
                    let token = &challenge.token;
                    published.push(self.challenges.publish_http(token, answer.as_str()));
                }
                Challenge::TlsAlpn01 => {
                    let subject = SubjectName::parse(&name)?;
                    let digest = answer.digest();
                    published.push(self.challenges.publish_tls(&subject, digest.as_ref())?);
                }
                Challenge::Dns01 => {
                    let domain = name.strip_prefix("*.").unwrap_or(&name).to_owned();
                    let record = TxtRecord {
                        name: format!("_acme-challenge.{domain}"),
                        domain,
                        value: answer.dns_value(),
                    };
                    self.present(record, file).await?;
                    records += 1;
                }
            }
        }
        if records > 0
            && let Some(hook) = &self.ca.hook
        {
            tokio::time::sleep(hook.propagation).await;
        }
        Ok(published)
    }

    async fn present(&self, record: TxtRecord, file: &mut StateFile) -> Result<(), AcmeError> {
        let hook = self.ca.hook.as_ref().ok_or_else(|| AcmeError::Hook {
            program: PathBuf::new(),
            problem: "is not set: name it in acme.dns_hook".to_owned(),
        })?;
        // Noted first: what was begun is to be cleaned up, whatever happens.
        file.state.records.push(record.clone());
        file.keep().await;
        hook.run(Action::Present, &record).await
    }

    /// Removes the TXT records that are still noted. One that cannot be removed stays noted for the
    /// next time.
    pub async fn clean_up(&self, file: &mut StateFile) {
        if file.state.records.is_empty() {
            return;
        }
        let Some(hook) = &self.ca.hook else { return };
        let mut left = Vec::new();
        for record in std::mem::take(&mut file.state.records) {
            if let Err(error) = hook.run(Action::Cleanup, &record).await {
                tracing::warn!(%error, "a TXT record stays for now");
                left.push(record);
            }
        }
        // A hook that never succeeds must not make the file grow.
        left.truncate(100);
        file.state.records = left;
        file.keep().await;
    }

    /// Lets the CA look, and waits for its verdict.
    async fn validate(&self, order: &mut Order, wanted: &Wanted) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.explain(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let Some(mut challenge) = authorization.challenge(wanted.challenge.into()) else {
                continue;
            };
            if challenge.status == ChallengeStatus::Pending {
                let told = challenge.set_ready().await;
                told.map_err(|error| self.explain(error))?;
            }
        }
        let polled = order.poll_ready(&POLL).await;
        match polled.map_err(|error| self.explain(error)) {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => {
                let nothing = AcmeError::NotProven("a name, and does not say why".to_owned());
                Err(self.why(order, wanted, nothing).await)
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => Err(self.why(order, wanted, error).await),
        }
    }

    /// What the CA says about each name that it could not verify; `otherwise` if it says nothing.
    async fn why(&self, order: &mut Order, wanted: &Wanted, otherwise: AcmeError) -> AcmeError {
        let mut reasons = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() {
                break;
            }
            let name = authorization.identifier().to_string();
            let of_ours = instant_acme::ChallengeType::from(wanted.challenge);
            let failed = authorization
                .challenges
                .iter()
                .filter(|challenge| challenge.r#type == of_ours)
                .find_map(|challenge| challenge.error.as_ref());
            if let Some(failed) = failed {
                reasons.push(problem::reason(&name, failed));
            }
        }
        match reasons.is_empty() {
            true => otherwise,
            false => AcmeError::NotProven(reasons.join("; ")),
        }
    }

    fn explain(&self, error: instant_acme::Error) -> AcmeError {
        explain(error, &self.ca, &self.transport)
    }
}

/// Whether the CA does not know the order any more, or not as ours.
fn is_gone(error: &AcmeError) -> bool {
    matches!(error, AcmeError::Refused(refusal) if !refusal.is_passing())
}

/// Forgets the order under way, and its key.
pub(super) async fn forget(file: &mut StateFile) {
    file.state.order = None;
    file.clear_pending_key();
    file.keep().await;
}

/// Whether an identifier, as the library shows it, is one of the names of this certificate: a CA must
/// not get the hook or a listener to prove anything else.
fn is_ordered(wanted: &Wanted, name: &str) -> bool {
    SubjectName::parse(name).is_ok_and(|name| wanted.names.contains(&name))
}

fn identifier(name: &SubjectName) -> Identifier {
    match name {
        SubjectName::Dns(name) => Identifier::Dns(name.clone()),
        SubjectName::Ip(address) => Identifier::Ip(*address),
    }
}

/// The library wants the CA to repeat what is replaced, and older ones do not.
fn is_about_replacing(error: &instant_acme::Error) -> bool {
    match error {
        instant_acme::Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            kind == "urn:ietf:params:acme:error:alreadyReplaced"
                || kind == "urn:ietf:params:acme:error:malformed"
        }
        instant_acme::Error::Unsupported(_) => true,
        instant_acme::Error::Other(error) => error.to_string().starts_with("replaces field"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tls::acme::KeyType;

    #[test]
    fn only_names_that_were_ordered_are_proven() {
        let names = ["a.example", "*.b.example", "2001:db8::1"];
        let wanted = Wanted {
            slot: "acme".to_owned(),
            names: names
                .iter()
                .map(|n| SubjectName::parse(n).unwrap())
                .collect::<BTreeSet<_>>(),
            challenge: Challenge::Dns01,
            profile: None,
            reuse_key: true,
            key_type: KeyType::EcdsaP256,
            max_chain_bytes: 8_192,
            max_chain_depth: 4,
        };
        for name in names {
            assert!(is_ordered(&wanted, name), "{name}");
        }
        for name in [
            "b.example",
            "x.a.example",
            "*.a.example",
            "192.0.2.1",
            "../x",
            "",
        ] {
            assert!(!is_ordered(&wanted, name), "{name}");
        }
    }

    #[test]
    fn an_order_that_the_ca_still_works_on_is_kept_and_one_that_failed_is_not() {
        let refused = |kind: &str, retry_after| {
            let json = format!(r#"{{"type":"urn:ietf:params:acme:error:{kind}"}}"#);
            let problem = serde_json::from_str(&json).unwrap();
            AcmeError::Refused(Box::new(problem::Refusal::of(&problem, retry_after)))
        };
        let later = Some(std::time::SystemTime::now());
        for kept in [
            AcmeError::TooSlow(120),
            refused("rateLimited", None),
            refused("rateLimited", later),
            refused("serverInternal", later),
            AcmeError::Nonsense("<html>".to_owned()),
        ] {
            assert!(!kept.ends_order() && !is_gone(&kept), "{kept}");
        }
        for over in [
            AcmeError::NotProven("a.example".to_owned()),
            AcmeError::Unusable("it is for b.example".to_owned()),
            refused("badCSR", None),
        ] {
            assert!(over.ends_order(), "{over}");
        }
        assert!(is_gone(&refused("malformed", None)));
    }
}
