//! Which session does a client get? A new one, its own from before, or none (MQTT 5 §3.1.4, §4.1). What becomes of it when the
//! connection ends is the registry's matter.

use std::{sync::Arc, time::Duration};

use super::{
    connection::{Connection, Ending},
    entitlement::Change,
    mailbox::Notice,
    registry::{Found, Registry},
    session::{Carry, Session},
    settings::Settings,
    will::Will,
};
use crate::{
    auth::Principal,
    mqtt::{Connect, ReasonCode},
    routing::endpoint::Endpoint,
};

/// A connection that has its session.
pub struct Claimed {
    pub connection: Connection,
    /// For CONNACK.
    pub session_present: bool,
    /// Seconds, as granted.
    pub session_expiry: u32,
}

/// Why a client does not get a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The client identifier is in use by another principal (S5).
    Foreign,
    /// All sessions are taken.
    Full,
    /// The principal has as many sessions as it may have.
    TooMany,
    /// The connection that has the session does not let go of it.
    Busy,
    /// The gateway is shutting down.
    Closing,
    /// The session could not be brought to disk (D7).
    Store,
}

/// How long the connection that has a session may take to leave it.
pub(super) const TAKEOVER: Duration = Duration::from_secs(10);

impl Registry {
    /// The session for a CONNECT whose principal is known, taken over from another connection where there is one
    /// (MQTT 5 §3.1.4): what that one still had to publish, its will included, is on the bus when this returns.
    pub async fn claim(
        self: &Arc<Self>,
        connect: &Connect,
        principal: Principal,
    ) -> Result<Claimed, Refused> {
        let settings = self.settings();
        let lasting = settings.session_expiry(connect.session_expiry) > 0 || connect.will.is_some();
        if lasting && self.store().is_failing() {
            return Err(Refused::Store);
        }
        loop {
            if self.is_closing() {
                return Err(Refused::Closing);
            }
            let session = match self.find_or_open(&connect.client_id, &principal, &settings)? {
                Found::Opened(session) => {
                    let claimed = self.begin(session, connect, principal, settings, None);
                    return self.saved(claimed).await;
                }
                Found::Existing(session) => session,
            };
            match session.attach() {
                Attached::Ended => {}
                Attached::Taken => self.take_over(&session).await?,
                // What was to end with its connection, and is there for a will or because of a crash, is no session any
                // more.
                Attached::Free if connect.clean_start || !session.is_persistent() => {
                    self.discard(&session).await?;
                }
                Attached::Free => {
                    let claimed = self.resume(session, connect, principal, settings).await?;
                    return self.saved(claimed).await;
                }
            }
        }
    }

    /// Has the connection that has the session leave it, and waits for that.
    async fn take_over(&self, session: &Session) -> Result<(), Refused> {
        let ends = || self.departures.ends_later(session.id());
        if ends() && self.store().is_failing() {
            return Err(Refused::Store);
        }
        let left = tokio::time::timeout(TAKEOVER, session.take_over()).await;
        left.map_err(|_| match ends() {
            true => Refused::Store,
            false => Refused::Busy,
        })
    }

    /// Ends a session that the caller has attached: it is not to be resumed. With it ends the delay of its will
    /// (MQTT-3.1.2-8).
    async fn discard(&self, session: &Arc<Session>) -> Result<(), Refused> {
        self.agenda.forget(session.id());
        let will = session.rest().interrupt();
        if !self.end(session, will).await {
            return Err(Refused::Store);
        }
        // What a clean start discards does not come back with a crash.
        session.is_forgotten().await;
        Ok(())
    }

