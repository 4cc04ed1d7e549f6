//! A number for those who have a role: `"fleet=1000"`.

use crate::{
    report::{Wrong, quote},
    settings::role,
    value::{Leaf, Scalar, Value},
};

/// How many sessions a principal with a role may have, instead of `max_sessions_per_principal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleLimit {
    pub role: String,
    /// 1 to 10,000,000.
    pub sessions: usize,
}

impl Value for RoleLimit {
    const WANT: &'static str = r#"a role and a number, such as "fleet=1000""#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let Scalar::Text(text) = &leaf.scalar else {
            return Err(Wrong::new(
                format!("is {}", leaf.kind()),
                format!("write {}", Self::WANT),
            ));
        };
        let wrong = || {
            Wrong::new(
                "is no role with a number of sessions from 1 to 10000000",
                format!("write {}", Self::WANT),
            )
        };
        let (name, number) = text.rsplit_once('=').ok_or_else(wrong)?;
        role(name)?;
        let sessions = number.parse().map_err(|_| wrong())?;
        match sessions {
            1..=10_000_000 => Ok(RoleLimit {
                role: name.to_owned(),
                sessions,
            }),
            _ => Err(wrong()),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quote(&format!("{}={}", self.role, self.sessions)))
    }
}
