//! Do the Mosquitto clients work, over every transport, version and QoS they have?

use postern_tests::peer::{Running, Tool};
use postern_tests::scope::own_address;
use postern_tests::{Account, Gateway, Scope, Setup, Shared};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Transport {
    Plain,
    Tls12,
    Tls13,
}

const TRANSPORTS: [Transport; 3] = [Transport::Plain, Transport::Tls12, Transport::Tls13];
const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

async fn gateway() -> Shared {
    Shared::start(Setup::new().toml("[sys]\ninterval = \"1s\"\n")).await
}

/// A Mosquitto client with everything it needs to log in; `stdbuf` because it buffers its lines otherwise.
fn tool(gateway: &Gateway, program: &str, transport: Transport, version: &str) -> Tool {
    as_user(gateway, &gateway.admin, program, transport, version)
}

fn as_user(
    gateway: &Gateway,
    account: &Account,
    program: &str,
    transport: Transport,
    version: &str,
) -> Tool {
    let tool = Tool::new("stdbuf")
        .args([
            "-oL",
            program,
            "-V",
            version,
            "-A",
            &own_address().to_string(),
        ])
        .args(["-u", &account.name, "-P", &account.password]);
    match transport {
        Transport::Plain => tool.args([
            "-h",
            "127.0.0.1",
            "-p",
            &gateway.addresses.mqtt.port().to_string(),
        ]),
        Transport::Tls12 | Transport::Tls13 => {
            let number = if transport == Transport::Tls12 {
                "tlsv1.2"
            } else {
                "tlsv1.3"
            };
            tool.args([
                "-h",
                "localhost",
                "-p",
                &gateway.addresses.mqtts.port().to_string(),
            ])
            .args(["--tls-version", number])
            .arg("--cafile")
            .arg(gateway.ca())
        }
    }
}

/// Starts mosquitto_sub and waits until the gateway has confirmed its subscriptions.
async fn subscribe(tool: Tool, arguments: &[&str]) -> Running {
    let mut subscriber = tool.arg("-d").args(arguments).start().await;
    subscriber.line_with("Subscribed (mid").await;
    subscriber
}

async fn publish(tool: Tool, topic: &str, message: &str, arguments: &[&str]) {
    tool.args(["-t", topic, "-m", message])
        .args(arguments)
        .run()
        .await
        .expect_success();
}

#[tokio::test]
async fn every_transport_version_and_qos_delivers() {
    let gateway = gateway().await;
    for transport in TRANSPORTS {
        for version in VERSIONS {
            let topic = Scope::new().topic("a");
            let mut subscriber = subscribe(
                tool(&gateway, "mosquitto_sub", transport, version),
                &["-t", &topic, "-q", "2", "-F", "GOT qos %q retain %r %p"],
            )
            .await;
            for qos in ["0", "1", "2"] {
                let publisher = tool(&gateway, "mosquitto_pub", transport, version);
                publish(
                    publisher,
                    &topic,
                    &format!("{transport:?} {version}"),
                    &["-q", qos],
                )
                .await;
                assert_eq!(
                    subscriber.line_with("GOT").await,
                    format!("GOT qos {qos} retain 0 {transport:?} {version}")
                );
            }
        }
    }
}

#[tokio::test]
async fn a_retained_message_reaches_a_later_subscriber_until_it_is_cleared() {
    let gateway = gateway().await;
    for version in VERSIONS {
        let scope = Scope::new();
        let (kept, end) = (scope.topic("kept"), scope.topic("end"));
        let publisher = || tool(&gateway, "mosquitto_pub", Transport::Tls13, version);
        publish(publisher(), &kept, "value", &["-r", "-q", "1"]).await;
        let arguments = ["-t", &kept, "-t", &end, "-F", "GOT %r %p"];
        let mut subscriber = subscribe(
            tool(&gateway, "mosquitto_sub", Transport::Tls13, version),
            &arguments,
        )
        .await;
        assert_eq!(subscriber.line_with("GOT").await, "GOT 1 value");

        publisher()
            .args(["-t", &kept, "-r", "-n"])
            .run()
            .await
            .expect_success();
        let mut subscriber = subscribe(
            tool(&gateway, "mosquitto_sub", Transport::Tls13, version),
            &arguments,
        )
        .await;
        publish(publisher(), &end, "end", &[]).await;
        assert_eq!(
            subscriber.line_with("GOT").await,
            "GOT 0 end",
            "the retained message is gone"
        );
    }
}

