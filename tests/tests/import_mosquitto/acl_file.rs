//! Password file and ACL file.

use postern_tests::gateway::gateway_tool;
use postern_tests::peer::Finished;
use postern_tests::{Gateway, Setup};

use super::mosquitto::{Mosquitto, passwd};
use super::{Broker, Login, Report, own_hash, same_messages, same_publishes, stored_hash};

const ANN: Login = Login::new("ann", "correct horse");
const BOB: Login = Login::new("bob", "battery staple");
const BOSS: Login = Login::new("boss", "the boss");

const ACL: &str = "\
# what anonymous clients see
topic read public/#

user ann
topic readwrite home/#
topic deny home/safe/#
topic read weather/+/today
topic read 100%/full

user bob
topic write sensors/bob/+
topic read sensors/+/alarm
topic read users/ann/private
topic deny users/bob/secret

user boss
topic readwrite #

user nobody-has-this-password
topic readwrite #

pattern readwrite users/%u/#
pattern read end/#
pattern deny users/+/private
";

const TOPICS: &[&str] = &[
    "public/news",
    "home/kitchen/lamp",
    "home",
    "home/safe",
    "home/safe/code",
    "weather/paris/today",
    "weather/paris/tomorrow",
    "100%/full",
    "sensors/bob/temp",
    "sensors/bob/temp/raw",
    "sensors/ann/alarm",
    "users/ann/inbox",
    "users/ann/private",
    "users/bob/inbox",
    "users/bob/secret",
    "users",
    "other",
];

const FILTERS: &[&str] = &[
    "#",
    "+",
    "public/#",
    "public/news",
    "home/#",
    "home/+/lamp",
    "home/safe/#",
    "home/safe/code",
    "weather/+/today",
    "weather/#",
    "100%/full",
    "sensors/+/alarm",
    "sensors/#",
    "users/ann/#",
    "users/bob/#",
    "users/ann/private",
    "other",
];

struct World {
    mosquitto: Mosquitto,
    gateway: Gateway,
}

impl World {
    async fn new() -> World {
        let dir = Mosquitto::folder();
        let passwords = dir.path().join("passwords");
        passwd(&passwords, "sha512-pbkdf2", "ann", ANN.password).await;
        passwd(&passwords, "sha512", "bob", BOB.password).await;
        passwd(&passwords, "sha512-pbkdf2", "boss", BOSS.password).await;
        let acl = dir.path().join("acl");
        std::fs::write(&acl, ACL).expect("the ACL file can be written");
        let settings = format!(
            "allow_anonymous true\npassword_file {}\nacl_file {}\n",
            passwords.display(),
            acl.display()
        );
        World {
            mosquitto: Mosquitto::start(dir, &settings).await,
            gateway: Setup::new()
                .toml("[auth]\nallow_anonymous = true\n")
                .start()
                .await,
        }
    }

    async fn import(&self, options: &[&str]) -> Finished {
        let conf = self.mosquitto.conf.display().to_string();
        let line = [&["import", "mosquitto", &conf], options].concat();
        self.gateway.cli(&line, "").await
    }

    fn old(&self) -> Broker {
        Broker {
            address: self.mosquitto.address,
            boss: BOSS,
        }
    }

    fn new_one(&self) -> Broker {
        Broker {
            address: self.gateway.addresses.mqtt,
            boss: Login::first_account(&self.gateway),
        }
    }
}

#[tokio::test]
async fn an_imported_acl_file_answers_as_mosquitto_did_and_differs_where_the_report_says() {
    let world = World::new().await;
    let done = world.import(&["--json"]).await.expect_success();
    let report = Report(serde_json::from_str(&done.stdout).expect("JSON"));
    for secret in [ANN.password, "$7$", "$6$"] {
        assert!(
            !done.stdout.contains(secret) && !done.stderr.contains(secret),
            "{done}"
        );
    }
    assert_eq!(report.count("wider"), 0, "{done}");
    // A topic line beats a pattern there; a deny beats everything here.
    for (login, topic) in [(BOB, "users/ann/private"), (BOSS, "users/ann/private")] {
        assert!(report.says("narrower", login, "receive", topic), "{done}");
    }
    for difference in report.differences("narrower") {
        assert!(
            difference["topic"]
                .as_str()
                .is_some_and(|topic| topic.ends_with("/private")),
            "{difference}"
        );
    }
    assert!(report.says("refused", ANN, "subscribe", "#"), "{done}");
    let unmapped = report.findings("unmapped").join("\n");
    assert!(unmapped.contains("nobody-has-this-password"), "{unmapped}");

    let logins = [ANN, BOB, BOSS, Login::ANONYMOUS];
    same_publishes(world.old(), world.new_one(), &report, &logins, TOPICS).await;
    same_messages(
        world.old(),
        world.new_one(),
        &report,
        &logins,
        FILTERS,
        TOPICS,
    )
    .await;
}

