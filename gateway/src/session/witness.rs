//! What a session decides, told to those who keep it: refusals to the audit log, new questions to the ring for dry runs.
//!
//! Nothing here is paid for each message. A PUBLISH to another topic than the one before costs a hash and a look into a
//! small set; only the first one to a topic goes further. Denied ones are noted once and counted until a second has
//! passed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashSet};

use super::connection::Connection;
use super::mailbox::Notice;
use super::session::{Session, subject};
use crate::{
    acl::{Action, Decisions, Reason},
    audit::{AuditLog, Kind, Note},
    mqtt::ReasonCode,
    routing::control::Subscription,
};

/// Whom sessions tell what they decided.
#[derive(Clone)]
pub struct Witness {
    pub audit: Arc<AuditLog>,
    pub decisions: Arc<Decisions>,
}

impl Default for Witness {
    /// Nobody.
    fn default() -> Self {
        Witness {
            audit: AuditLog::none(),
            decisions: Arc::new(Decisions::new(0, Arc::default())),
        }
    }
}

/// Topics of one connection that were asked about.
#[derive(Default)]
pub(super) struct Topics {
    hashes: HashSet<u64>,
    hasher: DefaultHashBuilder,
    /// The permissions that were asked: other ones are asked anew.
    changes: u32,
}

/// Topics of one connection that are remembered; further ones are no new questions. 4 KiB.
const TOPICS: usize = 256;

impl Topics {
    fn is_new(&mut self, topic: &str, changes: u32) -> bool {
        if self.changes != changes {
            self.changes = changes;
            self.hashes.clear();
        }
        let hash = std::hash::BuildHasher::hash_one(&self.hasher, topic);
        if self.hashes.len() >= TOPICS || self.hashes.contains(&hash) {
            return false;
        }
        self.hashes.insert(hash)
    }
}

/// Denied PUBLISHes of one connection that are counted and not noted yet.
#[derive(Default)]
pub(super) struct Denials {
    /// What denied the last one, in words, and when that was noted.
    last: Option<Box<Denial>>,
}

struct Denial {
    /// `None`: no rule at all.
    rule: Option<i64>,
    reason: String,
    topic: String,
    noted: Instant,
    more: u64,
}

/// How long denials are counted before they are noted.
const COUNTED: Duration = Duration::from_secs(1);

impl Connection {
    /// Where its client is, for the audit log.
    pub fn set_address(&mut self, address: IpAddr) {
        *self.session.address.lock() = Some(address);
    }

    /// The client asks to publish to a topic; allowed or not, it is a question for dry runs.
    pub(super) fn asks_to_publish(&mut self, topic: &str) {
        let decisions = &self.session.witness.decisions;
        if decisions.is_on() && self.topics.is_new(topic, self.session.permission_changes()) {
            self.session.asks(Action::Publish, topic);
        }
    }

    /// A PUBLISH was denied.
    pub(super) fn publish_denied(&mut self, topic: &str) {
        if !self.session.witness.audit.is_on() {
            return;
        }
        let permissions = self.session.permissions.load();
        let decision = permissions.publish(topic);
        let rule = match decision.reason {
            Reason::Rule(rule) => Some(rule.id),
            _ => None,
        };
        let now = Instant::now();
        if let Some(last) = &mut self.denials.last
            && last.rule == rule
            && now.duration_since(last.noted) < COUNTED
        {
            last.more += 1;
            return;
        }
        self.note_denials();
        let denial = Denial {
            rule,
            reason: decision.to_string(),
            topic: topic.to_owned(),
            noted: now,
            more: 1,
        };
        self.denials.last = Some(Box::new(denial));
        self.note_denials();
    }

    /// Notes what was only counted.
    pub(super) fn note_denials(&mut self) {
        if let Some(last) = &mut self.denials.last {
            let times = std::mem::take(&mut last.more);
            let said = (last.topic.as_str(), last.reason.as_str());
            self.session.note_many(Kind::PublishDenied, said, times);
        }
    }

    /// A SUBSCRIBE was decided: `refused` says why not.
    pub(super) fn asked_to_subscribe(
        &self,
        subscription: &Subscription,
        refused: Option<ReasonCode>,
    ) {
        let filter = subscription.matching().as_str();
        self.session.asks(Action::Subscribe, filter);
        if refused == Some(ReasonCode::NotAuthorized) && self.session.witness.audit.is_on() {
            let reason = self
                .session
                .permissions
                .load()
                .subscribe(filter)
                .to_string();
            let said = (subscription.filter.as_str(), reason.as_str());
            self.session.note_many(Kind::SubscribeDenied, said, 1);
        }
    }
}

impl Session {
    fn asks(&self, action: Action, topic: &str) {
        let decisions = &self.witness.decisions;
        if decisions.is_on() {
            let principal = self.principal.load();
            decisions.remember(&subject(&principal, &self.client_id), action, topic);
        }
    }

    /// A will was not sent because it may not be.
    pub(super) fn will_denied(&self, topic: &str) {
        if self.witness.audit.is_on() {
            let reason = self.permissions.load().publish(topic).to_string();
            self.note_many(Kind::WillDenied, (topic, &reason), 1);
        }
    }

    /// A change took a subscription away (`filter`), or everything.
    pub(super) fn was_withdrawn(&self, filter: &str, why: &str) {
        if self.witness.audit.is_on() {
            self.note_many(Kind::Withdrawn, (filter, why), 1);
        }
    }

    /// Tells the connection to end for what became of its credential; whether there is one to tell.
    pub(super) fn disown(&self, notice: Notice, why: &str) -> bool {
        let told = self.notify(notice);
        if told {
            self.was_withdrawn("", why);
        }
        told
    }

    fn note_many(&self, kind: Kind, (subject, reason): (&str, &str), times: u64) {
        if times == 0 {
            return;
        }
        let address = *self.address.lock();
        let address = address.filter(|_| self.online.load(Relaxed));
        let note = Note {
            principal: &self.principal.load().to_string(),
            address,
            client: &self.client_id,
            subject,
            reason,
        };
        self.witness.audit.note_many(kind, note, times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_new_once_and_again_after_a_change_and_no_connection_remembers_many() {
        let mut topics = Topics::default();
        assert!(topics.is_new("a", 0) && !topics.is_new("a", 0));
        assert!(topics.is_new("b", 0) && topics.is_new("a", 1) && !topics.is_new("a", 1));
        let new = (0..1_000).filter(|n| topics.is_new(&n.to_string(), 1));
        assert_eq!(new.count(), TOPICS - 1);
    }
}
