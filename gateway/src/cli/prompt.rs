//! Reading a new password: from the terminal without showing it, or one line of standard input. Never an argument,
//! which every process on the machine could read.

use std::io::{self, BufRead, IsTerminal, Stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::CliError;
use crate::admin::Secret;

/// Longer input is no password; it is not read further.
const LINE_MAX: u64 = 4096;

pub(super) async fn new_password() -> Result<Secret, CliError> {
    if !io::stdin().is_terminal() {
        let line = tokio::task::spawn_blocking(|| read_password(io::stdin().lock()));
        return line.await.map_err(|_| CliError::Interrupted)?;
    }
    let hidden = HiddenInput::start()?;
    let first = ask("New password: ").await?;
    let second = ask("The same again: ").await?;
    drop(hidden);
    if first != second {
        return Err(CliError::Password(
            "the two passwords differ; nothing was changed",
        ));
    }
    Ok(first)
}

async fn ask(prompt: &str) -> Result<Secret, CliError> {
    eprint!("{prompt}");
    let line = tokio::task::spawn_blocking(|| read_password(io::stdin().lock()));
    let answer = tokio::select! {
        answer = line => answer.map_err(|_| CliError::Interrupted)?,
        // Caught, so that the terminal shows its input again before this process ends.
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    eprintln!();
    answer
}

/// One line without its line end.
fn read_password(reader: impl BufRead) -> Result<Secret, CliError> {
    let mut line = Vec::new();
    reader
        .take(LINE_MAX)
        .read_until(b'\n', &mut line)
        .map_err(CliError::Input)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(CliError::Password(
            "no password was given; type one, pipe one in, or use --generate",
        )),
        Ok(password) => Ok(Secret(password.to_owned())),
        Err(_) => Err(CliError::Password(
            "the password is not UTF-8; choose another, or use --generate",
        )),
    }
}

/// While this lives the terminal does not show what is typed.
struct HiddenInput {
    stdin: Stdin,
    before: Termios,
}

impl HiddenInput {
    fn start() -> Result<Self, CliError> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).map_err(|error| CliError::Input(error.into()))?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden)
            .map_err(|error| CliError::Input(error.into()))?;
        Ok(HiddenInput { stdin, before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // Nothing is left to do if the terminal is gone.
        let _ = tcsetattr(&self.stdin, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_without_its_end_and_with_its_spaces() {
        for (input, expected) in [
            ("secret\n", "secret"),
            ("secret", "secret"),
            ("a b \r\n", "a b "),
            ("one\ntwo\n", "one"),
            ("jörg\n", "jörg"),
        ] {
            assert_eq!(read_password(input.as_bytes()).unwrap().0, expected);
        }
        for bad in [&b""[..], b"\n", b"\r\n", b"\xff\n"] {
            assert!(
                matches!(read_password(bad), Err(CliError::Password(_))),
                "{bad:?}"
            );
        }
    }
}
