//! The queue of one session: what waits for its client, in order, within limits (D8).
//!
//! Messages at effective QoS 0 and at QoS 1 or 2 wait in lines of their own, each entry numbered, so that the oldest
//! is always known, QoS 0 can be dropped first, and a closed send window holds back only what needs it.

use std::collections::VecDeque;

use crate::{
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode},
    routing::{endpoint::Delivery, message::Neighbours},
};

/// How much may wait. Bytes count message content and a fixed overhead for each message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages at QoS 1 and 2.
    pub messages: usize,
    /// Bytes of all messages.
    pub bytes: usize,
}

/// What comes out of the queue.
#[derive(Debug)]
pub enum Entry {
    Message(Delivery),
    SubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
    UnsubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
}

#[derive(Default)]
pub struct Queue {
    next: u64,
    /// Effective QoS 0.
    fleeting: VecDeque<(u64, Delivery)>,
    /// Effective QoS 1 and 2.
    assured: VecDeque<(u64, Delivery)>,
    aside: VecDeque<(u64, Aside)>,
    bytes: usize,
    /// Messages and bytes that the gauges know of.
    reported: (usize, usize),
    neighbours: Neighbours,
}

/// What is not a live message and keeps its place among them.
enum Aside {
    SubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
    UnsubAck {
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
    },
    /// The retained messages of a new subscription, fixed when it was made; nothing newer overtakes them (B7).
    Retained(std::vec::IntoIter<Delivery>),
}

impl Queue {
    /// Adds a message; what had to be dropped for it is counted.
    pub fn push(&mut self, delivery: Delivery, limits: QueueLimits, metrics: &Metrics) {
        let cost = delivery.message.cost();
        if delivery.qos == Qos::AtMostOnce {
            if self.bytes + cost > limits.bytes {
                metrics.messages_dropped.add(1);
                return;
            }
        } else {
            while self.bytes + cost > limits.bytes && self.drop_oldest_fleeting(metrics) {}
            while self.assured.len() >= limits.messages
                || (self.bytes + cost > limits.bytes && !self.assured.is_empty())
            {
                self.drop_oldest_assured(metrics);
            }
        }
        self.admit(delivery);
    }

    fn admit(&mut self, delivery: Delivery) {
        let cost = delivery.message.cost();
        self.bytes += cost;
        let number = self.number();
        let message = match self.len() > WAITING {
            true => self.neighbours.keep(delivery.message),
            false => delivery.message,
        };
        let delivery = Delivery {
            message,
            ..delivery
        };
        match delivery.qos {
            Qos::AtMostOnce => self.fleeting.push_back((number, delivery)),
            _ => self.assured.push_back((number, delivery)),
        }
    }

    pub fn suback(
        &mut self,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
    ) {
        let number = self.number();
        self.aside
            .push_back((number, Aside::SubAck { packet_id, reasons }));
        if !retained.is_empty() {
            let number = self.number();
            self.bytes += retained.len() * POINTER;
            self.aside
                .push_back((number, Aside::Retained(retained.into_iter())));
        }
    }

