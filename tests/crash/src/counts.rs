//! How many, so far? What all parties of a run count together.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Counts {
    /// By QoS.
    pub acknowledged: [Count; 3],
    pub retransmitted: Count,
    /// With a reason code of 0x80 or more.
    pub refused: Count,
    /// First and repeated deliveries.
    pub delivered: Count,
    pub duplicates_qos1: Count,
    pub duplicates_qos2: Count,
    pub order: Count,
    pub ack_order: Count,
    /// Not whole, or not on its topic.
    pub damaged: Count,
    /// An acknowledgement of nothing that was sent, or a packet identifier that came to mean another message.
    pub strange_packets: Count,
    /// Session present was 0 where CONNACK had promised a session before.
    pub sessions_lost: Count,
    pub sessions_resumed: Count,
    pub retained_lost: Count,
    pub retained_checked: Count,
}
