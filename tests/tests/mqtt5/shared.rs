//! Shared subscriptions (section 4.8.2, rule S4).

use std::collections::BTreeSet;

use postern_tests::packet::{PUBACK, PUBREC, Will, ack, ack_with};
use postern_tests::{Client, Connect, Gateway, Publish, Scope, Subscribe};

use crate::gateway;

async fn members(
    gateway: &Gateway,
    scope: &Scope,
    group: &str,
    count: usize,
    qos: u8,
) -> Vec<Client> {
    let mut members = Vec::new();
    for n in 0..count {
        let mut member = gateway.v5(&scope.id(&format!("{group}{n}"))).await;
        member
            .subscribe(
                &format!("$share/{}/{}", scope.id(group), scope.topic("work/#")),
                qos,
            )
            .await;
        // The marker that `rest` waits for.
        member.subscribe(&scope.topic("end"), 1).await;
        members.push(member);
    }
    members
}

async fn publish(publisher: &mut Client, scope: &Scope, qos: u8, numbers: std::ops::Range<u32>) {
    for n in numbers {
        publisher
            .publish(
                Publish::new(&scope.topic(&format!("work/{}", n % 3)), &n.to_string()).qos(qos),
            )
            .await;
    }
}

async fn end(publisher: &mut Client, scope: &Scope) {
    publisher
        .publish(Publish::new(&scope.topic("end"), "").qos(1))
        .await;
}

/// A persistent member that is known to be offline once its will arrived at `watcher`.
fn announced(scope: &Scope, id: &str) -> Connect {
    Connect::v5(&scope.id(id))
        .persistent(600)
        .will(Will::new(&scope.topic("left"), ""))
}

async fn leave(member: Client, scope: &Scope, watcher: &mut Client) {
    watcher.subscribe(&scope.topic("left"), 0).await;
    member.vanish();
    watcher.receive().await;
}

fn numbers(messages: &[Publish]) -> Vec<u32> {
    messages
        .iter()
        .map(|message| message.text().parse().expect("a number"))
        .collect()
}

/// Everything up to the marker.
async fn rest(client: &mut Client, scope: &Scope) -> Vec<u32> {
    numbers(&client.receive_until(&scope.topic("end")).await)
}

#[tokio::test]
async fn each_group_gets_each_message_once_and_ordinary_subscribers_get_all() {
    let gateway = gateway().await;
    for qos in 0..=2 {
        let scope = Scope::new();
        let mut red = members(&gateway, &scope, "red", 3, qos).await;
        let mut blue = members(&gateway, &scope, "blue", 2, qos).await;
        let mut ordinary = gateway.v5(&scope.id("ordinary")).await;
        ordinary.subscribe(&scope.topic("#"), qos).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        publish(&mut publisher, &scope, qos, 0..90).await;
        end(&mut publisher, &scope).await;
        for group in [&mut red, &mut blue] {
            let mut all = Vec::new();
            for member in group {
                let share = rest(member, &scope).await;
                assert!(!share.is_empty(), "everybody works");
                all.extend(share);
            }
            all.sort_unstable();
            assert_eq!(all, (0..90).collect::<Vec<u32>>());
        }
        assert_eq!(
            rest(&mut ordinary, &scope).await,
            (0..90).collect::<Vec<u32>>()
        );
    }
}

#[tokio::test]
async fn one_group_name_on_several_filters_is_several_groups() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut client = gateway.v5(&scope.id("a")).await;
    let group = scope.id("g");
    for (filter, id) in [("work/#", 1), ("work/+", 2)] {
        let filter = format!("$share/{group}/{}", scope.topic(filter));
        client
            .subscribe_all(Subscribe::to(&filter, 1).identified(id))
            .await;
    }
    client
        .publish(Publish::new(&scope.topic("work/0"), "1").qos(1))
        .await;
    let mut ids = client.receive().await.subscription_ids();
    if ids.len() == 1 {
        ids.extend(client.receive().await.subscription_ids());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

// Section 4.8.2: no retained messages for a new shared subscription.
#[tokio::test]
async fn a_shared_subscription_brings_no_retained_messages() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publisher
        .publish(Publish::new(&scope.topic("work/0"), "1").qos(1).retain())
        .await;
    let mut group = members(&gateway, &scope, "g", 1, 1).await;
    publish(&mut publisher, &scope, 1, 2..3).await;
    end(&mut publisher, &scope).await;
    assert_eq!(rest(&mut group[0], &scope).await, [2]);
}

