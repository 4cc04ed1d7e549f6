//! Messages on their way: each state of the QoS 1 and QoS 2 exchanges in both directions (sections 4.3 and 4.4).

use postern_tests::packet::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, ack};
use postern_tests::{Client, Publish};

use crate::{ENDS, House, texts_until_end};

async fn pubrel(client: &mut Client, id: u16) {
    let fits = |p: &Packet| matches!(p, Packet::PubRel(a) if a.id == id);
    client.wait_for("PUBREL", fits).await;
}

async fn pubcomp(client: &mut Client, id: u16) -> u8 {
    let fits = |p: &Packet| matches!(p, Packet::PubComp(a) if a.id == id);
    match client.wait_for("PUBCOMP", fits).await {
        Packet::PubComp(ack) => ack.code,
        other => panic!("{other:?} is no PUBCOMP"),
    }
}

/// Three messages arrive at a session with `qos`, unanswered: their packet identifiers.
async fn three_in_flight(house: &House, qos: u8) -> (Client, Vec<u16>) {
    let mut client = house.lasting("c").await;
    client.subscribe("t", qos).await;
    client.subscribe("end", 1).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        house.publish(Publish::new("t", text).qos(qos)).await;
        let message = client.message().await;
        assert_eq!((message.text(), message.dup), (text, false));
        ids.push(message.id);
    }
    (client, ids)
}

// D9, MQTT-4.4.0-1, MQTT-4.6.0-1
#[tokio::test]
async fn unacknowledged_messages_come_again_with_dup_their_identifier_and_order() {
    for end in ENDS {
        for qos in [1, 2] {
            let mut house = House::start().await;
            let (_client, ids) = three_in_flight(&house, qos).await;
            for _ in 0..2 {
                house.restart(end).await;
                let mut client = house.back("c").await;
                for (text, id) in ["one", "two", "three"].iter().zip(&ids) {
                    let again = client.message().await;
                    let got = (again.text(), again.id, again.dup, again.qos);
                    assert_eq!(got, (*text, *id, true, qos), "{end:?}");
                }
            }
            // New messages come behind them, with identifiers that are not in use.
            house.publish(Publish::new("t", "four").qos(qos)).await;
            house.restart(end).await;
            let mut client = house.back("c").await;
            let mut came = Vec::new();
            for _ in 0..4 {
                came.push(client.message().await);
            }
            assert_eq!(came[3].text(), "four");
            assert!(!ids.contains(&came[3].id), "{:?}", came[3]);
            for message in &came {
                client.answer(message).await;
            }
            assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
        }
    }
}

// D5: what a client acknowledged stays so once the next transaction is on disk.
#[tokio::test]
async fn acknowledged_messages_do_not_come_again() {
    for end in ENDS {
        let mut house = House::start().await;
        let (mut client, ids) = three_in_flight(&house, 1).await;
        // Out of order: one and three are done, two is not.
        for id in [ids[2], ids[0]] {
            client.send(&ack(PUBACK, id)).await;
        }
        client.ping().await;
        house.settle().await;
        house.restart(end).await;
        let mut client = house.back("c").await;
        let again = client.receive().await;
        assert_eq!((again.text(), again.id, again.dup), ("two", ids[1], true));
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// D1, MQTT-4.3.3: after PUBREC the message is never sent again, PUBREL is.
#[tokio::test]
async fn after_pubrec_only_pubrel_comes_again() {
    for end in ENDS {
        let mut house = House::start().await;
        let (mut client, ids) = three_in_flight(&house, 2).await;
        for id in &ids[..2] {
            client.send(&ack(PUBREC, *id)).await;
            pubrel(&mut client, *id).await;
        }
        // The first is finished: D1 gives its identifier back in that transaction.
        client.send(&ack(PUBCOMP, ids[0])).await;
        client.ping().await;
        house.settle().await;
        house.restart(end).await;
        let mut client = house.back("c").await;
        let (mut releases, mut messages) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            match client.packet().await {
                Packet::PubRel(release) => releases.push(release.id),
                Packet::Publish(publish) => messages.push((publish.id, publish.dup)),
                other => panic!("{other:?} came again"),
            }
        }
        assert_eq!(releases, [ids[1]], "{end:?}");
        assert_eq!(messages, [(ids[2], true)], "{end:?}");
        client.send(&ack(PUBCOMP, ids[1])).await;
        client.send(&ack(PUBREC, ids[2])).await;
        pubrel(&mut client, ids[2]).await;
        client.send(&ack(PUBCOMP, ids[2])).await;
        assert_eq!(texts_until_end(&mut client).await, [""; 0], "{end:?}");
    }
}

// D2, D3: the packet identifier of a QoS 2 PUBLISH is stored with the message.
#[tokio::test]
async fn a_qos_2_message_published_again_after_pubrec_arrives_once() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("reader", "t", 2).await;
        let mut publisher = house.lasting("p").await;
        for (id, text) in [(11, "one"), (12, "two")] {
            let message = Publish::new("t", text).qos(2).id(id);
            publisher.start_publish(message).await;
            assert_eq!(publisher.pubrec(id).await.code, 0);
        }
        house.restart(end).await;
        let mut publisher = house.back("p").await;
        let again = Publish::new("t", "one").qos(2).id(11).dup();
        publisher.start_publish(again).await;
        assert!(publisher.pubrec(11).await.code < 0x80);
        for id in [11, 12] {
            publisher.send(&ack(PUBREL, id)).await;
            assert_eq!(pubcomp(&mut publisher, id).await, 0, "{end:?}");
        }
        let mut reader = house.back("reader").await;
        reader.subscribe("end", 1).await;
        assert_eq!(
            texts_until_end(&mut reader).await,
            ["one", "two"],
            "{end:?}"
        );
    }
}

// MQTT-4.3.3-12: after PUBREL the identifier means a new message, also for the next gateway.
#[tokio::test]
async fn after_pubrel_the_same_identifier_is_a_new_message() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("reader", "t", 2).await;
        let mut publisher = house.lasting("p").await;
        let code = publisher
            .publish(Publish::new("t", "one").qos(2).id(11))
            .await;
        assert_eq!(code, 0);
        house.restart(end).await;
        let mut publisher = house.back("p").await;
        let code = publisher
            .publish(Publish::new("t", "two").qos(2).id(11))
            .await;
        assert_eq!(code, 0);
        let mut reader = house.back("reader").await;
        reader.subscribe("end", 1).await;
        assert_eq!(
            texts_until_end(&mut reader).await,
            ["one", "two"],
            "{end:?}"
        );
    }
}

// Section 4.3.3: PUBREL of what is known no more is answered all the same.
#[tokio::test]
async fn a_pubrel_that_was_already_done_is_answered_again() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut publisher = house.lasting("p").await;
        let code = publisher
            .publish(Publish::new("t", "one").qos(2).id(11))
            .await;
        assert!(code < 0x80);
        house.restart(end).await;
        let mut publisher = house.back("p").await;
        publisher.send(&ack(PUBREL, 11)).await;
        let code = pubcomp(&mut publisher, 11).await;
        assert!([0x00, 0x92].contains(&code), "PUBCOMP says {code:#04x}");
    }
}
