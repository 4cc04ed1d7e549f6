//! Where configuration comes from: one file, and environment variables laid over it.
//!
//! Both become one tree of nodes that remember their place. What the keys mean is not known
//! here.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use crate::{
    report::{Place, Problem, Wrong, join, shorten},
    value::{Leaf, Scalar},
};

/// Start of every environment variable that sets a key: `POSTERN__LIMITS__MAX_CONNECTIONS`.
pub const ENV_PREFIX: &str = "POSTERN__";

/// A configuration file larger than this is refused, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Deepest key that an environment variable may name. No key has more than three segments.
const ENV_DEPTH: usize = 8;

/// What [`Config::load`](crate::Config::load) reads.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    env: BTreeMap<OsString, OsString>,
}

impl Sources {
    /// `file` must exist if it is given. Of `env`, usually [`std::env::vars_os`], only the
    /// variables that begin with [`ENV_PREFIX`] are kept.
    pub fn new<K, V>(file: Option<PathBuf>, env: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        let ours = |(name, _): &(OsString, OsString)| {
            name.as_encoded_bytes().starts_with(ENV_PREFIX.as_bytes())
        };
        Sources {
            file,
            env: env.filter(ours).collect(),
        }
    }

    /// The tree of all sources, and what is wrong with the environment variables as such. An
    /// unreadable file or TOML syntax errors are an `Err`: every further problem would be a guess.
    pub(crate) fn tree(&self) -> Result<(Table, Vec<Problem>), Vec<Problem>> {
        let mut tree = match &self.file {
            Some(path) => parse(&read(path)?, &path.display().to_string())?,
            None => Table::new(),
        };
        let mut problems = Vec::new();
        for (name, value) in &self.env {
            let place = Place {
                origin: name.to_string_lossy().into_owned(),
                line: None,
            };
            if let Err((key, wrong)) = overlay(&mut tree, &place, name, value) {
                problems.push(wrong.at(&place, &key, None));
            }
        }
        Ok((tree, problems))
    }
}

pub(crate) type Table = BTreeMap<String, Node>;

/// A key's value and where it was set.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub place: Place,
    pub data: Data,
    /// The text of the environment variable it came from: what was read as a TOML number may be
    /// meant as a string.
    pub raw: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Table(Table),
    Leaf(Leaf),
}

impl Data {
    pub fn show(&self) -> Option<String> {
        match self {
            Data::Table(_) => None,
            Data::Leaf(leaf) => Some(leaf.show()),
        }
    }
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    let fail = |line, message: String, remedy: &str| {
        let place = Place {
            origin: path.display().to_string(),
            line,
        };
        vec![Wrong::new(message, remedy).at(&place, "", None)]
    };
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = file {
        let remedy = "check the path and its permissions";
        return Err(fail(None, format!("cannot be read: {error}"), remedy));
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(fail(
            None,
            "is larger than 1 MiB".into(),
            "name a configuration file",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        fail(Some(line), "is not UTF-8".into(), "save the file as UTF-8")
    })
}

/// The tree of a TOML document; `Err` names every syntax error.
pub(crate) fn parse(text: &str, origin: &str) -> Result<Table, Vec<Problem>> {
    let lines = Lines::of(text);
    let place = |at: usize| Place {
        origin: origin.to_owned(),
        line: Some(lines.at(at)),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(convert_table(table.get_ref(), &place));
    }
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(text.len(), |span| span.start);
            // The library's message names the syntax, never a value: a value may be a secret.
            let message = format!("TOML syntax: {}", shorten(error.message()));
            Wrong::new(message, "correct the line").at(&place(at), "", None)
        })
        .collect();
    problems.dedup();
    Err(problems)
}

fn convert_table(table: &DeTable<'_>, place: &impl Fn(usize) -> Place) -> Table {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &toml::Spanned<std::borrow::Cow<'_, str>> = key;
        let data = match value.get_ref() {
            DeValue::Table(table) => Data::Table(convert_table(table, place)),
            leaf => Data::Leaf(convert_leaf(leaf, value.span().start, place)),
        };
        let node = Node {
            place: place(key.span().start),
            data,
            raw: None,
        };
        (key.get_ref().to_string(), node)
    };
    table.iter().map(entry).collect()
}

