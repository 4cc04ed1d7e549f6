//! Does the conformance page tell the truth? Each numbered statement of MQTT 5.0 is on it once, and each test it names
//! exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many statements each section of the specification has, from its Appendix B.
const SECTIONS: [(&str, u32); 56] = [
    ("1.5.4", 3),
    ("1.5.5", 1),
    ("1.5.7", 1),
    ("2.1.3", 1),
    ("2.2.1", 6),
    ("2.2.2", 1),
    ("3.1.0", 2),
    ("3.1.2", 30),
    ("3.1.3", 12),
    ("3.1.4", 6),
    ("3.2.0", 2),
    ("3.2.2", 22),
    ("3.3.1", 13),
    ("3.3.2", 20),
    ("3.3.4", 10),
    ("3.4.2", 3),
    ("3.5.2", 3),
    ("3.6.1", 1),
    ("3.6.2", 3),
    ("3.7.2", 3),
    ("3.8.1", 1),
    ("3.8.3", 5),
    ("3.8.4", 8),
    ("3.9.2", 2),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.11.2", 2),
    ("3.11.3", 2),
    ("3.12.4", 1),
    ("3.14.0", 1),
    ("3.14.1", 1),
    ("3.14.2", 4),
    ("3.14.4", 3),
    ("3.15.1", 1),
    ("3.15.2", 3),
    ("4.1.0", 2),
    ("4.2.0", 1),
    ("4.3.1", 1),
    ("4.3.2", 5),
    ("4.3.3", 13),
    ("4.4.0", 2),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.0", 1),
    ("4.7.1", 2),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.2", 6),
    ("4.9.0", 3),
    ("4.12.0", 7),
    ("4.12.1", 2),
    ("4.13.1", 1),
    ("4.13.2", 1),
    ("6.0.0", 4),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .into()
}

/// The rows of the page's tables: statements, state, proof.
fn rows() -> Vec<(String, String, String)> {
    let page = std::fs::read_to_string(root().join("docs/conformance.md")).expect("the page");
    let mut rows = Vec::new();
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| statement"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [statements, _, state, proof] = cells[..] else {
            panic!("not four cells: {line}");
        };
        rows.push((statements.into(), state.into(), proof.into()));
    }
    rows
}

/// `1.5.4-1, -3 to -5` one by one.
fn statements(cell: &str) -> Vec<(String, u32)> {
    let mut list: Vec<(String, u32)> = Vec::new();
    for part in cell.split(", ") {
        let (first, last) = part.split_once(" to -").unwrap_or((part, ""));
        let (section, first) = first.rsplit_once('-').expect("a number behind a hyphen");
        let section = match (section, list.last()) {
            ("", Some((section, _))) => section.clone(),
            (section, _) => section.to_owned(),
        };
        let first: u32 = first.parse().expect("a number");
        let last = last.parse().unwrap_or(first);
        list.extend((first..=last).map(|n| (section.clone(), n)));
    }
    list
}

#[test]
fn every_statement_stands_on_the_page_once() {
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (cell, ..) in rows() {
        for (section, n) in statements(&cell) {
            found.entry(section).or_default().push(n);
        }
    }
    for (section, count) in SECTIONS {
        // The specification has no 2.2.1-1.
        let first = if section == "2.2.1" { 2 } else { 1 };
        let mut numbers = found.remove(section).unwrap_or_default();
        numbers.sort_unstable();
        let wanted: Vec<u32> = (first..=count).collect();
        assert_eq!(numbers, wanted, "section {section}");
    }
    assert!(found.is_empty(), "unknown sections: {found:?}");
}

/// The sources of a suite: the files of this name, or the files in the folder of this name.
fn suite(name: &str) -> String {
    let root = root();
    let tests = root.join("tests/tests");
    let mut files = vec![
        tests.join("mqtt5").join(name).with_extension("rs"),
        tests.join(name).with_extension("rs"),
        root.join("gateway/src/mqtt/tests")
            .join(name)
            .with_extension("rs"),
    ];
    let folder = std::fs::read_dir(tests.join(name)).into_iter().flatten();
    files.extend(folder.filter_map(|entry| Some(entry.ok()?.path())));
    let text = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
    files.into_iter().map(text).collect()
}

#[test]
fn every_proof_exists() {
    let mut wrong = Vec::new();
    for (statements, state, proof) in rows() {
        if proof.is_empty() && state.starts_with("met") {
            wrong.push(format!("{statements} is met without a proof"));
        }
        for name in proof.split('`').skip(1).step_by(2) {
            let exists = match name.split_once("::") {
                _ if name.contains('/') => root().join(name).is_file(),
                Some((file, test)) => suite(file).contains(&format!("fn {test}(")),
                None => !suite(name).is_empty(),
            };
            if !exists {
                wrong.push(format!("{statements}: no {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
