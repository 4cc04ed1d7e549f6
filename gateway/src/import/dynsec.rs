//! The file of the dynamic security plugin: what it says, and what the plugin makes of it.
//!
//! A client's roles are asked by priority, then its groups by priority, each with its roles by priority; inside a role the
//! entries of the kind that is asked for, by priority. The first that matches decides; without one, the default access of
//! that kind does. SUBSCRIBE and each delivery are asked apart.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::ImportError;
use super::files::{self, DATA_MAX};
use super::meaning::Asker;
use crate::mqtt::matches;

#[derive(Debug, Default)]
pub(super) struct Dynsec {
    pub clients: BTreeMap<String, Client>,
    pub roles: BTreeMap<String, Role>,
    /// The roles of each group, in the order in which they are asked.
    pub groups: BTreeMap<String, Vec<String>>,
    pub anonymous_group: Option<String>,
    pub defaults: Defaults,
    /// Whether `%u` and `%c` stand for names: since 2.1.
    pub substitutes: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    /// `None` for one that has no password, and so cannot log in.
    pub hash: Option<String>,
    pub disabled: bool,
    /// The only client identifier it may use.
    pub client_id: Option<String>,
    /// Its own and those of its groups, in the order in which they are asked.
    pub roles: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Role {
    pub publish: Vec<Acl>,
    pub receive: Vec<Acl>,
    pub subscribe_literal: Vec<Acl>,
    pub subscribe_pattern: Vec<Acl>,
    pub no_wildcards: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Acl {
    pub topic: String,
    pub allow: bool,
    priority: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    pub publish: bool,
    pub receive: bool,
    pub subscribe: bool,
}

impl Dynsec {
    const MAX_CLIENTS: usize = 50_000;
    const MAX_ACLS: usize = 50_000;

    pub fn read(path: &Path) -> Result<Dynsec, ImportError> {
        let wrong = |problem: String| ImportError::Dynsec {
            path: path.to_owned(),
            problem,
        };
        let text = files::read(path, DATA_MAX)?;
        // The parser's text may show a hash; its place is enough.
        let tree: Value = serde_json::from_str(&text).map_err(|error| {
            wrong(format!(
                "it is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        if !tree.is_object() {
            return Err(wrong("it is not a JSON object".to_owned()));
        }
        let mut dynsec = Dynsec {
            defaults: defaults(&tree),
            ..Dynsec::default()
        };
        let mut acls = 0;
        for item in list(&tree, "roles") {
            let Some(name) = string(item, "rolename") else {
                continue;
            };
            acls += list(item, "acls").len();
            dynsec
                .roles
                .entry(name.to_owned())
                .or_insert_with(|| role(item));
        }
        let clients = list(&tree, "clients");
        if clients.len() > Self::MAX_CLIENTS || acls > Self::MAX_ACLS {
            let (clients, max, more) = (clients.len(), Self::MAX_CLIENTS, Self::MAX_ACLS);
            return Err(wrong(format!(
                "it has {clients} clients and {acls} ACLs; at most {max} and {more} can be imported"
            )));
        }
        dynsec.substitutes = clients
            .iter()
            .any(|item| get(item, "encoded_password").is_some());
        let members = dynsec.read_groups(&tree);
        for item in clients {
            let Some(name) = string(item, "username") else {
                continue;
            };
            // Of two the plugin keeps the first.
            if !dynsec.clients.contains_key(name) {
                let client = dynsec.client(name, item, &members);
                dynsec.clients.insert(name.to_owned(), client);
            }
        }
        Ok(dynsec)
    }

    pub fn publish(&self, who: Asker, topic: &str) -> bool {
        let pick = |role: &Role| self.first(&role.publish, who, |filter| matches(filter, topic));
        self.decide(who, topic, pick, self.defaults.publish)
    }

    pub fn receive(&self, who: Asker, topic: &str) -> bool {
        let pick = |role: &Role| self.first(&role.receive, who, |filter| matches(filter, topic));
        self.decide(who, topic, pick, self.defaults.receive)
    }

    pub fn subscribe(&self, who: Asker, filter: &str) -> bool {
        let pick = |role: &Role| {
            if role.no_wildcards && filter.contains(['+', '#']) {
                return Some(false);
            }
            let mut literals = role.subscribe_literal.iter();
            if let Some(literal) = literals.find(|acl| acl.topic == filter) {
                return Some(literal.allow);
            }
            self.first(&role.subscribe_pattern, who, |acl| takes_in(acl, filter))
        };
        self.decide(who, filter, pick, self.defaults.subscribe)
    }

    /// The roles of a client, or of anonymous clients; `None` for an unknown name.
    pub fn roles_of(&self, name: Option<&str>) -> Option<&[String]> {
        match name {
            Some(name) => Some(&self.clients.get(name)?.roles),
            None => {
                let group = self.anonymous_group.as_ref();
                Some(
                    group
                        .and_then(|group| self.groups.get(group))
                        .map_or(&[], Vec::as_slice),
                )
            }
        }
    }

    /// The topic of an ACL with its variables replaced: levels that are exactly `%u` or `%c`.
    pub fn substituted(&self, topic: &str, who: Asker) -> Option<String> {
        if !self.substitutes || !topic.contains('%') {
            return Some(topic.to_owned());
        }
        // Any other value would have to be one level, and no topic has such a one.
        let usable = |value: &&str| !value.is_empty() && !value.contains(['/', '+', '#']);
        let level = |level| match level {
            "%u" => who.name.filter(usable),
            "%c" => Some(who.client_id).filter(usable),
            other => Some(other),
        };
        let levels: Option<Vec<&str>> = topic.split('/').map(level).collect();
        Some(levels?.join("/"))
    }

    fn decide(
        &self,
        who: Asker,
        topic: &str,
        pick: impl Fn(&Role) -> Option<bool>,
        default: bool,
    ) -> bool {
        let Some(roles) = self.roles_of(who.name) else {
            return false;
        };
        let mut roles = roles.iter().filter_map(|name| self.roles.get(name));
        roles
            .find_map(pick)
            .unwrap_or(default && !topic.starts_with("$CONTROL"))
    }

    fn first(&self, acls: &[Acl], who: Asker, applies: impl Fn(&str) -> bool) -> Option<bool> {
        let mut acls = acls.iter();
        let found = acls.find(|acl| {
            self.substituted(&acl.topic, who)
                .is_some_and(|filter| applies(&filter))
        });
        found.map(|acl| acl.allow)
    }

    /// Reads the groups; gives for each name the groups it is in, with the priority of each.
    fn read_groups(&mut self, tree: &Value) -> BTreeMap<String, Vec<(i64, String)>> {
        let mut members: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
        for item in list(tree, "groups") {
            let Some(name) = string(item, "groupname") else {
                continue;
            };
            if self.groups.contains_key(name) {
                continue;
            }
            self.groups
                .insert(name.to_owned(), self.ordered_roles(item));
            for client in list(item, "clients") {
                if let Some(user) = string(client, "username") {
                    let of_user = members.entry(user.to_owned()).or_default();
                    of_user.push((priority(client, -1), name.to_owned()));
                }
            }
        }
        self.anonymous_group = string(tree, "anonymousGroup").map(str::to_owned);
        members
    }

    fn client(
        &self,
        name: &str,
        item: &Value,
        members: &BTreeMap<String, Vec<(i64, String)>>,
    ) -> Client {
        let mut roles = self.ordered_roles(item);
        let mut groups = members.get(name).cloned().unwrap_or_default();
        groups.sort_by_key(|(priority, name)| (Reverse(*priority), name.clone()));
        for (_, group) in &groups {
            let of_group = self.groups.get(group).into_iter().flatten();
            roles.extend(of_group.cloned());
        }
        Client {
            hash: hash(item),
            disabled: get(item, "disabled")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            client_id: string(item, "clientid").map(str::to_owned),
            roles,
        }
    }

    /// The known roles of a client or a group, by priority, then by name.
    fn ordered_roles(&self, item: &Value) -> Vec<String> {
        let named = list(item, "roles").iter().filter_map(|role| {
            let name = string(role, "rolename")?;
            self.roles
                .contains_key(name)
                .then(|| (Reverse(priority(role, -1)), name.to_owned()))
        });
        let mut roles: Vec<_> = named.collect();
        roles.sort();
        roles.into_iter().map(|(_, name)| name).collect()
    }
}

/// Whether an ACL takes a whole requested filter in, as the plugin sees it: `+` does not take in `#`.
pub(super) fn takes_in(acl: &str, filter: &str) -> bool {
    if acl.starts_with('$') != filter.starts_with('$') {
        return false;
    }
    let (mut acl, mut filter) = (acl.split('/'), filter.split('/'));
    loop {
        match (acl.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

fn role(item: &Value) -> Role {
    let of = |kind: &str| {
        let (mut acls, mut known) = (Vec::new(), BTreeSet::new());
        for acl in list(item, "acls") {
            let is_kind =
                string(acl, "acltype").is_some_and(|found| found.eq_ignore_ascii_case(kind));
            let Some(topic) = string(acl, "topic").filter(|_| is_kind) else {
                continue;
            };
            // Of two for one topic the plugin keeps the first.
            if known.insert(topic) {
                acls.push(Acl {
                    topic: topic.to_owned(),
                    allow: get(acl, "allow").and_then(Value::as_bool).unwrap_or(false),
                    priority: priority(acl, 0),
                });
            }
        }
        acls.sort_by_key(|acl: &Acl| Reverse(acl.priority));
        acls
    };
    Role {
        publish: of("publishClientSend"),
        receive: of("publishClientReceive"),
        subscribe_literal: of("subscribeLiteral"),
        subscribe_pattern: of("subscribePattern"),
        no_wildcards: get(item, "allowwildcardsubs").and_then(Value::as_bool) == Some(false),
    }
}

/// Also the older form, of three members, becomes one text.
fn hash(item: &Value) -> Option<String> {
    if let Some(encoded) = string(item, "encoded_password") {
        return Some(encoded.to_owned());
    }
    let iterations = get(item, "iterations")?.as_i64()?;
    Some(format!(
        "$7${iterations}${}${}",
        string(item, "salt")?,
        string(item, "password")?
    ))
}

fn defaults(tree: &Value) -> Defaults {
    let access = get(tree, "defaultACLAccess");
    let of = |key: &str, default| {
        let found = access
            .and_then(|access| get(access, key))
            .and_then(Value::as_bool);
        found.unwrap_or(default)
    };
    Defaults {
        publish: of("publishClientSend", false),
        receive: of("publishClientReceive", true),
        subscribe: of("subscribe", false),
    }
}

/// The plugin does not care for the case of keys.
fn get<'a>(item: &'a Value, key: &str) -> Option<&'a Value> {
    let members = item.as_object()?;
    members.get(key).or_else(|| {
        members
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
    })
}

fn list<'a>(item: &'a Value, key: &str) -> &'a [Value] {
    get(item, key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn string<'a>(item: &'a Value, key: &str) -> Option<&'a str> {
    get(item, key)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

fn priority(item: &Value, default: i64) -> i64 {
    get(item, "priority")
        .and_then(Value::as_i64)
        .unwrap_or(default)
}
