//! Start, stop, and everything that can be wrong at a start: one clear line, and an exit code that is not 0.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use postern_tests::client::tcp;
use postern_tests::gateway::{Process, STOP, binary, gateway_tool};
use postern_tests::packet::{Packet, Will};
use postern_tests::peer::{Finished, Tool};
use postern_tests::wait::{until, until_some, within};
use postern_tests::{Connect, Gateway, Publish, Setup};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Free ports by environment, as a start without any configuration file.
fn without_a_file(data: &Path) -> Tool {
    gateway_tool()
        .env("STATE_DIRECTORY", data)
        .env("POSTERN__LISTENERS__MQTTS__BIND", r#"["127.0.0.1:0"]"#)
        .env("POSTERN__LISTENERS__WSS__BIND", r#"["127.0.0.1:0"]"#)
        .env("POSTERN__LISTENERS__MQTT__BIND", r#"["127.0.0.1:0"]"#)
}

/// A directory with a configuration that would start.
fn prepared() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary directory");
    let config = dir.path().join("postern.toml");
    let listeners = ["mqtts", "wss", "mqtt"]
        .map(|name| format!("[listeners.{name}]\nbind = [\"127.0.0.1:0\"]\n"));
    fs::write(
        &config,
        format!(
            "data_dir = {:?}\n{}",
            dir.path().join("data"),
            listeners.concat()
        ),
    )
    .expect("written");
    (dir, config)
}

async fn start(config: &Path) -> Finished {
    gateway_tool().arg("--config").arg(config).run().await
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

/// The banner's two example lines.
fn pasted(lines: &[String]) -> (String, String) {
    let line = |name: &str| {
        let found = lines
            .iter()
            .find(|line| line.trim_start().starts_with(name));
        found
            .unwrap_or_else(|| panic!("no {name} line in {lines:#?}"))
            .trim()
            .to_owned()
    };
    (line("mosquitto_sub"), line("mosquitto_pub"))
}

/// Runs the example lines in a shell, as a newcomer would, until the subscriber has a message.
async fn try_example(sub: &str, publish: &str) {
    let subscriber = tokio::spawn(
        Tool::new("sh")
            .args(["-c", &format!("{sub} -C 1 -W 15")])
            .run(),
    );
    until_some("the example's message", async || {
        Tool::new("sh")
            .args(["-c", publish])
            .run()
            .await
            .expect_success();
        subscriber.is_finished().then_some(())
    })
    .await;
    let subscriber = subscriber.await.expect("it ran").expect_success();
    assert_eq!(subscriber.only_line(), "hello/world it works");
}

async fn ready(process: &Process) {
    until("the line \"ready\"", || {
        assert!(
            process.status().is_none(),
            "it ended:\n{}",
            process.log().text()
        );
        process
            .log()
            .lines()
            .iter()
            .any(|line| line.trim() == "ready")
    })
    .await;
}

#[tokio::test]
async fn a_start_without_configuration_prints_lines_that_work_when_pasted() {
    let dir = TempDir::new().expect("a temporary directory");
    let data = dir.path().join("state");
    let process = Process::start(without_a_file(&data));
    ready(&process).await;
    let lines = process.log().lines();
    assert_eq!(
        lines
            .iter()
            .rfind(|line| !line.contains(" INFO "))
            .map(String::as_str),
        Some("ready")
    );
    let (sub, publish) = pasted(&lines);
    try_example(&sub, &publish).await;
    // I6: into a file only its owner reads; nowhere else.
    let text = fs::read_to_string(data.join("first-account")).expect("the file is there");
    let password = text
        .lines()
        .find_map(|line| line.strip_prefix("password: "))
        .expect("a password");
    assert!(
        !process.log().text().contains(password),
        "the password is not in the log"
    );
    process.signal(libc::SIGTERM);
    assert!(process.wait_blocking(STOP).expect("it leaves").success());
}

/// A gateway that thinks it talks to a person: `script` gives it a terminal.
async fn in_a_terminal(config: &Path) -> tokio::process::Child {
    let command = format!(
        "exec '{}' --config '{}'",
        binary().display(),
        config.display()
    );
    tokio::process::Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("script is part of util-linux")
}

// I6: on a terminal the password is shown once and written nowhere. Ctrl-C stops.
#[tokio::test]
async fn on_a_terminal_the_first_password_is_shown_once_and_ctrl_c_stops() {
    let (dir, config) = prepared();
    for round in 0..2 {
        let mut terminal = in_a_terminal(&config).await;
        let mut keyboard = terminal.stdin.take().expect("piped");
        let mut screen = BufReader::new(terminal.stdout.take().expect("piped")).lines();
        let mut lines = Vec::new();
        loop {
            let line = within("the banner", screen.next_line())
                .await
                .expect("readable")
                .expect("it runs");
            let line = line.trim_end().to_owned();
            let done = line.trim() == "ready";
            lines.push(line);
            if done {
                break;
            }
        }
        let shown = lines.iter().any(|line| line.contains("shown once"));
        assert_eq!(shown, round == 0, "{lines:#?}");
        assert!(
            !dir.path().join("data/first-account").exists(),
            "it was shown, so it is not kept"
        );
        if shown {
            let (sub, publish) = pasted(&lines);
            try_example(&sub, &publish).await;
        }
        let asked = Instant::now();
        keyboard.write_all(&[3]).await.expect("Ctrl-C is typed");
        let status = within("the end after Ctrl-C", terminal.wait())
            .await
            .expect("it ran");
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < STOP, "it took {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn everything_secret_is_readable_by_its_owner_alone() {
    let gateway = Gateway::start().await;
    assert_eq!(mode(&gateway.data), 0o700);
    for file in [
        "accounts.db",
        "first-account",
        "secret.key",
        "tls/ca.key",
        "tls/server.key",
    ] {
        assert_eq!(mode(&gateway.data.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&gateway.ca()), 0o644);
    assert_eq!(mode(&gateway.data.join("control.sock")) & !0o660, 0);
}

#[tokio::test]
async fn a_second_start_reuses_everything() {
    let gateway = Gateway::start().await;
    let user = gateway.add_user("user", &[]).await;
    gateway.acl("allow subscribe a/# --user user").await;
    let admin = gateway.admin.clone();
    let kept = [
        "tls/ca.pem",
        "tls/ca.key",
        "tls/server.pem",
        "tls/server.key",
        "secret.key",
        "first-account",
    ];
    let before = kept.map(|file| fs::read(gateway.data.join(file)).expect("readable"));
    let dir = gateway.stop().await;
    let gateway = Setup::new().start_in(dir).await;
    assert_eq!(
        before,
        kept.map(|file| fs::read(gateway.data.join(file)).expect("readable"))
    );
    gateway
        .connect_tls(Connect::v5("admin").user(&admin.name, &admin.password))
        .await;
    let mut client = gateway
        .connect(Connect::v5("a").user(&user.name, &user.password))
        .await;
    assert_eq!(client.subscribe("a/b", 1).await, 1);
    assert_eq!(client.subscribe("b", 1).await, 0x87);
}

// What is acknowledged to the operator is there after the hardest end.
#[tokio::test]
async fn accounts_and_rules_survive_a_kill() {
    let gateway = Gateway::start().await;
    let user = gateway.add_user("user", &[]).await;
    gateway.acl("allow publish a --user user").await;
    let dir = gateway.kill().await;
    let gateway = Setup::new().start_in(dir).await;
    let mut client = gateway
        .connect(Connect::v5("a").user(&user.name, &user.password))
        .await;
    assert!(client.publish(Publish::new("a", "x").qos(1)).await < 0x80);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (_dir, config) = prepared();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let text = fs::read_to_string(&config).expect("readable");
    for name in ["mqtts", "wss", "mqtt"] {
        let table = format!("[listeners.{name}]\nbind = [\"127.0.0.1:");
        fs::write(
            &config,
            text.replace(&format!("{table}0"), &format!("{table}{port}")),
        )
        .expect("written");
        let line = start(&config).await.expect_one_line_failure();
        assert!(
            line.contains(&port.to_string()) && line.contains(name) && line.contains("in use"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let (dir, config) = prepared();
    let data = dir.path().join("data");
    fs::write(&data, "I am a file").expect("written");
    let line = start(&config).await.expect_one_line_failure();
    assert!(line.contains(&data.display().to_string()), "{line}");
    assert_eq!(
        fs::read_to_string(&data).expect("still there"),
        "I am a file"
    );
}

// Root reads everything, so that this runs as nobody where the tests run as root.
#[tokio::test]
async fn an_unreadable_data_directory_is_named() {
    let (dir, config) = prepared();
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("created");
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let tool = if root {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("changed");
        let copy = dir.path().join("postern");
        fs::copy(binary(), &copy).expect("copied");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("changed");
        Tool::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(copy)
    } else {
        fs::set_permissions(&data, fs::Permissions::from_mode(0o000)).expect("changed");
        gateway_tool()
    };
    let finished = tool.arg("--config").arg(&config).run().await;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("changed");
    let line = finished.expect_one_line_failure();
    assert!(line.contains(&data.display().to_string()), "{line}");
}

// D11: accounts, policy and keys fail closed, and nothing is overwritten.
#[tokio::test]
async fn each_damaged_file_is_named_and_left_alone() {
    let gateway = Gateway::start().await;
    let config = gateway.config.clone();
    let data = gateway.data.clone();
    let dir = gateway.stop().await;
    for file in [
        "accounts.db",
        "secret.key",
        "tls/ca.pem",
        "tls/ca.key",
        "tls/server.pem",
        "tls/server.key",
    ] {
        let path = data.join(file);
        let good = fs::read(&path).expect("readable");
        let cut = good[..good.len() / 2].to_vec();
        for (damage, bytes) in [
            ("garbage", b"garbage, and nothing else\n".repeat(40)),
            ("half", cut),
        ] {
            fs::write(&path, &bytes).expect("written");
            let finished = start(&config).await;
            let line = finished.expect_one_line_failure();
            assert!(
                line.contains(&path.display().to_string()),
                "{file}, {damage}: {line}"
            );
            assert!(
                fs::read(&path).expect("readable") == bytes,
                "{file} was changed"
            );
        }
        fs::write(&path, good).expect("written");
    }
    Setup::new()
        .start_in(dir)
        .await
        .connect(Connect::v5("a"))
        .await;
}

// N3
#[tokio::test]
async fn a_second_gateway_on_the_same_data_refuses_and_the_first_goes_on() {
    let gateway = Gateway::start().await;
    let mut client = gateway.v5("a").await;
    let line = start(&gateway.config).await.expect_one_line_failure();
    let pid = gateway.process.pid().to_string();
    assert!(
        line.contains(&gateway.data.display().to_string()) && line.contains(&pid),
        "{line}"
    );
    client.nothing_came().await;
    gateway.add_user("user", &[]).await;
    assert!(gateway.data.join("addresses.json").exists());
}

// The command line works on a gateway that does not run, too, and two of them do not collide.
#[tokio::test]
async fn the_command_line_works_without_a_running_gateway() {
    let (dir, config) = prepared();
    let add = |name: &str| {
        gateway_tool()
            .args(["user", "add", name, "--generate"])
            .arg("--config")
            .arg(&config)
            .run()
    };
    let (one, two) = tokio::join!(add("one"), add("two"));
    one.expect_success();
    two.expect_success();
    let list = gateway_tool()
        .args(["user", "list"])
        .arg("--config")
        .arg(&config)
        .run()
        .await
        .expect_success();
    assert!(
        list.stdout.contains("one") && list.stdout.contains("two"),
        "{list}"
    );
    drop(dir);
}

/// SIGTERM with every kind of client there is.
#[tokio::test]
async fn sigterm_tells_clients_and_leaves_within_five_seconds() {
    let gateway = Gateway::start().await;
    let mut clients = Vec::new();
    for n in 0..40 {
        let connect = if n % 2 == 0 {
            Connect::v5(&format!("a{n}"))
        } else {
            Connect::v311(&format!("a{n}"))
        };
        let will = Will::new("will", "x").qos(1);
        clients.push(if n % 4 < 2 {
            gateway.connect(connect.will(will)).await
        } else {
            gateway.connect_tls(connect).await
        });
    }
    // One that never reads, with a lot to read.
    let mut deaf = gateway.v5("deaf").await;
    deaf.subscribe("flood", 0).await;
    for _ in 0..200 {
        clients[0]
            .publish(Publish::new("flood", "").payload(vec![b'x'; 50_000]))
            .await;
    }
    // One in the middle of a handshake, one in the middle of a packet.
    let _half_open = tcp(None, gateway.addresses.mqtts).await;
    let mut half_sent = gateway.v5("half").await;
    half_sent.send(&[0x30, 0x7F, 0]).await;

    gateway.process.signal(libc::SIGTERM);
    let start = Instant::now();
    for client in &mut clients {
        let v5 = client.version == postern_tests::packet::Version::V5;
        let reason = client.end_within(STOP).await;
        assert_eq!(
            reason.map(|reason| reason.code),
            v5.then_some(0x8B),
            "server shutting down"
        );
    }
    let status = gateway
        .process
        .wait_blocking(STOP.saturating_sub(start.elapsed()))
        .expect("it leaves in time");
    assert!(status.success(), "{status}");
    assert!(
        !gateway.data.join("addresses.json").exists(),
        "the addresses are gone with it"
    );
}

#[tokio::test]
async fn a_start_right_after_a_stop_works() {
    let mut dir = Gateway::start().await.stop().await;
    for _ in 0..3 {
        dir = Setup::new().start_in(dir).await.stop().await;
    }
}

// I6, style: no secret in any log line, at the most talkative level.
#[tokio::test]
async fn no_secret_is_ever_logged() {
    let gateway = Setup::new()
        .toml("[log]\nlevel = \"trace\"\n")
        .start()
        .await;
    let chosen = gateway
        .add_user_with("chosen", "correct horse battery staple", &[])
        .await;
    let generated = gateway.add_user("generated", &[]).await;
    for account in [&gateway.admin, &chosen, &generated] {
        gateway
            .connect(Connect::v5("a").user(&account.name, &account.password))
            .await
            .disconnect()
            .await;
        gateway
            .connect(Connect::v311("a").user(&account.name, &account.password))
            .await
            .disconnect()
            .await;
    }
    let mut wrong = gateway
        .try_connect(&Connect::v5("a").user("admin", "a wrong secret"))
        .await;
    wrong.end().await;
    let mut malformed = gateway.open().await;
    let mut bytes = gateway.login(&Connect::v5("a")).bytes();
    bytes.push(0);
    bytes[1] += 1;
    malformed.send(&bytes).await;
    while malformed.frame().await.is_some() {}
    let log = gateway.process.log().text();
    for secret in [
        &gateway.admin.password,
        &chosen.password,
        &generated.password,
        "a wrong secret",
    ] {
        assert!(!log.contains(secret), "a password is in the log");
    }
    let list = gateway.cli(&["user", "list"], "").await.expect_success();
    for account in [&gateway.admin, &chosen, &generated] {
        assert!(list.stdout.contains(&account.name) && !list.stdout.contains(&account.password));
    }
}

// A connection that is told to go comes back to a gateway that is not there, and then to one that is.
#[tokio::test]
async fn retained_wills_and_sessions_do_not_stop_a_drain() {
    let gateway = Gateway::start().await;
    let mut watcher = gateway.v5("watcher").await;
    watcher.subscribe("#", 1).await;
    for n in 0..20 {
        let will = Will::new(&format!("will/{n}"), "x").qos(1).retain();
        gateway
            .connect(Connect::v5(&format!("a{n}")).persistent(600).will(will))
            .await
            .vanish();
    }
    for _ in 0..20 {
        assert!(matches!(watcher.packet().await, Packet::Publish(_)));
    }
    let start = Instant::now();
    gateway.stop().await;
    assert!(start.elapsed() < Duration::from_secs(5));
}
