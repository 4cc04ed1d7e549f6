//! What does one publisher send, and when? It fills its connection as far as window, in-flight limit, rate and socket
//! allow, and settles the acknowledgements of QoS 1 and 2.

use crate::error::LoadError;
use crate::link::Link;
use crate::options::PAYLOAD_HEAD;
use crate::run::{Flow, PacketIds, Phase, Run, ping_ticker};
use crate::wire::{self, Packet, QoS, Template};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// Unsent bytes beyond which nothing more is encoded: one full TLS record.
const MAX_UNSENT: usize = 16 * 1024;

/// One publisher with its connection.
pub struct Publisher {
    pub index: u32,
    pub link: Link,
    pub flow: Arc<Flow>,
    pub run: Arc<Run>,
    pub phase: watch::Receiver<Phase>,
    /// One per topic, used in turn.
    pub templates: Vec<Template>,
    pub in_flight: InFlight,
    pub pace: Option<Pace>,
    /// How many to send in the measured phase; `None` until it ends.
    pub messages: Option<u64>,
}

/// What a publisher has to report when it is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Messages the server refused with a reason code.
    pub refused: u64,
    pub first_refusal: Option<u8>,
}

/// Messages sent at QoS 1 or 2 and not yet acknowledged.
pub struct InFlight {
    qos: QoS,
    ids: PacketIds,
    next: u16,
    count: usize,
    limit: usize,
    refusals: Published,
}

/// A fixed rate: message n is due at `first + n * interval`, in nanoseconds. `first` counts from the start of sending
/// until the publisher starts, and in the time of the run from then on.
pub struct Pace {
    pub first: f64,
    pub interval: f64,
}

impl Publisher {
    /// Publishes until the run closes.
    ///
    /// # Errors
    /// [`LoadError`] if the connection breaks or the server acknowledges what was never sent.
    pub async fn run(mut self) -> Result<Published, LoadError> {
        let mut sender = Sender::default();
        let mut ping = ping_ticker(self.link.keep_alive);
        loop {
            let in_flight = &mut self.in_flight;
            self.link
                .drain(|packet, out| in_flight.take(&packet, out))?;
            sender.fill(&mut self);
            self.publish_state(&sender);
            tokio::select! {
                biased;
                changed = self.phase.changed() => {
                    let phase = *self.phase.borrow_and_update();
                    if changed.is_err() || phase == Phase::Close {
                        break;
                    }
                    sender.enter(phase, &mut self);
                }
                turned = self.link.turn() => turned?,
                () = self.flow.wake.notified() => {}
                () = until(&self.run, sender.due) => {}
                _ = ping.tick() => wire::ping_request(&mut self.link.out),
            }
        }
        self.link.close().await;
        Ok(self.in_flight.refusals)
    }

    fn publish_state(&self, sender: &Sender) {
        let unacknowledged = self.in_flight.count as u64;
        self.flow
            .unacknowledged
            .store(unacknowledged, Ordering::Relaxed);
        if sender.ends
            && sender.next >= sender.end
            && unacknowledged == 0
            && self.link.out.is_empty()
        {
            self.flow.settled.store(true, Ordering::Release);
        }
    }
}

/// Where the publisher stands.
#[derive(Default)]
struct Sender {
    next: u64,
    /// No message from this number on.
    end: u64,
    /// `end` is final.
    ends: bool,
    /// Flow control, not the pace, stopped the last fill.
    held: bool,
    /// When the next message is due, while only the pace holds it back.
    due: Option<u64>,
}

impl Sender {
    fn enter(&mut self, phase: Phase, publisher: &mut Publisher) {
        if let Some(pace) = publisher
            .pace
            .as_mut()
            .filter(|_| self.next == 0 && self.end == 0)
        {
            pace.first += publisher.run.now() as f64;
        }
        (self.end, self.ends) = match (phase, publisher.messages) {
            (Phase::Ready, _) => (0, false),
            (Phase::WarmUp, _) | (Phase::Measure, None) => (u64::MAX, false),
            (Phase::Measure, Some(messages)) => (self.next + messages, true),
            (Phase::Drain | Phase::Close, _) => (self.end.min(self.next), true),
        };
    }

    fn fill(&mut self, publisher: &mut Publisher) {
        let now = publisher.run.now();
        let due_by_now = publisher
            .pace
            .as_ref()
            .map_or(u64::MAX, |pace| pace.due_by(now));
        self.due = None;
        let wanted = self.end.min(due_by_now).saturating_sub(self.next);
        if wanted == 0 {
            self.held = false;
            if self.next < self.end {
                self.due = publisher.pace.as_ref().map(|pace| pace.due(self.next));
            }
            return;
        }
        let room = (publisher.flow.room(self.next)).min(publisher.in_flight.room());
        let mut head = [0; PAYLOAD_HEAD];
        head[..4].copy_from_slice(&publisher.run.id.to_be_bytes());
        head[4..8].copy_from_slice(&publisher.index.to_be_bytes());
        let mut left = wanted.min(room);
        while left > 0 && publisher.link.out.len() < MAX_UNSENT {
            // A message that flow control kept waiting counts from when it was due, or its delay would go unseen.
            let sent_at = match &publisher.pace {
                Some(pace) if self.held => pace.due(self.next).min(now),
                _ => now,
            };
            head[8..16].copy_from_slice(&self.next.to_be_bytes());
            head[16..24].copy_from_slice(&sent_at.to_be_bytes());
            let template =
                &publisher.templates[(self.next % publisher.templates.len() as u64) as usize];
            template.append(
                &mut publisher.link.out,
                publisher.in_flight.take_id(),
                &head,
            );
            self.next += 1;
            left -= 1;
        }
        publisher.flow.sent.store(self.next, Ordering::SeqCst);
        self.held = self.next < self.end.min(due_by_now);
        if !self.held && self.next < self.end {
            self.due = publisher.pace.as_ref().map(|pace| pace.due(self.next));
        }
    }
}

