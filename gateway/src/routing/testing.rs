//! A session that only collects, for the tests of this room.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    control::Subscription,
    endpoint::{Completion, Delivery, Endpoint, Grant, Handed, SessionId, ShareKey},
    message::Message,
};
use crate::{
    mqtt::{PacketId, ReasonCode},
    store::messages::{Rows, Timestamp},
};

#[derive(Default)]
pub struct Sink {
    pub id: u64,
    pub online: bool,
    pub persistent: bool,
    /// It keeps what it has and is given nothing more.
    pub discredited: bool,
    pub deliveries: Mutex<Vec<Delivery>>,
    pub completions: Mutex<Vec<Completion>>,
    pub subacks: Mutex<Vec<(PacketId, Vec<ReasonCode>)>>,
    pub denied: Option<&'static str>,
    /// How long it makes the dispatcher wait for each hand-over, as no session does.
    pub slowness: Duration,
}

impl Sink {
    pub fn endpoint(id: u64) -> Arc<dyn Endpoint> {
        Arc::new(Sink {
            id,
            online: true,
            ..Sink::default()
        })
    }
}

impl Endpoint for Sink {
    fn id(&self) -> SessionId {
        SessionId(self.id)
    }

    fn is_online(&self) -> bool {
        self.online
    }

    fn is_persistent(&self) -> bool {
        self.persistent
    }

    fn may_receive(&self, topic: &str) -> bool {
        !self.discredited && self.may_keep(topic)
    }

    fn may_keep(&self, topic: &str) -> bool {
        self.denied != Some(topic)
    }

    fn is_stored(&self) -> bool {
        false
    }

    fn is_known(&self) -> bool {
        false
    }

    fn deliver(&self, messages: &[Message], grant: &Grant, _: u64) -> Handed {
        if !self.slowness.is_zero() {
            std::thread::sleep(self.slowness);
        }
        self.deliveries.lock().extend(
            messages
                .iter()
                .map(|message| Delivery::live(message.clone(), grant)),
        );
        Handed::Taken
    }

    fn may_subscribe(&self, _: &str) -> bool {
        true
    }

    fn refused(&self, _: &Subscription) {}

    fn retained_room(&self) -> usize {
        usize::MAX
    }

    fn give_back(&self, share: &ShareKey) -> Vec<Delivery> {
        self.deliveries
            .lock()
            .extract_if(.., |delivery| delivery.share() == Some(share))
            .collect()
    }

    fn redeliver(&self, delivery: Delivery, _: u64) -> Result<u64, Delivery> {
        self.deliveries.lock().push(delivery);
        Ok(0)
    }

    fn number(&self, _: &mut [Delivery]) {}

    fn subscribed(
        &self,
        _: u32,
        packet_id: PacketId,
        reasons: Vec<ReasonCode>,
        retained: Vec<Delivery>,
        _: u64,
    ) {
        self.subacks.lock().push((packet_id, reasons));
        self.deliveries.lock().extend(retained);
    }

    fn unsubscribed(&self, _: u32, packet_id: PacketId, reasons: Vec<ReasonCode>, _: u64) {
        self.subacks.lock().push((packet_id, reasons));
    }

    fn answer_refused(&self, _: u64, _: ReasonCode, _: &[u64]) {}

    fn is_done(&self, _: u64) -> bool {
        false
    }

    fn gave_away(&self, _: u64) {}

    fn take_back(&self, _: &Delivery) -> bool {
        false
    }

    fn will_sent(&self, _: u32) {}

    fn record(&self, _: &mut Rows, _: Timestamp) {}

    fn recorded(&self) {}

    fn forgotten(&self) {}

    fn stored(&self, _: u64) {}

    fn complete(&self, _: u32, completions: &[Completion]) {
        self.completions.lock().extend_from_slice(completions);
    }

    fn settled(&self, _: usize) {}

    fn handed_over(&self) {}

    fn wake(&self) {}
}
