//! The kinds of entries.

use std::fmt;
use std::str::FromStr;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client came in.
    Login,
    /// Wrong credentials, whatever they were.
    LoginFailed,
    /// A CONNECT was refused for another reason.
    ConnectRefused,
    /// A client identifier that belongs to another principal (S5).
    Takeover,
    SubscribeDenied,
    PublishDenied,
    WillDenied,
    /// A change took a subscription, the connection, or what was to come from a session that had it.
    Withdrawn,
    /// Failures led to a ban, or to a name that is refused.
    Ban,
    /// An operator changed something.
    Change,
    /// An operator tried to.
    ChangeFailed,
    /// The gateway itself: start, stop, reload.
    Gateway,
}

/// Classes of kinds: entries of one make room only for others of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Logins = 0,
    Refusals = 1,
    Changes = 2,
}

impl Class {
    pub const COUNT: usize = 3;

    /// How many entries of each class are kept if `all` are kept together.
    pub fn shares(all: usize) -> [u64; Self::COUNT] {
        let all = all as u64;
        let changes = all / 5;
        let logins = (all - changes) / 2;
        [logins, all - changes - logins, changes]
    }
}

impl Kind {
    pub const ALL: [(Kind, &'static str); 12] = [
        (Kind::Login, "login"),
        (Kind::LoginFailed, "login-failed"),
        (Kind::ConnectRefused, "connect-refused"),
        (Kind::Takeover, "takeover"),
        (Kind::SubscribeDenied, "subscribe-denied"),
        (Kind::PublishDenied, "publish-denied"),
        (Kind::WillDenied, "will-denied"),
        (Kind::Withdrawn, "withdrawn"),
        (Kind::Ban, "ban"),
        (Kind::Change, "change"),
        (Kind::ChangeFailed, "change-failed"),
        (Kind::Gateway, "gateway"),
    ];

    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.iter().find(|(kind, _)| *kind == self);
        found.map_or("", |(_, word)| word)
    }

    pub(super) fn class(self) -> Class {
        match self {
            Kind::Login => Class::Logins,
            Kind::Change | Kind::ChangeFailed | Kind::Gateway => Class::Changes,
            _ => Class::Refusals,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        found.map(|(kind, _)| *kind).ok_or_else(|| {
            let words: Vec<_> = Self::ALL.iter().map(|(_, word)| *word).collect();
            format!("there is no such kind; use one of {}", words.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_and_the_shares_are_all_of_it() {
        for (kind, word) in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.as_str(), word);
        }
        assert!("nothing".parse::<Kind>().unwrap_err().contains("takeover"));
        for all in [1_000, 1_001, 50_000] {
            let shares = Class::shares(all);
            assert_eq!(shares.iter().sum::<u64>(), all as u64);
            assert!(shares.iter().all(|share| *share >= 200));
        }
    }
}
