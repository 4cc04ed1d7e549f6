//! The door and its budgets: what happens exactly at each limit, and just above it.

use std::net::IpAddr;

use postern_tests::client::tcp;
use postern_tests::packet::{PUBACK, Packet, Version, Will, ack};
use postern_tests::scope::own_address;
use postern_tests::wait::until_some;
use postern_tests::{Client, Connect, Gateway, Property, Publish, Setup};

async fn gateway(limits: &str) -> Gateway {
    Setup::new()
        .toml(&format!("[limits]\n{limits}\n"))
        .start()
        .await
}

/// A login from `address`; nothing if the gateway closes the connection instead of answering.
async fn login(gateway: &Gateway, address: IpAddr, id: &str) -> Option<Client> {
    let mut client = Client::over(
        tcp(Some(address), gateway.addresses.mqtt).await,
        Version::V5,
    );
    let _ = client
        .try_send(&gateway.login(&Connect::v5(id)).bytes())
        .await;
    match client.next().await? {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.code, 0);
            Some(client)
        }
        other => panic!("instead of CONNACK came {other:?}"),
    }
}

#[tokio::test]
async fn connections_are_limited_for_each_address() {
    let gateway = gateway("max_connections_per_address = 3").await;
    let (one, two) = (own_address(), own_address());
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(
            login(&gateway, one, &format!("a{n}"))
                .await
                .expect("within the limit"),
        );
    }
    assert!(login(&gateway, one, "above").await.is_none());
    let other = login(&gateway, two, "other")
        .await
        .expect("another address has its own limit");
    clients.pop().expect("three").disconnect().await;
    until_some("a place to be free again", async || {
        login(&gateway, one, "again").await
    })
    .await;
    drop(other);
}

#[tokio::test]
async fn connections_are_limited_in_all() {
    let gateway = gateway("max_connections = 3").await;
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(
            login(&gateway, own_address(), &format!("a{n}"))
                .await
                .expect("within the limit"),
        );
    }
    assert!(login(&gateway, own_address(), "above").await.is_none());
    clients[0].nothing_came().await;
    clients.pop().expect("three").vanish();
    until_some("a place to be free again", async || {
        login(&gateway, own_address(), "again").await
    })
    .await;
}

#[tokio::test]
async fn sessions_are_limited_in_all() {
    let gateway = gateway("max_sessions = 3\nmax_sessions_per_principal = 100").await;
    for n in 0..3 {
        let connect = Connect::v5(&format!("a{n}")).persistent(600);
        gateway.connect(connect).await.disconnect().await;
    }
    let code = gateway
        .try_connect(&Connect::v5("above"))
        .await
        .connack
        .code;
    assert!(
        matches!(code, 0x89 | 0x97),
        "busy, or quota exceeded: {code:#x}"
    );
    assert!(
        gateway
            .connect(Connect::v5("a0").persistent(600))
            .await
            .connack
            .session_present
    );
    gateway.connect(Connect::v5("a1")).await.disconnect().await;
    until_some("a place to be free again", async || {
        (gateway
            .try_connect(&Connect::v5("again"))
            .await
            .connack
            .code
            == 0)
            .then_some(())
    })
    .await;
}

// A CONNECT has its own, smaller maximum: nobody has logged in yet.
#[tokio::test]
async fn the_first_packet_has_a_limit_of_its_own() {
    let gateway = gateway("first_packet_max = \"1KiB\"").await;
    let connect = |filler: usize| {
        gateway.login(&Connect::v5("a").with(Property::user("filler", &"x".repeat(filler))))
    };
    // Longer fillers also lengthen the length fields.
    let exact = (0..1_024).find(|filler| connect(*filler).bytes().len() == 1_024);
    let room = exact.expect("some filler makes exactly 1 KiB");
    gateway.connect(connect(room)).await.disconnect().await;
    let mut client = gateway.open().await;
    client.send(&connect(room + 1).bytes()).await;
    if let Some(packet) = client.next().await {
        assert!(
            matches!(&packet, Packet::ConnAck(connack) if connack.code == 0x95),
            "{packet:?}"
        );
        assert_eq!(client.frame().await, None);
    }
    // After it the ordinary maximum counts.
    let mut client = gateway.connect(connect(0)).await;
    client
        .publish(Publish::new("a", "").qos(1).payload(vec![0; 10_000]))
        .await;
}

/// A session that subscribes to `a` and is known to be offline.
async fn offline_session(gateway: &Gateway) -> (Client, Connect) {
    let mut publisher = gateway.v5("publisher").await;
    publisher.subscribe("left", 0).await;
    let connect = Connect::v5("session")
        .persistent(600)
        .will(Will::new("left", ""));
    let mut session = gateway.connect(connect.clone()).await;
    session.subscribe("a", 1).await;
    session.vanish();
    publisher.receive().await;
    (publisher, connect)
}

