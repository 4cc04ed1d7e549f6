//! Who may receive what changes beside the bus, and counts from the next message on (P4).

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// How often it has changed: whoever remembers an answer of [`super::endpoint::Endpoint::may_receive`] remembers this, too.
#[derive(Debug, Default)]
pub struct Rights(AtomicU64);

impl Rights {
    /// Sessions answer otherwise from here on.
    pub fn changed(&self) {
        self.0.fetch_add(1, Release);
    }

    pub fn changes(&self) -> u64 {
        self.0.load(Acquire)
    }
}
