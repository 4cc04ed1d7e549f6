//! What routing needs of a session (rule L1: routing owns the trait, the session room implements it).
//!
//! The dispatcher calls these methods and must never wait (B3): an implementation takes no lock that is
//! held across an await, and never publishes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::message::Message;
use crate::mqtt::{PacketId, Qos, ReasonCode, SubscriptionFilter};

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

    /// Whether no deny rule keeps this topic from the session (P2).
    fn may_receive(&self, topic: &str) -> bool;

    /// Hands over messages of one topic, in order; false if the session can hold nothing: its client is gone.
    fn deliver(&self, messages: &[Message], grant: &Grant) -> bool;

    /// Whether it may (still) subscribe to this filter: the policy may have changed since it asked.
    fn may_subscribe(&self, filter: &str) -> bool;

    /// A subscription that the session asked for was not made.
    fn refused(&self, filter: &SubscriptionFilter);

    /// Bytes of retained messages that the session can queue.
    fn retained_room(&self) -> usize;

    /// Takes out what waits for its client from a shared group that it has left.
    fn give_back(&self, share: &ShareKey) -> Vec<Delivery>;

    /// Hands over one message that another member of a shared group did not take, or gives it back as
    /// [`Endpoint::deliver`] refuses.
    fn redeliver(&self, delivery: Delivery) -> Result<(), Delivery>;

    /// The subscriptions of one SUBSCRIBE are in force: SUBACK, then the retained messages, in this order (B7).
    fn subscribed(
        &self,
        epoch: u32,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
    );

    fn unsubscribed(&self, epoch: u32, packet_id: PacketId, reasons: Vec<ReasonCode>);

    /// What became of messages this session published at QoS > 0, in the order of the envelope.
    fn complete(&self, epoch: u32, completions: &[Completion]);

    /// An envelope of this session has passed the dispatcher: it may read again.
    fn settled(&self, bytes: usize);

    /// Tells the session's connection that something was handed over. Called once per turn of the dispatcher.
    fn wake(&self);
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
        }
    }

    /// A retained message for a new subscription (MQTT-3.3.1-9).
    pub fn retained(message: Message, grant: &Grant) -> Delivery {
        Delivery {
            qos: message.qos().min(grant.qos),
            retain: true,
            extra: grant.extra.clone(),
            message,
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
