//! Where is the gateway under test? Starts the real binary with a data directory of its own on free ports, uses its
//! command line as an operator would, watches its log, and stops it. What it should do is for the tests to say.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Client, tcp, tls};
use crate::packet::{Connect, Version};
use crate::peer::{Finished, Tool};
use crate::tls::ALL_VERSIONS;
use crate::wait::{until, within_time};

mod process;

pub use process::{Log, Process};

/// How long a start may take on a busy machine, with a debug build.
const START: Duration = Duration::from_secs(60);
/// The promise: Ctrl-C and SIGTERM leave within this time.
pub const STOP: Duration = Duration::from_secs(5);

/// A user name and its password.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub password: String,
}

impl Account {
    /// The account that the first start made, from the file it was written to.
    pub fn first(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).expect("first-account was written");
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value
                .unwrap_or_else(|| panic!("no {name:?} in {}", file.display()))
                .to_owned()
        };
        Self {
            name: field("user: "),
            password: field("password: "),
        }
    }
}

/// A gateway that is about to be started.
#[derive(Default)]
pub struct Setup {
    extra: String,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends TOML tables to the configuration.
    pub fn toml(mut self, tables: &str) -> Self {
        self.extra.push_str(tables);
        self.extra.push('\n');
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// Keeps the data directory here instead of in the temporary directory.
    pub fn data_in(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let dir = TempDir::with_prefix("postern-test-").expect("a temporary directory");
        self.start_in(dir).await
    }

    /// Starts the gateway on what another one left behind in `dir`.
    pub async fn start_in(self, dir: TempDir) -> Gateway {
        let config = dir.path().join("postern.toml");
        let data = match self.data {
            Some(data) => data,
            None => dir.path().join("data"),
        };
        std::fs::write(&config, config_text(&data, &self.extra))
            .expect("the configuration can be written");
        let mut tool = gateway_tool().arg("--config").arg(&config);
        for (key, value) in &self.environment {
            tool = tool.env(key, value);
        }
        let _ = std::fs::remove_file(data.join("addresses.json"));
        let process = Process::start(tool);
        wait_until_ready(&process).await;
        let addresses = Addresses::read(&data.join("addresses.json"));
        let admin = Account::first(&data.join("first-account"));
        Gateway {
            dir: Some(dir),
            config,
            data,
            process,
            addresses,
            admin,
            expected: Mutex::new(Vec::new()),
        }
    }
}

/// The configuration of every test: free ports on loopback, and more sessions than the ten of one principal, because
/// the tests log in as the first account.
fn config_text(data: &Path, extra: &str) -> String {
    let limits = if extra.contains("[limits]") {
        ""
    } else {
        "[limits]\nmax_sessions_per_principal = 1000\n"
    };
    format!(
        "data_dir = {data:?}\n[listeners.mqtts]\nbind = [\"127.0.0.1:0\"]\n[listeners.wss]\nbind = [\"127.0.0.1:0\"]\n\
         [listeners.mqtt]\nbind = [\"127.0.0.1:0\"]\n{limits}{extra}"
    )
}

async fn wait_until_ready(process: &Process) {
    let start = Instant::now();
    while !process
        .log()
        .lines()
        .iter()
        .any(|line| line.trim() == "ready")
    {
        if let Some(status) = process.status() {
            panic!(
                "the gateway ended with {status} instead of getting ready:\n{}",
                process.log().text()
            );
        }
        assert!(
            start.elapsed() < START,
            "the gateway was not ready after {START:?}:\n{}",
            process.log().text()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The binary under test: POSTERN_BINARY, else the one beside this test in the target directory.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("POSTERN_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps/TEST");
    let binary = profile.join("postern");
    assert!(
        binary.exists(),
        "{} is missing: cargo build -p gateway",
        binary.display()
    );
    binary
}

/// The binary under test, without any setting from this process's environment.
pub fn gateway_tool() -> Tool {
    let mut tool = Tool::new(binary());
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("POSTERN_") || name == "RUST_LOG" || name == "STATE_DIRECTORY" {
            tool = tool.without_env(&name);
        }
    }
    tool
}

/// Where the gateway listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    pub mqtts: SocketAddr,
    pub wss: SocketAddr,
    pub mqtt: SocketAddr,
}

impl Addresses {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .expect("addresses.json is there when the gateway is ready");
        let json: serde_json::Value = serde_json::from_str(&text).expect("addresses.json is JSON");
        let first = |name: &str| {
            json[name][0]
                .as_str()
                .and_then(|a| a.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        Self {
            mqtts: first("mqtts"),
            wss: first("wss"),
            mqtt: first("mqtt"),
        }
    }
}

/// A running gateway. Dropping it stops it and checks that it left in time, with exit code 0 and no error in its log.
pub struct Gateway {
    dir: Option<TempDir>,
    pub config: PathBuf,
    pub data: PathBuf,
    pub process: Process,
    pub addresses: Addresses,
    /// The first account.
    pub admin: Account,
    /// Error lines with one of these in them are wanted.
    expected: Mutex<Vec<String>>,
}

impl Gateway {
    /// A gateway of this test's own.
    pub async fn start() -> Self {
        Setup::new().start().await
    }

