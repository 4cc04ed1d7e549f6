//! The queue of a session by itself.

use std::time::Instant;

use super::super::{
    ledger::Ledger,
    queue::{Entry, Queue, QueueLimits, Terms},
};
use crate::{
    metrics::Metrics,
    mqtt::{PacketId, Qos, ReasonCode},
    routing::{
        endpoint::Delivery,
        envelope::{Outgoing, message},
    },
};

const LIMITS: QueueLimits = QueueLimits {
    messages: 3,
    bytes: 10_000,
};

#[derive(Default)]
struct Bench {
    queue: Queue,
    ledger: Ledger,
    metrics: Metrics,
}

impl Bench {
    /// For a connected client of which nothing is stored.
    fn push(&mut self, topic: &str, qos: Qos, size: usize) {
        self.push_on(topic, qos, size, None, true);
    }

    /// For a session that is stored: what it does not hold in memory is on disk.
    fn store(&mut self, topic: &str, qos: Qos, turn: u64, online: bool) -> u64 {
        self.push_on(topic, qos, 1, Some(turn), online)
    }

    fn push_on(
        &mut self,
        topic: &str,
        qos: Qos,
        size: usize,
        stored: Option<u64>,
        online: bool,
    ) -> u64 {
        let terms = Terms {
            limits: LIMITS,
            stored,
            online,
        };
        let delivery = delivery(topic, qos, size);
        self.queue
            .push(delivery, terms, &mut self.ledger, &self.metrics)
    }

    fn suback(&mut self, turn: u64) {
        let answer = Entry::SubAck {
            packet_id: PacketId::MIN,
            reasons: vec![ReasonCode::Success],
        };
        self.queue.answer(answer, turn);
    }

    fn topics(&mut self, window: bool) -> Vec<String> {
        let queue = &mut self.queue;
        std::iter::from_fn(|| {
            let ready = queue.is_ready(window);
            let entry = queue.pop(window);
            assert_eq!(ready, entry.is_some());
            entry
        })
        .map(|entry| match entry {
            Entry::Message(delivery) => delivery.message.topic().to_owned(),
            Entry::SubAck { .. } => "SUBACK".to_owned(),
            Entry::UnsubAck { .. } => "UNSUBACK".to_owned(),
        })
        .collect()
    }

    /// As the dispatcher's turn has ended.
    fn wants_page(&mut self) -> Option<(u64, u64)> {
        self.queue.hand_over(self.ledger.next() - 1);
        self.queue.wants_page()
    }

    fn dropped(&self) -> u64 {
        self.metrics.messages_dropped.get()
    }
}

fn delivery(topic: &str, qos: Qos, size: usize) -> Delivery {
    let payload = vec![0; size];
    let outgoing = Outgoing {
        topic,
        payload: &payload,
        properties: b"",
        qos,
        retain: false,
        expiry: None,
        packet_id: None,
    };
    Delivery {
        message: message(outgoing, Instant::now()).unwrap(),
        qos,
        retain: false,
        extra: None,
        serial: 0,
    }
}

// D8
#[test]
fn a_full_queue_drops_its_oldest_message_and_counts_it() {
    let mut bench = Bench::default();
    for topic in ["1", "2", "3", "4"] {
        bench.push(topic, Qos::AtLeastOnce, 1);
    }
    bench.queue.report(&bench.metrics);
    assert_eq!(bench.metrics.messages_queued.get(), 3);
    assert_eq!(bench.topics(true), ["2", "3", "4"]);
    bench.queue.report(&bench.metrics);
    assert_eq!(bench.dropped(), 1);
    let metrics = &bench.metrics;
    assert_eq!(
        (
            bench.queue.bytes(),
            metrics.bytes_queued.get(),
            metrics.messages_queued.get()
        ),
        (0, 0, 0)
    );
}

// D8
#[test]
fn a_full_queue_on_disk_drops_its_oldest_message_and_finishes_it() {
    let mut bench = Bench::default();
    let serials: Vec<_> = ["1", "2", "3", "4"]
        .map(|topic| bench.store(topic, Qos::AtLeastOnce, 1, false))
        .into();
    assert_eq!(serials, [1, 2, 3, 4]);
    assert_eq!(bench.dropped(), 1);
    assert!(bench.ledger.is_done(1) && !bench.ledger.is_done(2));
    bench.queue.report(&bench.metrics);
    let metrics = &bench.metrics;
    assert_eq!(
        (metrics.messages_queued.get(), metrics.messages_stored.get()),
        (0, 3),
        "an absent client's messages are on disk only"
    );
    assert_eq!(bench.wants_page(), Some((2, 4)));
    assert_eq!(bench.wants_page(), None, "asked already");
}

#[test]
fn what_comes_while_a_page_is_read_waits_behind_it() {
    let mut bench = Bench::default();
    bench.store("1", Qos::AtLeastOnce, 1, false);
    assert_eq!(bench.wants_page(), Some((1, 1)));
    bench.store("2", Qos::AtLeastOnce, 2, true);
    let page = |serial, topic| Delivery {
        serial,
        ..delivery(topic, Qos::AtLeastOnce, 1)
    };
    bench.queue.thaw(vec![page(1, "1")], None);
    assert_eq!(bench.topics(true), ["1"]);
    assert_eq!(bench.wants_page(), Some((2, 2)));
    bench.queue.thaw(vec![page(2, "2")], None);
    bench.store("3", Qos::AtLeastOnce, 3, true);
    assert_eq!(bench.topics(true), ["2", "3"]);
    assert_eq!(bench.wants_page(), None);
    assert_eq!(bench.queue.bytes(), 0);
}