// S4: what a member did not acknowledge goes to another one, whichever way it leaves.
#[tokio::test]
async fn members_that_leave_lose_nothing_at_qos_1() {
    let gateway = gateway().await;
    for way in ["vanish", "disconnect", "unsubscribe"] {
        let scope = Scope::new();
        let mut group = members(&gateway, &scope, "g", 3, 1).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        publish(&mut publisher, &scope, 1, 0..60).await;
        let mut leaver = group.pop().expect("three");
        let mut seen = BTreeSet::new();
        // It acknowledges some and leaves with the others.
        for _ in 0..5 {
            let message = leaver.receive().await;
            seen.extend(numbers(&[message]));
        }
        leaver.message().await;
        match way {
            "vanish" => leaver.vanish(),
            // PUBACKs before DISCONNECT count, so what was received unacknowledged is what moves.
            "disconnect" => leaver.send(&[0xE0, 0x00]).await,
            _ => {
                let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
                leaver.ping().await;
                assert_eq!(leaver.unsubscribe(&[&filter]).await, [0]);
                leaver.vanish();
            }
        }
        publish(&mut publisher, &scope, 1, 60..120).await;
        while seen.len() < 120 {
            let [a, b] = &mut group[..] else {
                panic!("two are left")
            };
            let (message, client) = tokio::select! {
                message = a.message() => (message, a),
                message = b.message() => (message, b),
            };
            client.answer(&message).await;
            seen.extend(numbers(&[message]));
        }
        assert_eq!(seen, (0..120).collect(), "{way}");
    }
}

// S4: members come and go while messages flow.
#[tokio::test]
async fn members_that_come_and_go_lose_nothing_at_qos_1() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
    let mut stayer = members(&gateway, &scope, "g", 1, 1).await.remove(0);
    let mut publisher = gateway.v5(&scope.id("p")).await;
    let total = 400;
    let mut publishing = {
        let topic = scope.topic("work/x");
        tokio::spawn(async move {
            for n in 0..total {
                publisher
                    .publish(Publish::new(&topic, &n.to_string()).qos(1))
                    .await;
            }
        })
    };
    let mut seen = BTreeSet::new();
    let mut round = 0;
    let mut published = false;
    while !published {
        round += 1;
        let mut guest = gateway.v5(&scope.id(&format!("guest{round}"))).await;
        guest.subscribe(&filter, 1).await;
        for _ in 0..4 {
            let (message, mine) = tokio::select! {
                message = guest.next() => (message, true),
                message = stayer.next() => (message, false),
                result = &mut publishing => {
                    result.expect("published");
                    published = true;
                    break;
                }
            };
            let Some(postern_tests::Packet::Publish(message)) = message else {
                continue;
            };
            // The guest acknowledges every other message and keeps the rest.
            let n = numbers(std::slice::from_ref(&message))[0];
            if !mine {
                stayer.answer(&message).await;
                seen.insert(n);
            } else if n.is_multiple_of(2) {
                guest.answer(&message).await;
                guest.ping().await;
                seen.insert(n);
            }
        }
        guest.vanish();
    }
    while seen.len() < total {
        seen.extend(numbers(&[stayer.receive().await]));
    }
    assert_eq!(seen, (0..total as u32).collect());
}

