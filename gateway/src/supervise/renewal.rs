//! What does the configuration ask of the CA, and what is the renewal loop made of?

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use broker_config::{self as configured, Config};

use super::Addresses;
use super::certificates::Served;
use crate::listen::http01::{self, ChallengeDoor};
use crate::metrics::Metrics;
use crate::tls::acme::{
    Ca, Challenge, Challenges, DnsHook, Doors, ExternalAccount, Finding, KeyType, Parts, Plan,
    Preflight, PrivateRenewal, Renewals, Wanted, find,
};
use crate::tls::{Certificates, PrivateCa, SubjectName, TlsError};

/// The slot of `[acme] domains`.
pub const ACME_SLOT: &str = "acme";

/// The loop, and what answers the CA. Nothing runs yet, but port 80 is bound where it is needed: with
/// the rights that a start has.
pub(super) async fn prepare(
    config: &Arc<ArcSwap<Config>>,
    directory: &Path,
    served: &Served,
    addresses: &Addresses,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Renewals>, Arc<Challenges>), TlsError> {
    let challenges = Challenges::new(metrics.clone())?;
    let doors = doors(config, addresses, &challenges, metrics);
    let planned = config.clone();
    let private_ca = served.private_ca.clone().map(|ca| {
        let certificates = served.certificates.clone();
        let renew = move || renew_private(&ca, &certificates);
        Arc::new(renew) as PrivateRenewal
    });
    if needs_http(&plan(&config.load())) {
        // What is in the way is told by the loop.
        let _ = doors.open_http().await;
    }
    let renewals = Renewals::new(Parts {
        plan: Box::new(move || plan(&planned.load())),
        data_directory: directory.to_owned(),
        certificates: served.certificates.clone(),
        challenges: challenges.clone(),
        doors,
        private_ca,
        metrics: metrics.clone(),
    });
    // File I/O.
    let loading = renewals.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || loading.load()).await {
        tracing::error!(%error, "kept certificates could not be loaded");
    }
    Ok((renewals, challenges))
}

/// What is on disk is compared with what is served each time: a swap that failed is made up for. Whether
/// another certificate is served now.
fn renew_private(ca: &PrivateCa, certificates: &Certificates) -> Result<bool, TlsError> {
    ca.renew_if_due(SystemTime::now())?;
    certificates.reload(&ca.source())
}

/// What can be seen before an order, without a gateway that runs. The port for HTTP-01 is bound for the
/// time of looking.
///
/// # Errors
/// In words, if there is no such certificate.
pub async fn preflight(config: &Config, slot: &str) -> Result<Vec<Finding>, String> {
    let plan = plan(config);
    let wanted = find(&plan, slot)?;
    let metrics = Arc::new(Metrics::default());
    let challenges = Challenges::new(metrics.clone()).map_err(|error| error.to_string())?;
    let listeners = config.listeners.values();
    let tls = listeners.filter(|listener| listener.is_on() && listener.tls);
    let settings = http01::Settings {
        bind: config.acme.http_bind.clone(),
        max_connections: config.acme.max_http_connections,
        tls: tls
            .flat_map(|listener| listener.bind.iter().copied())
            .collect(),
    };
    let door = ChallengeDoor::new(settings, challenges, |_| false, metrics);
    Ok(Preflight::run(&plan, wanted, &*door).await.findings)
}

fn doors(
    config: &Arc<ArcSwap<Config>>,
    addresses: &Addresses,
    challenges: &Arc<Challenges>,
    metrics: &Arc<Metrics>,
) -> Arc<ChallengeDoor> {
    let now = config.load();
    let has_tls = |name: &str| now.listeners.get(name).is_some_and(|listener| listener.tls);
    let tls: Vec<SocketAddr> = addresses
        .iter()
        .filter(|(name, _)| has_tls(name))
        .flat_map(|(_, bound)| bound.iter().copied())
        .collect();
    let settings = http01::Settings {
        bind: now.acme.http_bind.clone(),
        max_connections: now.acme.max_http_connections,
        tls,
    };
    let planned = config.clone();
    let serves = move |host: &str| {
        let name = SubjectName::parse(host);
        let plan = plan(&planned.load());
        name.is_ok_and(|name| {
            plan.certificates
                .iter()
                .any(|own| own.names.contains(&name))
        })
    };
    ChallengeDoor::new(settings, challenges.clone(), serves, metrics.clone())
}

