//! The commands of the operator and their answers, as the control socket carries them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CertificateDetails, CertificateLine, PartLine};
use crate::acl::{Action, Effect, Explanation};
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
    Explain {
        user: String,
        action: Action,
        topic: String,
        client_id: Option<String>,
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
}

/// What is answered with more than a line: everything the data directory keeps, keys included.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Transfer {
    Backup,
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
    Rules {
        rules: Vec<RuleLine>,
        more: bool,
    },
    Explanation(Explanation),
    /// What does not work as it should, and what to do about it; nothing if all is well.
    Health {
        problems: Vec<String>,
    },
    Certificates {
        certificates: Vec<CertificateLine>,
    },
    Certificate(Box<CertificateDetails>),
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

impl Command {
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
            Command::ListCertificates
            | Command::PreflightCertificate { .. }
            | Command::ShowCertificate { .. }
            | Command::ListUsers { .. }
            | Command::ListRules { .. }
            | Command::Explain { .. }
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
