//! Logins and refused CONNECTs in the audit log and among the questions for dry runs.

use std::net::IpAddr;

use super::{Context, greeting::WILL_DENIED, login::Denied};
use crate::{
    acl::Action,
    audit::{AuditLog, Kind, Note},
    auth::Principal,
    mqtt::{Connect, ReasonCode},
    session::session::{Session, subject},
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
        let subject = subject(principal, &connect.client_id);
        let decisions = &context.registry.witness().decisions;
        decisions.remember(&subject, Action::Publish, &will.topic);
    }
    if !audit(context).is_on() {
        return;
    }
    let (kind, reason) = match refused {
        None => (Kind::Login, method(principal)),
        Some((ReasonCode::ClientIdentifierNotValid, why)) => (Kind::Takeover, *why),
        Some((_, why)) if *why == WILL_DENIED => (Kind::WillDenied, *why),
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
    denied: &Denied,
) {
    use ReasonCode::{BadUserNameOrPassword, Banned, NotAuthorized, ServerBusy, ServerUnavailable};
    let kind = match denied.reason {
        BadUserNameOrPassword | Banned | NotAuthorized => Kind::LoginFailed,
        _ => Kind::ConnectRefused,
    };
    // No failure of the client, so no ban ends it: made-up names must not push other entries out.
    let principal = match denied.reason {
        ServerBusy | ServerUnavailable => "",
        _ => name,
    };
    let note = Note {
        principal,
        address: Some(address),
        client: &connect.client_id,
        subject: "",
        reason: denied.words(),
    };
    audit(context).note(kind, note);
}

/// A connected client proved anew who it is, or failed to (I4).
pub(super) fn renewal(
    context: &Context,
    session: &Session,
    principal: &Principal,
    address: IpAddr,
    outcome: Result<(), &'static str>,
) {
    let (kind, reason) = match outcome {
        Ok(()) => (Kind::Login, "with a new token, while connected"),
        Err(why) => (Kind::LoginFailed, why),
    };
    let note = Note {
        principal: &principal.to_string(),
        address: Some(address),
        client: session.client_id(),
        subject: "",
        reason,
    };
    audit(context).note(kind, note);
}

fn audit(context: &Context) -> &AuditLog {
    &context.registry.witness().audit
}

fn method(principal: &Principal) -> &'static str {
    match (&principal.certificate, &principal.token) {
        (Some(_), Some(_)) => "with a client certificate and a token",
        (None, Some(_)) => "with a token",
        (Some(_), None) if principal.shown.is_some() => {
            "with a client certificate and a password or secret"
        }
        (Some(_), None) => "with a client certificate",
        (None, None) if principal.anonymous => "anonymous",
        (None, None) => "with a password or secret",
    }
}
