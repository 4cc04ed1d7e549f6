//! The files of a Mosquitto: no text makes a reader panic, and what was read answers any question.
//!
//! The first byte says which file it is. The readers open files, so the text goes through one.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../gateway/src/import/acl_file.rs"]
mod acl_file;
#[allow(dead_code)]
#[path = "../../gateway/src/import/conf.rs"]
mod conf;
#[allow(dead_code)]
#[path = "../../gateway/src/import/dynsec.rs"]
mod dynsec;
#[allow(dead_code)]
#[path = "../../gateway/src/import/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../gateway/src/import/files.rs"]
mod files;
#[allow(dead_code)]
#[path = "../../gateway/src/import/meaning.rs"]
mod meaning;
#[allow(dead_code, unused_imports)]
#[path = "../../gateway/src/mqtt/mod.rs"]
mod mqtt;
#[allow(dead_code)]
#[path = "../../gateway/src/import/options.rs"]
mod options;
#[allow(dead_code)]
#[path = "../../gateway/src/import/passwords.rs"]
mod passwords;
#[allow(dead_code)]
#[path = "../../gateway/src/import/report.rs"]
mod report;

use acl_file::AclFile;
use conf::Conf;
use dynsec::Dynsec;
use error::ImportError;
use meaning::{Asker, Meaning};
use report::{Finding, Kind};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("postern-fuzz-import-{}", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else {
        return;
    };
    // An include_dir would lead to files that are no part of the input.
    if text.windows(11).any(|window| window == b"include_dir") {
        return;
    }
    std::fs::write(&*FILE, text).expect("the temporary directory is writable");
    let read = match kind % 4 {
        0 => Conf::read(&FILE).map(|conf| {
            let _ = conf.chosen(&FILE, None);
            None
        }),
        1 => AclFile::read(&FILE).map(|acl| Some(Meaning::AclFile(acl))),
        2 => Dynsec::read(&FILE).map(|dynsec| Some(Meaning::Dynsec(dynsec))),
        _ => passwords::read(&FILE, &mut Vec::new()).map(|_| None),
    };
    let meaning = match read {
        Ok(Some(meaning)) => meaning,
        Ok(None) => return,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    for name in [None, Some("ann"), Some("a/b"), Some("+")] {
        let who = Asker {
            name,
            client_id: "c%u",
        };
        for topic in ["a", "a/b", "$SYS/x", "$CONTROL/x", "/", "ann"] {
            meaning.publish(who, topic);
            meaning.receive(who, topic);
            meaning.subscribe(who, topic);
        }
        meaning.subscribe(who, "a/+/#");
    }
});
