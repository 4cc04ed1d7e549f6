//! What does the DNS say about a name? Its addresses, and who may issue for it (CAA, RFC 8659). What
//! it says here may differ from what the CA sees; `preflight` judges with that in mind.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

/// Asks name servers.
pub(super) struct Dns(TokioResolver);

/// One CAA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caa {
    pub critical: bool,
    pub tag: String,
    pub value: String,
}

/// For one answer of one server.
const PATIENCE: Duration = Duration::from_secs(3);
/// A name has at most 127 labels.
const PARENTS_MAX: usize = 127;

impl Dns {
    /// `servers`: whom to ask; the system's if there are none.
    ///
    /// # Errors
    /// In words, if the system's configuration cannot be read.
    pub fn new(servers: &[SocketAddr]) -> Result<Dns, String> {
        let failed = |error: NetError| {
            format!(
                "the DNS cannot be asked: {error}; correct /etc/resolv.conf, or set acme.resolvers"
            )
        };
        let mut builder = match servers.is_empty() {
            true => Resolver::builder_tokio().map_err(failed)?,
            false => {
                let servers = servers.iter().copied().map(name_server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = 2;
        options.cache_size = 0;
        builder.build().map(Dns).map_err(failed)
    }

    /// IPv4 and IPv6 addresses; none if the name does not exist.
    ///
    /// # Errors
    /// In words.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            match self.0.lookup(absolute(name), kind).await {
                Ok(found) => {
                    addresses.extend(found.answers().iter().filter_map(
                        |record| match &record.data {
                            RData::A(address) => Some(IpAddr::V4(address.0)),
                            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                            _ => None,
                        },
                    ));
                }
                Err(error) if error.is_no_records_found() => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(addresses)
    }

    /// The CAA records that count for the name: its own, else those of the nearest parent that has
    /// some (RFC 8659, 3). With the name that has them.
    ///
    /// # Errors
    /// In words.
    pub async fn caa(&self, name: &str) -> Result<Option<(String, Vec<Caa>)>, String> {
        let mut current = name;
        for _ in 0..PARENTS_MAX {
            let found = match self.0.lookup(absolute(current), RecordType::CAA).await {
                Ok(found) => found,
                Err(error) if error.is_no_records_found() => {
                    match current.split_once('.') {
                        Some((_, parent)) if !parent.is_empty() => current = parent,
                        _ => return Ok(None),
                    }
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            let records: Vec<Caa> = found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::CAA(caa) => Some(Caa {
                        critical: caa.issuer_critical,
                        tag: caa.tag.to_ascii_lowercase(),
                        value: String::from_utf8_lossy(&caa.value).into_owned(),
                    }),
                    _ => None,
                })
                .collect();
            if !records.is_empty() {
                return Ok(Some((current.to_owned(), records)));
            }
            match current.split_once('.') {
                Some((_, parent)) if !parent.is_empty() => current = parent,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Whether a CA known by one of these issuer domain names may issue (RFC 8659, 4.2 and 4.3).
pub(super) fn may_issue(records: &[Caa], identities: &[String], wildcard: bool) -> bool {
    const KNOWN: [&str; 5] = [
        "issue",
        "issuewild",
        "iodef",
        "contactemail",
        "contactphone",
    ];
    if records
        .iter()
        .any(|record| record.critical && !KNOWN.contains(&record.tag.as_str()))
    {
        return false;
    }
    let of =
        |tag: &str| -> Vec<&Caa> { records.iter().filter(|record| record.tag == tag).collect() };
    let relevant = match of("issuewild") {
        wild if wildcard && !wild.is_empty() => wild,
        _ => of("issue"),
    };
    let issuer = |record: &Caa| {
        let domain = record.value.split(';').next().unwrap_or_default().trim();
        domain.trim_end_matches('.').to_ascii_lowercase()
    };
    relevant.is_empty()
        || relevant.iter().any(|record| {
            let issuer = issuer(record);
            identities
                .iter()
                .any(|own| own.eq_ignore_ascii_case(&issuer))
        })
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// Without the search list.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caa_record_allows_those_it_names_and_nobody_else() {
        let record = |critical, tag: &str, value: &str| Caa {
            critical,
            tag: tag.to_owned(),
            value: value.to_owned(),
        };
        let ours = ["letsencrypt.org".to_owned()];
        let issue = |value| record(false, "issue", value);
        for (records, wildcard, expected) in [
            (vec![], false, true),
            (vec![issue("letsencrypt.org")], false, true),
            (vec![issue("LetsEncrypt.org; accounturi=x")], false, true),
            (
                vec![issue("other.example"), issue("letsencrypt.org")],
                false,
                true,
            ),
            (vec![issue("other.example")], false, false),
            (vec![issue(";")], false, false),
            (vec![record(false, "iodef", "mailto:a@b")], false, true),
            (vec![record(true, "future", "x")], false, false),
            (vec![record(false, "future", "x")], false, true),
            (
                vec![issue("letsencrypt.org"), record(false, "issuewild", ";")],
                true,
                false,
            ),
            (
                vec![issue("letsencrypt.org"), record(false, "issuewild", ";")],
                false,
                true,
            ),
            (
                vec![
                    issue("other.example"),
                    record(false, "issuewild", "letsencrypt.org"),
                ],
                true,
                true,
            ),
        ] {
            assert_eq!(
                may_issue(&records, &ours, wildcard),
                expected,
                "{records:?} {wildcard}"
            );
        }
    }
}
