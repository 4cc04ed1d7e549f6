//! The bus: how what clients publish reaches the dispatcher, through the embedded rumqttd.
//!
//! rumqttd's log drops what slow readers have not read, so the bus lets no more bytes in than the log holds
//! (permits, B2 and B5), and keeps every envelope until the dispatcher has seen it, so that a router that died
//! can be replaced without a loss, a double or a change of order (B4).

use std::{collections::VecDeque, ops::Deref, sync::Arc, time::Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttd::{
    RouterConfig,
    local::{LinkRx, LinkTx},
};
use tokio::sync::Semaphore;

use super::{
    RoutingError,
    control::Control,
    endpoint::Endpoint,
    envelope::Envelope,
    rights::Rights,
    router::{Router, TOPIC},
};
use crate::metrics::Metrics;

/// Envelopes that may be out at once: below the bound of rumqttd's event channel (1,000), so that a push never blocks (B2).
const ENVELOPES: u32 = 512;
/// One client holds at most this part of all permits (B2).
const CLIENT_SHARE: usize = 8;

pub struct Bus {
    config: RouterConfig,
    router: Mutex<Router>,
    links: Box<[Mutex<Ingress>]>,
    /// Bytes that may be published and not yet dispatched.
    permits: Arc<Semaphore>,
    total: u32,
    envelopes: Arc<Semaphore>,
    rights: Rights,
    metrics: Arc<Metrics>,
}

/// An ingress link and what went through it and has not come out.
struct Ingress {
    tx: LinkTx,
    /// Kept because the router treats a dropped receiver as a dead connection.
    _rx: LinkRx,
    next: u64,
    in_flight: VecDeque<InFlight>,
}

/// An envelope between its publisher and the dispatcher.
pub(super) struct InFlight {
    pub sequence: u64,
    pub bytes: Bytes,
    /// Bytes it counts for: its own and those of its controls.
    pub length: usize,
    permits: u32,
    pub controls: Vec<Control>,
    pub origin: Option<Origin>,
    pub received: Instant,
}

/// Whose envelope it is. Completions of an earlier network connection (`epoch`) are not for the next one (D3).
#[derive(Clone)]
pub struct Origin {
    pub endpoint: Arc<dyn Endpoint>,
    pub epoch: u32,
}

impl Bus {
    /// Starts the router and `links` ingress links; gives the dispatcher's end too.
    ///
    /// `permits` is in bytes, below what the router's log holds (the configuration checks it).
    pub fn start(
        config: RouterConfig,
        links: usize,
        permits: u32,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Bus>, Outlet), RoutingError> {
        let router = Router::spawn(config.clone());
        let outlet = Outlet::open(&router)?;
        let links = (0..links)
            .map(|n| Ingress::open(&router, n).map(Mutex::new))
            .collect::<Result<_, _>>()?;
        let bus = Bus {
            config,
            router: Mutex::new(router),
            links,
            permits: Arc::new(Semaphore::new(permits as usize)),
            total: permits,
            envelopes: Arc::new(Semaphore::new(ENVELOPES as usize)),
            rights: Rights::default(),
            metrics,
        };
        Ok((Arc::new(bus), outlet))
    }

    /// The link for a client identifier, always the same (B1).
    pub fn link_of(&self, client_id: &str) -> u8 {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(client_id);
        (hash % self.links.len() as u64) as u8
    }

    /// What both ends know of who may receive what.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Bytes one client may have on the bus.
    pub fn client_share(&self) -> usize {
        self.total as usize / CLIENT_SHARE
    }

    /// Room for one envelope of up to `bytes`, if there is some now.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation<&Bus>> {
        let bytes = self.clamp(bytes);
        let envelope = self.envelopes.try_acquire().ok()?;
        self.permits.try_acquire_many(bytes).ok()?.forget();
        envelope.forget();
        Some(Reservation {
            bus: self,
            bytes,
            kept: false,
        })
    }

    /// Waits for room for one envelope of `bytes`; one that is larger than everything waits for everything.
    pub async fn reserve(self: Arc<Self>, bytes: usize) -> Reservation<Arc<Bus>> {
        let bytes = self.clamp(bytes);
        // Neither semaphore is ever closed. The envelope first: it is the one that cannot starve.
        if let Ok(envelope) = self.envelopes.acquire().await {
            envelope.forget();
        }
        let mut reservation = Reservation {
            bus: self.clone(),
            bytes: 0,
            kept: false,
        };
        if let Ok(permits) = self.permits.acquire_many(bytes).await {
            permits.forget();
            reservation.bytes = bytes;
        }
        reservation
    }

    /// Puts an envelope on its link. Never blocks and never fails: what a dead router did not take is
    /// published again by its successor. The reservation must cover the envelope ([`Reservation::covers`]).
    pub fn publish<B: Deref<Target = Bus>>(
        &self,
        link: u8,
        envelope: Envelope,
        mut reservation: Reservation<B>,
        origin: Option<Origin>,
    ) {
        let length = envelope.len();
        reservation.shrink(length);
        let permits = reservation.keep();
        let received = Instant::now();
        let link = (usize::from(link) % self.links.len()) as u8;
        let mut ingress = self.links[usize::from(link)].lock();
        let sequence = ingress.next;
        ingress.next += 1;
        let (bytes, controls) = envelope.seal(link, sequence);
        ingress.in_flight.push_back(InFlight {
            sequence,
            bytes: bytes.clone(),
            length,
            permits,
            controls,
            origin,
            received,
        });
        let _ = ingress.tx.publish(TOPIC, bytes);
    }

    /// Publishes from a task that may wait: wills, `$SYS`, policy changes.
    pub async fn publish_when_possible(
        self: &Arc<Self>,
        link: u8,
        envelope: Envelope,
        origin: Option<Origin>,
    ) {
        let reservation = self.clone().reserve(envelope.len()).await;
        self.publish(link, envelope, reservation, origin);
    }

    /// Takes the next envelope of a link off the table, for the dispatcher, up to this one. `None` if it was seen
    /// already. One before it did not come out of the log, which would be a bug, but must not cost anything.
    pub(super) fn settle(&self, link: u8, sequence: u64) -> Option<InFlight> {
        let mut ingress = self.links.get(usize::from(link))?.lock();
        if ingress.in_flight.front()?.sequence > sequence {
            return None;
        }
        ingress.in_flight.pop_front()
    }

    /// Gives back what a settled envelope held.
    pub(super) fn release(&self, settled: &InFlight) {
        self.permits.add_permits(settled.permits as usize);
        self.envelopes.add_permits(1);
    }

    /// Replaces a router that died. The caller has drained the old outlet: what is still on the table was never
    /// seen, and is published again in its order before anything new (B4). Blocks for some milliseconds.
    pub(super) fn revive(&self) -> Result<Outlet, RoutingError> {
        let router = Router::spawn(self.config.clone());
        let outlet = Outlet::open(&router)?;
        let mut ingresses: Vec<_> = self.links.iter().map(Mutex::lock).collect();
        let fresh: Vec<_> = (0..ingresses.len())
            .map(|n| Ingress::open(&router, n))
            .collect::<Result<_, _>>()?;
        *self.router.lock() = router;
        for (ingress, fresh) in ingresses.iter_mut().zip(fresh) {
            (ingress.tx, ingress._rx) = (fresh.tx, fresh._rx);
            let Ingress { tx, in_flight, .. } = &mut **ingress;
            for envelope in in_flight.iter() {
                let _ = tx.publish(TOPIC, envelope.bytes.clone());
            }
        }
        self.metrics.bus_restarts.add(1);
        Ok(outlet)
    }

    /// A link of its own to the router, beside the bus: for tests that do to rumqttd what clients cannot.
    pub fn raw_link(&self, name: &str) -> Result<(LinkTx, LinkRx), RoutingError> {
        let router = self.router.lock().clone();
        router.link(name)
    }

    /// Bytes that are published and not yet dispatched.
    pub fn bytes_in_flight(&self) -> usize {
        self.total as usize - self.permits.available_permits().min(self.total as usize)
    }

    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total)
    }
}

