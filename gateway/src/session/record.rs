//! A session on its way to the disk: who it belongs to, how far its client has come.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{session::Session, will::Will};
use crate::{
    auth::{Certificate, Principal, TokenLogin},
    mqtt::{self, PropertyBlock, Qos},
    routing::endpoint::Endpoint,
    store::{
        messages::{Rows, SessionRow, Timestamp, WillRow},
        writer::{Change, Refusal},
    },
};

/// What the disk has to know of a session besides its messages.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Session Expiry Interval, seconds.
    pub expiry: u32,
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: Timestamp,
    /// Kept until it is sent or deleted (D10).
    pub will: Option<Will>,
    /// When the will's delay ends, once it runs.
    pub will_due: Option<Timestamp>,
    /// It came from a backup: its client is told, once, that it has no session (D11).
    pub from_backup: bool,
    /// Messages of shared groups, on disk, are to leave it (S4).
    pub departing: bool,
    /// The disk has something else.
    pub changed: bool,
}

/// The change that brings a session's state to the disk.
pub(super) struct Record {
    session: Arc<Session>,
    /// Told whether it is there, or refused.
    told: Option<oneshot::Sender<bool>>,
}

impl Record {
    pub fn new(session: Arc<Session>) -> Record {
        Record {
            session,
            told: None,
        }
    }

    /// With somebody who waits for it.
    pub fn awaited(session: Arc<Session>) -> (Record, oneshot::Receiver<bool>) {
        let (told, waits) = oneshot::channel();
        let record = Record {
            session,
            told: Some(told),
        };
        (record, waits)
    }

    fn tell(&mut self, stored: bool) {
        if let Some(told) = self.told.take() {
            // Whoever waited may have given up.
            let _ = told.send(stored);
        }
    }
}

impl Change for Record {
    fn rows(&mut self, rows: &mut Rows, now: Timestamp) {
        self.session.record(rows, now);
    }

    fn done(mut self: Box<Self>) {
        self.session.recorded();
        self.tell(true);
    }

    fn refused(&mut self, refusal: &mut Refusal) -> bool {
        self.tell(false);
        refusal.is_first(self.session.id().0)
    }
}

/// What else is to be known of a login (P3).
#[derive(Serialize, Deserialize)]
struct Login {
    roles: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<Arc<str>>,
    device: Option<Arc<str>>,
    /// Whether it has an account: without it its session ends at the next start.
    #[serde(default)]
    account: bool,
    anonymous: bool,
    #[serde(default)]
    from_backup: bool,
    /// SHA-256 of the client certificate: one that is revoked while the gateway is down counts at its start (P3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<[u8; 32]>,
    /// Of a login by token, for the same reason. No part of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<Issuer>,
    #[serde(default)]
    departing: bool,
    /// The certificate or the token was revoked.
    #[serde(default)]
    discredited: bool,
}

/// Who vouched for a login (P3).
#[derive(Serialize, Deserialize)]
struct Issuer {
    /// The name of its section in the configuration.
    name: Arc<str>,
    /// What it stood for.
    terms: [u8; 32],
}

impl Issuer {
    fn of(login: &Arc<TokenLogin>) -> Issuer {
        Issuer {
            name: login.issuer().clone(),
            terms: *login.terms(),
        }
    }
}

impl Identity {
    pub fn row(
        &self,
        client_id: &ByteString,
        principal: &Principal,
        discredited: bool,
    ) -> SessionRow {
        let login = Login {
            roles: principal.roles.to_vec(),
            scopes: principal.scopes.to_vec(),
            device: principal.device.clone(),
            account: principal.account,
            anonymous: principal.anonymous,
            from_backup: self.from_backup,
            certificate: principal.certificate.as_ref().map(|one| one.fingerprint),
            issuer: principal.token.as_ref().map(Issuer::of),
            departing: self.departing,
            discredited,
        };
        SessionRow {
            client_id: client_id.clone(),
            realm: principal.realm.clone(),
            name: principal.name.clone(),
            // A struct of strings has no value that cannot be written.
            login: serde_json::to_vec(&login).unwrap_or_default(),
            expiry: self.expiry,
            connected: self.connected,
            since: self.since,
            // P3: that of a login that is discredited is not sent, whatever comes between.
            will: self
                .will
                .as_ref()
                .filter(|_| !discredited)
                .map(|will| WillRow {
                    message: encode(will.message()),
                    due: self.will_due,
                }),
        }
    }

