//! Wills: stored with the session, sent after a restart unless the client returns (D10).

use std::time::{Duration, Instant};

use postern_tests::packet::{Version, Will};
use postern_tests::{Client, Connect, Property, Publish};

use crate::{ENDS, GRACE, House, LONG, texts_until_end};

/// How late a will may be on a busy machine.
const LATE: Duration = Duration::from_secs(4);

async fn watcher(house: &House) {
    let mut client = house.lasting("watcher").await;
    client.subscribe("will/#", 1).await;
    client.subscribe("end", 1).await;
    client.disconnect().await;
}

fn with_will(version: Version, id: &str, delay: u32) -> Connect {
    let mut will = Will::new(&format!("will/{id}"), id).qos(1);
    if version == Version::V5 {
        will = will
            .with(Property::WillDelay(delay))
            .with(Property::ContentType("text/plain".into()));
    }
    Connect::new(version, id).persistent(LONG).will(will)
}

/// The next will, and how long after `since` it came.
async fn next_will(watcher: &mut Client, since: Instant) -> (String, Duration) {
    let will = watcher.receive().await;
    (will.text().to_owned(), since.elapsed())
}

// D10
#[tokio::test]
async fn the_will_of_a_client_that_was_connected_is_sent_after_the_grace_unless_it_returns() {
    for end in ENDS {
        let mut house = House::start().await;
        watcher(&house).await;
        let _stays_away = house.connect(with_will(Version::V5, "away", 0)).await;
        let _v3 = house.connect(with_will(Version::V311, "old", 0)).await;
        let _returns = house.connect(with_will(Version::V5, "returns", 0)).await;
        let _later = house.connect(with_will(Version::V5, "later", 3)).await;
        let leaves = house.connect(with_will(Version::V5, "leaves", 0)).await;
        leaves.disconnect().await;
        // Nobody acknowledges a DISCONNECT: it is on disk a moment later.
        house.settle().await;
        let ended = Instant::now();
        house.restart(end).await;
        let started = Instant::now();
        let returned = Connect::v5("returns").persistent(LONG);
        let returned = house.connect(returned).await;
        assert!(returned.connack.session_present);
        let mut watcher = house.back("watcher").await;
        let mut came = Vec::new();
        for _ in 0..3 {
            let (text, after) = next_will(&mut watcher, started).await;
            let due = if text == "later" {
                Duration::from_secs(3)
            } else {
                GRACE
            };
            // Neither the first moment of the new process nor the last of the old one is known exactly.
            let early = after + started.duration_since(ended) + Duration::from_millis(100);
            assert!(
                early >= due,
                "{end:?}: {text} came {after:?} after the start"
            );
            assert!(
                after < due + LATE,
                "{end:?}: {text} came {after:?} after the start"
            );
            came.push(text);
        }
        came[..2].sort();
        assert_eq!(came, ["away", "old", "later"], "{end:?}");
        assert_eq!(texts_until_end(&mut watcher).await, [""; 0], "{end:?}");
        // And they are sent once.
        house.settle().await;
        house.restart(end).await;
        let mut watcher = house.back("watcher").await;
        tokio::time::sleep(GRACE + Duration::from_millis(500)).await;
        assert_eq!(texts_until_end(&mut watcher).await, [""; 0], "{end:?}");
    }
}

// D10, section 3.1.3.2.2: a delay that had begun goes on.
#[tokio::test]
async fn a_pending_will_delay_continues_over_a_restart() {
    for end in ENDS {
        let mut house = House::start().await;
        watcher(&house).await;
        let client = house.connect(with_will(Version::V5, "delayed", 4)).await;
        let gone = Instant::now();
        client.vanish();
        let returning = house.connect(with_will(Version::V5, "returning", 4)).await;
        returning.vanish();
        // The end of a connection is seen by the gateway before what comes later.
        house.settle().await;
        house.restart(end).await;
        let started = Instant::now();
        let returned = Connect::v5("returning").persistent(LONG);
        house.connect(returned).await.disconnect().await;
        let mut watcher = house.back("watcher").await;
        let will = watcher.receive().await;
        assert_eq!(will.text(), "delayed");
        assert_eq!(
            will.properties,
            [Property::ContentType("text/plain".into())]
        );
        let after = gone.elapsed();
        assert!(
            after > Duration::from_millis(2900),
            "{end:?}: sent after {after:?}"
        );
        let limit = Duration::from_secs(4) + LATE;
        assert!(started.elapsed() < limit, "{end:?}: sent after {after:?}");
        assert_eq!(texts_until_end(&mut watcher).await, [""; 0], "{end:?}");
    }
}

// D10: a will is also a retained message if it says so, and is kept as one.
#[tokio::test]
async fn a_retained_will_that_was_sent_is_kept() {
    for end in ENDS {
        let mut house = House::start().await;
        watcher(&house).await;
        let will = Will::new("will/status", "offline").qos(1).retain();
        let connect = Connect::v5("device").persistent(LONG).will(will);
        let mut device = house.connect(connect).await;
        let online = Publish::new("will/status", "online").qos(1).retain();
        device.publish(online).await;
        house.restart(end).await;
        let mut watcher = house.back("watcher").await;
        assert_eq!(watcher.receive().await.text(), "online");
        assert_eq!(watcher.receive().await.text(), "offline");
        house.settle().await;
        house.restart(end).await;
        let mut fresh = house.v5("fresh").await;
        fresh.subscribe("will/status", 0).await;
        assert_eq!(fresh.receive().await.text(), "offline", "{end:?}");
    }
}