impl Pace {
    /// One past the number of the last message that is due at `now`.
    fn due_by(&self, now: u64) -> u64 {
        let since = now as f64 - self.first;
        if since < 0.0 {
            0
        } else {
            (since / self.interval) as u64 + 1
        }
    }

    fn due(&self, number: u64) -> u64 {
        (self.first + number as f64 * self.interval) as u64
    }
}

impl InFlight {
    /// `limit` is the number of messages that may be unacknowledged; QoS 0 has no such limit.
    pub fn new(qos: QoS, limit: u16) -> Self {
        Self {
            qos,
            ids: PacketIds::new(),
            next: 1,
            count: 0,
            limit: usize::from(limit),
            refusals: Published::default(),
        }
    }

    fn room(&self) -> u64 {
        if self.qos == 0 {
            u64::MAX
        } else {
            (self.limit - self.count) as u64
        }
    }

    /// An identifier that is not in use. There is one: the limit is below their number, and callers keep to the limit.
    fn take_id(&mut self) -> u16 {
        if self.qos == 0 {
            return 0;
        }
        loop {
            let id = self.next;
            self.next = self.next.checked_add(1).unwrap_or(1);
            if self.ids.insert(id) {
                self.count += 1;
                return id;
            }
        }
    }

    fn take(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match *packet {
            Packet::PubAck { id, code } if self.qos == 1 => self.free(id, code),
            Packet::PubRec { id, code } if self.qos == 2 && code >= 0x80 => self.free(id, code),
            Packet::PubRec { id, .. } if self.qos == 2 => {
                wire::acknowledge(out, wire::PUBREL, id);
                Ok(())
            }
            Packet::PubComp { id } if self.qos == 2 => self.free(id, 0),
            Packet::PingResp => Ok(()),
            ref other => Err(format!("{other:?} to a publisher at QoS {}", self.qos)),
        }
    }

    fn free(&mut self, id: u16, code: u8) -> Result<(), String> {
        if !self.ids.remove(id) {
            return Err(format!(
                "an acknowledgement of packet identifier {id}, which is not in flight"
            ));
        }
        self.count -= 1;
        if code >= 0x80 {
            self.refusals.refused += 1;
            self.refusals.first_refusal.get_or_insert(code);
        }
        Ok(())
    }
}

/// Resolves at `due`, in nanoseconds of the run; never without it.
async fn until(run: &Run, due: Option<u64>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_nanos(due.saturating_sub(run.now()))).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_in_flight_are_never_given_twice_and_zero_never() {
        let mut in_flight = InFlight::new(1, u16::MAX);
        let mut out = Vec::new();
        let first = in_flight.take_id();
        let second = in_flight.take_id();
        in_flight
            .take(&Packet::PubAck { id: first, code: 0 }, &mut out)
            .unwrap();
        for _ in 0..65_534 {
            let id = in_flight.take_id();
            assert!(id != 0 && id != second);
        }
        assert_eq!(in_flight.room(), 0);
    }

    #[test]
    fn qos_2_is_settled_by_pubcomp_and_refused_by_pubrec() {
        let mut in_flight = InFlight::new(2, 10);
        let mut out = Vec::new();
        let (first, second) = (in_flight.take_id(), in_flight.take_id());
        in_flight
            .take(
                &Packet::PubRec {
                    id: first,
                    code: 0x10,
                },
                &mut out,
            )
            .unwrap();
        assert_eq!(
            (in_flight.room(), out.as_slice()),
            (8, [0x62, 2, 0, 1].as_slice())
        );
        in_flight
            .take(&Packet::PubComp { id: first }, &mut out)
            .unwrap();
        assert_eq!(in_flight.room(), 9);
        in_flight
            .take(
                &Packet::PubRec {
                    id: second,
                    code: 0x87,
                },
                &mut out,
            )
            .unwrap();
        assert_eq!((in_flight.room(), in_flight.refusals.refused), (10, 1));
        assert_eq!(in_flight.refusals.first_refusal, Some(0x87));
        assert!(
            in_flight
                .take(&Packet::PubComp { id: second }, &mut out)
                .is_err()
        );
    }

    #[test]
    fn a_pace_makes_messages_due_at_even_distances() {
        let pace = Pace {
            first: 100.0,
            interval: 50.0,
        };
        let due: Vec<u64> = [99, 100, 149, 150, 1100]
            .iter()
            .map(|&now| pace.due_by(now))
            .collect();
        assert_eq!(due, [0, 1, 1, 2, 21]);
        assert_eq!(pace.due(20), 1100);
    }
}
