//! SUBSCRIBE and UNSUBSCRIBE: what is asked for, checked, and passed to the dispatcher in its place (B7).

use std::num::NonZeroU32;

use bytestring::ByteString;

use super::{
    connection::{Connection, Ending},
    queue::REFUSED,
};
use crate::{
    mqtt::{ReasonCode, Subscribe, SubscribeFilter, SubscriptionFilter, Unsubscribe, Version},
    routing::{
        control::{Control, Options, SubscribeRequest, Subscription},
        endpoint::Endpoint,
        envelope::Envelope,
    },
    store::writer::Failure,
};

impl Connection {
    pub(super) fn subscribe(
        &mut self,
        subscribe: Subscribe,
        envelope: &mut Envelope,
    ) -> Result<(), Ending> {
        let Subscribe {
            packet_id,
            subscription_id,
            filters,
            ..
        } = subscribe;
        // A session may replace what it has, but no packet asks for many times that: the rest is refused unread.
        let most = self.settings.max_subscriptions.saturating_mul(REPLACED);
        let filters: Vec<_> = filters
            .iter()
            .enumerate()
            .map(|(n, requested)| match n < most {
                true => self.subscription(requested, subscription_id),
                false => Err(ReasonCode::QuotaExceeded),
            })
            .collect();
        let refused = filters.iter().filter(|filter| filter.is_err()).count();
        self.metrics.subscriptions_refused.add(refused as u64);
        // S1: MQTT 3.1 has no way to refuse a subscription.
        if refused > 0 && self.version == Version::V31 {
            // One that replaced another is in force: it goes with the record of it, or it would stay for ever.
            let made: Vec<_> = filters.into_iter().flatten().collect();
            for subscription in &made {
                self.session.unsubscribe(subscription.filter.as_str());
            }
            envelope.control(Control::Revoke(made));
            return Err(Ending::fault(
                ReasonCode::NotAuthorized,
                "a subscription was refused",
            ));
        }
        self.asked += filters.len();
        self.on_credit |= self.session.is_stored();
        envelope.control(Control::Subscribe(SubscribeRequest { packet_id, filters }));
        Ok(())
    }

    pub(super) fn unsubscribe(
        &mut self,
        unsubscribe: Unsubscribe,
        envelope: &mut Envelope,
    ) -> Result<(), Ending> {
        let refused = self.failure().is_some();
        if refused && !self.version.is_v5() {
            return Err(unanswerable());
        }
        let most = self.settings.max_subscriptions.saturating_mul(REPLACED);
        let filters: Vec<_> = unsubscribe
            .filters
            .iter()
            .enumerate()
            .map(|(n, text)| {
                if n >= most || refused {
                    return Err(REFUSED);
                }
                // As it was when it was made: limits may have changed since.
                if let Some(subscription) = self.session.unsubscribe(text) {
                    return Ok(subscription.filter);
                }
                SubscriptionFilter::parse(text.clone(), self.settings.max_topic_levels)
                    .map_err(|_| ReasonCode::TopicFilterInvalid)
            })
            .collect();
        self.asked += filters.len();
        self.on_credit |= self.session.is_stored();
        envelope.control(Control::Unsubscribe {
            packet_id: unsubscribe.packet_id,
            filters,
        });
        Ok(())
    }

    /// Why what the session subscribes to could not be kept, if so: refused before it takes effect (D7).
    fn failure(&self) -> Option<Failure> {
        let failure = self.session.store_failure();
        failure.filter(|_| self.session.is_stored())
    }

    fn subscription(
        &self,
        requested: &SubscribeFilter,
        id: Option<NonZeroU32>,
    ) -> Result<Subscription, ReasonCode> {
        if let Some(failure) = self.failure() {
            return Err(failure.reason());
        }
        // A copy: the text is a slice of the packet, which may be large.
        let text = ByteString::from(&*requested.filter);
        let filter = SubscriptionFilter::parse(text.clone(), self.settings.max_topic_levels)
            .map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let options = Options {
            qos: requested.qos,
            no_local: requested.no_local,
            retain_as_published: requested.retain_as_published,
            retain_handling: requested.retain_handling,
            id: id.map(NonZeroU32::get),
        };
        let mut subscription = Subscription {
            filter,
            options,
            number: 0,
        };
        let most = self.settings.max_subscriptions;
        let kept = self.session.subscribe(&text, &mut subscription, most);
        self.asked_to_subscribe(&subscription, kept.err());
        kept.inspect_err(|reason| {
            let client = self.session.client_id();
            tracing::debug!(?client, filter = ?requested.filter, reason = reason.name(), "SUBSCRIBE refused");
        })?;
        Ok(subscription)
    }
}

/// How a v3 client is told that its UNSUBSCRIBE is refused: UNSUBACK has no reason code there.
pub(super) fn unanswerable() -> Ending {
    Ending::fault(
        REFUSED,
        "an UNSUBSCRIBE was refused at a limit or by the disk, which v3 cannot say otherwise",
    )
}

/// Filters of one packet, as a multiple of the subscriptions that a session may have.
const REPLACED: usize = 4;
