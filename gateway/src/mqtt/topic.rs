//! Topic names (section 4.7): which ones a message can have.

/// Why a topic name or a topic filter is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// MQTT-4.7.3-1.
    #[error("it is empty")]
    Empty,
    /// MQTT-4.7.3-3.
    #[error("it has {0} bytes; the protocol allows 65535")]
    TooLong(usize),
    /// MQTT-4.7.3-2.
    #[error("it contains U+0000")]
    NullCharacter,
    /// MQTT-3.3.2-2.
    #[error("a topic name cannot contain the wildcards + and #")]
    WildcardInName,
    /// MQTT-4.7.1-1, MQTT-4.7.1-2.
    #[error("a wildcard must stand alone in its level, and # only in the last one")]
    MisplacedWildcard,
    /// A limit of the server, not of the protocol.
    #[error("it has {levels} levels; this server allows {maximum}")]
    TooManyLevels {
        /// Levels of the name or filter: one more than it has slashes.
        levels: usize,
        /// The configured limit.
        maximum: usize,
    },
    /// MQTT-4.8.2-1, MQTT-4.8.2-2.
    #[error(
        "a shared subscription is $share/NAME/FILTER; NAME is not empty and contains neither + nor #"
    )]
    MalformedShare,
}

/// Checks a topic name: not empty, at most 65,535 bytes, without `+`, `#` and U+0000, and of at most `max_levels`
/// levels, where `a/b` has two.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate_topic_name(topic: &str, max_levels: usize) -> Result<(), TopicError> {
    check_string(topic, max_levels)?;
    if topic.contains(['+', '#']) {
        Err(TopicError::WildcardInName)
    } else {
        Ok(())
    }
}

/// What names and filters have in common.
pub(super) fn check_string(text: &str, max_levels: usize) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong(text.len()));
    }
    let (mut levels, mut nul) = (1, false);
    for byte in text.bytes() {
        levels += usize::from(byte == b'/');
        nul |= byte == 0;
    }
    if nul {
        return Err(TopicError::NullCharacter);
    }
    if levels > max_levels {
        return Err(TopicError::TooManyLevels {
            levels,
            maximum: max_levels,
        });
    }
    Ok(())
}

/// What makes a string of the protocol no topic name (U+0000 has been refused before), for errors of the decoder.
pub(super) fn flaw(topic: &str) -> Option<&'static str> {
    if topic.is_empty() {
        return Some("it is empty");
    }
    is_suspect(topic).then_some("it contains a wildcard")
}

/// True if it contains `+`, `#` or U+0000. One pass without an early exit: the compiler makes vector instructions of
/// it.
pub(super) fn is_suspect(topic: &str) -> bool {
    topic.bytes().fold(false, |found, byte| {
        found | (byte == b'+') | (byte == b'#') | (byte == 0)
    })
}
