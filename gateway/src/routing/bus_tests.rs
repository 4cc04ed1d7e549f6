use std::time::Duration;

use broker_config::Config;

use super::*;
use crate::{
    mqtt::{Qos, RetainHandling, SubscriptionFilter},
    routing::{
        control::{Options, SubscribeRequest, Subscription},
        dispatcher::{Dispatcher, Limits, StoredLimits},
        envelope::Outgoing,
        retained::RetainedLimits,
        testing::Sink,
    },
};

const DEADLINE: Duration = Duration::from_secs(30);
const LINKS: usize = 4;

struct Bench {
    bus: Arc<Bus>,
    metrics: Arc<Metrics>,
    /// Until the dispatcher runs.
    outlet: Option<Outlet>,
}

impl Bench {
    /// A bus that nobody reads.
    fn new(permits: u32) -> Bench {
        let metrics = Arc::new(Metrics::default());
        let router = Config::default().router();
        let (bus, outlet) = Bus::start(router, LINKS, permits, metrics.clone()).unwrap();
        Bench {
            bus,
            metrics,
            outlet: Some(outlet),
        }
    }

    fn run(&mut self) {
        let limits = Limits {
            retained: RetainedLimits {
                messages: 0,
                bytes: 0,
            },
            stored: StoredLimits {
                messages: 0,
                bytes: 0,
            },
        };
        let (store, _) = crate::store::testing::start(&self.metrics);
        let dispatcher =
            Dispatcher::new(self.bus.clone(), store, self.metrics.clone(), move || {
                limits
            });
        tokio::spawn(dispatcher.run(self.outlet.take().unwrap()));
    }

    /// Everything that passes reaches this sink.
    async fn subscribe(&self, sink: Arc<Sink>) {
        let subscription = Subscription {
            filter: SubscriptionFilter::parse("#", 64).unwrap(),
            options: Options {
                qos: Qos::AtMostOnce,
                no_local: false,
                retain_as_published: false,
                retain_handling: RetainHandling::DoNotSend,
                id: None,
            },
            number: 1,
        };
        let mut envelope = Envelope::default();
        envelope.control(Control::Subscribe(SubscribeRequest {
            packet_id: crate::mqtt::PacketId::MIN,
            filters: vec![Ok(subscription)],
        }));
        let origin = Origin {
            endpoint: sink,
            epoch: 1,
        };
        self.bus
            .publish_when_possible(0, envelope, Some(origin))
            .await;
    }

