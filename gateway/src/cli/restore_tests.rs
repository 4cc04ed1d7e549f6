use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::admin::Administration;
use crate::auth::Settings;
use crate::cli::tests::postern;
use crate::store::AuditFile;

/// A data directory with a user `name`, a CA, and its backup.
async fn gateway(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    postern(dir.path(), &["user", "add", name, "--generate"])
        .await
        .unwrap();
    let pair = format!("certificates/{name}/pair.pem");
    for file in ["tls/ca.pem", "tls/ca.key", &*pair] {
        archive::make_parents(&dir.path().join(file), None).unwrap();
        fs::write(dir.path().join(file), format!("{file} of {name}")).unwrap();
    }
    let file = dir.path().join("backup.tar");
    let line = ["backup", file.to_str().unwrap()];
    let said = postern(dir.path(), &line).await.unwrap();
    assert!(said.starts_with("6 files"), "{said}");
    (dir, file)
}

async fn restore(dir: &Path, file: &Path, more: &[&str]) -> Result<String, CliError> {
    let line = [&["restore", file.to_str().unwrap()], more].concat();
    postern(dir, &line).await
}

async fn users(dir: &Path) -> String {
    postern(dir, &["user", "list"]).await.unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_restores_into_an_empty_directory() {
    let (_source, file) = gateway("ann").await;
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let empty = tempfile::tempdir().unwrap();
    let into = empty.path().join("new/data");
    restore(&into, &file, &[]).await.unwrap();
    let restored = [
        "accounts.db",
        "audit.db",
        "certificates",
        "lock",
        "secret.key",
        "tls",
    ];
    assert_eq!(names(&into), restored);
    let ca = fs::read_to_string(into.join("tls/ca.key")).unwrap();
    assert_eq!(ca, "tls/ca.key of ann");
    let mode = |name: &str| fs::metadata(into.join(name)).unwrap().permissions().mode() & 0o777;
    let modes = ["accounts.db", "tls", "tls/ca.pem", "tls/ca.key"].map(mode);
    assert_eq!(modes, [0o600, 0o700, 0o644, 0o600]);
    let modes = ["certificates/ann", "certificates/ann/pair.pem"].map(mode);
    assert_eq!(modes, [0o700, 0o600]);
    assert!(users(&into).await.contains("ann"));
}

#[tokio::test]
async fn a_directory_in_use_is_replaced_only_by_force_and_set_aside() {
    let (_source, file) = gateway("ann").await;
    let (target, _) = gateway("bob").await;
    let error = restore(target.path(), &file, &[]).await.unwrap_err();
    assert!(matches!(error, CliError::InUse { .. }), "{error}");
    assert!(users(target.path()).await.contains("bob"));
    // What SQLite left after a crash belongs to the old database and would ruin the new one.
    fs::write(target.path().join("accounts.db-wal"), "old").unwrap();
    fs::write(target.path().join("first-account"), "old").unwrap();

    let said = restore(target.path(), &file, &["--force"]).await.unwrap();

    assert!(users(target.path()).await.contains("ann"));
    assert!(
        !target.path().join("first-account").exists(),
        "not in the backup"
    );
    let aside = names(target.path());
    let aside = aside
        .iter()
        .find(|name| name.starts_with("before-restore-"));
    let aside = target.path().join(aside.unwrap());
    assert!(said.contains(aside.to_str().unwrap()), "{said}");
    assert_eq!(
        names(&aside),
        [
            "accounts.db",
            "accounts.db-wal",
            "audit.db",
            "certificates",
            "first-account",
            "secret.key",
            "tls"
        ]
    );
    assert_eq!(
        fs::read_to_string(aside.join("tls/ca.key")).unwrap(),
        "tls/ca.key of bob"
    );
    // The folder was there, the slot in it was not.
    let slots = names(&target.path().join("certificates"));
    assert_eq!(slots, ["ann", "bob"]);
    assert_eq!(names(&target.path().join("certificates/ann")), ["pair.pem"]);
    assert_eq!(names(&target.path().join("certificates/bob")), [""; 0]);
    assert_eq!(names(&aside.join("certificates/bob")), ["pair.pem"]);
    fs::remove_file(aside.join("accounts.db-wal")).unwrap();
    assert!(users(&aside).await.contains("bob"));
}

#[tokio::test]
async fn what_cannot_be_restored_changes_nothing() {
    let (source, file) = gateway("ann").await;
    let (other, _) = gateway("bob").await;
    let packed = |files: &[(&str, Vec<u8>)]| {
        let path = source.path().join("made.tar");
        let mut writer = archive::Writer::new(File::create(&path).unwrap());
        for (name, contents) in files {
            let part = Part::named(name).unwrap();
            writer.begin(&part, contents.len() as u64).unwrap();
            writer.write(contents).unwrap();
        }
        writer.finish().unwrap();
        path
    };
    let read = |dir: &tempfile::TempDir, name| fs::read(dir.path().join(name)).unwrap();
    let accounts = || ("accounts.db", read(&source, "accounts.db"));
    let key = || ("secret.key", read(&source, "secret.key"));
    let mut damaged = accounts();
    damaged.1[8192..].fill(0xff);
    for (files, problem) in [
        (vec![], "it has no accounts.db"),
        (vec![accounts()], "it has no secret.key"),
        (
            vec![("accounts.db", b"nonsense".to_vec()), key()],
            "is damaged",
        ),
        (vec![damaged, key()], "is damaged"),
        (
            vec![accounts(), ("secret.key", read(&other, "secret.key"))],
            "secret.key",
        ),
        (
            vec![accounts(), key(), ("tls/ca.pem", vec![1])],
            "only one of tls/ca.pem and tls/ca.key",
        ),
    ] {
        let empty = tempfile::tempdir().unwrap();
        let error = restore(empty.path(), &packed(&files), &[])
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(problem) && text.ends_with("nothing was changed"),
            "{text}"
        );
        assert_eq!(names(empty.path()), ["lock"], "{text}");
    }
    let error = restore(other.path(), &source.path().join("no.tar"), &["--force"]).await;
    assert!(matches!(error, Err(CliError::File { .. })));
    fs::write(&file, "nonsense").unwrap();
    let error = restore(other.path(), &file, &["--force"])
        .await
        .unwrap_err();
    assert!(matches!(error, CliError::NotRestored { .. }), "{error}");
    assert!(users(other.path()).await.contains("bob"));
}

