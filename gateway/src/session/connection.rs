//! One network connection of a session: what its packets mean, and what it is sent.
//!
//! A synchronous state machine: packets and messages in, bytes and an envelope out. Sockets, time-outs and waiting
//! are the listener's; `publish`, `subscribe` and `deliver` beside this file hold its larger parts.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, task::Waker, time::Instant};

use bytes::BytesMut;
use bytestring::ByteString;

use super::{
    alias,
    enhanced::Enhanced,
    incoming::{Pending, Received, Release},
    mailbox::{Mail, Notice},
    outgoing::{Acknowledged, Window},
    publish::Allowed,
    session::{Carry, Session, Wanted},
    settings::Settings,
    will::Will,
    witness::{Denials, Topics},
};
use crate::{
    metrics::Metrics,
    mqtt::{self, Ack, Connect, Packet, PacketId, PeerLimits, Qos, ReasonCode, Reply, Version},
    routing::envelope::Envelope,
};

pub struct Connection {
    pub(super) session: Arc<Session>,
    pub(super) epoch: u32,
    pub(super) version: Version,
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) peer: PeerLimits,
    pub(super) window: Window,
    /// Messages at QoS 1 and 2 that may be under way to the client.
    pub(super) window_size: usize,
    pub(super) received: Received,
    pub(super) pending: Pending,
    pub(super) aliases_in: alias::Inbound,
    pub(super) aliases_out: Option<Box<alias::Outbound>>,
    pub(super) counts: Counts,
    /// Serials of messages that are finished and the session was not told of.
    pub(super) finished: Vec<u64>,
    /// What leaves when a change is on disk.
    held: Held,
    /// The policy that the session's queue was filled under; a later one is asked for each message.
    changes: u32,
    pub(super) policy_changed: bool,
    /// Its last messages may have to be stored: it waits where the disk is behind (B2).
    pub(super) on_credit: bool,
    /// Topic filters of SUBSCRIBEs and UNSUBSCRIBEs that have not been answered.
    pub(super) asked: usize,
    /// Something that was taken from the queue was not sent.
    pub(super) dropped: bool,
    /// A denied PUBLISH was audited: once for each connection.
    pub(super) denied: bool,
    pub(super) allowed: Allowed,
    pub(super) topics: Topics,
    pub(super) denials: Denials,
    /// Enhanced authentication, if CONNECT asked for it.
    pub(super) enhanced: Option<Box<Enhanced>>,
    will: Option<Will>,
    /// Session expiry interval in seconds, as granted; DISCONNECT may change it.
    expiry: u32,
    /// Whether CONNECT asked for a session that outlives its connection, granted or not.
    asked_to_last: bool,
}

/// Packets, encoded, that wait for the disk, each with the change of the session that must be there (D1).
#[derive(Default)]
struct Held {
    packets: VecDeque<(u64, usize)>,
    bytes: BytesMut,
}

/// What was counted since the metrics were last told: atomics cost too much for each message.
#[derive(Default)]
pub(super) struct Counts {
    pub publishes_received: u64,
    pub publishes_sent: u64,
}

/// How a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What a v5 client is told, and why the log says it ended. `None`: the client knows.
    pub farewell: Option<(ReasonCode, Cow<'static, str>)>,
    /// A normal DISCONNECT deletes the will (MQTT-3.14.4-3).
    pub keeps_will: bool,
}

impl Ending {
    /// The client broke a rule, or we cannot go on.
    pub fn fault(reason: ReasonCode, why: impl Into<Cow<'static, str>>) -> Ending {
        Ending {
            farewell: Some((reason, why.into())),
            keeps_will: true,
        }
    }

    /// The network connection is gone.
    pub fn lost() -> Ending {
        Ending {
            farewell: None,
            keeps_will: true,
        }
    }
}

impl From<Notice> for Ending {
    fn from(notice: Notice) -> Ending {
        match notice {
            Notice::TakenOver => Ending::fault(
                ReasonCode::SessionTakenOver,
                "another connection uses this client identifier",
            ),
            Notice::SubscriptionLost(filter) => Ending::fault(
                ReasonCode::NotAuthorized,
                format!("no longer allowed to subscribe to {filter}"),
            ),
            Notice::Disabled => Ending::fault(
                ReasonCode::NotAuthorized,
                "the account or its credentials changed",
            ),
            Notice::CertificateRevoked => Ending {
                keeps_will: false,
                ..Ending::fault(
                    ReasonCode::NotAuthorized,
                    "the client certificate is not accepted any more",
                )
            },
            Notice::CertificateExpired => Ending::fault(
                ReasonCode::MaximumConnectTime,
                "the client certificate has expired",
            ),
            Notice::TokenExpired => {
                Ending::fault(ReasonCode::NotAuthorized, "the token has expired")
            }
            Notice::TokenRevoked => Ending {
                keeps_will: false,
                ..Ending::fault(
                    ReasonCode::NotAuthorized,
                    "the issuer does not stand by the token any more",
                )
            },
            Notice::ShuttingDown => Ending::fault(
                ReasonCode::ServerShuttingDown,
                "the gateway is shutting down",
            ),
            Notice::OutOfMemory => {
                Ending::fault(ReasonCode::QuotaExceeded, "too much waits for this client")
            }
        }
    }
}

