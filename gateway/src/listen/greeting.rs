//! The first packet: CONNECT, read under a deadline and a small cap, checked, answered.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Context,
    certificate::Presented,
    enhanced,
    login::{self, Attempt, Denied},
    noted,
    opening::Opening,
    reserved, sightings,
};
use crate::{
    auth::{Principal, TokenProblem, Wrong},
    mqtt::{
        self, ConnAck, Connect, DecodeError, Decoder, Packet, PeerLimits, ReasonCode, Reply,
        Version, validate_topic_name,
    },
    session::{
        claim::Claimed,
        connection::{Connection, Ending},
        settings::Settings,
    },
};

/// A client that is in: its connection, and what it sent behind its CONNECT.
pub struct Welcome {
    pub connection: Connection,
    pub decoder: Decoder,
    pub rest: BytesMut,
    /// Under which its logins are counted: its user name, unless that may be a token.
    pub name: Arc<str>,
    /// Keep alive that the gateway enforces; `None` where the client wants none and cannot be given one (v3).
    pub keep_alive: Option<Duration>,
    /// The firmware version that it says it has.
    pub firmware: Option<Box<str>>,
}

/// Why a connection got no further than its first packet. Logged; the client was told what it may know.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    #[error("no CONNECT within {0:?}")]
    Deadline(Duration),
    #[error("closed before CONNECT")]
    Closed,
    /// No failure of anybody: we were slow.
    #[error("closed before its CONNECT was answered")]
    Left,
    #[error("read failed: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Packet(#[from] DecodeError),
    #[error("CONNECT refused: {0}")]
    Refused(&'static str),
    /// The client was told less.
    #[error("CONNECT refused: {0}")]
    Token(TokenProblem),
}

/// Reads CONNECT of a client at `address`, finds out who it is, claims the session and sends CONNACK.
pub async fn greet<S>(
    stream: &mut S,
    opening: Box<Opening>,
    context: &Context,
    address: IpAddr,
) -> Result<Box<Welcome>, Rejected>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = context.limits();
    let first = u32::try_from(limits.first_packet_max.bytes()).unwrap_or(u32::MAX);
    let mut decoder = Decoder::new(first);
    let Opening {
        deadline,
        first: mut rest,
        client,
    } = *opening;
    let read = read_connect(stream, &mut decoder, &mut rest);
    let mut connect = match tokio::time::timeout_at(deadline, read).await {
        Ok(Ok(connect)) => connect,
        Ok(Err(rejected)) => {
            if let Rejected::Packet(error) = &rejected {
                answer_error(stream, error, decoder.version()).await;
            }
            return Err(rejected);
        }
        Err(_) => return Err(Rejected::Deadline(limits.connect_timeout)),
    };
    let version = connect.version;
    let peer = PeerLimits {
        maximum_packet_size: connect.maximum_packet_size,
        problem_information: connect.request_problem_information,
    };
    let token = enhanced::token(stream, &mut decoder, &mut rest, &connect, context).await?;
    let settings = context.registry.settings();
    decoder.set_max_packet_size(settings.max_packet_size);
    // I3: however long this takes, it does not count against the deadline for CONNECT.
    let certificate = client.as_ref();
    let name = login::counted_name(&connect, token.as_ref().ok(), context, certificate);
    let wrong = Wrong::default();
    let proven = match token {
        Ok(token) => {
            let attempt = Attempt {
                connect: &connect,
                token: token.as_ref(),
                client: certificate,
                address,
                name: &name,
                wrong: &wrong,
            };
            login::prove(stream, &mut rest, &attempt, context).await?
        }
        Err(refused) => Err(refused.into()),
    };
    let admitted = match proven {
        Ok(principal) => {
            let who = principal.clone();
            let admitted = admit(&mut connect, principal, context, &settings, certificate).await;
            noted::admission(context, &connect, &who, address, admitted.as_ref().err());
            admitted.map_err(Denied::from)
        }
        Err(denied) => {
            noted::kept_out(context, &connect, &name, address, &denied);
            Err(denied)
        }
    };
    let Admitted {
        mut connection,
        connack,
        keep_alive,
    } = match admitted {
        Ok(admitted) => admitted,
        Err(denied) => {
            refuse(stream, denied.reason, denied.told, version, peer).await;
            return Err(denied.rejected());
        }
    };
    connection.set_address(address);
    let connack = Reply::ConnAck(Box::new(connack));
    if let Err(rejected) = confirm(stream, &connack, version, peer, context).await {
        let remains = connection.finish(&Ending::lost());
        context.registry.release(remains).await;
        return Err(rejected);
    }
    // Boxed: whoever waits for it lives as long as its connection.
    Ok(Box::new(Welcome {
        connection,
        decoder,
        rest,
        name,
        keep_alive,
        firmware: sightings::firmware(&connect.user_properties),
    }))
}

