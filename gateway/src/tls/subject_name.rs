//! Which names does our server certificate carry? Parses configured server names, and adds what
//! every machine has.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls_pki_types::DnsName;

use super::TlsError;

/// One entry of a certificate's subject alternative names (RFC 5280, 4.2.1.6). DNS names are lower
/// case and have no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectName {
    Dns(String),
    Ip(IpAddr),
}

impl SubjectName {
    /// Parses a DNS name (one leading `*.` label is allowed) or an IP address (IPv6 with or without
    /// brackets).
    ///
    /// # Errors
    /// [`TlsError::ServerName`] with the name and what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, TlsError> {
        let unbracketed = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name);
        if let Ok(address) = unbracketed.parse::<IpAddr>() {
            return Ok(Self::Ip(address));
        }
        let refuse = |problem| TlsError::ServerName {
            name: name.to_owned(),
            problem,
        };
        let dns = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let base = dns.strip_prefix("*.").unwrap_or(&dns);
        if base.is_empty() {
            return Err(refuse("it is empty"));
        }
        if base.contains('*') {
            return Err(refuse("a wildcard may only be the whole first label"));
        }
        // A name that ends in a number would be taken for an IPv4 address by clients (WHATWG URL,
        // 3.5).
        if base
            .rsplit('.')
            .next()
            .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(refuse("it is neither an IP address nor a DNS name"));
        }
        DnsName::try_from(base).map_err(|_| refuse("it is not a valid DNS name"))?;
        Ok(Self::Dns(dns))
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// The names a server certificate of the private CA must cover: this machine's host name,
/// `localhost`, both loopback addresses, and what the operator configured.
///
/// # Errors
/// [`TlsError::ServerName`] for a configured name that is neither a DNS name nor an IP address. A
/// host name that cannot stand in a certificate is left out with a warning: it is not the
/// operator's wish, only the machine's.
pub fn server_names(configured: &[String]) -> Result<BTreeSet<SubjectName>, TlsError> {
    let mut names = BTreeSet::from([
        SubjectName::Dns("localhost".to_owned()),
        SubjectName::Ip(Ipv4Addr::LOCALHOST.into()),
        SubjectName::Ip(Ipv6Addr::LOCALHOST.into()),
    ]);
    for name in configured {
        names.insert(SubjectName::parse(name)?);
    }
    if let Some(host) = host_name() {
        match SubjectName::parse(&host) {
            Ok(name) => {
                names.insert(name);
            }
            Err(error) => {
                tracing::warn!(%error, "the host name is left out of the server certificate")
            }
        }
    }
    Ok(names)
}

fn host_name() -> Option<String> {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_a_dns_name_or_an_ip_address() {
        let dns = |name: &str| SubjectName::Dns(name.to_owned());
        let cases: [(&str, Option<SubjectName>); 14] = [
            ("mqtt.example.org", Some(dns("mqtt.example.org"))),
            ("MQTT.Example.ORG.", Some(dns("mqtt.example.org"))),
            ("*.example.org", Some(dns("*.example.org"))),
            ("my_host", Some(dns("my_host"))),
            (
                "192.0.2.7",
                Some(SubjectName::Ip("192.0.2.7".parse().unwrap())),
            ),
            (
                "[2001:db8::1]",
                Some(SubjectName::Ip("2001:db8::1".parse().unwrap())),
            ),
            (
                "2001:db8::1",
                Some(SubjectName::Ip("2001:db8::1".parse().unwrap())),
            ),
            ("", None),
            ("*", None),
            ("a.*.example.org", None),
            ("bücher.example", None),
            ("300.1.2.3", None),
            ("host name", None),
            ("mqtts://example.org", None),
        ];
        for (input, expected) in cases {
            assert_eq!(SubjectName::parse(input).ok(), expected, "{input:?}");
        }
    }

    #[test]
    fn a_refused_server_name_is_quoted_with_the_remedy() {
        let message = server_names(&["bad name".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("\"bad name\"") && message.contains("IP address"),
            "{message}"
        );
    }

    #[test]
    fn the_machine_s_own_names_are_always_wanted() {
        let names = server_names(&["mqtt.example.org".to_owned()]).unwrap();
        for name in ["localhost", "127.0.0.1", "::1", "mqtt.example.org"] {
            assert!(names.contains(&SubjectName::parse(name).unwrap()), "{name}");
        }
    }
}
