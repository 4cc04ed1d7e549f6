//! Any order of connecting, subscribing, publishing, acknowledging, leaving, taking over, expiring and crashing, against
//! a model of what each session is owed: QoS 1 at least once, QoS 2 exactly once, in order, and nothing that was not subscribed to.

use std::{
    cell::RefCell,
    collections::{HashSet, VecDeque},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use proptest::prelude::*;

use crate::{
    mqtt::{Connect, Packet, Publish, Qos, ReasonCode},
    session::{agenda::Due, testing::*},
};

const CLIENTS: usize = 3;
const TOPICS: usize = 2;
/// Small, so that messages wait for the window all the time.
const RECEIVE_MAXIMUM: u16 = 2;

#[derive(Clone, Copy, Debug)]
enum Step {
    Connect {
        client: usize,
        clean: bool,
        lasting: bool,
    },
    Vanish(usize),
    Goodbye {
        client: usize,
        end: bool,
    },
    Subscribe {
        client: usize,
        topic: usize,
        qos: u8,
    },
    Unsubscribe {
        client: usize,
        topic: usize,
    },
    /// `vanish`: the connection breaks before the answer is read.
    Publish {
        client: usize,
        topic: usize,
        qos: u8,
        vanish: bool,
    },
    /// Reads everything and sends this many of the acknowledgements that are due.
    Receive {
        client: usize,
        acks: usize,
    },
    /// Its session expires, if nobody is connected.
    Expire(usize),
    /// The gateway dies and is started again.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    let topic = || 0..TOPICS;
    prop_oneof![
        3 => (client(), prop::bool::weighted(0.2), prop::bool::weighted(0.8))
            .prop_map(|(client, clean, lasting)| Step::Connect { client, clean, lasting }),
        1 => client().prop_map(Step::Vanish),
        1 => (client(), prop::bool::weighted(0.3)).prop_map(|(client, end)| Step::Goodbye { client, end }),
        3 => (client(), topic(), 0..3u8)
            .prop_map(|(client, topic, qos)| Step::Subscribe { client, topic, qos }),
        1 => (client(), topic()).prop_map(|(client, topic)| Step::Unsubscribe { client, topic }),
        8 => (client(), topic(), 0..3u8, prop::bool::weighted(0.1))
            .prop_map(|(client, topic, qos, vanish)| Step::Publish { client, topic, qos, vanish }),
        4 => (client(), 0..5usize).prop_map(|(client, acks)| Step::Receive { client, acks }),
        1 => client().prop_map(Step::Expire),
        1 => Just(Step::Crash),
    ]
}

/// A message between the gateway and a client, as the gateway has to see it.
#[derive(Debug)]
struct InFlight {
    id: u16,
    message: u32,
    qos: u8,
    released: bool,
}

/// A QoS 2 message that a client is not done with.
#[derive(Debug)]
struct Outgoing {
    publish: Publish,
    received: bool,
}

/// A client, and what its session is owed.
#[derive(Default)]
struct Party {
    live: Option<Client>,
    name: String,
    session: bool,
    lasting: bool,
    subscriptions: [Option<u8>; TOPICS],
    /// At effective QoS 0, by this connection.
    fleeting: VecDeque<u32>,
    /// At effective QoS 1 and 2, not sent yet.
    owed: VecDeque<(u32, u8)>,
    in_flight: Vec<InFlight>,
    /// What must come again first, as places in the order of `in_flight`.
    again: VecDeque<u16>,
    /// Identifiers of QoS 2 messages that the application has.
    received: HashSet<u16>,
    due: VecDeque<Packet>,
    exactly_once: HashSet<u32>,
    outgoing: Option<Outgoing>,
    next_id: u16,
}

struct Model {
    world: World,
    parties: Vec<Party>,
    prefix: String,
    next: u32,
}

impl Model {
    fn new(world: World) -> Model {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("case{}", CASES.fetch_add(1, Relaxed));
        let party = |n| Party {
            name: format!("{prefix}-{n}"),
            ..Party::default()
        };
        Model {
            world,
            parties: (0..CLIENTS).map(party).collect(),
            next: 0,
            prefix,
        }
    }

    fn topic(&self, topic: usize) -> String {
        format!("{}/{topic}", self.prefix)
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Connect {
                client,
                clean,
                lasting,
            } => self.connect(client, clean, lasting).await,
            Step::Vanish(client) => {
                if let Some(live) = self.parties[client].live.take() {
                    live.vanish().await;
                    self.parties[client].left(false);
                }
            }
            Step::Goodbye { client, end } => {
                if let Some(live) = self.parties[client].live.take() {
                    let expiry = end.then_some(0);
                    live.disconnect(ReasonCode::Success, expiry).await;
                    self.parties[client].left(end);
                }
            }
            Step::Subscribe { client, topic, qos } => {
                let name = self.topic(topic);
                let party = &mut self.parties[client];
                if let Some(live) = &mut party.live {
                    let granted = live.subscribe(&name, Qos::try_from(qos).unwrap()).await;
                    assert_eq!(granted, qos);
                    party.subscriptions[topic] = Some(qos);
                }
            }
            Step::Unsubscribe { client, topic } => {
                let name = self.topic(topic);
                let party = &mut self.parties[client];
                if let Some(live) = &mut party.live {
                    let had = party.subscriptions[topic].take();
                    let code = live.unsubscribe(&name).await;
                    assert_eq!(code == 0, had.is_some());
                }
            }
            Step::Publish {
                client,
                topic,
                qos,
                vanish,
            } => self.publish(client, topic, qos, vanish).await,
            Step::Receive { client, acks } => self.parties[client].receive(acks).await,
            Step::Expire(client) => {
                let party = &mut self.parties[client];
                if let (None, Some(session)) = (&party.live, self.world.session(&party.name)) {
                    self.world.registry.due(session, Due::Expiry).await;
                    self.world.settle().await;
                    party.session_ended();
                }
            }
            Step::Crash => {
                // What rides with the next transaction only costs duplicates: it is brought to disk, so that the model
                // can be exact.
                self.world.store.hurry();
                self.world.settle().await;
                for party in &mut self.parties {
                    if party.live.take().is_some() {
                        party.left(false);
                    }
                }
                self.world = self.world.crash().await;
            }
        }
    }

    async fn connect(&mut self, client: usize, clean: bool, lasting: bool) {
        let party = &mut self.parties[client];
        let connect = Connect {
            clean_start: clean,
            session_expiry: if lasting { 3600 } else { 0 },
            receive_maximum: RECEIVE_MAXIMUM,
            ..resume(&party.name)
        };
        let claim = self.world.client_later(connect);
        if let Some(mut old) = party.live.take() {
            while old.ending.is_none() {
                tokio::task::yield_now().await;
                old.pull();
            }
            assert_eq!(old.ended_with(), Some(ReasonCode::SessionTakenOver));
            old.finish().await;
            party.left(false);
        }
        let live = tokio::time::timeout(DEADLINE, claim)
            .await
            .expect("the claim ends")
            .unwrap();
        if clean {
            party.session_ended();
        }
        assert_eq!(live.session_present, party.session, "session present");
        (party.session, party.lasting) = (true, lasting);
        party.live = Some(live);
        party.again = party.in_flight.iter().map(|sent| sent.id).collect();
        party.resume().await;
    }

    async fn publish(&mut self, client: usize, topic: usize, qos: u8, vanish: bool) {
        let name = self.topic(topic);
        let party = &mut self.parties[client];
        let Some(live) = &mut party.live else { return };
        if qos == 2 && party.outgoing.is_some() {
            return;
        }
        self.next += 1;
        let message = self.next;
        party.next_id = party.next_id % 1000 + 1;
        let (text, level) = (message.to_string(), Qos::try_from(qos).unwrap());
        let packet = match level {
            Qos::AtMostOnce => publish(&name, &text),
            level => publish_at(level, party.next_id, &name, &text),
        };
        live.publish(packet.clone()).await;
        if qos == 2 {
            party.outgoing = Some(Outgoing {
                publish: packet,
                received: false,
            });
        }
        self.world.settle().await;
        for party in &mut self.parties {
            let Some(subscribed) = party.subscriptions[topic] else {
                continue;
            };
            match subscribed.min(qos) {
                0 if party.live.is_some() => party.fleeting.push_back(message),
                0 => {}
                effective => party.owed.push_back((message, effective)),
            }
        }
        if vanish {
            let party = &mut self.parties[client];
            party.live.take().unwrap().vanish().await;
            party.left(false);
        }
    }

    /// Everyone comes back and takes what is theirs.
    async fn finish(&mut self) {
        for client in 0..CLIENTS {
            if self.parties[client].session {
                self.connect(client, false, true).await;
                let party = &mut self.parties[client];
                party.receive(usize::MAX).await;
                assert!(party.owed.is_empty(), "lost: {:?}", party.owed);
                assert!(party.fleeting.is_empty(), "lost: {:?}", party.fleeting);
                assert!(party.in_flight.is_empty(), "{:?}", party.in_flight);
                assert!(party.outgoing.is_none(), "{:?}", party.outgoing);
            }
            self.connect(client, true, false).await;
            self.parties[client].live.take().unwrap().vanish().await;
        }
        assert_eq!(self.world.registry.len(), 0);
        self.world.assert_nothing_leaks().await;
        assert_eq!(self.world.metrics.bytes_queued.get(), 0);
        assert_eq!(self.world.metrics.bytes_buffered.get(), 0);
    }
}

