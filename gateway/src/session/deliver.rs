//! What a client is sent: messages, again or for the first time, and the answers that keep their place among them.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    alias,
    connection::{Connection, Ending, refusal},
    ledger::identifier,
    outgoing::{Again, Resent},
    queue::{Entry, REFUSED},
    subscribe::unanswerable,
};
use crate::{
    mqtt::{Ack, PacketId, PublishFrame, Qos, ReasonCode, Reply},
    routing::{
        endpoint::{Delivery, Endpoint},
        message::Expiry,
    },
};

impl Connection {
    pub(super) fn entry(
        &mut self,
        entry: Entry,
        behind: Option<u64>,
        out: &mut BytesMut,
        now: Instant,
    ) -> Result<(), Ending> {
        match entry {
            Entry::Message(delivery) => {
                let serial = delivery.serial;
                let sent = self.send(delivery, behind.unwrap_or(0), out, now);
                if !sent && serial > 0 {
                    self.finished.push(serial);
                }
                self.dropped |= !sent;
                Ok(())
            }
            Entry::SubAck { packet_id, reasons } => {
                self.asked = self.asked.saturating_sub(reasons.len());
                let answer = Reply::SubAck {
                    packet_id,
                    reason_string: reasons.iter().find_map(|reason| refusal(*reason)),
                    reasons,
                    user_properties: Vec::new(),
                };
                self.reply(&answer, out)
            }
            Entry::UnsubAck { packet_id, reasons } => {
                self.asked = self.asked.saturating_sub(reasons.len());
                if !self.version.is_v5() && reasons.contains(&REFUSED) {
                    return Err(unanswerable());
                }
                let answer = Reply::UnsubAck {
                    packet_id,
                    reason_string: reasons.iter().find_map(|reason| refusal(*reason)),
                    reasons,
                    user_properties: Vec::new(),
                };
                self.reply(&answer, out)
            }
        }
    }

    /// Sends again what an earlier connection did not finish, in order, as far as the window and `most` bytes allow
    /// (MQTT-4.4.0-1). True if there is more that may be sent at once.
    pub(super) fn send_again(&mut self, out: &mut BytesMut, most: usize) -> Result<bool, Ending> {
        while self.window.is_rewound() && self.window.open() < self.window_size {
            if out.len() >= most {
                return Ok(true);
            }
            let outcome = match self.window.again() {
                None => break,
                Some(Again::Release(id)) => {
                    let ack = Ack::new(id, ReasonCode::Success);
                    self.reply(&Reply::PubRel(ack), out)?;
                    Resent::Sent
                }
                Some(Again::Nothing) => Resent::Kept,
                // D9: what is no longer allowed keeps its packet identifier and is not sent again.
                Some(Again::Publish(_, delivery))
                    if !self.session.may_subscribe(delivery.message.topic()) =>
                {
                    Resent::Kept
                }
                Some(Again::Publish(id, delivery)) => {
                    let frame = PublishFrame {
                        version: self.version,
                        dup: true,
                        qos: delivery.qos,
                        retain: delivery.retain,
                        topic: delivery.message.topic(),
                        packet_id: Some(id),
                        properties: delivery.message.properties(),
                        // D9: a message in flight does not expire.
                        message_expiry: delivery.message.expiry_left(Instant::now()).property(),
                        subscription_ids: delivery.subscription_ids(),
                        topic_alias: None,
                        payload: delivery.message.payload(),
                    };
                    match frame.write(self.peer.maximum_packet_size, out) {
                        Ok(_) => {
                            self.counts.publishes_sent += 1;
                            Resent::Sent
                        }
                        Err(_) => Resent::Dropped,
                    }
                }
            };
            if matches!(outcome, Resent::Dropped) {
                self.metrics.messages_dropped.add(1);
            }
            self.finished.extend(self.window.resent(outcome));
        }
        Ok(false)
    }

    /// Keeps a message that was taken from the queue and cannot be sent any more: the next connection sends it.
    pub(super) fn keep(&mut self, entry: Entry) {
        if let Entry::Message(delivery) = entry
            && delivery.qos != Qos::AtMostOnce
        {
            self.window.admit(delivery);
        }
    }

    /// Sends a message for the first time, or drops it: expired (MQTT-3.3.2-5), or larger than the client takes
    /// (MQTT-3.1.2-25). False if it was dropped. At QoS 1 and 2 it leaves when the change `behind` is on disk.
    fn send(&mut self, delivery: Delivery, behind: u64, out: &mut BytesMut, now: Instant) -> bool {
        let expiry = delivery.message.expiry_left(now);
        if expiry == Expiry::Expired {
            self.metrics.messages_expired.add(1);
            return false;
        }
        let topic = delivery.message.topic();
        // The policy changed while this was on its way (P2).
        if self.policy_changed && !self.session.may_subscribe(topic) {
            self.metrics.messages_dropped.add(1);
            return false;
        }
        // What is held back is overtaken by QoS 0, so it neither sets an alias nor relies on one.
        let may_wait = match delivery.qos {
            Qos::AtMostOnce => false,
            Qos::AtLeastOnce => behind > 0 || self.holds_anything(),
            Qos::ExactlyOnce => self.session.is_stored() || self.holds_anything(),
        };
        let alias = match &mut self.aliases_out {
            Some(aliases) if !may_wait => aliases.send(topic),
            _ => alias::Sent::Plain,
        };
        let mut frame = PublishFrame {
            version: self.version,
            dup: false,
            qos: delivery.qos,
            retain: delivery.retain,
            topic,
            packet_id: (delivery.qos != Qos::AtMostOnce).then_some(PacketId::MAX),
            properties: delivery.message.properties(),
            message_expiry: expiry.property(),
            subscription_ids: delivery.subscription_ids(),
            topic_alias: None,
            payload: delivery.message.payload(),
        };
        let sets_alias = match alias {
            alias::Sent::Plain => false,
            alias::Sent::Sets(alias) => {
                frame.topic_alias = Some(alias);
                true
            }
            alias::Sent::Uses(alias) => {
                (frame.topic, frame.topic_alias) = ("", Some(alias));
                false
            }
        };
        let fits = self
            .peer
            .maximum_packet_size
            .is_none_or(|maximum| frame.encoded_len() <= maximum as usize);
        let written = fits
            && match delivery.qos {
                Qos::AtMostOnce => frame.write(None, out).is_ok(),
                _ => match self.window.admit(delivery.clone()) {
                    None => false,
                    Some(id) => {
                        frame.packet_id = Some(id);
                        // An identifier that does not follow from the serial is known to the disk before it is used.
                        let change = match id == identifier(delivery.serial) {
                            true => behind,
                            false => self.session.send_as(delivery.serial, id).max(behind),
                        };
                        self.hold(change, out, |_, out| frame.write(None, out).is_ok())
                    }
                },
            };
        if written {
            self.counts.publishes_sent += 1;
        } else {
            self.metrics.messages_dropped.add(1);
            if let (true, Some(aliases)) = (sets_alias, self.aliases_out.as_mut()) {
                aliases.undo(topic);
            }
        }
        written
    }
}
