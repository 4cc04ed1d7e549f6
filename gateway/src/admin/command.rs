//! The commands of the operator and their answers, as the control socket carries them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    CertificateDetails, CertificateLine, DeviceCommand, DeviceGiven, DeviceLine, PartLine,
    PolicyChange, Question,
};
use crate::acl::{Action, DryRun, Effect, Explanation};
use crate::store::{AuditEntry, AuditQuery};
use crate::tls::acme::Finding;

/// What the operator asks for. One JSON object on the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Command {
    AddUser {
        name: String,
        password: NewPassword,
        roles: Vec<String>,
    },
    SetPassword {
        name: String,
        password: NewPassword,
    },
    SetRoles {
        name: String,
        roles: Vec<String>,
    },
    DisableUser {
        name: String,
    },
    EnableUser {
        name: String,
    },
    RemoveUser {
        name: String,
    },
    /// One page of users by name, those after `after`.
    ListUsers {
        after: Option<String>,
    },
    Device(DeviceCommand),
    /// `who` as in [`crate::acl::Who`]'s text form.
    AddRule {
        effect: Effect,
        action: Action,
        filter: String,
        who: String,
    },
    RemoveRule {
        id: i64,
    },
    /// One page of rules by id, those after `after`.
    ListRules {
        after: Option<i64>,
    },
    /// May this user do this, and by which rule?
    Explain(Question),
    /// What would this change have decided differently? Nothing is changed.
    DryRun {
        change: PolicyChange,
    },
    /// One page of the audit log.
    Audit(AuditQuery),
    /// The bans in force.
    ListBans,
    /// Bans an address or a network; without a time, as long as the gateway runs.
    AddBan {
        network: String,
        seconds: Option<u64>,
    },
    /// Ends every ban in a network.
    LiftBans {
        network: String,
    },
    /// Does everything work?
    Health,
    ListCertificates,
    ShowCertificate {
        name: String,
    },
    /// Renew a certificate of the CA, if it is due or `force`.
    RenewCertificate {
        name: String,
        force: bool,
    },
    /// Put the renewed certificate in force that waits because of its long chain.
    AcceptCertificate {
        name: String,
    },
    /// What can be seen before a certificate is ordered.
    PreflightCertificate {
        name: String,
    },
    /// Serve the previous certificate again.
    RollBackCertificate {
        name: String,
    },
    /// Make the private CA, if there is none.
    InitCa,
    ShowCa,
    /// `request`: PKCS #10 in PEM; its key counts, and nothing else in it. `names`: more names of a server.
    IssueCertificate {
        kind: CertificateKind,
        name: String,
        names: Vec<String>,
        days: Option<u32>,
        request: String,
    },
    /// `which`: a name, a serial number in hexadecimal, or a certificate in PEM.
    RevokeCertificate {
        which: String,
        reason: RevocationReason,
    },
    /// One page of certificates by number, those after `after`.
    ListIssued {
        after: Option<i64>,
    },
    RevocationList,
}

/// What a certificate of the private CA is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateKind {
    Device,
    Server,
}

impl CertificateKind {
    pub fn as_str(self) -> &'static str {
        match self {
            CertificateKind::Device => "device",
            CertificateKind::Server => "server",
        }
    }
}

/// Why a certificate is revoked (RFC 5280, 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationReason {
    Unspecified,
    /// Somebody else has the key, or may have it
    KeyCompromise,
    AffiliationChanged,
    /// It has another certificate now
    Superseded,
    /// It is out of use
    CessationOfOperation,
    PrivilegeWithdrawn,
}

impl RevocationReason {
    const ALL: [(RevocationReason, u8, &str); 6] = [
        (RevocationReason::Unspecified, 0, "unspecified"),
        (RevocationReason::KeyCompromise, 1, "key-compromise"),
        (
            RevocationReason::AffiliationChanged,
            3,
            "affiliation-changed",
        ),
        (RevocationReason::Superseded, 4, "superseded"),
        (
            RevocationReason::CessationOfOperation,
            5,
            "cessation-of-operation",
        ),
        (
            RevocationReason::PrivilegeWithdrawn,
            9,
            "privilege-withdrawn",
        ),
    ];

    pub fn code(self) -> u8 {
        let found = Self::ALL.iter().find(|(reason, ..)| *reason == self);
        found.map_or(0, |(_, code, _)| *code)
    }