    pub fn unsuback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        let number = self.number();
        self.aside
            .push_back((number, Aside::UnsubAck { packet_id, reasons }));
    }

    /// The next entry, if there is one that may leave; `window` says whether a message at QoS 1 or 2 may.
    pub fn pop(&mut self, window: bool) -> Option<Entry> {
        loop {
            let fleeting = front(&self.fleeting);
            let assured = if window { front(&self.assured) } else { NONE };
            let line = match fleeting.min(assured) {
                // What stands aside holds back everything younger, and is held back by nothing older that may not leave.
                oldest if oldest >= front(&self.aside) => match self.pop_aside(window)? {
                    Some(entry) => return Some(entry),
                    None => continue,
                },
                oldest if oldest == fleeting => &mut self.fleeting,
                _ => &mut self.assured,
            };
            let (_, delivery) = line.pop_front()?;
            relieve(line);
            self.forget(&delivery);
            return Some(Entry::Message(delivery));
        }
    }

    /// Whether [`Queue::pop`] would give something.
    pub fn is_ready(&self, window: bool) -> bool {
        !self.fleeting.is_empty() || !self.aside.is_empty() || (window && !self.assured.is_empty())
    }

    /// The client is gone: what only a connection could take goes with it. Retained messages on their way wait
    /// like any other.
    pub fn disconnect(&mut self, limits: QueueLimits, metrics: &Metrics) {
        for (_, delivery) in std::mem::take(&mut self.fleeting) {
            self.forget(&delivery);
        }
        // A retained set keeps its place: what is newer stays behind it (B7).
        let mut waiting: Vec<_> = std::mem::take(&mut self.assured).into();
        for (number, aside) in std::mem::take(&mut self.aside) {
            if let Aside::Retained(deliveries) = aside {
                let kept = deliveries.filter(|delivery| delivery.qos != Qos::AtMostOnce);
                waiting.extend(kept.map(|delivery| (number, delivery)));
            }
        }
        waiting.sort_by_key(|(number, _)| *number);
        self.bytes = 0;
        for (_, delivery) in waiting {
            self.push(delivery, limits, metrics);
        }
        self.fleeting.shrink_to_fit();
        self.aside.shrink_to_fit();
    }

    /// Keeps only the messages that `keep` wants; gives back the others.
    pub fn take_out(&mut self, keep: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut out = Vec::new();
        for line in [&mut self.fleeting, &mut self.assured] {
            for (number, delivery) in std::mem::take(line) {
                if keep(&delivery) {
                    line.push_back((number, delivery));
                } else {
                    out.push(delivery);
                }
            }
        }
        for (_, aside) in &mut self.aside {
            if let Aside::Retained(deliveries) = aside {
                let before = deliveries.len();
                let kept: Vec<_> = std::mem::take(deliveries).filter(&keep).collect();
                self.bytes -= (before - kept.len()) * POINTER;
                *deliveries = kept.into_iter();
            }
        }
        for delivery in &out {
            self.forget(delivery);
        }
        out
    }

    /// Brings the gauges up to date: once for a whole round of changes.
    pub fn report(&mut self, metrics: &Metrics) {
        let now = (self.len(), self.bytes);
        let was = std::mem::replace(&mut self.reported, now);
        metrics.messages_queued.shift(was.0, now.0);
        metrics.bytes_queued.shift(was.1, now.1);
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.fleeting.len() + self.assured.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.aside.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties it, at the end of its session.
    pub fn clear(&mut self) {
        self.take_out(|_| false);
        self.aside.clear();
        self.bytes = 0;
    }

    /// `None`: nothing may leave. `Some(None)`: a retained set is through, look again.
    fn pop_aside(&mut self, window: bool) -> Option<Option<Entry>> {
        let (number, aside) = self.aside.pop_front()?;
        match aside {
            Aside::SubAck { packet_id, reasons } => {
                Some(Some(Entry::SubAck { packet_id, reasons }))
            }
            Aside::UnsubAck { packet_id, reasons } => {
                Some(Some(Entry::UnsubAck { packet_id, reasons }))
            }
            Aside::Retained(mut deliveries) => {
                let Some(next) = deliveries.as_slice().first() else {
                    return Some(None);
                };
                let taken = if next.qos == Qos::AtMostOnce || window {
                    self.bytes -= POINTER;
                    deliveries.next()
                } else {
                    None
                };
                self.aside.push_front((number, Aside::Retained(deliveries)));
                taken.map(|delivery| Some(Entry::Message(delivery)))
            }
        }
    }

    fn drop_oldest_fleeting(&mut self, metrics: &Metrics) -> bool {
        let Some((_, delivery)) = self.fleeting.pop_front() else {
            return false;
        };
        self.forget(&delivery);
        metrics.messages_dropped.add(1);
        true
    }

    fn drop_oldest_assured(&mut self, metrics: &Metrics) {
        if let Some((_, delivery)) = self.assured.pop_front() {
            self.forget(&delivery);
            metrics.messages_dropped.add(1);
        }
    }

    fn forget(&mut self, delivery: &Delivery) {
        self.bytes -= delivery.message.cost();
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Messages in a queue from which on new ones are copied out of their envelopes.
const WAITING: usize = 32;
/// Bytes of one retained message on its way: the message itself is the retained set's.
const POINTER: usize = size_of::<Delivery>();
/// Entries an empty line may keep room for.
const SPARE: usize = 128;
/// The number of an entry that is not there.
const NONE: u64 = u64::MAX;

fn front<T>(line: &VecDeque<(u64, T)>) -> u64 {
    line.front().map_or(NONE, |(number, _)| *number)
}

/// A line that was long and is empty gives its memory back.
fn relieve<T>(line: &mut VecDeque<T>) {
    if line.is_empty() && line.capacity() > SPARE {
        line.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::routing::envelope::{Outgoing, message};

    const LIMITS: QueueLimits = QueueLimits {
        messages: 3,
        bytes: 10_000,
    };

    fn delivery(topic: &str, qos: Qos, size: usize) -> Delivery {
        let payload = vec![0; size];
        let outgoing = Outgoing {
            topic,
            payload: &payload,
            properties: b"",
            qos,
            retain: false,
            expiry: None,
            packet_id: None,
        };
        Delivery {
            message: message(outgoing, Instant::now()).unwrap(),
            qos,
            retain: false,
            extra: None,
        }
    }

    fn topics(queue: &mut Queue, window: bool) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(window))
            .map(|entry| match entry {
                Entry::Message(delivery) => delivery.message.topic().to_owned(),
                Entry::SubAck { .. } => "SUBACK".to_owned(),
                Entry::UnsubAck { .. } => "UNSUBACK".to_owned(),
            })
            .collect()
    }

    // D8
    #[test]
    fn a_full_queue_drops_its_oldest_message_and_counts_it() {
        let (mut queue, metrics) = (Queue::default(), Metrics::default());
        for topic in ["1", "2", "3", "4"] {
            queue.push(delivery(topic, Qos::AtLeastOnce, 1), LIMITS, &metrics);
        }
        queue.report(&metrics);
        assert_eq!(metrics.messages_queued.get(), 3);
        assert_eq!(topics(&mut queue, true), ["2", "3", "4"]);
        queue.report(&metrics);
        assert_eq!(metrics.messages_dropped.get(), 1);
        assert_eq!(
            (
                queue.bytes(),
                metrics.bytes_queued.get(),
                metrics.messages_queued.get()
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn qos_0_is_dropped_before_anything_else() {
        let (mut queue, metrics) = (Queue::default(), Metrics::default());
        queue.push(delivery("q1", Qos::AtLeastOnce, 3_000), LIMITS, &metrics);
        queue.push(delivery("q0", Qos::AtMostOnce, 5_000), LIMITS, &metrics);
        queue.push(
            delivery("more q0", Qos::AtMostOnce, 5_000),
            LIMITS,
            &metrics,
        );
        queue.push(
            delivery("more q1", Qos::AtLeastOnce, 5_000),
            LIMITS,
            &metrics,
        );
        assert_eq!(topics(&mut queue, true), ["q1", "more q1"]);
        assert_eq!(metrics.messages_dropped.get(), 2);
    }

    // B7
    #[test]
    fn suback_then_retained_then_newer_messages_even_with_a_closed_window() {
        let (mut queue, metrics) = (Queue::default(), Metrics::default());
        queue.push(delivery("older", Qos::AtLeastOnce, 1), LIMITS, &metrics);
        let retained = vec![
            delivery("kept 0", Qos::AtMostOnce, 1),
            delivery("kept 1", Qos::AtLeastOnce, 1),
        ];
        queue.suback(PacketId::MIN, vec![ReasonCode::Success], retained);
        queue.push(delivery("newer", Qos::AtMostOnce, 1), LIMITS, &metrics);
        assert_eq!(topics(&mut queue, false), ["SUBACK", "kept 0"]);
        assert_eq!(topics(&mut queue, true), ["older", "kept 1", "newer"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_closed_window_holds_back_qos_1_only() {
        let (mut queue, metrics) = (Queue::default(), Metrics::default());
        queue.push(delivery("q1", Qos::AtLeastOnce, 1), LIMITS, &metrics);
        queue.push(delivery("q0", Qos::AtMostOnce, 1), LIMITS, &metrics);
        assert_eq!(topics(&mut queue, false), ["q0"]);
        assert_eq!(topics(&mut queue, true), ["q1"]);
    }

    #[test]
    fn a_departed_client_leaves_qos_1_and_2_waiting() {
        let (mut queue, metrics) = (Queue::default(), Metrics::default());
        queue.push(delivery("q0", Qos::AtMostOnce, 1), LIMITS, &metrics);
        queue.push(delivery("q2", Qos::ExactlyOnce, 1), LIMITS, &metrics);
        queue.suback(
            PacketId::MIN,
            vec![],
            vec![delivery("kept", Qos::AtLeastOnce, 1)],
        );
        queue.disconnect(LIMITS, &metrics);
        assert_eq!(topics(&mut queue, true), ["q2", "kept"]);
    }
}
