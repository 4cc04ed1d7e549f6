//! Messages at QoS 1 and 2 that were sent and are not finished: packet identifiers, order, redelivery
//! (MQTT 5 §4.3, §4.4, §4.6).

use std::collections::VecDeque;

use super::ledger::{IDENTIFIERS, identifier};
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
    /// Slots whose packet identifier does not follow from their serial.
    odd: usize,
    /// Slots from the front that have been sent on this connection; the others wait to be sent again.
    sent: usize,
    /// Slots that take up the client's Receive Maximum.
    open: usize,
    /// Bytes of the messages that are kept, and of those among them that are not to be sent again.
    bytes: usize,
    withheld: usize,
    neighbours: Neighbours,
}

struct Slot {
    serial: u64,
    id: PacketId,
    state: State,
    /// It counts in `open`: it was sent on this connection.
    counted: bool,
    /// It is not sent on this connection; its bytes, if it has any, count as withheld.
    withheld: bool,
}

/// How far a message got.
enum State {
    /// PUBLISH was sent; PUBACK or PUBREC is due.
    Published(Delivery),
    /// It was sent on an earlier connection at this QoS, and is not to be sent again (D9). Its message is on disk, if
    /// anywhere.
    Kept(Qos),
    /// PUBREL was sent; PUBCOMP is due. The message is the client's.
    Released,
}

/// What must be sent again on a new connection, in order.
pub enum Again<'a> {
    Publish(PacketId, &'a Delivery),
    /// It is not to be sent again, and was not on the last connection.
    Nothing,
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
    /// It belonged to the message with this serial, which is finished or goes on.
    Known(u64),
    /// No such packet identifier is in use.
    Unknown,
    /// The identifier belongs to a message of the other QoS, or at another stage: a protocol error.
    Wrong,
}

impl Window {
    /// Messages that the client has not acknowledged (they count against its Receive Maximum).
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What the disk knows of messages in flight: those that may have been sent, and those between PUBREC and PUBCOMP,
    /// in the order of their serials. All of it is to be sent again.
    pub fn restore(deliveries: Vec<(Delivery, PacketId)>, released: &[(u64, PacketId)]) -> Window {
        let mut window = Window::default();
        let mut slots: Vec<_> = deliveries
            .into_iter()
            .map(|(delivery, id)| Slot::new(delivery.serial, id, State::Published(delivery)))
            .chain(
                released
                    .iter()
                    .map(|(serial, id)| Slot::new(*serial, *id, State::Released)),
            )
            .collect();
        slots.sort_by_key(|slot| slot.serial);
        window.bytes = slots.iter().map(|slot| slot.state.cost()).sum();
        window.odd = slots.iter().filter(|slot| slot.is_odd()).count();
        window.slots = slots.into();
        window
    }

    /// Keeps a message that is about to be sent, under the packet identifier that follows from its serial or, where
    /// that is in use, another. `None` if all of them are, which a window below 65,535 rules out.
    pub fn admit(&mut self, delivery: Delivery) -> Option<PacketId> {
        let id = self.free(delivery.serial)?;
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
        let mut slot = Slot::new(delivery.serial, id, State::Published(delivery));
        slot.counted = true;
        self.odd += usize::from(slot.is_odd());
        self.slots.push_back(slot);
        self.sent = self.slots.len();
        self.open += 1;
        Some(id)
    }

