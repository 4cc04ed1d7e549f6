//! Do the pages on durability and on the door name tests that exist? A promise whose test is gone is none.

use std::path::Path;

/// The sources of the suite of this name: a file, or the files of a folder.
fn suite(name: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = std::fs::read_dir(tests.join(name)).into_iter().flatten();
    let files = folder.filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.chain([tests.join(name).with_extension("rs")]);
    files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect()
}

/// How many tests a page names; fails if one of them does not exist.
fn check(page: &str) -> usize {
    let (mut found, mut wrong) = (0, Vec::new());
    let mut last = String::new();
    for name in page.split('`').skip(1).step_by(2) {
        // `::test` is another one of the suite named before.
        let Some((suite_name, test)) = name.split_once("::") else {
            continue;
        };
        if !suite_name.is_empty() {
            last = suite_name.to_owned();
        }
        found += 1;
        if !suite(&last).contains(&format!("fn {test}(")) {
            wrong.push(format!("{last}::{test}"));
        }
    }
    assert!(wrong.is_empty(), "not there: {wrong:#?}");
    found
}

#[test]
fn every_test_that_the_pages_name_exists() {
    let durability = check(include_str!("../../docs/durability.md"));
    assert!(durability >= 20, "only {durability} tests are named");
    let door = check(include_str!("../../docs/door.md"));
    assert!(door >= 10, "only {door} tests are named");
}