    /// What a start finds: also whether the last login is discredited. The session is not connected any more. `None`: the
    /// row is not one of ours.
    pub fn restore(row: &SessionRow) -> Option<(Identity, Principal, bool)> {
        let login: Login = serde_json::from_slice(&row.login).ok()?;
        let certificate = login.certificate.map(|fingerprint| {
            Arc::new(Certificate {
                realm: row.realm.clone(),
                name: Some(row.name.clone()),
                role: "".into(),
                suffices: true,
                listener: "".into(),
                fingerprint,
                not_after: UNIX_EPOCH,
                chain: Box::default(),
            })
        });
        let token = login
            .issuer
            .map(|issuer| Arc::new(TokenLogin::signed(issuer.name, issuer.terms)));
        let principal = Principal {
            realm: row.realm.clone(),
            name: row.name.clone(),
            roles: login.roles.into(),
            scopes: login.scopes.into(),
            device: login.device,
            account: login.account,
            shown: None,
            expires_at: None,
            certificate,
            token,
            anonymous: login.anonymous,
        };
        let will = row.will.as_ref().and_then(|will| decode(&will.message));
        let identity = Identity {
            expiry: row.expiry,
            connected: row.connected,
            since: row.since,
            will: will.map(|will| Will::new(Box::new(will))),
            will_due: row.will.as_ref().and_then(|will| will.due),
            from_backup: login.from_backup,
            departing: login.departing,
            changed: false,
        };
        Some((identity, principal, login.discredited))
    }

    /// How much of the session expiry interval is left.
    pub fn left(&self, now: Timestamp) -> Duration {
        let gone = u64::try_from(now - self.since).unwrap_or(0);
        Duration::from_secs(u64::from(self.expiry).saturating_sub(gone))
    }
}

const FORM: u8 = 1;
const RETAIN: u8 = 0b0000_0100;
const EXPIRES: u8 = 0b0000_1000;

fn encode(will: &mqtt::Will) -> Vec<u8> {
    let properties = will.properties.as_bytes();
    let mut out = Vec::with_capacity(16 + will.topic.len() + properties.len() + will.payload.len());
    out.put_u8(FORM);
    let flag = |bit, on| if on { bit } else { 0 };
    out.put_u8(
        will.qos as u8 | flag(RETAIN, will.retain) | flag(EXPIRES, will.message_expiry.is_some()),
    );
    out.put_u32_le(will.delay);
    out.put_u32_le(will.message_expiry.unwrap_or(0));
    out.put_u16_le(will.topic.len() as u16);
    out.put_u32_le(properties.len() as u32);
    out.put_slice(will.topic.as_bytes());
    out.put_slice(properties);
    out.put_slice(&will.payload);
    out
}

fn decode(mut bytes: &[u8]) -> Option<mqtt::Will> {
    if bytes.try_get_u8().ok()? != FORM {
        return None;
    }
    let flags = bytes.try_get_u8().ok()?;
    let delay = bytes.try_get_u32_le().ok()?;
    let expiry = bytes.try_get_u32_le().ok()?;
    let topic = usize::from(bytes.try_get_u16_le().ok()?);
    let properties = bytes.try_get_u32_le().ok()? as usize;
    let (topic, rest) = bytes.split_at_checked(topic)?;
    let (properties, payload) = rest.split_at_checked(properties)?;
    Some(mqtt::Will {
        topic: std::str::from_utf8(topic).ok()?.into(),
        payload: Bytes::copy_from_slice(payload),
        qos: *[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]
            .get(usize::from(flags & 0b11))?,
        retain: flags & RETAIN != 0,
        delay,
        properties: PropertyBlock::from_bytes(Bytes::copy_from_slice(properties)),
        message_expiry: (flags & EXPIRES != 0).then_some(expiry),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wall_time_that_passed_counts_against_the_session_expiry() {
        let identity = Identity {
            expiry: 100,
            since: 1_000,
            ..Identity::default()
        };
        assert_eq!(identity.left(1_030), Duration::from_secs(70));
        assert_eq!(identity.left(2_000), Duration::ZERO);
        assert_eq!(
            identity.left(900),
            Duration::from_secs(100),
            "the clock went back (D11)"
        );
    }

    proptest! {
        #[test]
        fn a_will_comes_back(
            topic in "[a-zä/]{1,40}", payload in proptest::collection::vec(any::<u8>(), 0..300), qos in 0usize..3,
            properties in proptest::collection::vec(any::<u8>(), 0..50), retain: bool, delay: u32, message_expiry: Option<u32>,
        ) {
            let will = mqtt::Will {
                topic: topic.into(), payload: payload.into(), retain, delay, message_expiry,
                qos: [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][qos],
                properties: PropertyBlock::from_bytes(properties.into()),
            };
            let back = decode(&encode(&will)).unwrap();
            prop_assert_eq!(&back.topic, &will.topic);
            prop_assert_eq!(&back.payload, &will.payload);
            prop_assert_eq!(back.properties.as_bytes(), will.properties.as_bytes());
            prop_assert_eq!((back.qos, back.retain, back.delay), (will.qos, will.retain, will.delay));
            prop_assert_eq!(back.message_expiry, will.message_expiry);
        }

        #[test]
        fn arbitrary_bytes_are_no_will_or_a_sound_one(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
