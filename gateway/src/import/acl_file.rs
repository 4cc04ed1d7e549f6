//! `acl_file`: what it says, and what Mosquitto makes of it.
//!
//! Of the entries of a user, or of anonymous clients, the denies are asked first, then the others; then the patterns, which
//! hold for all clients, in the same order. The first that matches decides; without one it is no. SUBSCRIBE is always
//! granted: read access is checked for each message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::ImportError;
use super::files::{self, DATA_MAX, Place};
use super::meaning::Asker;
use crate::mqtt::{Filter, matches};

#[derive(Debug, Default)]
pub(super) struct AclFile {
    pub anonymous: Vec<Entry>,
    pub users: BTreeMap<String, Vec<Entry>>,
    pub patterns: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub place: Place,
    pub access: Access,
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl AclFile {
    /// Entries in one file.
    const MAX: usize = 50_000;
    /// More levels than Mosquitto allows.
    const LEVELS: usize = 1024;

    pub fn read(path: &Path) -> Result<AclFile, ImportError> {
        let mut acl = AclFile::default();
        let (mut user, mut count) = (None, 0);
        for line in files::lines(path, DATA_MAX)? {
            if line.text.starts_with('#') {
                continue;
            }
            let text = line.text.trim_start_matches(' ');
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            let rest = rest.trim();
            match word {
                "" => continue,
                "user" if rest.is_empty() => {
                    return Err(line.place.error("user without a name; write \"user NAME\""));
                }
                "user" => user = Some(rest.to_owned()),
                "topic" | "pattern" => {
                    let entry = entry(line.place, rest)?;
                    match (&user, word) {
                        (_, "pattern") => acl.patterns.push(entry),
                        (None, _) => acl.anonymous.push(entry),
                        (Some(user), _) => acl.users.entry(user.clone()).or_default().push(entry),
                    }
                }
                _ => {
                    let problem = format!(
                        "{word:?} is neither user, topic nor pattern; Mosquitto would not start"
                    );
                    return Err(line.place.error(problem));
                }
            }
            count += 1;
            if count > Self::MAX {
                let problem = format!("{} lines are the most that can be imported", Self::MAX);
                return Err(Place::new(path, count).error(problem));
            }
        }
        Ok(acl)
    }

    pub fn publish(&self, who: Asker, topic: &str) -> bool {
        self.decide(who, topic, |access| {
            matches!(access, Access::Write | Access::ReadWrite)
        })
    }

    pub fn receive(&self, who: Asker, topic: &str) -> bool {
        self.decide(who, topic, |access| {
            matches!(access, Access::Read | Access::ReadWrite)
        })
    }

    /// The entries for this name alone, or for anonymous clients.
    pub fn own(&self, name: Option<&str>) -> &[Entry] {
        match name {
            Some(name) => self.users.get(name).map_or(&[], Vec::as_slice),
            None => &self.anonymous,
        }
    }

    fn decide(&self, who: Asker, topic: &str, grants: impl Fn(Access) -> bool) -> bool {
        let own = self.own(who.name).iter();
        let own = own.map(|entry| (entry.access, Some(Cow::Borrowed(entry.filter.as_str()))));
        if let Some(decision) = first(own, topic, &grants) {
            return decision;
        }
        let dangerous = |text: &str| text.contains(['+', '#']);
        if self.patterns.is_empty() || who.name.is_some_and(dangerous) || dangerous(who.client_id) {
            return false;
        }
        let patterns = self.patterns.iter();
        let patterns = patterns.map(|entry| {
            let filter = substituted(&entry.filter, who).map(Cow::Owned);
            (entry.access, filter)
        });
        first(patterns, topic, &grants).unwrap_or(false)
    }
}

/// Denies first, then the grants of this kind; `None` if nothing matches.
fn first<'a>(
    entries: impl Iterator<Item = (Access, Option<Cow<'a, str>>)> + Clone,
    topic: &str,
    grants: &impl Fn(Access) -> bool,
) -> Option<bool> {
    let matching = |(_, filter): &(Access, Option<Cow<str>>)| {
        filter
            .as_deref()
            .is_some_and(|filter| matches(filter, topic))
    };
    let denies = entries
        .clone()
        .filter(|(access, _)| *access == Access::Deny);
    if denies.clone().any(|entry| matching(&entry)) {
        return Some(false);
    }
    let mut allows = entries.filter(|(access, _)| grants(*access));
    allows.any(|entry| matching(&entry)).then_some(true)
}

/// As 2.0 does it: anywhere in the text. `None` for a pattern with `%u` and a client without a name.
pub(super) fn substituted(pattern: &str, who: Asker) -> Option<String> {
    if pattern.contains("%u") && who.name.is_none() {
        return None;
    }
    let mut filter = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        filter.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = match (after.as_bytes().first(), who.name) {
            (Some(b'c'), _) => {
                filter.push_str(who.client_id);
                &after[1..]
            }
            (Some(b'u'), Some(name)) => {
                filter.push_str(name);
                &after[1..]
            }
            _ => {
                filter.push('%');
                after
            }
        };
    }
    filter.push_str(rest);
    Some(filter)
}

fn entry(place: Place, rest: &str) -> Result<Entry, ImportError> {
    let (access, filter) = match rest.split_once(' ') {
        None => (Access::ReadWrite, rest),
        Some((word, filter)) => {
            let access = match word {
                "read" => Access::Read,
                "write" => Access::Write,
                "readwrite" => Access::ReadWrite,
                "deny" => Access::Deny,
                _ => {
                    let problem = format!(
                        "{word:?} is neither read, write, readwrite nor deny; Mosquitto would not start"
                    );
                    return Err(place.error(problem));
                }
            };
            (access, filter.trim())
        }
    };
    if let Err(error) = Filter::parse(filter.to_owned(), AclFile::LEVELS) {
        return Err(place.error(format!("{filter:?} is not a topic filter: {error}")));
    }
    Ok(Entry {
        place,
        access,
        filter: filter.to_owned(),
    })
}
