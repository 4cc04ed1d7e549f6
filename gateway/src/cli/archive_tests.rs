use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn part(name: &str) -> Part {
    Part::named(name).unwrap()
}

fn packed(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, contents) in parts {
        writer.begin(&part(name), contents.len() as u64).unwrap();
        contents
            .chunks(7)
            .for_each(|piece| writer.write(piece).unwrap());
    }
    writer.finish().unwrap().0
}

fn unpacked(archive: &[u8]) -> (TempDir, Result<Manifest, String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("archive");
    fs::write(&file, archive).unwrap();
    fs::create_dir_all(folder.path().join("into")).unwrap();
    let outcome = unpack(&file, &folder.path().join("into"), None);
    (folder, outcome)
}

fn refusal(archive: &[u8]) -> String {
    unpacked(archive).1.expect_err("is refused")
}

/// An archive with one entry as anybody could make it.
fn foreign(name: &str, kind: EntryType, contents: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    // `set_path` would refuse what is tried here.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(contents.len() as u64);
    header.set_mode(0o777);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(contents);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

#[test]
fn what_is_packed_comes_back_with_its_mode() {
    let large = vec![7; 3 * PIECE + 5];
    let archive = packed(&[
        ("accounts.db", &large),
        ("tls/ca.pem", b"x"),
        ("first-account", b""),
    ]);
    let (folder, manifest) = unpacked(&archive);
    let manifest = manifest.unwrap();
    assert_eq!(manifest.parts.len(), 3);
    assert_eq!(manifest.version, env!("CARGO_PKG_VERSION"));
    let into = folder.path().join("into");
    assert_eq!(fs::read(into.join("accounts.db")).unwrap(), large);
    assert_eq!(fs::read(into.join("first-account")).unwrap(), b"");
    let mode = |name| fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("accounts.db"), mode("tls/ca.pem")), (0o600, 0o644));
}

#[test]
fn other_programs_read_the_archive() {
    let archive = packed(&[("accounts.db", b"12345"), ("tls/ca.pem", &[1; 512])]);
    let mut read = Archive::new(&archive[..]);
    let entries: Vec<(PathBuf, u64)> = read
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path().unwrap().into_owned(), entry.size()))
        .collect();
    assert_eq!(entries[0], ("accounts.db".into(), 5));
    assert_eq!(entries[1], ("tls/ca.pem".into(), 512));
    assert_eq!(entries[2].0, PathBuf::from(MANIFEST));
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let archive = packed(&[("accounts.db", &[1; 700]), ("secret.key", b"key")]);
    // Behind the manifest there is only the end mark.
    let end = archive.len() - 1024 - 512;
    for length in (0..end).step_by(97) {
        refusal(&archive[..length]);
    }
    assert!(unpacked(&archive).1.is_ok());
}

#[test]
fn an_archive_with_a_changed_byte_is_refused() {
    let archive = packed(&[("accounts.db", &[1; 700]), ("secret.key", b"key")]);
    for place in [520, 512 + 699, 512 + 1024 + 512] {
        let mut damaged = archive.clone();
        damaged[place] ^= 1;
        let problem = refusal(&damaged);
        assert!(problem.contains("damaged"), "{place}: {problem}");
    }
}

#[test]
fn what_no_backup_holds_is_refused_and_nothing_is_written_outside() {
    for (name, kind) in [
        ("../accounts.db", EntryType::Regular),
        ("/tmp/accounts.db", EntryType::Regular),
        ("tls/../../accounts.db", EntryType::Regular),
        ("./accounts.db", EntryType::Regular),
        ("lock", EntryType::Regular),
        ("accounts.db-wal", EntryType::Regular),
        ("accounts.db", EntryType::Symlink),
        ("accounts.db", EntryType::Link),
        ("tls", EntryType::Directory),
        ("accounts.db", EntryType::GNUSparse),
        ("x", EntryType::GNULongName),
        ("x", EntryType::XHeader),
    ] {
        let (folder, outcome) = unpacked(&foreign(name, kind, b"evil"));
        let problem = outcome.expect_err(name);
        assert!(
            problem.contains("does not belong") || problem.contains("not a plain file"),
            "{name}: {problem}"
        );
        let mut left = walk(folder.path());
        left.retain(|path| !path.ends_with("archive"));
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn two_entries_of_one_name_or_one_after_the_manifest_are_refused() {
    let one = packed(&[("secret.key", b"key")]);
    // The first entry, without the manifest.
    let mut twice = one[..1024].to_vec();
    twice.extend_from_slice(&one);
    assert!(
        refusal(&twice).contains("cannot be unpacked"),
        "the file is there already"
    );
    let mut after = one[..one.len() - 1024].to_vec();
    after.extend_from_slice(&foreign("first-account", EntryType::Regular, b"x"));
    assert!(refusal(&after).contains("follows the manifest"));
}

#[test]
fn large_keys_and_manifests_are_refused_unread() {
    let header = |name: &str, size: u64| {
        let mut archive = foreign(name, EntryType::Regular, b"");
        let mut header = Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&archive[..512]);
        header.set_size(size);
        header.set_cksum();
        archive[..512].copy_from_slice(header.as_bytes());
        archive
    };
    for name in ["secret.key", MANIFEST] {
        let problem = refusal(&header(name, 1 << 40));
        assert!(problem.contains("far too many"), "{problem}");
    }
}

#[test]
fn a_newer_form_is_refused_with_the_remedy() {
    let manifest = br#"{"format":2,"news":true}"#;
    let problem = refusal(&foreign(MANIFEST, EntryType::Regular, manifest));
    assert!(
        problem.contains("the form 2") && problem.contains("use the version"),
        "{problem}"
    );
}

#[test]
fn a_part_must_be_as_long_as_announced() {
    let mut writer = Writer::new(Vec::new());
    writer.begin(&part("secret.key"), 3).unwrap();
    writer.write(b"ab").unwrap();
    assert!(writer.write(b"cd").is_err());
    assert!(writer.finish().is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_changed_is_refused_or_changes_no_part(
        changes in proptest::collection::vec((0..6144usize, proptest::num::u8::ANY), 1..4),
        cut in proptest::option::of(0..6144usize),
    ) {
        let parts: [(&str, &[u8]); 2] = [("accounts.db", &[1; 700]), ("tls/ca.pem", b"certificate")];
        let mut archive = packed(&parts);
        for (place, value) in changes {
            let length = archive.len();
            archive[place % length] = value;
        }
        archive.truncate(cut.unwrap_or(archive.len()));
        let (folder, outcome) = unpacked(&archive);
        if outcome.is_ok() {
            for (name, contents) in parts {
                let path = folder.path().join("into").join(name);
                proptest::prop_assert_eq!(&fs::read(path).unwrap()[..], contents);
            }
        }
    }
}
