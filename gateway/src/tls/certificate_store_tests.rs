use std::os::unix::fs::PermissionsExt;

use super::super::testing::{Authority, Pair, write};
use super::*;

struct Data {
    directory: tempfile::TempDir,
    store: CertificateStore,
    ca: Authority,
}

impl Data {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            store: CertificateStore::new(directory.path()),
            directory,
            ca: Authority::new("CA"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("certificates/main").join(name)
    }

    /// Saves a new pair and gives its pin.
    fn save(&self) -> [u8; 32] {
        let Pair { chain, key } = self.ca.ecdsa(&["a.example.org"]);
        let saved = self.store.save("main", &chain, &key).unwrap();
        saved.spki_sha256()
    }

    fn current(&self) -> Option<[u8; 32]> {
        let loaded = self.store.load("main").unwrap();
        loaded.map(|certificate| certificate.spki_sha256())
    }

    fn previous(&self) -> Option<[u8; 32]> {
        let loaded = self.store.previous("main").unwrap();
        loaded.map(|certificate| certificate.spki_sha256())
    }
}

#[test]
fn a_saved_pair_is_loaded_again_and_the_one_before_is_kept() {
    let data = Data::new();
    assert_eq!(data.current(), None);
    assert_eq!(data.store.slots().unwrap(), [""; 0]);
    let first = data.save();
    assert_eq!((data.current(), data.previous()), (Some(first), None));
    let second = data.save();
    assert_eq!(
        (data.current(), data.previous()),
        (Some(second), Some(first))
    );
    let third = data.save();
    assert_eq!(
        (data.current(), data.previous()),
        (Some(third), Some(second))
    );
    assert_eq!(data.store.slots().unwrap(), ["main"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data.file("")), 0o700);
    for name in ["pair.pem", "previous.pem"] {
        assert_eq!(mode(&data.file(name)), 0o600, "{name}");
    }
}

#[test]
fn a_rollback_exchanges_the_two_and_a_second_one_undoes_it() {
    let data = Data::new();
    let missing = data.store.rollback("main").unwrap_err();
    assert!(matches!(missing, TlsError::NoPrevious { .. }), "{missing}");
    let first = data.save();
    assert!(data.store.rollback("main").is_err());
    let second = data.save();
    for (current, previous) in [(first, second), (second, first)] {
        let certificate = data.store.rollback("main").unwrap();
        assert_eq!(certificate.spki_sha256(), current);
        assert_eq!(
            (data.current(), data.previous()),
            (Some(current), Some(previous))
        );
        assert!(!data.file("aside.pem").exists());
    }
}

#[test]
fn a_rollback_that_stands_is_recognised_by_the_age_of_the_two() {
    let data = Data::new();
    for start in [-3_600, -1_800] {
        let Pair { chain, key } = data.ca.valid(&["a.example.org"], start..86_400);
        data.store.save("main", &chain, &key).unwrap();
        assert!(!data.store.is_rolled_back("main").unwrap());
    }
    data.store.rollback("main").unwrap();
    assert!(data.store.is_rolled_back("main").unwrap());
    let Pair { chain, key } = data.ca.valid(&["a.example.org"], -900..86_400);
    data.store.save("main", &chain, &key).unwrap();
    assert!(!data.store.is_rolled_back("main").unwrap());
}

