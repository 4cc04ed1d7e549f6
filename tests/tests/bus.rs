//! Does the death of the bus's router thread cost a message? The router is killed by what kills it in the wild (a topic
//! that begins with a multibyte character), through a link of its own, while clients publish.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use broker_config::Config;
use gateway::supervise::Gateway;
use postern_tests::{
    Account, Client, Connect, Packet, Publish,
    client::tcp,
    packet::{PUBACK, PUBCOMP, PUBREC, Version, ack},
    wait::{DEADLINE, until, within},
};
use tempfile::TempDir;

const KILLS: u64 = 20;
/// Messages that must come through between two deaths.
const BETWEEN: usize = 300;

// B4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_is_replaced_and_nothing_is_lost_doubled_or_reordered() {
    let log = capture_log();
    let running = Running::start().await;
    let gateway = &running.gateway;
    let metrics = gateway.registry().metrics().clone();

    let received = Arc::new(Mutex::new([const { Vec::new() }; 3]));
    let count = Arc::new(AtomicUsize::new(0));
    let mut subscriber = running.client("subscriber").await;
    assert_eq!(subscriber.subscribe("bus/+", 2).await, 2);
    let stop = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn(read(subscriber, received.clone(), count.clone()));
    let mut publishing = Vec::new();
    for qos in 0..3 {
        let client = running.client(&format!("publisher-{qos}")).await;
        publishing.push(tokio::spawn(publish(client, qos, stop.clone())));
    }

    for death in 1..=KILLS {
        let before = count.load(Relaxed);
        until("messages to come through", || {
            count.load(Relaxed) >= before + BETWEEN
        })
        .await;
        kill_the_router(gateway).await;
        let died = Instant::now();
        until("a new router", || metrics.bus_restarts.get() == death).await;
        assert!(
            died.elapsed() < Duration::from_secs(1),
            "the new router took {:?}",
            died.elapsed()
        );
    }
    let before = count.load(Relaxed);
    until("messages after the last death", || {
        count.load(Relaxed) >= before + BETWEEN
    })
    .await;
    stop.store(true, Relaxed);
    let mut published = 0;
    for (qos, task) in publishing.into_iter().enumerate() {
        let sent = within("a publisher to end", task).await.unwrap();
        published += sent;
        until("everything that was accepted", || {
            received.lock().unwrap()[qos].len() >= sent
        })
        .await;
        let got = &received.lock().unwrap()[qos];
        let expected: Vec<usize> = (0..sent).collect();
        assert_eq!(got, &expected, "QoS {qos}: lost, doubled or reordered");
    }
    reading.abort();
    assert_eq!(count.load(Relaxed), published);
    assert_eq!(metrics.bus_gaps.get(), 0);
    assert_eq!(metrics.messages_dropped.get(), 0);
    // Statistics may be on their way at any moment.
    until("an empty bus", || {
        gateway.registry().bus().bytes_in_flight() == 0
    })
    .await;
    let errors = log.lines_with("ERROR");
    let deaths = errors
        .iter()
        .filter(|line| line.contains("message bus (rumqttd) died"));
    assert_eq!(deaths.count() as u64, KILLS, "{errors:?}");
    assert_eq!(errors.len() as u64, KILLS, "and no other error: {errors:?}");
    running.gateway.stop().await;
}

/// Publishes 0, 1, 2, … in bursts until told to stop; how many were accepted.
async fn publish(mut client: Client, qos: u8, stop: Arc<AtomicBool>) -> usize {
    const BURST: usize = 16;
    let topic = format!("bus/{qos}");
    let mut next = 0;
    while !stop.load(Relaxed) {
        let mut bytes = Vec::new();
        for n in next..next + BURST {
            let message = Publish::new(&topic, &n.to_string()).qos(qos);
            let id = 1 + (n % BURST) as u16;
            bytes.extend(message.id(if qos == 0 { 0 } else { id }).bytes(Version::V5));
        }
        client.send(&bytes).await;
        next += BURST;
        for id in 1..=BURST as u16 {
            match qos {
                0 => {}
                1 => assert!(client.puback(id).await.code < 0x80),
                _ => {
                    assert!(client.pubrec(id).await.code < 0x80);
                    client.send(&ack(0x62, id)).await;
                    let done = |p: &Packet| matches!(p, Packet::PubComp(a) if a.id == id);
                    client.wait_for("PUBCOMP", done).await;
                }
            }
        }
        if qos == 0 {
            // The gateway has read it all: what it accepted is known, and the load stays moderate.
            client.ping().await;
        }
    }
    next
}

/// Takes everything, answers it, and keeps the numbers by topic.
async fn read(mut client: Client, received: Arc<Mutex<[Vec<usize>; 3]>>, count: Arc<AtomicUsize>) {
    while let Some(packet) = client.next_within("traffic", DEADLINE).await {
        match packet {
            Packet::Publish(message) => {
                assert!(!message.dup, "nothing is sent twice on one connection");
                let topic: usize = message.topic["bus/".len()..].parse().unwrap();
                received.lock().unwrap()[topic].push(message.text().parse().unwrap());
                count.fetch_add(1, Relaxed);
                match message.qos {
                    0 => {}
                    1 => client.send(&ack(PUBACK, message.id)).await,
                    _ => client.send(&ack(PUBREC, message.id)).await,
                }
            }
            Packet::PubRel(release) => client.send(&ack(PUBCOMP, release.id)).await,
            other => panic!("{other:?}"),
        }
    }
}

/// rumqttd slices the first byte of a topic when it compares it with a filter: a panic in its thread.
async fn kill_the_router(gateway: &Gateway) {
    let bus = gateway.registry().bus().clone();
    tokio::task::spawn_blocking(move || {
        let (mut link, _rx) = bus.raw_link("sabotage").expect("the router lives");
        link.publish("ä", "x").expect("it is still alive");
    })
    .await
    .unwrap();
}

/// A gateway in this process, on a free port, with a directory of its own.
struct Running {
    gateway: Gateway,
    address: SocketAddr,
    admin: Account,
    _directory: TempDir,
}

impl Running {
    async fn start() -> Running {
        let directory = TempDir::with_prefix("postern-bus-").unwrap();
        let data = directory.path().join("data");
        let text = format!(
            "data_dir = {data:?}\n[listeners.mqtts]\nbind = []\n[listeners.wss]\nbind = []\n\
             [listeners.mqtt]\nbind = [\"127.0.0.1:0\"]\n"
        );
        let config = Config::parse(&text, "test").expect("the configuration is sound");
        let gateway = Gateway::start(config).await.expect("the gateway starts");
        let address = gateway.addresses().listener("mqtt")[0];
        let admin = Account::first(&data.join("first-account"));
        Running {
            gateway,
            address,
            admin,
            _directory: directory,
        }
    }

    async fn client(&self, id: &str) -> Client {
        let mut client = Client::over(tcp(None, self.address).await, Version::V5);
        let connect = Connect::v5(id).user(&self.admin.name, &self.admin.password);
        client.connect(&connect).await;
        assert_eq!(client.connack.code, 0);
        client
    }
}

/// What the gateway logs, without rumqttd's own lines (B6).
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn lines_with(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let lines = text.lines().filter(|line| line.contains(what));
        lines.map(str::to_owned).collect()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn capture_log() -> Captured {
    let log = Captured::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("info,rumqttd=off")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
}
