use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{CONNECTIONS_MAX, ControlServer, LINE_MAX};
use crate::acl::{Action, Effect};
use crate::admin::{
    AdminError, Administration, Answer, Command, ControlClient, Import, ImportedUser, NewPassword,
    RuleLine, Secret,
};
use crate::auth::Settings;

struct World {
    admin: Arc<Administration>,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _dir: TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let admin = Administration::open(dir.path(), Settings::default())
        .await
        .unwrap();
    let socket = dir.path().join("control.sock");
    std::fs::write(&socket, b"left by a crash").unwrap();
    let server = ControlServer::bind(&socket).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = server.run(admin.clone(), async { drop(stopped.await) });
    World {
        server: tokio::spawn(running),
        admin,
        socket,
        stop,
        _dir: dir,
    }
}

async fn exchange(world: &World, line: &[u8]) -> String {
    let stream = UnixStream::connect(&world.socket).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    writer.write_all(line).await.unwrap();
    let mut answer = String::new();
    BufReader::new(reader).read_line(&mut answer).await.unwrap();
    answer
}

// N3
#[tokio::test]
async fn commands_over_the_socket_are_executed_and_refusals_come_in_words() {
    let world = world().await;
    let mode = std::fs::metadata(&world.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut client = ControlClient::connect(&world.socket).await.unwrap();
    let password = NewPassword::Chosen(Secret("x".to_owned()));
    let command = Command::AddUser {
        name: "ann".into(),
        password,
        roles: Vec::new(),
    };
    assert!(matches!(
        client.execute(&command).await,
        Ok(Answer::Done { .. })
    ));
    assert!(world.admin.users().find("ann").is_some());
    let again = client.execute(&command).await.unwrap_err();
    assert!(
        matches!(&again, AdminError::Refused(text) if text.contains("exists already")),
        "{again}"
    );
    let Answer::Users { users, .. } = client
        .execute(&Command::ListUsers { after: None })
        .await
        .unwrap()
    else {
        panic!()
    };
    assert_eq!(users[0].name, "ann");
    world.stop.send(()).unwrap();
    world.server.await.unwrap();
    assert!(!world.socket.exists());
}

#[tokio::test]
async fn what_is_no_command_is_answered_without_repeating_it() {
    let world = world().await;
    for line in [
        &b"hunter2\n"[..],
        b"{}\n",
        b"{\"command\":\"hunter2\"}\n",
        b"\xff\xfe\n",
        b"\n",
    ] {
        let answer = exchange(&world, line).await;
        assert!(
            answer.contains("does not understand") && !answer.contains("hunter2"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_endless_line_is_cut_off() {
    let world = world().await;
    let mut stream = UnixStream::connect(&world.socket).await.unwrap();
    // The server may close before all of it is written.
    let _ = stream.write_all(&vec![b'x'; 4 * LINE_MAX]).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "no answer");
    assert!(
        exchange(&world, b"{\"command\":\"list-rules\",\"after\":null}\n")
            .await
            .starts_with("{\"ok\"")
    );
}

#[tokio::test]
async fn too_many_connections_are_closed_and_places_come_back() {
    let world = world().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = ControlClient::connect(&world.socket).await.unwrap();
        client
            .execute(&Command::ListRules { after: None })
            .await
            .unwrap();
        held.push(client);
    }
    let mut one_more = ControlClient::connect(&world.socket).await.unwrap();
    let refused = one_more
        .execute(&Command::ListRules { after: None })
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AdminError::Unanswered { .. }),
        "{refused}"
    );
    held.clear();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut client = ControlClient::connect(&world.socket).await.unwrap();
        if client
            .execute(&Command::ListRules { after: None })
            .await
            .is_ok()
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no place came back");
    }
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_refused_in_words() {
    let path = PathBuf::from("/tmp").join("x".repeat(120));
    let error = ControlServer::bind(&path).unwrap_err();
    assert!(
        matches!(error, AdminError::SocketPath { length: 125, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn one_backup_at_a_time_is_sent_and_one_that_nobody_takes_leaves_nothing_behind() {
    let world = world().await;
    let directory = world.socket.parent().unwrap();
    // More than the socket holds, so that the gateway waits for us.
    std::fs::create_dir(directory.join("tls")).unwrap();
    let certificate = vec![b'x'; 1 << 20];
    std::fs::write(directory.join("tls/server.pem"), &certificate).unwrap();
    let mut first = ControlClient::connect(&world.socket).await.unwrap();
    let parts = first.backup().await.unwrap();
    assert_eq!(parts.last().unwrap().name, "tls/server.pem");
    let mut second = ControlClient::connect(&world.socket).await.unwrap();
    let refused = second.backup().await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::Refused(text) if text.contains("already")),
        "{refused}"
    );
    drop(first);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let parts = loop {
        match second.backup().await {
            Ok(parts) => break parts,
            Err(refused) => assert!(tokio::time::Instant::now() < deadline, "{refused}"),
        }
    };
    let total: u64 = parts.iter().map(|part| part.bytes).sum();
    let (mut contents, mut piece) = (Vec::new(), vec![0; 10_000]);
    while (contents.len() as u64) < total {
        let length = second.read_piece(&mut piece).await.unwrap();
        contents.extend_from_slice(&piece[..length]);
    }
    assert!(contents.ends_with(&certificate));
    // The connection goes on with commands.
    let answer = second.execute(&Command::ListRules { after: None }).await;
    assert!(matches!(answer, Ok(Answer::Rules { .. })), "{answer:?}");
    assert!(!directory.join("backup.new").exists());
}

// N3
#[tokio::test]
async fn an_import_over_the_socket_is_in_force_and_shows_no_hash_whatever_goes_wrong() {
    const HASH: &str = "$6$NbvgUjim0o9izJSa$Z6KItf3cl4FwwRrOO6/1k2KUz+iJ9lj29st8IxQ1Np0i1ZGRkna7J8iPci1DPOnlQZguOusggwmKmXZ3jDQXtA==";
    let world = world().await;
    let mut client = ControlClient::connect(&world.socket).await.unwrap();
    let user = |name: String| ImportedUser {
        name,
        hash: HASH.to_owned(),
        roles: vec!["r".to_owned()],
        disabled: false,
    };
    // Far more than a line.
    let mut import = Import {
        users: (0..2000).map(|n| user(format!("user-{n}"))).collect(),
        rules: vec![RuleLine {
            id: 0,
            effect: Effect::Allow,
            action: Action::Publish,
            filter: "a/%u".to_owned(),
            who: "role:r".to_owned(),
        }],
        replace: false,
    };
    let answer = client.import(&import).await.unwrap();
    assert!(
        matches!(&answer, Answer::Done { message, .. } if message.starts_with("2000 users added")),
        "{answer:?}"
    );
    assert!(world.admin.users().find("user-1999").is_some());
    assert!(
        world
            .admin
            .policy()
            .load()
            .rules()
            .any(|rule| rule.filter.as_str() == "a/%u")
    );

    let error = client.import(&import).await.unwrap_err().to_string();
    assert!(
        error.contains("2000 of the users") && error.contains("user-9, …"),
        "{error}"
    );
    import.users = vec![user("ann".to_owned())];
    for (spoil, part) in [
        (0, "iterations"),
        (1, "white space"),
        (2, "role"),
        (3, "filter"),
    ] {
        let mut bad = import.clone();
        match spoil {
            0 => bad.users[0].hash = HASH.replace("$6$", "$7$9999999$"),
            1 => bad.users[0].name = " ann".to_owned(),
            2 => bad.users[0].roles = vec!["a b".to_owned()],
            _ => bad.rules[0].filter = "a/#/b".to_owned(),
        }
        let error = client.import(&bad).await.unwrap_err().to_string();
        assert!(
            error.contains(part) && !error.contains(&HASH[3..20]),
            "{error}"
        );
        assert!(world.admin.users().find("ann").is_none());
    }
    assert!(
        matches!(client.import(&import).await, Ok(Answer::Done { .. })),
        "the connection still works"
    );
}

// N3
#[tokio::test]
async fn an_import_that_is_too_large_cut_off_or_no_import_changes_nothing() {
    let world = world().await;
    let line = format!(
        "{{\"command\":\"import\",\"bytes\":{}}}\n",
        Import::MAX_BYTES + 1
    );
    assert_eq!(
        exchange(&world, line.as_bytes()).await,
        "",
        "closed without being read"
    );
    let answer = exchange(&world, b"{\"command\":\"import\",\"bytes\":9}\n{\"users\":").await;
    assert!(
        answer.contains("does not understand this import"),
        "{answer}"
    );

    let stream = UnixStream::connect(&world.socket).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer
        .write_all(b"{\"command\":\"import\",\"bytes\":90}\n{}")
        .await
        .unwrap();
    drop(writer);
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "", "cut off");
    assert!(world.admin.users().all().is_empty());
}
