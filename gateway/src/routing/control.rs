//! What passes the dispatcher in one sequence with the messages of its session, and is not a message (B7).

use tokio::sync::oneshot;

use super::endpoint::Delivery;
use crate::mqtt::{Filter, PacketId, Qos, ReasonCode, RetainHandling, SubscriptionFilter};

#[derive(Debug)]
pub enum Control {
    Subscribe(SubscribeRequest),
    Unsubscribe {
        packet_id: PacketId,
        filters: Vec<Result<SubscriptionFilter, ReasonCode>>,
    },
    /// The session lost these subscriptions without asking (a policy change). What it made anew since stays.
    Revoke(Vec<Subscription>),
    /// Messages of shared groups whose member is gone: the group decides anew (S4).
    Redistribute(Vec<Delivery>),
    /// The will of the session is in this envelope, before this: it is not to be sent again.
    WillSent,
    /// The session ended: all its subscriptions end here.
    End {
        subscriptions: Vec<SubscriptionFilter>,
        shared: Vec<Delivery>,
    },
    /// Somebody wants to know what is retained on some topics.
    Look(Look),
}

/// A look at retained messages, for the operator.
#[derive(Debug)]
pub struct Look {
    /// Topic names.
    pub topics: Vec<String>,
    /// Bytes of the longest payload that is of interest.
    pub longest: usize,
    /// Told the payload for each topic, where there is one.
    pub answer: oneshot::Sender<Vec<Option<Box<[u8]>>>>,
}

impl Control {
    /// Bytes it holds, about: it waits for its place like a message and counts like one.
    pub fn weight(&self) -> usize {
        let filter =
            |filter: &SubscriptionFilter| size_of::<Subscription>() + filter.as_str().len();
        let each = size_of::<Control>();
        each + match self {
            Control::Subscribe(request) => {
                let one = |wanted: &Result<Subscription, _>| {
                    wanted.as_ref().map_or(each, |s| filter(&s.filter))
                };
                request.filters.iter().map(one).sum()
            }
            Control::Unsubscribe { filters, .. } => filters
                .iter()
                .map(|wanted| wanted.as_ref().map_or(each, filter))
                .sum(),
            Control::Redistribute(shared) | Control::End { shared, .. } => {
                shared.iter().map(|delivery| delivery.message.cost()).sum()
            }
            Control::Revoke(lost) => lost.iter().map(|s| filter(&s.filter)).sum(),
            Control::Look(look) => look.topics.iter().map(String::len).sum(),
            Control::WillSent => 0,
        }
    }
}

#[derive(Debug)]
pub struct SubscribeRequest {
    pub packet_id: PacketId,
    /// In the order of the packet; a filter that was refused carries its reason code.
    pub filters: Vec<Result<Subscription, ReasonCode>>,
}

/// One subscription, as the client asked for it (MQTT 5 §3.8.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub filter: SubscriptionFilter,
    pub options: Options,
    /// Its place among all that the session ever asked for since the gateway was started, from 1; 0: it is older. What
    /// takes one away does not take a later one with the same filter.
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
    /// Subscription identifier, 1 to 268,435,455.
    pub id: Option<u32>,
}

impl Subscription {
    pub fn matching(&self) -> &Filter {
        &self.filter.filter
    }
}
