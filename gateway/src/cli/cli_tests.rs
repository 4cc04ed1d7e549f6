use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use broker_config::Config;
use clap::{CommandFactory, Parser};
use tokio::sync::oneshot;

use super::{Cli, CliError, Reach, Verb};
use crate::admin::{Administration, ControlServer};
use crate::auth::Settings;
use crate::data_dir::DataDir;

/// Runs a command line against a data directory, and gives what it prints.
pub(super) async fn postern(dir: &Path, line: &[&str]) -> Result<String, CliError> {
    let dir = DataDir::locate(Some(dir), Some(dir)).unwrap();
    let cli = Cli::try_parse_from(["postern"].iter().chain(line)).unwrap();
    let mut out = Vec::new();
    match cli.verb.unwrap() {
        Verb::User(args) => args.run(&dir, &mut out).await?,
        Verb::Acl(args) => args.run(&dir, &mut out).await?,
        Verb::Device(args) => args.run(&Config::default(), &dir, &mut out).await?,
        Verb::Cert(args) => args.run(&Config::default(), &dir, &mut out).await?,
        Verb::Backup(args) => {
            args.run(&dir, &mut out).await?;
            ExitCode::SUCCESS
        }
        Verb::Restore(args) => {
            args.run(&dir, &mut out).await?;
            ExitCode::SUCCESS
        }
        other => panic!("{other:?} is no verb of this story"),
    };
    Ok(String::from_utf8(out).unwrap())
}

/// The same things are asked in both ways; the answers must not differ.
async fn story(dir: &Path) -> Vec<String> {
    let mut answers = Vec::new();
    for line in [
        &[
            "user",
            "add",
            "dev-1",
            "--generate",
            "--role",
            "sensors",
            "--role",
            "admin",
        ][..],
        &["user", "add", "ann", "--generate"],
        &["acl", "allow", "publish", "s/%u/#", "--role", "sensors"],
        &["acl", "deny", "publish", "s/+/secret", "--everyone"],
        &["acl", "allow", "subscribe", "home/#", "--user", "ann"],
        &["acl", "explain", "dev-1", "publish", "s/dev-1/temp"],
        &["acl", "explain", "dev-1", "publish", "s/x/secret"],
        &["acl", "explain", "ann", "subscribe", "home/+/x"],
        &["user", "disable", "ann"],
        &["user", "roles", "dev-1", "sensors"],
        &["user", "list"],
        &["acl", "list"],
        &["acl", "remove", "5"],
        &["user", "remove", "ann"],
        &["user", "list", "--json"],
    ] {
        let answer = postern(dir, line)
            .await
            .unwrap_or_else(|error| panic!("{line:?}: {error}"));
        // Generated passwords and times differ from run to run.
        let same = answer.lines().map(|line| {
            match (line.starts_with("pst_"), line.find(",\"created-at\"")) {
                (true, _) => "pst_",
                (false, Some(end)) => &line[..end],
                (false, None) => line,
            }
        });
        answers.push(same.collect::<Vec<_>>().join("\n"));
    }
    answers
}

// N3
#[tokio::test]
async fn verbs_give_the_same_answers_directly_and_through_a_running_gateway() {
    let alone = tempfile::tempdir().unwrap();
    let direct = story(alone.path()).await;
    assert_eq!(direct[0], "pst_");
    assert_eq!(
        direct[2],
        "rule 4 added: allow publish s/%u/# for role:sensors"
    );
    assert_eq!(
        direct[5],
        "allowed by rule 1: allow publish # for role:admin\n  the rule applies because the user has the role admin"
    );
    assert!(
        direct[6].starts_with("denied by rule 5: deny publish s/+/secret for everyone"),
        "{}",
        direct[6]
    );
    assert!(direct[7].starts_with("allowed by rule 6"), "{}", direct[7]);
    assert_eq!(
        direct[10],
        "NAME   STATE     PASSWORD   ROLES\nann    disabled  generated\ndev-1  active    generated  sensors"
    );
    assert!(
        direct[11].ends_with("6   allow   subscribe  home/#      user:local:ann"),
        "{}",
        direct[11]
    );
    assert_eq!(direct[13], "user ann removed, and 1 rules that were for it");

    let served = tempfile::tempdir().unwrap();
    let dir = DataDir::locate(Some(served.path()), Some(served.path())).unwrap();
    let mut lock = dir.lock().unwrap();
    let administration = Administration::open(dir.path(), Settings::default())
        .await
        .unwrap();
    let server = ControlServer::bind(&dir.socket()).unwrap();
    lock.announce(server.path()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(administration.clone(), async { drop(stopped.await) }));
    assert_eq!(story(served.path()).await, direct);
    assert!(
        administration.users().find("dev-1").is_some(),
        "in force in the running gateway"
    );
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn nothing_is_made_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for line in [
        &["user", "list"][..],
        &["acl", "list"],
        &["user", "disable", "ann"],
        &["device", "list"],
        &["device", "add", "lamp"],
        &["cert", "status"],
    ] {
        let error = postern(&missing, line).await.unwrap_err();
        assert!(
            matches!(&error, CliError::NoAccounts(path) if *path == missing),
            "{error}"
        );
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_holder_that_does_not_answer_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::locate(Some(temp.path()), Some(temp.path())).unwrap();
    let _lock = dir.lock().unwrap();
    let error = Reach::open_within(&dir, Duration::from_millis(60))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
}

#[test]
fn the_command_line_is_consistent_and_takes_no_password() {
    Cli::command().debug_assert();
    for bad in [
        &["user", "add", "ann", "--password", "x"][..],
        &["user", "add", "ann", "secret"],
        &["user", "password", "ann", "secret"],
        &["acl", "allow", "publish", "a"],
        &["acl", "allow", "publish", "a", "--everyone", "--role", "x"],
        &["acl", "allow", "write", "a", "--everyone"],
        &["acl", "allow", "publish", "a", "--everyone", "--realm", "x"],
        &["acl", "remove", "x"],
        &["device", "add", "lamp", "--secret", "x"],
        &["device", "add", "lamp", "--pkcs12", "x"],
        &["device", "rotate", "lamp", "--port", "0"],
    ] {
        assert!(
            Cli::try_parse_from(["postern"].iter().chain(bad)).is_err(),
            "{bad:?}"
        );
    }
}

// N3
#[tokio::test]
async fn a_service_is_found_by_its_runtime_directory_alone() {
    let (closed, runtime, own) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let service = DataDir::locate(Some(closed.path()), Some(runtime.path())).unwrap();
    let administration = Administration::open(service.path(), Settings::default())
        .await
        .unwrap();
    let server = ControlServer::bind(&service.socket()).unwrap();
    let running = tokio::spawn(server.run(administration, std::future::pending()));
    // The command line sees another, unused data directory, and the service's runtime directory.
    let seen = DataDir::locate(Some(&own.path().join("unused")), Some(runtime.path())).unwrap();
    assert!(matches!(
        Reach::open(&seen, true).await.unwrap(),
        Reach::Running(_)
    ));
    assert!(!seen.path().exists());
    running.abort();
}