#[tokio::test]
async fn the_will_of_a_killed_client_is_sent() {
    let gateway = gateway().await;
    for version in VERSIONS {
        let topic = Scope::new().topic("will");
        let mut watcher = subscribe(
            tool(&gateway, "mosquitto_sub", Transport::Plain, version),
            &["-t", &topic, "-q", "1", "-F", "GOT %p"],
        )
        .await;
        let will = [
            "-t",
            "unused",
            "--will-topic",
            &topic,
            "--will-payload",
            "gone",
            "--will-qos",
            "1",
        ];
        let mut client = subscribe(
            tool(&gateway, "mosquitto_sub", Transport::Tls13, version),
            &will,
        )
        .await;
        client.child.kill().await.expect("it runs");
        assert_eq!(watcher.line_with("GOT").await, "GOT gone");
    }
}

#[tokio::test]
async fn a_persistent_session_gets_what_came_while_it_was_away() {
    let gateway = gateway().await;
    for version in VERSIONS {
        let scope = Scope::new();
        let (topic, id) = (scope.topic("queue"), scope.id("mosquitto"));
        let mut arguments = vec!["-c", "-i", &id, "-t", &topic, "-q", "1", "-F", "GOT %p"];
        if version == "mqttv5" {
            arguments.extend(["-x", "3600"]);
        }
        let sub = || tool(&gateway, "mosquitto_sub", Transport::Tls13, version);
        drop(subscribe(sub(), &arguments).await);
        for message in ["one", "two", "three"] {
            publish(
                tool(&gateway, "mosquitto_pub", Transport::Tls13, version),
                &topic,
                message,
                &["-q", "1"],
            )
            .await;
        }
        let mut subscriber = sub().args(&arguments).start().await;
        for message in ["one", "two", "three"] {
            assert_eq!(subscriber.line_with("GOT").await, format!("GOT {message}"));
        }
    }
}

#[tokio::test]
async fn v5_properties_arrive_as_they_were_sent() {
    let gateway = gateway().await;
    let topic = Scope::new().topic("properties");
    let format = "GOT C=%C D=%D F=%F R=%R S=%S P=%P p=%p";
    let subscriber = tool(&gateway, "mosquitto_sub", Transport::Tls13, "mqttv5");
    let arguments = [
        "-t",
        &topic,
        "-D",
        "subscribe",
        "subscription-identifier",
        "7",
        "-F",
        format,
    ];
    let mut subscriber = subscribe(subscriber, &arguments).await;
    let mut publisher = tool(&gateway, "mosquitto_pub", Transport::Tls13, "mqttv5");
    for (name, value) in [
        ("content-type", "text/plain"),
        ("correlation-data", "number 4"),
        ("payload-format-indicator", "1"),
        ("response-topic", "answers/here"),
        ("message-expiry-interval", "100"),
    ] {
        publisher = publisher.args(["-D", "publish", name, value]);
    }
    for (name, value) in [("first", "1"), ("second", "2"), ("first", "3")] {
        publisher = publisher.args(["-D", "publish", "user-property", name, value]);
    }
    publish(publisher, &topic, "payload", &[]).await;
    assert_eq!(
        subscriber.line_with("GOT").await,
        "GOT C=text/plain D=number 4 F=1 R=answers/here S=7 P=first:1 second:2 first:3 p=payload"
    );
}

