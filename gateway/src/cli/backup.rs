//! `postern backup`: everything the data directory keeps, in one file, while the gateway runs or while it does not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::archive::{Manifest, Writer};
use super::{CliError, Reach};
use crate::admin::{AdminError, Backup, ControlClient, Part, PartLine};
use crate::data_dir::DataDir;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to make; only its owner can read it
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
}

/// Bytes in memory at once.
const PIECE: usize = 64 * 1024;

impl Args {
    pub async fn run(self, dir: &DataDir, out: &mut impl Write) -> Result<(), CliError> {
        let target = Target::begin(&self.file, self.force)?;
        let mut reach = Reach::open(dir, false).await?;
        let manifest = match &mut reach {
            Reach::Running(client) => {
                let parts = client.backup().await?;
                write(target, parts, Source::Running(client)).await
            }
            Reach::Direct { administration, .. } => {
                let made = administration.backup().await;
                let failure = made.as_ref().err();
                administration
                    .note_change("command line", "make a backup", failure)
                    .await;
                let backup = made?;
                let parts = backup.parts().to_vec();
                write(target, parts, Source::Direct(&backup, None)).await
            }
        };
        reach.close().await?;
        let manifest = manifest?;
        let bytes: u64 = manifest.parts.values().map(|part| part.bytes).sum();
        writeln!(
            out,
            "{} files, {} bytes, are in {}",
            manifest.parts.len(),
            bytes,
            self.file.display()
        )?;
        eprintln!(
            "it holds private keys and passwords' hashes: keep it as safe as the gateway itself"
        );
        Ok(())
    }
}

async fn write(
    target: Target,
    parts: Vec<PartLine>,
    mut source: Source<'_>,
) -> Result<Manifest, CliError> {
    let mut writer = Writer::new(&target.file);
    let failed = |source| CliError::file("write", &target.temporary, source);
    let mut piece = vec![0; PIECE];
    for line in &parts {
        let part = Part::named(&line.name).ok_or_else(|| CliError::Version(line.name.clone()))?;
        writer.begin(&part, line.bytes).map_err(failed)?;
        let mut missing = line.bytes;
        while missing > 0 {
            let most = usize::try_from(missing).unwrap_or(PIECE).min(PIECE);
            let length = source.read(line, &mut piece[..most]).await?;
            writer.write(&piece[..length]).map_err(failed)?;
            missing -= length as u64;
        }
        source.next();
    }
    let (_, manifest) = writer.finish().map_err(failed)?;
    target.complete()?;
    Ok(manifest)
}

/// Where the bytes come from.
enum Source<'a> {
    Running(&'a mut ControlClient),
    /// With the file that is being read.
    Direct(&'a Backup, Option<File>),
}

impl Source<'_> {
    /// The next bytes of a part, at least one.
    async fn read(&mut self, part: &PartLine, piece: &mut [u8]) -> Result<usize, AdminError> {
        match self {
            Source::Running(client) => client.read_piece(piece).await,
            Source::Direct(backup, file) => {
                let file = match file {
                    Some(file) => file,
                    None => file.insert(backup.open(part)?),
                };
                let read = match file.read(piece) {
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    outcome => outcome,
                };
                read.map_err(|source| AdminError::File {
                    action: "read",
                    path: part.name.clone().into(),
                    source,
                })
            }
        }
    }

    /// The part is complete.
    fn next(&mut self) {
        if let Source::Direct(_, file) = self {
            *file = None;
        }
    }
}

/// The file being made, under a name of its own until it is complete; removed if it never is.
struct Target {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
    complete: bool,
}

impl Target {
    fn begin(path: &Path, force: bool) -> Result<Target, CliError> {
        let name = match path.file_name() {
            Some(name) if !path.is_dir() => name,
            _ => return Err(CliError::NoFileName(path.to_owned())),
        };
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(CliError::Exists(path.to_owned()));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.new", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| CliError::file("create", &temporary, source))?;
        Ok(Target {
            file,
            temporary,
            path: path.to_owned(),
            force,
            complete: false,
        })
    }

    /// The backup is on disk under its name when this returns.
    fn complete(mut self) -> Result<(), CliError> {
        let failed = |source| CliError::file("write", &self.path, source);
        self.file.sync_all().map_err(failed)?;
        if !self.force && fs::symlink_metadata(&self.path).is_ok() {
            return Err(CliError::Exists(self.path.clone()));
        }
        fs::rename(&self.temporary, &self.path).map_err(failed)?;
        sync_folder_of(&self.path).map_err(failed)?;
        self.complete = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.complete {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
