//! SUBSCRIBE and UNSUBSCRIBE: what is asked for, checked, and passed to the dispatcher in its place (B7).

use std::num::NonZeroU32;

use bytestring::ByteString;

use super::connection::{Connection, Ending};
use crate::{
    mqtt::{ReasonCode, Subscribe, SubscribeFilter, SubscriptionFilter, Unsubscribe, Version},
    routing::{
        control::{Control, Options, SubscribeRequest, Subscription},
        envelope::Envelope,
    },
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
            let made: Vec<_> = filters.into_iter().flatten().map(|s| s.filter).collect();
            for filter in &made {
                self.session.unsubscribe(filter.as_str());
            }
            envelope.control(Control::Revoke(made));
            return Err(Ending::fault(
                ReasonCode::NotAuthorized,
                "a subscription was refused",
            ));
        }
        envelope.control(Control::Subscribe(SubscribeRequest { packet_id, filters }));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe, envelope: &mut Envelope) {
        let most = self.settings.max_subscriptions.saturating_mul(REPLACED);
        let filters = unsubscribe
            .filters
            .iter()
            .enumerate()
            .map(|(n, text)| {
                if n >= most {
                    // UNSUBACK knows no "quota exceeded" (MQTT-3.11.3-2).
                    return Err(ReasonCode::ImplementationSpecificError);
                }
                // As it was when it was made: limits may have changed since.
                if let Some(subscription) = self.session.unsubscribe(text) {
                    return Ok(subscription.filter);
                }
                SubscriptionFilter::parse(text.clone(), self.settings.max_topic_levels)
                    .map_err(|_| ReasonCode::TopicFilterInvalid)
            })
            .collect();
        envelope.control(Control::Unsubscribe {
            packet_id: unsubscribe.packet_id,
            filters,
        });
    }

    fn subscription(
        &self,
        requested: &SubscribeFilter,
        id: Option<NonZeroU32>,
    ) -> Result<Subscription, ReasonCode> {
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
        let subscription = Subscription { filter, options };
        let most = self.settings.max_subscriptions;
        let kept = self.session.subscribe(&text, &subscription, most);
        kept.inspect_err(|reason| {
            let client = self.session.client_id();
            tracing::debug!(?client, filter = ?requested.filter, reason = reason.name(), "SUBSCRIBE refused");
        })?;
        Ok(subscription)
    }
}

/// Filters of one packet, as a multiple of the subscriptions that a session may have.
const REPLACED: usize = 4;