/// What is left of a connection for the registry.
pub struct Remains {
    pub session: Arc<Session>,
    pub carry: Carry,
    /// Serials of messages that are finished and the session was not told of.
    pub finished: Vec<u64>,
    pub will: Option<Will>,
    /// Session expiry interval, seconds.
    pub expiry: u32,
}

impl Connection {
    pub(super) fn new(
        session: Arc<Session>,
        epoch: u32,
        carry: Carry,
        connect: &Connect,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
    ) -> Connection {
        let Carry {
            mut window,
            received,
        } = carry;
        window.rewind();
        let aliases = connect
            .topic_alias_maximum
            .min(settings.max_outgoing_topic_aliases);
        Connection {
            epoch,
            version: connect.version,
            peer: PeerLimits {
                maximum_packet_size: connect.maximum_packet_size,
                problem_information: connect.request_problem_information,
            },
            window,
            window_size: usize::from(connect.receive_maximum.min(settings.max_inflight)),
            received,
            pending: Pending::default(),
            aliases_in: alias::Inbound::default(),
            aliases_out: (aliases > 0).then(|| Box::new(alias::Outbound::new(aliases))),
            counts: Counts::default(),
            finished: Vec::new(),
            held: Held::default(),
            changes: session.permission_changes(),
            policy_changed: false,
            on_credit: false,
            asked: 0,
            dropped: false,
            denied: false,
            allowed: Allowed::default(),
            topics: Topics::default(),
            denials: Denials::default(),
            enhanced: Enhanced::of(connect),
            will: connect.will.clone().map(Will::new),
            expiry: settings.session_expiry(connect.session_expiry),
            asked_to_last: connect.session_expiry > 0,
            settings,
            metrics,
            session,
        }
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether the gateway should not read from this client now, as the disk is behind with what it and others published
    /// (B2). `waker` is woken when that changes.
    pub fn waits_for_the_disk(&mut self, waker: &Waker) -> bool {
        self.on_credit && {
            self.on_credit = self.session.is_store_full(waker);
            self.on_credit
        }
    }

    /// Takes one packet of the client. What it publishes or asks of the dispatcher goes into `envelope`, answers into `out`.
    pub fn packet(
        &mut self,
        packet: Packet,
        envelope: &mut Envelope,
        out: &mut BytesMut,
    ) -> Result<(), Ending> {
        match packet {
            Packet::Publish(publish) => self.publish(&publish, envelope),
            Packet::PubAck(ack) => {
                let outcome = self.window.puback(ack.packet_id);
                if let Some(serial) = self.acknowledged(outcome)? {
                    self.finished.push(serial);
                }
                Ok(())
            }
            Packet::PubRec(ack) => self.pubrec(&ack, out),
            Packet::PubRel(ack) => self.pubrel(&ack, out),
            Packet::PubComp(ack) => {
                let outcome = self.window.pubcomp(ack.packet_id);
                if let Some(serial) = self.acknowledged(outcome)? {
                    self.session.complete_release(serial);
                }
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(*subscribe, envelope),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(*unsubscribe, envelope),
            Packet::PingReq => self.reply(&Reply::PingResp, out),
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            Packet::Connect(_) => Err(Ending::fault(
                ReasonCode::ProtocolError,
                "a second CONNECT (MQTT-3.1.0-2)",
            )),
            Packet::Auth(auth) => self.auth(&auth, out),
        }
    }

    /// Writes what the session has for the client; true if there is more at once. `waker` is woken when something comes.
    pub fn pull(
        &mut self,
        mail: &mut Mail,
        out: &mut BytesMut,
        waker: &Waker,
        now: Instant,
    ) -> Result<bool, Ending> {
        let more = self.send_again(out, PULL)?;
        let room = self.room();
        self.policy_changed = self.session.permission_changes() != self.changes;
        let wanted = Wanted {
            window: room,
            bytes: PULL,
            finished: &mut self.finished,
        };
        self.session.collect(mail, wanted, waker);
        let more = self.let_go(mail.durable, out) && room == 0 || more;
        // Everything that was taken is dealt with, even when the connection ends in the middle of it: messages for the
        // next one, completions for the QoS 2 state that outlives this one.
        let mut outcome = Ok(());
        for (epoch, completion) in mail.completions.drain(..) {
            let completed = self.completed(epoch, completion);
            outcome = outcome.and(completed).and_then(|()| self.send_acks(out));
        }
        self.dropped = false;
        let behind = mail.behind;
        for entry in mail.entries.drain(..) {
            match outcome {
                Ok(()) => outcome = self.entry(entry, behind, out, now),
                Err(_) => self.keep(entry),
            }
        }
        if let Some(notice) = mail.notice.take() {
            outcome = outcome.and(Err(notice.into()));
        }
        // What was dropped took up room in the window that others may use.
        outcome.map(|()| more || mail.more || self.dropped)
    }

    /// Whether somebody wants this connection to end, for when it is not pulled from.
    pub fn check_notice(&self) -> Result<(), Ending> {
        self.session
            .take_notice()
            .map_or(Ok(()), |notice| Err(notice.into()))
    }

    /// Messages at QoS 1 and 2 that may be sent now.
    fn room(&self) -> usize {
        let rewound = self.window.is_rewound();
        if rewound || self.held.bytes.len() >= PULL || self.is_window_full() {
            return 0;
        }
        self.window_size.saturating_sub(self.window.open())
    }

    fn is_window_full(&self) -> bool {
        self.window.bytes_to_send() > self.settings.queue.bytes
    }

    /// Bytes that wait for the disk.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes.len() + self.held.packets.len() * size_of::<(u64, usize)>()
    }

    /// The connection is over: what waits for the disk is not sent on it.
    pub fn forget_held(&mut self) {
        self.held = Held::default();
    }

    /// Whether so many answers wait for the disk that the client is not to be read from. Its messages are no reason.
    pub fn owes_many_answers(&self) -> bool {
        self.held.packets.len() > self.window_size + ANSWERS || self.asked > ANSWERS
    }

    pub(super) fn holds_anything(&self) -> bool {
        !self.held.packets.is_empty()
    }

    /// Brings the counters up to date.
    pub fn report(&mut self) {
        self.session.set_window_bytes(self.window.bytes());
        let Counts {
            publishes_received,
            publishes_sent,
        } = std::mem::take(&mut self.counts);
        if publishes_received > 0 {
            self.metrics.publishes_received.add(publishes_received);
        }
        if publishes_sent > 0 {
            self.metrics.publishes_sent.add(publishes_sent);
            self.metrics.packets_sent.add(publishes_sent);
        }
    }

    /// Writes the acknowledgements that may leave.
    pub fn send_acks(&mut self, out: &mut BytesMut) -> Result<(), Ending> {
        while let Some((id, reason)) = self.pending.pop(Qos::AtLeastOnce) {
            self.reply(&Reply::PubAck(answer(id, reason)), out)?;
        }
        while let Some((id, reason)) = self.pending.pop(Qos::ExactlyOnce) {
            self.reply(&Reply::PubRec(answer(id, reason)), out)?;
        }
        Ok(())
    }

    /// Tells a v5 client why its connection ends, as far as its buffers allow.
    pub fn farewell(&self, ending: &Ending, out: &mut BytesMut) {
        let Some((reason, why)) = ending.farewell.as_ref().filter(|_| self.version.is_v5()) else {
            return;
        };
        let mut disconnect = mqtt::Disconnect::new(*reason);
        disconnect.reason_string = Some(why.as_ref().into());
        let _ = mqtt::encode(&Reply::Disconnect(disconnect), self.version, self.peer, out);
    }

    /// The connection is over.
    pub fn finish(mut self, ending: &Ending) -> Remains {
        self.note_denials();
        let will = self.will.filter(|_| ending.keeps_will);
        let carry = Carry {
            window: self.window,
            received: self.received,
        };
        Remains {
            session: self.session,
            carry,
            finished: self.finished,
            will,
            expiry: self.expiry,
        }
    }

    pub(super) fn reply(&self, reply: &Reply, out: &mut BytesMut) -> Result<(), Ending> {
        self.metrics.packets_sent.add(1);
        mqtt::encode(reply, self.version, self.peer, out).map_err(|error| {
            Ending::fault(
                ReasonCode::PacketTooLarge,
                format!("an answer does not fit the client: {error}"),
            )
        })
    }

    /// Holds back what `write` writes until a change of the session is on disk; 0 is there already. Everything held
    /// leaves in its order.
    pub(super) fn hold<T>(
        &mut self,
        change: u64,
        out: &mut BytesMut,
        write: impl FnOnce(&mut Self, &mut BytesMut) -> T,
    ) -> T {
        if change == 0 && self.held.packets.is_empty() {
            return write(self, out);
        }
        let mut bytes = std::mem::take(&mut self.held.bytes);
        let before = bytes.len();
        let result = write(self, &mut bytes);
        let written = bytes.len() - before;
        self.held.bytes = bytes;
        if written > 0 {
            self.held.packets.push_back((change, written));
        }
        result
    }

    /// Writes what was held back and may leave; whether that was anything.
    fn let_go(&mut self, durable: u64, out: &mut BytesMut) -> bool {
        let before = self.held.packets.len();
        while let Some((change, length)) = self.held.packets.front().copied() {
            if change > durable {
                return self.held.packets.len() < before;
            }
            self.held.packets.pop_front();
            out.extend_from_slice(&self.held.bytes.split_to(length));
        }
        self.held = Held::default();
        before > 0
    }

    /// An acknowledgement of nothing is ignored, as clients repeat themselves after a reconnect; a wrong one is not.
    /// Gives the serial of the message it belongs to.
    fn acknowledged(&self, outcome: Acknowledged) -> Result<Option<u64>, Ending> {
        match outcome {
            Acknowledged::Known(serial) => Ok(Some(serial)),
            Acknowledged::Unknown => Ok(None),
            Acknowledged::Wrong => Err(Ending::fault(
                ReasonCode::ProtocolError,
                "an acknowledgement does not fit the message with its packet identifier",
            )),
        }
    }

    fn pubrec(&mut self, ack: &Ack, out: &mut BytesMut) -> Result<(), Ending> {
        let refused = ack.reason.is_error();
        let outcome = self.window.pubrec(ack.packet_id, refused);
        let (reason, change) = match (self.acknowledged(outcome)?, refused) {
            (Some(serial), true) => {
                self.finished.push(serial);
                return Ok(());
            }
            (None, true) => return Ok(()),
            (Some(serial), false) => {
                let change = self.session.release(serial, ack.packet_id);
                (ReasonCode::Success, change)
            }
            (None, false) => (ReasonCode::PacketIdentifierNotFound, 0),
        };
        let answer = Reply::PubRel(Ack::new(ack.packet_id, reason));
        self.hold(change, out, |this, out| this.reply(&answer, out))
    }

    fn pubrel(&mut self, ack: &Ack, out: &mut BytesMut) -> Result<(), Ending> {
        let (reason, change) = match self.received.release(ack.packet_id) {
            Release::Known => (ReasonCode::Success, self.session.free(ack.packet_id)),
            Release::Unknown => (ReasonCode::PacketIdentifierNotFound, 0),
            Release::Early => {
                return Err(Ending::fault(
                    ReasonCode::ProtocolError,
                    "PUBREL for a message that was not answered with PUBREC (MQTT-4.3.3-1)",
                ));
            }
        };
        let answer = Reply::PubComp(answer(ack.packet_id, reason));
        self.hold(change, out, |this, out| this.reply(&answer, out))
    }

    fn disconnect(&mut self, disconnect: &mqtt::Disconnect) -> Ending {
        if let Some(expiry) = disconnect.session_expiry {
            if !self.asked_to_last && expiry != 0 {
                return Ending::fault(
                    ReasonCode::ProtocolError,
                    "DISCONNECT sets a session expiry interval where CONNECT had none (MQTT 5 section 3.14.2.2.2)",
                );
            }
            self.expiry = self.settings.session_expiry(expiry);
        }
        Ending {
            farewell: None,
            keeps_will: disconnect.reason != ReasonCode::Success,
        }
    }
}

/// An acknowledgement that says in words why a message was refused.
fn answer(id: PacketId, reason: ReasonCode) -> Ack {
    let words = match reason {
        ReasonCode::ImplementationSpecificError => Some(ByteString::from_static(
            "the gateway cannot write to its disk",
        )),
        other => refusal(other),
    };
    Ack {
        reason_string: words,
        ..Ack::new(id, reason)
    }
}

/// Words for a refusal, where the code is one (MQTT 5 §4.13.2).
pub(super) fn refusal(reason: ReasonCode) -> Option<ByteString> {
    let words = match reason {
        reason if !reason.is_error() => return None,
        ReasonCode::NotAuthorized => "no rule allows it, or one denies it",
        ReasonCode::QuotaExceeded => "a limit of the gateway is reached, or its disk is full",
        ReasonCode::ImplementationSpecificError => {
            "the packet has more topic filters than the gateway takes at once, or its disk fails"
        }
        ReasonCode::TopicNameInvalid => "the topic name is invalid or has too many levels",
        ReasonCode::TopicFilterInvalid => "the topic filter is invalid or has too many levels",
        ReasonCode::PacketIdentifierNotFound => {
            "no message is under way with this packet identifier"
        }
        other => other.name(),
    };
    Some(ByteString::from_static(words))
}

/// Bytes of messages, their overhead counted, that one call of [`Connection::pull`] takes.
const PULL: usize = 64 * 1024;
/// Answers that may wait for the disk, some 64 KiB of them, before the client is not read from.
const ANSWERS: usize = 1024;