#[test]
fn what_the_writer_does_not_know_yet_is_not_asked_for_and_not_forgotten() {
    let mut bench = Bench::default();
    bench.store("1", Qos::AtLeastOnce, 1, false);
    assert_eq!(bench.queue.wants_page(), None, "its turn has not ended");
    assert_eq!(bench.wants_page(), Some((1, 1)));
    let mut bench = Bench::default();
    bench.store("1", Qos::AtLeastOnce, 1, false);
    bench.queue.hand_over(1);
    bench.store("2", Qos::AtLeastOnce, 2, true);
    assert_eq!(bench.queue.wants_page(), Some((1, 1)));
    bench.queue.thaw(Vec::new(), None);
    assert_eq!(bench.wants_page(), Some((2, 2)));
}

#[test]
fn what_expired_beside_the_backlog_does_not_hide_what_waits_in_it() {
    let mut bench = Bench::default();
    for topic in ["1", "2", "3"] {
        bench.store(topic, Qos::AtLeastOnce, 1, false);
    }
    // Others that were in the same rows on disk, and that nobody counted here.
    bench.queue.swept(10, 10_000);
    assert_eq!(bench.wants_page(), Some((1, 3)));
    bench.store("4", Qos::AtLeastOnce, 2, true);
    assert!(bench.topics(true).is_empty(), "it is behind the others");
}

// D8, D9
#[test]
fn what_may_have_been_sent_is_not_dropped_at_the_limit() {
    let mut bench = Bench::default();
    for topic in ["1", "2", "3"] {
        bench.store(topic, Qos::ExactlyOnce, 1, false);
    }
    bench.ledger.send(2);
    bench.store("4", Qos::ExactlyOnce, 1, false);
    let done = [1, 2, 3, 4].map(|serial| bench.ledger.is_done(serial));
    assert_eq!(done, [false, false, true, false]);
}

// D1
#[test]
fn qos_2_and_answers_leave_when_their_turn_is_on_disk() {
    let mut bench = Bench::default();
    bench.store("q1", Qos::AtLeastOnce, 7, true);
    bench.store("q2", Qos::ExactlyOnce, 7, true);
    bench.store("q1 again", Qos::AtLeastOnce, 7, true);
    assert_eq!(bench.topics(true), ["q1"]);
    bench.suback(8);
    bench.push("q0", Qos::AtMostOnce, 1);
    bench.queue.stored(7);
    assert_eq!(bench.topics(true), ["q2", "q1 again"]);
    bench.queue.stored(8);
    assert_eq!(bench.topics(true), ["SUBACK", "q0"]);
}

#[test]
fn qos_0_is_dropped_before_anything_else() {
    let mut bench = Bench::default();
    bench.push("q1", Qos::AtLeastOnce, 3_000);
    bench.push("q0", Qos::AtMostOnce, 5_000);
    bench.push("more q0", Qos::AtMostOnce, 5_000);
    bench.push("more q1", Qos::AtLeastOnce, 5_000);
    assert_eq!(bench.topics(true), ["q1", "more q1"]);
    assert_eq!(bench.dropped(), 2);
}

// B7
#[test]
fn suback_then_retained_then_newer_messages_even_with_a_closed_window() {
    let mut bench = Bench::default();
    bench.push("older", Qos::AtLeastOnce, 1);
    let retained = vec![
        delivery("kept 0", Qos::AtMostOnce, 1),
        delivery("kept 1", Qos::AtLeastOnce, 1),
    ];
    bench.suback(0);
    bench.queue.retained(retained, 0);
    bench.push("newer", Qos::AtMostOnce, 1);
    assert_eq!(bench.topics(false), ["SUBACK", "kept 0"]);
    assert_eq!(bench.topics(true), ["older", "kept 1", "newer"]);
    assert!(bench.queue.is_empty());
}

#[test]
fn a_closed_window_holds_back_qos_1_only() {
    let mut bench = Bench::default();
    bench.push("q1", Qos::AtLeastOnce, 1);
    bench.push("q0", Qos::AtMostOnce, 1);
    assert_eq!(bench.topics(false), ["q0"]);
    assert_eq!(bench.topics(true), ["q1"]);
}

#[test]
fn a_departed_client_leaves_qos_1_and_2_waiting_on_disk_in_order() {
    let mut bench = Bench::default();
    bench.push("q0", Qos::AtMostOnce, 1);
    let mut kept = delivery("kept", Qos::AtLeastOnce, 1);
    kept.serial = bench.ledger.number();
    bench.suback(1);
    bench.queue.retained(vec![kept], 1);
    assert_eq!(bench.store("q2", Qos::ExactlyOnce, 1, true), 2);
    bench.queue.disconnect();
    assert!(bench.queue.is_empty());
    assert_eq!(bench.queue.backlog_from(), Some(1));
    assert_eq!(bench.wants_page(), Some((1, 2)));
}
