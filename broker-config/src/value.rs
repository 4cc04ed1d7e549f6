//! How one value is written in TOML, and which values a key may take.
//!
//! A [`Value`] reads itself from a [`Leaf`] and shows itself again; bounds that depend on the key
//! are closures made here ([`within`]) and named where the key is listed.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    report::{Wrong, quote},
    size::ByteSize,
};

/// A value that is not a table, and the line it starts on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub line: Option<usize>,
    pub scalar: Scalar,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Leaf>),
    /// What no key takes: its kind with an article, and its text.
    Other(&'static str, String),
}

impl Leaf {
    pub fn text(text: &str) -> Self {
        Leaf {
            line: None,
            scalar: Scalar::Text(text.to_owned()),
        }
    }

    /// The kind of value, with its article.
    pub fn kind(&self) -> &'static str {
        match &self.scalar {
            Scalar::Text(_) => "a string",
            Scalar::Integer(_) => "a number",
            Scalar::Boolean(_) => "a boolean",
            Scalar::List(_) => "a list",
            Scalar::Other(kind, _) => kind,
        }
    }

    pub fn show(&self) -> String {
        match &self.scalar {
            Scalar::Text(text) => quote(text),
            Scalar::Integer(n) => n.to_string(),
            Scalar::Boolean(b) => b.to_string(),
            Scalar::List(entries) => list(entries.iter().map(Leaf::show)),
            Scalar::Other(_, text) => text.clone(),
        }
    }
}

/// A type a key can have.
pub(crate) trait Value: Sized + Clone {
    /// What to write, for the remedy of an error: "write {WANT}".
    const WANT: &'static str;

    fn read(leaf: &Leaf) -> Result<Self, Wrong>;

    /// The value in TOML, such that `read` yields it again; `None` if the key is not set.
    fn show(&self) -> Option<String>;
}

/// The kind of value is wrong: names what was found and what is wanted.
fn mismatch<T: Value>(leaf: &Leaf) -> Wrong {
    Wrong::new(format!("is {}", leaf.kind()), format!("write {}", T::WANT))
}

fn text<T: Value>(leaf: &Leaf) -> Result<&str, Wrong> {
    match &leaf.scalar {
        Scalar::Text(text) => Ok(text),
        _ => Err(mismatch::<T>(leaf)),
    }
}

impl Value for bool {
    const WANT: &'static str = "true or false";

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        match leaf.scalar {
            Scalar::Boolean(b) => Ok(b),
            _ => Err(mismatch::<Self>(leaf)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! whole_number {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const WANT: &'static str = "a whole number";

            fn read(leaf: &Leaf) -> Result<Self, Wrong> {
                let Scalar::Integer(n) = leaf.scalar else {
                    return Err(mismatch::<Self>(leaf));
                };
                Self::try_from(n).map_err(|_| match n {
                    ..0 => Wrong::new("is negative", "use 0 or more"),
                    _ => Wrong::new("is too large", format!("use at most {}", Self::MAX)),
                })
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
whole_number!(u16, u32, usize);

impl Value for String {
    const WANT: &'static str = "a string in quotes";

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        text::<Self>(leaf).map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quote(self))
    }
}

impl Value for PathBuf {
    const WANT: &'static str = "a path in quotes";

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let path = text::<Self>(leaf)?;
        if path.is_empty() {
            return Err(Wrong::new("is empty", "write a path, or leave the key out"));
        }
        if path.contains('\0') {
            return Err(Wrong::new("contains U+0000", "write the path without it"));
        }
        Ok(PathBuf::from(path))
    }

    /// Only a path that was read from TOML text is shown, so it is Unicode.
    fn show(&self) -> Option<String> {
        Some(quote(&self.to_string_lossy()))
    }
}

impl Value for SocketAddr {
    const WANT: &'static str = r#"an address and a port, such as "0.0.0.0:8883" or "[::]:8883""#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        text::<Self>(leaf)?.parse().map_err(|_| {
            Wrong::new(
                "is not an IP address with a port",
                format!("write {}", Self::WANT),
            )
        })
    }

    fn show(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// `"10.0.0.0/8"`, `"2001:db8::/32"`; a single address is the network of that address alone.
impl Value for IpNet {
    const WANT: &'static str = r#"a network such as "10.0.0.0/8", "2001:db8::/32" or an address"#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let text = text::<Self>(leaf)?;
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| unusable::<Self>())?,
        };
        if net.trunc() != net {
            return Err(Wrong::new(
                "has bits behind its prefix",
                format!("write \"{}\"", net.trunc()),
            ));
        }
        Ok(net)
    }

    fn show(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// `"500ms"`, `"10s"`, `"5m"`, `"2h"`, `"7d"`; a bare integer is in seconds.
impl Value for Duration {
    const WANT: &'static str = r#"a duration such as "500ms", "10s", "5m", "2h" or "7d""#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        if let Scalar::Integer(n) = leaf.scalar {
            return u64::try_from(n)
                .map(Duration::from_secs)
                .map_err(|_| unusable::<Self>());
        }
        let (number, unit) = number_and_unit(text::<Self>(leaf)?).ok_or_else(unusable::<Self>)?;
        let (_, millis) = UNITS
            .iter()
            .find(|(u, _)| *u == unit)
            .ok_or_else(unusable::<Self>)?;
        number
            .checked_mul(*millis)
            .map(Duration::from_millis)
            .ok_or_else(unusable::<Self>)
    }

    fn show(&self) -> Option<String> {
        let millis = self.as_millis();
        if millis == 0 {
            return Some(quote("0s"));
        }
        let (unit, each) = UNITS
            .iter()
            .find(|(_, each)| millis.is_multiple_of(u128::from(*each)))?;
        Some(quote(&format!("{}{unit}", millis / u128::from(*each))))
    }
}

