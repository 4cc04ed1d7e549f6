//! SUBSCRIBE and UNSUBSCRIBE: what is asked for, checked, and passed to the dispatcher in its place (B7).

use std::num::NonZeroU32;

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
        let filters: Vec<_> = filters
            .iter()
            .map(|requested| self.subscription(requested, subscription_id))
            .collect();
        let refused = filters.iter().filter(|filter| filter.is_err()).count();
        self.metrics.subscriptions_refused.add(refused as u64);
        // S1: MQTT 3.1 has no way to refuse a subscription.
        if refused > 0 && self.version == Version::V31 {
            return Err(Ending::fault(
                ReasonCode::NotAuthorized,
                "a subscription was refused",
            ));
        }
        envelope.control(Control::Subscribe(SubscribeRequest { packet_id, filters }));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: Unsubscribe, envelope: &mut Envelope) {
        let filters = unsubscribe
            .filters
            .iter()
            .map(|text| {
                self.session.unsubscribe(text);
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
        let filter =
            SubscriptionFilter::parse(requested.filter.clone(), self.settings.max_topic_levels)
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
        let kept = self
            .session
            .subscribe(&requested.filter, &subscription, most);
        kept.inspect_err(|reason| {
            let client = self.session.client_id();
            tracing::debug!(%client, filter = %requested.filter, reason = reason.name(), "SUBSCRIBE refused");
        })?;
        Ok(subscription)
    }
}
