//! What routing needs of a session (rule L1: routing owns the trait, the session room implements it).
//!
//! The dispatcher calls these methods and must never wait (B3): an implementation takes no lock that is
//! held across an await, and never publishes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{control::Subscription, message::Message};
use crate::{
    mqtt::{PacketId, Qos, ReasonCode},
    store::messages::{Rows, Timestamp},
};

/// Names a session for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A session, as routing sees it.
pub trait Endpoint: Send + Sync {
    fn id(&self) -> SessionId;

    /// Whether a client is connected: online members of a shared group are chosen first (S4).
    fn is_online(&self) -> bool;

    /// Whether the session can hold a message for a client that is away.
    fn is_persistent(&self) -> bool;

    /// Whether messages of this topic may be handed to the session: no deny rule is against it (P2), and its last login is not
    /// discredited (P3).
    fn may_receive(&self, topic: &str) -> bool;

    /// Whether those that it has may stay with it: by the rules alone.
    fn may_keep(&self, topic: &str) -> bool;

    /// Whether its subscriptions and what waits for it are kept on disk.
    fn is_stored(&self) -> bool;

    /// Whether the store knows it at all: a client that left a will is kept for its sake.
    fn is_known(&self) -> bool;

    /// Hands over messages of one topic, in order. What must be stored before it leaves waits for `turn`.
    fn deliver(&self, messages: &[Message], grant: &Grant, turn: u64) -> Handed;

    /// Whether it may (still) subscribe to this filter: the policy may have changed since it asked.
    fn may_subscribe(&self, filter: &str) -> bool;

    /// A subscription that the session asked for was not made, or is taken back.
    fn refused(&self, subscription: &Subscription);

    /// Bytes of retained messages that the session can queue.
    fn retained_room(&self) -> usize;

    /// Takes out what waits in memory for its client from a shared group that it has left. What is on disk follows by
    /// itself ([`super::control::Control::Redistribute`]).
    fn give_back(&self, share: &ShareKey) -> Vec<Delivery>;

    /// Hands over one message that another member of a shared group did not take, or gives it back if its client is
    /// gone. The serial it has here, 0 if it is not to be stored.
    fn redeliver(&self, delivery: Delivery, turn: u64) -> Result<u64, Delivery>;

    /// Gives serials to retained messages that [`Endpoint::subscribed`] will hand over.
    fn number(&self, deliveries: &mut [Delivery]);

    /// The subscriptions of one SUBSCRIBE are in force: SUBACK, then the retained messages, in this order (B7), once
    /// `turn` is on disk.
    fn subscribed(
        &self,
        epoch: u32,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
        turn: u64,
    );

    fn unsubscribed(&self, epoch: u32, packet_id: PacketId, reasons: Vec<ReasonCode>, turn: u64);

    /// The disk refuses the turn in which these were answered: SUBACK or UNSUBACK says so and waits no longer. Of the
    /// retained messages of the turn's subscriptions, with these serials among others, nothing is sent (D7).
    fn answer_refused(&self, turn: u64, reason: ReasonCode, serials: &[u64]);

    /// Whether nobody will ask for this message again: acknowledged, dropped, moved.
    fn is_done(&self, serial: u64) -> bool;

    /// A message it had was moved to another session, in the transaction that begins now.
    fn gave_away(&self, serial: u64);

    /// A message that left for its shared group finds nobody else; true if it keeps its place.
    fn take_back(&self, delivery: &Delivery) -> bool;

    /// The will of this network connection was published, in the transaction that begins now.
    fn will_sent(&self, epoch: u32);

    /// Adds its state to the transaction that begins now.
    fn record(&self, rows: &mut Rows, now: Timestamp);

    /// The transaction that took up its state is on disk.
    fn recorded(&self);

    /// It has ended, and the disk knows nothing of it any more.
    fn forgotten(&self);

    /// The turn is on disk.
    fn stored(&self, turn: u64);

    /// What became of messages this session published at QoS > 0, in the order of the envelope.
    fn complete(&self, epoch: u32, completions: &[Completion]);

    /// An envelope of this session has passed the dispatcher: it may read again.
    fn settled(&self, bytes: usize);

    /// The turn of the dispatcher has ended: what it had for the session and is to be stored is with the writer. Wakes the
    /// session's connection.
    fn handed_over(&self);

    /// Wakes the session's connection.
    fn wake(&self);
}

/// What became of messages that a session was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// It can hold nothing: its client is gone.
    Gone,
    /// Nothing of it has to be stored.
    Taken,
    /// Those at effective QoS 1 and 2 have serials from this one on, and are to be stored.
    Stored(u64),
}

/// The outcome of one PUBLISH at QoS > 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub packet_id: PacketId,
    pub qos: Qos,
    pub reason: ReasonCode,
}

/// What the subscriptions that match a topic entitle a session to; several are merged to one (MQTT 5 §3.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The greatest QoS among them.
    pub qos: Qos,
    pub retain_as_published: bool,
    /// Subscription identifiers and shared group, where there are any.
    pub extra: Option<Arc<Extra>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Extra {
    pub subscription_ids: SmallVec<[u32; 2]>,
    pub share: Option<ShareKey>,
}

/// A shared subscription group: `$share/{group}/{filter}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShareKey {
    pub group: Box<str>,
    pub filter: Box<str>,
}

/// One message as one session gets it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Message,
    /// Effective QoS: the lesser of publication and subscription.
    pub qos: Qos,
    /// The RETAIN flag to send.
    pub retain: bool,
    pub extra: Option<Arc<Extra>>,
    /// Its number among the messages of its session at effective QoS 1 and 2, from 1; 0 before it has one.
    pub serial: u64,
}

impl Delivery {
    /// A message that was published just now.
    pub fn live(message: Message, grant: &Grant) -> Delivery {
        let qos = message.qos().min(grant.qos);
        let retain = grant.retain_as_published && message.retain();
        Delivery {
            message,
            qos,
            retain,
            extra: grant.extra.clone(),
            serial: 0,
        }
    }

    /// A retained message for a new subscription (MQTT-3.3.1-9).
    pub fn retained(message: Message, grant: &Grant) -> Delivery {
        Delivery {
            qos: message.qos().min(grant.qos),
            retain: true,
            extra: grant.extra.clone(),
            message,
            serial: 0,
        }
    }

    pub fn share(&self) -> Option<&ShareKey> {
        self.extra.as_deref()?.share.as_ref()
    }

    pub fn subscription_ids(&self) -> &[u32] {
        self.extra
            .as_deref()
            .map_or(&[], |extra| &extra.subscription_ids)
    }
}