#[test]
fn a_rollback_that_was_cut_short_anywhere_lost_nothing_and_can_be_done_again() {
    // What is on disk after each step: the present pair, the previous one, the one put aside.
    let cases: [(&[&str], bool); 3] = [
        (
            &["pair.pem=second", "previous.pem=first", "aside.pem=second"],
            false,
        ),
        (&["pair.pem=first", "aside.pem=second"], true),
        (&["pair.pem=first", "previous.pem=second"], true),
    ];
    for (files, rolled_back) in cases {
        let data = Data::new();
        let (first, second) = (data.save(), data.save());
        let text = |name| fs::read_to_string(data.file(name)).unwrap();
        let (text_first, text_second) = (text("previous.pem"), text("pair.pem"));
        fs::remove_file(data.file("previous.pem")).unwrap();
        for file in files {
            let (name, which) = file.split_once('=').unwrap();
            let text = if which == "first" {
                &text_first
            } else {
                &text_second
            };
            write(&data.file(name), text);
        }
        let (now, before) = if rolled_back {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!((data.current(), data.previous()), (Some(now), Some(before)));
        data.store.rollback("main").unwrap();
        assert_eq!((data.current(), data.previous()), (Some(before), Some(now)));
        let third = data.save();
        assert_eq!(
            (data.current(), data.previous()),
            (Some(third), Some(before))
        );
        assert!(!data.file("aside.pem").exists());
    }
}

#[test]
fn what_cannot_be_served_is_not_saved() {
    let data = Data::new();
    let first = data.save();
    let (one, other) = (
        data.ca.ecdsa(&["a.example.org"]),
        data.ca.ecdsa(&["a.example.org"]),
    );
    let expired = data.ca.valid(&["a.example.org"], -7_200..-3_600);
    for (chain, key) in [
        (&one.chain, &other.key),
        (&expired.chain, &expired.key),
        (&one.key, &one.key),
        (&String::new(), &one.key),
    ] {
        assert!(data.store.save("main", chain, key).is_err());
    }
    assert_eq!((data.current(), data.previous()), (Some(first), None));
}

#[test]
fn an_expired_certificate_is_not_rolled_back_to() {
    let data = Data::new();
    data.save();
    let second = data.save();
    let Pair { chain, key } = data.ca.valid(&["a.example.org"], -7_200..-3_600);
    write(&data.file("previous.pem"), &format!("{key}{chain}"));
    let error = data.store.rollback("main").unwrap_err();
    assert!(matches!(error, TlsError::NotValid { .. }), "{error}");
    assert_eq!(data.current(), Some(second));
}

#[test]
fn a_slot_s_name_never_leaves_the_directory() {
    let data = Data::new();
    for name in [
        "",
        ".",
        "..",
        "../tls",
        "a/b",
        "/etc",
        "A",
        "1a",
        "a\0",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ] {
        for result in [data.store.load(name), data.store.previous(name)] {
            assert!(matches!(result, Err(TlsError::Slot { .. })), "{name:?}");
        }
        assert!(data.store.rollback(name).is_err());
        assert!(data.store.private_key(name).is_err());
    }
}

#[test]
fn the_files_of_a_backup_are_those_of_the_slots_and_no_other_path_passes_for_one() {
    let data = Data::new();
    assert_eq!(data.store.files().unwrap(), [""; 0]);
    data.save();
    assert_eq!(data.store.files().unwrap(), ["certificates/main/pair.pem"]);
    data.save();
    let files = data.store.files().unwrap();
    assert_eq!(
        files,
        [
            "certificates/main/pair.pem",
            "certificates/main/previous.pem"
        ]
    );
    assert!(files.iter().all(|file| CertificateStore::is_file(file)));
    for path in [
        "certificates/main",
        "certificates/main/other.pem",
        "certificates/../pair.pem",
        "certificates//pair.pem",
        "/certificates/main/pair.pem",
        "certificates/main/../../secret.key",
        "tls/main/pair.pem",
        "certificates/main/x/pair.pem",
    ] {
        assert!(!CertificateStore::is_file(path), "{path}");
    }
}

#[test]
fn the_private_key_is_given_in_pem_and_never_shown() {
    let data = Data::new();
    assert!(data.store.private_key("main").unwrap().is_none());
    let pair = data.ca.rsa(&["a.example.org"]);
    data.store.save("main", &pair.chain, &pair.key).unwrap();
    let key = data.store.private_key("main").unwrap().unwrap();
    assert_eq!(key.expose().trim(), pair.key.trim());
    assert!(!format!("{key:?}").contains("PRIVATE"));
}

#[test]
fn a_pair_that_others_can_read_is_shut_again() {
    let data = Data::new();
    data.save();
    let file = data.file("pair.pem");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    data.current();
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_pair_that_is_saved_twice_costs_the_one_before_it_nothing() {
    let data = Data::new();
    let first = data.save();
    let Pair { chain, key } = data.ca.ecdsa(&["a.example.org"]);
    for _ in 0..2 {
        let saved = data.store.save("main", &chain, &key).unwrap();
        assert_eq!(data.current(), Some(saved.spki_sha256()));
        assert_eq!(data.previous(), Some(first));
    }
}
