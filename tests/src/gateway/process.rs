//! Is it still running, and what did it say? A child process that dies with the test, and its captured output.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::peer::Tool;

/// How long a stopped process may take to leave the kernel: as long as a slow disk takes to sync.
const FREEZE: Duration = Duration::from_secs(30);

/// A started process.
pub struct Process {
    pid: u32,
    ended: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    log: Log,
}

impl Process {
    /// Starts `tool` with its output captured.
    ///
    /// The thread that starts it also waits for it: the kernel's parent-death signal comes when that thread ends, so
    /// the child dies with the test process, however that ends, and never before.
    pub fn start(tool: Tool) -> Self {
        let log = Log::default();
        let ended = Arc::new((Mutex::new(None), Condvar::new()));
        let (sender, receiver) = mpsc::channel();
        let (thread_log, thread_ended) = (log.clone(), ended.clone());
        thread::spawn(move || {
            let mut child = spawn(tool);
            let readers = [
                thread_log.follow(child.stdout.take().expect("captured")),
                thread_log.follow(child.stderr.take().expect("captured")),
            ];
            sender.send(child.id()).expect("the starter waits for it");
            let status = child.wait().expect("the child can be waited for");
            for reader in readers {
                let _ = reader.join();
            }
            *thread_ended.0.lock().expect("no poison") = Some(status);
            thread_ended.1.notify_all();
        });
        let pid = receiver.recv().expect("the process could be started");
        Self { pid, ended, log }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Everything it wrote to stdout and stderr.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How it ended, if it did.
    pub fn status(&self) -> Option<ExitStatus> {
        *self.ended.0.lock().expect("no poison")
    }

    /// Sends a signal, unless the process has ended.
    pub fn signal(&self, signal: i32) {
        if self.status().is_none() {
            // SAFETY: kill takes two integers and touches no memory of ours.
            unsafe { libc::kill(self.pid as libc::pid_t, signal) };
        }
    }

    /// Sends SIGSTOP and waits until no thread of it runs any more: whatever a thread was doing in the kernel is complete
    /// by then. A process that has ended counts as stopped.
    ///
    /// # Errors
    /// A thread that is still not stopped after [`FREEZE`], as `/proc` describes it.
    pub async fn freeze(&self) -> Result<(), String> {
        self.signal(libc::SIGSTOP);
        let start = Instant::now();
        loop {
            let Some(running) = self.running_thread() else {
                return Ok(());
            };
            if self.status().is_some() {
                return Ok(());
            }
            if start.elapsed() > FREEZE {
                return Err(format!("not stopped after {FREEZE:?}: {running}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A thread that is neither stopped nor dead: its line in `/proc`.
    fn running_thread(&self) -> Option<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let lines = tasks.flatten().filter_map(|task| {
            // A thread that ends meanwhile has no file any more.
            std::fs::read_to_string(task.path().join("stat")).ok()
        });
        lines.map(|line| line.trim().to_owned()).find(|line| {
            // The state follows the name, which may hold anything, in parentheses.
            let state = line
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            !matches!(state, Some('T' | 'Z' | 'X'))
        })
    }

    /// Waits for the end.
    pub async fn wait(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the end for at most `deadline`, without a runtime.
    pub fn wait_blocking(&self, deadline: Duration) -> Option<ExitStatus> {
        let (status, changed) = &*self.ended;
        let guard = status.lock().expect("no poison");
        *changed
            .wait_timeout_while(guard, deadline, |status| status.is_none())
            .expect("no poison")
            .0
    }

    /// Resident memory in KiB (VmRSS).
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .expect("the process runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number")
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .expect("the process runs")
            .count()
    }
}

fn spawn(tool: Tool) -> Child {
    let mut command = tool.into_command();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: prctl is async-signal-safe and only sets an attribute of the new process.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"))
}

/// Captured lines.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no poison").clone()
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn follow(&self, stream: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                log.0
                    .lock()
                    .expect("no poison")
                    .push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }
}
