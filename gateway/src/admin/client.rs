//! The other end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{error::Elapsed, timeout};

use super::control::{LINE_MAX, read_line};
use super::{AdminError, Answer, Command, Import, PartLine, Reply, command::Transfer};

/// Longest answer, in bytes: a revocation list, with its line ends escaped.
const ANSWER_MAX: usize = 20 << 20;
/// A command may wait for a place in the password pool.
const PATIENCE: Duration = Duration::from_secs(60);
/// Copying a large message store takes as long as its disk does.
const PATIENCE_FOR_COPIES: Duration = Duration::from_secs(1800);

/// A connection to a running gateway.
pub struct ControlClient {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    path: PathBuf,
}

impl ControlClient {
    pub async fn connect(path: &Path) -> io::Result<ControlClient> {
        let stream = timeout(Duration::from_secs(5), UnixStream::connect(path)).await??;
        let (reader, writer) = stream.into_split();
        Ok(ControlClient {
            reader: BufReader::new(reader),
            writer,
            path: path.to_owned(),
        })
    }

    /// Has the gateway execute a command. A refusal comes back as [`AdminError::Refused`], in the gateway's words.
    pub async fn execute(&mut self, command: &Command) -> Result<Answer, AdminError> {
        self.ask(command, PATIENCE).await
    }

    /// Has the gateway take accounts and rules over.
    pub async fn import(&mut self, import: &Import) -> Result<Answer, AdminError> {
        let text =
            serde_json::to_vec(import).map_err(|error| self.unanswered(error.to_string()))?;
        let (bytes, max) = (text.len(), Import::MAX_BYTES);
        if bytes > max {
            return Err(AdminError::TooMuch {
                what: "bytes",
                count: bytes,
                max,
            });
        }
        let exchange = async {
            let mut line = serde_json::to_vec(&Transfer::Import { bytes })?;
            line.push(b'\n');
            line.extend_from_slice(&text);
            let written = self.writer.write_all(&line).await;
            self.reply(written).await
        };
        let answered = timeout(PATIENCE, exchange).await;
        self.understood(answered, PATIENCE)
    }

    /// Has the gateway make a backup. The contents of its parts, in this order, are then read with
    /// [`Self::read_piece`].
    pub async fn backup(&mut self) -> Result<Vec<PartLine>, AdminError> {
        match self.ask(&Transfer::Backup, PATIENCE_FOR_COPIES).await? {
            Answer::Backup { parts } => Ok(parts),
            _ => Err(self.unanswered("it is of another version".to_owned())),
        }
    }

    /// The next bytes of a backup, at least one.
    pub async fn read_piece(&mut self, piece: &mut [u8]) -> Result<usize, AdminError> {
        let problem = match timeout(PATIENCE, self.reader.read(piece)).await {
            Ok(Ok(0)) => "it ended in the middle of the backup".to_owned(),
            Ok(Ok(length)) => return Ok(length),
            Ok(Err(error)) => error.to_string(),
            Err(_) => nothing_within(PATIENCE),
        };
        Err(self.unanswered(problem))
    }

    async fn ask(
        &mut self,
        command: &impl Serialize,
        patience: Duration,
    ) -> Result<Answer, AdminError> {
        let answered = timeout(patience, self.exchange(command)).await;
        self.understood(answered, patience)
    }

    fn understood(
        &self,
        answered: Result<io::Result<Reply>, Elapsed>,
        patience: Duration,
    ) -> Result<Answer, AdminError> {
        match answered {
            Ok(Ok(Reply::Ok(answer))) => Ok(answer),
            Ok(Ok(Reply::Error(text))) => Err(AdminError::Refused(text)),
            Ok(Err(error)) => Err(self.unanswered(error.to_string())),
            Err(_) => Err(self.unanswered(nothing_within(patience))),
        }
    }

    fn unanswered(&self, problem: String) -> AdminError {
        AdminError::Unanswered {
            path: self.path.clone(),
            problem,
        }
    }

    async fn exchange(&mut self, command: &impl Serialize) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        if line.len() > LINE_MAX {
            return Err(io::Error::other(format!(
                "the command has {} bytes, at most {LINE_MAX} fit",
                line.len()
            )));
        }
        // A gateway that refuses us answers and closes without reading: its answer counts, not our failed write.
        let written = self.writer.write_all(&line).await;
        self.reply(written).await
    }

    async fn reply(&mut self, written: io::Result<()>) -> io::Result<Reply> {
        match read_line(&mut self.reader, ANSWER_MAX).await {
            Ok(Some(answer)) => Ok(serde_json::from_slice(&answer)?),
            Ok(None) => Err(written
                .err()
                .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(error),
        }
    }
}

fn nothing_within(patience: Duration) -> String {
    format!("no answer within {} s", patience.as_secs())
}
