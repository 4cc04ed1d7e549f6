//! Was the promise kept? Compares what publishers had acknowledged with what subscribers have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::message::{Message, TOPICS, topic_name};
use crate::publisher::{Fate, Published, Shelf};
use crate::subscriber::{Interval, Plan, Received, Repeat};

/// A subscriber and what it received.
pub struct Recipient {
    pub plan: Plan,
    pub received: Arc<Mutex<Received>>,
}

/// What is missing, or there and should not be.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged messages that a subscription made before them does not have.
    pub lost: u64,
    /// Of those expected.
    pub expected: u64,
    /// Subscriptions that did not get the last message of their topic.
    pub subscriptions_lost: u64,
    pub subscriptions: u64,
    /// Messages of a subscription whose end was acknowledged before them.
    pub after_unsubscribe: u64,
    /// QoS 2 messages that two members of the shared group have.
    pub shared_twice: u64,
    /// The first few of them, for the report.
    pub examples: Vec<String>,
}

/// Of each kind that are kept.
pub const EXAMPLES: usize = 12;

impl Verdict {
    pub fn reach(shelves: &[Arc<Shelf>], recipients: &[Recipient]) -> Self {
        let mut verdict = Self::default();
        for (publisher, shelf) in shelves.iter().enumerate() {
            let published = shelf.published.lock().expect("no poison");
            for recipient in recipients.iter().filter(|r| !r.plan.shared) {
                let received = recipient.received.lock().expect("no poison");
                verdict.single(publisher, &published, &recipient.plan, &received);
            }
            verdict.group(publisher, &published, recipients);
        }
        for recipient in recipients {
            let received = recipient.received.lock().expect("no poison");
            for repeat in &received.repeats {
                verdict.repeat(&recipient.plan.client_id, repeat);
            }
        }
        verdict
    }

    fn single(
        &mut self,
        publisher: usize,
        published: &Published,
        plan: &Plan,
        received: &Received,
    ) {
        for (place, (_, topic)) in wanted(plan, publisher) {
            let filter = if plan.toggles { place } else { 0 };
            let intervals = &received.intervals[filter];
            for (number, fate) in fates(published, topic) {
                let has = received.has(publisher, number);
                if owed(intervals, fate) {
                    self.expected += 1;
                    if !has {
                        self.lost += 1;
                        self.example(&plan.client_id, publisher, number, fate);
                    }
                } else if has && forbidden(intervals, fate) {
                    self.after_unsubscribe += 1;
                }
            }
            self.last(publisher, published, plan, received, topic, intervals);
        }
    }

    fn last(
        &mut self,
        publisher: usize,
        published: &Published,
        plan: &Plan,
        received: &Received,
        topic: usize,
        intervals: &[Interval],
    ) {
        let Some(number) = published.last[topic] else {
            return;
        };
        if owed(intervals, &published.fates[number as usize]) {
            self.subscriptions += 1;
            if !received.has(publisher, number) {
                self.subscriptions_lost += 1;
                let name = topic_name(publisher, topic);
                self.say(|| format!("{} no longer gets {name}", plan.client_id));
            }
        }
    }

    /// A message that any member was owed must be with one of them, at QoS 2 with one only.
    fn group(&mut self, publisher: usize, published: &Published, recipients: &[Recipient]) {
        let members: Vec<_> = recipients
            .iter()
            .filter(|r| r.plan.shared)
            .map(|r| (&r.plan, r.received.lock().expect("no poison")))
            .collect();
        let mut topics: BTreeMap<usize, ()> = BTreeMap::new();
        for (plan, _) in &members {
            topics.extend(wanted(plan, publisher).map(|(_, (_, topic))| (topic, ())));
        }
        for topic in topics.into_keys() {
            for (number, fate) in fates(published, topic) {
                if !members.iter().any(|(_, r)| owed(&r.intervals[0], fate)) {
                    continue;
                }
                self.expected += 1;
                let have = members.iter().filter(|(_, r)| r.has(publisher, number));
                if have.count() == 0 {
                    self.lost += 1;
                    self.example("the shared group", publisher, number, fate);
                }
                let twice = members
                    .iter()
                    .filter(|(_, r)| r.has_at_qos2(publisher, number));
                if twice.count() > 1 {
                    self.shared_twice += 1;
                }
            }
        }
    }

    fn example(&mut self, who: &str, publisher: usize, number: u32, fate: &Fate) {
        let topic = topic_name(publisher, fate.topic);
        self.say(|| {
            format!(
                "{who} lacks message {number} on {topic} (sent at {}, acknowledged at {})",
                fate.sent,
                fate.acknowledged.unwrap_or_default()
            )
        });
    }

    fn repeat(&mut self, who: &str, repeat: &Repeat) {
        let Message {
            publisher,
            topic,
            number,
        } = repeat.message;
        let topic = topic_name(publisher, topic);
        self.say(|| {
            format!(
                "{who} got message {number} on {topic} again at QoS 2 (packet identifier {}, DUP {}, at {})",
                repeat.packet_id,
                u8::from(repeat.dup),
                repeat.moment
            )
        });
    }

