//! What do all clients of a run share? The address, the account, the moment, and whether they may connect.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use postern_tests::{Account, Connect};
use tokio::sync::watch;

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The gateway is killed again and again.
    Crashing,
    /// No more crashes; publishers finish what they began, and publish one last message to each topic.
    Finishing,
    /// Everything was published; subscribers stay online until they have it.
    Draining,
    /// Everybody leaves.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    pub phase: Phase,
    /// Clients wait at a closed gate: somebody looks at what a crash left before it changes.
    pub open: bool,
}

pub struct World {
    pub address: SocketAddr,
    pub account: Account,
    pub publishers: usize,
    stage: watch::Sender<Stage>,
    cuts: watch::Sender<u64>,
    ticks: AtomicU64,
    pub start: Instant,
}

impl World {
    pub fn new(address: SocketAddr, account: Account, publishers: usize) -> Self {
        let stage = Stage {
            phase: Phase::Crashing,
            open: true,
        };
        Self {
            address,
            account,
            publishers,
            stage: watch::channel(stage).0,
            cuts: watch::channel(0).0,
            // 0 is before everything.
            ticks: AtomicU64::new(1),
            start: Instant::now(),
        }
    }

    /// A moment: greater than every moment taken before.
    pub fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    pub fn login(&self, connect: Connect) -> Connect {
        connect.user(&self.account.name, &self.account.password)
    }

    pub fn phase(&self) -> Phase {
        self.stage.borrow().phase
    }

    pub fn enter(&self, phase: Phase) {
        self.stage.send_modify(|stage| stage.phase = phase);
    }

    pub fn open_gate(&self, open: bool) {
        self.stage.send_modify(|stage| stage.open = open);
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// To learn of the next cut.
    pub fn watch_cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    /// To learn of the next stage.
    pub fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Waits until clients may connect; false if the run is over.
    pub async fn may_connect(&self) -> bool {
        let mut stage = self.watch();
        let fits = |stage: &Stage| stage.open || stage.phase == Phase::Over;
        match stage.wait_for(fits).await {
            Ok(stage) => stage.phase != Phase::Over,
            Err(_) => false,
        }
    }
}
