use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::acl::{Action, Effect};
use crate::admin::{
    AdminError, Administration, Answer, Command, FirstAccount, LiveSessions, NewPassword, Question,
    Secret,
};
use crate::auth::{AuthError, Credentials, Refusal, Settings};
use crate::store::{Accounts, NewRule, StoreError};

/// What the administration talks to.
struct Ear(Arc<Told>);

struct World {
    admin: Arc<Administration>,
    told: Arc<Told>,
    dir: TempDir,
}

/// Remembers what the live sessions were told, and what was in force at that moment.
#[derive(Default)]
struct Told {
    calls: Mutex<Vec<String>>,
    admin: Mutex<Option<Arc<Administration>>>,
}

impl Told {
    /// Noted only when the sessions have heard of it, some turns of the scheduler later.
    fn note(self: &Arc<Self>, what: String) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let rules = this
                .admin
                .lock()
                .as_ref()
                .unwrap()
                .policy()
                .load()
                .rules()
                .count();
            this.calls.lock().push(format!("{what}, {rules} rules"));
        })
    }
}

impl LiveSessions for Ear {
    fn policy_changed(&self) -> BoxFuture<'static, ()> {
        self.0.note("policy".to_owned())
    }
    fn principal_disabled(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        let admin = self.0.admin.lock().clone().unwrap();
        let gone = admin.users().find(name).is_none_or(|user| user.disabled);
        self.0.note(format!("disabled {realm}:{name} {gone}"))
    }
    fn roles_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        let admin = self.0.admin.lock().clone().unwrap();
        self.0.note(format!(
            "roles {realm}:{name} {:?}",
            admin.users().find(name).unwrap().roles
        ))
    }
    fn password_changed(&self, realm: &str, name: &str) -> BoxFuture<'static, ()> {
        self.0.note(format!("password {realm}:{name}"))
    }
    fn certificates_changed(&self, _: Vec<[u8; 32]>) -> BoxFuture<'static, ()> {
        self.0.note("certificates".to_owned())
    }
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administration::open(dir.path(), Settings::default())
            .await
            .unwrap();
        let told = Arc::new(Told::default());
        *told.admin.lock() = Some(admin.clone());
        admin.attach(Arc::new(Ear(told.clone())));
        World { admin, told, dir }
    }

    async fn run(&self, command: Command) -> Result<Answer, AdminError> {
        self.admin.execute("test", command).await
    }

    async fn done(&self, command: Command) -> (String, Vec<String>) {
        match self.run(command).await.unwrap() {
            Answer::Done { message, warnings } => (message, warnings),
            other => panic!("{other:?}"),
        }
    }

    async fn add(&self, name: &str, password: &str, roles: &[&str]) {
        self.done(Command::AddUser {
            name: name.into(),
            password: chosen(password),
            roles: texts(roles),
        })
        .await;
    }

    async fn login(&self, name: &str, password: &str) -> Result<Vec<String>, Refusal> {
        let credentials = Credentials {
            username: Some(name),
            password: Some(password.as_bytes()),
            certificate: None,
        };
        let principal = self
            .admin
            .authenticator()
            .authenticate(credentials, None)
            .await?;
        Ok(principal
            .roles
            .iter()
            .map(|role| role.to_string())
            .collect())
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.calls.lock())
    }
}

fn chosen(password: &str) -> NewPassword {
    NewPassword::Chosen(Secret(password.to_owned()))
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| text.to_string()).collect()
}

fn rule(effect: Effect, action: Action, filter: &str, who: &str) -> Command {
    Command::AddRule {
        effect,
        action,
        filter: filter.to_owned(),
        who: who.to_owned(),
    }
}

#[tokio::test]
async fn a_change_is_in_force_on_disk_and_told_before_it_is_answered() {
    let world = World::new().await;
    world.add("ann", "one", &["admin"]).await;
    assert_eq!(world.login("ann", "one").await, Ok(texts(&["admin"])));
    assert!(world.told().is_empty(), "a new user concerns no session");

    world
        .done(Command::SetPassword {
            name: "ann".into(),
            password: chosen("two"),
        })
        .await;
    assert_eq!(
        world.login("ann", "one").await,
        Err(Refusal::BadCredentials)
    );
    assert!(world.login("ann", "two").await.is_ok());

    world
        .done(Command::SetRoles {
            name: "ann".into(),
            roles: texts(&["b", "a"]),
        })
        .await;
    assert_eq!(world.login("ann", "two").await, Ok(texts(&["a", "b"])));

    world
        .done(Command::DisableUser { name: "ann".into() })
        .await;
    assert_eq!(world.login("ann", "two").await, Err(Refusal::Banned));
    world.done(Command::EnableUser { name: "ann".into() }).await;
    assert!(world.login("ann", "two").await.is_ok());

    let (message, _) = world
        .done(rule(
            Effect::Allow,
            Action::Publish,
            "a/#",
            "user:local:ann",
        ))
        .await;
    assert_eq!(
        message,
        "rule 4 added: allow publish a/# for user:local:ann"
    );
    world.done(Command::RemoveUser { name: "ann".into() }).await;
    assert_eq!(
        world.login("ann", "two").await,
        Err(Refusal::BadCredentials)
    );
    assert_eq!(
        world.told(),
        [
            "password local:ann, 3 rules",
            "roles local:ann [\"a\", \"b\"], 3 rules",
            "disabled local:ann true, 3 rules",
            "policy, 4 rules",
            "policy, 3 rules",
            "disabled local:ann true, 3 rules",
        ]
    );

    world.admin.close().await;
    let again = Administration::open(world.dir.path(), Settings::default())
        .await
        .unwrap();
    assert!(again.users().find("ann").is_none());
    assert_eq!(again.policy().load().rules().count(), 3);
}

