//! What a client publishes: alias, permission, limits, and its place among the acknowledgements.

use bytestring::ByteString;

use super::{
    alias::Invalid,
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

/// The topic that the last PUBLISH was allowed to. Most clients publish to the same one for long: then a comparison
/// stands for all that is asked of a topic.
#[derive(Default)]
pub(super) struct Allowed {
    /// Empty: none.
    topic: String,
    /// The permissions that were asked.
    changes: u32,
    /// Whether dry runs were told.
    is_asked: bool,
}

/// Bytes of a topic that is worth keeping.
const ALLOWED_MAX: usize = 256;

impl Allowed {
    fn is(&self, topic: &str, changes: u32, is_asked: bool) -> bool {
        let is_same = self.topic == topic && !topic.is_empty();
        is_same && self.changes == changes && self.is_asked >= is_asked
    }

    fn set(&mut self, topic: &str, changes: u32, is_asked: bool) {
        self.topic.clear();
        if topic.len() <= ALLOWED_MAX {
            self.topic.push_str(topic);
        }
        self.changes = changes;
        self.is_asked = is_asked;
    }
}

impl Connection {
    pub(super) fn publish(
        &mut self,
        publish: &Publish,
        envelope: &mut Envelope,
    ) -> Result<(), Ending> {
        self.counts.publishes_received += 1;
        let topic = self.topic_of(publish)?;
        if self.repeats(publish)? {
            return Ok(());
        }
        if let Some(refusal) = self.refusal(publish, &topic)? {
            self.refuse(publish, refusal);
            return Ok(());
        }
        if let Some(id) = publish.packet_id {
            // From here on the message is on its way, whatever becomes of the connection.
            if publish.qos == Qos::ExactlyOnce {
                self.received.accept(id);
            }
            self.pending.push(publish.qos, id, None);
        }
        self.on_credit |= publish.qos != Qos::AtMostOnce || publish.retain;
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
        }
        // D3: a QoS 1 completion of an earlier connection is nothing to this one; a QoS 2 one is what a
        // retransmission on this connection waits for.
        if qos == Qos::ExactlyOnce || epoch == self.epoch {
            self.pending.complete(qos, packet_id, reason);
        }
        if reason.is_error() && epoch == self.epoch && !self.version.is_v5() {
            return Err(Ending::fault(
                reason,
                "a message was refused at a limit or by the disk, which v3 cannot say otherwise",
            ));
        }
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
                .map_err(|invalid| match invalid {
                    Invalid::AboveMaximum => Ending::fault(
                        ReasonCode::TopicAliasInvalid,
                        format!(
                            "topic alias {alias} is above the maximum of {}",
                            self.settings.topic_alias_maximum
                        ),
                    ),
                    Invalid::NeverSet => Ending::fault(
                        ReasonCode::ProtocolError,
                        format!("topic alias {alias} was never set on this connection"),
                    ),
                }),
        }
    }

    /// Whether it is a retransmission, which is answered and not dispatched.
    fn repeats(&mut self, publish: &Publish) -> Result<bool, Ending> {
        let Some(id) = publish.packet_id else {
            return Ok(false);
        };
        // v3 has no Receive Maximum: its clients are bounded by their packet identifiers.
        let most = if self.version.is_v5() {
            usize::from(self.settings.receive_maximum)
        } else {
            usize::from(u16::MAX)
        };
        let arrival = match publish.qos {
            Qos::ExactlyOnce => self.received.arrival(id),
            _ => Arrival::New,
        };
        let under_way = match arrival {
            Arrival::New => self.pending.under_way(self.received.len()),
            _ => self.pending.exactly_once_len(),
        };
        if under_way >= most {
            return Err(Ending::fault(
                ReasonCode::ReceiveMaximumExceeded,
                format!("more than {most} messages at QoS 1 and 2 are under way (MQTT-3.3.4-7)"),
            ));
        }
        match arrival {
            Arrival::New => return Ok(false),
            Arrival::Joins => self.pending.push(Qos::ExactlyOnce, id, None),
            Arrival::Known(reason) => self.pending.push(Qos::ExactlyOnce, id, Some(reason)),
        }
        Ok(true)
    }

    /// Why this message is not taken, if it is not.
    fn refusal(&mut self, publish: &Publish, topic: &str) -> Result<Option<ReasonCode>, Ending> {
        let changes = self.session.permission_changes();
        let is_asked = self.session.witness.decisions.is_on();
        if !self.allowed.is(topic, changes, is_asked) {
            if let Some(refusal) = self.topic_refusal(topic)? {
                return Ok(Some(refusal));
            }
            self.allowed.set(topic, changes, is_asked);
        }
        // N4: there is no room for more.
        let assured = publish.qos != Qos::AtMostOnce;
        let (reason, why) = match self.session.store_failure() {
            _ if self.over_budget() => (
                ReasonCode::QuotaExceeded,
                "the gateway's memory budget is used up",
            ),
            // D7: it could not be acknowledged.
            Some(failure) if assured => (failure.reason(), "the gateway cannot write to its disk"),
            _ => return Ok(None),
        };
        if assured && !self.version.is_v5() {
            return Err(Ending::fault(reason, why));
        }
        Ok(Some(reason))
    }

    /// Why nothing is taken on this topic, if it is not.
    fn topic_refusal(&mut self, topic: &str) -> Result<Option<ReasonCode>, Ending> {
        // What the decoder lets through and our limits do not.
        if validate_topic_name(topic, self.settings.max_topic_levels).is_err() {
            return Ok(Some(ReasonCode::TopicNameInvalid));
        }
        self.asks_to_publish(topic);
        if self.session.may_publish(topic) {
            return Ok(None);
        }
        self.audit_denial(topic);
        if !self.version.is_v5() && self.settings.denied_publish == DeniedPublish::Disconnect {
            return Err(Ending::fault(
                ReasonCode::NotAuthorized,
                "a PUBLISH was denied",
            ));
        }
        Ok(Some(ReasonCode::NotAuthorized))
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
        if publish.qos == Qos::ExactlyOnce && !answer.is_error() {
            self.received.accept(id);
            self.received.complete(id, answer);
        }
        self.pending.push(publish.qos, id, Some(answer));
    }

    /// One line for each connection; the metric counts them all.
    fn audit_denial(&mut self, topic: &str) {
        self.publish_denied(topic);
        if !std::mem::replace(&mut self.denied, true) {
            let principal = self.session.principal();
            let client = self.session.client_id();
            tracing::warn!(target: "postern::audit", %principal, ?client, ?topic, "PUBLISH denied; more of this connection are only counted");
        }
    }

    fn over_budget(&self) -> bool {
        self.metrics.memory_held() > self.settings.memory_budget
    }
}