    /// A code that is not ours to give counts as unspecified.
    pub fn of(code: u8) -> RevocationReason {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == code);
        found.map_or(RevocationReason::Unspecified, |(reason, ..)| *reason)
    }

    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.iter().find(|(reason, ..)| *reason == self);
        found.map_or("unspecified", |(.., name)| name)
    }
}

/// What takes more than a line.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Transfer {
    /// Answered with everything the data directory keeps, keys included.
    Backup,
    /// Followed by so many bytes: an [`super::Import`].
    Import { bytes: usize },
}

/// The password of a new or changed account.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewPassword {
    Chosen(Secret),
    /// Made by the gateway, and answered once.
    Generated,
}

/// Text that appears in no log and no error: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// What a command gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done; on disk, and in force.
    Done {
        message: String,
        warnings: Vec<String>,
    },
    /// It is done, and this is the generated password; it is not kept and cannot be shown again.
    Password {
        message: String,
        password: Secret,
        warnings: Vec<String>,
    },
    Users {
        users: Vec<UserLine>,
        more: bool,
    },
    /// A device has a secret now; it is not kept and cannot be shown again.
    Given(Box<DeviceGiven>),
    Devices {
        devices: Vec<DeviceLine>,
        more: bool,
    },
    Rules {
        rules: Vec<RuleLine>,
        more: bool,
    },
    Explanation(Explanation),
    DryRun(DryRun),
    /// The newest first.
    Audit {
        entries: Vec<AuditEntry>,
    },
    Bans {
        bans: Vec<BanLine>,
        more: bool,
    },
    /// What does not work as it should, and what to do about it; nothing if all is well.
    Health {
        problems: Vec<String>,
    },
    Certificates {
        certificates: Vec<CertificateLine>,
    },
    Certificate(Box<CertificateDetails>),
    Ca(CaLine),
    /// A certificate in PEM, and that of the CA.
    Issued {
        message: String,
        certificate: String,
        ca: String,
        /// Seconds since 1970.
        not_after: i64,
        warnings: Vec<String>,
    },
    IssuedCertificates {
        certificates: Vec<IssuedLine>,
        more: bool,
    },
    /// In PEM, and where it is kept.
    RevocationList {
        list: String,
        path: String,
    },
    /// What was seen before an order, each with how bad it is.
    Findings {
        findings: Vec<Finding>,
    },
    /// The parts of a backup. Their contents follow, one after the other, without anything between them.
    Backup {
        parts: Vec<PartLine>,
    },
}

/// One line on the control socket, in answer to a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Ok(Answer),
    Error(String),
}

/// A user, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserLine {
    pub name: String,
    /// Whether the password was generated.
    pub generated: bool,
    /// Whether it is stored as another broker stored it: its user has not logged in since the import.
    pub imported: bool,
    /// Whether it is a device, which proves itself by its secret.
    #[serde(default)]
    pub device: bool,
    pub disabled: bool,
    pub roles: Vec<String>,
    /// Seconds since 1970.
    pub created_at: i64,
    /// Seconds since 1970.
    pub changed_at: i64,
}

/// A rule, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleLine {
    pub id: i64,
    pub effect: Effect,
    pub action: Action,
    pub filter: String,
    pub who: String,
}

/// The private CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaLine {
    /// PEM.
    pub certificate: String,
    pub path: String,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Whether it was made just now.
    pub made: bool,
}

/// A certificate of the private CA, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IssuedLine {
    pub id: i64,
    /// `device` or `server`.
    pub kind: String,
    pub name: String,
    /// Hexadecimal.
    pub serial: String,
    /// SHA-256, as `client_fingerprints` takes it.
    pub fingerprint: String,
    /// Seconds since 1970.
    pub issued_at: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Seconds since 1970.
    pub revoked_at: Option<i64>,
    pub reason: Option<String>,
}

/// A ban, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BanLine {
    /// An address or a network.
    pub network: String,
    /// The user name, if only that is refused there.
    pub name: Option<String>,
    /// Seconds that are left; none: as long as the gateway runs.
    pub seconds: Option<u64>,
    pub by_operator: bool,
}

impl Command {
    /// Whether who executes it could pass for the gateway afterwards: for those who may read its keys anyway.
    pub fn needs_trust_with_keys(&self) -> bool {
        let server = CertificateKind::Server;
        matches!(self, Command::IssueCertificate { kind, .. } if *kind == server)
    }

