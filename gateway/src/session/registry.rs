//! All sessions: whose they are, what happens when a connection ends, and when they end themselves.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytestring::ByteString;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{
    agenda::{Agenda, Due},
    claim::Refused,
    connection::Remains,
    departures::Departures,
    disk::Unread,
    mailbox::Notice,
    rechecks::Rechecks,
    session::{House, Rest, Session},
    settings::Settings,
    will::Will,
    witness::Witness,
};
use crate::{
    acl::{Permissions, PolicyHandle},
    auth::{Authenticator, Principal},
    metrics::Metrics,
    routing::{
        bus::{Bus, Origin},
        control::Control,
        endpoint::{Endpoint, SessionId},
        envelope::Envelope,
    },
    store::writer::{Failure, Store},
};

pub struct Registry {
    sessions: Mutex<Sessions>,
    bus: Arc<Bus>,
    store: Arc<Store>,
    policy: Arc<PolicyHandle>,
    settings: ArcSwap<Settings>,
    pub(super) agenda: Agenda,
    pub(super) departures: Arc<Departures>,
    pub(super) rechecks: Arc<Rechecks>,
    witness: Witness,
    metrics: Arc<Metrics>,
    pub(super) next: AtomicU64,
    /// Asks about tokens again.
    pub(super) authenticator: OnceLock<Arc<Authenticator>>,
    /// No session is given any more.
    closing: AtomicBool,
}

#[derive(Default)]
struct Sessions {
    by_client: HashMap<ByteString, Arc<Session>>,
    by_id: HashMap<SessionId, Arc<Session>>,
    /// Sessions of each principal (S5).
    by_owner: HashMap<Owner, usize>,
}

/// Realm and name: a session belongs to a principal, whatever its credential (I1).
type Owner = (Arc<str>, Arc<str>);

/// When something that fell due is looked at again, as the session is in the hands of a connection.
const AGAIN: Duration = Duration::from_secs(1);

impl Registry {
    pub fn new(
        bus: Arc<Bus>,
        store: Arc<Store>,
        policy: Arc<PolicyHandle>,
        settings: Settings,
        witness: Witness,
        metrics: Arc<Metrics>,
    ) -> Arc<Registry> {
        Arc::new(Registry {
            sessions: Mutex::default(),
            bus,
            store,
            policy,
            settings: ArcSwap::from_pointee(settings),
            agenda: Agenda::default(),
            departures: Arc::default(),
            rechecks: Arc::default(),
            witness,
            metrics,
            next: AtomicU64::new(1),
            authenticator: OnceLock::new(),
            closing: AtomicBool::new(false),
        })
    }

