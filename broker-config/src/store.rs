//! `[store]`: when an acknowledgement is as good as its word, and how long the store may fail.

use std::time::Duration;

use crate::{
    size::ByteSize,
    value::{Choice, any, within},
    visit::{Applies::Restart, Section, Visitor},
};

/// `[store]`: how sessions and messages reach the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// What an acknowledgement promises (rule D6). Default `power-loss`.
    pub durability: Durability,
    /// How long a write may fail and be tried again before publishers are refused (rule D7).
    /// Default 10 s; 100 ms to 5 min.
    pub retry: Duration,
    /// Bytes of QoS > 0 and retained messages published and not yet stored; beyond it publishers
    /// are read more slowly (rule B2). Default 16 MiB; 64 KiB to 4 GiB - 1 (what one semaphore
    /// acquisition can count).
    pub credit: ByteSize,
}

/// What a PUBACK, PUBREC or SUBACK outlives (rule D6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged after the sync: neither a crash nor a power loss loses anything acknowledged.
    PowerLoss,
    /// Acknowledged after the write: a crash of the gateway loses nothing acknowledged, a power
    /// loss or a crash of the operating system loses what was acknowledged since the last sync.
    ProcessCrash,
    /// Acknowledged before the write: any crash loses what was acknowledged since the last
    /// write, a power loss what was acknowledged since the last sync.
    None,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            durability: Durability::PowerLoss,
            retry: Duration::from_secs(10),
            credit: ByteSize::mib(16),
        }
    }
}

impl Durability {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, durability)| *durability == self)
            .map_or("power-loss", |(name, _)| name)
    }
}

impl Choice for Durability {
    const ALL: &'static [(&'static str, Self)] = &[
        ("power-loss", Durability::PowerLoss),
        ("process-crash", Durability::ProcessCrash),
        ("none", Durability::None),
    ];
    const NAMES: &'static str = r#""power-loss", "process-crash" or "none""#;
}

impl Section for Store {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            durability,
            retry,
            credit,
        } = self;
        v.key("durability", Restart, durability, any);
        v.key(
            "retry",
            Restart,
            retry,
            within(Duration::from_millis(100)..=Duration::from_secs(300)),
        );
        v.key(
            "credit",
            Restart,
            credit,
            within(ByteSize::kib(64)..=ByteSize::from_bytes(u32::MAX as usize)),
        );
    }
}
