//! Wills: the message a client leaves for the case that its connection ends without a normal DISCONNECT (MQTT 5 §3.1.2.5).

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use super::session::Session;
use crate::{
    mqtt::{self, PropertyBlock},
    routing::{
        control::Control,
        endpoint::Endpoint,
        envelope::{Envelope, Outgoing},
    },
};

#[derive(Clone, Debug)]
pub struct Will(Box<mqtt::Will>);

impl Will {
    pub fn new(mut will: Box<mqtt::Will>) -> Will {
        // Copies: will and payload are slices of the buffer that held CONNECT, which also held a password.
        will.topic = ByteString::from(&*will.topic);
        will.payload = Bytes::copy_from_slice(&will.payload);
        will.properties =
            PropertyBlock::from_bytes(Bytes::copy_from_slice(will.properties.as_bytes()));
        Will(will)
    }

    pub fn message(&self) -> &mqtt::Will {
        &self.0
    }

    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Will Delay Interval.
    pub fn delay(&self) -> Duration {
        Duration::from_secs(self.0.delay.into())
    }

    /// Adds it to an envelope, if its session may still publish it (S1). Either way it is not to be sent again.
    pub fn publish(&self, session: &Session, envelope: &mut Envelope) {
        if session.may_publish(self.topic()) {
            envelope.publish(Outgoing {
                topic: self.topic(),
                payload: &self.0.payload,
                properties: self.0.properties.as_bytes(),
                qos: self.0.qos,
                retain: self.0.retain,
                expiry: self.0.message_expiry,
                packet_id: None,
            });
        } else {
            session.will_denied(self.topic());
        }
        if session.is_known() {
            envelope.control(Control::WillSent);
        }
    }
}
