//! Walks a configuration into a flat list of its keys: what printing and comparing work on.

use std::collections::BTreeMap;

use crate::{
    report::{Wrong, join},
    value::Value,
    visit::{Applies, Named, Section, Visitor},
};

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path of the section, empty at the top.
    pub section: String,
    pub name: &'static str,
    /// In TOML; `None` if the key is not set.
    pub value: Option<String>,
    pub applies: Applies,
}

impl Entry {
    pub fn path(&self) -> String {
        join(&self.section, self.name)
    }
}

/// All keys of a configuration, in the order of their sections.
pub(crate) fn entries<S: Section + Clone>(config: &S) -> Vec<Entry> {
    let mut lister = Lister::default();
    config.clone().visit(&mut lister);
    lister.entries
}

#[derive(Default)]
struct Lister {
    section: String,
    entries: Vec<Entry>,
}

impl Lister {
    fn descend(&mut self, name: &str, section: &mut impl Section) {
        let inner = join(&self.section, name);
        let outer = std::mem::replace(&mut self.section, inner);
        section.visit(self);
        self.section = outer;
    }
}

impl Visitor for Lister {
    fn key<T: Value>(
        &mut self,
        name: &'static str,
        applies: Applies,
        field: &mut T,
        _: impl Fn(&T) -> Result<(), Wrong>,
    ) {
        let (section, value) = (self.section.clone(), field.show());
        self.entries.push(Entry {
            section,
            name,
            value,
            applies,
        });
    }

    fn section<S: Section>(&mut self, name: &'static str, section: &mut S) {
        self.descend(name, section);
    }

    fn tables<T: Named>(&mut self, name: &'static str, tables: &mut BTreeMap<String, T>) {
        let inner = join(&self.section, name);
        let outer = std::mem::replace(&mut self.section, inner);
        for (name, table) in tables {
            self.descend(name, table);
        }
        self.section = outer;
    }
}
