//! rumqttd as a part: how its router is started, and how links to it are made and held.
//!
//! rumqttd 0.20 has a few edges that must not be touched (each measured): its event type cannot be named,
//! links have no `Drop`, `LinkBuilder::build` blocks, and client input can panic its thread. This module
//! hides the first three; the bus keeps client input away and starts a new router when one dies.

use std::sync::Arc;

use rumqttd::{
    Router as Rumqttd, RouterConfig,
    local::{LinkBuilder, LinkRx, LinkTx},
};

use super::RoutingError;

/// One constant ASCII topic: rumqttd keeps a log per filter and a cache entry per topic for ever.
pub(super) const TOPIC: &str = "m";

/// A running router thread. A clone is the same router.
#[derive(Clone)]
pub struct Router {
    connect: Arc<Connect>,
}

type Connect = dyn Fn(&str) -> Result<(LinkTx, LinkRx), RoutingError> + Send + Sync;

impl Router {
    /// Starts the router thread.
    pub fn spawn(config: RouterConfig) -> Router {
        let events = Rumqttd::new(0, config).spawn();
        let connect = move |name: &str| {
            let (tx, rx, _) = LinkBuilder::new(name, events.clone())
                .build()
                .map_err(RoutingError::link(name))?;
            Ok((tx, rx))
        };
        Router {
            connect: Arc::new(connect),
        }
    }

    /// A link with this name. Blocks until the router thread has answered, and for ever if it died before it could: hold
    /// no lock that its successor needs.
    pub fn link(&self, name: &str) -> Result<(LinkTx, LinkRx), RoutingError> {
        (self.connect)(name)
    }

    /// The one link that reads the bus.
    pub(super) fn dispatcher(&self) -> Result<(LinkTx, LinkRx), RoutingError> {
        let (mut tx, rx) = self.link("dispatcher")?;
        tx.subscribe(TOPIC)
            .map_err(RoutingError::link("dispatcher"))?;
        Ok((tx, rx))
    }
}