    /// What an audit log should say about it, if it changes anything; never a secret.
    pub fn audit(&self) -> Option<String> {
        Some(match self {
            Command::AddUser { name, roles, .. } => {
                format!("add the user {name:?} with the roles {roles:?}")
            }
            Command::SetPassword { name, .. } => format!("change the password of {name:?}"),
            Command::SetRoles { name, roles } => format!("set the roles of {name:?} to {roles:?}"),
            Command::DisableUser { name } => format!("disable {name:?}"),
            Command::EnableUser { name } => format!("enable {name:?}"),
            Command::RemoveUser { name } => format!("remove {name:?}"),
            Command::Device(command) => return command.audit(),
            Command::AddRule {
                effect,
                action,
                filter,
                who,
            } => {
                format!("add the rule {effect} {action} {filter:?} for {who:?}")
            }
            Command::RemoveRule { id } => format!("remove rule {id}"),
            Command::RenewCertificate { name, force } => match force {
                true => format!("renew the certificate {name:?}, due or not"),
                false => format!("renew the certificate {name:?} if it is due"),
            },
            Command::AcceptCertificate { name } => {
                format!("accept the long chain of the certificate {name:?}")
            }
            Command::RollBackCertificate { name } => {
                format!("go back to the previous certificate of {name:?}")
            }
            Command::InitCa => "make the private CA".to_owned(),
            Command::IssueCertificate {
                kind, name, names, ..
            } => {
                let kind = kind.as_str();
                format!("issue a {kind} certificate for {name:?} and {names:?}")
            }
            Command::RevokeCertificate { which, reason } => {
                let which = match which.starts_with("-----BEGIN") {
                    true => "that was given as a file",
                    false => which,
                };
                format!("revoke the certificate {which:?} ({})", reason.as_str())
            }
            Command::AddBan { network, seconds } => match seconds {
                Some(seconds) => format!("ban {network:?} for {seconds} s"),
                None => format!("ban {network:?}"),
            },
            Command::LiftBans { network } => format!("lift the bans of {network:?}"),
            Command::ListBans
            | Command::ListCertificates
            | Command::PreflightCertificate { .. }
            | Command::ShowCertificate { .. }
            | Command::ListUsers { .. }
            | Command::ListRules { .. }
            | Command::ListIssued { .. }
            | Command::ShowCa
            | Command::RevocationList
            | Command::Explain(_)
            | Command::DryRun { .. }
            | Command::Audit(_)
            | Command::Health => return None,
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_shows_in_debug_output_or_audit_log() {
        let password = NewPassword::Chosen(Secret("hunter2".to_owned()));
        let command = Command::AddUser {
            name: "ann".to_owned(),
            password,
            roles: Vec::new(),
        };
        let text = format!("{command:?} {:?}", command.audit());
        assert!(text.contains("ann") && !text.contains("hunter2"), "{text}");
        let answer = Answer::Password {
            message: String::new(),
            password: Secret("pst_1".to_owned()),
            warnings: Vec::new(),
        };
        assert!(!format!("{answer:?}").contains("pst_1"));
    }

    // N3: members of the group may let devices in, and not pass for the gateway.
    #[test]
    fn only_a_server_certificate_needs_trust_with_keys() {
        for (kind, needed) in [
            (CertificateKind::Server, true),
            (CertificateKind::Device, false),
        ] {
            let command = Command::IssueCertificate {
                kind,
                name: "a".to_owned(),
                names: Vec::new(),
                days: None,
                request: String::new(),
            };
            assert_eq!(command.needs_trust_with_keys(), needed);
            assert!(
                command
                    .audit()
                    .is_some_and(|text| text.contains(kind.as_str()))
            );
        }
        for reason in RevocationReason::ALL {
            assert_eq!(RevocationReason::of(reason.1), reason.0);
            assert_eq!(reason.0.code(), reason.1);
        }
    }

    #[test]
    fn commands_and_replies_are_one_line_of_json_and_read_back() {
        let command = r#"{"command":"add-rule","effect":"allow","action":"publish","filter":"a\n","who":"everyone"}"#;
        let parsed: Command = serde_json::from_str(command).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), command);
        assert!(
            serde_json::from_str::<Command>(r#"{"command":"list-users","after":null,"typo":1}"#)
                .is_err()
        );
        let reply = Reply::Ok(Answer::Done {
            message: "a\nb".to_owned(),
            warnings: Vec::new(),
        });
        let line = serde_json::to_string(&reply).unwrap();
        assert!(
            !line.contains('\n')
                && matches!(
                    serde_json::from_str(&line),
                    Ok(Reply::Ok(Answer::Done { .. }))
                )
        );
    }
}
