//! Is everything in the audit log that must be there, and nothing that must not? Mosquitto's clients do what is to be
//! noted, and the command line shows it.

use std::path::Path;

use postern_tests::client::tcp;
use postern_tests::gateway::gateway_tool;
use postern_tests::packet::{Version, Will};
use postern_tests::peer::Tool;
use postern_tests::wait::until_some;
use postern_tests::{Account, Client, Connect, Gateway, Publish, Setup};
use serde_json::Value;

/// What the audit log of a gateway has, the oldest first.
async fn entries(gateway: &Gateway, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["audit", "--json", "-n", "5000"];
    all.extend(arguments);
    let finished = gateway.cli(&all, "").await.expect_success();
    let lines = finished.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The only entry of a kind about a principal.
async fn only(gateway: &Gateway, kind: &str, principal: &str) -> Value {
    let found = entries(gateway, &["--kind", kind, "--principal", principal]).await;
    assert_eq!(found.len(), 1, "{kind} of {principal}: {found:?}");
    found.into_iter().next().unwrap_or_default()
}

fn client(gateway: &Gateway, program: &str, account: &Account, from: &str) -> Tool {
    Tool::new(program)
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &gateway.addresses.mqtt.port().to_string(),
        ])
        .args(["-A", from, "-u", &account.name, "-P", &account.password])
}

async fn user(gateway: &Gateway, name: &str) -> Account {
    let account = gateway.add_user(name, &[]).await;
    gateway
        .acl(&format!("allow publish own/# --user {name}"))
        .await;
    gateway
        .acl(&format!("allow subscribe own/# --user {name}"))
        .await;
    account
}

#[tokio::test]
async fn each_refusal_each_login_and_each_change_is_an_entry_with_who_from_where_and_why() {
    let gateway = Gateway::start().await;
    let ann = user(&gateway, "ann").await;
    let pub_as = |account: &Account, id: &str, topic: &str, from: &str| {
        client(&gateway, "mosquitto_pub", account, from)
            .args(["-V", "5", "-q", "1", "-i", id, "-m", "x", "-t", topic])
    };
    pub_as(&ann, "a", "own/x", "127.1.0.1")
        .run()
        .await
        .expect_success();
    let login = only(&gateway, "login", "ann").await;
    assert_eq!(
        (
            login["principal"].as_str(),
            login["address"].as_str(),
            login["client"].as_str()
        ),
        (Some("local:ann"), Some("127.1.0.1"), Some("a"))
    );

    // A denied PUBLISH, three times: one entry, with a count.
    for n in 0..3 {
        pub_as(&ann, "b", &format!("other/{n}"), "127.1.0.2")
            .run()
            .await;
    }
    let denied = only(&gateway, "publish-denied", "local:ann").await;
    assert_eq!(
        (&denied["count"], &denied["subject"]),
        (&3.into(), &"other/0".into())
    );
    assert_eq!(denied["reason"], "denied: no rule allows it");

    client(&gateway, "mosquitto_sub", &ann, "127.1.0.2")
        .args(["-V", "5", "-i", "c", "-t", "#", "-W", "2"])
        .run()
        .await;
    let denied = only(&gateway, "subscribe-denied", "ann").await;
    assert_eq!(
        (&denied["subject"], &denied["client"]),
        (&"#".into(), &"c".into())
    );

    // S1: a will.
    let will = Connect::v5("w")
        .user(&ann.name, &ann.password)
        .will(Will::new("other/will", "x"));
    assert_eq!(gateway.try_connect(&will).await.connack.code, 0x87);
    assert_eq!(
        only(&gateway, "will-denied", "ann").await["subject"],
        "other/will"
    );

    // S5: another principal's client identifier.
    let persistent = Connect::v5("mine").persistent(600);
    gateway.connect(persistent).await.disconnect().await;
    pub_as(&ann, "mine", "own/x", "127.1.0.3").run().await;
    let takeover = only(&gateway, "takeover", "ann").await;
    assert_eq!(takeover["client"], "mine");
    assert!(
        takeover["reason"]
            .as_str()
            .is_some_and(|why| why.contains("another user"))
    );

    // A wrong password, and a name that there is not.
    for (name, password) in [("ann", "wrong"), ("nobody", "wrong")] {
        let account = Account {
            name: name.into(),
            password: password.into(),
        };
        pub_as(&account, "d", "own/x", "127.1.0.4").run().await;
        let failed = only(&gateway, "login-failed", name).await;
        assert_eq!(failed["address"], "127.1.0.4");
    }

    // Changes, done and not done, each with the operator.
    gateway
        .cli(&["user", "disable", "ann"], "")
        .await
        .expect_success();
    let refused = pub_as(&ann, "e", "own/x", "127.1.0.5").run().await;
    assert!(!refused.status.success());
    let failed = entries(
        &gateway,
        &["--kind", "login-failed", "--address", "127.1.0.5"],
    )
    .await;
    assert_eq!(failed[0]["reason"], "the account is disabled");
    gateway.cli(&["user", "remove", "bob"], "").await;
    gateway
        .cli(&["ban", "add", "192.0.2.1", "--for", "1h"], "")
        .await
        .expect_success();
    gateway.reload("the configuration was reloaded").await;
    let changes = entries(&gateway, &["--kind", "change"]).await;
    let uid = format!("uid {}", unsafe { libc::geteuid() });
    assert!(
        changes.iter().all(|change| change["principal"] == *uid),
        "{changes:?}"
    );
    for what in [
        "add the user \"ann\"",
        "add the rule allow publish \"own/#\"",
        "disable",
        "ban",
    ] {
        let has = |change: &Value| {
            change["subject"]
                .as_str()
                .is_some_and(|text| text.contains(what))
        };
        assert!(changes.iter().any(has), "{what}: {changes:?}");
    }
    let failed = entries(&gateway, &["--kind", "change-failed"]).await;
    assert!(
        failed[0]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("no user"))
    );
    let gateway_itself = entries(&gateway, &["--kind", "gateway"]).await;
    let subject = |entry: &Value| entry["subject"].as_str().unwrap_or_default().to_owned();
    let subjects: Vec<_> = gateway_itself.iter().map(subject).collect();
    assert!(
        subjects.contains(&"reload of the configuration".to_owned()),
        "{subjects:?}"
    );

    // What came first is told first, and what is too old not at all.
    let all = entries(&gateway, &[]).await;
    assert!(all.is_sorted_by_key(|entry| entry["id"].as_i64()));
    assert_eq!(entries(&gateway, &["--since", "1d"]).await.len(), all.len());
}