    pub fn puback(&mut self, id: PacketId) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match self.slots[place].state.qos() {
            Some(Qos::AtLeastOnce) => self.remove(place),
            _ => Acknowledged::Wrong,
        }
    }

    /// PUBREC: the message is the client's, or with an error it is discarded (MQTT 5 §4.3.3).
    pub fn pubrec(&mut self, id: PacketId, refused: bool) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match self.slots[place].state.qos() {
            Some(Qos::AtLeastOnce) => Acknowledged::Wrong,
            _ if refused => self.remove(place),
            _ => self.release(place),
        }
    }

    pub fn pubcomp(&mut self, id: PacketId) -> Acknowledged {
        let Some(place) = self.place(id) else {
            return Acknowledged::Unknown;
        };
        match &self.slots[place].state {
            State::Released => self.remove(place),
            State::Published(_) | State::Kept(_) => Acknowledged::Wrong,
        }
    }

    /// Bytes of messages that the client may still ask for again.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those of messages that were sent on this connection or will be.
    pub fn bytes_to_send(&self) -> usize {
        self.bytes - self.withheld
    }

    /// A new connection: everything is to be sent again, in order.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.open = 0;
        self.withheld = 0;
        for slot in &mut self.slots {
            (slot.counted, slot.withheld) = (false, false);
        }
    }

    /// Whether something must be sent again before anything new.
    pub fn is_rewound(&self) -> bool {
        self.sent < self.slots.len()
    }

    /// The next one to send again; say what became of it with [`Window::resent`].
    pub fn again(&self) -> Option<Again<'_>> {
        let slot = self.slots.get(self.sent)?;
        let id = slot.id;
        Some(match &slot.state {
            State::Published(delivery) => Again::Publish(id, delivery),
            State::Kept(_) => Again::Nothing,
            State::Released => Again::Release(id),
        })
    }

    /// What became of the one that [`Window::again`] gave. Gives its serial if it is finished.
    pub fn resent(&mut self, outcome: Resent) -> Option<u64> {
        let slot = self.slots.get_mut(self.sent)?;
        match outcome {
            Resent::Sent => {
                slot.counted = true;
                self.open += 1;
                self.sent += 1;
                None
            }
            Resent::Kept => {
                slot.withheld = true;
                let cost = slot.state.cost();
                match &slot.state {
                    // Another member gets it when this connection ends: its message stays.
                    State::Published(delivery) if is_movable(delivery) => self.withheld += cost,
                    State::Published(delivery) => {
                        slot.state = State::Kept(delivery.qos);
                        self.bytes -= cost;
                    }
                    _ => {}
                }
                self.sent += 1;
                None
            }
            Resent::Dropped => match self.remove(self.sent) {
                Acknowledged::Known(serial) => Some(serial),
                _ => None,
            },
        }
    }

    /// Takes out the messages at QoS 1 of shared groups: their client left, another member gets them (S4).
    pub fn take_shared(&mut self) -> Vec<Delivery> {
        let mut out = Vec::new();
        let mut place = 0;
        while let Some(slot) = self.slots.get(place) {
            match &slot.state {
                State::Published(delivery) if is_movable(delivery) => {
                    out.push(delivery.clone());
                    self.remove(place);
                }
                _ => place += 1,
            }
        }
        out
    }

    /// The message is the client's: only its identifier stays.
    fn release(&mut self, place: usize) -> Acknowledged {
        let slot = &mut self.slots[place];
        let was = std::mem::replace(&mut slot.state, State::Released);
        self.bytes -= was.cost();
        if slot.withheld {
            self.withheld -= was.cost();
        }
        Acknowledged::Known(slot.serial)
    }

    fn remove(&mut self, place: usize) -> Acknowledged {
        let Some(slot) = self.slots.remove(place) else {
            return Acknowledged::Unknown;
        };
        self.odd -= usize::from(slot.is_odd());
        self.bytes -= slot.state.cost();
        if slot.withheld {
            self.withheld -= slot.state.cost();
        }
        if place < self.sent {
            self.sent -= 1;
        }
        if slot.counted {
            self.open -= 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > WAITING {
            self.slots.shrink_to(0);
        }
        Acknowledged::Known(slot.serial)
    }

    fn place(&self, id: PacketId) -> Option<usize> {
        // Acknowledgements come in order from all but odd clients: the first slot is nearly always the one.
        self.slots.iter().position(|slot| slot.id == id)
    }

    fn free(&self, serial: u64) -> Option<PacketId> {
        // Slots are in the order of serials: a collision is only possible with one that is a whole round old, or odd.
        let oldest = self.slots.front().map_or(serial, |slot| slot.serial);
        if self.odd == 0 && serial.saturating_sub(oldest) < IDENTIFIERS {
            return Some(identifier(serial));
        }
        (serial..serial + IDENTIFIERS)
            .map(identifier)
            .find(|id| self.place(*id).is_none())
    }
}

