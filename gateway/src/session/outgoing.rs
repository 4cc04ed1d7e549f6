//! Messages at QoS 1 and 2 that were sent and are not finished: packet identifiers, order, redelivery
//! (MQTT 5 §4.3, §4.4, §4.6).

use std::collections::VecDeque;

use crate::{
    mqtt::PacketId,
    mqtt::Qos,
    routing::{endpoint::Delivery, message::Neighbours},
};

/// The send window of one session. It outlives connections (MQTT-4.4.0-1).
#[derive(Default)]
pub struct Window {
    /// In the order in which they were first sent.
    slots: VecDeque<Slot>,
    /// Packet identifiers given so far; the next one follows from it.
    given: u64,
    /// Slots from the front that have been sent on this connection; the others wait to be sent again.
    sent: usize,
    /// Slots that take up the client's Receive Maximum.
    open: usize,
    /// Bytes of the messages that are kept.
    bytes: usize,
    neighbours: Neighbours,
}

struct Slot {
    given: u64,
    state: State,
    /// It counts in `open`: it was sent on this connection.
    counted: bool,
}

/// How far a message got.
enum State {
    /// PUBLISH was sent; PUBACK or PUBREC is due.
    Published(Delivery),
    /// PUBREL was sent; PUBCOMP is due. The message is the client's.
    Released,
}

/// What must be sent again on a new connection, in order.
pub enum Again<'a> {
    Publish(PacketId, &'a Delivery),
    Release(PacketId),
}

/// What became of a message that was to be sent again.
pub enum Resent {
    Sent,
    /// It is no longer allowed: it keeps its packet identifier and is not sent (D9).
    Kept,
    /// It does not fit the client: as if it had been sent and finished (MQTT-3.1.2-25).
    Dropped,
}

/// What became of an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// It belonged to a message, which is finished or goes on.
    Known,
    /// No such packet identifier is in use.
    Unknown,
    /// The identifier belongs to a message of the other QoS, or at another stage: a protocol error.
    Wrong,
}

/// Packet identifiers run from 1 to 65,535.
const IDENTIFIERS: u64 = u16::MAX as u64;

impl Window {
    /// Messages that the client has not acknowledged (they count against its Receive Maximum).
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Keeps a message that is about to be sent, under a free packet identifier.
    /// `None` if all of them are in use, which a window below 65,535 rules out.
    pub fn admit(&mut self, delivery: Delivery) -> Option<PacketId> {
        let given = self.free()?;
        self.given = given;
        // One that may wait long must not keep its whole envelope in memory.
        let message = match self.slots.len() >= WAITING {
            true => self.neighbours.keep(delivery.message),
            false => delivery.message,
        };
        let delivery = Delivery {
            message,
            ..delivery
        };
        self.bytes += delivery.message.cost();
        self.slots.push_back(Slot {
            given,
            state: State::Published(delivery),
            counted: true,
        });
        self.sent = self.slots.len();
        self.open += 1;
        Some(identifier(given))
    }

    pub fn puback(&mut self, id: PacketId) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match &self.slots[place].state {
            State::Published(delivery) if delivery.qos == Qos::AtLeastOnce => {
                self.remove(place);
                Acknowledged::Known
            }
            _ => Acknowledged::Wrong,
        }
    }

    /// PUBREC: the message is the client's, or with an error it is discarded (MQTT 5 §4.3.3).
    pub fn pubrec(&mut self, id: PacketId, refused: bool) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match &self.slots[place].state {
            State::Published(delivery) if delivery.qos == Qos::AtLeastOnce => {
                return Acknowledged::Wrong;
            }
            _ if refused => self.remove(place),
            _ => self.release(place),
        }
        Acknowledged::Known
    }

    pub fn pubcomp(&mut self, id: PacketId) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match &self.slots[place].state {
            State::Released => {
                self.remove(place);
                Acknowledged::Known
            }
            State::Published(_) => Acknowledged::Wrong,
        }
    }

    /// Bytes of messages that the client may still ask for again.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A new connection: everything is to be sent again, in order.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.open = 0;
        for slot in &mut self.slots {
            slot.counted = false;
        }
    }

    /// Whether something must be sent again before anything new.
    pub fn is_rewound(&self) -> bool {
        self.sent < self.slots.len()
    }

    /// The next one to send again; say what became of it with [`Window::resent`].
    pub fn again(&self) -> Option<Again<'_>> {
        let slot = self.slots.get(self.sent)?;
        let id = identifier(slot.given);
        Some(match &slot.state {
            State::Published(delivery) => Again::Publish(id, delivery),
            State::Released => Again::Release(id),
        })
    }

    /// What became of the one that [`Window::again`] gave.
    pub fn resent(&mut self, outcome: Resent) {
        let Some(slot) = self.slots.get_mut(self.sent) else {
            return;
        };
        match outcome {
            Resent::Sent => {
                slot.counted = true;
                self.open += 1;
                self.sent += 1;
            }
            Resent::Kept => self.sent += 1,
            Resent::Dropped => self.remove(self.sent),
        }
    }

    /// Takes out the messages at QoS 1 of shared groups: their client left, another member gets them (S4).
    pub fn take_shared(&mut self) -> Vec<Delivery> {
        let is_shared = |slot: &Slot| match &slot.state {
            State::Published(delivery) => {
                delivery.qos == Qos::AtLeastOnce && delivery.share().is_some()
            }
            State::Released => false,
        };
        let mut out = Vec::new();
        let mut place = 0;
        while let Some(slot) = self.slots.get(place) {
            match &slot.state {
                State::Published(delivery) if is_shared(slot) => {
                    out.push(delivery.clone());
                    self.remove(place);
                }
                _ => place += 1,
            }
        }
        out
    }

    /// The message is the client's: only its identifier stays.
    fn release(&mut self, place: usize) {
        let was = std::mem::replace(&mut self.slots[place].state, State::Released);
        self.bytes -= was.cost();
    }

    fn remove(&mut self, place: usize) {
        let Some(slot) = self.slots.remove(place) else {
            return;
        };
        self.bytes -= slot.state.cost();
        if place < self.sent {
            self.sent -= 1;
        }
        if slot.counted {
            self.open -= 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > WAITING {
            self.slots.shrink_to(0);
        }
    }

    fn place(&self, id: PacketId) -> Option<usize> {
        // Acknowledgements come in order from all but odd clients: the first slot is nearly always the one.
        self.slots
            .iter()
            .position(|slot| identifier(slot.given) == id)
    }

    fn free(&self) -> Option<u64> {
        let next = self.given + 1;
        // Slots are in the order of `given`: a collision is only possible with one that is a whole round old.
        let oldest = self.slots.front().map_or(next, |slot| slot.given);
        if next - oldest < IDENTIFIERS {
            return Some(next);
        }
        (next..next + IDENTIFIERS).find(|given| self.place(identifier(*given)).is_none())
    }
}

