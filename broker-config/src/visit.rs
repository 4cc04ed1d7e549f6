//! The one list of keys that everything else walks.
//!
//! Every section names its keys once, in [`Section::visit`], with what may be written there and
//! whether a change applies to a running gateway. Reading, printing and comparing are visitors,
//! so a key cannot be read and not printed, or printed and not compared.

use std::collections::BTreeMap;

use crate::{report::Wrong, value::Value};

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applies {
    /// On reload (SIGHUP).
    Live,
    /// Only when the gateway starts.
    Restart,
}

pub(crate) trait Section {
    fn visit<V: Visitor>(&mut self, v: &mut V);
}

pub(crate) trait Visitor {
    fn key<T: Value>(
        &mut self,
        name: &'static str,
        applies: Applies,
        field: &mut T,
        check: impl Fn(&T) -> Result<(), Wrong>,
    );

    fn section<S: Section>(&mut self, name: &'static str, section: &mut S);

    /// Tables under names that the operator chooses.
    fn tables<T: Named>(&mut self, name: &'static str, tables: &mut BTreeMap<String, T>);
}

/// A section that there may be several of. A table of the configuration is merged over the default
/// of the same name.
pub(crate) trait Named: Section + Clone {
    /// One of them, in messages.
    const NOUN: &'static str;
    /// What to do instead of having too many.
    const MANY: &'static str;
    /// Keys that a table with a name of its own must have: the name may be a typing error.
    const REQUIRED: &'static [&'static str];

    /// What a table with a name of its own is merged over.
    fn blank() -> Self;

    /// Those of a gateway without configuration.
    fn defaults() -> BTreeMap<String, Self>;

    /// Whether the operator may choose this name, its form apart.
    fn name_usable(_: &str) -> Result<(), Wrong> {
        Ok(())
    }

    /// Conditions over several keys: the key to blame, empty for the table, and what is wrong.
    fn check(&self) -> Vec<(&'static str, Wrong)>;
}
