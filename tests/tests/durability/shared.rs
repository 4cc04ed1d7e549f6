//! Shared subscriptions: a group with a persistent member keeps what it was given (S4).

use postern_tests::Publish;
use postern_tests::packet::{PUBREC, ack};

use crate::{ENDS, House, texts_until_end};

const FILTER: &str = "$share/g/t";

/// Everything that waits for the member, in order.
async fn drain(house: &House, member: &str) -> Vec<String> {
    let mut client = house.back(member).await;
    client.subscribe("end", 1).await;
    let came = texts_until_end(&mut client).await;
    client.unsubscribe(&["end"]).await;
    client.disconnect().await;
    came
}

// S4
#[tokio::test]
async fn messages_to_a_group_of_absent_members_arrive_once() {
    for end in ENDS {
        for qos in [1, 2] {
            let mut house = House::start().await;
            for member in ["a", "b"] {
                house.absent(member, FILTER, qos).await;
            }
            for n in 0..10 {
                house
                    .publish(Publish::new("t", &n.to_string()).qos(qos))
                    .await;
            }
            house.restart(end).await;
            for n in 10..20 {
                house
                    .publish(Publish::new("t", &n.to_string()).qos(qos))
                    .await;
            }
            house.restart(end).await;
            let mut came = drain(&house, "a").await;
            came.extend(drain(&house, "b").await);
            came.sort_by_key(|text| text.parse::<u32>().expect("a number"));
            let wanted: Vec<_> = (0..20).map(|n| n.to_string()).collect();
            assert_eq!(came, wanted, "{end:?}, QoS {qos}");
        }
    }
}

// S4: online members are chosen before offline ones, also when both come from the disk.
#[tokio::test]
async fn an_online_member_is_chosen_before_one_that_did_not_return() {
    for end in ENDS {
        let mut house = House::start().await;
        for member in ["a", "b"] {
            house.absent(member, FILTER, 1).await;
        }
        house.restart(end).await;
        let mut online = house.back("b").await;
        for n in 0..6 {
            house
                .publish(Publish::new("t", &n.to_string()).qos(1))
                .await;
            assert_eq!(online.receive().await.text(), n.to_string());
        }
        assert_eq!(drain(&house, "a").await, [""; 0], "{end:?}");
    }
}

// S4: what was sent at QoS 2 stays with its member, whoever else is there.
#[tokio::test]
async fn a_qos_2_message_that_was_sent_comes_back_to_the_same_member() {
    for end in ENDS {
        let mut house = House::start().await;
        house.absent("b", FILTER, 2).await;
        let mut a = house.lasting("a").await;
        a.subscribe(FILTER, 2).await;
        house.publish(Publish::new("t", "mine").qos(2)).await;
        let id = a.message().await.id;
        house.restart(end).await;
        let came = drain(&house, "b").await;
        assert_eq!(came, [""; 0], "{end:?}: it moved");
        let mut a = house.back("a").await;
        let again = a.message().await;
        let got = (again.text(), again.id, again.dup);
        assert_eq!(got, ("mine", id, true), "{end:?}");
        a.send(&ack(PUBREC, id)).await;
    }
}

// S4: a QoS 1 message whose member was there when the gateway died is with one of the two, whoever comes first.
#[tokio::test]
async fn an_unacknowledged_qos_1_message_is_not_lost_with_its_connection() {
    for end in ENDS {
        let mut house = House::start().await;
        let mut a = house.lasting("a").await;
        a.subscribe(FILTER, 1).await;
        house.publish(Publish::new("t", "kept").qos(1)).await;
        assert_eq!(a.message().await.text(), "kept");
        house.absent("b", FILTER, 1).await;
        house.restart(end).await;
        let mut came = drain(&house, "b").await;
        came.extend(drain(&house, "a").await);
        assert_eq!(came, ["kept"], "{end:?}");
    }
}
