//! What a client is sent: messages, again or for the first time, and the answers that keep their place among them.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    alias,
    connection::{Connection, Ending},
    outgoing::Again,
    queue::Entry,
};
use crate::{
    mqtt::{Ack, PacketId, PublishFrame, Qos, ReasonCode, Reply},
    routing::{
        endpoint::{Delivery, Endpoint},
        message::Expiry,
    },
};

impl Connection {
    /// Writes an entry; false for a message that was dropped instead.
    pub(super) fn entry(
        &mut self,
        entry: Entry,
        out: &mut BytesMut,
        now: Instant,
    ) -> Result<bool, Ending> {
        let reply = match entry {
            Entry::Message(delivery) => return Ok(self.send(delivery, out, now)),
            Entry::SubAck { packet_id, reasons } => Reply::SubAck {
                packet_id,
                reasons,
                reason_string: None,
                user_properties: Vec::new(),
            },
            Entry::UnsubAck { packet_id, reasons } => Reply::UnsubAck {
                packet_id,
                reasons,
                reason_string: None,
                user_properties: Vec::new(),
            },
        };
        self.reply(&reply, out)?;
        Ok(true)
    }

    /// Sends again what an earlier connection did not finish, in order, as far as the window allows (MQTT-4.4.0-1).
    pub(super) fn send_again(&mut self, out: &mut BytesMut) -> Result<(), Ending> {
        while self.window.is_rewound() && self.window.open() < self.window_size {
            match self.window.again() {
                None => break,
                Some(Again::Release(id)) => {
                    let ack = Ack::new(id, ReasonCode::Success);
                    self.reply(&Reply::PubRel(ack), out)?;
                }
                Some(Again::Publish(id, delivery)) => {
                    // D9: what is no longer allowed keeps its packet identifier and is not sent again.
                    if !self.session.may_receive(delivery.message.topic()) {
                        self.window.skip();
                        continue;
                    }
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
                    // One that does not fit this connection's maximum packet size stays unacknowledged.
                    if frame.write(self.peer.maximum_packet_size, out).is_ok() {
                        self.counts.publishes_sent += 1;
                    } else {
                        self.window.skip();
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a message for the first time, or drops it (false): expired (MQTT-3.3.2-5), larger than the client takes
    /// (MQTT-3.1.2-25), or denied since it was dispatched (P2).
    fn send(&mut self, delivery: Delivery, out: &mut BytesMut, now: Instant) -> bool {
        let expiry = delivery.message.expiry_left(now);
        if expiry == Expiry::Expired {
            self.metrics.messages_expired.add(1);
            return false;
        }
        let topic = delivery.message.topic();
        if !self.session.may_receive(topic) {
            self.metrics.messages_dropped.add(1);
            return false;
        }
        let alias = self
            .aliases_out
            .as_mut()
            .map_or(alias::Sent::Plain, |aliases| aliases.send(topic));
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
        let written = fits && {
            if delivery.qos != Qos::AtMostOnce {
                frame.packet_id = self.window.admit(delivery.clone());
            }
            frame.packet_id.is_some() == (delivery.qos != Qos::AtMostOnce)
                && frame.write(None, out).is_ok()
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
