//! Would an order be in vain? What can be seen from here before the CA is asked, in words. What cannot
//! be known from inside (whether the CA reaches us, what it sees in the DNS) is a warning and never
//! stops an order (rule C2).

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde::{Deserialize, Serialize};

use super::super::SubjectName;
use super::directory::Meta;
use super::dns::{Dns, may_issue};
use super::transport::Transport;
use super::{AcmeError, Ca, Challenge, Doors, Plan, Wanted, directory};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Seen and good.
    Fine,
    /// It may be so on purpose.
    Warning,
    /// An order would fail.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Fine => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        };
        write!(f, "{severity}: {}", self.text)
    }
}

/// What was found for one certificate.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    pub findings: Vec<Finding>,
}

/// More than this off, and new certificates would seem to be of tomorrow or of yesterday. Let's
/// Encrypt dates back by an hour.
const CLOCK_OFF_MAX: i64 = 3_600;
/// A clock that is this far off deserves a word.
const CLOCK_OFF_NOTABLE: i64 = 300;

impl Preflight {
    /// Looks at everything for one certificate of the plan. Takes seconds where a name server is
    /// silent.
    pub async fn run(plan: &Plan, wanted: &Wanted, doors: &dyn Doors) -> Preflight {
        let transport = Transport::new(plan.ca.root.as_deref());
        match transport {
            Ok(transport) => Self::look(&plan.ca, wanted, &transport, doors).await,
            Err(error) => {
                let mut preflight = Preflight::default();
                preflight.add(Severity::Problem, error.to_string());
                preflight
            }
        }
    }

    pub(super) async fn look(
        ca: &Ca,
        wanted: &Wanted,
        transport: &Transport,
        doors: &dyn Doors,
    ) -> Preflight {
        let mut this = Preflight::default();
        let meta = directory::fetch(transport, &ca.directory).await;
        this.authority(ca, &meta);
        if let Some(ahead) = transport.notes().clock_ahead {
            this.clock(ahead);
        }
        this.doors(ca, wanted, doors).await;
        this.names(ca, wanted, meta.ok().unwrap_or_default()).await;
        this
    }

    /// What would make an order fail.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.of(Severity::Problem)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.of(Severity::Warning)
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &str> {
        self.findings
            .iter()
            .filter(move |finding| finding.severity == severity)
            .map(|finding| finding.text.as_str())
    }

    fn add(&mut self, severity: Severity, text: String) {
        self.findings.push(Finding { severity, text });
    }

    fn authority(&mut self, ca: &Ca, meta: &Result<Meta, AcmeError>) {
        match meta {
            Ok(meta) if meta.external_account_required && ca.external_account.is_none() => self
                .add(
                    Severity::Problem,
                    "the CA asks for an external account: set acme.external_account_key_id and \
                 acme.external_account_key_file to what it gave you"
                        .to_owned(),
                ),
            Ok(_) => self.add(
                Severity::Fine,
                format!("the CA answers at {}", ca.directory),
            ),
            Err(error) => self.add(Severity::Problem, error.to_string()),
        }
    }

    fn clock(&mut self, ahead: i64) {
        let direction = if ahead > 0 { "behind" } else { "ahead of" };
        let off = ahead.saturating_abs();
        let text =
            format!("the clock is {off} s {direction} the CA's; set it, or start an NTP client");
        match off {
            0..=CLOCK_OFF_NOTABLE => {
                self.add(Severity::Fine, "the clock agrees with the CA's".to_owned());
            }
            ..=CLOCK_OFF_MAX => self.add(Severity::Warning, text),
            _ => self.add(Severity::Problem, text),
        }
    }

    /// Whether what answers the challenge is in place.
    async fn doors(&mut self, ca: &Ca, wanted: &Wanted, doors: &dyn Doors) {
        match wanted.challenge {
            Challenge::Http01 => match doors.open_http().await {
                Ok(addresses) => {
                    let elsewhere = addresses.iter().all(|address| address.port() != 80);
                    self.port("http-01", 80, &shown(&addresses), elsewhere);
                }
                Err(problem) => self.add(Severity::Problem, problem),
            },
            Challenge::TlsAlpn01 => {
                let addresses = doors.tls_addresses();
                if addresses.is_empty() {
                    let problem = "no listener has TLS, so tls-alpn-01 cannot be answered: add one, \
                                   or set another challenge";
                    return self.add(Severity::Problem, problem.to_owned());
                }
                let elsewhere = addresses.iter().all(|address| address.port() != 443);
                self.port("tls-alpn-01", 443, &shown(&addresses), elsewhere);
            }
            Challenge::Dns01 => match ca.hook.as_ref().map(|hook| hook.problem()) {
                Some(None) => {
                    self.add(Severity::Fine, "the DNS hook is there".to_owned());
                }
                Some(Some(problem)) => self.add(Severity::Problem, problem),
                None => self.add(
                    Severity::Problem,
                    "dns-01 needs a program that sets records: name it in acme.dns_hook".to_owned(),
                ),
            },
        }
    }

