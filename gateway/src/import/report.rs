//! What the operator should know about one setting of the old broker.

use std::fmt;

use serde::Serialize;

use super::files::Place;

/// How a setting came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A restriction that is lost: more would be allowed here than there.
    Wider,
    /// It cannot be taken over.
    Unmapped,
    /// It is taken over, and means something else here.
    Differs,
    /// It means the same here.
    Mapped,
}

/// One remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: Kind,
    /// `FILE:LINE`, where there is one.
    pub place: Option<String>,
    /// What it is, and what to do about it. Never a secret.
    pub text: String,
}

impl Finding {
    pub(super) fn new(kind: Kind, place: Option<&Place>, text: impl Into<String>) -> Finding {
        Finding {
            kind,
            place: place.map(Place::to_string),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} ({place})", self.text),
            None => f.write_str(&self.text),
        }
    }
}