impl Party {
    /// The connection is over.
    fn left(&mut self, end: bool) {
        self.fleeting.clear();
        self.due.clear();
        self.again.clear();
        if end || !self.lasting {
            self.session_ended();
        }
    }

    fn session_ended(&mut self) {
        self.session = false;
        self.subscriptions = [None; TOPICS];
        self.owed.clear();
        self.in_flight.clear();
        self.received.clear();
        self.outgoing = None;
    }

    /// Sends again what it is not done with, as MQTT-4.4.0-1 demands.
    async fn resume(&mut self) {
        let (Some(live), Some(outgoing)) = (&mut self.live, &self.outgoing) else {
            return;
        };
        if outgoing.received {
            let id = outgoing.publish.packet_id.unwrap().get();
            live.send(Packet::PubRel(ack(id))).await;
        } else {
            let again = Publish {
                dup: true,
                ..outgoing.publish.clone()
            };
            live.publish(again).await;
        }
    }

    async fn receive(&mut self, mut acks: usize) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        loop {
            let received = live.receive().await;
            let idle = received.is_empty();
            for sent in received {
                self.take(sent);
            }
            assert_eq!(live.ending, None);
            let mut answered = false;
            while acks > 0
                && let Some(answer) = self.due.pop_front()
            {
                acks -= 1;
                answered = true;
                self.answered(&answer);
                live.send(answer).await;
            }
            if idle && !answered {
                break;
            }
        }
        self.live = Some(live);
    }

    fn take(&mut self, sent: Sent) {
        match sent {
            Sent::Publish(message) => self.take_message(message),
            Sent::PubRel(id, _) => {
                if self.again.front() == Some(&id) {
                    self.again.pop_front();
                }
                let known = self
                    .in_flight
                    .iter()
                    .any(|sent| sent.id == id && sent.released);
                assert!(known, "PUBREL {id} of nothing");
                self.received.remove(&id);
                self.due.push_back(Packet::PubComp(ack(id)));
            }
            Sent::PubAck(..) => {}
            Sent::PubRec(id, code) => {
                assert!(code < 0x80);
                let outgoing = self.outgoing.as_mut().expect("a PUBREC for something");
                assert_eq!(outgoing.publish.packet_id.unwrap().get(), id);
                outgoing.received = true;
                self.due.push_back(Packet::PubRel(ack(id)));
            }
            Sent::PubComp(..) => self.outgoing = None,
            other => panic!("{other:?}"),
        }
    }

    fn take_message(&mut self, message: Message) {
        let number: u32 = message.payload.parse().unwrap();
        if message.qos == 0 {
            assert_eq!(self.fleeting.pop_front(), Some(number), "QoS 0 in order");
            return;
        }
        if message.dup && !self.again.is_empty() {
            assert_eq!(self.again.pop_front(), Some(message.id), "again in order");
            let sent = self.in_flight.iter().find(|sent| sent.id == message.id);
            let sent = sent.expect("what comes again was in flight");
            assert_eq!(
                (sent.message, sent.qos, sent.released),
                (number, message.qos, false)
            );
        } else {
            // With DUP: it was on its way when the last connection broke, and nobody read it.
            assert!(self.again.is_empty(), "before anything new");
            let next = self.owed.pop_front();
            assert_eq!(next, Some((number, message.qos)), "in order, nothing else");
            assert!(self.in_flight.iter().all(|sent| sent.id != message.id));
            self.in_flight.push(InFlight {
                id: message.id,
                message: number,
                qos: message.qos,
                released: false,
            });
            assert!(self.in_flight.len() <= usize::from(RECEIVE_MAXIMUM));
        }
        if message.qos == 1 {
            self.due.push_back(Packet::PubAck(ack(message.id)));
            return;
        }
        if self.received.insert(message.id) {
            assert!(self.exactly_once.insert(number), "QoS 2 twice: {number}");
        }
        self.due.push_back(Packet::PubRec(ack(message.id)));
    }

    /// What the gateway knows once it has this packet.
    fn answered(&mut self, answer: &Packet) {
        match answer {
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.in_flight.retain(|sent| sent.id != ack.packet_id.get());
            }
            Packet::PubRec(ack) => {
                for sent in &mut self.in_flight {
                    sent.released |= sent.id == ack.packet_id.get();
                }
            }
            _ => {}
        }
    }
}

// D1, D2, D3, D9
#[test]
fn whatever_the_order_everyone_gets_what_is_owed_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // One for all cases, because starting one takes longer than a case; what a failed case left serves nobody.
    let world = RefCell::new(None);
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        max_shrink_iters: 50,
        // Milliseconds: where a case fails because something never comes, each attempt takes as long as the patience for it.
        max_shrink_time: 120_000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        runtime.block_on(async {
            let mut model = Model::new(world.take().unwrap_or_else(World::new));
            for step in steps {
                model.step(step).await;
            }
            model.finish().await;
            world.replace(Some(model.world));
        });
    });
}
