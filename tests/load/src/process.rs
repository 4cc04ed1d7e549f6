//! What did the server cost: how much CPU, how much memory?
//!
//! Reads the server's (and the generator's own) figures from the proc file system. It measures a process that already
//! runs; starting and stopping servers is left to `tests/load/compare`.

use crate::error::LoadError;
use std::fs;
use std::path::PathBuf;

/// A running process on this machine.
#[derive(Clone, Copy)]
pub struct Process {
    id: Option<u32>,
    ticks_per_second: u64,
}

impl Process {
    /// The process `id`, checked to be readable.
    ///
    /// # Errors
    /// [`LoadError::Process`] if there is no such process or its figures may not be read.
    pub fn other(id: u32) -> Result<Self, LoadError> {
        let process = Self {
            id: Some(id),
            ticks_per_second: ticks_per_second(),
        };
        process.cpu_seconds()?;
        process.resident_kib()?;
        Ok(process)
    }

    pub fn own() -> Self {
        Self {
            id: None,
            ticks_per_second: ticks_per_second(),
        }
    }

    /// User and system time of all its threads so far, ended ones included, in seconds (resolution 10 ms).
    pub fn cpu_seconds(&self) -> Result<f64, LoadError> {
        let text = self.read("stat")?;
        let ticks = cpu_ticks(&text).ok_or_else(|| self.unreadable("stat", "unexpected form"))?;
        Ok(ticks as f64 / self.ticks_per_second as f64)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64, LoadError> {
        // The roll-up walks the page tables; the counter in `status` may be off by some pages per thread.
        let (text, key) = match self.read("smaps_rollup") {
            Ok(text) => (text, "Rss:"),
            Err(_) => (self.read("status")?, "VmRSS:"),
        };
        kib(&text, key).ok_or_else(|| self.unreadable("status", "no resident size"))
    }

    /// Bytes it has caused to be written to storage so far: pages of files it made dirty. `None` where the kernel does
    /// not count that, or not tell us.
    pub fn written_bytes(&self) -> Option<u64> {
        let text = self.read("io").ok()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes:"))?;
        line.trim().parse().ok()
    }

    fn read(&self, file: &str) -> Result<String, LoadError> {
        fs::read_to_string(self.path(file)).map_err(|e| self.unreadable(file, &e.to_string()))
    }

    fn path(&self, file: &str) -> PathBuf {
        let id = self
            .id
            .map_or_else(|| "self".to_owned(), |id| id.to_string());
        PathBuf::from("/proc").join(id).join(file)
    }

    fn unreadable(&self, file: &str, why: &str) -> LoadError {
        LoadError::Process {
            path: self.path(file),
            why: why.to_owned(),
        }
    }
}

/// utime + stime: fields 14 and 15, counted after the command name, which may hold blanks and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..]
        .split_ascii_whitespace()
        .skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Clock ticks per second: AT_CLKTCK of the auxiliary vector; 100 on every Linux this is likely to meet.
fn ticks_per_second() -> u64 {
    const AT_CLKTCK: usize = 17;
    const WORD: usize = size_of::<usize>();
    let vector = fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or(0);
    vector
        .chunks_exact(2 * WORD)
        .find(|pair| word(&pair[..WORD]) == AT_CLKTCK)
        .map_or(100, |pair| word(&pair[WORD..]).max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_command_name_may_hold_blanks_and_brackets() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (x) S 1"), None);
    }

    #[test]
    fn work_done_here_shows_in_the_own_cpu_time() {
        let own = Process::own();
        let before = own.cpu_seconds().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut spins = 0u64;
        while own.cpu_seconds().unwrap() < before + 0.05 {
            (0..100_000).for_each(|i| spins = std::hint::black_box(spins.wrapping_add(i)));
            assert!(Instant::now() < deadline, "no CPU time was counted");
        }
    }

    #[test]
    fn what_is_written_to_a_disk_shows() {
        let own = Process::own();
        // /proc/self/io is there on every kernel that a distribution builds.
        let before = own.written_bytes().unwrap();
        let folder = std::env::current_exe().unwrap();
        let path = folder.with_extension("written");
        fs::write(&path, vec![1u8; 1 << 20]).unwrap();
        let after = own.written_bytes().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(
            after >= before + (1 << 20),
            "{before} before, {after} after"
        );
    }

    #[test]
    fn a_touched_allocation_shows_in_the_resident_size() {
        let own = Process::own();
        let before = own.resident_kib().unwrap();
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let after = own.resident_kib().unwrap();
        assert!(
            after > before + 20_000,
            "{before} KiB before, {after} KiB after {} bytes",
            block.len()
        );
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error_that_names_it() {
        let error = Process::other(u32::MAX).err().unwrap().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
