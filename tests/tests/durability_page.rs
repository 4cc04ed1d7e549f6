//! Does the page on durability name tests that exist? A promise whose test is gone is none.

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

#[test]
fn every_test_that_the_page_names_exists() {
    let page = include_str!("../../docs/durability.md");
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
    assert!(found >= 20, "only {found} tests are named");
    assert!(wrong.is_empty(), "not there: {wrong:#?}");
}