impl Slot {
    fn new(serial: u64, id: PacketId, state: State) -> Slot {
        Slot {
            serial,
            id,
            state,
            counted: false,
            withheld: false,
        }
    }

    fn is_odd(&self) -> bool {
        self.id != identifier(self.serial)
    }
}

/// Messages in flight from which on new ones are copied out of their envelopes.
const WAITING: usize = 32;

impl State {
    fn cost(&self) -> usize {
        match self {
            State::Published(delivery) => delivery.message.cost(),
            State::Kept(_) | State::Released => 0,
        }
    }

    /// The QoS at which it is acknowledged; `None` between PUBREC and PUBCOMP.
    fn qos(&self) -> Option<Qos> {
        match self {
            State::Published(delivery) => Some(delivery.qos),
            State::Kept(qos) => Some(*qos),
            State::Released => None,
        }
    }
}

/// Whether another member of a shared group may get a message that was sent (S4).
fn is_movable(delivery: &Delivery) -> bool {
    delivery.qos == Qos::AtLeastOnce && delivery.share().is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::routing::envelope::{self, Outgoing};

    fn delivery(serial: u64, payload: &str, qos: Qos) -> Delivery {
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
            serial,
        }
    }

    #[test]
    fn packet_identifiers_run_round_and_pass_over_those_in_use() {
        let mut window = Window::default();
        let stuck = delivery(1, "stuck", Qos::AtLeastOnce);
        let stuck = window.admit(stuck).unwrap();
        assert_eq!(stuck.get(), 1);
        for n in 2..=70_000u64 {
            let id = window.admit(delivery(n, "", Qos::AtLeastOnce)).unwrap();
            assert_ne!(id, stuck, "message {n}");
            assert_eq!(window.puback(id), Acknowledged::Known(n));
        }
        assert_eq!(window.open(), 1);
    }

    #[test]
    fn every_acknowledgement_must_fit_its_message() {
        let mut window = Window::default();
        let one = window.admit(delivery(1, "1", Qos::AtLeastOnce)).unwrap();
        let two = window.admit(delivery(2, "2", Qos::ExactlyOnce)).unwrap();
        assert_eq!(window.pubrec(one, false), Acknowledged::Wrong);
        assert_eq!(window.puback(two), Acknowledged::Wrong);
        assert_eq!(window.pubcomp(two), Acknowledged::Wrong);
        assert_eq!(window.pubrec(two, false), Acknowledged::Known(2));
        assert_eq!(
            window.pubrec(two, false),
            Acknowledged::Known(2),
            "a repeated PUBREC is answered again"
        );
        assert_eq!(window.pubcomp(two), Acknowledged::Known(2));
        assert_eq!(window.pubcomp(two), Acknowledged::Unknown);
        assert_eq!(window.puback(one), Acknowledged::Known(1));
        assert!(window.is_empty());
    }

    #[test]
    fn a_new_connection_gets_everything_unfinished_again_in_order() {
        let mut window = Window::default();
        let ids: Vec<_> = [
            (1, "a", Qos::AtLeastOnce),
            (2, "b", Qos::ExactlyOnce),
            (3, "c", Qos::ExactlyOnce),
        ]
        .map(|(serial, payload, qos)| window.admit(delivery(serial, payload, qos)).unwrap())
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
                Again::Nothing => panic!("nothing is withheld"),
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
        let id = window.admit(delivery(1, "a", Qos::ExactlyOnce)).unwrap();
        assert_eq!(window.pubrec(id, true), Acknowledged::Known(1));
        assert!(window.is_empty());
        assert_eq!(window.open(), 0);
    }
}
