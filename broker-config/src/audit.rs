//! `[audit]`: how much is kept of what was refused, of logins, of changes, and of decisions.

use crate::{
    value::{any, within},
    visit::{
        Applies::{Live, Restart},
        Section, Visitor,
    },
};

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Whether the audit log is kept. Default true.
    pub enabled: bool,
    /// Entries of the audit log, on disk; the oldest make room. At most about 1 KB each, 200 bytes
    /// as a rule. Default 50,000; 1,000 to 10,000,000.
    pub max_entries: usize,
    /// Distinct decisions that are remembered, in memory, for dry runs; the oldest make room.
    /// About 250 bytes each, at most 1.3 KB. Default 10,000; 0 (none) to 1,000,000.
    pub decisions: usize,
}

impl Default for Audit {
    fn default() -> Self {
        Audit {
            enabled: true,
            max_entries: 50_000,
            decisions: 10_000,
        }
    }
}

impl Section for Audit {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            enabled,
            max_entries,
            decisions,
        } = self;
        v.key("enabled", Restart, enabled, any);
        v.key("max_entries", Live, max_entries, within(1_000..=10_000_000));
        v.key("decisions", Live, decisions, within(0..=1_000_000));
    }
}
