use std::path::PathBuf;

use super::super::testing::{Authority, Pair, write};
use super::*;

struct Files {
    directory: tempfile::TempDir,
    files: CertificateFiles,
    certificates: Arc<Certificates>,
    ca: Authority,
    clock: Instant,
}

impl Files {
    /// One slot, `a`, that serves a certificate of these names.
    fn started(names: &[&str]) -> Self {
        let certificates = Certificates::new();
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
            files: CertificateFiles::new(Arc::clone(&certificates)),
            certificates,
            ca: Authority::new("CA"),
            clock: Instant::now(),
        };
        this.write(&this.ca.ecdsa(names));
        this.files.start(this.sources()).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sources(&self) -> BTreeMap<String, CertificateSource> {
        let source = CertificateSource::files(self.path("a.pem"), self.path("a.key"));
        BTreeMap::from([("a".to_owned(), source)])
    }

    fn write(&self, pair: &Pair) {
        write(&self.path("a.key"), &pair.key);
        write(&self.path("a.pem"), &pair.chain);
    }

    /// A look that many seconds after the last one.
    fn look_after(&mut self, seconds: u64) -> Changes {
        self.clock += Duration::from_secs(seconds);
        self.files.look(self.clock)
    }

    fn pin(&self) -> [u8; 32] {
        self.certificates.get("a").unwrap().spki_sha256()
    }

    fn problem(&self) -> Option<String> {
        self.certificates.problems().remove("a")
    }
}

const NOTHING: Changes = Changes {
    installed: 0,
    rejected: 0,
};
const INSTALLED: Changes = Changes {
    installed: 1,
    rejected: 0,
};
const REJECTED: Changes = Changes {
    installed: 0,
    rejected: 1,
};

#[test]
fn files_that_change_are_served_and_those_that_do_not_are_left_alone() {
    let mut files = Files::started(&["a.example.org"]);
    let before = files.pin();
    assert_eq!(files.look_after(1), NOTHING);
    files.write(&files.ca.rsa(&["a.example.org"]));
    assert_eq!(files.look_after(1), INSTALLED);
    assert_ne!(files.pin(), before);
    assert_eq!(files.look_after(1), NOTHING);
    // Touched, and the same as before.
    let text = std::fs::read_to_string(files.path("a.pem")).unwrap();
    write(&files.path("a.pem"), &text);
    assert_eq!(files.look_after(1), NOTHING);
}

#[test]
fn a_symbolic_link_that_is_replaced_on_the_way_is_seen() {
    let mut files = Files::started(&["a.example.org"]);
    for version in ["1", "2"] {
        let archive = files.path(version);
        std::fs::create_dir(&archive).unwrap();
        let pair = files.ca.ecdsa(&["a.example.org"]);
        write(&archive.join("a.key"), &pair.key);
        write(&archive.join("a.pem"), &pair.chain);
        for name in ["a.key", "a.pem"] {
            let link = files.path("link");
            std::os::unix::fs::symlink(archive.join(name), &link).unwrap();
            std::fs::rename(&link, files.path(name)).unwrap();
        }
        assert_eq!(files.look_after(1), INSTALLED, "version {version}");
    }
}

#[test]
fn a_pair_that_is_half_written_is_waited_for_without_a_word() {
    let mut files = Files::started(&["a.example.org"]);
    let new = files.ca.ecdsa(&["a.example.org"]);
    let before = files.pin();
    write(&files.path("a.pem"), &new.chain);
    assert_eq!(files.look_after(1), NOTHING);
    assert_eq!((files.pin(), files.problem()), (before, None));
    assert_eq!(files.look_after(2), NOTHING);
    write(&files.path("a.key"), &new.key);
    assert_eq!(files.look_after(1), INSTALLED);
    assert_eq!(
        (files.pin(), files.problem()),
        (new.load().unwrap().spki_sha256(), None)
    );
}

#[test]
fn a_bad_pair_that_stays_is_told_once_and_the_old_one_stays() {
    let mut files = Files::started(&["a.example.org"]);
    let before = files.pin();
    let (one, other) = (
        files.ca.ecdsa(&["a.example.org"]),
        files.ca.ecdsa(&["a.example.org"]),
    );
    let expired = files.ca.valid(&["a.example.org"], -7_200..-3_600);
    let mismatch = Pair {
        chain: one.chain.clone(),
        key: other.key,
    };
    for (bad, problem) in [(&mismatch, "does not belong"), (&expired, "expired")] {
        files.write(bad);
        assert_eq!(files.look_after(1), NOTHING);
        assert_eq!(files.look_after(5), REJECTED);
        assert!(files.problem().unwrap().contains(problem));
        for _ in 0..3 {
            assert_eq!(files.look_after(60), NOTHING);
        }
        assert_eq!(files.pin(), before);
    }
    files.write(&one);
    assert_eq!(files.look_after(1), INSTALLED);
    assert_eq!(files.problem(), None);
}

#[test]
fn a_file_that_vanishes_is_a_problem_until_it_is_back() {
    let mut files = Files::started(&["a.example.org"]);
    let before = files.pin();
    std::fs::rename(files.path("a.key"), files.path("b.key")).unwrap();
    assert_eq!(files.look_after(1), NOTHING);
    assert_eq!(files.look_after(6), REJECTED);
    assert!(files.problem().unwrap().contains("a.key"));
    std::fs::rename(files.path("b.key"), files.path("a.key")).unwrap();
    assert_eq!(files.look_after(1), NOTHING);
    assert_eq!((files.problem(), files.pin()), (None, before));
}

#[test]
fn a_reload_takes_all_sources_or_none() {
    let files = Files::started(&["a.example.org"]);
    let before = files.pin();
    let mut sources = files.sources();
    let missing = CertificateSource::files(files.path("b.pem"), files.path("b.key"));
    sources.insert("b".to_owned(), missing);
    files.write(&files.ca.ecdsa(&["a.example.org"]));
    assert!(files.files.reload(sources.clone()).is_err());
    assert_eq!(files.pin(), before);
    assert_eq!(files.certificates.slots().len(), 1);

    let pair = files.ca.rsa(&["b.example.org"]);
    write(&files.path("b.key"), &pair.key);
    write(&files.path("b.pem"), &pair.chain);
    files.files.reload(sources).unwrap();
    assert_ne!(files.pin(), before);
    assert_eq!(files.certificates.slots().len(), 2);

    files.files.reload(files.sources()).unwrap();
    assert_eq!(files.certificates.slots().len(), 1);
}

#[test]
fn a_certificate_that_expired_while_it_was_served_does_not_stop_a_reload() {
    let files = Files::started(&["a.example.org"]);
    files.write(&files.ca.valid(&["a.example.org"], -7_200..-3_600));
    let error = files.files.reload(files.sources()).unwrap_err();
    assert!(matches!(error, TlsError::NotValid { .. }), "{error}");
    files.files.start(files.sources()).unwrap();
    files.files.reload(files.sources()).unwrap();
}

#[test]
fn a_pair_that_was_refused_is_served_once_it_can_be_though_its_files_stay_as_they_are() {
    let mut files = Files::started(&["a.example.org"]);
    files.write(&files.ca.valid(&["a.example.org"], 3..86_400));
    assert_eq!(files.look_after(1), NOTHING);
    assert_eq!(files.look_after(60), REJECTED, "its validity begins later");
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match files.look_after(1) {
            INSTALLED => break,
            changes => assert_eq!(changes, NOTHING, "it is told once"),
        }
        assert!(Instant::now() < deadline, "it is never read again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(files.problem(), None);
}