// S4: online members are chosen before offline ones, and an offline persistent one keeps the group alive.
#[tokio::test]
async fn an_offline_member_gets_work_only_when_nobody_is_online() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
    let connect = announced(&scope, "offline");
    let mut offline = gateway.connect(connect.clone()).await;
    offline.subscribe(&filter, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    leave(offline, &scope, &mut publisher).await;
    let mut group = members(&gateway, &scope, "g", 1, 1).await;
    publish(&mut publisher, &scope, 1, 0..10).await;
    end(&mut publisher, &scope).await;
    assert_eq!(
        rest(&mut group[0], &scope).await,
        (0..10).collect::<Vec<u32>>()
    );
    group.remove(0).disconnect().await;
    publish(&mut publisher, &scope, 1, 10..15).await;
    let mut offline = gateway.connect(connect).await;
    for n in 10..15 {
        assert_eq!(offline.receive().await.text(), n.to_string());
    }
    offline.nothing_came().await;
}

// [MQTT-4.8.2-4], S4: a QoS 2 message that was sent waits for its member.
#[tokio::test]
async fn a_qos_2_message_already_sent_never_moves() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
    let connect = announced(&scope, "first");
    let mut first = gateway.connect(connect.clone()).await;
    first.subscribe(&filter, 2).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publish(&mut publisher, &scope, 2, 0..1).await;
    let sent = first.message().await;
    let mut second = members(&gateway, &scope, "g", 1, 2).await.remove(0);
    leave(first, &scope, &mut publisher).await;
    publish(&mut publisher, &scope, 2, 1..2).await;
    end(&mut publisher, &scope).await;
    assert_eq!(rest(&mut second, &scope).await, [1]);
    let mut first = gateway.connect(connect).await;
    assert_eq!(first.receive().await, sent.dup());
}

// [MQTT-4.8.2-6], S4
#[tokio::test]
async fn a_refused_message_goes_to_nobody_else() {
    let gateway = gateway().await;
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        let scope = Scope::new();
        let mut group = members(&gateway, &scope, "g", 1, qos).await;
        let mut publisher = gateway.v5(&scope.id("p")).await;
        publish(&mut publisher, &scope, qos, 0..1).await;
        let message = group[0].message().await;
        let mut second = gateway.v5(&scope.id("second")).await;
        let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
        second.subscribe(&filter, qos).await;
        second.subscribe(&scope.topic("end"), 1).await;
        group[0].send(&ack_with(kind, message.id, 0x80)).await;
        group[0].ping().await;
        group.remove(0).vanish();
        end(&mut publisher, &scope).await;
        assert_eq!(rest(&mut second, &scope).await, [0; 0]);
    }
}

// [MQTT-4.8.2-3]
#[tokio::test]
async fn each_member_has_its_own_qos() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let filter = format!("$share/{}/{}", scope.id("g"), scope.topic("work/#"));
    let mut members = Vec::new();
    for qos in 0..=2 {
        let mut member = gateway.v5(&scope.id(&format!("m{qos}"))).await;
        member.subscribe(&filter, qos).await;
        member.subscribe(&scope.topic("end"), 1).await;
        members.push(member);
    }
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publish(&mut publisher, &scope, 2, 0..30).await;
    end(&mut publisher, &scope).await;
    let mut count = 0;
    for (qos, member) in members.iter_mut().enumerate() {
        let messages = member.receive_until(&scope.topic("end")).await;
        assert!(
            messages
                .iter()
                .all(|message| usize::from(message.qos) == qos),
            "{messages:?}"
        );
        count += messages.len();
    }
    assert_eq!(count, 30);
}

// The last member leaving ends the group; a new one starts without the past.
#[tokio::test]
async fn a_group_without_members_keeps_nothing() {
    let gateway = gateway().await;
    let scope = Scope::new();
    let mut group = members(&gateway, &scope, "g", 1, 1).await;
    let mut publisher = gateway.v5(&scope.id("p")).await;
    publish(&mut publisher, &scope, 1, 0..1).await;
    let message = group[0].message().await;
    group[0].send(&ack(PUBACK, message.id)).await;
    group.remove(0).disconnect().await;
    publish(&mut publisher, &scope, 1, 1..2).await;
    let mut group = members(&gateway, &scope, "g", 1, 1).await;
    publish(&mut publisher, &scope, 1, 2..3).await;
    end(&mut publisher, &scope).await;
    assert_eq!(rest(&mut group[0], &scope).await, [2]);
}
