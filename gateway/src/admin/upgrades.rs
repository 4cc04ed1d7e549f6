//! Replaces imported hashes by our own, as their users log in: what came together is stored together.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Administration;
use crate::auth::{Upgrade, Upgrades};

/// Upgrades that wait; further ones are left for the next login of their users.
const WAITING_MAX: usize = 1024;

pub(super) struct HashUpgrades {
    /// The authenticator that holds this is itself held by the administration.
    administration: Weak<Administration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Upgrade>,
    /// Whether a task is at them.
    at_work: bool,
}

impl HashUpgrades {
    /// Has the authenticator of the administration hand its upgrades to it. To be called within the runtime that is to
    /// store them.
    pub fn attach(administration: &Arc<Administration>) {
        let upgrades = Arc::new(HashUpgrades {
            administration: Arc::downgrade(administration),
            state: Mutex::default(),
        });
        let upgrader = Upgrader {
            upgrades,
            runtime: Handle::current(),
        };
        administration
            .authenticator()
            .attach_upgrades(Arc::new(upgrader));
    }

    async fn work(&self) {
        loop {
            let batch = {
                let mut state = self.state.lock();
                state.at_work = !state.waiting.is_empty();
                std::mem::take(&mut state.waiting)
            };
            let Some(administration) = self.administration.upgrade() else {
                return;
            };
            if batch.is_empty() {
                return;
            }
            if let Err(error) = administration.replace_imported(&batch).await {
                tracing::warn!(
                    "{} imported password hashes stay until their users log in again: {error}",
                    batch.len()
                );
            }
        }
    }
}

struct Upgrader {
    upgrades: Arc<HashUpgrades>,
    /// Upgrades come from the threads that hash.
    runtime: Handle,
}

impl Upgrades for Upgrader {
    fn upgrade(&self, upgrade: Upgrade) {
        let mut state = self.upgrades.state.lock();
        if state.waiting.len() >= WAITING_MAX {
            return;
        }
        state.waiting.push(upgrade);
        if !state.at_work {
            state.at_work = true;
            let upgrades = self.upgrades.clone();
            self.runtime.spawn(async move { upgrades.work().await });
        }
    }
}
