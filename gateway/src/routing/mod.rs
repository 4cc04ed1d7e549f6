//! Who gets this message?
//!
//! Messages come in on the [`bus`] (rumqttd in the middle), the [`dispatcher`] looks up the subscription tree, the
//! shared groups and the retained messages, and hands each message to the sessions it is for. What a session
//! then owes its client is the session room's question; whether it may have the message is `acl`'s.

pub mod bus;
pub mod control;
pub mod dispatcher;
pub mod endpoint;
pub mod envelope;
pub mod message;
pub mod retained;
pub mod rights;
pub mod router;
mod shared;
pub mod stored;
pub mod tree;
mod turn;

#[cfg(test)]
pub(crate) mod testing;

/// What can go wrong between the gateway and its router thread.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    #[error(
        "the message bus did not open the link {name:?}: {cause}; if this lasts, restart the gateway"
    )]
    Link { name: String, cause: String },
}

impl RoutingError {
    fn link(name: &str) -> impl FnOnce(rumqttd::local::LinkError) -> RoutingError {
        move |cause| RoutingError::Link {
            name: name.to_owned(),
            cause: cause.to_string(),
        }
    }
}
