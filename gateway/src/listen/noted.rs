//! Logins and refused CONNECTs in the audit log and among the questions for dry runs.

use std::net::IpAddr;

use super::Context;
use crate::{
    acl::{Action, Subject},
    audit::{AuditLog, Kind, Note},
    auth::{LOCAL_REALM, Principal},
    mqtt::{Connect, ReasonCode},
};

/// Somebody proved who it is, and was let in or not.
pub(super) fn admission(
    context: &Context,
    connect: &Connect,
    principal: &Principal,
    address: IpAddr,
    refused: Option<&(ReasonCode, &'static str)>,
) {
    if let Some(will) = &connect.will {
        let subject = Subject {
            realm: &principal.realm,
            name: &principal.name,
            client_id: &connect.client_id,
            device: principal.device.as_deref(),
            roles: &principal.roles,
            scopes: &principal.scopes,
        };
        let decisions = &context.registry.witness().decisions;
        decisions.remember(&subject, Action::Publish, &will.topic);
    }
    if !audit(context).is_on() {
        return;
    }
    let (kind, reason) = match refused {
        None => (Kind::Login, method(principal)),
        Some((ReasonCode::ClientIdentifierNotValid, why)) => (Kind::Takeover, *why),
        Some((ReasonCode::NotAuthorized, why)) if why.ends_with("will topic") => {
            (Kind::WillDenied, *why)
        }
        Some((_, why)) => (Kind::ConnectRefused, *why),
    };
    let will = connect.will.as_ref().filter(|_| kind == Kind::WillDenied);
    let note = Note {
        principal: &principal.to_string(),
        address: Some(address),
        client: &connect.client_id,
        subject: will.map_or("", |will| &will.topic),
        reason,
    };
    audit(context).note(kind, note);
}

/// A CONNECT got no further than its credentials.
pub(super) fn kept_out(
    context: &Context,
    connect: &Connect,
    name: &str,
    address: IpAddr,
    (reason, why): (ReasonCode, &'static str),
) {
    use ReasonCode::{BadUserNameOrPassword, Banned, NotAuthorized};
    let kind = match reason {
        BadUserNameOrPassword | Banned | NotAuthorized => Kind::LoginFailed,
        _ => Kind::ConnectRefused,
    };
    let note = Note {
        principal: name,
        address: Some(address),
        client: &connect.client_id,
        subject: "",
        reason: why,
    };
    audit(context).note(kind, note);
}

fn audit(context: &Context) -> &AuditLog {
    &context.registry.witness().audit
}

fn method(principal: &Principal) -> &'static str {
    match principal.certificate {
        Some(_) => "with a client certificate",
        None if principal.anonymous => "anonymous",
        None if *principal.realm == *LOCAL_REALM => "with a password or secret",
        None => "with a token",
    }
}