#[tokio::test]
async fn a_generated_password_is_answered_once_and_lets_the_user_in() {
    let world = World::new().await;
    let command = Command::AddUser {
        name: "dev".into(),
        password: NewPassword::Generated,
        roles: texts(&["sensors"]),
    };
    let Answer::Password {
        password, warnings, ..
    } = world.run(command).await.unwrap()
    else {
        panic!()
    };
    assert!(world.login("dev", &password.0).await.is_ok());
    assert_eq!(warnings, ["no rule is for the role sensors yet"]);
    world.admin.close().await;
    let again = Administration::open(world.dir.path(), Settings::default())
        .await
        .unwrap();
    let credentials = Credentials {
        username: Some("dev"),
        password: Some(password.0.as_bytes()),
        certificate: None,
    };
    again
        .authenticator()
        .authenticate(credentials, None)
        .await
        .unwrap();
    assert_eq!(
        again.authenticator().hashes(),
        0,
        "I3: it needs no slow hash after a restart either"
    );
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_changes_nothing() {
    let world = World::new().await;
    world.add("ann", "x", &[]).await;
    let add = |name: &str, roles: &[&str]| Command::AddUser {
        name: name.into(),
        password: chosen("x"),
        roles: texts(roles),
    };
    let many: Vec<String> = (0..33).map(|number| format!("r{number}")).collect();
    let refused = [
        (add("ann", &[]), "exists already"),
        (add("", &[]), "is empty"),
        (add("bob", &["no good"]), "may contain only"),
        (
            Command::AddUser {
                name: "bob".into(),
                password: chosen(""),
                roles: Vec::new(),
            },
            "is empty",
        ),
        (
            Command::SetRoles {
                name: "ann".into(),
                roles: many,
            },
            "at most 32",
        ),
        (
            Command::SetPassword {
                name: "bob".into(),
                password: chosen("x"),
            },
            "no user \"bob\"",
        ),
        (
            Command::DisableUser { name: "bob".into() },
            "no user \"bob\"",
        ),
        (Command::RemoveRule { id: 77 }, "no rule 77"),
        (
            rule(Effect::Allow, Action::Publish, "a/#/b", "everyone"),
            "last level",
        ),
        (
            rule(Effect::Allow, Action::Publish, "a", "group:x"),
            "whom a rule is for",
        ),
        (
            rule(Effect::Allow, Action::Publish, "a", "role:ä"),
            "may contain only",
        ),
        (
            rule(Effect::Allow, Action::Publish, "#", "role:admin"),
            "as rule 1",
        ),
        (
            Command::Explain(Question::new("bob", Action::Publish, "a")),
            "no user",
        ),
    ];
    for (command, words) in refused {
        let text = world.run(command).await.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
    assert!(world.told().is_empty());
    assert_eq!(
        (
            world.admin.users().all().len(),
            world.admin.policy().load().rules().count()
        ),
        (1, 3)
    );
}

#[tokio::test]
async fn rules_that_will_surprise_come_with_a_warning() {
    let world = World::new().await;
    for (command, words) in [
        (
            rule(Effect::Allow, Action::Publish, "dev/%c/#", "everyone"),
            "chooses for itself",
        ),
        (
            rule(Effect::Allow, Action::Publish, "$SYS/#", "everyone"),
            "never matches",
        ),
        (
            rule(Effect::Allow, Action::Publish, "a", "user:local:nobody"),
            "no user",
        ),
    ] {
        let (_, warnings) = world.done(command).await;
        assert!(
            warnings.len() == 1 && warnings[0].contains(words),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn lists_come_in_pages_that_leave_nothing_out() {
    let world = World::new().await;
    let accounts = &world.admin.accounts;
    let credential = world.admin.authenticator().hash_secret("x", "x");
    for number in 0..450 {
        accounts
            .add_user(&format!("u{number:03}"), &credential, &[])
            .await
            .unwrap();
    }
    world.admin.refresh().await.unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let Answer::Users { users, more } = world.run(Command::ListUsers { after }).await.unwrap()
        else {
            panic!()
        };
        names.extend(users.into_iter().map(|user| user.name));
        after = names.last().cloned();
        if !more {
            break;
        }
    }
    assert_eq!(
        names,
        (0..450)
            .map(|number| format!("u{number:03}"))
            .collect::<Vec<_>>()
    );
    let Answer::Rules { rules, more } = world
        .run(Command::ListRules { after: Some(1) })
        .await
        .unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (rules.iter().map(|rule| rule.id).collect::<Vec<_>>(), more),
        (vec![2, 3], false)
    );
}

#[tokio::test]
async fn explain_tells_the_rule_and_that_the_account_is_disabled() {
    let world = World::new().await;
    world.add("ann", "x", &["admin"]).await;
    world
        .done(Command::DisableUser { name: "ann".into() })
        .await;
    let command = Command::Explain(Question::new("ann", Action::Subscribe, "$SYS/#"));
    let Answer::Explanation(answer) = world.run(command).await.unwrap() else {
        panic!()
    };
    assert_eq!((answer.allowed, answer.rule), (true, Some(3)));
    assert!(answer.notes.iter().any(|note| note.contains("disabled")));
}

// I6
#[tokio::test]
async fn the_first_account_is_made_once_and_its_password_is_kept_until_it_was_shown() {
    let world = World::new().await;
    let first = FirstAccount::ensure(&world.admin, world.dir.path())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.name, first.role), ("admin", "admin"));
    assert_eq!(
        world.login("admin", &first.password.0).await,
        Ok(texts(&["admin"]))
    );
    let text = std::fs::read_to_string(&first.file).unwrap();
    assert_eq!(
        text,
        format!("user: admin\npassword: {}\n", first.password.0)
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&first.file).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert!(!format!("{first:?}").contains(&first.password.0));
    for (action, topic, allowed) in [
        (Action::Publish, "any/topic", true),
        (Action::Subscribe, "#", true),
        (Action::Subscribe, "$SYS/#", true),
        (Action::Publish, "$SYS/x", false),
    ] {
        let command = Command::Explain(Question::new("admin", action, topic));
        let Answer::Explanation(answer) = world.run(command).await.unwrap() else {
            panic!()
        };
        assert_eq!(answer.allowed, allowed, "{topic}");
    }
    let file = first.file.clone();
    first.was_shown().unwrap();
    assert!(!file.exists());
    assert!(
        FirstAccount::ensure(&world.admin, world.dir.path())
            .await
            .unwrap()
            .is_none()
    );
    assert!(!file.exists());
}

// D11
#[tokio::test]
async fn a_stored_rule_nobody_understands_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let accounts = Accounts::open(dir.path()).await.unwrap();
    let rule = NewRule {
        effect: "deny".into(),
        action: "publish".into(),
        filter: "a/%z".into(),
        who_kind: "everyone".into(),
        realm: String::new(),
        who: String::new(),
    };
    accounts.add_rule(&rule).await.unwrap();
    accounts.close().await;
    let error = Administration::open(dir.path(), Settings::default())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("stored rule 4"), "{error}");
}

