//! Shared subscription groups: which member gets this message? (MQTT 5 §4.8.2, rule S4)

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    control::Options,
    endpoint::{Endpoint, Extra, Grant, SessionId, ShareKey},
};

/// Names a group while it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(u64);

#[derive(Default)]
pub struct Groups {
    by_id: HashMap<GroupId, Group>,
    by_key: HashMap<ShareKey, GroupId>,
    next: u64,
}

/// The members of one group, in the order in which they joined.
pub struct Group {
    key: ShareKey,
    members: Vec<Member>,
    /// Whose turn it is.
    turn: usize,
}

pub struct Member {
    pub endpoint: Arc<dyn Endpoint>,
    pub grant: Grant,
    /// That of its subscription.
    number: u64,
}

impl Groups {
    /// The group with this key, made if there is none.
    pub fn entry(&mut self, key: ShareKey) -> (&mut Group, GroupId) {
        let id = *self.by_key.entry(key.clone()).or_insert_with(|| {
            self.next += 1;
            GroupId(self.next)
        });
        let group = self.by_id.entry(id).or_insert_with(|| Group {
            key,
            members: Vec::new(),
            turn: 0,
        });
        (group, id)
    }

    pub fn get(&mut self, id: GroupId) -> Option<&mut Group> {
        self.by_id.get_mut(&id)
    }

    pub fn find(&mut self, key: &ShareKey) -> Option<&mut Group> {
        self.by_id.get_mut(self.by_key.get(key)?)
    }

    /// The number of the session's subscription, if it is a member.
    pub fn number(&self, key: &ShareKey, session: SessionId) -> Option<u64> {
        let group = self.by_id.get(self.by_key.get(key)?)?;
        let mut members = group.members.iter();
        let member = members.find(|member| member.endpoint.id() == session);
        member.map(|member| member.number)
    }

    /// Takes a member out. `None`: it was none. `Some(Some(id))`: it was the last, and the group is gone.
    pub fn leave(&mut self, key: &ShareKey, session: SessionId) -> Option<Option<GroupId>> {
        let id = *self.by_key.get(key)?;
        let group = self.by_id.get_mut(&id)?;
        let place = group
            .members
            .iter()
            .position(|member| member.endpoint.id() == session)?;
        group.members.remove(place);
        if group.turn > place {
            group.turn -= 1;
        }
        if !group.members.is_empty() {
            return Some(None);
        }
        self.by_id.remove(&id);
        self.by_key.remove(key);
        Some(Some(id))
    }
}

impl Group {
    /// Adds a member or changes its options; true if it is new.
    pub fn join(&mut self, endpoint: &Arc<dyn Endpoint>, options: Options, number: u64) -> bool {
        let extra = Extra {
            subscription_ids: options.id.into_iter().collect(),
            share: Some(self.key.clone()),
        };
        let grant = Grant {
            qos: options.qos,
            retain_as_published: options.retain_as_published,
            extra: Some(Arc::new(extra)),
        };
        match self
            .members
            .iter_mut()
            .find(|member| member.endpoint.id() == endpoint.id())
        {
            Some(member) => {
                (member.grant, member.number) = (grant, number);
                false
            }
            None => {
                self.members.push(Member {
                    endpoint: endpoint.clone(),
                    grant,
                    number,
                });
                true
            }
        }
    }

    /// The member for a message of this topic, in turn: online ones first, then those that can wait for their client.
    /// `not` is passed over (its client just failed to take the message), and so is `home`, which has the message now, unless
    /// it is the only one that can hold it. Who may not receive the topic is never chosen (P2).
    pub fn choose(
        &mut self,
        topic: &str,
        not: Option<SessionId>,
        home: Option<SessionId>,
    ) -> Option<&Member> {
        let last = [not, home];
        let is_last = |member: &Member| last.contains(&Some(member.endpoint.id()));
        let fits = |member: &Member| !is_last(member) && member.endpoint.may_receive(topic);
        let place = self
            .in_turn(|member| member.endpoint.is_online() && fits(member))
            .or_else(|| self.in_turn(|member| member.endpoint.is_persistent() && fits(member)))
            .or_else(|| {
                self.in_turn(|member| {
                    is_last(member)
                        && member.endpoint.is_persistent()
                        && member.endpoint.may_keep(topic)
                })
            })?;
        self.turn = (place + 1) % self.members.len();
        self.members.get(place)
    }

    pub fn members(&self) -> impl Iterator<Item = &Arc<dyn Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    fn in_turn(&self, suits: impl Fn(&Member) -> bool) -> Option<usize> {
        let count = self.members.len();
        (0..count)
            .map(|n| (self.turn + n) % count)
            .find(|place| suits(&self.members[*place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        mqtt::{Qos, RetainHandling},
        routing::testing::Sink,
    };

    // S4: the next member's client leaves at the same moment.
    #[test]
    fn what_nobody_else_can_take_stays_with_a_member_that_gets_nothing_more() {
        let (home, other) = (SessionId(1), SessionId(2));
        let members: [Arc<dyn Endpoint>; 2] = [
            Arc::new(Sink {
                id: home.0,
                persistent: true,
                discredited: true,
                ..Sink::default()
            }),
            Sink::endpoint(other.0),
        ];
        let mut groups = Groups::default();
        let key = ShareKey {
            group: "g".into(),
            filter: "t".into(),
        };
        let (group, _) = groups.entry(key);
        for (number, member) in (1..).zip(&members) {
            let options = Options {
                qos: Qos::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::Send,
                id: None,
            };
            group.join(member, options, number);
        }
        let mut choose = |not, home| {
            let chosen = group.choose("t", not, home);
            chosen.map(|member| member.endpoint.id())
        };
        assert_eq!(choose(None, Some(home)), Some(other));
        assert_eq!(choose(Some(other), Some(home)), Some(home));
        assert_eq!(choose(Some(other), None), None, "a new message");
    }
}
