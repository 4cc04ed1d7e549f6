//! Reading text files: bounded, and with the place of every line for errors and reports.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::ImportError;

/// A configuration file.
pub(super) const CONF_MAX: u64 = 1024 * 1024;
/// A password file, an ACL file or a dynamic security file.
pub(super) const DATA_MAX: u64 = 8 * 1024 * 1024;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) file: Arc<Path>,
    /// From 1.
    pub(super) line: usize,
}

/// A line without the white space at its end.
pub(super) struct Line {
    pub place: Place,
    pub text: String,
}

/// The whole file as UTF-8.
pub(super) fn read(path: &Path, max: u64) -> Result<String, ImportError> {
    let failed = |source| ImportError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(ImportError::TooLarge {
            path: path.to_owned(),
            max,
        });
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Place::new(path, line)
            .error("it is not UTF-8, which every name and topic of MQTT is; correct the line")
    })
}

/// All lines, comments and empty ones included.
pub(super) fn lines(path: &Path, max: u64) -> Result<Vec<Line>, ImportError> {
    let text = read(path, max)?;
    let file: Arc<Path> = path.into();
    let line = |(index, text): (usize, &str)| Line {
        place: Place {
            file: file.clone(),
            line: index + 1,
        },
        text: text.trim_end().to_owned(),
    };
    Ok(text.lines().enumerate().map(line).collect())
}

impl Place {
    pub fn new(path: &Path, line: usize) -> Place {
        Place {
            file: path.into(),
            line,
        }
    }

    pub fn error(&self, problem: impl Into<String>) -> ImportError {
        ImportError::Line {
            place: self.clone(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
