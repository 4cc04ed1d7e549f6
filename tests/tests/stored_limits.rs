//! What happens when everything that waits on disk, for all sessions together, reaches its limit: only then is a
//! publisher refused, and only for what an absent session would have to wait for (D8).

use postern_tests::wait::until_some;
use postern_tests::{Client, Connect, Gateway, Publish, Setup};

/// MQTT5 2.4.
const QUOTA_EXCEEDED: u8 = 0x97;

/// A gateway with these limits, and a persistent session that is away and subscribed to `away/#`.
async fn with_an_absent_session(limits: &str) -> (Gateway, Connect) {
    let limits = format!("[limits]\nmax_sessions_per_principal = 100\n{limits}\n");
    let gateway = Setup::new().toml(&limits).start().await;
    let absent = Connect::v5("absent").persistent(3600);
    let mut client = gateway.connect(absent.clone()).await;
    assert_eq!(client.subscribe("away/#", 2).await, 2);
    client.disconnect().await;
    (gateway, absent)
}

/// Publishes at QoS 1 until it is refused; how many were accepted. Waits for each answer.
async fn fill(publisher: &mut Client, payload: &str, most: usize) -> usize {
    for accepted in 0..most {
        let message = Publish::new("away/a", payload).qos(1);
        match publisher.publish(message).await {
            0 => {}
            QUOTA_EXCEEDED => return accepted,
            code => panic!("{code:#x}"),
        }
    }
    panic!("{most} messages were accepted and none refused");
}

// D8
#[tokio::test]
async fn at_the_common_limit_what_an_absent_session_would_wait_for_is_refused_and_nothing_else() {
    let (gateway, absent) = with_an_absent_session("max_stored_messages = 20").await;
    let mut online = gateway.v5("online").await;
    online.subscribe("away/#", 1).await;
    online.subscribe("here/#", 1).await;
    let mut publisher = gateway.v5("publisher").await;
    assert_eq!(fill(&mut publisher, "x", 100).await, 20);
    for _ in 0..20 {
        online.receive().await;
    }
    // Refused means that nobody got it, and at QoS 2 no less.
    let refused = Publish::new("away/a", "refused").qos(2);
    assert_eq!(publisher.publish(refused).await, QUOTA_EXCEEDED);
    // Nobody absent has to wait for these.
    let code = publisher
        .publish(Publish::new("here/a", "still").qos(1))
        .await;
    assert_eq!(code, 0);
    assert_eq!(online.receive().await.text(), "still");
    publisher.publish(Publish::new("away/a", "qos 0")).await;
    assert_eq!(online.receive().await.text(), "qos 0");

    // MQTT 3 has no word for it.
    for qos in [1, 2] {
        let mut old = gateway.v311("old").await;
        old.start_publish(Publish::new("away/a", "old").qos(qos))
            .await;
        assert_eq!(old.end().await, None, "closed without a packet");
    }

    // Room comes back with those who take what waits for them.
    let mut back = gateway.connect(absent).await;
    assert!(back.connack.session_present);
    for _ in 0..20 {
        back.receive().await;
    }
    back.nothing_came().await;
    back.disconnect().await;
    let room = async || {
        let message = Publish::new("away/a", "y").qos(1);
        (publisher.publish(message).await == 0).then_some(())
    };
    until_some("room for another message", room).await;
    assert_eq!(fill(&mut publisher, "y", 100).await, 19);
}

// D8
#[tokio::test]
async fn the_common_limit_counts_bytes_too() {
    let (gateway, _) = with_an_absent_session("max_stored_bytes = \"64KiB\"").await;
    let mut publisher = gateway.v5("publisher").await;
    let payload = "x".repeat(1024);
    let accepted = fill(&mut publisher, &payload, 200).await;
    assert!(
        (40..=64).contains(&accepted),
        "{accepted} messages of 1 KiB in 64 KiB"
    );
}

// D8
#[tokio::test]
async fn below_the_common_limit_a_full_queue_of_one_session_refuses_nobody() {
    let limits = "max_queued_messages = 10\nmax_stored_messages = 50";
    let (gateway, absent) = with_an_absent_session(limits).await;
    let mut publisher = gateway.v5("publisher").await;
    for number in 0..200 {
        let message = Publish::new("away/a", &number.to_string()).qos(1);
        assert_eq!(publisher.publish(message).await, 0, "{number}");
    }
    let mut back = gateway.connect(absent).await;
    for number in 190..200 {
        assert_eq!(back.receive().await.text(), number.to_string());
    }
    back.nothing_came().await;
}
