//! Where the gateway listens, as it turned out: a port of 0 in the configuration becomes a real one.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, path::Path};

use super::{Sockets, StartError};

/// The file in the data directory that says so, while the gateway runs: `{"mqtts": ["127.0.0.1:8883"], …}`.
const FILE: &str = "addresses.json";

/// Bound addresses by listener name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(BTreeMap<String, Vec<SocketAddr>>);

impl Addresses {
    pub(super) fn of(sockets: &Sockets) -> Addresses {
        let addresses = |(name, bound): (&String, &Vec<(SocketAddr, _)>)| {
            (
                name.clone(),
                bound.iter().map(|(address, _)| *address).collect(),
            )
        };
        Addresses(sockets.iter().map(addresses).collect())
    }

    /// The addresses of one listener.
    pub fn listener(&self, name: &str) -> &[SocketAddr] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[SocketAddr])> {
        self.0
            .iter()
            .map(|(name, addresses)| (name.as_str(), addresses.as_slice()))
    }

    /// Replaces the file as a whole: whoever reads it sees all of it.
    pub(super) fn write(&self, directory: &Path) -> Result<(), StartError> {
        let path = directory.join(FILE);
        let fresh = directory.join(format!("{FILE}.new"));
        let text = serde_json::json!(self.0).to_string();
        std::fs::File::create(&fresh)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(|cause| StartError::Write { path, cause })
    }

    pub(super) fn remove(directory: &Path) {
        let _ = std::fs::remove_file(directory.join(FILE));
    }
}