// I3
#[tokio::test]
async fn users_log_in_with_their_old_passwords_and_get_hashes_of_our_own() {
    let world = World::new().await;
    world.import(&[]).await.expect_success();
    assert!(
        stored_hash(&world.gateway, "ann")
            .await
            .starts_with("$7$101$")
    );
    assert!(stored_hash(&world.gateway, "bob").await.starts_with("$6$"));
    for login in [ANN, BOB] {
        let name = login.name.expect("it has one");
        let wrong = Login {
            password: "wrong",
            ..login
        };
        assert_eq!(
            world.new_one().try_connect(wrong).await.connack.code,
            0x86,
            "{name}"
        );
        world.new_one().connect(login).await.disconnect().await;
        own_hash(&world.gateway, name).await;
        // By the new hash, and by what is remembered of it.
        for _ in 0..2 {
            world.new_one().connect(login).await.disconnect().await;
        }
        assert_eq!(
            world.new_one().try_connect(wrong).await.connack.code,
            0x86,
            "{name}"
        );
    }
    assert!(
        stored_hash(&world.gateway, "boss").await.starts_with("$7$"),
        "who was away keeps the old one"
    );
    let list = world
        .gateway
        .cli(&["user", "list"], "")
        .await
        .expect_success()
        .stdout;
    for (name, password) in [("ann", "chosen"), ("boss", "imported")] {
        let line = list
            .lines()
            .find(|line| line.starts_with(name))
            .expect("it is listed");
        assert!(line.contains(password), "{list}");
    }
    let World { gateway, .. } = world;
    let again = Setup::new().start_in(gateway.stop().await).await;
    let new = Broker {
        address: again.addresses.mqtt,
        boss: BOSS,
    };
    for login in [ANN, BOB, BOSS] {
        new.connect(login).await.disconnect().await;
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_second_import_is_refused_or_replaces() {
    let world = World::new().await;
    let users = || world.gateway.cli(&["user", "list", "--json"], "");
    let rules = || world.gateway.cli(&["acl", "list", "--json"], "");
    let (users_before, rules_before) = (users().await.stdout, rules().await.stdout);
    let done = world.import(&["--dry-run"]).await.expect_success();
    assert!(done.stdout.ends_with("Nothing was changed.\n"), "{done}");
    assert_eq!(
        (users().await.stdout, rules().await.stdout),
        (users_before, rules_before)
    );

    let settings = world.mosquitto.dir.path().join("postern.toml");
    let out = settings.display().to_string();
    let done = world.import(&["--config-out", &out]).await.expect_success();
    assert!(
        done.stdout
            .contains("3 users added, 0 replaced; 22 rules added"),
        "{done}"
    );
    let text = std::fs::read_to_string(&settings).expect("the settings were written");
    let port = world.mosquitto.address.port();
    assert!(
        text.contains(&format!("bind = [\"127.0.0.1:{port}\"]")),
        "{text}"
    );
    assert!(text.contains("allow_anonymous = true"), "{text}");

    let refused = world.import(&[]).await;
    assert!(
        refused
            .expect_one_line_failure()
            .contains("(ann, bob, boss)"),
        "{refused}"
    );
    let refused = world.import(&["--replace", "--config-out", &out]).await;
    assert!(
        refused
            .expect_one_line_failure()
            .contains("not overwritten"),
        "{refused}"
    );
    let rules_after = rules().await.stdout.lines().count();
    let done = world.import(&["--replace"]).await.expect_success();
    assert!(done.stdout.contains("0 users added, 3 replaced"), "{done}");
    assert_eq!(rules().await.stdout.lines().count(), rules_after);
}

#[tokio::test]
async fn an_import_into_a_stopped_gateway_is_there_when_it_starts() {
    let World { mosquitto, gateway } = World::new().await;
    let dir = gateway.stop().await;
    let config = dir.path().join("postern.toml");
    let line = gateway_tool()
        .args(["import", "mosquitto"])
        .arg(&mosquitto.conf)
        .arg("--config")
        .arg(&config);
    let done = line.run().await.expect_success();
    assert!(done.stdout.contains("3 users added"), "{done}");
    let gateway = Setup::new().start_in(dir).await;
    let new = Broker {
        address: gateway.addresses.mqtt,
        boss: BOSS,
    };
    new.connect(ANN).await.disconnect().await;
    assert!(
        new.publishable(ANN, TOPICS)
            .await
            .contains("home/kitchen/lamp")
    );
    own_hash(&gateway, "ann").await;
}