// D8: a full session queue drops its oldest message, and never refuses the publisher.
#[tokio::test]
async fn a_full_queue_drops_its_oldest_message() {
    let gateway = gateway("max_queued_messages = 10").await;
    let (mut publisher, connect) = offline_session(&gateway).await;
    for n in 0..25 {
        let code = publisher
            .publish(Publish::new("a", &n.to_string()).qos(1))
            .await;
        assert!(code < 0x80, "the publisher is not to blame: {code:#x}");
    }
    let mut session = gateway.connect(connect).await;
    for n in 15..25 {
        assert_eq!(session.receive().await.text(), n.to_string());
    }
    session.nothing_came().await;
}

// D8, in bytes.
#[tokio::test]
async fn a_queue_is_limited_in_bytes_too() {
    let gateway = gateway("max_queued_bytes = \"64KiB\"").await;
    let (mut publisher, connect) = offline_session(&gateway).await;
    for n in 0..20u8 {
        assert!(
            publisher
                .publish(Publish::new("a", "").qos(1).payload(vec![n; 10_000]))
                .await
                < 0x80
        );
    }
    let mut session = gateway.connect(connect).await;
    let mut kept = Vec::new();
    publisher.publish(Publish::new("a", "end").qos(1)).await;
    loop {
        let message = session.receive().await;
        if message.payload == b"end" {
            break;
        }
        kept.push(message.payload[0]);
    }
    assert!((4..=6).contains(&kept.len()), "{kept:?}");
    let newest: Vec<u8> = (20 - kept.len() as u8..20).collect();
    assert_eq!(kept, newest);
}

#[tokio::test]
async fn what_is_sent_unacknowledged_is_limited_whatever_the_client_allows() {
    let gateway = gateway("max_inflight = 2").await;
    for connect in [
        Connect::v5("a"),
        Connect::v5("a").with(Property::ReceiveMaximum(1_000)),
        Connect::v311("a"),
    ] {
        let mut client = gateway.connect(connect).await;
        client.subscribe("a", 1).await;
        let mut publisher = gateway.v5("publisher").await;
        for n in 0..5 {
            publisher
                .publish(Publish::new("a", &n.to_string()).qos(1))
                .await;
        }
        let first = client.message().await;
        client.message().await;
        client.nothing_came().await;
        client.send(&ack(PUBACK, first.id)).await;
        assert_eq!(client.message().await.text(), "2");
        client.nothing_came().await;
    }
}

// D8: only a global limit refuses.
#[tokio::test]
async fn retained_messages_are_limited_in_number() {
    // The gateway's own statistics are retained messages, too.
    let gateway = gateway("max_retained_messages = 3\n[sys]\ninterval = \"0s\"").await;
    let mut client = gateway.v5("a").await;
    for n in 0..3 {
        assert!(
            client
                .publish(Publish::new(&format!("r/{n}"), "x").qos(1).retain())
                .await
                < 0x80
        );
    }
    assert_eq!(
        client
            .publish(Publish::new("r/3", "x").qos(1).retain())
            .await,
        0x97
    );
    assert!(
        client
            .publish(Publish::new("r/2", "replaced").qos(1).retain())
            .await
            < 0x80,
        "one of them may change"
    );
    assert!(
        client
            .publish(Publish::new("r/0", "").qos(1).retain())
            .await
            < 0x80,
        "and be removed"
    );
    assert!(
        client
            .publish(Publish::new("r/3", "x").qos(1).retain())
            .await
            < 0x80,
        "which makes room"
    );
    client.subscribe("r/+", 0).await;
    let mut topics = [
        client.receive().await.topic,
        client.receive().await.topic,
        client.receive().await.topic,
    ];
    topics.sort();
    assert_eq!(topics, ["r/1", "r/2", "r/3"]);
    client.nothing_came().await;
}

// "A slow consumer loses QoS 0 first": what is kept for it at QoS 1 is still complete and in order.
#[tokio::test]
async fn a_slow_consumer_loses_qos_0_first() {
    let gateway = gateway("max_queued_messages = 1000\nmax_queued_bytes = \"2MiB\"").await;
    let mut slow = gateway.v5("slow").await;
    slow.subscribe("zero", 0).await;
    slow.subscribe("one", 1).await;
    let mut publisher = gateway.v5("publisher").await;
    // Far more than sockets and outboxes hold: 64 MB.
    for n in 0..1_000 {
        publisher
            .publish(Publish::new("zero", "").payload(vec![0; 64 * 1024]))
            .await;
        if n % 10 == 0 {
            publisher
                .publish(Publish::new("one", &(n / 10).to_string()).qos(1))
                .await;
        }
    }
    publisher.publish(Publish::new("one", "end").qos(1)).await;
    let (mut zeros, mut ones) = (0, Vec::new());
    loop {
        let message = slow.receive().await;
        match message.topic.as_str() {
            "zero" => zeros += 1,
            _ if message.text() == "end" => break,
            _ => ones.push(message.text().to_owned()),
        }
    }
    assert_eq!(ones, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(zeros < 1_000, "something had to give");
}
