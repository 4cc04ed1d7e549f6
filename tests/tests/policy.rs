//! Does the policy explain itself, is a change tried before it is made, and does it act at once, on clients that are here
//! and on those that are away (P2-P4, D8, D9)?

use postern_tests::peer::{Finished, Running, Tool};
use postern_tests::wait::{until, until_some};
use postern_tests::{Account, Connect, Gateway, Publish, Subscribe};

async fn run(gateway: &Gateway, words: &str) -> Finished {
    let words: Vec<_> = words.split_whitespace().collect();
    gateway.cli(&words, "").await
}

async fn output(gateway: &Gateway, words: &str) -> String {
    run(gateway, words).await.expect_success().stdout
}

fn client(gateway: &Gateway, program: &str, account: &Account) -> Tool {
    Tool::new("stdbuf")
        .args(["-oL", program, "-h", "127.0.0.1"])
        .args(["-p", &gateway.addresses.mqtt.port().to_string()])
        .args(["-u", &account.name, "-P", &account.password])
}

async fn subscribe(gateway: &Gateway, account: &Account, arguments: &[&str]) -> Running {
    let tool = client(gateway, "mosquitto_sub", account).arg("-d");
    let mut running = tool.args(arguments).start().await;
    running.line_with("Subscribed (mid").await;
    running
}

/// A counter or gauge of the gateway, from its `$SYS` topic.
async fn metric(gateway: &Gateway, name: &str, wanted: u64) {
    let mut watcher = gateway.v5(&format!("watch-{name}-{wanted}")).await;
    let topic = format!("$SYS/postern/{name}");
    watcher.subscribe(&topic, 0).await;
    until_some(&format!("{name} to be {wanted}"), async || {
        let message = watcher.message().await;
        (message.text() == wanted.to_string()).then_some(())
    })
    .await;
    watcher.disconnect().await;
}

async fn gateway() -> Gateway {
    let setup = postern_tests::Setup::new();
    setup.toml("[sys]\ninterval = \"1s\"\n").start().await
}

#[tokio::test]
async fn a_refused_filter_is_explained_with_what_of_it_is_allowed_and_a_session_lends_its_roles() {
    let gateway = gateway().await;
    let ann = gateway.add_user("ann", &["family"]).await;
    gateway
        .acl("allow subscribe home/+/temp --role family")
        .await;
    gateway.acl("deny subscribe home/bath/# --everyone").await;
    let refused = run(&gateway, "acl explain ann subscribe home/#").await;
    assert_eq!(refused.status.code(), Some(3));
    let expected = "denied: no rule allows it\n  inside it home/+/temp is allowed by rule 4, because the user has the \
                    role family, less what rule 5 withholds\n";
    assert_eq!(refused.stdout, expected);
    // What is told is what a client meets.
    let mut client = gateway
        .connect(Connect::v5("a").user(&ann.name, &ann.password))
        .await;
    let codes = Subscribe::to("home/#", 0)
        .and("home/+/temp", 0)
        .and("home/bath/temp", 0);
    assert_eq!(client.subscribe_all(codes).await.codes, [0x87, 0, 0x87]);

    let unknown = "acl explain eve subscribe home/x/temp --realm https://id.example";
    let answer = run(&gateway, unknown).await;
    assert!(
        answer.stdout.contains("name them with --role"),
        "{}",
        answer.stdout
    );
    let given = output(&gateway, &format!("{unknown} --role family")).await;
    assert!(given.starts_with("allowed by rule 4: "), "{given}");
}

#[tokio::test]
async fn a_dry_run_says_what_a_change_does_before_it_is_made() {
    let gateway = gateway().await;
    let ann = gateway.add_user("ann", &["family"]).await;
    gateway.acl("allow publish home/# --role family").await;
    gateway.acl("allow subscribe home/# --role family").await;
    for topic in ["home/door", "home/door", "home/lamp"] {
        client(&gateway, "mosquitto_pub", &ann)
            .args(["-q", "1", "-i", "phone", "-t", topic, "-m", "x"])
            .run()
            .await
            .expect_success();
    }
    let mut reader = subscribe(&gateway, &ann, &["-V", "5", "-i", "reader", "-t", "home/#"]).await;
    let differences = |text: &str| -> Vec<Vec<String>> {
        let rows = text
            .lines()
            .skip_while(|line| !line.starts_with("WOULD BE"))
            .skip(1);
        rows.map(|row| row.split_whitespace().take(5).map(str::to_owned).collect())
            .collect()
    };
    let deny = "acl deny publish home/door --role family";
    let told = output(&gateway, &format!("{deny} --dry-run")).await;
    assert_eq!(
        differences(&told),
        [["denied", "local:ann", "publish", "home/door", "2"]],
        "{told}"
    );
    assert!(told.contains("3 decisions were looked at"), "{told}");
    let told = output(
        &gateway,
        "acl deny subscribe home/door --everyone --dry-run",
    )
    .await;
    assert_eq!(
        differences(&told)[0][..4],
        ["narrowed", "local:ann", "subscribe", "home/#"]
    );
    let told = output(&gateway, "acl remove 5 --dry-run").await;
    assert_eq!(
        differences(&told)[0][..4],
        ["denied", "local:ann", "subscribe", "home/#"]
    );
    let told = output(&gateway, "user roles ann --dry-run").await;
    assert_eq!(differences(&told).len(), 3, "{told}");
    let told = output(&gateway, "acl allow publish garden --everyone --dry-run").await;
    assert!(told.contains("none would be another one"), "{told}");

    // Nothing was changed, and the change does what was told.
    let publish = async |topic| {
        client(&gateway, "mosquitto_pub", &ann)
            .args(["-V", "5", "-q", "1", "-i", "phone", "-t", topic, "-m", "y"])
            .run()
            .await
            .stderr
    };
    assert_eq!(publish("home/door").await, "");
    reader.line_with("'home/door'").await;
    output(&gateway, deny).await;
    assert!(publish("home/door").await.contains("Not authorized"));
    assert_eq!(publish("home/lamp").await, "");
}

