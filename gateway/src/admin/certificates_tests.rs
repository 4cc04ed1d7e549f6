use super::*;
use crate::tls::testing::Authority;

const DAY: i64 = 86_400;

fn desk(slots: &[(&str, std::ops::Range<i64>)]) -> (CertificateDesk, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let ca = Authority::new("CA");
    let certificates = Certificates::new();
    for (slot, seconds) in slots {
        let pair = ca.valid(&["a.example.org"], seconds.clone());
        certificates.install(slot, pair.load().unwrap());
    }
    let store = CertificateStore::new(directory.path());
    (CertificateDesk::new(certificates, store), directory)
}

#[test]
fn a_certificate_that_was_not_renewed_in_time_is_a_problem_and_a_fresh_one_is_not() {
    for (seconds, problem) in [
        (-DAY..89 * DAY, None),
        (-75 * DAY..15 * DAY, None),
        (-77 * DAY..13 * DAY, Some("12 more days")),
        // Six days: renewed with two left, a problem with less than one.
        (-4 * DAY..2 * DAY, None),
        (-6 * DAY + 3_600..DAY - 3_600, Some("0 more days")),
        // A year: two weeks are enough to act, a sixth would be a nuisance.
        (-345 * DAY..20 * DAY, None),
        (-2 * DAY..-DAY, Some("expired")),
    ] {
        let (desk, _directory) = desk(&[("main", seconds.clone())]);
        let problems = desk.problems(SystemTime::now());
        match problem {
            None => assert_eq!(problems, [""; 0], "{seconds:?}"),
            Some(words) => assert!(problems[0].contains(words), "{seconds:?}: {problems:?}"),
        }
    }
}

#[test]
fn a_slot_with_nothing_but_a_problem_is_listed_with_it() {
    let (desk, _directory) = desk(&[("main", -DAY..9 * DAY)]);
    desk.certificates
        .set_problem("other", Some("no file".to_owned()));
    let Answer::Certificates { certificates } = desk.list() else {
        panic!("a list");
    };
    let listed: Vec<_> = certificates
        .iter()
        .map(|line| {
            (
                &*line.name,
                line.certificate.is_some(),
                line.problem.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        listed,
        [("main", true, None), ("other", false, Some("no file"))]
    );
    assert_eq!(
        desk.problems(SystemTime::now()),
        ["the certificate other: no file"]
    );
}

#[test]
fn dates_are_readable() {
    assert_eq!(date(0), "1970-01-01 00:00:00Z");
    assert_eq!(date(1_801_440_059), "2027-02-01 00:00:59Z");
    assert_eq!(date(i64::MAX), format!("{} s since 1970", i64::MAX));
}
