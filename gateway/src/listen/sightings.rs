//! Which devices are here, and when were they last? Kept in memory until somebody writes it down: a storm of devices
//! must not become a storm of transactions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytestring::ByteString;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::tls::unix_seconds;

/// The user property of CONNECT in which a device says what runs on it (MQTT 5.0 section 3.1.2.11.8).
const FIRMWARE: &str = "firmware-version";
/// The longest firmware version, in bytes.
pub const FIRMWARE_MAX: usize = 64;

/// What was seen of devices. At most one entry for each device that has an account.
#[derive(Debug, Default)]
pub struct Sightings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Not written down yet.
    seen: HashMap<Arc<str>, Seen>,
    /// Connections of each device that has any.
    connected: HashMap<Arc<str>, usize>,
}

/// That a device came or left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Seconds since 1970.
    pub at: i64,
    pub address: IpAddr,
    /// What it said that runs on it, if it said anything.
    pub firmware: Option<Box<str>>,
}

/// A connection of a device; it leaves when this is dropped.
pub struct Sighting {
    sightings: Arc<Sightings>,
    name: Arc<str>,
    address: IpAddr,
}

impl Sightings {
    /// A device came.
    pub fn came(
        self: &Arc<Self>,
        name: Arc<str>,
        address: IpAddr,
        firmware: Option<Box<str>>,
    ) -> Sighting {
        let mut state = self.0.lock();
        state.note(&name, address, firmware);
        *state.connected.entry(name.clone()).or_default() += 1;
        Sighting {
            sightings: self.clone(),
            name,
            address,
        }
    }

    /// Whether the device is connected, and what was seen of it since the last [`Self::take`].
    pub fn of(&self, name: &str) -> (bool, Option<Seen>) {
        let state = self.0.lock();
        let connected = state.connected.contains_key(name);
        (connected, state.seen.get(name).cloned())
    }

    /// Everything that is to be written down.
    pub fn take(&self) -> Vec<(Arc<str>, Seen)> {
        std::mem::take(&mut self.0.lock().seen)
            .into_iter()
            .collect()
    }

    /// What could not be written down waits for the next time, unless there is something newer.
    pub fn give_back(&self, seen: Vec<(Arc<str>, Seen)>) {
        let mut state = self.0.lock();
        for (name, seen) in seen {
            let newer = state.seen.entry(name).or_insert_with(|| seen.clone());
            newer.firmware = newer.firmware.take().or(seen.firmware);
        }
    }
}

impl State {
    fn note(&mut self, name: &Arc<str>, address: IpAddr, firmware: Option<Box<str>>) {
        let at = unix_seconds(SystemTime::now());
        let before = self.seen.remove(name);
        // Its last word about itself stays.
        let firmware = firmware.or(before.and_then(|before| before.firmware));
        let seen = Seen {
            at,
            address,
            firmware,
        };
        self.seen.insert(name.clone(), seen);
    }
}

impl Drop for Sighting {
    fn drop(&mut self) {
        let mut state = self.sightings.0.lock();
        state.note(&self.name, self.address, None);
        if let Some(count) = state.connected.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.connected.remove(&self.name);
            }
        }
    }
}

/// The firmware version among the user properties of a CONNECT.
pub(super) fn firmware(properties: &[(ByteString, ByteString)]) -> Option<Box<str>> {
    let (_, value) = properties.iter().find(|(name, _)| *name == FIRMWARE)?;
    is_firmware(value).then(|| (**value).into())
}

/// Whether this can be a firmware version: 1 to [`FIRMWARE_MAX`] bytes without control characters.
pub fn is_firmware(text: &str) -> bool {
    (1..=FIRMWARE_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    #[test]
    fn a_device_is_connected_until_its_last_connection_has_left() {
        let sightings = Arc::new(Sightings::default());
        let one = sightings.came("lamp".into(), ADDRESS, Some("1.0".into()));
        let two = sightings.came("lamp".into(), ADDRESS, None);
        drop(one);
        let (connected, seen) = sightings.of("lamp");
        assert!(connected);
        assert_eq!(seen.unwrap().firmware.as_deref(), Some("1.0"));
        drop(two);
        assert!(!sightings.of("lamp").0);
        assert_eq!(sightings.of("other"), (false, None));
    }

    #[test]
    fn a_storm_leaves_one_entry_for_each_device_to_be_written_once() {
        let sightings = Arc::new(Sightings::default());
        for n in 0..10_000 {
            drop(sightings.came(format!("d{}", n % 100).into(), ADDRESS, None));
        }
        assert_eq!(sightings.take().len(), 100);
        assert!(sightings.take().is_empty());
        assert!(sightings.0.lock().connected.is_empty());
    }

    #[test]
    fn what_could_not_be_written_never_replaces_something_newer() {
        let sightings = Arc::new(Sightings::default());
        drop(sightings.came("lamp".into(), ADDRESS, Some("1.0".into())));
        let mut old = sightings.take();
        old[0].1.at = 5;
        let newer: IpAddr = "192.0.2.9".parse().unwrap();
        drop(sightings.came("lamp".into(), newer, None));
        sightings.give_back(old.clone());
        let (_, seen) = sightings.of("lamp");
        let seen = seen.unwrap();
        assert!(seen.at > 5 && seen.address == newer);
        assert_eq!(seen.firmware.as_deref(), Some("1.0"));
        sightings.take();
        sightings.give_back(old.clone());
        assert_eq!(sightings.take(), old);
    }

    #[test]
    fn only_a_short_printable_firmware_version_is_kept() {
        let of = |value: &str| {
            let property = |name: &'static str, value: &str| (name.into(), value.into());
            firmware(&[property("x", "y"), property(FIRMWARE, value)])
        };
        assert_eq!(of("1.4.2+g1234").as_deref(), Some("1.4.2+g1234"));
        assert_eq!(of(&"x".repeat(64)).map(|text| text.len()), Some(64));
        for bad in ["", &"x".repeat(65), "1\n2", "\u{1b}[31m"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        assert_eq!(firmware(&[]), None);
    }
}