/// Sends CONNACK to a client that is in.
async fn confirm<S: AsyncWrite + Unpin>(
    stream: &mut S,
    connack: &Reply,
    version: Version,
    peer: PeerLimits,
    context: &Context,
) -> Result<(), Rejected> {
    let mut out = BytesMut::new();
    let too_large = Rejected::Refused("the client takes no packet as large as CONNACK");
    mqtt::encode(connack, version, peer, &mut out).map_err(|_| too_large)?;
    stream.write_all(&out).await?;
    context.metrics.packets_sent.add(1);
    context.metrics.bytes_sent.add(out.len() as u64);
    Ok(())
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    decoder: &mut Decoder,
    rest: &mut BytesMut,
) -> Result<Box<Connect>, Rejected> {
    loop {
        match decoder.decode(rest)? {
            Some(Packet::Connect(connect)) => return Ok(connect),
            // The decoder lets nothing else be first.
            Some(_) => return Err(Rejected::Refused("the first packet is not CONNECT")),
            None => {}
        }
        rest.reserve(READ);
        if stream.read_buf(rest).await? == 0 {
            return Err(Rejected::Closed);
        }
    }
}

/// Bytes read at once before CONNECT is complete.
pub(super) const READ: usize = 1024;

struct Admitted {
    connection: Connection,
    connack: ConnAck,
    keep_alive: Option<Duration>,
}

/// Lets a client in that has proven who it is.
async fn admit(
    connect: &mut Connect,
    principal: Principal,
    context: &Context,
    settings: &Arc<Settings>,
    client: Option<&Presented>,
) -> Result<Admitted, (ReasonCode, &'static str)> {
    let assigned = connect.client_id.is_empty();
    if assigned {
        connect.client_id = assign_client_id();
    }
    check_will(connect, &principal, context, settings)?;
    reserved::claim(&connect.client_id, &principal, context).await?;
    let asked = connect.session_expiry;
    let claim = context.registry.claim(connect, principal.clone().settled());
    let claimed = claim.await;
    let Claimed {
        connection,
        session_present,
        session_expiry,
    } = claimed.map_err(|refused| (refused.reason(), refused.text()))?;
    // The account may have been disabled while this went on, or the certificate revoked, before its session could be
    // told.
    let certificate_is_good = client.is_none_or(Presented::is_good);
    if !certificate_is_good || !context.authenticator.is_current(&principal) {
        if !certificate_is_good || !context.authenticator.trusts_issuer_of(&principal) {
            context.registry.login_was_revoked(connection.session());
        }
        // P3: no will of somebody who may not be here.
        let ending = Ending {
            farewell: None,
            keeps_will: false,
        };
        context.registry.release(connection.finish(&ending)).await;
        return Err((ReasonCode::NotAuthorized, "the account changed, try again"));
    }
    let (keep_alive, imposed) = keep_alive(connect, settings);
    let connack = ConnAck {
        session_present,
        session_expiry: (session_expiry != asked).then_some(session_expiry),
        receive_maximum: Some(settings.receive_maximum),
        maximum_packet_size: Some(settings.max_packet_size),
        assigned_client_id: assigned.then(|| connect.client_id.clone()),
        topic_alias_maximum: settings.topic_alias_maximum,
        server_keep_alive: imposed,
        // MQTT-4.12.0-5.
        authentication_method: connect.authentication_method.clone(),
        ..ConnAck::new(ReasonCode::Success)
    };
    Ok(Admitted {
        connection,
        connack,
        keep_alive,
    })
}

