//! How is a TXT record set for DNS-01? By a program of the operator, because every DNS provider is
//! another one.
//!
//! It is run as `PROGRAM [ARGUMENTS] present|cleanup DOMAIN RECORD VALUE`, without a shell, with
//! `PATH` and `HOME` as its only environment and nothing to read. Exit status 0 means done. Two values
//! may be there for one record at once (a domain and its wildcard): it must add, not replace.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::state::TxtRecord;
use super::{AcmeError, DnsHook};

/// Output that is read; what a program writes beyond it is thrown away.
const OUTPUT_MAX: usize = 16 * 1024;
/// Output that an error quotes, in characters.
const QUOTED_MAX: usize = 400;

/// What the program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Present,
    Cleanup,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

impl DnsHook {
    /// Runs the program and waits for its end.
    ///
    /// # Errors
    /// [`AcmeError::Hook`] if it cannot be run, fails, or takes too long; it is then killed.
    pub(super) async fn run(&self, action: Action, record: &TxtRecord) -> Result<(), AcmeError> {
        let failed = |problem: String| AcmeError::Hook {
            program: self.program.clone(),
            problem,
        };
        let child = self.start(action, record).map_err(|error| {
            failed(format!(
                "cannot be run: {error}; correct acme.dns_hook, or make it executable"
            ))
        })?;
        let (status, output) = tokio::time::timeout(self.timeout, finish(child))
            .await
            .map_err(|_| failed(self.too_slow(action, record)))?
            .map_err(|error| failed(format!("cannot be waited for: {error}")))?;
        let said = quotable(&output, &record.value);
        if !status.success() {
            let said = match said.as_str() {
                "" => "and said nothing".to_owned(),
                said => format!("and said: {said}"),
            };
            return Err(failed(format!(
                "failed to {} the record {} ({status}) {said}",
                action.as_str(),
                record.name
            )));
        }
        tracing::info!(
            program = %self.program.display(),
            action = action.as_str(),
            record = record.name,
            said,
            "the DNS hook is done"
        );
        Ok(())
    }

    fn start(&self, action: Action, record: &TxtRecord) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .args([action.as_str(), &record.domain, &record.name, &record.value])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            // With its children: a shell script that is killed alone leaves them behind.
            .process_group(0)
            .kill_on_drop(true);
        for name in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.spawn()
    }

    fn too_slow(&self, action: Action, record: &TxtRecord) -> String {
        format!(
            "was killed: it was not done after {:?} with {} {}; make it faster, or raise \
             acme.dns_hook_timeout",
            self.timeout,
            action.as_str(),
            record.name
        )
    }

    /// Whether the program is there and may be run, in words if not.
    pub(super) fn problem(&self) -> Option<String> {
        let program = self.program.display();
        match executable(&self.program) {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "the DNS hook {program} is not executable: chmod +x it"
            )),
            Err(error) => Some(format!(
                "the DNS hook {program} is not there ({error}): correct acme.dns_hook"
            )),
        }
    }
}

/// Kills the whole group of a program that is given up.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

async fn finish(mut child: Child) -> std::io::Result<(std::process::ExitStatus, Vec<u8>)> {
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = async { tokio::join!(read(stdout), read(stderr)) };
    tokio::pin!(output);
    let (status, all) = tokio::select! {
        all = &mut output => (child.wait().await?, Some(all)),
        status = child.wait() => (status?, None),
    };
    // What it left running in the background may hold its output open.
    let (mut said, errors) = match all {
        Some(all) => all,
        None => tokio::time::timeout(LAST_WORDS, output)
            .await
            .unwrap_or_default(),
    };
    group.0 = None;
    said.extend(errors);
    Ok((status, said))
}

/// How long output may still come after the program has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return kept;
    };
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        let room = OUTPUT_MAX - kept.len();
        kept.extend_from_slice(&piece[..length.min(room)]);
    }
    kept
}

/// The end of the output in one line, without the value of the record: values of challenges are in
/// no log.
fn quotable(output: &[u8], value: &str) -> String {
    let text = String::from_utf8_lossy(output).replace(value, "VALUE");
    let line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let skip = line.chars().count().saturating_sub(QUOTED_MAX);
    line.chars().skip(skip).collect()
}

fn executable(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path)?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Instant;

    fn record() -> TxtRecord {
        TxtRecord {
            domain: "a.example".to_owned(),
            name: "_acme-challenge.a.example".to_owned(),
            value: "s3cret-value".to_owned(),
        }
    }

    fn hook(directory: &Path, script: &str) -> DnsHook {
        let program: PathBuf = directory.join("hook");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        DnsHook {
            program,
            arguments: vec!["--zone".to_owned()],
            timeout: Duration::from_secs(10),
            propagation: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn the_hook_gets_its_arguments_and_hardly_any_environment() {
        let directory = tempfile::tempdir().unwrap();
        let seen = directory.path().join("seen");
        let script = format!("{{ echo \"$@\"; env | sort; }} > {}", seen.display());
        let hook = hook(directory.path(), &script);
        hook.run(Action::Present, &record()).await.unwrap();
        let seen = fs::read_to_string(seen).unwrap();
        let mut lines = seen.lines();
        assert_eq!(
            lines.next(),
            Some("--zone present a.example _acme-challenge.a.example s3cret-value")
        );
        for line in lines {
            let name = line.split('=').next().unwrap();
            // The shell adds some of its own.
            assert!(
                ["PATH", "HOME", "PWD", "_", "OLDPWD", "SHLVL"].contains(&name),
                "{line}"
            );
        }
    }

    #[tokio::test]
    async fn a_hook_that_fails_is_quoted_without_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook(directory.path(), "echo \"no zone for $5\" >&2; exit 3");
        let error = hook.run(Action::Cleanup, &record()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no zone for VALUE"), "{text}");
        assert!(text.contains("exit status: 3") && text.contains("cleanup"));
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 600 & echo $! > {}; wait", pids.display());
        let hook = DnsHook {
            timeout: Duration::from_millis(500),
            ..hook(directory.path(), &script)
        };
        let begun = Instant::now();
        let error = hook.run(Action::Present, &record()).await.unwrap_err();
        assert!(error.to_string().contains("dns_hook_timeout"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(9));
        let pid = fs::read_to_string(pids).unwrap();
        let state = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "the child of the hook lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_hook_that_is_not_there_or_not_executable_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut hook = hook(directory.path(), "exit 0");
        assert_eq!(hook.problem(), None);
        fs::set_permissions(&hook.program, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(hook.problem().unwrap().contains("chmod"));
        hook.program = directory.path().join("absent");
        assert!(hook.problem().unwrap().contains("acme.dns_hook"));
        let error = hook.run(Action::Present, &record()).await.unwrap_err();
        assert!(error.to_string().contains("cannot be run"), "{error}");
    }

    #[tokio::test]
    async fn endless_output_is_read_and_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let hook = hook(directory.path(), "yes | head -c 3000000; exit 1");
        let error = hook.run(Action::Present, &record()).await.unwrap_err();
        assert!(error.to_string().len() < 1_000);
    }
}
