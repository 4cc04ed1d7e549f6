//! The well-behaved pair: a publisher and a subscriber over TLS, in a thread of their own so that the attacks of this
//! test do not disturb their clock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postern_tests::wait::until;
use postern_tests::{Client, Connect, Gateway, Publish};
use tokio::time::MissedTickBehavior;

const PERIOD: Duration = Duration::from_millis(20);
const TOPIC: &str = "pair/heartbeat";

pub struct Pair {
    shared: Arc<Shared>,
    thread: JoinHandle<Report>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
    felt: Mutex<Felt>,
}

/// What the pair felt since the measuring started.
#[derive(Debug, Clone, Default)]
pub struct Felt {
    pub messages: u64,
    /// The longest time between two received messages.
    pub longest_gap: Duration,
    /// When it ended.
    pub at: Option<Instant>,
    /// The longest time by which the pair's own clock was late.
    pub own_stall: Duration,
}

pub struct Report {
    pub sent: u64,
    pub received: u64,
}

impl Pair {
    pub async fn start(gateway: &Gateway) -> Self {
        let mut subscriber = gateway.connect_tls(Connect::v5("pair-subscriber")).await;
        subscriber.subscribe(TOPIC, 1).await;
        drop(subscriber);
        let shared = Arc::new(Shared::default());
        let (address, ca) = (gateway.addresses.mqtts, gateway.ca());
        let (subscriber, publisher) = (
            gateway.login(&Connect::v5("pair-subscriber")),
            gateway.login(&Connect::v5("pair-publisher")),
        );
        let thread = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async move {
                    let connect = async |connect: Connect| {
                        let stream = postern_tests::client::tls(
                            address,
                            &ca,
                            postern_tests::tls::ALL_VERSIONS,
                        )
                        .await;
                        let mut client = Client::over(stream, connect.version);
                        client.connect(&connect).await;
                        assert_eq!(client.connack.code, 0, "the pair is let in");
                        client
                    };
                    let mut subscriber = connect(subscriber).await;
                    subscriber.subscribe(TOPIC, 1).await;
                    let publisher = connect(publisher).await;
                    let receiving = tokio::spawn(receive(subscriber, shared.clone()));
                    let stall = tokio::spawn(watch_own_clock(shared.clone()));
                    let sent = publish(publisher, &shared).await;
                    let received = receiving.await.expect("the subscriber is content");
                    stall.abort();
                    Report { sent, received }
                })
            })
        };
        let pair = Self { shared, thread };
        until("the pair's first messages", || {
            pair.shared.received.load(Ordering::Relaxed) > 10
        })
        .await;
        pair
    }

    pub fn start_measuring(&self) {
        *self.shared.felt.lock().expect("no poison") = Felt::default();
    }

    pub fn measured(&self) -> Felt {
        self.shared.felt.lock().expect("no poison").clone()
    }

    /// Ends the pair; panics if a message came out of order or twice.
    pub async fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || self.thread.join().expect("the pair is content"))
            .await
            .expect("joined")
    }
}

async fn publish(mut client: Client, shared: &Shared) -> u64 {
    let mut clock = tokio::time::interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        clock.tick().await;
        let code = client
            .publish(Publish::new(TOPIC, &sent.to_string()).qos(1))
            .await;
        assert_eq!(code, 0, "PUBACK of message {sent}");
        sent += 1;
    }
    client.publish(Publish::new(TOPIC, "end").qos(1)).await;
    sent
}

async fn receive(mut client: Client, shared: Arc<Shared>) -> u64 {
    let mut last = Instant::now();
    for wanted in 0.. {
        let message = client.receive().await;
        let now = Instant::now();
        let mut felt = shared.felt.lock().expect("no poison");
        felt.messages += 1;
        if now - last > felt.longest_gap {
            felt.longest_gap = now - last;
            felt.at = Some(now);
        }
        drop(felt);
        last = now;
        if message.text() == "end" {
            return wanted;
        }
        assert_eq!(
            message.text(),
            wanted.to_string(),
            "in order, none lost, none twice"
        );
        shared.received.store(wanted, Ordering::Relaxed);
    }
    unreachable!("counting does not end")
}

/// How late a timer of this thread fires when nothing of the gateway is involved.
async fn watch_own_clock(shared: Arc<Shared>) {
    loop {
        let before = Instant::now();
        tokio::time::sleep(PERIOD).await;
        let late = before.elapsed().saturating_sub(PERIOD);
        let mut felt = shared.felt.lock().expect("no poison");
        felt.own_stall = felt.own_stall.max(late);
    }
}
