//! What to ask both: topics and filters made from those of the old broker's rules, and their neighbours.

use std::collections::BTreeSet;

use super::acl_file;
use super::meaning::{Asker, Meaning};
use crate::mqtt::{Filter, validate_topic_name};

/// Levels that stand for a wildcard, and for somebody else's name.
const FILL: &str = "probe";
const OTHER: &str = "somebody-else";

/// The questions about one client.
pub(super) struct Probes {
    pub topics: BTreeSet<String>,
    pub filters: BTreeSet<String>,
}

impl Probes {
    const MAX_TOPICS: usize = 300;
    const MAX_FILTERS: usize = 450;
    const LEVELS: usize = 64;

    /// Its own rules first; then those of others, up to `others` topics in all.
    pub fn of(meaning: &Meaning, who: Asker, others: usize) -> Probes {
        let mut probes = Probes {
            topics: BTreeSet::new(),
            filters: BTreeSet::new(),
        };
        for filter in ["#", "+/#", "+", "$SYS/#"] {
            probes.filter(filter);
        }
        for topic in [FILL, "$SYS/broker/uptime", "probe/probe"] {
            probes.topic(topic);
        }
        probes.add(&own(meaning, who), who, Self::MAX_TOPICS);
        probes.add(&of_others(meaning), who, others.min(Self::MAX_TOPICS));
        probes
    }

    fn add(&mut self, filters: &[String], who: Asker, max: usize) {
        for filter in filters {
            if self.topics.len() >= max || self.filters.len() >= Self::MAX_FILTERS {
                return;
            }
            self.around(filter);
            if let Some(name) = who.name.filter(|_| filter.contains('+')) {
                self.topic(&filter.replace('+', name).replace('#', FILL));
            }
        }
    }

    /// The filter, topics in it, topics and filters beside it, above it and below it.
    fn around(&mut self, filter: &str) {
        self.filter(filter);
        let filled = filter.replace('+', FILL);
        let base = filled.trim_end_matches('#').trim_end_matches('/');
        for topic in [
            filled.replace('#', FILL),
            filled.replace('#', "probe/probe"),
            base.to_owned(),
            format!("{base}/probe"),
            format!("{base}-probe"),
        ] {
            self.topic(&topic);
            self.filter(&topic);
        }
        if let Some((parent, _)) = base.rsplit_once('/') {
            self.topic(parent);
            self.topic(&format!("{parent}/{OTHER}"));
            self.filter(&format!("{parent}/#"));
            self.filter(&format!("{parent}/+"));
        }
        for (at, _) in base.match_indices('/') {
            self.filter(&format!("{}/#", &base[..at]));
        }
        self.filter(&format!("{base}/#"));
    }

    fn topic(&mut self, topic: &str) {
        if validate_topic_name(topic, Self::LEVELS).is_ok() {
            self.topics.insert(topic.to_owned());
        }
    }

    fn filter(&mut self, filter: &str) {
        if Filter::parse(filter.to_owned(), Self::LEVELS).is_ok() && !filter.starts_with("$share/")
        {
            self.filters.insert(filter.to_owned());
        }
    }
}

/// The filters that concern this client, with its name in the place of variables, and with somebody else's.
fn own(meaning: &Meaning, who: Asker) -> Vec<String> {
    let other = Asker {
        name: Some(OTHER),
        client_id: OTHER,
    };
    match meaning {
        Meaning::Everything | Meaning::Unknown => Vec::new(),
        Meaning::AclFile(acl) => {
            let own = acl.own(who.name).iter().map(|entry| entry.filter.clone());
            let patterns = acl.patterns.iter().flat_map(|entry| {
                [who, other]
                    .into_iter()
                    .filter_map(|asker| acl_file::substituted(&entry.filter, asker))
            });
            own.chain(patterns).collect()
        }
        Meaning::Dynsec(dynsec) => {
            let roles = dynsec.roles_of(who.name).unwrap_or_default();
            let roles = roles.iter().filter_map(|name| dynsec.roles.get(name));
            let topics = roles.flat_map(|role| {
                let lists = [
                    &role.publish,
                    &role.receive,
                    &role.subscribe_pattern,
                    &role.subscribe_literal,
                ];
                lists.into_iter().flatten().map(|acl| acl.topic.as_str())
            });
            topics
                .flat_map(|topic| {
                    [who, other]
                        .into_iter()
                        .filter_map(|asker| dynsec.substituted(topic, asker))
                })
                .collect()
        }
    }
}

fn of_others(meaning: &Meaning) -> Vec<String> {
    match meaning {
        Meaning::Everything | Meaning::Unknown => Vec::new(),
        Meaning::AclFile(acl) => {
            let all = acl.users.values().flatten().chain(&acl.anonymous);
            all.map(|entry| entry.filter.clone())
                .take(Probes::MAX_FILTERS)
                .collect()
        }
        Meaning::Dynsec(dynsec) => {
            let all = dynsec.roles.values().flat_map(|role| {
                let lists = [
                    &role.publish,
                    &role.receive,
                    &role.subscribe_pattern,
                    &role.subscribe_literal,
                ];
                lists.into_iter().flatten()
            });
            let plain = all.filter(|acl| !acl.topic.contains('%'));
            plain
                .map(|acl| acl.topic.clone())
                .take(Probes::MAX_FILTERS)
                .collect()
        }
    }
}