fn needs_http(plan: &Plan) -> bool {
    let needs = |wanted: &Wanted| wanted.challenge == Challenge::Http01;
    plan.certificates.iter().any(needs)
}

/// The CA and the certificates that the configuration asks for.
fn plan(config: &Config) -> Plan {
    let acme = &config.acme;
    let external_account = match (
        &acme.external_account_key_id,
        &acme.external_account_key_file,
    ) {
        (Some(key_id), Some(key_file)) => Some(ExternalAccount {
            key_id: key_id.clone(),
            key_file: key_file.clone(),
        }),
        _ => None,
    };
    let hook = acme
        .dns_hook
        .split_first()
        .map(|(program, arguments)| DnsHook {
            program: program.into(),
            arguments: arguments.to_vec(),
            timeout: acme.dns_hook_timeout,
            propagation: acme.dns_propagation,
        });
    Plan {
        ca: Ca {
            directory: acme.directory.clone(),
            root: acme.directory_root.clone(),
            contact: acme.contact.clone(),
            external_account,
            hook,
            resolvers: acme.resolvers.clone(),
        },
        certificates: certificates(config),
    }
}

fn certificates(config: &Config) -> Vec<Wanted> {
    let acme = &config.acme;
    let blank = configured::Certificate {
        domains: acme.domains.clone(),
        ..configured::Certificate::default()
    };
    let first = std::iter::once((ACME_SLOT, &blank));
    let others = config
        .certificates
        .iter()
        .map(|(name, own)| (name.as_str(), own));
    first
        .chain(others)
        .filter(|(_, own)| !own.domains.is_empty())
        .map(|(slot, own)| Wanted {
            slot: slot.to_owned(),
            names: names(&own.domains),
            challenge: challenge(own.challenge.unwrap_or(acme.challenge)),
            profile: own.profile.clone().or_else(|| acme.profile.clone()),
            reuse_key: own.reuse_key.unwrap_or(acme.reuse_key),
            key_type: key_type(own.key_type.unwrap_or(acme.key_type)),
            max_chain_bytes: own.max_chain_bytes.unwrap_or(acme.max_chain_bytes).bytes(),
            max_chain_depth: own.max_chain_depth.unwrap_or(acme.max_chain_depth),
        })
        .collect()
}

/// Names that the configuration has checked; one that is none all the same is left out, loudly.
fn names(domains: &[String]) -> BTreeSet<SubjectName> {
    let parse = |name: &String| match SubjectName::parse(name) {
        Ok(name) => Some(name),
        Err(error) => {
            tracing::error!(%error, "left out of the order");
            None
        }
    };
    domains.iter().filter_map(parse).collect()
}

fn challenge(challenge: configured::Challenge) -> Challenge {
    match challenge {
        configured::Challenge::Http01 => Challenge::Http01,
        configured::Challenge::TlsAlpn01 => Challenge::TlsAlpn01,
        configured::Challenge::Dns01 => Challenge::Dns01,
    }
}

fn key_type(key_type: configured::KeyType) -> KeyType {
    match key_type {
        configured::KeyType::EcdsaP256 => KeyType::EcdsaP256,
        configured::KeyType::EcdsaP384 => KeyType::EcdsaP384,
        configured::KeyType::Rsa2048 => KeyType::Rsa2048,
        configured::KeyType::Rsa4096 => KeyType::Rsa4096,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // C4
    #[test]
    fn a_renewed_private_certificate_that_was_not_taken_over_is_taken_over_later() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let names =
                BTreeSet::from([name, "localhost"].map(|name| SubjectName::parse(name).unwrap()));
            PrivateCa::open(directory.path(), names).unwrap()
        };
        let certificates = Certificates::load(&open("a.example").source()).unwrap();
        let before = certificates.get(Certificates::DEFAULT_SLOT).unwrap();
        // Renewed on disk, as if the swap had failed.
        let ca = open("b.example");
        assert!(renew_private(&ca, &certificates).unwrap());
        let after = certificates.get(Certificates::DEFAULT_SLOT).unwrap();
        assert!(!before.is_same(&after));
        assert!(!renew_private(&ca, &certificates).unwrap());
    }
}