#[tokio::test]
async fn request_and_response_work() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let (request, response) = (scope.topic("request"), scope.topic("response"));
    let mut responder = subscribe(
        tool(&gateway, "mosquitto_sub", Transport::Tls13, "mqttv5"),
        &["-t", &request, "-F", "GOT %R %p"],
    )
    .await;
    let requester = tool(&gateway, "mosquitto_rr", Transport::Tls13, "mqttv5").args([
        "-t", &request, "-e", &response, "-m", "question", "-W", "15",
    ]);
    let requester = tokio::spawn(requester.run());
    assert_eq!(
        responder.line_with("GOT").await,
        format!("GOT {response} question")
    );
    let answer = tool(&gateway, "mosquitto_pub", Transport::Tls13, "mqttv5");
    publish(answer, &response, "answer", &[]).await;
    let requester = requester.await.expect("it ran").expect_success();
    assert_eq!(requester.only_line(), "answer");
}

#[tokio::test]
async fn a_wrong_password_and_no_password_are_refused() {
    let gateway = gateway().await;
    // Exit codes: the CONNACK codes of each version.
    for (version, bad, none) in [
        ("mqttv31", [4, 5], [4, 5]),
        ("mqttv311", [4, 5], [4, 5]),
        ("mqttv5", [134, 135], [134, 135]),
    ] {
        let wrong = Account {
            name: gateway.admin.name.clone(),
            password: "wrong".into(),
        };
        let finished = as_user(&gateway, &wrong, "mosquitto_pub", Transport::Tls13, version)
            .args(["-t", "a", "-m", "b"])
            .run()
            .await;
        assert!(
            finished
                .status
                .code()
                .is_some_and(|code| bad.contains(&code)),
            "{finished}"
        );
        let finished = Tool::new("mosquitto_pub")
            .args([
                "-V",
                version,
                "-h",
                "127.0.0.1",
                "-A",
                &own_address().to_string(),
            ])
            .args([
                "-p",
                &gateway.addresses.mqtt.port().to_string(),
                "-t",
                "a",
                "-m",
                "b",
            ])
            .run()
            .await;
        assert!(
            finished
                .status
                .code()
                .is_some_and(|code| none.contains(&code)),
            "{finished}"
        );
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_our_ca_does_not_connect() {
    let gateway = gateway().await;
    let finished = Tool::new("mosquitto_pub")
        .args([
            "-h",
            "localhost",
            "-p",
            &gateway.addresses.mqtts.port().to_string(),
        ])
        .args([
            "--capath",
            "/etc/ssl/certs",
            "-u",
            &gateway.admin.name,
            "-P",
            &gateway.admin.password,
        ])
        .args(["-A", &own_address().to_string(), "-t", "a", "-m", "b"])
        .run()
        .await;
    assert!(!finished.status.success(), "{finished}");
    assert!(
        finished.stderr.contains("certificate verify failed") || finished.stderr.contains("TLS"),
        "{finished}"
    );
}

#[tokio::test]
async fn the_broker_statistics_are_there_under_the_known_names() {
    let gateway = gateway().await;
    let mut subscriber = subscribe(
        tool(&gateway, "mosquitto_sub", Transport::Tls13, "mqttv311"),
        &["-t", "$SYS/broker/#", "-F", "GOT %t = %p"],
    )
    .await;
    let mut wanted = vec![
        "$SYS/broker/version",
        "$SYS/broker/uptime",
        "$SYS/broker/clients/connected",
        "$SYS/broker/messages/received",
        "$SYS/broker/messages/sent",
        "$SYS/broker/bytes/received",
        "$SYS/broker/bytes/sent",
    ];
    while !wanted.is_empty() {
        let line = subscriber.line_with("GOT").await;
        wanted.retain(|topic| !line.starts_with(&format!("GOT {topic} = ")));
    }
}