    fn port(&mut self, challenge: &str, port: u16, addresses: &str, elsewhere: bool) {
        if elsewhere {
            return self.add(
                Severity::Warning,
                format!(
                    "the CA comes to port {port} for {challenge}, and the gateway listens on \
                     {addresses}: something must forward port {port} there"
                ),
            );
        }
        self.add(
            Severity::Fine,
            format!(
                "{challenge} is answered on {addresses}; whether the CA reaches it shows only then"
            ),
        );
    }

    async fn names(&mut self, ca: &Ca, wanted: &Wanted, meta: Meta) {
        let dns = match Dns::new(&ca.resolvers) {
            Ok(dns) => dns,
            Err(problem) => return self.add(Severity::Warning, problem),
        };
        for name in &wanted.names {
            match name {
                SubjectName::Ip(address) => self.address(*address),
                SubjectName::Dns(name) => {
                    if wanted.challenge != Challenge::Dns01 {
                        self.resolves(&dns, name).await;
                    }
                    self.allowed(&dns, name, &meta.caa_identities).await;
                }
            }
        }
    }

    fn address(&mut self, address: IpAddr) {
        match is_local(address) {
            true => self.add(Severity::Fine, format!("{address} is an address of this machine")),
            false => self.add(
                Severity::Warning,
                format!(
                    "{address} is no address of this machine; that is fine if a router forwards to it"
                ),
            ),
        }
    }

    async fn resolves(&mut self, dns: &Dns, name: &str) {
        let addresses = match dns.addresses(name).await {
            Ok(addresses) => addresses,
            Err(error) => {
                return self.add(
                    Severity::Warning,
                    format!("{name} cannot be resolved: {error}"),
                );
            }
        };
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let list = list.join(", ");
        let foreign: Vec<_> = addresses
            .iter()
            .filter(|address| !is_local(**address))
            .collect();
        match (addresses.is_empty(), foreign.is_empty()) {
            (true, _) => self.add(
                Severity::Warning,
                format!(
                    "{name} has no address in the DNS: add an A or AAAA record for this machine"
                ),
            ),
            (false, true) => self.add(Severity::Fine, format!("{name} resolves here ({list})")),
            (false, false) => self.add(
                Severity::Warning,
                format!(
                    "{name} resolves to {list}, and not all of them are addresses of this machine; \
                     that is fine if a router forwards to it"
                ),
            ),
        }
    }

    async fn allowed(&mut self, dns: &Dns, name: &str, identities: &[String]) {
        let base = name.strip_prefix("*.");
        let found = match dns.caa(base.unwrap_or(name)).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => {
                return self.add(
                    Severity::Warning,
                    format!("the CAA record of {name} cannot be read: {error}"),
                );
            }
        };
        let (owner, records) = found;
        if identities.is_empty() {
            let text = format!(
                "{owner} has a CAA record, and the CA does not say by which name it is known there"
            );
            return self.add(Severity::Warning, text);
        }
        match may_issue(&records, identities, base.is_some()) {
            true => self.add(
                Severity::Fine,
                format!("the CAA record of {owner} allows this CA"),
            ),
            false => {
                let known = identities.join(" or ");
                self.add(
                    Severity::Problem,
                    format!(
                        "the CAA record of {owner} forbids this CA to issue for {name}: add \
                         `issue \"{known}\"` to it, or remove it"
                    ),
                );
            }
        }
    }
}

fn shown(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// Whether it is an address of this machine: only those can be bound.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_a_warning_and_far_off_a_problem() {
        for (ahead, severity, word) in [
            (0, Severity::Fine, "agrees"),
            (-300, Severity::Fine, "agrees"),
            (1_000, Severity::Warning, "1000 s behind"),
            (-86_400, Severity::Problem, "86400 s ahead of"),
            (i64::MIN, Severity::Problem, "ahead of"),
        ] {
            let mut preflight = Preflight::default();
            preflight.clock(ahead);
            let finding = &preflight.findings[0];
            assert_eq!(finding.severity, severity, "{ahead}");
            assert!(finding.text.contains(word), "{finding}");
        }
    }

    // C2
    #[test]
    fn an_address_behind_a_router_is_a_warning_and_no_problem() {
        let mut preflight = Preflight::default();
        preflight.address("192.0.2.7".parse().unwrap());
        preflight.address("127.0.0.1".parse().unwrap());
        assert_eq!(preflight.findings[0].severity, Severity::Warning);
        assert_eq!(preflight.findings[1].severity, Severity::Fine);
    }
}
