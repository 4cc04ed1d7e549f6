//! How a verb reaches the accounts: through the running gateway, or directly while holding its lock (N3).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, iter};

use broker_config::Config;
use tokio::time::Instant;

use super::CliError;
use crate::admin::{Administration, Answer, Command, ControlClient, Import};
use crate::auth::Settings;
use crate::data_dir::{DataDir, DataDirError, Holder, Lock};
use crate::store::Accounts;
use crate::supervise;

/// How long a gateway that starts or stops may hold the lock without answering.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) enum Reach {
    Running(ControlClient),
    /// No gateway runs, and none can start until this is dropped.
    Direct {
        administration: Arc<Administration>,
        dir: DataDir,
        _lock: Lock,
    },
}

impl Reach {
    /// Finds the way. `may_create`: whether a data directory without accounts should get them.
    pub async fn open(dir: &DataDir, may_create: bool) -> Result<Reach, CliError> {
        match dir.path().join(Accounts::FILE).try_exists() {
            Ok(true) => {}
            // Closed to this user, or never used: then a service may be meant.
            found => {
                if let Some(client) = try_service(dir).await? {
                    return Ok(Reach::Running(client));
                }
                match found {
                    Err(_) => return Err(CliError::Forbidden(dir.path().to_owned())),
                    Ok(_) if may_create => dir.create()?,
                    Ok(_) => return Err(CliError::NoAccounts(dir.path().to_owned())),
                }
            }
        }
        Self::open_within(dir, PATIENCE).await
    }

    /// As [`Reach::open`], for verbs about the server's certificates: where no gateway runs, its files are looked at.
    pub async fn with_certificates(dir: &DataDir, config: &Config) -> Result<Reach, CliError> {
        let reach = Self::open(dir, false).await?;
        if let Reach::Direct { administration, .. } = &reach {
            administration.attach_certificates(supervise::certificates_at_rest(config, dir.path()));
        }
        Ok(reach)
    }

    /// The running gateway of this directory, if there is one; nothing is held or made.
    pub async fn running(dir: &DataDir) -> Result<Option<ControlClient>, CliError> {
        try_service(dir).await
    }

    /// Waits at most this long for a holder of the lock to answer or to leave.
    pub async fn open_within(dir: &DataDir, patience: Duration) -> Result<Reach, CliError> {
        let deadline = Instant::now() + patience;
        loop {
            let holder = match dir.lock() {
                Ok(lock) => return Self::direct(dir, lock).await,
                Err(DataDirError::Held { holder, .. }) => holder,
                Err(error) => return Err(error.into()),
            };
            let socket = holder.socket.clone().unwrap_or_else(|| dir.socket());
            if let Some(client) = try_connect(&socket).await? {
                return Ok(Reach::Running(client));
            }
            if Instant::now() >= deadline {
                return Err(unreachable(dir, &holder, socket));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens, executes one command, and closes.
    pub async fn once(
        dir: &DataDir,
        may_create: bool,
        command: Command,
    ) -> Result<Answer, CliError> {
        let mut reach = Self::open(dir, may_create).await?;
        let answer = reach.execute(command).await;
        reach.close().await?;
        answer
    }

    pub async fn execute(&mut self, command: Command) -> Result<Answer, CliError> {
        match self {
            Reach::Running(client) => Ok(client.execute(&command).await?),
            Reach::Direct { administration, .. } => {
                Ok(administration.execute("command line", command).await?)
            }
        }
    }

    pub async fn import(&mut self, import: &Import) -> Result<Answer, CliError> {
        match self {
            Reach::Running(client) => Ok(client.import(import).await?),
            Reach::Direct { administration, .. } => Ok(administration
                .import("command line", import.clone())
                .await?),
        }
    }

    pub async fn close(self) -> Result<(), CliError> {
        if let Reach::Direct {
            administration,
            dir,
            _lock,
        } = self
        {
            administration.close().await;
            dir.give_to_owner()?;
        }
        Ok(())
    }

    async fn direct(dir: &DataDir, lock: Lock) -> Result<Reach, CliError> {
        // One command at a time: one thread for hashing is enough.
        let settings = Settings {
            password_slots: 1,
            ..Settings::default()
        };
        let administration = Administration::open(dir.path(), settings).await?;
        Ok(Reach::Direct {
            administration,
            dir: dir.clone(),
            _lock: lock,
        })
    }
}

/// Where a service listens whose data directory we cannot look into: its runtime directory may be open to its group.
async fn try_service(dir: &DataDir) -> Result<Option<ControlClient>, CliError> {
    let mut closed = None;
    for socket in iter::once(dir.socket()).chain(dir.service_socket().map(Path::to_owned)) {
        match try_connect(&socket).await {
            Err(error) => closed = Some(error),
            Ok(None) => {}
            connected => return connected,
        }
    }
    closed.map_or(Ok(None), Err)
}

/// `None` if nobody listens there.
async fn try_connect(socket: &Path) -> Result<Option<ControlClient>, CliError> {
    match ControlClient::connect(socket).await {
        Ok(client) => Ok(Some(client)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(CliError::Forbidden(socket.to_owned()))
        }
        Err(_) => Ok(None),
    }
}

fn unreachable(dir: &DataDir, holder: &Holder, socket: PathBuf) -> CliError {
    let holder = holder
        .pid
        .map_or("another process".to_owned(), |pid| format!("process {pid}"));
    CliError::Unreachable {
        path: dir.path().to_owned(),
        holder,
        socket,
    }
}
