//! What is wrong with a configuration, where, and what to do about it.
//!
//! Everything an operator reads about a bad configuration is a [`Problem`]; the rooms that find
//! problems decide the words, this one decides the form.

use std::fmt;

/// The longest piece of operator input repeated in a message, in characters.
const SHOWN_MAX: usize = 80;

/// Every problem of a configuration, those of the file in the order of its lines first, then
/// those of the environment. Never empty when it comes from [`Config::load`](crate::Config::load).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Lines(.0))]
pub struct Report(pub Vec<Problem>);

/// One mistake in a configuration.
///
/// Its `Display` form is one line:
/// `postern.toml:12: limits.max_conections = 5: unknown key; did you mean "max_connections"?`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable.
    pub origin: String,
    /// Line in the file, from 1; `None` for an environment variable or the file as a whole.
    pub line: Option<usize>,
    /// Dotted path of the key; empty where the mistake is not about one key.
    pub key: String,
    /// The value as it would be written in TOML, shortened. `None` where there is none, or where
    /// it is not known to be harmless: the value of a key that nobody knows may be a password.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            f.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Where something was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub origin: String,
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with a value, before it is known which key it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub message: String,
    pub remedy: String,
    /// The entry of a list that is wrong, and its line, when it is not the whole value.
    pub entry: Option<(String, Option<usize>)>,
}

impl Wrong {
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Wrong {
            message: message.into(),
            remedy: remedy.into(),
            entry: None,
        }
    }

    pub fn at(self, place: &Place, key: &str, value: Option<String>) -> Problem {
        let (value, line) = match self.entry {
            Some((entry, line)) => (Some(entry), line.or(place.line)),
            None => (value, place.line),
        };
        Problem {
            origin: place.origin.clone(),
            line,
            key: key.to_owned(),
            value: value.map(|v| shorten(&v)),
            message: self.message,
            remedy: self.remedy,
        }
    }
}

/// `text` cut to a length fit for a message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// `text` as a TOML basic string, on one line and free of control characters.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One segment of a dotted key as TOML writes it.
pub(crate) fn segment(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        shorten(key)
    } else {
        shorten(&quote(key))
    }
}

/// `parent.key`, or just `key` at the top.
pub(crate) fn join(parent: &str, key: &str) -> String {
    match parent {
        "" => segment(key),
        parent => format!("{parent}.{}", segment(key)),
    }
}
