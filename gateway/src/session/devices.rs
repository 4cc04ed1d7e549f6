//! What devices need of all sessions: their own client identifier, and what they left as retained messages.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::claim::{Refused, TAKEOVER};
use super::registry::Registry;
use crate::{
    auth::Principal,
    routing::{
        control::{Control, Look},
        envelope::Envelope,
    },
};

/// How long the bus and the dispatcher are waited for.
const LOOK: Duration = Duration::from_secs(5);

impl Registry {
    /// Ends the session with this client identifier if it is somebody else's: it is kept for `principal`, and was not
    /// yet when that session began (S5). Its will is sent, as when any session ends.
    pub async fn make_way(
        self: &Arc<Self>,
        client_id: &str,
        principal: &Principal,
    ) -> Result<(), Refused> {
        while let Some(session) = self.by_client(client_id) {
            let owner = session.principal();
            if owner.is_same(principal) {
                break;
            }
            let free = {
                let mut rest = session.rest();
                !rest.ended && !std::mem::replace(&mut rest.attached, true)
            };
            if !free {
                let left = tokio::time::timeout(TAKEOVER, session.take_over()).await;
                left.map_err(|_| Refused::Busy)?;
                continue;
            }
            tracing::warn!(target: "postern::audit", %principal, %owner, client = ?client_id, "the session of another principal ended: its client identifier is that of a device");
            let why = "the session ended: its client identifier is that of a device";
            session.was_withdrawn("", why);
            self.agenda.forget(session.id);
            let will = session.rest().interrupt();
            self.end(&session, will).await;
            session.is_forgotten().await;
        }
        Ok(())
    }

    /// The payloads that are retained on these topics, those of at most `longest` bytes.
    pub async fn retained_on(&self, topics: Vec<String>, longest: usize) -> Vec<Option<Box<[u8]>>> {
        let count = topics.len();
        let (answer, told) = oneshot::channel();
        let mut envelope = Envelope::default();
        envelope.control(Control::Look(Look {
            topics,
            longest,
            answer,
        }));
        let answered = async {
            self.bus().publish_when_possible(0, envelope, None).await;
            told.await
        };
        match tokio::time::timeout(LOOK, answered).await {
            Ok(Ok(found)) => found,
            // The gateway is stopping, or far behind.
            _ => vec![None; count],
        }
    }
}
