//! A real Mosquitto with a configuration of the test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use postern_tests::peer::{Finished, Running, Tool};
use postern_tests::wait::until;
use tempfile::TempDir;

pub struct Mosquitto {
    pub address: SocketAddr,
    pub conf: PathBuf,
    pub dir: TempDir,
    _process: Running,
}

impl Mosquitto {
    /// A folder for its files.
    pub fn folder() -> TempDir {
        TempDir::with_prefix("postern-mosquitto-").expect("a temporary directory")
    }

    /// Starts it on a free port of loopback, with this behind the listener.
    pub async fn start(dir: TempDir, settings: &str) -> Mosquitto {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let conf = dir.path().join("mosquitto.conf");
        let log = dir.path().join("log");
        // As root it would become the user mosquitto, who cannot read the folder.
        let text = format!(
            "user root\nlog_dest file {}\nlistener {} 127.0.0.1\n{settings}",
            log.display(),
            address.port()
        );
        std::fs::write(&conf, text).expect("the configuration can be written");
        let process = Tool::new(program()).arg("-c").arg(&conf).start().await;
        until("Mosquitto to listen (see its log)", || {
            TcpStream::connect(address).is_ok()
        })
        .await;
        Mosquitto {
            address,
            conf,
            dir,
            _process: process,
        }
    }

    /// `mosquitto_ctrl`, as this user of the dynamic security plugin.
    pub async fn control(&self, user: &str, password: &str, words: &str) {
        let port = self.address.port().to_string();
        let tool = Tool::new("mosquitto_ctrl").args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-u",
            user,
            "-P",
            password,
        ]);
        let done = tool
            .arg("dynsec")
            .args(words.split_whitespace())
            .run()
            .await;
        let complaint = done.stdout.contains("rror") || done.stderr.contains("rror");
        assert!(!complaint, "{done}");
        done.expect_success();
    }
}

/// Debian keeps it in /usr/sbin, which is not on every user's path.
fn program() -> &'static str {
    let debian = "/usr/sbin/mosquitto";
    if Path::new(debian).exists() {
        debian
    } else {
        "mosquitto"
    }
}

/// Adds a password in the form of `-H`.
pub async fn passwd(file: &Path, form: &str, name: &str, password: &str) -> Finished {
    if !file.exists() {
        std::fs::write(file, "").expect("the password file can be made");
    }
    let tool = Tool::new("mosquitto_passwd")
        .args(["-H", form, "-b"])
        .arg(file);
    tool.args([name, password]).run().await.expect_success()
}

/// The dynamic security plugin of the Debian package.
pub fn dynsec_plugin() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib");
    let mut candidates = folders
        .flatten()
        .map(|folder| folder.path().join("mosquitto_dynamic_security.so"));
    let found = candidates.find(|path| path.exists());
    found.expect("the Debian package mosquitto brings mosquitto_dynamic_security.so: tests/run peers installs it")
}
