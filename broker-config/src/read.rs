//! Reads the tree of sources into the typed configuration and collects every problem on the way.

use std::collections::BTreeMap;

use crate::{
    report::{Place, Problem, Wrong, join, quote},
    source::{Data, Node, Table},
    value::{Leaf, Value},
    visit::{Applies, Named, Section, Visitor},
};

/// More tables under one `[listeners]` or `[certificates]` are refused unread.
const TABLES_MAX: usize = 64;

/// Keys longer than this are not compared with the known ones.
const COMPARED_MAX: usize = 64;

/// What reading found: the problems, and where each key was set.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub problems: Vec<Problem>,
    places: BTreeMap<String, Place>,
}

impl Findings {
    /// Where the key was set, if it was.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key)
    }

    /// Whether nothing is wrong with the key so far.
    pub fn sound(&self, key: &str) -> bool {
        !self.problems.iter().any(|problem| problem.key == key)
    }
}

/// Takes each node it reads out of the tree, so that what is left is unknown.
pub(crate) struct Reader<'a> {
    /// The table being read.
    table: Table,
    /// Its path.
    path: String,
    /// Its keys as far as they have been asked for.
    known: Vec<&'static str>,
    /// Path of every key of the default configuration, for suggestions.
    everywhere: &'a [String],
    findings: Findings,
}

impl<'a> Reader<'a> {
    pub fn new(tree: Table, everywhere: &'a [String]) -> Self {
        Reader {
            table: tree,
            path: String::new(),
            known: Vec::new(),
            everywhere,
            findings: Findings::default(),
        }
    }

    /// Reports what nobody asked for at the top and yields the findings.
    pub fn finish(mut self) -> Findings {
        self.report_unknown();
        self.findings
    }

    fn take(&mut self, name: &'static str) -> Option<(String, Node)> {
        self.known.push(name);
        let node = self.table.remove(name)?;
        let path = join(&self.path, name);
        self.findings
            .places
            .insert(path.clone(), node.place.clone());
        Some((path, node))
    }

    /// The node's table, or a problem.
    fn table_of(&mut self, path: &str, node: Node) -> Option<Table> {
        match node.data {
            Data::Table(table) => Some(table),
            Data::Leaf(leaf) => {
                let wrong = Wrong::new(
                    format!("is {}", leaf.kind()),
                    format!("write a table: [{path}] and its keys on lines of their own"),
                );
                self.findings
                    .problems
                    .push(wrong.at(&node.place, path, Some(leaf.show())));
                None
            }
        }
    }

    /// Reads a section from `table` and reports what it does not know.
    fn descend(&mut self, path: String, table: Table, section: &mut impl Section) {
        let outer = (
            std::mem::replace(&mut self.table, table),
            std::mem::replace(&mut self.path, path),
            std::mem::take(&mut self.known),
        );
        section.visit(self);
        self.report_unknown();
        (self.table, self.path, self.known) = outer;
    }

    fn report_unknown(&mut self) {
        for (key, node) in std::mem::take(&mut self.table) {
            let near = nearest(&key, self.known.iter().copied()).map(quote);
            let elsewhere = || {
                let found = self
                    .everywhere
                    .iter()
                    .filter_map(|path| path.rsplit_once('.'));
                found
                    .filter(|(_, name)| *name == key)
                    .map(|(section, _)| section)
                    .next()
            };
            let (remedy, harmless) = match (near, elsewhere()) {
                (Some(near), _) => (format!("did you mean {near}?"), true),
                (None, Some(section)) => (format!("it belongs in [{section}]"), true),
                (None, None) => (format!("known here: {}", self.known.join(", ")), false),
            };
            // The value of a key that nobody knows may be a password.
            let value = if harmless { node.data.show() } else { None };
            let wrong = Wrong::new("unknown key", remedy);
            let path = join(&self.path, &key);
            self.findings
                .problems
                .push(wrong.at(&node.place, &path, value));
        }
    }