    /// Where the listener of this name listens.
    pub fn listener(&self, name: &str) -> SocketAddr {
        let text = std::fs::read_to_string(self.data.join("addresses.json"))
            .expect("addresses.json is there while the gateway runs");
        let json: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        json[name][0]
            .as_str()
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// The CA certificate that clients trust.
    pub fn ca(&self) -> PathBuf {
        self.data.join("tls/ca.pem")
    }

    /// An open TCP connection to the plain listener.
    pub async fn open(&self) -> Client {
        Client::over(tcp(None, self.addresses.mqtt).await, Version::V5)
    }

    /// An open TLS connection.
    pub async fn open_tls(&self) -> Client {
        Client::over(
            tls(self.addresses.mqtts, &self.ca(), ALL_VERSIONS).await,
            Version::V5,
        )
    }

    /// Fills in the first account where `connect` names no user.
    pub fn login(&self, connect: &Connect) -> Connect {
        let mut connect = connect.clone();
        if connect.username.is_none() && !connect.anonymous {
            connect = connect.user(&self.admin.name, &self.admin.password);
        }
        connect
    }

    /// Connects over plain TCP, as the first account unless `connect` names a user, whatever the answer is.
    pub async fn try_connect(&self, connect: &Connect) -> Client {
        let mut client = self.open().await;
        client.connect(&self.login(connect)).await;
        client
    }

    /// Connects over plain TCP and is let in.
    pub async fn connect(&self, connect: Connect) -> Client {
        let client = self.try_connect(&connect).await;
        assert_eq!(
            client.connack.code, 0,
            "CONNACK refuses {connect:?}: {:?}",
            client.connack
        );
        client
    }

    /// Connects over TLS and is let in.
    pub async fn connect_tls(&self, connect: Connect) -> Client {
        let mut client = self.open_tls().await;
        client.connect(&self.login(&connect)).await;
        assert_eq!(
            client.connack.code, 0,
            "CONNACK refuses {connect:?}: {:?}",
            client.connack
        );
        client
    }

    /// Connects with MQTT 5 and a clean start.
    pub async fn v5(&self, client_id: &str) -> Client {
        self.connect(Connect::v5(client_id)).await
    }

    /// Connects with MQTT 3.1.1 and a clean session.
    pub async fn v311(&self, client_id: &str) -> Client {
        self.connect(Connect::v311(client_id)).await
    }

    /// Runs a verb of the command line against this gateway's configuration.
    pub async fn cli(&self, arguments: &[&str], stdin: &str) -> Finished {
        gateway_tool()
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(stdin)
            .run()
            .await
    }

    /// Adds a user with a generated password and `roles`.
    pub async fn add_user(&self, name: &str, roles: &[&str]) -> Account {
        let mut arguments = vec!["user", "add", name, "--generate"];
        for role in roles {
            arguments.extend(["--role", role]);
        }
        let finished = self.cli(&arguments, "").await.expect_success();
        Account {
            name: name.into(),
            password: finished.only_line(),
        }
    }

    /// Adds a user with a chosen password.
    pub async fn add_user_with(&self, name: &str, password: &str, roles: &[&str]) -> Account {
        let mut arguments = vec!["user", "add", name];
        for role in roles {
            arguments.extend(["--role", role]);
        }
        self.cli(&arguments, &format!("{password}\n"))
            .await
            .expect_success();
        Account {
            name: name.into(),
            password: password.into(),
        }
    }

    /// Adds a rule, given as the words after `postern acl`: `allow publish a/# --user u`.
    pub async fn acl(&self, rule: &str) {
        let mut arguments = vec!["acl"];
        arguments.extend(rule.split_whitespace());
        self.cli(&arguments, "").await.expect_success();
    }

    /// Replaces the tables behind the fixed part of the configuration file, without telling the gateway.
    pub fn write_config(&self, tables: &str) {
        std::fs::write(&self.config, config_text(&self.data, tables))
            .expect("the configuration can be written");
    }

    /// Sends SIGHUP and waits until the log says something new that contains `answer`.
    pub async fn reload(&self, answer: &str) {
        let before = self.process.log().lines().len();
        self.process.signal(libc::SIGHUP);
        until(&format!("\"{answer}\" in the log after SIGHUP"), || {
            self.process.log().lines()[before..]
                .iter()
                .any(|line| line.contains(answer))
        })
        .await;
    }

    /// Lets error lines that contain `part` pass.
    pub fn expect_error(&self, part: &str) {
        self.expected.lock().expect("no poison").push(part.into());
    }

    /// Fails if the log holds a panic or an unexpected error.
    pub fn check_log(&self) {
        let expected = self.expected.lock().expect("no poison").clone();
        let bad: Vec<String> = self
            .process
            .log()
            .lines()
            .into_iter()
            .filter(|line| is_error(line, &expected))
            .collect();
        assert!(
            bad.is_empty(),
            "the gateway logged errors:\n{}",
            bad.join("\n")
        );
    }

    /// Sends SIGTERM, waits for the end within the promised time, and checks exit code and log. What it leaves behind
    /// can be started again.
    pub async fn stop(mut self) -> TempDir {
        self.process.signal(libc::SIGTERM);
        let status = within_time(
            "the gateway to leave after SIGTERM",
            STOP,
            self.process.wait(),
        )
        .await;
        self.check_end(status);
        self.dir.take().expect("stopped once")
    }

    /// Ends the gateway without any chance to clean up.
    pub async fn kill(mut self) -> TempDir {
        self.process.signal(libc::SIGKILL);
        within_time("the gateway to die", STOP, self.process.wait()).await;
        self.dir.take().expect("stopped once")
    }

    fn check_end(&self, status: ExitStatus) {
        assert!(
            status.success(),
            "the gateway ended with {status}:\n{}",
            self.process.log().tail()
        );
        self.check_log();
    }
}

fn is_error(line: &str, expected: &[String]) -> bool {
    let error =
        line.contains(" ERROR ") || line.contains("\"ERROR\"") || line.contains("panicked at");
    error && !expected.iter().any(|part| line.contains(part.as_str()))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.dir.is_none() {
            return;
        }
        if std::thread::panicking() {
            self.process.signal(libc::SIGKILL);
            eprintln!(
                "the end of the gateway's log:\n{}",
                self.process.log().tail()
            );
            return;
        }
        self.process.signal(libc::SIGTERM);
        match self.process.wait_blocking(STOP) {
            Some(status) => self.check_end(status),
            None => {
                self.process.signal(libc::SIGKILL);
                panic!(
                    "the gateway was still there {STOP:?} after SIGTERM:\n{}",
                    self.process.log().tail()
                );
            }
        }
    }
}

/// A gateway that all tests of one file share while any of them runs.
pub struct Shared(Arc<Gateway>);

impl Shared {
    /// The running one, or a new one with `setup`, which must be the same in the whole file.
    pub async fn start(setup: Setup) -> Self {
        static RUNNING: tokio::sync::Mutex<Weak<Gateway>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(gateway) = running.upgrade() {
            return Self(gateway);
        }
        let gateway = Arc::new(setup.start().await);
        *running = Arc::downgrade(&gateway);
        Self(gateway)
    }
}

impl Deref for Shared {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.check_log();
        }
    }
}