// P3, P4, D8, D9: at once, on a client that is here, and on one that is away.
#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_at_once_from_live_and_from_offline_sessions() {
    let gateway = gateway().await;
    let ann = gateway.add_user("ann", &["family"]).await;
    gateway.acl("allow subscribe home/# --role family").await;
    gateway.acl("allow subscribe garden/# --user ann").await;

    // Away: one message in flight, and three that wait.
    let persistent = |id: &str| {
        Connect::v5(id)
            .user(&ann.name, &ann.password)
            .persistent(600)
    };
    let mut away = gateway.connect(persistent("away")).await;
    away.subscribe_all(Subscribe::to("home/#", 1).and("garden/#", 1))
        .await;
    let mut admin = gateway.v5("admin").await;
    admin
        .publish(Publish::new("home/flight", "in flight").qos(1))
        .await;
    let in_flight = away.message().await;
    assert_eq!(in_flight.text(), "in flight");
    away.vanish();
    for topic in ["home/1", "garden/1", "home/2"] {
        admin.publish(Publish::new(topic, topic).qos(1)).await;
    }
    metric(&gateway, "messages_stored", 3).await;
    // Here: Mosquitto's clients, v5 and v3.
    let v5 = subscribe(&gateway, &ann, &["-V", "5", "-i", "v5", "-t", "home/#"]).await;
    let v3 = subscribe(&gateway, &ann, &["-V", "311", "-i", "v3", "-t", "home/#"]).await;

    gateway
        .cli(&["user", "roles", "ann"], "")
        .await
        .expect_success();
    for id in ["v5", "v3"] {
        until(&format!("the end of {id}"), || {
            let lines = gateway.process.log().lines();
            let ended = format!("client={id:?} reason=\"not authorized\" why=no longer allowed");
            lines.iter().any(|line| line.contains(&ended))
        })
        .await;
    }
    drop((v5, v3));
    metric(&gateway, "messages_dropped", 2).await;
    metric(&gateway, "messages_stored", 1).await;

    // P4: told once when it comes back; what is allowed is there, and the one in flight is not sent again (D9).
    let mut back = gateway.connect(persistent("away")).await;
    assert!(back.connack.session_present);
    assert_eq!(back.end_code().await, 0x87);
    let mut back = gateway.connect(persistent("away")).await;
    let first = back.receive().await;
    assert_eq!(first.topic, "garden/1");
    assert_ne!(first.id, in_flight.id);
    back.nothing_came().await;
}

// P3: the will of a user that is disabled while it is away is not sent.
#[tokio::test]
async fn a_disabled_user_that_is_away_has_no_session_and_no_will_any_more() {
    let gateway = gateway().await;
    let ann = gateway.add_user("ann", &["admin"]).await;
    let mut watcher = gateway.v5("watcher").await;
    watcher.subscribe("will", 1).await;
    let will = |name, seconds| {
        let delay = postern_tests::Property::WillDelay(seconds);
        postern_tests::packet::Will::new("will", name).with(delay)
    };
    let login = Connect::v5("away")
        .user(&ann.name, &ann.password)
        .persistent(600)
        .will(will("gone", 1));
    let mut away = gateway.connect(login).await;
    away.subscribe("home/#", 1).await;
    away.leave_will().await;
    output(&gateway, "user disable ann").await;
    metric(&gateway, "sessions", 2).await;
    // A later will of somebody else is the first that comes.
    let other = Connect::v5("other").persistent(600).will(will("other", 2));
    gateway.connect(other).await.leave_will().await;
    assert_eq!(watcher.receive().await.text(), "other");
}
