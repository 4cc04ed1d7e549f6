//! Explanations, dry runs and the audit log, as an operator asks for them.

use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use tempfile::TempDir;

use super::*;
use crate::acl::{Action, Effect, Subject, Turn};
use crate::auth::Settings;
use crate::store::{AuditEntry, AuditQuery};

struct World {
    admin: Arc<Administration>,
    dir: TempDir,
}

/// One session that an issuer's token opened, and one that a client certificate did.
struct Somebody;

impl LiveSessions for Somebody {
    fn policy_changed(&self) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
    fn principal_disabled(&self, _: &str, _: &str) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
    fn roles_changed(&self, _: &str, _: &str) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
    fn password_changed(&self, _: &str, _: &str) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
    fn certificates_changed(&self, _: Vec<[u8; 32]>) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
    fn sessions_of(&self, realm: &str, name: &str) -> Vec<SessionOf> {
        let session = |device: Option<&str>| SessionOf {
            client_id: "c1".to_owned(),
            roles: ["sensor".into()].into(),
            scopes: Arc::default(),
            device: device.map(Arc::from),
            by_certificate: device.is_some(),
        };
        match (realm, name) {
            ("https://id.example", "ann") => vec![session(None)],
            ("local", "lamp") => vec![session(Some("lamp"))],
            _ => Vec::new(),
        }
    }
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administration::open(dir.path(), Settings::default())
            .await
            .unwrap();
        admin.attach(Arc::new(Somebody));
        admin.decisions().resize(1_000);
        let world = World { admin, dir };
        world
            .rule(
                Effect::Allow,
                Action::Publish,
                "sensors/%u/#",
                "role:sensor",
            )
            .await;
        world
            .rule(
                Effect::Allow,
                Action::Subscribe,
                "devices/%d/+",
                "role:sensor",
            )
            .await;
        world
    }

    async fn run(&self, command: Command) -> Result<Answer, AdminError> {
        self.admin.execute("uid 0", command).await
    }

    async fn rule(&self, effect: Effect, action: Action, filter: &str, who: &str) {
        let command = Command::AddRule {
            effect,
            action,
            filter: filter.to_owned(),
            who: who.to_owned(),
        };
        self.run(command).await.unwrap();
    }

    async fn user(&self, name: &str, roles: &[&str]) {
        let command = Command::AddUser {
            name: name.to_owned(),
            password: NewPassword::Generated,
            roles: roles.iter().map(|role| role.to_string()).collect(),
        };
        self.run(command).await.unwrap();
    }

    async fn explain(&self, question: Question) -> crate::acl::Explanation {
        match self.run(Command::Explain(question)).await.unwrap() {
            Answer::Explanation(explanation) => explanation,
            other => panic!("{other:?}"),
        }
    }

    async fn try_out(&self, change: PolicyChange) -> crate::acl::DryRun {
        match self.run(Command::DryRun { change }).await.unwrap() {
            Answer::DryRun(run) => run,
            other => panic!("{other:?}"),
        }
    }

    async fn audit(&self, kind: &str) -> Vec<AuditEntry> {
        let query = AuditQuery {
            kind: (!kind.is_empty()).then(|| kind.to_owned()),
            limit: 100,
            ..AuditQuery::default()
        };
        match self.run(Command::Audit(query)).await.unwrap() {
            Answer::Audit { entries } => entries,
            other => panic!("{other:?}"),
        }
    }
}

