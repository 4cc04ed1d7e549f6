//! What a client publishes: alias, permission, limits, and its place among the acknowledgements.

use bytestring::ByteString;

use super::{
    connection::{Connection, Ending},
    incoming::Arrival,
};
use crate::{
    mqtt::{Publish, Qos, ReasonCode, validate_topic_name},
    routing::{
        endpoint::Completion,
        envelope::{Envelope, Outgoing},
    },
};
use broker_config::DeniedPublish;

impl Connection {
    pub(super) fn publish(
        &mut self,
        publish: &Publish,
        envelope: &mut Envelope,
    ) -> Result<(), Ending> {
        self.counts.publishes_received += 1;
        let topic = self.topic_of(publish)?;
        if let Err(error) = validate_topic_name(&topic, self.settings.max_topic_levels) {
            return Err(Ending::fault(
                ReasonCode::TopicNameInvalid,
                format!("PUBLISH: {error}"),
            ));
        }
        if !self.arrives(publish)? {
            return Ok(());
        }
        match self.refusal(publish, &topic) {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                self.refuse(publish, refusal);
                return Ok(());
            }
            Err(ending) => {
                self.forget(publish);
                return Err(ending);
            }
        }
        if let Some(id) = publish.packet_id {
            self.pending.push(publish.qos, id, None);
        }
        envelope.publish(Outgoing {
            topic: &topic,
            payload: &publish.payload,
            properties: publish.properties.as_bytes(),
            qos: publish.qos,
            retain: publish.retain,
            expiry: publish.message_expiry,
            packet_id: publish.packet_id,
        });
        Ok(())
    }

    /// A message that this client published passed the dispatcher, or was refused there.
    pub(super) fn completed(&mut self, epoch: u32, completion: Completion) -> Result<(), Ending> {
        let Completion {
            packet_id,
            qos,
            reason,
        } = completion;
        if qos == Qos::ExactlyOnce {
            self.received.complete(packet_id, reason);
        } else if epoch != self.epoch {
            // D3: a QoS 1 completion of an earlier connection is nothing to this one.
            return Ok(());
        }
        if reason.is_error() && !self.version.is_v5() {
            return Err(Ending::fault(
                reason,
                "a message was refused at a limit, which v3 cannot say otherwise",
            ));
        }
        // D3: at QoS 2 a retransmission on this connection may wait for the message of an earlier one.
        self.pending.complete(qos, packet_id, reason);
        Ok(())
    }

    fn topic_of(&mut self, publish: &Publish) -> Result<ByteString, Ending> {
        match publish.topic_alias {
            None => Ok(publish.topic.clone()),
            Some(alias) => self
                .aliases_in
                .resolve(
                    alias,
                    publish.topic.clone(),
                    self.settings.topic_alias_maximum,
                )
                .map_err(|_| {
                    let maximum = self.settings.topic_alias_maximum;
                    Ending::fault(
                        ReasonCode::TopicAliasInvalid,
                        format!("topic alias {alias} is above {maximum} or was never set"),
                    )
                }),
        }
    }

    /// Takes the packet identifier into use; false for a retransmission, which is answered and not dispatched.
    fn arrives(&mut self, publish: &Publish) -> Result<bool, Ending> {
        let Some(id) = publish.packet_id else {
            return Ok(true);
        };
        if publish.qos == Qos::ExactlyOnce {
            match self.received.publish(id) {
                Arrival::New => {}
                Arrival::Joins => {
                    self.pending.push(Qos::ExactlyOnce, id, None);
                    return Ok(false);
                }
                Arrival::Known(reason) => {
                    self.pending.push(Qos::ExactlyOnce, id, Some(reason));
                    return Ok(false);
                }
            }
        }
        // v3 has no Receive Maximum: its clients are bounded by their packet identifiers.
        let most = if self.version.is_v5() {
            usize::from(self.settings.receive_maximum)
        } else {
            usize::from(u16::MAX)
        };
        if self.pending.at_least_once_len() + self.received.len() > most {
            self.forget(publish);
            return Err(Ending::fault(
                ReasonCode::ReceiveMaximumExceeded,
                format!("more than {most} messages at QoS 1 and 2 are under way (MQTT-3.3.4-9)"),
            ));
        }
        Ok(true)
    }

    /// Why this message is not taken, if it is not.
    fn refusal(&self, publish: &Publish, topic: &str) -> Result<Option<ReasonCode>, Ending> {
        if !self.session.may_publish(topic) {
            tracing::debug!(client = %self.session.client_id(), topic, "PUBLISH denied");
            if !self.version.is_v5() && self.settings.denied_publish == DeniedPublish::Disconnect {
                return Err(Ending::fault(
                    ReasonCode::NotAuthorized,
                    "a PUBLISH was denied",
                ));
            }
            return Ok(Some(ReasonCode::NotAuthorized));
        }
        // N4: what must be kept has no room; what is only passed on goes through.
        if publish.qos != Qos::AtMostOnce && self.over_budget() {
            if !self.version.is_v5() {
                return Err(Ending::fault(
                    ReasonCode::QuotaExceeded,
                    "the gateway's memory budget is used up",
                ));
            }
            return Ok(Some(ReasonCode::QuotaExceeded));
        }
        Ok(None)
    }

    /// A new message that ends its connection was not taken: sent again on the next one, it is new again.
    fn forget(&mut self, publish: &Publish) {
        if let (Qos::ExactlyOnce, Some(id)) = (publish.qos, publish.packet_id) {
            self.received.release(id);
        }
    }

    fn refuse(&mut self, publish: &Publish, reason: ReasonCode) {
        self.metrics.publishes_refused.add(1);
        let Some(id) = publish.packet_id else { return };
        // S1: v3 has no way to refuse; it is told the message arrived.
        let answer = if self.version.is_v5() {
            reason
        } else {
            ReasonCode::Success
        };
        if publish.qos == Qos::ExactlyOnce {
            self.received.complete(id, answer);
        }
        self.pending.push(publish.qos, id, Some(answer));
    }

    fn over_budget(&self) -> bool {
        self.metrics.bytes_queued.get() as usize > self.settings.memory_budget
    }
}