    fn say(&mut self, text: impl Fn() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// The topics of `publisher` that are wanted, with their places in the plan.
fn wanted(plan: &Plan, publisher: usize) -> impl Iterator<Item = (usize, (usize, usize))> {
    let places = plan.wants.iter().copied().enumerate();
    places.filter(move |(_, (wanted, _))| *wanted == publisher)
}

fn fates(published: &Published, topic: usize) -> impl Iterator<Item = (u32, &Fate)> {
    assert!(topic < TOPICS, "a topic that exists");
    let numbered = (0u32..).zip(&published.fates);
    numbered.filter(move |(_, fate)| fate.topic == topic)
}

/// The subscription was acknowledged before the message was sent, is still wanted, and the message was acknowledged.
/// What an unsubscribed client still has in its queue may be dropped (MQTT 5.0, section 3.10.4).
fn owed(intervals: &[Interval], fate: &Fate) -> bool {
    let last = intervals.last().filter(|last| last.ended.is_none());
    let made = last.and_then(|last| last.made);
    fate.acknowledged.is_some() && made.is_some_and(|made| made < fate.sent)
}

/// Between UNSUBACK and the next SUBSCRIBE: from before the message was sent until after it was acknowledged.
fn forbidden(intervals: &[Interval], fate: &Fate) -> bool {
    let Some(acknowledged) = fate.acknowledged else {
        return false;
    };
    let before = intervals.iter().rposition(|i| i.asked < fate.sent);
    let Some(before) = before else {
        return intervals.iter().all(|i| i.asked > acknowledged);
    };
    let gone = intervals[before].gone.is_some_and(|gone| gone < fate.sent);
    let next = intervals.get(before + 1);
    gone && next.is_none_or(|next| next.asked > acknowledged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(asked: u64, made: u64, ended: u64, gone: u64) -> Interval {
        let some = |n: u64| (n > 0).then_some(n);
        Interval {
            asked,
            made: some(made),
            ended: some(ended),
            gone: some(gone),
        }
    }

    fn fate(sent: u64, acknowledged: u64) -> Fate {
        Fate {
            topic: 0,
            sent,
            acknowledged: (acknowledged > 0).then_some(acknowledged),
        }
    }

    #[test]
    fn a_message_is_owed_from_suback_on_while_nobody_unsubscribes() {
        let made = [interval(1, 5, 0, 0)];
        assert!(owed(&made, &fate(6, 9)));
        assert!(!owed(&made, &fate(4, 9)), "sent before SUBACK");
        assert!(!owed(&made, &fate(6, 0)), "not acknowledged");
        assert!(!owed(&[interval(1, 0, 0, 0)], &fate(6, 9)), "no SUBACK");
        assert!(
            !owed(&[interval(1, 5, 20, 0)], &fate(6, 9)),
            "unsubscribing"
        );
    }

    #[test]
    fn a_message_is_forbidden_only_between_unsuback_and_subscribe() {
        let both = [interval(1, 5, 10, 15), interval(30, 35, 0, 0)];
        assert!(forbidden(&both, &fate(16, 29)));
        assert!(!forbidden(&both, &fate(14, 29)), "sent before UNSUBACK");
        assert!(
            !forbidden(&both, &fate(16, 31)),
            "acknowledged after SUBSCRIBE"
        );
        assert!(!forbidden(&both, &fate(16, 0)), "never acknowledged");
        assert!(!forbidden(&both, &fate(36, 40)), "subscribed");
        assert!(forbidden(&[interval(30, 35, 0, 0)], &fate(16, 29)));
    }

    #[test]
    fn a_message_that_did_not_come_is_lost_and_its_subscription_too_if_it_was_the_last() {
        let shelf = Arc::new(Shelf::default());
        {
            let mut published = shelf.published.lock().unwrap();
            published.fates = vec![fate(10, 11), fate(12, 13)];
            published.last = [Some(1), None, None];
        }
        let mut received = Received::default();
        received.intervals = vec![vec![interval(1, 2, 0, 0)]];
        let plan = Plan {
            client_id: "s".into(),
            version: postern_tests::packet::Version::V5,
            qos: 1,
            wants: vec![(0, 0)],
            filters: vec!["crash/data/0/0".into()],
            receive_maximum: None,
            delay: std::time::Duration::ZERO,
            flaky: None,
            shared: false,
            toggles: false,
        };
        let recipient = Recipient {
            plan,
            received: Arc::new(Mutex::new(received)),
        };
        let verdict = Verdict::reach(&[shelf], &[recipient]);
        assert_eq!((verdict.expected, verdict.lost), (2, 2));
        assert_eq!((verdict.subscriptions, verdict.subscriptions_lost), (1, 1));
        assert_eq!(verdict.examples.len(), 3);
    }
}
