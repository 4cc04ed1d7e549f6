//! How do we talk to a gateway as its users do? Everything the integration tests share: the real binary as a
//! process, its command line, raw MQTT connections that send and see exact bytes, and a small MQTT codec that is
//! deliberately not the gateway's own, so that a shared mistake cannot hide. What is promised stays in `tests/tests`.

pub mod client;
pub mod disk;
pub mod gateway;
pub mod packet;
pub mod peer;
pub mod property;
pub mod scope;
pub mod tls;
pub mod wait;
pub mod websocket;

pub use client::Client;
pub use gateway::{Account, Gateway, Setup, Shared};
pub use packet::{Connect, Packet, Publish, Subscribe};
pub use property::Property;
pub use scope::Scope;