/// What is answered to a will that may not be sent.
pub(super) const WILL_DENIED: &str = "not allowed to publish to the will topic";

/// The will is checked here, and again when it is sent (S1).
fn check_will(
    connect: &Connect,
    principal: &Principal,
    context: &Context,
    settings: &Settings,
) -> Result<(), (ReasonCode, &'static str)> {
    let Some(will) = &connect.will else {
        return Ok(());
    };
    if validate_topic_name(&will.topic, settings.max_topic_levels).is_err() {
        return Err((
            ReasonCode::TopicNameInvalid,
            "the will topic is not a valid topic name",
        ));
    }
    let permissions = context.registry.permissions(principal, &connect.client_id);
    if !permissions.publish(&will.topic).allowed {
        return Err((ReasonCode::NotAuthorized, WILL_DENIED));
    }
    Ok(())
}

/// S3: v5 clients are told the keep alive that holds; v3 clients above the maximum are watched by TCP.
fn keep_alive(connect: &Connect, settings: &Settings) -> (Option<Duration>, Option<u16>) {
    let maximum = u16::try_from(settings.max_keep_alive.as_secs()).unwrap_or(u16::MAX);
    let within = (1..=maximum).contains(&connect.keep_alive);
    let (seconds, imposed) = match (within, connect.version.is_v5()) {
        (true, _) => (connect.keep_alive, None),
        (false, true) => (maximum, Some(maximum)),
        (false, false) => return (None, None),
    };
    (Some(Duration::from_secs(seconds.into())), imposed)
}

/// A client identifier that nobody guesses: 128 random bits.
fn assign_client_id() -> ByteString {
    let mut random = [0u8; 16];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        // Without randomness the hasher's seed and the clock still keep identifiers apart.
        use std::hash::{BuildHasher, RandomState};
        let state = RandomState::new();
        for half in random.chunks_mut(8) {
            let seed = state.hash_one((std::time::Instant::now(), half.as_ptr()));
            half.copy_from_slice(&seed.to_le_bytes());
        }
    }
    let mut id = String::from("auto-");
    for byte in random {
        use std::fmt::Write;
        let _ = write!(id, "{byte:02x}");
    }
    id.into()
}

/// A CONNECT that could not be read is answered where a CONNACK can be understood: in MQTT 5 as soon as the packet has
/// said that it is that (section 4.13.1), in MQTT 3 where a return code tells the reason.
async fn answer_error<S: AsyncWrite + Unpin>(
    stream: &mut S,
    error: &DecodeError,
    asked: Option<Version>,
) {
    let version = match error {
        DecodeError::UnsupportedProtocolVersion { answer_in, .. } => *answer_in,
        DecodeError::ClientIdentifierNotValid => Version::V311,
        _ if asked.is_some_and(Version::is_v5) => Version::V5,
        _ => return,
    };
    // The maximum packet size of the client may not have been read: the reason code alone.
    let peer = PeerLimits {
        maximum_packet_size: None,
        problem_information: false,
    };
    refuse(stream, error.reason(), "", version, peer).await;
}

async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    reason: ReasonCode,
    why: &str,
    version: Version,
    peer: PeerLimits,
) {
    let mut connack = ConnAck::new(reason);
    connack.reason_string = (!why.is_empty()).then(|| why.into());
    let mut out = BytesMut::new();
    if mqtt::encode(&Reply::ConnAck(Box::new(connack)), version, peer, &mut out).is_ok() {
        let farewell = async {
            stream.write_all(&out).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(super::LINGER, farewell).await;
    }
}
