//! What would be on the disk if the power had failed at this moment? Reads what the shim recorded, and makes files of
//! its beginning: what was synced is there, and of the rest what a disk may have kept.

use std::path::Path;

/// A sector: what a disk writes whole or not at all.
const SECTOR: usize = 512;
const HEAD: usize = 24;
const NAMES: [&str; 2] = ["messages.db", "messages.db-wal"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Write,
    Sync,
    Truncate,
    Unlink,
}

#[derive(Debug, Clone)]
pub struct Change {
    pub kind: Kind,
    /// 0: messages.db, 1: messages.db-wal.
    pub file: usize,
    place: usize,
    bytes: Vec<u8>,
    /// Bytes of the log up to and including this entry.
    pub end: u64,
}

/// What becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is gone.
    All,
    /// Each write is there or not.
    Writes,
    /// Each sector is there or not.
    Sectors,
}

/// Everything that was written to the message store, in order.
pub struct WriteLog(pub Vec<Change>);

impl WriteLog {
    /// Reads the log. A last entry that is not whole is left out: its call had not returned.
    pub fn read(path: &Path) -> Self {
        let log = std::fs::read(path).expect("the shim wrote a log");
        let mut changes = Vec::new();
        let mut at = 0;
        while let Some(head) = log.get(at..at + HEAD) {
            let number = |from: usize| {
                let bytes = head[from..from + 8].try_into().expect("eight bytes");
                u64::from_ne_bytes(bytes) as usize
            };
            let (place, length) = (number(8), number(16));
            let Some(bytes) = log.get(at + HEAD..at + HEAD + length) else {
                break;
            };
            at += HEAD + length;
            changes.push(Change {
                kind: match head[0] {
                    b'W' => Kind::Write,
                    b'S' => Kind::Sync,
                    b'T' => Kind::Truncate,
                    b'U' => Kind::Unlink,
                    other => panic!("the log of writes holds {other:#04x}"),
                },
                file: usize::from(head[1]),
                place,
                bytes: bytes.to_vec(),
                end: at as u64,
            });
        }
        Self(changes)
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|change| change.kind == kind).count()
    }

    /// Writes into `dir` the files as a power failure after the first `changes` entries could leave them. `chance`
    /// decides with each call whether a write or sector that was not synced is there.
    pub fn replay(&self, changes: usize, loss: Loss, dir: &Path, mut chance: impl FnMut() -> bool) {
        for (file, name) in NAMES.iter().enumerate() {
            let mut content: Option<Vec<u8>> = None;
            let part = &self.0[..changes];
            let synced = part
                .iter()
                .rposition(|c| c.file == file && c.kind == Kind::Sync);
            for (place, change) in part.iter().enumerate().filter(|(_, c)| c.file == file) {
                let safe = synced.is_some_and(|synced| place < synced);
                match change.kind {
                    Kind::Write => {
                        let kept = kept(change, safe, loss, &mut chance);
                        let content = content.get_or_insert_default();
                        for (start, bytes) in kept {
                            let end = start + bytes.len();
                            if content.len() < end {
                                content.resize(end, 0);
                            }
                            content[start..end].copy_from_slice(bytes);
                        }
                    }
                    Kind::Truncate if safe || (loss != Loss::All && chance()) => {
                        content.get_or_insert_default().resize(change.place, 0);
                    }
                    Kind::Unlink => content = None,
                    Kind::Truncate | Kind::Sync => {}
                }
            }
            if let Some(content) = content {
                std::fs::write(dir.join(name), content).expect("the file can be written");
            }
        }
    }
}

/// The parts of a write that are on the disk, with their places.
fn kept<'a>(
    change: &'a Change,
    safe: bool,
    loss: Loss,
    chance: &mut impl FnMut() -> bool,
) -> Vec<(usize, &'a [u8])> {
    let (place, bytes) = (change.place, &change.bytes[..]);
    if safe {
        return vec![(place, bytes)];
    }
    match loss {
        Loss::All => Vec::new(),
        Loss::Writes => Vec::from_iter(chance().then_some((place, bytes))),
        Loss::Sectors => {
            let mut parts = Vec::new();
            let mut from = 0;
            while from < bytes.len() {
                // Sectors begin where the file says, not where the write does.
                let to = (from + SECTOR - (place + from) % SECTOR).min(bytes.len());
                if chance() {
                    parts.push((place + from, &bytes[from..to]));
                }
                from = to;
            }
            parts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, place: usize, bytes: &[u8]) -> Change {
        Change {
            kind,
            file: 1,
            place,
            bytes: bytes.to_vec(),
            end: 0,
        }
    }

    fn content(log: &WriteLog, changes: usize, loss: Loss, chance: bool) -> Option<Vec<u8>> {
        let dir = tempfile::TempDir::new().unwrap();
        log.replay(changes, loss, dir.path(), || chance);
        std::fs::read(dir.path().join(NAMES[1])).ok()
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_goes_as_asked() {
        let log = WriteLog(vec![
            change(Kind::Write, 0, b"safe"),
            change(Kind::Sync, 0, b""),
            change(Kind::Write, 2, &[b'x'; 1000]),
            change(Kind::Truncate, 1, b""),
            change(Kind::Unlink, 0, b""),
        ]);
        assert_eq!(content(&log, 0, Loss::All, true), None);
        assert_eq!(content(&log, 3, Loss::All, true).unwrap(), b"safe");
        let all = content(&log, 3, Loss::Sectors, true).unwrap();
        assert_eq!((all.len(), &all[..3]), (1002, &b"sax"[..]));
        assert_eq!(content(&log, 3, Loss::Writes, false).unwrap(), b"safe");
        assert_eq!(content(&log, 4, Loss::Writes, true).unwrap(), b"s");
        assert_eq!(content(&log, 5, Loss::All, true), None);
    }

    #[test]
    fn sectors_are_torn_at_their_boundaries_in_the_file() {
        let log = WriteLog(vec![change(Kind::Write, 500, &[b'x'; 100])]);
        let dir = tempfile::TempDir::new().unwrap();
        let mut turn = false;
        log.replay(1, Loss::Sectors, dir.path(), || {
            turn = !turn;
            turn
        });
        let file = std::fs::read(dir.path().join(NAMES[1])).unwrap();
        assert_eq!(
            (file.len(), file[499], file[500], file[511]),
            (512, 0, b'x', b'x')
        );
    }
}