    /// Says who asks about tokens again. The first one stays.
    pub fn attach_authenticator(&self, authenticator: Arc<Authenticator>) {
        let _ = self.authenticator.set(authenticator);
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// New limits; connections that are up keep theirs.
    pub fn configure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Why the disk has refused for longer than `store.retry`, if it has (D7).
    pub fn store_failure(&self) -> Option<Failure> {
        self.store.failure()
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn by_id(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions.lock().by_id.get(&id).cloned()
    }

    pub(super) fn by_client(&self, client_id: &str) -> Option<Arc<Session>> {
        self.sessions.lock().by_client.get(client_id).cloned()
    }

    /// A session that was on disk, at rest. `None`: another one has its client identifier.
    pub(super) fn admit_restored(
        &self,
        id: SessionId,
        client_id: &ByteString,
        principal: Principal,
    ) -> Option<Arc<Session>> {
        let mut sessions = self.sessions.lock();
        if sessions.by_client.contains_key(client_id) {
            return None;
        }
        let session = Arc::new(Session::new(
            id,
            client_id.clone(),
            principal,
            self.bus.link_of(client_id),
            &self.policy.load(),
            self.house(),
        ));
        sessions.insert(&session);
        self.metrics.sessions.set(sessions.by_client.len() as u64);
        Some(session)
    }

    pub(super) fn forget_restored(&self, session: &Session) {
        self.sessions.lock().remove(session);
    }

    /// Whether no message of a shared group is on its way from one session to another, and none on disk is to be checked.
    pub fn is_settled(&self) -> bool {
        self.departures.is_idle() && self.rechecks.is_idle()
    }

    fn house(&self) -> House {
        House {
            store: self.store.clone(),
            departures: self.departures.clone(),
            rechecks: self.rechecks.clone(),
            witness: self.witness.clone(),
            metrics: self.metrics.clone(),
        }
    }

    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Whom sessions tell what they decided.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What a principal may do under this client identifier, before it has a session.
    pub fn permissions(&self, principal: &Principal, client_id: &str) -> Permissions {
        super::session::permissions(&self.policy.load(), principal, client_id)
    }

    /// The connection is over: publishes its will or starts its delay, ends the session or puts it to rest.
    pub async fn release(self: &Arc<Self>, remains: Remains) {
        let Remains {
            session,
            mut carry,
            finished,
            will,
            expiry,
        } = remains;
        // P3: the will of a revoked principal is dropped, and its session ends.
        let (will, expiry) = if session.is_revoked() {
            (None, 0)
        } else if session.discredited.load(Relaxed) {
            (None, expiry)
        } else {
            (will, expiry)
        };
        self.metrics.clients_connected.sub(1);
        let shared = session.disconnect(&mut carry, &finished, expiry > 0);
        session.recheck_after_all();
        let mut envelope = Envelope::default();
        if !shared.is_empty() {
            envelope.control(Control::Redistribute(shared));
        }
        // D10: after a drain a client counts as lost, and its will waits for it to come back to the next start.
        if will.is_some() && session.is_known() && self.is_closing() {
            self.send(&session, envelope).await;
            session.save_later();
            return;
        }
        // A will is delayed as long as its session lives, at most (MQTT-3.1.2-8).
        let delay = will
            .as_ref()
            .map_or(Duration::ZERO, Will::delay)
            .min(Duration::from_secs(expiry.into()));
        if expiry == 0 {
            self.send(&session, envelope).await;
            self.end(&session, will).await;
            return;
        }
        session.leave(will.clone(), delay, expiry);
        if let Some(will) = will.filter(|_| delay.is_zero()) {
            will.publish(&session, &mut envelope);
        } else if !delay.is_zero() {
            self.agenda.add(&session, Due::Will, delay);
        }
        self.send(&session, envelope).await;
        let expiry = Duration::from_secs(expiry.into());
        self.agenda.add(&session, Due::Expiry, expiry);
        self.put_to_rest(&session, |rest| rest.received = carry.received)
            .await;
    }

    /// Lets others claim a session that the caller has attached, or ends it if its principal was revoked meanwhile.
    pub(super) async fn put_to_rest(&self, session: &Arc<Session>, leave: impl FnOnce(&mut Rest)) {
        let revoked = {
            let mut rest = session.rest();
            // Whoever revokes it from here on sees that nobody is attached, and ends it.
            let revoked = session.is_revoked();
            if !revoked {
                leave(&mut rest);
                if session.discredited.load(Relaxed) {
                    rest.forget_will();
                }
                rest.attached = false;
            }
            revoked
        };
        if revoked {
            self.end(session, None).await;
        } else {
            session.left.notify_waiters();
        }
    }

    /// What the agenda says is due of a session that nobody may claim meanwhile.
    pub(super) async fn due(self: &Arc<Self>, session: Arc<Session>, due: Due) {
        if due == Due::Token {
            return self.look_after_token(&session);
        }
        let will = {
            let mut rest = session.rest();
            if rest.ended {
                return;
            }
            if rest.attached {
                // Its client is coming or going, and may do so in vain.
                self.agenda.add(&session, due, AGAIN);
                return;
            }
            // Nobody claims the session while its will is on its way to the bus (D10).
            rest.attached = true;
            rest.will.take()
        };
        if due == Due::Expiry {
            self.metrics.sessions_expired.add(1);
            self.end(&session, will).await;
            return;
        }
        let mut envelope = Envelope::default();
        if let Some(will) = will {
            will.publish(&session, &mut envelope);
        }
        self.send(&session, envelope).await;
        self.put_to_rest(&session, |_| {}).await;
    }

    /// Whether no session is given any more.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Tells every connection to leave; the wills of those that do not say goodbye are published.
    pub fn shut_down(&self) {
        self.closing.store(true, Relaxed);
        for session in self.all() {
            session.notify(Notice::ShuttingDown);
        }
    }

    /// Takes from the session that holds the most, while all together hold more than the budget (N4): its connection
    /// ends; where nobody is connected, what waits is dropped.
    pub fn relieve(&self) {
        if self.metrics.memory_held() <= self.settings.load().memory_budget {
            return;
        }
        // What waits for clients that are away is on disk: connected ones hold all the memory there is to give.
        let held = |session: &Arc<Session>| session.queued_bytes() + session.window_bytes();
        let connected = self.all().into_iter().filter(|session| session.is_online());
        let Some(session) = connected.max_by_key(held) else {
            return;
        };
        let client = session.client_id();
        tracing::warn!(
            ?client,
            bytes = held(&session),
            "over limits.memory_budget: the largest holder gives way"
        );
        session.notify(Notice::OutOfMemory);
    }

    pub fn len(&self) -> usize {
        self.sessions.lock().by_client.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().by_client.values().cloned().collect()
    }

    pub(super) fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// Puts something of a session on the bus.
    pub(super) async fn send(&self, session: &Arc<Session>, envelope: Envelope) {
        if envelope.is_empty() {
            return;
        }
        let origin = Origin {
            endpoint: session.clone(),
            epoch: session.epoch(),
        };
        session.sent_envelope(envelope.len());
        self.bus
            .publish_when_possible(session.link(), envelope, Some(origin))
            .await;
    }

    /// Ends a session that is attached by the caller: nobody else can claim it. False if what waits on disk for its shared
    /// groups cannot be read now: it ends when it can, and is nobody's until then.
    pub(super) async fn end(&self, session: &Arc<Session>, will: Option<Will>) -> bool {
        let mut envelope = Envelope::default();
        if let Some(will) = will {
            will.publish(session, &mut envelope);
        }
        if let Err(Unread) = self.see_off_all(session).await {
            self.send(session, envelope).await;
            self.departures.end_later(session);
            return false;
        }
        let (subscriptions, shared) = session.end();
        envelope.control(Control::End {
            subscriptions,
            shared,
        });
        self.send(session, envelope).await;
        self.agenda.forget(session.id());
        {
            let mut sessions = self.sessions.lock();
            sessions.remove(session);
            self.metrics.sessions.set(sessions.by_client.len() as u64);
        }
        self.departures.forget(session.id());
        session.rest().ended = true;
        session.left.notify_waiters();
        true
    }

    /// The session with this client identifier, or a new one.
    pub(super) fn find_or_open(
        &self,
        client_id: &ByteString,
        principal: &Principal,
        settings: &Settings,
    ) -> Result<Found, Refused> {
        let owner = owner(principal);
        let mut sessions = self.sessions.lock();
        if let Some(session) = sessions.by_client.get(client_id) {
            return if self::owner(&session.principal()) == owner {
                Ok(Found::Existing(session.clone()))
            } else {
                self.metrics.sessions_foreign.add(1);
                tracing::warn!(target: "postern::audit", %principal, client = ?client_id, "the client identifier belongs to another principal");
                Err(Refused::Foreign)
            };
        }
        if sessions.by_client.len() >= settings.max_sessions {
            return Err(Refused::Full);
        }
        // Anonymous clients have no name to be counted by; the limit on all sessions holds.
        if !principal.anonymous
            && sessions
                .by_owner
                .get(&owner)
                .is_some_and(|count| *count >= settings.max_sessions_of(&principal.roles))
        {
            return Err(Refused::TooMany);
        }
        // A copy: the identifier is a slice of the buffer that held CONNECT.
        let client_id = ByteString::from(client_id.as_ref() as &str);
        let id = SessionId(self.next.fetch_add(1, Relaxed));
        let link = self.bus.link_of(&client_id);
        let session = Arc::new(Session::new(
            id,
            client_id,
            principal.clone(),
            link,
            &self.policy.load(),
            self.house(),
        ));
        session.rest().attached = true;
        sessions.insert(&session);
        self.metrics.sessions.set(sessions.by_client.len() as u64);
        Ok(Found::Opened(session))
    }
}

/// What there is for a client identifier.
pub(super) enum Found {
    Existing(Arc<Session>),
    /// New, and attached by the caller.
    Opened(Arc<Session>),
}

impl Sessions {
    fn insert(&mut self, session: &Arc<Session>) {
        let owner = owner(&session.principal());
        self.by_client
            .insert(session.client_id().clone(), session.clone());
        self.by_id.insert(session.id(), session.clone());
        *self.by_owner.entry(owner).or_default() += 1;
    }

    fn remove(&mut self, session: &Session) {
        self.by_id.remove(&session.id());
        // Only this very session: the identifier may have been opened anew.
        let same = self
            .by_client
            .get(session.client_id())
            .is_some_and(|found| found.id() == session.id());
        if !same {
            return;
        }
        self.by_client.remove(session.client_id());
        let owner = owner(&session.principal());
        if let Some(count) = self.by_owner.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(&owner);
            }
        }
    }
}

fn owner(principal: &Principal) -> Owner {
    (principal.realm.clone(), principal.name.clone())
}
