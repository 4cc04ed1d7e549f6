//! The other end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::control::{LINE_MAX, read_line};
use super::{AdminError, Answer, Command, Reply};

/// Longest answer, in bytes: a page of a list.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// A command may wait for a place in the password pool.
const PATIENCE: Duration = Duration::from_secs(60);

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
        let reply = timeout(PATIENCE, self.exchange(command)).await;
        let unanswered = |problem: String| AdminError::Unanswered {
            path: self.path.clone(),
            problem,
        };
        match reply {
            Ok(Ok(Reply::Ok(answer))) => Ok(answer),
            Ok(Ok(Reply::Error(text))) => Err(AdminError::Refused(text)),
            Ok(Err(error)) => Err(unanswered(error.to_string())),
            Err(_) => Err(unanswered(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            ))),
        }
    }

    async fn exchange(&mut self, command: &Command) -> io::Result<Reply> {
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
        match read_line(&mut self.reader, ANSWER_MAX).await {
            Ok(Some(answer)) => Ok(serde_json::from_slice(&answer)?),
            Ok(None) => Err(written
                .err()
                .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(error),
        }
    }
}