// P3
#[tokio::test]
async fn who_has_no_account_is_explained_by_the_roles_of_its_session_or_by_given_ones() {
    let world = World::new().await;
    let publish = |realm: Option<&str>, user, topic| Question {
        realm: realm.map(str::to_owned),
        ..Question::new(user, Action::Publish, topic)
    };
    let issuer = Some("https://id.example");
    let answer = world.explain(publish(issuer, "ann", "sensors/ann/x")).await;
    assert_eq!((answer.allowed, answer.rule), (true, Some(4)));
    assert!(
        answer.notes[0].contains("\"c1\", from its last login"),
        "{:?}",
        answer.notes
    );

    let answer = world.explain(publish(issuer, "eve", "sensors/eve/x")).await;
    assert!(
        !answer.allowed && answer.notes[0].contains("--role"),
        "{:?}",
        answer.notes
    );
    let given = Question {
        roles: Some(vec!["sensor".to_owned()]),
        ..publish(issuer, "eve", "sensors/eve/x")
    };
    assert!(world.explain(given).await.allowed);

    // A device of our CA: its certificate says its role and its id.
    let answer = world
        .explain(Question::new("lamp", Action::Subscribe, "devices/lamp/#"))
        .await;
    assert!(!answer.allowed);
    assert_eq!(answer.parts[0].filter, "devices/lamp/+");
    assert!(
        answer.notes[0].contains("a client certificate"),
        "{:?}",
        answer.notes
    );
    let of_another = Question {
        device: Some("fan".to_owned()),
        ..Question::new("lamp", Action::Subscribe, "devices/fan/+")
    };
    assert!(world.explain(of_another).await.allowed);

    let unknown = Command::Explain(Question::new("nobody", Action::Publish, "t"));
    let error = world.run(unknown).await.unwrap_err().to_string();
    assert!(error.contains("no user \"nobody\""), "{error}");
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_decided_differently_and_changes_nothing() {
    let world = World::new().await;
    world.user("kitchen", &["sensor"]).await;
    world.user("bath", &["sensor"]).await;
    // By the roles of its last login, which are not those of today.
    let of = |name| Subject {
        realm: "local",
        name,
        client_id: "c",
        device: None,
        roles: &[],
        scopes: &[],
    };
    let decisions = world.admin.decisions();
    for (name, times) in [("kitchen", 3), ("bath", 1)] {
        for _ in 0..times {
            decisions.remember(&of(name), Action::Publish, &format!("sensors/{name}/t"));
        }
    }
    decisions.remember(&of("kitchen"), Action::Subscribe, "news");

    let deny = PolicyChange::AddRule {
        effect: Effect::Deny,
        action: Action::Publish,
        filter: "sensors/kitchen/#".to_owned(),
        who: "everyone".to_owned(),
    };
    let run = world.try_out(deny).await;
    assert_eq!((run.looked_at, run.differences.len()), (3, 1));
    let difference = &run.differences[0];
    assert_eq!(
        (&*difference.principal, difference.count),
        ("local:kitchen", 3)
    );
    assert_eq!(difference.effect, Turn::Denied);

    let allow = PolicyChange::AddRule {
        effect: Effect::Allow,
        action: Action::Subscribe,
        filter: "news".to_owned(),
        who: "role:sensor".to_owned(),
    };
    assert_eq!(
        world.try_out(allow).await.differences[0].effect,
        Turn::Allowed
    );
    let run = world.try_out(PolicyChange::RemoveRule { id: 4 }).await;
    assert_eq!(run.differences.len(), 2);
    let roles = PolicyChange::SetRoles {
        name: "bath".to_owned(),
        roles: Vec::new(),
    };
    let run = world.try_out(roles).await;
    assert_eq!(run.differences.len(), 1);
    assert_eq!(run.differences[0].principal, "local:bath");
    // Nothing of it was done.
    assert!(
        world
            .explain(Question::new("bath", Action::Publish, "sensors/bath/t"))
            .await
            .allowed
    );
    for (change, word) in [
        (PolicyChange::RemoveRule { id: 99 }, "no rule 99"),
        (
            PolicyChange::SetRoles {
                name: "nobody".to_owned(),
                roles: Vec::new(),
            },
            "no user \"nobody\"",
        ),
    ] {
        let error = world.run(Command::DryRun { change }).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    decisions.resize(0);
    let change = PolicyChange::RemoveRule { id: 4 };
    let error = world.run(Command::DryRun { change }).await.unwrap_err();
    assert!(error.to_string().contains("audit.decisions"), "{error}");
}

#[tokio::test]
async fn every_change_and_every_attempt_is_an_entry_with_its_operator_and_no_password() {
    let world = World::new().await;
    world
        .run(Command::AddUser {
            name: "ann".to_owned(),
            password: NewPassword::Chosen(Secret("correct horse battery".to_owned())),
            roles: Vec::new(),
        })
        .await
        .unwrap();
    let missing = Command::RemoveUser {
        name: "bob".to_owned(),
    };
    world.run(missing).await.unwrap_err();
    let done = world.audit("change").await;
    assert_eq!(done.len(), 3, "{done:?}");
    assert_eq!((&*done[0].principal, &*done[0].reason), ("uid 0", "done"));
    assert!(done[0].subject.contains("add the user \"ann\""), "{done:?}");
    let failed = world.audit("change-failed").await;
    assert!(failed[0].subject.contains("remove \"bob\"") && failed[0].reason.contains("no user"));
    assert_eq!(world.audit("").await.len(), 4, "what only asks is no entry");
    let path = world.dir.path().join(crate::store::AuditFile::FILE);
    world.admin.close().await;
    let bytes = std::fs::read(path).unwrap();
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(has("ann") && !has("correct horse"));
}

#[test]
fn questions_and_queries_are_one_line_of_json_and_read_back() {
    for line in [
        r#"{"command":"explain","user":"ann","action":"publish","topic":"t"}"#,
        r#"{"command":"explain","user":"ann","action":"publish","topic":"t","client-id":null,"roles":["r"]}"#,
        r#"{"command":"dry-run","change":{"change":"remove-rule","id":7}}"#,
        r#"{"command":"audit","limit":5,"kind":"login"}"#,
    ] {
        let command: Command = serde_json::from_str(line).unwrap();
        let again = serde_json::to_string(&command).unwrap();
        serde_json::from_str::<Command>(&again).unwrap();
    }
    let typo = r#"{"command":"explain","user":"ann","action":"publish","topic":"t","rol":[]}"#;
    assert!(serde_json::from_str::<Command>(typo).is_err());
}
