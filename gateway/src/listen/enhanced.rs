//! Enhanced authentication (MQTT 5 section 4.12) by the method `OAUTH2`: the authentication data is a token, at CONNECT or, if
//! that has none, in an AUTH that the client is asked for; and the same again while the client is connected.

use std::{net::IpAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use super::{
    Context,
    greeting::{READ, Rejected},
    noted,
};
use crate::{
    auth::{Certificate, Credentials, Principal, Refusal, Wrong},
    mqtt::{self, Auth, Connect, Decoder, Packet, PeerLimits, ReasonCode, Reply, Version},
    session::{connection::Ending, session::Session},
};

/// The one method that is offered.
const METHOD: &str = "OAUTH2";

/// What a client gets that wants another method, or any where no issuer is configured.
const NOT_OFFERED: (ReasonCode, &str) = (
    ReasonCode::BadAuthenticationMethod,
    "no such enhanced authentication method is offered",
);
const OUT_OF_TURN: (ReasonCode, &str) = (
    ReasonCode::ProtocolError,
    "an AUTH with authentication data was expected",
);

/// The token of a client that wants enhanced authentication; `None`: it does not. The inner error is for the CONNACK.
pub(super) async fn token<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    rest: &mut BytesMut,
    connect: &Connect,
    context: &Context,
) -> Result<Result<Option<Bytes>, (ReasonCode, &'static str)>, Rejected> {
    let Some(method) = &connect.authentication_method else {
        return Ok(Ok(None));
    };
    if *method != METHOD || !context.authenticator.has_issuers() {
        return Ok(Err(NOT_OFFERED));
    }
    let is_full = |data: &&Bytes| !data.is_empty();
    if let Some(token) = connect.authentication_data.as_ref().filter(is_full) {
        return Ok(Ok(Some(token.clone())));
    }
    let ask = Reply::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some(method.clone()),
        data: None,
        reason_string: None,
        user_properties: Vec::new(),
    });
    let peer = PeerLimits {
        maximum_packet_size: connect.maximum_packet_size,
        problem_information: connect.request_problem_information,
    };
    let mut out = BytesMut::new();
    if mqtt::encode(&ask, Version::V5, peer, &mut out).is_err() {
        return Err(Rejected::Refused(
            "the client takes no packet as large as AUTH",
        ));
    }
    let time = context.limits().connect_timeout;
    let answer = async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        packet(stream, decoder, rest).await
    };
    match tokio::time::timeout_at(Instant::now() + time, answer).await {
        Err(_) => Err(Rejected::Deadline(time)),
        Ok(answer) => Ok(match answer? {
            Packet::Auth(auth)
                if auth.reason == ReasonCode::ContinueAuthentication
                    && auth.method.as_ref() == Some(method)
                    && auth.data.as_ref().is_some_and(|data| !data.is_empty()) =>
            {
                Ok(auth.data)
            }
            Packet::Disconnect(_) => return Err(Rejected::Closed),
            // MQTT-3.1.2-30: nothing else may come before CONNACK.
            _ => Err(OUT_OF_TURN),
        }),
    }
}

async fn packet<S: AsyncRead + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    rest: &mut BytesMut,
) -> Result<Packet, Rejected> {
    loop {
        if let Some(packet) = decoder.decode(rest)? {
            return Ok(packet);
        }
        rest.reserve(READ);
        if stream.read_buf(rest).await? == 0 {
            return Err(Rejected::Closed);
        }
    }
}

/// Lets a connected client prove anew who it is: its session goes on with the new token, or its connection ends (I4).
pub(super) async fn renew(
    context: &Context,
    session: Arc<Session>,
    epoch: u32,
    token: Bytes,
    address: IpAddr,
) -> Result<(), Ending> {
    let before = session.principal();
    let refused = |why: &'static str| {
        noted::renewal(context, &session, &before, address, Err(why));
        Err(Ending::fault(ReasonCode::NotAuthorized, why))
    };
    let (door, authenticator) = (&context.door, &context.authenticator);
    let name = authenticator.name_of_token(&token);
    if door.refuses(address, &name) {
        return refused("too many failed logins of this name from this address");
    }
    let _waiting = context.metrics.logins_waiting.during();
    match verify(context, token, before.certificate.clone(), address, &name).await {
        Ok(principal) if principal.is_same(&before) => {
            context
                .registry
                .renew_login(&session, epoch, principal)
                .await;
            noted::renewal(context, &session, &before, address, Ok(()));
            Ok(())
        }
        Ok(other) => {
            let client = session.client_id();
            tracing::warn!(target: "postern::audit", %address, principal = %before, %other, ?client, "re-authentication as another principal");
            door.login_failed(address, &name);
            refused("the new token is that of another principal")
        }
        // There is no other reason code for it in DISCONNECT (MQTT 5 section 3.14.2.1).
        Err(Refusal::Busy | Refusal::Unavailable) => {
            let why = "the new token cannot be looked at now";
            noted::renewal(context, &session, &before, address, Err(why));
            Err(Ending::fault(ReasonCode::ServerBusy, why))
        }
        Err(refusal) => refused(refusal.words()),
    }
}

/// Who presents this token? Failures count although the client does not wait for the answer.
async fn verify(
    context: &Context,
    token: Bytes,
    certificate: Option<Arc<Certificate>>,
    address: IpAddr,
    name: &str,
) -> Result<Principal, Refusal> {
    let (authenticator, door) = (context.authenticator.clone(), context.door.clone());
    let (metrics, name) = (context.metrics.clone(), name.to_owned());
    let verified = tokio::spawn(async move {
        let credentials = Credentials {
            username: None,
            password: None,
            certificate: certificate.as_ref(),
        };
        // Nobody asks this one for more than the answer.
        let wrong = Wrong::default();
        let verified = authenticator.authenticate_by_token(&token, &credentials, None, &wrong);
        let verified = verified.await;
        if !matches!(verified, Ok(_) | Err(Refusal::Busy | Refusal::Unavailable)) {
            metrics.logins_failed.add(1);
            door.login_failed(address, &name);
        }
        verified
    });
    verified.await.unwrap_or(Err(Refusal::Unavailable))
}
