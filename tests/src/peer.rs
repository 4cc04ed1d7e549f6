//! What did that program answer? Runs clients that are not ours (mosquitto, Python, Node) and the gateway's own
//! command line, with a deadline, and takes their output.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::wait::{within, within_time};

const DEADLINE: Duration = Duration::from_secs(60);

/// A command line that is about to run.
pub struct Tool {
    command: Command,
    stdin: String,
}

impl Tool {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
            stdin: String::new(),
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn without_env(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.into();
        self
    }

    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end.
    pub async fn run(self) -> Finished {
        self.run_within(DEADLINE).await
    }

    /// Runs it to its end, which may take as long as `deadline`.
    pub async fn run_within(self, deadline: Duration) -> Finished {
        let shown = format!("{:?}", self.command);
        let mut child = self.spawn_async().await;
        let output = within_time(&format!("the end of {shown}"), deadline, async move {
            drop(child.stdin.take());
            child
                .wait_with_output()
                .await
                .expect("its output can be read")
        })
        .await;
        Finished {
            command: shown,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it, to read its output line by line while it runs. It is killed when the value is dropped.
    pub async fn start(self) -> Running {
        let shown = format!("{:?}", self.command);
        let mut child = self.spawn_async().await;
        drop(child.stdin.take());
        let lines = BufReader::new(child.stdout.take().expect("captured")).lines();
        Running {
            command: shown,
            child,
            lines,
        }
    }

    async fn spawn_async(self) -> Child {
        let Self { mut command, stdin } = self;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| {
            panic!("cannot run {command:?}: {e}; tests/run peers installs what is missing")
        });
        let mut input = child.stdin.take().expect("piped");
        // A program that does not read its input may have closed it already: its own answer tells.
        let _ = input.write_all(stdin.as_bytes()).await;
        child
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// It must have failed by itself, with exactly one line of explanation (not counting what was logged before),
    /// which is returned.
    pub fn expect_one_line_failure(&self) -> String {
        assert!(
            self.status.code().is_some_and(|code| code != 0),
            "it should have failed: {self}"
        );
        let line = |line: &&str| !line.trim().is_empty() && !line.contains(" INFO ");
        let lines: Vec<&str> = self.stderr.lines().filter(line).collect();
        assert_eq!(lines.len(), 1, "one clear line is wanted: {self}");
        lines[0].into()
    }

    /// The one line of its output.
    pub fn only_line(&self) -> String {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert_eq!(lines.len(), 1, "one line is wanted: {self}");
        lines[0].into()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "{} ended with {}\nstdout: {}\nstderr: {}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

/// A program that runs.
pub struct Running {
    command: String,
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line of its output.
    pub async fn line(&mut self) -> String {
        let what = format!("a line from {}", self.command);
        match within(&what, self.lines.next_line())
            .await
            .expect("its output can be read")
        {
            Some(line) => line,
            None => {
                let errors = self.errors().await;
                panic!("{} ended; stderr: {errors}", self.command)
            }
        }
    }

    /// Reads lines up to the first one that contains `part`.
    pub async fn line_with(&mut self, part: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(part) {
                return line;
            }
        }
    }

    async fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = tokio::io::AsyncReadExt::read_to_string(stderr, &mut text).await;
        }
        text
    }
}

/// The folder of the peers' own programs.
pub fn peers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Where `tests/run` keeps what it installs, beside the build.
pub fn installed_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // target/PROFILE/deps/TEST
    let target = test.ancestors().nth(3).expect("the target directory");
    target.join("peers")
}
