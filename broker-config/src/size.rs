//! A number of bytes, as operators write it.

use std::fmt;

const UNITS: [(&str, usize); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// A number of bytes. In TOML: `"64KiB"`, `"4MiB"`, `"1GiB"`, `"512B"`, or an integer in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(usize);

impl ByteSize {
    pub const fn from_bytes(bytes: usize) -> Self {
        ByteSize(bytes)
    }

    /// `n` KiB (1024 bytes each); saturates at `usize::MAX` bytes.
    pub const fn kib(n: usize) -> Self {
        ByteSize(n.saturating_mul(1 << 10))
    }

    /// `n` MiB (1024 KiB each); saturates at `usize::MAX` bytes.
    pub const fn mib(n: usize) -> Self {
        ByteSize(n.saturating_mul(1 << 20))
    }

    pub const fn bytes(self) -> usize {
        self.0
    }

    /// `number` in `unit` in bytes, if the unit is known and the product fits.
    pub(crate) fn of(number: u64, unit: &str) -> Option<usize> {
        let (_, each) = UNITS.iter().find(|(u, _)| *u == unit)?;
        usize::try_from(number).ok()?.checked_mul(*each)
    }
}

/// In the largest unit that divides it: `4MiB`, `1500B`.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, each) = UNITS
            .iter()
            .find(|(_, each)| self.0 != 0 && self.0.is_multiple_of(*each))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / each)
    }
}