/// Messages in flight from which on new ones are copied out of their envelopes.
const WAITING: usize = 32;

impl State {
    fn cost(&self) -> usize {
        match self {
            State::Published(delivery) => delivery.message.cost(),
            State::Released => 0,
        }
    }
}

fn identifier(given: u64) -> PacketId {
    PacketId::new((given % IDENTIFIERS) as u16).unwrap_or(PacketId::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::routing::envelope::{self, Outgoing};

    fn delivery(payload: &str, qos: Qos) -> Delivery {
        let outgoing = Outgoing {
            topic: "t",
            payload: payload.as_bytes(),
            properties: b"",
            qos,
            retain: false,
            expiry: None,
            packet_id: None,
        };
        let message = envelope::message(outgoing, Instant::now()).unwrap();
        Delivery {
            message,
            qos,
            retain: false,
            extra: None,
        }
    }

    #[test]
    fn packet_identifiers_run_round_and_pass_over_those_in_use() {
        let mut window = Window::default();
        let stuck = window.admit(delivery("stuck", Qos::AtLeastOnce)).unwrap();
        assert_eq!(stuck.get(), 1);
        for n in 2..=70_000u64 {
            let id = window.admit(delivery("", Qos::AtLeastOnce)).unwrap();
            assert_ne!(id, stuck, "message {n}");
            assert_eq!(window.puback(id), Acknowledged::Known);
        }
        assert_eq!(window.open(), 1);
    }

    #[test]
    fn every_acknowledgement_must_fit_its_message() {
        let mut window = Window::default();
        let one = window.admit(delivery("1", Qos::AtLeastOnce)).unwrap();
        let two = window.admit(delivery("2", Qos::ExactlyOnce)).unwrap();
        assert_eq!(window.pubrec(one, false), Acknowledged::Wrong);
        assert_eq!(window.puback(two), Acknowledged::Wrong);
        assert_eq!(window.pubcomp(two), Acknowledged::Wrong);
        assert_eq!(window.pubrec(two, false), Acknowledged::Known);
        assert_eq!(
            window.pubrec(two, false),
            Acknowledged::Known,
            "a repeated PUBREC is answered again"
        );
        assert_eq!(window.pubcomp(two), Acknowledged::Known);
        assert_eq!(window.pubcomp(two), Acknowledged::Unknown);
        assert_eq!(window.puback(one), Acknowledged::Known);
        assert!(window.is_empty());
    }

    #[test]
    fn a_new_connection_gets_everything_unfinished_again_in_order() {
        let mut window = Window::default();
        let ids: Vec<_> = [
            ("a", Qos::AtLeastOnce),
            ("b", Qos::ExactlyOnce),
            ("c", Qos::ExactlyOnce),
        ]
        .map(|(payload, qos)| window.admit(delivery(payload, qos)).unwrap())
        .into();
        window.pubrec(ids[1], false);
        window.rewind();
        let mut seen = Vec::new();
        while let Some(again) = window.again() {
            seen.push(match again {
                Again::Publish(id, delivery) => (
                    id,
                    String::from_utf8_lossy(delivery.message.payload()).into_owned(),
                ),
                Again::Release(id) => (id, "PUBREL".to_owned()),
            });
            window.resent(Resent::Sent);
        }
        assert_eq!(
            seen,
            [
                (ids[0], "a".into()),
                (ids[1], "PUBREL".into()),
                (ids[2], "c".into())
            ]
        );
        assert_eq!(window.open(), 3);
    }

    #[test]
    fn a_refused_qos_2_message_is_discarded() {
        let mut window = Window::default();
        let id = window.admit(delivery("a", Qos::ExactlyOnce)).unwrap();
        assert_eq!(window.pubrec(id, true), Acknowledged::Known);
        assert!(window.is_empty());
        assert_eq!(window.open(), 0);
    }
}