/// `"64KiB"`, `"4MiB"`, `"1GiB"`, `"512B"`; a bare integer is in bytes.
impl Value for ByteSize {
    const WANT: &'static str = r#"a size such as "64KiB", "4MiB" or a number of bytes"#;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let bytes = match leaf.scalar {
            Scalar::Integer(n) => usize::try_from(n).ok(),
            _ => number_and_unit(text::<Self>(leaf)?)
                .and_then(|(number, unit)| ByteSize::of(number, unit)),
        };
        bytes.map(ByteSize::from_bytes).ok_or_else(unusable::<Self>)
    }

    fn show(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

fn unusable<T: Value>() -> Wrong {
    Wrong::new("cannot be understood", format!("write {}", T::WANT))
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Not set unless somebody sets it.
impl<T: Value> Value for Option<T> {
    const WANT: &'static str = T::WANT;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        T::read(leaf).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

/// A list; a single entry may stand without brackets, which is how an environment variable
/// would naturally write it.
impl<T: Value> Value for Vec<T> {
    const WANT: &'static str = T::WANT;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let Scalar::List(entries) = &leaf.scalar else {
            return T::read(leaf).map(|entry| vec![entry]);
        };
        let read = |entry: &Leaf| {
            T::read(entry).map_err(|wrong| Wrong {
                entry: Some((entry.show(), entry.line)),
                ..wrong
            })
        };
        entries.iter().map(read).collect()
    }

    fn show(&self) -> Option<String> {
        Some(list(self.iter().filter_map(T::show)))
    }
}

fn list(entries: impl Iterator<Item = String>) -> String {
    format!("[{}]", entries.collect::<Vec<_>>().join(", "))
}

/// A type with a few named values.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];
    /// The names for an error message: `"a" or "b"`.
    const NAMES: &'static str;
}

impl<T: Choice> Value for T {
    const WANT: &'static str = T::NAMES;

    fn read(leaf: &Leaf) -> Result<Self, Wrong> {
        let name = text::<Self>(leaf)?;
        let known = T::ALL.iter().find(|(known, _)| *known == name);
        known
            .map(|(_, value)| *value)
            .ok_or_else(|| Wrong::new("is not a known value", format!("write {}", T::NAMES)))
    }

    fn show(&self) -> Option<String> {
        T::ALL
            .iter()
            .find(|(_, value)| value == self)
            .map(|(name, _)| quote(name))
    }
}

/// Every value of the type is fine.
pub(crate) fn any<T>(_: &T) -> Result<(), Wrong> {
    Ok(())
}

/// The value must be in the range, both ends included.
pub(crate) fn within<T: Value + PartialOrd>(
    range: RangeInclusive<T>,
) -> impl Fn(&T) -> Result<(), Wrong> {
    move |value| {
        if range.contains(value) {
            return Ok(());
        }
        let plain = |bound: &T| bound.show().unwrap_or_default().replace('"', "");
        let (low, high) = (plain(range.start()), plain(range.end()));
        Err(Wrong::new(
            "is out of range",
            format!("use {low} to {high}"),
        ))
    }
}

/// A duration in the range that MQTT can carry: whole seconds.
pub(crate) fn whole_seconds(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Duration) -> Result<(), Wrong> {
    let bounds = within(range);
    move |value| {
        bounds(value)?;
        if value.subsec_nanos() != 0 {
            return Err(Wrong::new(
                "is not a whole number of seconds",
                "drop the fraction",
            ));
        }
        Ok(())
    }
}
