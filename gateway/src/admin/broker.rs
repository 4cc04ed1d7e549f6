//! Where do devices find the gateway, and by what do they know it? The name, the port and the certificate that a new
//! device is told.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use broker_config::{Config, Demand, Protocol, Require};

use super::{AdminError, CertificateDesk, DeviceCa, Place};
use crate::tls::private_ca::signing::Prints;
use crate::tls::{
    Certificate, Certificates, Pins, PrivateCa, SubjectName, fingerprint::hex_with_colons,
};

/// What the configuration says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Names that the operator gave the server, the first one first.
    names: Vec<SubjectName>,
    /// Listeners with MQTT over TLS, the first one first.
    doors: Vec<TlsDoor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TlsDoor {
    listener: String,
    port: u16,
    /// Whether a client needs a certificate here.
    required: bool,
    /// Whether a certificate is looked at here.
    looked_at: bool,
    /// Whether a certificate needs a secret as well.
    both: bool,
}

/// The listener that there is without any configuration.
const USUAL: &str = "mqtts";

impl Broker {
    /// `port` gives the port of a listener that is bound already, by its name; the others have that of the
    /// configuration.
    pub fn of(config: &Config, port: impl Fn(&str) -> Option<u16>) -> Broker {
        let names = config.acme.domains.iter().chain(&config.tls.server_names);
        let names = names.filter_map(|name| SubjectName::parse(name).ok());
        let mut doors: Vec<TlsDoor> = config
            .listeners
            .iter()
            .filter(|(_, listener)| {
                listener.is_on() && listener.tls && listener.protocol != Protocol::WebSocket
            })
            .filter_map(|(name, listener)| {
                let clients = &listener.clients;
                let configured = listener.bind.first().map(|address| address.port());
                Some(TlsDoor {
                    listener: name.clone(),
                    port: port(name).or(configured).filter(|port| *port != 0)?,
                    required: clients.demand == Demand::Required,
                    looked_at: clients.demand != Demand::Off,
                    both: clients.demand != Demand::Off && clients.require == Require::Both,
                })
            })
            .collect();
        doors.sort_by_key(|door| door.listener != USUAL);
        Broker {
            names: names.filter(|name| !is_wildcard(name)).collect(),
            doors,
        }
    }