#[tokio::test]
async fn accounts_and_key_from_different_backups_stop_the_start() {
    let world = World::new().await;
    world.admin.close().await;
    std::fs::remove_file(world.dir.path().join("secret.key")).unwrap();
    let error = Administration::open(world.dir.path(), Settings::default())
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, AdminError::Auth(AuthError::KeyMissing { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn changes_at_the_same_time_all_end_up_in_force() {
    let world = World::new().await;
    let add = |number: i32| {
        world.run(rule(
            Effect::Allow,
            Action::Publish,
            &format!("t/{number}"),
            "everyone",
        ))
    };
    let results = futures_util::future::join_all((0..40).map(add)).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(world.admin.policy().load().rules().count(), 43);
    let duplicate = world
        .run(rule(Effect::Allow, Action::Publish, "t/7", "everyone"))
        .await;
    assert!(matches!(
        duplicate,
        Err(AdminError::Store(StoreError::RuleExists(_)))
    ));
}

// C1
#[tokio::test]
async fn revoking_a_name_leaves_no_certificate_of_it_however_many_there_are() {
    let world = World::new().await;
    let Answer::Ca(ca) = world.run(Command::InitCa).await.unwrap() else {
        panic!("no CA");
    };
    let facts = crate::tls::PrivateCa::at(world.dir.path())
        .facts()
        .unwrap()
        .unwrap();
    assert_eq!(facts.pem, ca.certificate);
    for number in 0..1_003 {
        let certificate = crate::store::NewCertificate {
            issuer: facts.id.clone(),
            serial: format!("0a{number:06}"),
            kind: "device".to_owned(),
            name: "lamp".to_owned(),
            fingerprint: [7; 32],
            not_after: 4_000_000_000,
        };
        assert!(
            world
                .admin
                .accounts
                .add_certificate(&certificate)
                .await
                .unwrap()
        );
    }
    let (message, _) = world
        .done(Command::RevokeCertificate {
            which: "lamp".to_owned(),
            reason: crate::admin::command::RevocationReason::Superseded,
        })
        .await;
    assert!(message.ends_with("and 3 more revoked"), "{message}");
    let left = world
        .admin
        .accounts
        .certificates_called(&facts.id, "lamp")
        .await;
    assert_eq!(left.unwrap(), []);
}
