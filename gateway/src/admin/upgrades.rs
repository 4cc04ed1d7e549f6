//! Replaces imported hashes by our own, as their users log in: what came together is stored together.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

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
    /// Has the authenticator of the administration hand its upgrades to it.
    pub fn attach(administration: &Arc<Administration>) {
        administration
            .authenticator()
            .attach_upgrades(Arc::new(Upgrader(Arc::new(HashUpgrades {
                administration: Arc::downgrade(administration),
                state: Mutex::default(),
            }))));
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

struct Upgrader(Arc<HashUpgrades>);

impl Upgrades for Upgrader {
    fn upgrade(&self, upgrade: Upgrade) {
        let mut state = self.0.state.lock();
        if state.waiting.len() >= WAITING_MAX {
            return;
        }
        state.waiting.push(upgrade);
        if !state.at_work {
            state.at_work = true;
            let upgrades = self.0.clone();
            tokio::spawn(async move { upgrades.work().await });
        }
    }
}