    /// What a device is told; `host` and `port` as the operator wants them, if he says so.
    pub(super) fn place(
        &self,
        desk: &CertificateDesk,
        directory: &Path,
        (host, port): (Option<&str>, Option<u16>),
        with_certificate: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Place, AdminError> {
        let certificates = desk.certificates();
        let host = match host {
            Some(host) => SubjectName::parse(host)?,
            None => self.host(certificates, warnings)?,
        };
        let port = match (port, self.door(with_certificate, warnings)) {
            (Some(port), _) => port,
            (None, Some(door)) => door.port,
            (None, None) => return Err(AdminError::NoDoor),
        };
        let certificate = certificates
            .of_name(&host)
            .ok_or(AdminError::NoServerCertificate)?;
        if !certificate.covers(&[host.clone()].into()) {
            warnings.push(format!(
                "the server's certificate is not for {host}: a device that checks the name, and not the pin, refuses it; \
                 put {host} into tls.server_names, or give --host another name"
            ));
        }
        let ca = match certificate.is_built_in() {
            true => own_ca(directory),
            false => None,
        };
        Ok(Place {
            host: host.to_string(),
            port,
            pin: Pins::of(&certificate).spki_sha256,
            ca,
        })
    }

    /// The name by which the server is reached: the first of the operator's that it has a certificate for, else one of
    /// the certificate that everybody gets.
    fn host(
        &self,
        certificates: &Certificates,
        warnings: &mut Vec<String>,
    ) -> Result<SubjectName, AdminError> {
        let fallback = certificates
            .fallback()
            .ok_or(AdminError::NoServerCertificate)?;
        let covers = |name: &&SubjectName, certificate: &Arc<Certificate>| {
            certificate.covers(&[(*name).clone()].into())
        };
        let slots = certificates.slots();
        let given = self
            .names
            .iter()
            .find(|name| slots.values().any(|certificate| covers(name, certificate)));
        if let Some(name) = given {
            return Ok(name.clone());
        }
        let names = || fallback.names().iter().filter(|name| !is_wildcard(name));
        let dns = names().find(|name| matches!(name, SubjectName::Dns(dns) if dns != LOCALHOST));
        let ip =
            names().find(|name| matches!(name, SubjectName::Ip(address) if !is_local(address)));
        let chosen = dns.or(ip).cloned();
        let chosen = chosen.unwrap_or_else(|| SubjectName::Dns(LOCALHOST.to_owned()));
        if matches!(&chosen, SubjectName::Dns(dns) if !dns.contains('.')) {
            warnings.push(format!(
                "{chosen} may be known to this machine only: give --host the name by which devices reach it, or put that \
                 into tls.server_names"
            ));
        }
        Ok(chosen)
    }

    /// The first listener that lets it in.
    fn door(&self, with_certificate: bool, warnings: &mut Vec<String>) -> Option<&TlsDoor> {
        let fits = |door: &&TlsDoor| match with_certificate {
            true => door.looked_at,
            false => !door.required,
        };
        if let Some(door) = self.doors.iter().find(fits) {
            if with_certificate && door.both {
                let listener = &door.listener;
                warnings.push(format!(
                    "the listener {listener:?} wants the certificate and the secret"
                ));
            }
            return Some(door);
        }
        let door = self.doors.first()?;
        let listener = &door.listener;
        warnings.push(match with_certificate {
            true => format!(
                "no listener asks for client certificates: set client_certificates in [listeners.{listener}]; until \
                 then the device needs its secret"
            ),
            false => format!(
                "every listener wants a client certificate, {listener:?} too: give the device one with `postern ca \
                 issue device`"
            ),
        });
        Some(door)
    }
}

const LOCALHOST: &str = "localhost";

fn is_wildcard(name: &SubjectName) -> bool {
    matches!(name, SubjectName::Dns(dns) if dns.starts_with("*."))
}

fn is_local(address: &IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// What devices trust where the private CA made the server's certificate.
fn own_ca(directory: &Path) -> Option<DeviceCa> {
    let path = PrivateCa::certificate_in(directory);
    let pem = std::fs::read_to_string(&path).ok()?;
    let prints = Prints::of(&pem)?;
    Some(DeviceCa {
        path: path.display().to_string(),
        sha256: hex_with_colons(&prints.sha256),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{CertificateStore, server_names};
    use tempfile::TempDir;

    struct World {
        dir: TempDir,
        desk: CertificateDesk,
    }

    impl World {
        /// A gateway with the certificate of the private CA for these names.
        fn new(names: &[&str]) -> World {
            let dir = tempfile::tempdir().unwrap();
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let ca = PrivateCa::open(dir.path(), server_names(&names).unwrap()).unwrap();
            let certificates = Certificates::load(&ca.source()).unwrap();
            let desk = CertificateDesk::new(certificates, CertificateStore::new(dir.path()));
            World { dir, desk }
        }

        fn place(
            &self,
            broker: &Broker,
            wanted: (Option<&str>, Option<u16>),
            with_certificate: bool,
        ) -> (Result<Place, AdminError>, Vec<String>) {
            let mut warnings = Vec::new();
            let (desk, dir) = (&self.desk, self.dir.path());
            let place = broker.place(desk, dir, wanted, with_certificate, &mut warnings);
            (place, warnings)
        }
    }

    fn config(change: impl FnOnce(&mut Config)) -> Broker {
        let mut config = Config::default();
        change(&mut config);
        Broker::of(&config, |_| None)
    }

    #[test]
    fn a_device_is_told_the_operators_name_the_usual_port_the_ca_and_the_pin() {
        let world = World::new(&["mqtt.example.org"]);
        let broker = config(|config| {
            config.tls.server_names = vec!["*.example.net".into(), "mqtt.example.org".into()];
        });
        let (place, warnings) = world.place(&broker, (None, None), false);
        let place = place.unwrap();
        assert_eq!(
            (place.host.as_str(), place.port),
            ("mqtt.example.org", 8883)
        );
        assert_eq!(warnings, [""; 0]);
        let ca = place.ca.unwrap();
        assert!(ca.path.ends_with("tls/ca.pem") && ca.sha256.len() == 95);
        let source = PrivateCa::source_in(world.dir.path());
        let leaf = Certificate::load(&source).unwrap();
        assert_eq!(place.pin, Pins::of(&leaf).spki_sha256);
    }

    #[test]
    fn what_the_operator_says_wins_and_a_name_without_certificate_is_warned_of() {
        let world = World::new(&[]);
        let broker = config(|_| {});
        let (place, warnings) = world.place(&broker, (Some("localhost"), Some(443)), false);
        assert_eq!(place.unwrap().port, 443);
        assert_eq!(warnings, [""; 0]);
        let (place, warnings) = world.place(&broker, (Some("other.example.org"), None), false);
        assert_eq!(place.unwrap().host, "other.example.org");
        assert!(
            warnings[0].contains("not for other.example.org"),
            "{warnings:?}"
        );
        let (refused, _) = world.place(&broker, (Some("no name"), None), false);
        assert!(matches!(refused, Err(AdminError::Tls(_))));
    }

    #[test]
    fn a_port_that_is_bound_wins_over_the_configured_one_and_without_a_listener_there_is_none() {
        let world = World::new(&["a.example.org"]);
        let bound = Broker::of(&Config::default(), |name| {
            (name == "mqtts").then_some(40_001)
        });
        assert_eq!(
            world.place(&bound, (None, None), false).0.unwrap().port,
            40_001
        );
        let closed = config(|config| {
            config
                .listeners
                .values_mut()
                .for_each(|listener| listener.bind.clear());
        });
        let (refused, _) = world.place(&closed, (None, None), false);
        assert!(matches!(refused, Err(AdminError::NoDoor)), "{refused:?}");
        let (given, _) = world.place(&closed, (None, Some(8883)), false);
        assert_eq!(given.unwrap().port, 8883);
    }

    #[test]
    fn a_listener_that_asks_for_certificates_is_for_devices_that_have_one() {
        let world = World::new(&["a.example.org"]);
        let broker = config(|config| {
            let mut strict = config.listeners["mqtts"].clone();
            strict.clients.demand = Demand::Required;
            strict.bind[0].set_port(8884);
            config.listeners.insert("a-strict".to_owned(), strict);
        });
        let port = |with: bool| world.place(&broker, (None, None), with).0.unwrap().port;
        assert_eq!((port(false), port(true)), (8883, 8884));
        let none = config(|_| {});
        let (place, warnings) = world.place(&none, (None, None), true);
        assert_eq!(place.unwrap().port, 8883);
        assert!(
            warnings
                .iter()
                .any(|text| text.contains("client_certificates")),
            "{warnings:?}"
        );
    }
}
