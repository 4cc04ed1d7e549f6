//! Topic aliases, both ways (MQTT 5 §3.3.2.3.4). They belong to one network connection.

use std::num::NonZeroU16;

use bytestring::ByteString;
use hashbrown::HashMap;

/// Aliases that the client set.
#[derive(Default)]
pub struct Inbound {
    topics: Vec<Option<ByteString>>,
}

/// Why an alias means nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Above the maximum we gave (MQTT-3.3.2-9).
    AboveMaximum,
    /// Used before it was set (MQTT 5 §3.3.2.3.4).
    NeverSet,
}

impl Inbound {
    /// The topic that a PUBLISH means. `maximum` is the Topic Alias Maximum of our CONNACK.
    pub fn resolve(
        &mut self,
        alias: NonZeroU16,
        topic: ByteString,
        maximum: u16,
    ) -> Result<ByteString, Invalid> {
        if alias.get() > maximum {
            return Err(Invalid::AboveMaximum);
        }
        let place = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            return self
                .topics
                .get(place)
                .cloned()
                .flatten()
                .ok_or(Invalid::NeverSet);
        }
        if self.topics.len() <= place {
            self.topics.resize(place + 1, None);
        }
        // A copy: the topic is a slice of a read buffer, which must not live as long as the alias.
        let kept = ByteString::from(topic.as_ref() as &str);
        self.topics[place] = Some(kept);
        Ok(topic)
    }
}

/// Aliases that we set, first come first served.
pub struct Outbound {
    aliases: HashMap<Box<str>, NonZeroU16>,
    maximum: u16,
}

/// How a topic is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// By name alone: all aliases are taken.
    Plain,
    /// By name, setting the alias.
    Sets(NonZeroU16),
    /// By alias alone.
    Uses(NonZeroU16),
}

impl Outbound {
    /// `maximum`: the client's Topic Alias Maximum, or a lower one of ours.
    pub fn new(maximum: u16) -> Outbound {
        Outbound {
            aliases: HashMap::new(),
            maximum,
        }
    }

    pub fn send(&mut self, topic: &str) -> Sent {
        if let Some(alias) = self.aliases.get(topic) {
            return Sent::Uses(*alias);
        }
        let next = u16::try_from(self.aliases.len() + 1)
            .ok()
            .filter(|next| *next <= self.maximum);
        match next.and_then(NonZeroU16::new) {
            Some(alias) => {
                self.aliases.insert(topic.into(), alias);
                Sent::Sets(alias)
            }
            None => Sent::Plain,
        }
    }

    /// The PUBLISH that set an alias was not sent after all.
    pub fn undo(&mut self, topic: &str) {
        self.aliases.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(n: u16) -> NonZeroU16 {
        NonZeroU16::new(n).unwrap()
    }

    #[test]
    fn an_inbound_alias_is_set_used_and_set_anew() {
        let mut aliases = Inbound::default();
        assert_eq!(
            aliases.resolve(alias(3), "".into(), 4),
            Err(Invalid::NeverSet)
        );
        assert_eq!(
            aliases.resolve(alias(5), "a".into(), 4),
            Err(Invalid::AboveMaximum)
        );
        assert_eq!(aliases.resolve(alias(3), "a".into(), 4).unwrap(), "a");
        assert_eq!(aliases.resolve(alias(3), "".into(), 4).unwrap(), "a");
        assert_eq!(aliases.resolve(alias(3), "b".into(), 4).unwrap(), "b");
        assert_eq!(aliases.resolve(alias(3), "".into(), 4).unwrap(), "b");
    }

    #[test]
    fn outbound_aliases_end_at_the_client_s_maximum() {
        let mut aliases = Outbound::new(1);
        assert_eq!(aliases.send("a"), Sent::Sets(alias(1)));
        assert_eq!(aliases.send("a"), Sent::Uses(alias(1)));
        assert_eq!(aliases.send("b"), Sent::Plain);
        aliases.undo("a");
        assert_eq!(aliases.send("b"), Sent::Sets(alias(1)));
    }
}
