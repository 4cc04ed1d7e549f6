//! `postern` and `postern run`: the gateway itself, until a signal ends it.

use std::io::{self, IsTerminal, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, settings::SettingsArgs};
use crate::{
    admin::FirstAccount,
    supervise::{Gateway, logging},
};

pub(super) async fn run(settings: &SettingsArgs) -> Result<(), CliError> {
    let config = settings.load()?;
    logging::start(&config.log);
    raise_open_files();
    let mut signals = Signals::listen().map_err(CliError::Input)?;
    let mut gateway = Gateway::start(config).await?;
    let first = gateway.take_first_account();
    let banner = banner(&gateway, first.as_ref());
    let shown = io::stdout().is_terminal();
    print(&banner);
    if let Some(first) = first {
        if shown {
            first.was_shown()?;
        } else {
            tracing::info!(path = %first.file.display(), "the first account and its password");
        }
    }
    print("\nready\n");
    loop {
        let request = tokio::select! {
            request = signals.next() => request,
            () = gateway.died() => return Err(CliError::Died),
        };
        match request {
            Request::Reload => reload(&gateway, settings).await,
            Request::Stop => break,
        }
    }
    tracing::info!("stopping: clients are told, new ones are turned away");
    tokio::select! {
        () = gateway.stop() => {}
        // Whoever asks twice does not want to wait.
        Request::Stop = signals.next() => {}
    }
    Ok(())
}

/// A closed standard output is no reason to stop serving.
fn print(text: &str) {
    let mut out = io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A connection is an open file, and shells like to allow 1,024: as many as the system lets us have are taken.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
}

async fn reload(gateway: &Gateway, settings: &SettingsArgs) {
    let config = match settings.load() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(
                "the configuration was not reloaded, the old one stays in force: {error}"
            );
            gateway.note_reload(Err(&error.to_string()));
            return;
        }
    };
    let reloaded = gateway.reload(config).await;
    let failure = reloaded.as_ref().err().map(ToString::to_string);
    gateway.note_reload(failure.as_deref().map_or(Ok(()), Err));
    match reloaded {
        Ok(waiting) if waiting.is_empty() => tracing::info!("the configuration was reloaded"),
        Ok(waiting) => {
            let waiting = waiting.join(", ");
            tracing::warn!(
                "the configuration was reloaded; these keys wait for a restart: {waiting}"
            );
        }
        Err(error) => {
            tracing::error!(
                "the configuration was not reloaded, the old one stays in force: {error}"
            );
        }
    }
}

enum Request {
    Stop,
    Reload,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }
}

/// What a newcomer needs: where it listens, whom it trusts, and lines that work when they are pasted.
fn banner(gateway: &Gateway, first: Option<&FirstAccount>) -> String {
    use std::fmt::Write;
    let mut text = format!("Postern {} serves MQTT\n\n", env!("CARGO_PKG_VERSION"));
    for (name, addresses) in gateway.addresses().iter() {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  {name:<8} {}", addresses.join(", "));
    }
    let _ = writeln!(text, "  data     {}", gateway.data_dir().display());
    let _ = writeln!(
        text,
        "  SHA-256 of the certificate: {}",
        gateway.fingerprint()
    );
    if let Some(lines) = example(gateway, first) {
        text.push_str(&lines);
    }
    text
}

/// How to connect with mosquitto's clients: a subscriber in one terminal, a publisher in another.
fn example(gateway: &Gateway, first: Option<&FirstAccount>) -> Option<String> {
    use std::fmt::Write;
    let port = gateway.addresses().listener("mqtts").first()?.port();
    let mut text = String::new();
    let (user, password) = match first {
        Some(first) if io::stdout().is_terminal() => {
            let _ = writeln!(
                text,
                "\nFirst account, shown once: {}  {}",
                first.name, first.password.0
            );
            (first.name, format!("'{}'", first.password.0))
        }
        Some(first) => {
            let file = shell(&first.file.display().to_string());
            let _ = writeln!(
                text,
                "\nThe password of the first account, {}, is in {file}",
                first.name
            );
            (
                first.name,
                format!("\"$(sed -n 's/^password: //p' {file})\""),
            )
        }
        None => ("USER", "'PASSWORD'".to_owned()),
    };
    let trust = gateway.ca_certificate().map_or(String::new(), |ca| {
        format!(" --cafile {}", shell(&ca.display().to_string()))
    });
    let common = format!("-h localhost -p {port}{trust} -u {user} -P {password}");
    let _ = write!(
        text,
        "\nTry it, each line in a terminal of its own:\n  mosquitto_sub {common} -t 'hello/#' -v\n  \
         mosquitto_pub {common} -t hello/world -m 'it works'\n"
    );
    Some(text)
}

/// Quotes a word for a shell, if it needs it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(
            shell("/var/lib/postern/tls/ca.pem"),
            "/var/lib/postern/tls/ca.pem"
        );
        assert_eq!(shell("a b"), "'a b'");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }
}