/// Room on the bus for one envelope; what is not used is given back.
pub struct Reservation<B: Deref<Target = Bus>> {
    bus: B,
    bytes: u32,
    kept: bool,
}

impl<B: Deref<Target = Bus>> Reservation<B> {
    /// Whether an envelope of this size may travel on this reservation.
    pub fn covers(&self, bytes: usize) -> bool {
        self.bus.clamp(bytes) <= self.bytes
    }

    fn shrink(&mut self, bytes: usize) {
        let bytes = self.bus.clamp(bytes);
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.bus.permits.add_permits(surplus as usize);
            self.bytes = bytes;
        }
    }

    /// From here on the dispatcher gives it back.
    fn keep(mut self) -> u32 {
        self.kept = true;
        self.bytes
    }
}

impl<B: Deref<Target = Bus>> Drop for Reservation<B> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.bus.permits.add_permits(self.bytes as usize);
        self.bus.envelopes.add_permits(1);
    }
}

/// The end of the bus at which the dispatcher reads.
pub struct Outlet {
    /// Kept: the router forgets a connection whose sender is gone.
    _tx: LinkTx,
    pub(super) rx: LinkRx,
}

impl Outlet {
    fn open(router: &Router) -> Result<Outlet, RoutingError> {
        let (_tx, rx) = router.dispatcher()?;
        Ok(Outlet { _tx, rx })
    }
}

impl Ingress {
    fn open(router: &Router, number: usize) -> Result<Ingress, RoutingError> {
        let (tx, _rx) = router.link(&format!("ingress-{number}"))?;
        Ok(Ingress {
            tx,
            _rx,
            next: 0,
            in_flight: VecDeque::new(),
        })
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
