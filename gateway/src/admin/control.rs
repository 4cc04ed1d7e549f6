//! The control socket: commands from the command line to the running gateway, one JSON object per line.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::command::Transfer;
use super::peer::Accepted;
use super::{AdminError, Administration, Answer, Backup, Command, Import, Reply};
use crate::audit::{Kind, Note};

/// Longest command, in bytes, its newline included.
pub(super) const LINE_MAX: usize = 64 * 1024;
/// Commands under way and idle connections together; one more is closed at once.
const CONNECTIONS_MAX: usize = 16;
/// How long a peer may take for its next command, and for taking an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer may take for a piece of a backup: it may write it to a slow disk.
const PATIENCE_PER_PIECE: Duration = Duration::from_secs(60);
/// Bytes of a backup in memory at once.
const PIECE: usize = 64 * 1024;

/// The listening control socket. Removed when this is dropped.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    accepted: Arc<Accepted>,
}

impl ControlServer {
    /// Makes the socket with mode 0660, for the group `postern` if there is one. The caller holds the lock of the data
    /// directory, so a socket that is there already is a dead one and goes.
    pub fn bind(path: &Path) -> Result<ControlServer, AdminError> {
        let length = path.as_os_str().len();
        if length > 107 {
            return Err(AdminError::SocketPath {
                path: path.to_owned(),
                length,
            });
        }
        let accepted = Accepted::read();
        let bind = || {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o660))?;
            Ok(listener)
        };
        let listener = bind().map_err(|source| AdminError::File {
            action: "listen on",
            path: path.to_owned(),
            source,
        })?;
        if let Some(group) = accepted.group
            && let Err(error) = chown(path, None, Some(group))
        {
            tracing::debug!("the control socket stays with our own group: {error}");
        }
        Ok(ControlServer {
            listener,
            path: path.to_owned(),
            accepted: Arc::new(accepted),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers commands until `shutdown`; commands under way are then carried through, answers may be lost.
    pub async fn run(
        self,
        administration: Arc<Administration>,
        shutdown: impl Future<Output = ()>,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => return,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: trying again at once would only burn the processor.
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(
                    "control socket: more than {CONNECTIONS_MAX} connections; one was closed"
                );
                continue;
            };
            let (administration, accepted) = (administration.clone(), self.accepted.clone());
            connections.spawn(async move {
                if let Err(error) = serve(stream, &administration, &accepted).await {
                    tracing::debug!("control socket: {error}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // The next start removes it as well.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(
    stream: UnixStream,
    administration: &Arc<Administration>,
    accepted: &Accepted,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (reader, mut writer) = stream.into_split();
    if !accepted.accepts(peer.uid(), peer.gid()) {
        tracing::warn!(target: "postern::audit", uid = peer.uid(), "refused on the control socket");
        refused(administration, peer.uid(), "any command");
        let text =
            "only root, the gateway's own user and members of the group postern may give commands";
        return send(&mut writer, &Reply::Error(text.to_owned())).await;
    }
    let actor = format!("uid {}", peer.uid());
    let mut reader = BufReader::new(reader);
    while let Some(line) = timeout(PATIENCE, read_line(&mut reader, LINE_MAX)).await?? {
        let reply = match serde_json::from_slice::<Command>(&line) {
            Ok(command)
                if command.needs_trust_with_keys()
                    && !accepted.is_trusted_with_keys(peer.uid()) =>
            {
                tracing::warn!(target: "postern::audit", actor, "a server certificate: refused");
                refused(administration, peer.uid(), "issue a server certificate");
                let text = "who has a server certificate of the private CA can pass for the gateway: only root and the gateway's own user may issue one";
                Reply::Error(text.to_owned())
            }
            Ok(command) => match administration.execute(&actor, command).await {
                Ok(answer) => Reply::Ok(answer),
                Err(error) => Reply::Error(error.to_string()),
            },
            Err(_) if let Ok(Transfer::Import { bytes }) = serde_json::from_slice(&line) => {
                let Ok(_place) = administration.imports.try_acquire() else {
                    let text = AdminError::ImportUnderWay.to_string();
                    // What it sends now is not read: the connection ends.
                    return send(&mut writer, &Reply::Error(text)).await;
                };
                receive_import(&mut reader, bytes, administration, &actor).await?
            }
            Err(_) if serde_json::from_slice::<Transfer>(&line).is_ok() => {
                // Members of the group may change every account, but who has the key of the CA is the gateway for ever.
                if !accepted.is_trusted_with_keys(peer.uid()) {
                    tracing::warn!(target: "postern::audit", actor, "backup: refused");
                    refused(administration, peer.uid(), "make a backup");
                    let text = "a backup holds private keys: only root and the gateway's own user may make one";
                    send(&mut writer, &Reply::Error(text.to_owned())).await?;
                    continue;
                }
                transfer(&mut writer, administration, &actor).await?;
                continue;
            }
            // The text of the parser's error may hold part of a password: only its place is told.
            Err(error) => Reply::Error(format!(
                "the gateway does not understand this command (column {}); use the postern command of the same version",
                error.column()
            )),
        };
        send(&mut writer, &reply).await?;
    }
    Ok(())
}

/// Reads an import and has it executed. A peer that announces too much is not read further: its connection ends.
async fn receive_import(
    reader: &mut (impl AsyncBufRead + Unpin),
    bytes: usize,
    administration: &Arc<Administration>,
    actor: &str,
) -> io::Result<Reply> {
    if bytes > Import::MAX_BYTES {
        let max = Import::MAX_BYTES;
        return Err(io::Error::other(format!(
            "an import of {bytes} bytes was announced; at most {max} are read"
        )));
    }
    let mut text = Vec::new();
    let mut rest = reader.take(bytes as u64);
    timeout(PATIENCE_PER_PIECE, rest.read_to_end(&mut text)).await??;
    if text.len() < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The text of the parser's error may hold part of a hash: only its place is told.
    Ok(match serde_json::from_slice::<Import>(&text) {
        Ok(import) => match administration.import(actor, import).await {
            Ok(answer) => Reply::Ok(answer),
            Err(error) => Reply::Error(error.to_string()),
        },
        Err(error) => Reply::Error(format!(
            "the gateway does not understand this import (column {}); use the postern command of the same version",
            error.column()
        )),
    })
}

/// Makes a backup and sends it: a line that says how large its parts are, and the parts.
async fn transfer(
    writer: &mut (impl AsyncWriteExt + Unpin),
    administration: &Administration,
    actor: &str,
) -> io::Result<()> {
    let backup = match administration.backup().await {
        Ok(backup) => backup,
        Err(error) => {
            tracing::warn!(target: "postern::audit", actor, "backup: {error}");
            administration
                .note_change(actor, "make a backup", Some(&error))
                .await;
            return send(writer, &Reply::Error(error.to_string())).await;
        }
    };
    // Before it is sent: whoever has the beginning of it has keys.
    administration
        .note_change(actor, "make a backup", None)
        .await;
    let sent = send_parts(writer, &backup).await;
    match &sent {
        Ok(()) => tracing::info!(target: "postern::audit", actor, "backup: done"),
        Err(error) => tracing::warn!(target: "postern::audit", actor, "backup: {error}"),
    }
    // Removing large files takes a while.
    let _ = tokio::task::spawn_blocking(move || drop(backup)).await;
    sent
}

/// Notes that a peer may not do this.
fn refused(administration: &Administration, uid: u32, what: &str) {
    let note = Note {
        principal: &format!("uid {uid}"),
        subject: what,
        reason: "refused on the control socket",
        ..Note::default()
    };
    administration.audit().note(Kind::ChangeFailed, note);
}

async fn send_parts(writer: &mut (impl AsyncWriteExt + Unpin), backup: &Backup) -> io::Result<()> {
    let parts = backup.parts().to_vec();
    send(writer, &Reply::Ok(Answer::Backup { parts })).await?;
    let mut piece = vec![0; PIECE];
    for part in backup.parts() {
        let file = backup.open(part).map_err(io::Error::other)?;
        let mut file = tokio::fs::File::from_std(file);
        loop {
            let length = file.read(&mut piece).await?;
            if length == 0 {
                break;
            }
            timeout(PATIENCE_PER_PIECE, writer.write_all(&piece[..length])).await??;
        }
    }
    Ok(())
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}

/// The next line without its newline, or `None` at the end. Longer than `max` is an error before it is read whole.
pub(super) async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(max as u64).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() + 1 >= max => Err(io::Error::other(format!(
            "a line is longer than {max} bytes"
        ))),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
