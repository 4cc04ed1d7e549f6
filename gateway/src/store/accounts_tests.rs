use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use sqlx::{Connection, Row};
use tempfile::TempDir;

use super::{Accounts, Credential, Snapshot};
use crate::store::{NewRule, StoreError};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn open(directory: &TempDir) -> Accounts {
    Accounts::open(directory.path()).await.unwrap()
}

fn chosen() -> Credential {
    Credential::Chosen("$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA".into())
}

fn roles(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn rule_for(name: &str) -> NewRule {
    NewRule {
        effect: "allow".into(),
        action: "publish".into(),
        filter: "a/#".into(),
        who_kind: "user".into(),
        realm: "local".into(),
        who: name.into(),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_database_is_private_safe_and_holds_the_visible_rules_of_admin() {
    let dir = directory();
    let accounts = open(&dir).await;
    assert_eq!(mode(&dir.path().join("accounts.db")), 0o600);
    assert_eq!(mode(&dir.path().join("accounts.db-wal")), 0o600);
    // D12
    for (pragma, expected) in [
        ("PRAGMA auto_vacuum", "2"),
        ("PRAGMA journal_mode", "wal"),
        ("PRAGMA synchronous", "2"),
        ("PRAGMA foreign_keys", "1"),
    ] {
        let row = sqlx::query(pragma).fetch_one(&accounts.pool).await.unwrap();
        let value = row
            .try_get::<String, _>(0)
            .unwrap_or_else(|_| row.get::<i64, _>(0).to_string());
        assert_eq!(value, expected, "{pragma}");
    }
    // I6
    let Snapshot { users, rules, .. } = accounts.snapshot().await.unwrap();
    assert!(users.is_empty());
    let rules: Vec<_> = rules
        .iter()
        .map(|stored| (&*stored.rule.action, &*stored.rule.filter))
        .collect();
    assert_eq!(
        rules,
        [
            ("publish", "#"),
            ("subscribe", "#"),
            ("subscribe", "$SYS/#")
        ]
    );
}

// What a database of before had comes along, and numbers of rules never come back as other rules.
#[tokio::test]
async fn a_database_from_before_scopes_keeps_its_rules_and_their_numbers() {
    let dir = directory();
    let path = dir.path().join("accounts.db");
    let before = super::MIGRATIONS
        .iter()
        .filter(|one| one.version < 3)
        .cloned()
        .collect::<Vec<_>>();
    let before = sqlx::migrate::Migrator {
        migrations: before.into(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    let mut old = super::open(&super::options(&path), &before).await.unwrap();
    for statement in [
        "INSERT INTO rules (effect, action, filter, who_kind, created_at) VALUES ('deny', 'publish', 'a', 'everyone', 7)",
        "INSERT INTO rules (effect, action, filter, who_kind, created_at) VALUES ('deny', 'publish', 'b', 'everyone', 7)",
        "DELETE FROM rules WHERE filter = 'b'",
    ] {
        sqlx::query(statement).execute(&mut old).await.unwrap();
    }
    old.close().await.unwrap();

    let accounts = open(&dir).await;
    let rules = accounts.snapshot().await.unwrap().rules;
    assert_eq!(rules.len(), 4);
    assert_eq!((rules[3].id, &*rules[3].rule.filter), (4, "a"));
    let scope = NewRule {
        who_kind: "scope".into(),
        realm: String::new(),
        ..rule_for("openid")
    };
    assert_eq!(
        accounts.add_rule(&scope).await.unwrap(),
        6,
        "5 was another rule"
    );
}

#[tokio::test]
async fn users_survive_a_restart_as_they_were_changed() {
    let dir = directory();
    let accounts = open(&dir).await;
    accounts
        .add_user("ann", &chosen(), &roles(&["staff", "admin", "staff"]))
        .await
        .unwrap();
    accounts
        .add_user("dev", &Credential::Generated([7; 32]), &[])
        .await
        .unwrap();
    accounts.set_disabled("dev", true).await.unwrap();
    accounts
        .set_roles("dev", &roles(&["sensors"]))
        .await
        .unwrap();
    accounts
        .set_credential("ann", &Credential::Generated([9; 32]))
        .await
        .unwrap();
    accounts.close().await;
    let users = open(&dir).await.snapshot().await.unwrap().users;
    assert_eq!(users.len(), 2);
    assert_eq!(users["ann"].credential, Credential::Generated([9; 32]));
    assert_eq!(*users["ann"].roles, *roles(&["admin", "staff"]));
    assert!(!users["ann"].disabled && users["dev"].disabled);
    assert_eq!(*users["dev"].roles, *roles(&["sensors"]));
}

#[tokio::test]
async fn every_change_raises_the_revision_and_a_refused_one_does_not() {
    let dir = directory();
    let accounts = open(&dir).await;
    let mut last = accounts.snapshot().await.unwrap().revision;
    accounts.add_user("ann", &chosen(), &[]).await.unwrap();
    let id = accounts.add_rule(&rule_for("ann")).await.unwrap();
    let after = accounts.snapshot().await.unwrap().revision;
    assert!(after > last);
    last = after;
    assert!(matches!(
        accounts.add_user("ann", &chosen(), &roles(&["x"])).await,
        Err(StoreError::NameTaken(_))
    ));
    assert!(
        matches!(accounts.add_rule(&rule_for("ann")).await, Err(StoreError::RuleExists(same)) if same == id)
    );
    assert!(matches!(
        accounts.remove_rule(999).await,
        Err(StoreError::NoSuchRule(999))
    ));
    for missing in [
        accounts.set_disabled("bob", true).await,
        accounts.set_roles("bob", &roles(&["x"])).await,
        accounts.set_credential("bob", &chosen()).await,
        accounts.remove_user("bob").await.map(drop),
    ] {
        assert!(matches!(missing, Err(StoreError::NoSuchUser(name)) if name == "bob"));
    }
    let snapshot = accounts.snapshot().await.unwrap();
    assert_eq!(snapshot.revision, last);
    assert!(snapshot.users["ann"].roles.is_empty());
}

#[tokio::test]
async fn a_removed_users_rules_go_with_it_and_no_rule_number_is_used_twice() {
    let dir = directory();
    let accounts = open(&dir).await;
    accounts
        .add_user("ann", &chosen(), &roles(&["staff"]))
        .await
        .unwrap();
    let first = accounts.add_rule(&rule_for("ann")).await.unwrap();
    let kept = accounts.add_rule(&rule_for("bob")).await.unwrap();
    assert_eq!(
        accounts.remove_rule(kept).await.unwrap().rule,
        rule_for("bob")
    );
    assert_eq!(accounts.remove_user("ann").await.unwrap(), 1);
    accounts.add_user("ann", &chosen(), &[]).await.unwrap();
    let snapshot = accounts.snapshot().await.unwrap();
    assert!(snapshot.users["ann"].roles.is_empty());
    assert!(
        snapshot
            .rules
            .iter()
            .all(|stored| stored.rule.who_kind == "role")
    );
    let again = accounts.add_rule(&rule_for("ann")).await.unwrap();
    assert!(again > first && again > kept);
}

#[tokio::test]
async fn only_one_first_user_is_ever_made() {
    let dir = directory();
    let accounts = open(&dir).await;
    accounts
        .add_first_user("admin", &chosen(), &roles(&["admin"]))
        .await
        .unwrap();
    let second = accounts.add_first_user("admin2", &chosen(), &[]).await;
    assert!(matches!(second, Err(StoreError::NotEmpty(1))));
    assert_eq!(accounts.snapshot().await.unwrap().users.len(), 1);
}

// D11
#[tokio::test]
async fn a_damaged_database_is_refused_named_and_left_as_it_was() {
    let garbage = b"this is not a database, whatever its name says".repeat(200);
    for bytes in [&b""[..], &garbage] {
        let dir = directory();
        let path = dir.path().join("accounts.db");
        fs::write(&path, bytes).unwrap();
        let error = Accounts::open(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

// D11
#[tokio::test]
async fn a_database_with_an_overwritten_page_is_refused() {
    let dir = directory();
    let accounts = open(&dir).await;
    for number in 0..400 {
        accounts
            .add_user(&format!("user-{number}"), &chosen(), &[])
            .await
            .unwrap();
    }
    accounts.close().await;
    let path = dir.path().join("accounts.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    fs::write(&path, &bytes).unwrap();
    let error = Accounts::open(dir.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_with_both_versions_named() {
    let dir = directory();
    let accounts = open(&dir).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9000, 'later', 1, x'00', 0)",
    )
    .execute(&accounts.pool)
    .await
    .unwrap();
    accounts.close().await;
    let error = Accounts::open(dir.path()).await.unwrap_err().to_string();
    assert!(
        error.contains("newer version") && error.contains("9000"),
        "{error}"
    );
}

#[tokio::test]
async fn a_copy_of_a_running_database_holds_the_same_and_replaces_nothing() {
    let dir = directory();
    let accounts = open(&dir).await;
    accounts.add_user("ann", &chosen(), &[]).await.unwrap();
    let other = directory();
    let copy = other.path().join("accounts.db");
    accounts.copy_into(&copy).await.unwrap();
    assert_eq!(mode(&copy), 0o600);
    assert!(accounts.copy_into(&copy).await.is_err());
    accounts.add_user("bob", &chosen(), &[]).await.unwrap();
    let copied = open(&other).await.snapshot().await.unwrap();
    assert_eq!(copied.users.len(), 1);
    assert_eq!(copied.users["ann"].credential, chosen());
}

#[tokio::test]
async fn an_interrupted_creation_does_not_stop_the_next_start() {
    let dir = directory();
    fs::write(dir.path().join("accounts.db.new"), b"half").unwrap();
    fs::write(dir.path().join("accounts.db.new-wal"), b"half").unwrap();
    open(&dir).await;
    assert!(!dir.path().join("accounts.db.new").exists());
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let error = Accounts::open(Path::new("/nonexistent/postern"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/postern"), "{error}");
}

#[test]
fn debug_output_shows_no_hash() {
    let text = format!("{:?}{:?}", chosen(), Credential::Generated([7; 32]));
    assert!(!text.contains("argon2id") && !text.contains('7'), "{text}");
}
