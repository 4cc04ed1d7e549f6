//! Are the retained messages still there? A new client looks at all of them after a crash: none may be older than the
//! last one whose publisher had its acknowledgement.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postern_tests::packet::Version;
use postern_tests::{Connect, Packet, Subscribe};
use tokio::time::timeout;

use crate::counts::Counts;
use crate::link::{Gone, Link};
use crate::message::{Message, RETAINED};
use crate::publisher::Shelf;
use crate::world::World;

/// How long the retained set may take. Waited for only if something is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks once, and counts what is missing or older than acknowledged.
///
/// # Errors
/// The connection broke: nothing was found out.
pub async fn look(world: &World, shelves: &[Arc<Shelf>], counts: &Counts) -> Result<(), Gone> {
    // What is acknowledged later may come, but is not asked for.
    let mut owed: HashMap<usize, u32> = HashMap::new();
    for (publisher, shelf) in shelves.iter().enumerate() {
        if let Some(number) = shelf.retained.load(Ordering::SeqCst).checked_sub(1) {
            owed.insert(publisher, number);
        }
    }
    let connect = world.login(Connect::v5("retained-probe"));
    let (mut link, connack) = Link::try_open(world, &connect).await?;
    if connack.code != 0 {
        return Err(Gone);
    }
    let mut subscribe = Subscribe::to("crash/retained/+", 0);
    subscribe.id = 1;
    link.send(&subscribe.bytes(Version::V5)).await?;
    for _ in &owed {
        counts.retained_checked.add();
    }
    while !owed.is_empty() {
        let Ok(packet) = timeout(PATIENCE, link.next()).await else {
            break;
        };
        match packet? {
            Packet::SubAck(_) => {}
            Packet::Publish(publish) => match Message::read(&publish) {
                Some(message) if message.topic == RETAINED => {
                    if owed.get(&message.publisher) <= Some(&message.number) {
                        owed.remove(&message.publisher);
                    }
                }
                _ => counts.damaged.add(),
            },
            other => panic!("the probe of retained messages received {other:?}"),
        }
    }
    for _ in &owed {
        counts.retained_lost.add();
    }
    let _ = link.send(&[0xE0, 0x00]).await;
    Ok(())
}
