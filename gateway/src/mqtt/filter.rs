//! Topic filters (sections 4.7 and 4.8): which ones exist, which topics they match, and which filter covers which.

use bytestring::ByteString;

use super::topic::{TopicError, check_string};

/// A valid topic filter, without `$share`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(ByteString);

impl Filter {
    /// Checks a topic filter of at most `max_levels` levels, where `a/#` has two.
    ///
    /// # Errors
    /// The first rule of section 4.7 that it breaks, or too many levels.
    pub fn parse(filter: impl Into<ByteString>, max_levels: usize) -> Result<Self, TopicError> {
        let filter = filter.into();
        check_string(&filter, max_levels)?;
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let misplaced = match level {
                "+" => false,
                "#" => levels.peek().is_some(),
                other => other.contains(['+', '#']),
            };
            if misplaced {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(Filter(filter))
    }

    /// The filter as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter as a shared string.
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// True if this filter matches the topic name, see [`matches`].
    pub fn matches(&self, topic: &str) -> bool {
        matches(&self.0, topic)
    }

    /// True if this filter matches every topic that `narrow` matches, see [`covers`].
    pub fn covers(&self, narrow: &Filter) -> bool {
        covers(&self.0, &narrow.0)
    }

    /// True if it contains `+` or `#`.
    pub fn has_wildcards(&self) -> bool {
        self.0.contains(['+', '#'])
    }
}

/// What a SUBSCRIBE or UNSUBSCRIBE names: a topic filter, shared or not (section 4.8.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubscriptionFilter {
    raw: ByteString,
    /// The share name of `$share/NAME/FILTER`.
    pub share: Option<ByteString>,
    /// The topic filter behind it.
    pub filter: Filter,
}

impl SubscriptionFilter {
    /// Reads a subscription as sent. `max_levels` counts the levels of the topic filter alone.
    ///
    /// # Errors
    /// As [`Filter::parse`], and [`TopicError::MalformedShare`] for an incomplete `$share/…`.
    pub fn parse(raw: impl Into<ByteString>, max_levels: usize) -> Result<Self, TopicError> {
        let raw = raw.into();
        let Some(shared) = raw.strip_prefix("$share/") else {
            return Ok(SubscriptionFilter {
                filter: Filter::parse(raw.clone(), max_levels)?,
                share: None,
                raw,
            });
        };
        if raw.len() > usize::from(u16::MAX) {
            return Err(TopicError::TooLong(raw.len()));
        }
        let (name, filter) = shared.split_once('/').ok_or(TopicError::MalformedShare)?;
        if name.is_empty() || name.contains(['+', '#']) || filter.is_empty() {
            return Err(TopicError::MalformedShare);
        }
        if name.contains('\0') {
            return Err(TopicError::NullCharacter);
        }
        Ok(SubscriptionFilter {
            share: Some(raw.slice_ref(name)),
            filter: Filter::parse(raw.slice_ref(filter), max_levels)?,
            raw,
        })
    }

    /// The subscription as sent, `$share/…` included.
    pub fn as_str(&self) -> &str {
        &self.raw
    }
}

/// True if the valid filter matches the valid topic name (section 4.7). A wildcard in the first level never matches a
/// topic that begins with `$` (MQTT-4.7.2-1); `a/#` matches `a` (section 4.7.1.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = Some(topic);
    let mut filter = Some(filter);
    while let Some(pattern) = filter {
        let (level, deeper) = split_level(pattern);
        if level == "#" && deeper.is_none() {
            // Also for a topic that has ended: the parent level counts.
            return true;
        }
        let Some(name) = topic else { return false };
        let (name, rest) = split_level(name);
        if level != "+" && level != name {
            return false;
        }
        filter = deeper;
        topic = rest;
    }
    topic.is_none()
}

/// True if `wide` matches every topic name that `narrow` can match (rule P2); both are valid filters.
///
/// It is exact: `a/#` covers `a`, `a/+` and `a/#`; `+/#` and `#` cover each other; a leading wildcard covers no filter
/// that names a `$` topic, and no such filter covers a leading wildcard.
pub fn covers(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    // Behind a slash `#` stands for no level or more, but no topic is empty: `#` alone and `/#` ask for one level more
    // than they show.
    let mut narrow = Some(match narrow {
        "#" => "+/#",
        "/#" => "/+/#",
        other => other,
    });
    let mut wide = Some(if wide == "#" { "+/#" } else { wide });
    while let Some(pattern) = wide {
        let (level, deeper) = split_level(pattern);
        if level == "#" && deeper.is_none() {
            return true;
        }
        let Some(remaining) = narrow else {
            return false;
        };
        let (other, rest) = split_level(remaining);
        if other == "#" && rest.is_none() {
            // `narrow` goes on to any depth, and also ends one level above; `wide` does at most one of the two.
            return false;
        }
        if level != "+" && level != other {
            return false;
        }
        wide = deeper;
        narrow = rest;
    }
    narrow.is_none()
}

/// The first level, and what follows its slash.
fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.as_bytes().iter().position(|byte| *byte == b'/') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}