fn convert_leaf(value: &DeValue<'_>, at: usize, place: &impl Fn(usize) -> Place) -> Leaf {
    let scalar = match value {
        DeValue::String(text) => Scalar::Text(text.to_string()),
        DeValue::Integer(n) => match i128::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Scalar::Integer(n),
            Err(_) => Scalar::Other("too large a number", n.to_string()),
        },
        DeValue::Boolean(b) => Scalar::Boolean(*b),
        DeValue::Float(n) => Scalar::Other("a fractional number", n.to_string()),
        DeValue::Datetime(date) => Scalar::Other("a date", date.to_string()),
        DeValue::Table(_) => Scalar::Other("a table", "{...}".to_owned()),
        DeValue::Array(entries) => Scalar::List(
            entries
                .iter()
                .map(|entry| convert_leaf(entry.get_ref(), entry.span().start, place))
                .collect(),
        ),
    };
    Leaf {
        line: place(at).line,
        scalar,
    }
}

/// Lays one environment variable over the tree; an `Err` names the key, if there is one.
fn overlay(
    tree: &mut Table,
    place: &Place,
    name: &OsStr,
    value: &OsStr,
) -> Result<(), (String, Wrong)> {
    let keyless = |wrong| (String::new(), wrong);
    let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
        return Err(keyless(Wrong::new(
            "is not Unicode",
            "write its name and value in UTF-8",
        )));
    };
    let (parents, last) = env_key(name).map_err(keyless)?;
    let data = env_data(value, place);
    let node = Node {
        place: place.clone(),
        data,
        raw: Some(value.to_owned()),
    };
    merge(parent(tree, &parents, place)?, &last, node);
    Ok(())
}

/// The tables above the key that a variable names, and the key.
fn env_key(name: &str) -> Result<(Vec<String>, String), Wrong> {
    let upper = name.to_ascii_uppercase();
    if upper != name {
        return Err(Wrong::new("is not in capitals", format!("write {upper}")));
    }
    let path = name
        .strip_prefix(ENV_PREFIX)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut segments: Vec<String> = path.split("__").map(str::to_owned).collect();
    let usable = segments.len() <= ENV_DEPTH && !segments.iter().any(String::is_empty);
    match segments.pop() {
        Some(last) if usable => Ok((segments, last)),
        _ => Err(Wrong::new(
            "does not name a key",
            format!("write it like {ENV_PREFIX}LIMITS__MAX_CONNECTIONS"),
        )),
    }
}

/// The table at `parents`, made where it is missing.
fn parent<'t>(
    tree: &'t mut Table,
    parents: &[String],
    place: &Place,
) -> Result<&'t mut Table, (String, Wrong)> {
    let mut table = tree;
    let mut key = String::new();
    for parent in parents {
        key = join(&key, parent);
        let node = table.entry(parent.clone()).or_insert_with(|| Node {
            place: place.clone(),
            data: Data::Table(Table::new()),
            raw: None,
        });
        match &mut node.data {
            Data::Table(inner) => table = inner,
            Data::Leaf(leaf) => {
                let message = format!("cannot have keys, it is {} in {}", leaf.kind(), node.place);
                return Err((key, Wrong::new(message, "remove one of the two")));
            }
        }
    }
    Ok(table)
}

/// The value as TOML, or else as a string.
fn env_data(value: &str, place: &Place) -> Data {
    let here = |_| place.clone();
    match DeValue::parse(value) {
        Err(_) => Data::Leaf(Leaf::text(value)),
        Ok(parsed) => match parsed.get_ref() {
            DeValue::Table(table) => Data::Table(convert_table(table, &here)),
            leaf => Data::Leaf(convert_leaf(leaf, 0, &here)),
        },
    }
}

/// Tables merge; anything else replaces what was there.
fn merge(table: &mut Table, key: &str, node: Node) {
    match (table.get_mut(key).map(|old| &mut old.data), node.data) {
        (Some(Data::Table(old)), Data::Table(new)) => {
            for (key, node) in new {
                merge(old, &key, node);
            }
        }
        (_, data) => {
            table.insert(key.to_owned(), Node { data, ..node });
        }
    }
}

/// Byte offsets to line numbers.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Lines(
            text.bytes()
                .enumerate()
                .filter(|(_, b)| *b == b'\n')
                .map(|(at, _)| at)
                .collect(),
        )
    }

    /// The line, from 1, that holds the byte.
    fn at(&self, byte: usize) -> usize {
        1 + self.0.partition_point(|newline| *newline < byte)
    }
}
