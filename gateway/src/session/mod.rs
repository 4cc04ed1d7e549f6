//! What do we owe this client?
//!
//! QoS, packet identifiers, what is in flight, what waits, wills, expiry, aliases. Synchronous where it can be: a
//! [`connection::Connection`] is tested without a socket. Who gets a message is `routing`'s question, whether it may
//! `acl`'s, and bytes on sockets are `listen`'s.

mod agenda;
mod alias;
mod backlog;
pub mod claim;
pub mod connection;
mod deliver;
mod departures;
mod devices;
mod disk;
mod endpoint;
mod enhanced;
mod entitlement;
mod incoming;
mod ledger;
mod live;
pub mod mailbox;
mod outgoing;
mod publish;
mod queue;
mod rechecks;
mod record;
pub mod registry;
mod restore;
#[allow(clippy::module_inception)]
pub mod session;
pub mod settings;
mod subscribe;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod will;
mod witness;

pub use agenda::Agenda;
pub use departures::Departures;
pub use rechecks::Rechecks;
pub use witness::Witness;
