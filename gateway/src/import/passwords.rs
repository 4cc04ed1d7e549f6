//! `password_file`: names and hashes, one `NAME:HASH` on a line.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{self, DATA_MAX, Place};
use super::{Finding, ImportError, Kind};

pub(super) struct Entry {
    pub place: Place,
    pub hash: String,
}

pub(super) type Entries = BTreeMap<String, Entry>;

/// The entries by name. Lines that Mosquitto skips are skipped; what it would complain of becomes a finding.
pub(super) fn read(path: &Path, findings: &mut Vec<Finding>) -> Result<Entries, ImportError> {
    let mut entries = Entries::new();
    for line in files::lines(path, DATA_MAX)? {
        if line.text.starts_with('#') {
            continue;
        }
        let Some((name, rest)) = line.text.split_once(':') else {
            continue;
        };
        let (name, hash) = (
            name.trim(),
            rest.split(':').next().unwrap_or_default().trim(),
        );
        let remark = |kind, text: String| Finding::new(kind, Some(&line.place), text);
        if name.is_empty() || hash.is_empty() {
            let text =
                format!("the line of the user {name:?} has no name or no password: left out");
            findings.push(remark(Kind::Unmapped, text));
            continue;
        }
        let entry = Entry {
            place: line.place.clone(),
            hash: hash.to_owned(),
        };
        if entries.insert(name.to_owned(), entry).is_some() {
            let text = format!("the user {name:?} is there twice: its last password is taken");
            findings.push(remark(Kind::Differs, text));
        }
    }
    Ok(entries)
}
