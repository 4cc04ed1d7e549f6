//! A gateway without sockets, for the tests of this room: real bus, dispatcher and registry, and clients that are
//! driven by hand, one packet at a time.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use broker_config::Config;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    claim::{Claimed, Refused},
    connection::{Connection, Ending},
    departures::Departures,
    mailbox::Mail,
    rechecks::Rechecks,
    registry::Registry,
    session::Session,
    settings::Settings,
    witness::Witness,
};
use crate::{
    acl::{Action, Decisions, Effect, Policy, PolicyHandle, Rule, Who},
    auth::Principal,
    metrics::Metrics,
    mqtt::{
        Ack, Connect, Disconnect, Packet, PacketId, PropertyBlock, Publish, Qos, ReasonCode,
        RetainHandling, Subscribe, SubscribeFilter, Unsubscribe, Version, Will,
    },
    routing::{
        bus::Bus,
        dispatcher::{self, Dispatcher, StoredLimits},
        envelope::Envelope,
        retained::RetainedLimits,
    },
    store::{testing, writer::Store},
};

pub use sent::{Message, Sent};

#[path = "testing_sent.rs"]
mod sent;

/// How long anything may take; it only bounds failures.
pub const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct World {
    pub registry: Arc<Registry>,
    pub bus: Arc<Bus>,
    pub store: Arc<Store>,
    pub policy: Arc<PolicyHandle>,
    pub metrics: Arc<Metrics>,
    pub decisions: Arc<Decisions>,
    /// Where its disk is, as long as anybody may restart it.
    disk: Arc<TempDir>,
    engine: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl World {
    /// Everyone may do everything.
    pub fn new() -> World {
        World::with(|_| {})
    }

    /// With other limits. Must be called inside a runtime, which runs the dispatcher.
    pub fn with(change: impl FnOnce(&mut Settings)) -> World {
        World::retaining(RETAINED, change)
    }

    pub fn retaining(retained: RetainedLimits, change: impl FnOnce(&mut Settings)) -> World {
        let mut settings = Settings::of(&Config::default());
        settings.max_sessions_per_principal = 1000;
        change(&mut settings);
        let policy = Arc::new(PolicyHandle::new(policy(&ALLOW_ALL)));
        World::start(
            Arc::new(tempfile::tempdir().unwrap()),
            policy,
            settings,
            retained,
        )
    }

    fn start(
        disk: Arc<TempDir>,
        policy: Arc<PolicyHandle>,
        settings: Settings,
        retained: RetainedLimits,
    ) -> World {
        let config = Config::default();
        let metrics = Arc::new(Metrics::default());
        let (bus, outlet) = Bus::start(config.router(), 2, PERMITS, metrics.clone()).unwrap();
        let (messages, loaded) = testing::open(disk.path());
        let last_commit = loaded.last_commit;
        let (store, writer) = Store::new(messages, testing::SETTINGS, last_commit, metrics.clone());
        let witness = Witness {
            decisions: Arc::new(Decisions::new(1_000, metrics.clone())),
            ..Witness::default()
        };
        let decisions = witness.decisions.clone();
        let registry = Registry::new(
            bus.clone(),
            store.clone(),
            policy.clone(),
            settings,
            witness,
            metrics.clone(),
        );
        let limits = dispatcher::Limits {
            retained,
            stored: StoredLimits {
                messages: 1000,
                bytes: 1 << 20,
            },
        };
        let mut dispatcher =
            Dispatcher::new(bus.clone(), store.clone(), metrics.clone(), move || limits);
        registry.restore(loaded, &mut dispatcher, Some);
        let engine = vec![
            tokio::spawn(dispatcher.run(outlet)),
            tokio::spawn(writer.run(registry.clone())),
            tokio::spawn(Departures::run(registry.clone())),
            tokio::spawn(Rechecks::run(registry.clone())),
        ];
        World {
            registry,
            bus,
            store,
            policy,
            metrics,
            decisions,
            disk,
            engine: Arc::new(Mutex::new(engine)),
        }
    }

    /// The gateway dies as by SIGKILL and is started again: what is not on disk is gone. Clients of before are cut off.
    pub async fn crash(&self) -> World {
        let engine = std::mem::take(&mut *self.engine.lock());
        for task in engine {
            task.abort();
            let _ = task.await;
        }
        let settings = (*self.registry.settings()).clone();
        World::start(self.disk.clone(), self.policy.clone(), settings, RETAINED)
    }

    /// What is to leave for other members of shared groups stays on disk from now on.
    pub fn hold_departures(&self) {
        self.engine.lock()[DEPARTURES].abort();
    }

    /// The disk refuses from now on, and the gateway with it as soon as something is to be written.
    pub async fn fail(&self) -> testing::Obstacle {
        testing::Obstacle::put(self.disk.path()).await
    }

    /// Waits until the gateway refuses what it cannot store.
    pub async fn until_failing(&self) {
        let start = Instant::now();
        while !self.store.is_failing() {
            assert!(start.elapsed() < DEADLINE, "the store does not fail");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything that was published has passed the dispatcher, and is on disk where it must be.
    pub async fn settle(&self) {
        let start = Instant::now();
        while self.bus.bytes_in_flight() > 0 || !self.store.is_idle() || !self.registry.is_settled()
        {
            assert!(
                start.elapsed() < DEADLINE,
                "something never ends: bytes on the bus {}, store idle {}, departures and rechecks done {}",
                self.bus.bytes_in_flight(),
                self.store.is_idle(),
                self.registry.is_settled()
            );
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    pub async fn claim(&self, connect: &Connect, who: Principal) -> Result<Claimed, Refused> {
        self.registry.claim(connect, who).await
    }

    /// A connected client of the user `user`.
    pub async fn client(&self, connect: Connect) -> Client {
        self.client_of(connect, principal("user")).await
    }

    pub async fn client_of(&self, connect: Connect, who: Principal) -> Client {
        let claim = self.claim(&connect, who);
        let claimed = tokio::time::timeout(DEADLINE, claim)
            .await
            .expect("the claim ends")
            .expect("the client gets its session");
        Client::new(self.clone(), &connect, claimed)
    }

    /// Begins a CONNECT that has to wait for another connection to leave.
    pub fn client_later(&self, connect: Connect) -> tokio::task::JoinHandle<Client> {
        let world = self.clone();
        tokio::spawn(async move { world.client(connect).await })
    }

    /// The policy becomes these rules, for everyone.
    pub async fn allow_only(&self, rules: &[(Effect, Action, &str)]) {
        self.policy.replace(policy(rules));
        self.registry.policy_changed().await;
    }

    pub fn session(&self, client_id: &str) -> Option<Arc<Session>> {
        let mut all = self.registry.all();
        all.retain(|session| *session.client_id() == *client_id);
        all.pop()
    }

    /// Subscriptions in force, once the dispatcher has ended its turn.
    pub async fn subscriptions(&self) -> u64 {
        self.settle().await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.metrics.subscriptions.get()
    }

    /// Nothing is left on the bus and nothing is counted that is not there.
    pub async fn assert_nothing_leaks(&self) {
        self.settle().await;
        assert_eq!(self.bus.bytes_in_flight(), 0);
        let queued: usize = self.registry.all().iter().map(|s| s.queued_bytes()).sum();
        assert_eq!(self.metrics.bytes_queued.get() as usize, queued);
    }
}

/// The place of its task in the engine.
const DEPARTURES: usize = 2;
const PERMITS: u32 = 4 << 20;
const RETAINED: RetainedLimits = RetainedLimits {
    messages: 1000,
    bytes: 1 << 20,
};
pub const ALLOW_ALL: [(Effect, Action, &str); 2] = [
    (Effect::Allow, Action::Publish, "#"),
    (Effect::Allow, Action::Subscribe, "#"),
];

pub fn policy(rules: &[(Effect, Action, &str)]) -> Policy {
    Policy::new(
        rules
            .iter()
            .zip(1..)
            .map(|((effect, action, filter), id)| Rule {
                id,
                effect: *effect,
                action: *action,
                filter: filter.parse().unwrap(),
                who: Who::Everyone,
            }),
    )
}

pub fn principal(name: &str) -> Principal {
    Principal {
        realm: "local".into(),
        name: name.into(),
        roles: [].into(),
        scopes: [].into(),
        device: None,
        account: true,
        shown: None,
        expires_at: None,
        certificate: None,
        token: None,
        anonymous: false,
    }
}

/// A v5 CONNECT with clean start, whose session ends with its connection.
pub fn connect(client_id: &str) -> Connect {
    Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: client_id.into(),
        username: None,
        password: None,
        will: None,
        session_expiry: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        request_response_information: false,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
    }
}

/// A v5 CONNECT that resumes, and whose session stays.
pub fn resume(client_id: &str) -> Connect {
    Connect {
        clean_start: false,
        session_expiry: 3600,
        ..connect(client_id)
    }
}

/// The same in MQTT 3.1.1.
pub fn resume_v3(client_id: &str) -> Connect {
    Connect {
        version: Version::V311,
        session_expiry: u32::MAX,
        ..resume(client_id)
    }
}

pub fn will(topic: &str, payload: &str, delay: u32) -> Option<Box<Will>> {
    Some(Box::new(Will {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delay,
        properties: PropertyBlock::default(),
        message_expiry: None,
    }))
}

/// A PUBLISH at QoS 0, to be changed by the test.
pub fn publish(topic: &str, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: topic.into(),
        packet_id: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        topic_alias: None,
        message_expiry: None,
        properties: PropertyBlock::default(),
    }
}

pub fn publish_at(qos: Qos, id: u16, topic: &str, payload: &str) -> Publish {
    Publish {
        qos,
        packet_id: Some(packet_id(id)),
        ..publish(topic, payload)
    }
}

pub fn packet_id(id: u16) -> PacketId {
    NonZeroU16::new(id).unwrap()
}

pub fn ack(id: u16) -> Ack {
    Ack::new(packet_id(id), ReasonCode::Success)
}

pub fn filter(text: &str, qos: Qos) -> SubscribeFilter {
    SubscribeFilter {
        filter: text.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    }
}

/// A client of whom every packet is in the test's hand: it answers nothing by itself.
pub struct Client {
    pub world: World,
    pub session: Arc<Session>,
    pub session_present: bool,
    pub session_expiry: u32,
    pub version: Version,
    /// Why the gateway ended the connection, once it has.
    pub ending: Option<Ending>,
    connection: Option<Connection>,
    inbox: Vec<Sent>,
    next_id: u16,
}

impl Client {
    pub fn new(world: World, connect: &Connect, claimed: Claimed) -> Client {
        Client {
            world,
            session: claimed.connection.session().clone(),
            session_present: claimed.session_present,
            session_expiry: claimed.session_expiry,
            version: connect.version,
            ending: None,
            connection: Some(claimed.connection),
            inbox: Vec::new(),
            next_id: 0,
        }
    }

    /// One packet to the gateway, and what it yields onto the bus.
    pub async fn send(&mut self, packet: Packet) {
        let envelope = self.hold(packet);
        self.let_go(envelope).await;
    }

    /// One packet to the gateway, which has not come further than this connection.
    pub fn hold(&mut self, packet: Packet) -> Envelope {
        let connection = self.connection.as_mut().unwrap();
        let (mut envelope, mut out) = (Envelope::default(), BytesMut::new());
        let outcome = connection.packet(packet, &mut envelope, &mut out);
        let sent = connection.send_acks(&mut out);
        self.took(out);
        self.note(outcome.and(sent));
        envelope
    }

    /// What was held goes onto the bus.
    pub async fn let_go(&mut self, envelope: Envelope) {
        self.world.registry.send(&self.session, envelope).await;
    }

    pub async fn publish(&mut self, publish: Publish) {
        self.send(Packet::Publish(Box::new(publish))).await;
    }

    /// SUBSCRIBE without waiting for SUBACK.
    pub async fn ask(
        &mut self,
        filters: Vec<SubscribeFilter>,
        subscription_id: Option<u32>,
    ) -> u16 {
        let packet = self.subscribe_packet(filters, subscription_id);
        self.send(packet).await;
        self.next_id
    }

    pub fn subscribe_packet(
        &mut self,
        filters: Vec<SubscribeFilter>,
        subscription_id: Option<u32>,
    ) -> Packet {
        self.next_id += 1;
        Packet::Subscribe(Box::new(Subscribe {
            packet_id: packet_id(self.next_id),
            subscription_id: subscription_id.and_then(NonZeroU32::new),
            filters,
            user_properties: Vec::new(),
        }))
    }

    /// Subscribes and takes SUBACK; what else came stays for [`Client::receive`].
    pub async fn subscribe(&mut self, text: &str, qos: Qos) -> u8 {
        let id = self.ask(vec![filter(text, qos)], None).await;
        self.poll().await;
        let place = self
            .inbox
            .iter()
            .position(|sent| matches!(sent, Sent::SubAck(of, _) if *of == id))
            .expect("SUBACK comes");
        match self.inbox.remove(place) {
            Sent::SubAck(_, reasons) => reasons[0],
            _ => unreachable!(),
        }
    }

    /// Unsubscribes and takes UNSUBACK.
    pub async fn unsubscribe(&mut self, text: &str) -> u8 {
        self.next_id += 1;
        let id = self.next_id;
        self.send(Packet::Unsubscribe(Box::new(Unsubscribe {
            packet_id: packet_id(id),
            filters: vec![text.into()],
            user_properties: Vec::new(),
        })))
        .await;
        self.poll().await;
        let place = self
            .inbox
            .iter()
            .position(|sent| matches!(sent, Sent::UnsubAck(of, _) if *of == id))
            .expect("UNSUBACK comes");
        match self.inbox.remove(place) {
            Sent::UnsubAck(_, reasons) => reasons[0],
            _ => unreachable!(),
        }
    }

    /// Everything the gateway has to say once the bus is empty.
    pub async fn receive(&mut self) -> Vec<Sent> {
        self.poll().await;
        std::mem::take(&mut self.inbox)
    }

    /// What came so far, while the store is not to be waited for.
    pub fn receive_now(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.inbox)
    }

    pub fn connection(&self) -> &Connection {
        self.connection.as_ref().unwrap()
    }

    /// What the client presented to prove anew who it is, and how long it waits: it is good.
    pub fn renew(&mut self, now: Instant) -> Option<(Bytes, Duration)> {
        let connection = self.connection.as_mut().unwrap();
        let presented = connection.take_presented(now);
        let outcome = connection.authenticated_anew(&mut BytesMut::new());
        self.note(outcome);
        presented
    }

    pub fn waits_for_the_disk(&mut self, waker: &Waker) -> bool {
        let connection = self.connection.as_mut();
        connection.is_some_and(|connection| connection.waits_for_the_disk(waker))
    }

    /// The messages of [`Client::receive`]; nothing else may have come.
    pub async fn messages(&mut self) -> Vec<Message> {
        let received = self.receive().await;
        received
            .into_iter()
            .map(|sent| match sent {
                Sent::Publish(message) => message,
                other => panic!("instead of a PUBLISH came {other:?}"),
            })
            .collect()
    }

    /// Their payloads.
    pub async fn payloads(&mut self) -> Vec<String> {
        let messages = self.messages().await;
        messages
            .into_iter()
            .map(|message| message.payload)
            .collect()
    }

    /// Their payloads, each acknowledged at QoS 1.
    pub async fn take(&mut self) -> Vec<String> {
        let mut taken = Vec::new();
        loop {
            let messages = self.messages().await;
            if messages.is_empty() {
                return taken;
            }
            for message in messages {
                if message.qos == 1 {
                    self.send(Packet::PubAck(ack(message.id))).await;
                }
                taken.push(message.payload);
            }
        }
    }

    /// Pulls without waiting for the bus.
    pub fn pull(&mut self) {
        let Some(connection) = self.connection.as_mut().filter(|_| self.ending.is_none()) else {
            return;
        };
        let mut all = BytesMut::new();
        let outcome = loop {
            // The client takes what it is sent: an outbox that stays full brings nothing more.
            let (mut mail, mut out) = (Mail::default(), BytesMut::new());
            let outcome = connection.pull(&mut mail, &mut out, Waker::noop(), Instant::now());
            all.extend_from_slice(&out);
            match outcome {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(ending) => break Err(ending),
            }
        };
        self.took(all);
        self.note(outcome);
    }

    /// The network connection breaks.
    pub async fn vanish(self) {
        self.leave(Ending::lost()).await;
    }

    /// DISCONNECT, with a new session expiry interval or none.
    pub async fn disconnect(mut self, reason: ReasonCode, session_expiry: Option<u32>) {
        self.send(Packet::Disconnect(Box::new(Disconnect {
            session_expiry,
            ..Disconnect::new(reason)
        })))
        .await;
        self.finish().await;
    }

    /// What the gateway does with a connection that it ended.
    pub async fn finish(mut self) {
        let ending = self
            .ending
            .take()
            .expect("the gateway ended the connection");
        self.leave(ending).await;
    }

    /// The network connection breaks while the bus may be full.
    pub async fn abandon(mut self) {
        let remains = self.connection.take().unwrap().finish(&Ending::lost());
        self.world.registry.release(remains).await;
    }

    /// [`Client::finish`] without waiting for the bus to become empty.
    pub async fn finish_now(mut self) {
        let ending = self
            .ending
            .take()
            .expect("the gateway ended the connection");
        let remains = self.connection.take().unwrap().finish(&ending);
        self.world.registry.release(remains).await;
    }

    async fn leave(mut self, ending: Ending) {
        let remains = self.connection.take().unwrap().finish(&ending);
        self.world.registry.release(remains).await;
        self.world.settle().await;
    }

    /// The reason code with which the gateway ended the connection.
    pub fn ended_with(&self) -> Option<ReasonCode> {
        self.ending
            .as_ref()?
            .farewell
            .as_ref()
            .map(|(reason, _)| *reason)
    }

    async fn poll(&mut self) {
        // What is read from disk comes after what was asked for.
        loop {
            self.world.settle().await;
            let before = self.inbox.len();
            self.pull();
            if self.inbox.len() == before && self.world.store.is_idle() {
                return;
            }
        }
    }

    fn took(&mut self, out: BytesMut) {
        self.inbox.extend(sent::parse(self.version, &out));
    }

    fn note(&mut self, outcome: Result<(), Ending>) {
        if let (Err(ending), None) = (outcome, &self.ending) {
            let mut out = BytesMut::new();
            if let Some(connection) = &self.connection {
                connection.farewell(&ending, &mut out);
            }
            self.took(out);
            self.ending = Some(ending);
        }
    }
}
