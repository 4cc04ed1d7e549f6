//! Topic names and topic filters (MQTT 5.0 section 4.7).

/// Whether a valid topic filter matches a topic name. A leading wildcard never matches a `$` topic (MQTT-4.7.2-1).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic_levels.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
        // "a/#" matches "a" too: the loop ends on '#', with no topic level left.
    }
    topic_levels.next().is_none()
}

/// Whether every topic name that `narrow` matches is matched by `wide`.
pub fn covers(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let (mut wide, mut narrow) = (wide.split('/').peekable(), narrow.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some("#")) => return wide.peek() == Some(&"#"),
            (Some(_), Some("#")) => return false,
            (Some(w), Some(n)) if w == "+" || w == n => {}
            _ => return false,
        }
    }
}