    fn named<T: Named>(
        &mut self,
        path: &str,
        name: &str,
        node: Node,
        known: Option<&T>,
    ) -> Option<T> {
        let place = node.place.clone();
        if let Err(wrong) = name_usable(name, T::NOUN).and_then(|()| T::name_usable(name)) {
            self.findings.problems.push(wrong.at(&place, path, None));
            return None;
        }
        let table = self.table_of(path, node)?;
        if known.is_none() {
            self.check_new::<T>(path, name, &place, &table);
        }
        let mut section = known.cloned().unwrap_or_else(T::blank);
        self.descend(path.to_owned(), table, &mut section);
        for (key, wrong) in section.check() {
            let path = match key {
                "" => path.to_owned(),
                key => join(path, key),
            };
            if self.findings.sound(&path) {
                let place = self.findings.place(&path).unwrap_or(&place).clone();
                self.findings.problems.push(wrong.at(&place, &path, None));
            }
        }
        Some(section)
    }

    /// A name that is not one of the defaults must say what it is: it may be a typing error.
    fn check_new<T: Named>(&mut self, path: &str, name: &str, place: &Place, table: &Table) {
        let missing: Vec<_> = T::REQUIRED
            .iter()
            .copied()
            .filter(|key| !table.contains_key(*key))
            .collect();
        if missing.is_empty() {
            return;
        }
        let missing = missing.join(" and ");
        let defaults = T::defaults();
        let remedy = match nearest(name, defaults.keys().map(String::as_str)) {
            Some(near) => format!("add {missing}, or did you mean {}?", quote(near)),
            None => format!("add {missing}"),
        };
        let message = format!("is a {} of your own without {missing}", T::NOUN);
        self.findings
            .problems
            .push(Wrong::new(message, remedy).at(place, path, None));
    }
}

impl Visitor for Reader<'_> {
    fn key<T: Value>(
        &mut self,
        name: &'static str,
        _: Applies,
        field: &mut T,
        check: impl Fn(&T) -> Result<(), Wrong>,
    ) {
        let Some((path, node)) = self.take(name) else {
            return;
        };
        let read = match &node.data {
            Data::Table(_) => Err(Wrong::new("is a table", format!("write {}", T::WANT))),
            Data::Leaf(leaf) => T::read(leaf),
        };
        // What an environment variable says may read as TOML and still be meant as a string.
        let again = |wrong| match &node.raw {
            Some(raw) => T::read(&Leaf::text(raw)).map_err(|_| wrong),
            None => Err(wrong),
        };
        match read
            .or_else(again)
            .and_then(|value| check(&value).map(|()| value))
        {
            Ok(value) => *field = value,
            Err(wrong) => {
                self.findings
                    .problems
                    .push(wrong.at(&node.place, &path, node.data.show()));
            }
        }
    }

    fn section<S: Section>(&mut self, name: &'static str, section: &mut S) {
        let Some((path, node)) = self.take(name) else {
            return;
        };
        if let Some(table) = self.table_of(&path, node) {
            self.descend(path, table, section);
        }
    }

    fn tables<T: Named>(&mut self, name: &'static str, tables: &mut BTreeMap<String, T>) {
        let Some((path, node)) = self.take(name) else {
            return;
        };
        let place = node.place.clone();
        let Some(table) = self.table_of(&path, node) else {
            return;
        };
        if table.len() > TABLES_MAX {
            let message = format!("has {} {}s, more than {TABLES_MAX}", table.len(), T::NOUN);
            let wrong = Wrong::new(message, T::MANY);
            return self.findings.problems.push(wrong.at(&place, &path, None));
        }
        for (name, node) in table {
            let path = join(&path, &name);
            self.findings
                .places
                .insert(path.clone(), node.place.clone());
            if let Some(read) = self.named(&path, &name, node, tables.get(&name)) {
                tables.insert(name, read);
            }
        }
    }
}

/// Names must survive a trip through an environment variable: lower-case letters, digits, `-`
/// and single `_`, and a letter first.
fn name_usable(name: &str, noun: &str) -> Result<(), Wrong> {
    let usable = (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && !name.ends_with('_')
        && !name.contains("__");
    match usable {
        true => Ok(()),
        false => Err(Wrong::new(
            format!("is not a {noun} name"),
            "use up to 32 lower-case letters, digits, - and _, a letter first",
        )),
    }
}

/// The known name that `key` is most likely a typing error of.
fn nearest<'n>(key: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if key.len() > COMPARED_MAX {
        return None;
    }
    let key = key.to_lowercase();
    let distance = |name: &'n str| (strsim::damerau_levenshtein(&key, name), name);
    let (distance, name) = known.map(distance).min()?;
    (distance <= (name.len().max(key.len()) / 3).max(1)).then_some(name)
}