#[tokio::test]
async fn a_restore_that_was_interrupted_keeps_the_gateway_from_starting_until_it_is_repeated() {
    let (_source, file) = gateway("ann").await;
    let (target, _) = gateway("bob").await;
    let dir = DataDir::locate(Some(target.path()), None).unwrap();
    // As a power loss between the two halves of the exchange leaves it.
    fs::write(dir.restore_mark(), "").unwrap();
    fs::remove_file(target.path().join("accounts.db")).unwrap();
    let error = dir.lock().unwrap_err().to_string();
    assert!(
        error.contains("was interrupted") && error.contains("--force"),
        "{error}"
    );
    restore(target.path(), &file, &["--force"]).await.unwrap();
    assert!(users(target.path()).await.contains("ann"));
    dir.lock().unwrap();
}

// N3
#[tokio::test]
async fn nothing_is_restored_under_a_running_gateway() {
    let (target, file) = gateway("bob").await;
    let dir = DataDir::locate(Some(target.path()), None).unwrap();
    let _lock = dir.lock().unwrap();
    let error = restore(target.path(), &file, &["--force"])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("is in use by process"),
        "{error}"
    );
}

#[tokio::test]
async fn a_backup_replaces_a_file_only_by_force_and_leaves_no_half_one() {
    let (source, file) = gateway("ann").await;
    let before = fs::read(&file).unwrap();
    let line = ["backup", file.to_str().unwrap()];
    let error = postern(source.path(), &line).await.unwrap_err();
    assert!(matches!(error, CliError::Exists(_)), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
    let forced = ["backup", file.to_str().unwrap(), "--force"];
    postern(source.path(), &forced).await.unwrap();
    // A key larger than any key: the backup fails in the middle.
    fs::write(source.path().join("tls/server.key"), vec![0; 2 << 20]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let line = ["backup", &folder.path().join("x").display().to_string()];
    let error = postern(source.path(), &line).await.unwrap_err();
    assert!(error.to_string().contains("far too many"), "{error}");
    assert!(names(folder.path()).is_empty());
    let folder = ["backup", folder.path().to_str().unwrap()];
    let error = postern(source.path(), &folder).await.unwrap_err();
    assert!(matches!(error, CliError::NoFileName(_)), "{error}");
}

#[tokio::test]
async fn a_backup_of_a_directory_without_a_gateway_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let line = ["backup", &empty.path().join("x").display().to_string()];
    let error = postern(empty.path(), &line).await.unwrap_err();
    assert!(matches!(error, CliError::NoAccounts(_)), "{error}");
    assert!(names(empty.path()).is_empty());
}

#[tokio::test]
async fn a_backup_through_a_running_gateway_holds_the_same() {
    let (source, direct) = gateway("ann").await;
    let dir = DataDir::locate(Some(source.path()), Some(source.path())).unwrap();
    let mut lock = dir.lock().unwrap();
    let administration = Administration::open(dir.path(), Settings::default())
        .await
        .unwrap();
    let server = crate::admin::ControlServer::bind(&dir.socket()).unwrap();
    lock.announce(server.path()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(administration, async { drop(stopped.await) }));
    let file = source.path().join("running.tar");
    postern(source.path(), &["backup", file.to_str().unwrap()])
        .await
        .unwrap();
    stop.send(()).unwrap();
    running.await.unwrap();
    let manifest = |file: &Path| {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tls")).unwrap();
        let mut parts = archive::unpack(file, folder.path(), None).unwrap().parts;
        // The first backup is an entry in it.
        assert!(parts.remove(AuditFile::FILE).is_some());
        parts
    };
    assert_eq!(manifest(&file), manifest(&direct));
}

#[test]
fn a_folder_is_named_after_its_moment_in_utc() {
    for (seconds, expected) in [
        (0, "19700101-000000"),
        (951_782_399, "20000228-235959"),
        (951_782_400, "20000229-000000"),
        (1_795_241_992, "20261121-061952"),
        (4_107_542_400, "21000301-000000"),
    ] {
        assert_eq!(compact(seconds), expected);
    }
}