    async fn is_empty(&self) {
        let start = Instant::now();
        while self.free() != (self.bus.total as usize, ENVELOPES as usize) {
            assert!(
                start.elapsed() < DEADLINE,
                "{:?} of {} bytes and {ENVELOPES} envelopes come back",
                self.free(),
                self.bus.total
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(
            self.bus
                .links
                .iter()
                .all(|link| link.lock().in_flight.is_empty())
        );
    }

    /// Bytes and envelopes that may be reserved.
    fn free(&self) -> (usize, usize) {
        let (bytes, envelopes) = (&self.bus.permits, &self.bus.envelopes);
        (bytes.available_permits(), envelopes.available_permits())
    }
}

fn envelope(payload: &[u8]) -> Envelope {
    let mut envelope = Envelope::default();
    envelope.publish(Outgoing {
        topic: "t",
        payload,
        properties: b"",
        qos: Qos::AtMostOnce,
        retain: false,
        expiry: None,
        packet_id: None,
    });
    envelope
}

fn numbered(n: u32, size: usize) -> Envelope {
    let mut payload = n.to_le_bytes().to_vec();
    payload.resize(size.max(4), 0);
    envelope(&payload)
}

fn numbers(sink: &Sink) -> Vec<u32> {
    let deliveries = sink.deliveries.lock();
    deliveries
        .iter()
        .map(|delivery| u32::from_le_bytes(delivery.message.payload()[..4].try_into().unwrap()))
        .collect()
}

fn sink(slowness: Duration) -> Arc<Sink> {
    Arc::new(Sink {
        id: 1,
        online: true,
        slowness,
        ..Sink::default()
    })
}

// B2
#[tokio::test]
async fn every_permit_comes_back_after_thousands_of_envelopes_of_every_size() {
    let mut bench = Bench::new(256 << 10);
    bench.run();
    let sink = sink(Duration::ZERO);
    bench.subscribe(sink.clone()).await;
    for n in 0..3_000u32 {
        let size = [4, 100, 20_000, 100_000, 300_000][n as usize % 5] / (1 + n as usize % 3);
        bench
            .bus
            .publish_when_possible(0, numbered(n, size), None)
            .await;
    }
    bench.is_empty().await;
    assert_eq!(numbers(&sink), (0..3_000).collect::<Vec<_>>());
    assert_eq!(bench.metrics.bus_gaps.get(), 0);
}

// B2
#[tokio::test]
async fn a_reservation_that_is_not_used_gives_everything_back() {
    let bench = Bench::new(1000);
    let all = bench.free();
    drop(bench.bus.try_reserve(600).unwrap());
    assert_eq!(bench.free(), all);

    let held = bench.bus.try_reserve(600).unwrap();
    assert_eq!(bench.free(), (400, ENVELOPES as usize - 1));
    assert!(bench.bus.try_reserve(401).is_none());
    assert_eq!(
        bench.free(),
        (400, ENVELOPES as usize - 1),
        "a refusal takes nothing"
    );
    // Given up while it waits for bytes, its envelope and a part of its bytes already taken.
    let mut waiting = Box::pin(bench.bus.clone().reserve(500));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert!(bench.free().0 < 400, "it took what there was");
    drop(waiting);
    drop(held);
    assert_eq!(bench.free(), all);

    drop(bench.bus.clone().reserve(500).await);
    assert_eq!(bench.free(), all);
}

// B2
#[tokio::test]
async fn what_is_reserved_and_not_needed_comes_back_when_it_is_published() {
    let bench = Bench::new(100_000);
    let room = bench.bus.try_reserve(50_000).unwrap();
    let envelope = envelope(b"small");
    let length = envelope.len();
    assert!(room.covers(length));
    assert!(!room.covers(50_001));
    bench.bus.publish(0, envelope, room, None);
    assert_eq!(bench.free().0, 100_000 - length);
    assert_eq!(bench.bus.bytes_in_flight(), length);
}

// B2
#[tokio::test]
async fn an_envelope_larger_than_all_permits_travels_alone() {
    let mut bench = Bench::new(64 << 10);
    let small = envelope(b"first");
    let room = bench.bus.try_reserve(small.len()).unwrap();
    bench.bus.publish(1, small, room, None);
    let bus = bench.bus.clone();
    let large = tokio::spawn(async move {
        bus.publish_when_possible(0, numbered(7, 500_000), None)
            .await;
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!large.is_finished(), "it waits for what is under way");
    assert!(
        bench.bus.try_reserve(1).is_none(),
        "what is free is kept for it, or it would wait for ever"
    );
    bench.run();
    tokio::time::timeout(DEADLINE, large)
        .await
        .unwrap()
        .unwrap();
    bench.is_empty().await;
}

// B2
#[tokio::test]
async fn no_more_envelopes_are_out_than_rumqttd_takes_without_blocking() {
    let mut bench = Bench::new(4 << 20);
    let bus = bench.bus.clone();
    // On a thread of its own: a push that blocked would block the test.
    let pushed = tokio::task::spawn_blocking(move || {
        let mut count = 0;
        while let Some(room) = bus.try_reserve(100) {
            bus.publish(count as u8, envelope(b"x"), room, None);
            count += 1;
        }
        count
    });
    let pushed = tokio::time::timeout(DEADLINE, pushed)
        .await
        .expect("no push blocks")
        .unwrap();
    assert_eq!(pushed, ENVELOPES as usize);
    assert!(bench.free().0 > 0, "there were bytes left");
    bench.run();
    bench.is_empty().await;
}

// B2, B5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_dispatcher_never_makes_the_log_drop_envelopes() {
    let config = Config::default();
    let permits = config.bus.permits.bytes();
    let log = config.bus.segment_size.bytes() * config.bus.segments;
    let mut bench = Bench::new(permits as u32);
    bench.run();
    let sink = sink(Duration::from_micros(500));
    bench.subscribe(sink.clone()).await;
    // Several times the log, in envelopes of which 512 and what rumqttd has handed over are more than the log.
    let size = 32_000;
    let count = (6 * log / size) as u32;
    for n in 0..count {
        bench
            .bus
            .publish_when_possible(0, numbered(n, size), None)
            .await;
    }
    bench.is_empty().await;
    assert_eq!(numbers(&sink), (0..count).collect::<Vec<_>>());
    assert_eq!(bench.metrics.bus_gaps.get(), 0);
    assert_eq!(bench.metrics.bus_duplicates.get(), 0);
}

// B1
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn envelopes_of_many_tasks_on_one_link_come_out_as_they_were_numbered() {
    let mut bench = Bench::new(1 << 20);
    bench.run();
    let sink = sink(Duration::ZERO);
    bench.subscribe(sink.clone()).await;
    let tasks: Vec<_> = (0..8u32)
        .map(|task| {
            let bus = bench.bus.clone();
            tokio::spawn(async move {
                for n in 0..500 {
                    bus.publish_when_possible(2, numbered(task << 16 | n, 100), None)
                        .await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    bench.is_empty().await;
    let numbers = numbers(&sink);
    assert_eq!(numbers.len(), 8 * 500);
    for task in 0..8 {
        let of_task = numbers.iter().filter(|n| **n >> 16 == task);
        assert!(of_task.map(|n| n & 0xFFFF).eq(0..500));
    }
    assert_eq!(bench.metrics.bus_duplicates.get(), 0);
}

// B1
#[test]
fn a_client_identifier_always_uses_the_same_link() {
    let bench = Bench::new(1000);
    let links: Vec<_> = (0..1000)
        .map(|n| bench.bus.link_of(&n.to_string()))
        .collect();
    let again: Vec<_> = (0..1000)
        .map(|n| bench.bus.link_of(&n.to_string()))
        .collect();
    assert_eq!(links, again);
    for link in 0..LINKS as u8 {
        let share = links.iter().filter(|other| **other == link).count();
        assert!(
            (150..350).contains(&share),
            "link {link} has {share} of 1000"
        );
    }
}

// B2
#[tokio::test]
async fn an_envelope_that_the_log_lost_is_found_on_the_table() {
    let bench = Bench::new(1 << 20);
    for n in 0..4 {
        bench
            .bus
            .publish_when_possible(0, numbered(n, 10), None)
            .await;
    }
    let settled = |sequence| bench.bus.settle(0, sequence).map(|found| found.sequence);
    assert_eq!(settled(0), Some(0));
    assert_eq!(settled(0), None, "it was seen");
    // 1 and 2 do not come: they are given before 3, once.
    assert_eq!(
        [settled(3), settled(3), settled(3)],
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(settled(3), None);
    assert!(bench.bus.settle(LINKS as u8, 0).is_none(), "no such link");
}

// B4
#[tokio::test]
async fn a_new_router_gets_what_was_in_flight_in_order_and_once() {
    let mut bench = Bench::new(4 << 20);
    let sink = sink(Duration::ZERO);
    bench.subscribe(sink.clone()).await;
    for n in 0..100 {
        bench
            .bus
            .publish_when_possible((n % 2) as u8, numbered(n, 100), None)
            .await;
    }
    // Nothing was read: all of it is in flight when the router dies, some of it forwarded already.
    let (mut link, _rx) = bench.bus.raw_link("sabotage").unwrap();
    link.publish("ä", "x").unwrap();
    bench.run();
    for n in 100..200 {
        bench
            .bus
            .publish_when_possible((n % 2) as u8, numbered(n, 100), None)
            .await;
    }
    bench.is_empty().await;
    let numbers = numbers(&sink);
    for parity in 0..2 {
        let of_link: Vec<_> = numbers
            .iter()
            .copied()
            .filter(|n| n % 2 == parity)
            .collect();
        let expected: Vec<_> = (0..200).filter(|n| n % 2 == parity).collect();
        assert_eq!(of_link, expected);
    }
    assert_eq!(bench.metrics.bus_restarts.get(), 1);
}