    /// Goes on with a session that the caller has attached.
    async fn resume(
        self: &Arc<Self>,
        session: Arc<Session>,
        connect: &Connect,
        principal: Principal,
        settings: Arc<Settings>,
    ) -> Result<Claimed, Refused> {
        let window = tokio::time::timeout(TAKEOVER, session.window()).await;
        let Ok(Ok(window)) = window else {
            // Nothing was taken from it.
            self.put_to_rest(&session, |_| {}).await;
            return Err(Refused::Store);
        };
        self.agenda.forget(session.id());
        let (received, present) = {
            let mut rest = session.rest();
            rest.interrupt();
            let present = !rest.identity.from_backup;
            (std::mem::take(&mut rest.received), present)
        };
        let carry = Some(Carry { window, received });
        let before = session.principal();
        let other_roles = before.roles != principal.roles
            || before.scopes != principal.scopes
            || before.device != principal.device;
        let login = other_roles.then(|| Change::Login(principal.clone()));
        let mut claimed = self.begin(session.clone(), connect, principal, settings, carry);
        claimed.session_present &= present;
        // P3: what it subscribed to is checked by what its login entitles it to now.
        self.recheck(&session, login.as_ref()).await;
        if other_roles {
            session.is_to_be_rechecked();
            self.bus().rights().changed();
        }
        if let Some(filter) = session.take_lost() {
            session.notify(Notice::SubscriptionLost(filter));
        }
        Ok(claimed)
    }

    /// D1: a client hears of its session when the disk has it.
    async fn saved(self: &Arc<Self>, claimed: Claimed) -> Result<Claimed, Refused> {
        if claimed.connection.session().saved().await {
            return Ok(claimed);
        }
        let ending = Ending {
            farewell: None,
            keeps_will: false,
        };
        self.release(claimed.connection.finish(&ending)).await;
        Err(Refused::Store)
    }

    /// Begins a connection of a session that the caller has attached.
    fn begin(
        &self,
        session: Arc<Session>,
        connect: &Connect,
        principal: Principal,
        settings: Arc<Settings>,
        carry: Option<Carry>,
    ) -> Claimed {
        let session_expiry = settings.session_expiry(connect.session_expiry);
        let session_present = carry.is_some();
        let will = connect.will.clone().map(Will::new);
        let lasting = (session_expiry, will);
        let (epoch, was_discredited) =
            session.connect(principal, self.policy(), settings.queue, lasting);
        if was_discredited {
            self.bus().rights().changed();
        }
        self.watch_token(&session);
        self.metrics().clients_connected.add(1);
        let connected = self.metrics().clients_connected.get();
        if connected > self.metrics().clients_maximum.get() {
            self.metrics().clients_maximum.set(connected);
        }
        let connection = Connection::new(
            session,
            epoch,
            carry.unwrap_or_default(),
            connect,
            settings,
            self.metrics().clone(),
        );
        Claimed {
            connection,
            session_present,
            session_expiry,
        }
    }
}

/// What came of the attempt to have a session for oneself.
enum Attached {
    /// It was at rest: nobody else has it from now on.
    Free,
    /// Another connection has it.
    Taken,
    /// It is over.
    Ended,
}

impl Session {
    fn attach(&self) -> Attached {
        let mut rest = self.rest();
        if rest.ended {
            return Attached::Ended;
        }
        if std::mem::replace(&mut rest.attached, true) {
            return Attached::Taken;
        }
        // While nobody can leave a notice for this connection yet.
        self.clear_notice();
        Attached::Free
    }
}

/// An ending that the connection itself did not cause.
impl From<Refused> for Ending {
    fn from(refused: Refused) -> Ending {
        Ending::fault(refused.reason(), refused.text())
    }
}

impl Refused {
    pub fn reason(self) -> ReasonCode {
        match self {
            Refused::Foreign => ReasonCode::ClientIdentifierNotValid,
            Refused::Full => ReasonCode::ServerBusy,
            Refused::TooMany => ReasonCode::QuotaExceeded,
            Refused::Busy => ReasonCode::ServerBusy,
            Refused::Closing => ReasonCode::ServerShuttingDown,
            Refused::Store => ReasonCode::ServerUnavailable,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Refused::Foreign => "the client identifier belongs to another user",
            Refused::Full => "the gateway has as many sessions as it can hold",
            Refused::TooMany => "this user has as many sessions as it may have",
            Refused::Busy => "the session is still in use, try again",
            Refused::Closing => "the gateway is shutting down",
            Refused::Store => "the gateway cannot write to its disk, try again",
        }
    }
}