fn contains(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn no_password_and_no_token_is_in_the_file_and_a_stopped_gateway_shows_what_was_noted() {
    let gateway = Gateway::start().await;
    let ann = user(&gateway, "ann").await;
    gateway
        .add_user_with("bob", "correct horse battery staple", &[])
        .await;
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJlLW9mLW1hbGxvcnk";
    let secret = "pst_k5ugc2loonuxi3lnn5zhizlnmvza2345";
    for (name, password) in [
        ("ann", "guessed-password-1"),
        (token, "guessed-password-2"),
        (secret, "guessed-password-3"),
        ("bob", "correct horse battery staple"),
    ] {
        let account = Account {
            name: name.into(),
            password: password.into(),
        };
        client(&gateway, "mosquitto_pub", &account, "127.2.0.1")
            .args(["-i", token, "-t", "own/x", "-m", "x"])
            .run()
            .await;
    }
    client(&gateway, "mosquitto_pub", &ann, "127.2.0.1")
        .args(["-t", "own/x", "-m", "x"])
        .run()
        .await
        .expect_success();
    let failed = entries(&gateway, &["--kind", "login-failed"]).await;
    assert_eq!(failed.len(), 3, "{failed:?}");
    let claimed = failed[1]["principal"].as_str().expect("a text");
    assert!(
        claimed.starts_with("token:") && claimed.len() < 20,
        "{claimed}"
    );
    let (config, data) = (gateway.config.clone(), gateway.data.clone());
    let kept = gateway.stop().await;

    let file = data.join("audit.db");
    assert!(contains(&file, "login-failed") && contains(&file, "local:bob"));
    for hidden in [
        "guessed-password",
        "correct horse",
        "mallory",
        "bWFsbG9yeQ",
        "c2lnbmF0dXJl",
        "k5ugc2loon",
        &ann.password,
    ] {
        for name in ["audit.db", "audit.db-wal"] {
            assert!(!contains(&data.join(name), hidden), "{hidden} is in {name}");
        }
    }
    let show = gateway_tool()
        .args(["audit", "--kind", "gateway", "--config"])
        .arg(&config)
        .run()
        .await
        .expect_success();
    assert!(show.stdout.contains("started") && show.stdout.contains("stopping"));
    // What is changed while no gateway runs is noted too.
    let change = |arguments: &[&str]| {
        gateway_tool()
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .run()
    };
    change(&["user", "disable", "bob"]).await.expect_success();
    let shown = change(&["audit", "--principal", "command line"])
        .await
        .expect_success();
    assert!(
        shown.stdout.contains("disable \"bob\": done"),
        "{}",
        shown.stdout
    );
    drop(kept);
}

// N1: a storm and a guesser neither grow the log nor push out what an operator did.
#[tokio::test]
async fn a_guesser_cannot_grow_the_log_or_push_changes_out_of_it() {
    let tables =
        "[audit]\nmax_entries = 1000\n[bans]\nenabled = false\n[auth]\nallow_anonymous = true\n";
    let gateway = Setup::new().toml(tables).start().await;
    gateway.add_user("ann", &[]).await;
    // Anonymous clients cost no hash. Refusals of as many addresses are as many entries; of one, whatever the client
    // identifier, they are one.
    let refused = async |n: u32, address: [u8; 4]| {
        let stream = tcp(Some(address.into()), gateway.addresses.mqtt).await;
        let mut client = Client::over(stream, Version::V5);
        let connect = Connect::v5(&format!("c{n}"))
            .anonymous()
            .will(Will::new("denied", "x"));
        client.connect(&connect).await;
        assert_eq!(client.connack.code, 0x87);
    };
    for n in 0..600 {
        refused(n, [127, 9, (n / 250) as u8, (n % 250 + 1) as u8]).await;
    }
    let denied = entries(&gateway, &["--kind", "will-denied"]).await;
    assert_eq!(denied.len(), 400, "two fifths are for refusals");
    assert_eq!(denied[399]["address"], "127.9.2.100", "the newest are kept");
    let changes = entries(&gateway, &["--kind", "change"]).await;
    assert!(
        changes[0]["subject"]
            .as_str()
            .is_some_and(|what| what.contains("\"ann\""))
    );
    for n in 0..50 {
        refused(n, [127, 10, 0, 1]).await;
    }
    let one = ["--kind", "will-denied", "--address", "127.10.0.1"];
    let denied = entries(&gateway, &one).await;
    let count: i64 = denied
        .iter()
        .filter_map(|entry| entry["count"].as_i64())
        .sum();
    assert!(denied.len() <= 2 && count == 50, "{denied:?}");
}

// A reader that follows sees what comes.
#[tokio::test]
async fn a_log_that_is_followed_shows_what_comes_and_one_that_is_off_says_so() {
    let gateway = Gateway::start().await;
    let mut following = gateway_tool()
        .args([
            "audit",
            "--follow",
            "--json",
            "--kind",
            "publish-denied",
            "--config",
        ])
        .arg(&gateway.config)
        .start()
        .await;
    let ann = user(&gateway, "ann").await;
    let mut client = gateway
        .connect(Connect::v5("a").user(&ann.name, &ann.password))
        .await;
    assert_eq!(
        client.publish(Publish::new("other", "x").qos(1)).await,
        0x87
    );
    let line = following.line_with("publish-denied").await;
    assert!(line.contains("\"subject\":\"other\""), "{line}");
    // Denials that are only counted are in the log once the connection ends.
    for _ in 0..9 {
        client.publish(Publish::new("other", "x").qos(1)).await;
    }
    client.disconnect().await;
    until_some("all ten denials in the log", async || {
        let denied = only(&gateway, "publish-denied", "ann").await;
        (denied["count"] == 10).then_some(())
    })
    .await;

    let off = Setup::new()
        .toml("[audit]\nenabled = false\n")
        .start()
        .await;
    let told = off.cli(&["audit"], "").await.expect_one_line_failure();
    assert!(told.contains("audit.enabled"), "{told}");
    assert!(!off.data.join("audit.db").exists());
}
