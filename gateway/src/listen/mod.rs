//! Which bytes may come in?
//!
//! Sockets, bans and limits by address, the PROXY protocol, limits on connections and handshakes, TLS, WebSocket, the deadline for CONNECT, and the driver that moves
//! bytes between a stream and its session. What the bytes mean is `mqtt`'s and `session`'s.

mod bans;
mod bucket;
mod budget;
mod certificate;
mod door;
mod driver;
mod enhanced;
mod farewell;
mod greeting;
mod handshakes;
mod holder;
pub mod http01;
pub mod lag;
pub mod listener;
mod login;
mod noted;
mod opening;
mod prefix;
mod proxy;
mod recent;
mod reserved;
mod sightings;
mod turns;
pub mod websocket;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use broker_config::{Config, Limits};

pub use bans::{Ban, GIVEN_MAX};
pub use budget::Admissions;
pub use door::Door;
pub use farewell::Farewells;
pub use handshakes::Handshakes;
pub use holder::holder_of;
pub use sightings::{FIRMWARE_MAX, Seen, Sightings, is_firmware};
pub use turns::Turns;

use crate::{
    auth::Authenticator, metrics::Metrics, routing::bus::Bus, session::registry::Registry,
};

/// What every connection needs.
pub struct Context {
    pub config: Arc<ArcSwap<Config>>,
    pub registry: Arc<Registry>,
    pub authenticator: Arc<Authenticator>,
    pub door: Arc<Door>,
    pub admissions: Admissions,
    pub handshakes: Handshakes,
    pub turns: Turns,
    pub farewells: Farewells,
    pub sightings: Arc<Sightings>,
    pub metrics: Arc<Metrics>,
}

impl Context {
    fn limits(&self) -> Limits {
        self.config.load().limits.clone()
    }

    fn bus(&self) -> &Arc<Bus> {
        self.registry.bus()
    }
}

/// How long a client may take to read our last words.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "listener {name:?} cannot listen on {address}: {cause}; {}",
        remedy(cause)
    )]
    Bind {
        name: String,
        address: SocketAddr,
        cause: std::io::Error,
    },
}

fn remedy(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => "stop the other program, or choose another port in `bind`",
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
        }
        std::io::ErrorKind::AddrNotAvailable => "`bind` must be an address of this machine",
        _ => "correct `bind`",
    }
}
