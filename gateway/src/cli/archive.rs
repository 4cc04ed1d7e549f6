//! What does a backup file look like? A tar archive: the parts of a data directory, and last a manifest with the length
//! and the SHA-256 of each. Nothing here knows what the parts mean.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tar::{Archive, EntryType, Header};

use crate::admin::{Part, PartKind};
use crate::tls::fingerprint::hex;

/// The version of this form. Another one is refused.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const MANIFEST_MAX: u64 = 64 * 1024;
/// What every tar entry is padded to.
const BLOCK: u64 = 512;
const PIECE: usize = 64 * 1024;

/// What an archive says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// Seconds since 1970.
    pub made_at: u64,
    /// By name.
    pub parts: BTreeMap<String, Fingerprint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    pub bytes: u64,
    /// Hexadecimal.
    sha256: String,
}

/// Writes an archive part by part.
pub(super) struct Writer<W> {
    out: W,
    manifest: Manifest,
    /// The part being written, and how many of its bytes are missing.
    open: Option<(String, u64, u64, Context)>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        let made_at = SystemTime::now().duration_since(UNIX_EPOCH);
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: made_at.map_or(0, |elapsed| elapsed.as_secs()),
            parts: BTreeMap::new(),
        };
        Writer {
            out,
            manifest,
            open: None,
        }
    }

    /// Begins a part of exactly `bytes` bytes; the one before is complete.
    pub fn begin(&mut self, part: &Part, bytes: u64) -> io::Result<()> {
        self.end()?;
        self.header(&part.name, part.mode, bytes)?;
        self.open = Some((part.name.to_string(), bytes, bytes, Context::new(&SHA256)));
        Ok(())
    }

    /// The next bytes of the part.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some((_, _, missing, digest)) = &mut self.open else {
            return Err(io::Error::other("there is no part to write to"));
        };
        *missing = missing
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| io::Error::other("a part is longer than announced"))?;
        digest.update(piece);
        self.out.write_all(piece)
    }

    /// Completes the archive.
    pub fn finish(mut self) -> io::Result<(W, Manifest)> {
        self.end()?;
        let text = serde_json::to_vec_pretty(&self.manifest)?;
        self.header(MANIFEST, 0o600, text.len() as u64)?;
        self.out.write_all(&text)?;
        self.pad(text.len() as u64)?;
        // The end of a tar archive.
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        Ok((self.out, self.manifest))
    }

    fn end(&mut self) -> io::Result<()> {
        let Some((name, bytes, missing, digest)) = self.open.take() else {
            return Ok(());
        };
        if missing > 0 {
            return Err(io::Error::other("a part is shorter than announced"));
        }
        let sha256 = hex(digest.finish().as_ref());
        let fingerprint = Fingerprint { bytes, sha256 };
        self.manifest.parts.insert(name, fingerprint);
        self.pad(bytes)
    }

    fn header(&mut self, name: &str, mode: u32, bytes: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(bytes);
        header.set_mode(mode);
        header.set_mtime(self.manifest.made_at);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn pad(&mut self, bytes: u64) -> io::Result<()> {
        let padding = (BLOCK - bytes % BLOCK) % BLOCK;
        self.out.write_all(&vec![0; padding as usize])
    }
}

/// Unpacks an archive into `folder`, an empty one; the files, and the folders that they need in it, get `owner`. Nothing but the parts of a data directory is taken, whatever the archive holds.
///
/// # Errors
/// In words that follow "cannot be restored: ".
pub(super) fn unpack(
    file: &Path,
    folder: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Manifest, String> {
    let input = File::open(file).map_err(|error| error.to_string())?;
    let mut archive = Archive::new(BufReader::with_capacity(PIECE, input));
    let mut found = BTreeMap::new();
    let mut manifest: Option<Manifest> = None;
    let broken = |error: io::Error| format!("it is not a complete backup of postern ({error})");
    // Raw: extensions that give an entry another name or size are entries of a kind that is refused.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type() != EntryType::Regular {
            return Err(format!("its entry {name:?} is not a plain file"));
        }
        if manifest.is_some() {
            return Err(format!("its entry {name:?} follows the manifest"));
        }
        let size = entry.size();
        if name == MANIFEST {
            manifest = Some(read_manifest(&mut entry, size)?);
            continue;
        }
        let Some(part) = Part::named(&name) else {
            return Err(format!("its entry {name:?} does not belong to a backup"));
        };
        if part.kind == PartKind::File && size > part.max() {
            return Err(format!("its entry {name:?} has {size} bytes, far too many"));
        }
        let into = folder.join(&*part.name);
        let fingerprint = make_parents(&into, owner)
            .and_then(|()| extract(&mut entry, size, &into, part.mode, owner))
            .map_err(|error| format!("its entry {name:?} cannot be unpacked ({error})"))?;
        if found.insert(name.clone(), fingerprint).is_some() {
            return Err(format!("it has two entries {name:?}"));
        }
    }
    let manifest = manifest.ok_or("it ends before its manifest: it is not complete")?;
    match manifest.parts == found {
        true => Ok(manifest),
        false => Err("its contents are not those of its manifest: it is damaged".to_owned()),
    }
}

fn read_manifest(entry: &mut impl Read, size: u64) -> Result<Manifest, String> {
    if size > MANIFEST_MAX {
        return Err(format!("its manifest has {size} bytes, far too many"));
    }
    let mut text = Vec::new();
    entry
        .read_to_end(&mut text)
        .map_err(|error| format!("its manifest cannot be read ({error})"))?;
    // A newer form may have other fields.
    let format = serde_json::from_slice::<serde_json::Value>(&text)
        .ok()
        .and_then(|value| value["format"].as_u64());
    match format {
        Some(format) if format == u64::from(FORMAT) => serde_json::from_slice(&text)
            .map_err(|error| format!("its manifest is wrong ({error})")),
        Some(format) => Err(format!(
            "it has the form {format}, and this version knows the form {FORMAT}; use the version that made it"
        )),
        None => Err("its manifest is not one".to_owned()),
    }
}

/// Makes the folders of a file that are missing.
pub(super) fn make_parents(file: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let missing: Vec<_> = file
        .ancestors()
        .skip(1)
        .take_while(|folder| !folder.exists())
        .collect();
    for folder in missing.into_iter().rev() {
        DirBuilder::new().mode(0o700).create(folder)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(folder, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Writes one entry to a file of its own. A short entry is an error.
fn extract(
    entry: &mut impl Read,
    size: u64,
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<Fingerprint> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    let mut digest = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let length = entry.read(&mut piece)?;
        if length == 0 {
            break;
        }
        digest.update(&piece[..length]);
        file.write_all(&piece[..length])?;
        bytes += length as u64;
    }
    if bytes != size {
        return Err(io::Error::other("the file ends in it"));
    }
    file.sync_all()?;
    let sha256 = hex(digest.finish().as_ref());
    Ok(Fingerprint { bytes, sha256 })
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
