//! The one list of keys that everything else walks.
//!
//! Every section names its keys once, in [`Section::visit`], with what may be written there and
//! whether a change applies to a running gateway. Reading, printing and comparing are visitors,
//! so a key cannot be read and not printed, or printed and not compared.

use std::collections::BTreeMap;

use crate::{listener::Listener, report::Wrong, value::Value};

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

    /// The tables under `[listeners]`: the only keys whose names the operator chooses.
    fn listeners(&mut self, name: &'static str, listeners: &mut BTreeMap<String, Listener>);
}
