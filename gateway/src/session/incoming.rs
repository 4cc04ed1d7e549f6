//! What a client published and was not yet told about: order of acknowledgements (D4), QoS 2 deduplication (D3).

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::mqtt::{PacketId, Qos, ReasonCode};

/// Acknowledgements of one connection that wait for their messages, in the order of the messages (MQTT-4.6.0-2, -3).
#[derive(Default)]
pub struct Pending {
    at_least_once: VecDeque<Wait>,
    exactly_once: VecDeque<Wait>,
}

struct Wait {
    id: PacketId,
    /// What to answer, once it is known.
    reason: Option<ReasonCode>,
}

impl Pending {
    /// Messages at QoS 1 and 2 that are under way, of which `received` are at QoS 2 between PUBLISH and PUBREL.
    pub fn under_way(&self, received: usize) -> usize {
        self.at_least_once.len() + received.max(self.exactly_once.len())
    }

    /// PUBRECs that wait, those for retransmissions included: nothing that a client repeats grows without a bound.
    pub fn exactly_once_len(&self) -> usize {
        self.exactly_once.len()
    }

    /// A PUBLISH was received. `reason` is known at once for one that was refused or is a duplicate.
    pub fn push(&mut self, qos: Qos, id: PacketId, reason: Option<ReasonCode>) {
        if let Some(line) = self.line(qos) {
            line.push_back(Wait { id, reason });
        }
    }

    pub fn complete(&mut self, qos: Qos, id: PacketId, reason: ReasonCode) {
        let Some(line) = self.line(qos) else { return };
        let mut waits = line
            .iter_mut()
            .filter(|wait| wait.id == id && wait.reason.is_none());
        match qos {
            // Retransmissions that came meanwhile waited for the same message.
            Qos::ExactlyOnce => waits.for_each(|wait| wait.reason = Some(reason)),
            // Identifiers may be used again before we answer: each message has its own completion.
            _ => {
                if let Some(wait) = waits.next() {
                    wait.reason = Some(reason);
                }
            }
        }
    }

    /// The next acknowledgement that may leave: PUBACK for [`Qos::AtLeastOnce`], PUBREC for [`Qos::ExactlyOnce`].
    pub fn pop(&mut self, qos: Qos) -> Option<(PacketId, ReasonCode)> {
        let line = self.line(qos)?;
        let reason = line.front()?.reason?;
        let id = line.pop_front()?.id;
        if line.is_empty() && line.capacity() > 64 {
            line.shrink_to(0);
        }
        Some((id, reason))
    }

    fn line(&mut self, qos: Qos) -> Option<&mut VecDeque<Wait>> {
        match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce => Some(&mut self.at_least_once),
            Qos::ExactlyOnce => Some(&mut self.exactly_once),
        }
    }
}

/// Packet identifiers of QoS 2 messages between PUBLISH and PUBREL. It outlives connections.
#[derive(Default)]
pub struct Received {
    ids: HashMap<PacketId, Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// On its way through the bus.
    Accepted,
    /// Safe: PUBREC may be sent, and sent again.
    Safe(ReasonCode),
}

/// What a PUBREL is.
#[derive(Debug, PartialEq, Eq)]
pub enum Release {
    Known,
    Unknown,
    /// Its message is not safe yet, and PUBREC was not sent.
    Early,
}

/// What a PUBLISH at QoS 2 is.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// A retransmission of a message that is still on its way: its PUBREC waits for that one.
    Joins,
    /// A retransmission of a message that is safe.
    Known(ReasonCode),
}

impl Received {
    /// What a PUBLISH with this identifier would be.
    pub fn arrival(&self, id: PacketId) -> Arrival {
        match self.ids.get(&id) {
            None => Arrival::New,
            Some(Stage::Accepted) => Arrival::Joins,
            Some(Stage::Safe(reason)) => Arrival::Known(*reason),
        }
    }

    /// A new message is on its way.
    pub fn accept(&mut self, id: PacketId) {
        self.ids.insert(id, Stage::Accepted);
    }

    /// The message is through the bus. A refused one gives its identifier back (MQTT 5 §4.3.3).
    pub fn complete(&mut self, id: PacketId, reason: ReasonCode) {
        if reason.is_error() {
            self.ids.remove(&id);
        } else if let Some(stage) = self.ids.get_mut(&id) {
            *stage = Stage::Safe(reason);
        }
    }

    /// PUBREL came for an identifier.
    pub fn release(&mut self, id: PacketId) -> Release {
        match self.ids.get(&id) {
            None => return Release::Unknown,
            Some(Stage::Accepted) => return Release::Early,
            Some(Stage::Safe(_)) => self.ids.remove(&id),
        };
        if self.ids.is_empty() && self.ids.capacity() > 64 {
            self.ids.shrink_to_fit();
        }
        Release::Known
    }

    /// Identifiers that a start finds on disk, with the reason codes of their PUBRECs.
    pub fn restore(ids: impl IntoIterator<Item = (PacketId, ReasonCode)>) -> Received {
        let ids = ids
            .into_iter()
            .map(|(id, reason)| (id, Stage::Safe(reason)));
        Received { ids: ids.collect() }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    // D4
    #[test]
    fn a_refusal_waits_for_the_acknowledgements_before_it() {
        let mut pending = Pending::default();
        pending.push(Qos::AtLeastOnce, id(1), None);
        pending.push(Qos::AtLeastOnce, id(2), Some(ReasonCode::NotAuthorized));
        pending.push(Qos::ExactlyOnce, id(3), Some(ReasonCode::NotAuthorized));
        assert_eq!(pending.pop(Qos::AtLeastOnce), None);
        assert_eq!(
            pending.pop(Qos::ExactlyOnce),
            Some((id(3), ReasonCode::NotAuthorized))
        );
        pending.complete(Qos::AtLeastOnce, id(1), ReasonCode::Success);
        assert_eq!(
            pending.pop(Qos::AtLeastOnce),
            Some((id(1), ReasonCode::Success))
        );
        assert_eq!(
            pending.pop(Qos::AtLeastOnce),
            Some((id(2), ReasonCode::NotAuthorized))
        );
    }

    // D3
    #[test]
    fn a_retransmitted_qos_2_message_is_dispatched_once() {
        let mut received = Received::default();
        assert_eq!(received.arrival(id(7)), Arrival::New);
        received.accept(id(7));
        assert_eq!(received.arrival(id(7)), Arrival::Joins);
        assert_eq!(received.release(id(7)), Release::Early);
        received.complete(id(7), ReasonCode::Success);
        assert_eq!(received.arrival(id(7)), Arrival::Known(ReasonCode::Success));
        assert_eq!(received.release(id(7)), Release::Known);
        assert_eq!(received.release(id(7)), Release::Unknown);
        assert_eq!(received.arrival(id(7)), Arrival::New);
    }

    #[test]
    fn a_refused_qos_2_message_frees_its_identifier() {
        let mut received = Received::default();
        received.accept(id(7));
        received.complete(id(7), ReasonCode::QuotaExceeded);
        assert_eq!(received.arrival(id(7)), Arrival::New);
    }
}
