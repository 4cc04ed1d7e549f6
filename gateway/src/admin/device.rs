//! What the operator asks about devices, and what is answered: as the control socket carries it.

use serde::{Deserialize, Serialize};

use super::Secret;

/// A command about one device, or all of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "action",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum DeviceCommand {
    /// No roles: the role that devices have unless told otherwise.
    Add {
        name: String,
        roles: Vec<String>,
        certificate: Option<CertificateRequest>,
        reach: ReachedBy,
    },
    /// Another secret; the old one is worth nothing from then on.
    Rotate {
        name: String,
        reach: ReachedBy,
    },
    /// Take everything back: secret, certificates, sessions.
    Revoke {
        name: String,
    },
    Disable {
        name: String,
    },
    Enable {
        name: String,
    },
    /// One page of devices by name, those after `after`.
    List {
        after: Option<String>,
    },
}

/// The client certificate that a new device is to have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS #10 in PEM.
    pub request: String,
    pub days: Option<u32>,
}

/// How devices reach the gateway, where the operator knows better than the gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReachedBy {
    pub host: Option<String>,
    pub port: Option<u16>,
}

/// Everything that a device needs. The secret is not kept and cannot be shown again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceGiven {
    pub message: String,
    /// User name, client identifier and `%d`.
    pub id: String,
    pub secret: Secret,
    pub roles: Vec<String>,
    pub place: Place,
    /// The filters of the rules that allow it to publish, variables replaced.
    pub publish: Vec<String>,
    /// The same for subscribing.
    pub subscribe: Vec<String>,
    pub certificate: Option<GivenCertificate>,
    pub warnings: Vec<String>,
}

/// A client certificate and that of its CA, both in PEM.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GivenCertificate {
    pub certificate: String,
    pub ca: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// Where the gateway is, and by what it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// A DNS name or an IP address.
    pub host: String,
    /// MQTT over TLS.
    pub port: u16,
    /// SHA-256 of the server's SubjectPublicKeyInfo (RFC 7469, 2.4), 64 lower-case digits.
    pub pin: String,
    /// The private CA, where it issued the server's certificate.
    pub ca: Option<DeviceCa>,
}

/// A CA certificate that a device may trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceCa {
    pub path: String,
    /// Of the certificate, `AA:BB:…`.
    pub sha256: String,
}

/// A device, as it is listed. All times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceLine {
    pub name: String,
    pub disabled: bool,
    pub roles: Vec<String>,
    pub created_at: i64,
    /// When it got its present secret, if that is not its first.
    pub rotated_at: Option<i64>,
    pub connected: bool,
    /// When it last came or left.
    pub seen_at: Option<i64>,
    /// From where.
    pub address: Option<String>,
    /// The version of its firmware, if it has ever said so.
    pub firmware: Option<String>,
}

impl DeviceCommand {
    /// What an audit log should say about it, if it changes anything; never a secret.
    pub fn audit(&self) -> Option<String> {
        Some(match self {
            DeviceCommand::Add {
                name,
                roles,
                certificate,
                ..
            } => {
                let with = match certificate {
                    Some(_) => " and a certificate",
                    None => "",
                };
                match roles.is_empty() {
                    true => format!("add the device {name:?} with the usual role{with}"),
                    false => format!("add the device {name:?} with the roles {roles:?}{with}"),
                }
            }
            DeviceCommand::Rotate { name, .. } => {
                format!("give the device {name:?} another secret")
            }
            DeviceCommand::Revoke { name } => format!("revoke the device {name:?}"),
            DeviceCommand::Disable { name } => format!("disable the device {name:?}"),
            DeviceCommand::Enable { name } => format!("enable the device {name:?}"),
            DeviceCommand::List { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::Command;

    #[test]
    fn a_command_about_a_device_reads_back_and_takes_nothing_it_does_not_know() {
        let text = r#"{"command":"device","action":"rotate","name":"lamp","reach":{"host":null,"port":8883}}"#;
        let command: Command = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), text);
        assert!(command.audit().unwrap().contains("lamp"));
        let odd = r#"{"command":"device","action":"revoke","name":"lamp","typo":1}"#;
        assert!(serde_json::from_str::<Command>(odd).is_err());
    }
}
