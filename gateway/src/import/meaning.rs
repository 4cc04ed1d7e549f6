//! May a client of the old broker do this? Mosquitto's own rules, evaluated for one question at a time.

use super::acl_file::AclFile;
use super::dynsec::Dynsec;
use crate::mqtt::matches;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// `None` for an anonymous client.
    pub name: Option<&'a str>,
    pub client_id: &'a str,
}

/// What decides what clients may do.
#[derive(Debug)]
pub(super) enum Meaning {
    /// Neither rules nor a plugin: everything is allowed to who is let in.
    Everything,
    /// A plugin that is not known here.
    Unknown,
    AclFile(AclFile),
    Dynsec(Dynsec),
}

impl Meaning {
    pub fn publish(&self, who: Asker, topic: &str) -> bool {
        if topic.starts_with("$share") || topic.starts_with("$SYS") && !is_bridge_state(topic) {
            return false;
        }
        match self {
            Meaning::Everything => true,
            Meaning::Unknown => false,
            Meaning::AclFile(acl) => acl.publish(who, topic),
            Meaning::Dynsec(dynsec) => dynsec.publish(who, topic),
        }
    }

    /// What SUBACK says.
    pub fn subscribe(&self, who: Asker, filter: &str) -> bool {
        match self {
            Meaning::Everything | Meaning::AclFile(_) => true,
            Meaning::Unknown => false,
            Meaning::Dynsec(dynsec) => dynsec.subscribe(who, filter),
        }
    }

    /// Whether a message is delivered on a subscription that was granted.
    pub fn receive(&self, who: Asker, topic: &str) -> bool {
        if topic.starts_with("$share") {
            return false;
        }
        match self {
            Meaning::Everything => true,
            Meaning::Unknown => false,
            Meaning::AclFile(acl) => acl.receive(who, topic),
            Meaning::Dynsec(dynsec) => dynsec.receive(who, topic),
        }
    }
}

fn is_bridge_state(topic: &str) -> bool {
    matches("$SYS/broker/connection/+/state", topic)
}
