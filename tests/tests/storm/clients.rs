//! The crowd: clients that want to be connected, and come back as soon as they can when they are not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use postern_tests::packet::Version;
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::{Account, Connect, Gateway};
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::users::Accounted;

/// Ten households with 200 devices each, behind one address each.
const HOUSEHOLDS: usize = 10;
/// How long a client waits for an answer before it tries again.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first and the longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub struct Crowd {
    pub generated: Arc<Count>,
    pub chosen: Arc<Count>,
    orders: watch::Sender<Order>,
    clients: JoinSet<()>,
    a_chosen_name: String,
}

/// Where everybody should be connected, and for the how many-th time.
#[derive(Clone, Copy)]
struct Order {
    gateway: SocketAddr,
    round: u64,
}

/// How many of a kind are connected in the present round.
pub struct Count {
    of: usize,
    connected: AtomicUsize,
    round: watch::Sender<(u64, Option<Instant>)>,
}

impl Crowd {
    pub fn start(gateway: &Gateway, users: Accounted) -> Crowd {
        let order = Order {
            gateway: gateway.addresses.mqtts,
            round: 1,
        };
        let (orders, watched) = watch::channel(order);
        let generated = Count::new(users.generated.len());
        let chosen = Count::new(users.chosen.len());
        let a_chosen_name = users.chosen[0].name.clone();
        let tls = client_config(&gateway.ca(), ALL_VERSIONS);
        let generated_ones = users.generated.into_iter().map(|user| (user, &generated));
        let chosen_ones = users.chosen.into_iter().map(|user| (user, &chosen));
        let mut clients = JoinSet::new();
        for (n, (user, count)) in generated_ones.chain(chosen_ones).enumerate() {
            let mut tls = ClientConfig::clone(&tls);
            tls.resumption = Resumption::in_memory_sessions(2);
            let client = Client {
                address: IpAddr::from(Ipv4Addr::new(127, 50, 0, (n % HOUSEHOLDS + 1) as u8)),
                connect: connect(n, &user).bytes(),
                tls: TlsConnector::from(Arc::new(tls)),
                count: count.clone(),
                number: n,
            };
            clients.spawn(client.run(watched.clone()));
        }
        Crowd {
            generated,
            chosen,
            orders,
            clients,
            a_chosen_name,
        }
    }

    /// The gateway is somewhere else now; it has closed all connections.
    pub fn moved(&self, gateway: &Gateway) {
        self.order(|order| order.gateway = gateway.addresses.mqtts);
    }

    /// Everybody loses its connection now.
    pub fn break_off(&self) {
        self.order(|_| {});
    }

    pub fn a_chosen_name(&self) -> String {
        self.a_chosen_name.clone()
    }

    pub async fn stop(mut self) {
        self.clients.shutdown().await;
    }

    fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_modify(|order| {
            change(order);
            order.round += 1;
            self.generated.begin(order.round);
            self.chosen.begin(order.round);
        });
    }
}

/// Every second one has a session that stays, as devices have; all speak version 5 or 3.1.1.
fn connect(n: usize, user: &Account) -> Connect {
    let version = if n % 4 < 2 {
        Version::V5
    } else {
        Version::V311
    };
    let connect = Connect::new(version, &user.name).user(&user.name, &user.password);
    let connect = connect.keep_alive(600);
    match (n % 2, version) {
        (0, _) => connect,
        (_, Version::V5) => connect.persistent(3_600),
        _ => connect.clean(false),
    }
}

impl Count {
    fn new(of: usize) -> Arc<Count> {
        Arc::new(Count {
            of,
            connected: AtomicUsize::new(0),
            round: watch::Sender::new((1, None)),
        })
    }

    fn begin(&self, round: u64) {
        self.connected.store(0, Relaxed);
        self.round.send_replace((round, None));
    }

    fn one_more(&self, round: u64) {
        self.round.send_if_modified(|(present, complete)| {
            if *present != round || self.connected.fetch_add(1, Relaxed) + 1 < self.of {
                return false;
            }
            *complete = Some(Instant::now());
            true
        });
    }

    /// When all of them were connected in this round, from `start` on.
    pub async fn all_connected(&self, round: u64, start: Instant) -> Duration {
        let mut watched = self.round.subscribe();
        let complete =
            watched.wait_for(|(present, complete)| *present == round && complete.is_some());
        match tokio::time::timeout(Duration::from_secs(120), complete).await {
            Ok(Ok(state)) => state.1.map_or(Duration::ZERO, |at| at - start),
            _ => panic!(
                "{} of {} are connected after two minutes",
                self.connected.load(Relaxed),
                self.of
            ),
        }
    }
}

struct Client {
    address: IpAddr,
    connect: Vec<u8>,
    tls: TlsConnector,
    count: Arc<Count>,
    number: usize,
}

impl Client {
    async fn run(self, mut orders: watch::Receiver<Order>) {
        let mut pause = PAUSE;
        loop {
            let order = *orders.borrow_and_update();
            match tokio::time::timeout(PATIENCE, self.open(order.gateway)).await {
                Ok(Some(stream)) => {
                    self.count.one_more(order.round);
                    pause = PAUSE;
                    self.stay(stream, &mut orders).await;
                }
                Ok(None) | Err(_) => {
                    // Not all at the same moment again.
                    let share = 0.5 + (self.number % 100) as f64 / 100.0;
                    tokio::select! {
                        () = tokio::time::sleep(pause.mul_f64(share)) => {}
                        _ = orders.changed() => orders.mark_changed(),
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Connects and logs in; nothing if the gateway is not there, or has no room at the moment.
    async fn open(&self, to: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::new(self.address, 0)).ok()?;
        let stream = socket.connect(to).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let name = "localhost".try_into().expect("a DNS name");
        let mut stream = self.tls.connect(name, stream).await.ok()?;
        stream.write_all(&self.connect).await.ok()?;
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.ok()?;
        // A CONNACK is shorter than 128 bytes.
        let mut connack = vec![0; usize::from(head[1])];
        stream.read_exact(&mut connack).await.ok()?;
        let code = connack[1];
        assert!(
            matches!(code, 0 | 0x89 | 3),
            "{} is refused with {code:#04x}",
            self.number
        );
        (head[0] == 0x20 && code == 0).then_some(stream)
    }

    /// Until the connection ends or is to be broken.
    async fn stay(&self, mut stream: TlsStream<TcpStream>, orders: &mut watch::Receiver<Order>) {
        let mut sink = [0; 256];
        loop {
            tokio::select! {
                read = stream.read(&mut sink) => {
                    if !read.is_ok_and(|count| count > 0) {
                        // The order to come back follows: before it there is nowhere to go.
                        let _ = orders.changed().await;
                        return;
                    }
                }
                _ = orders.changed() => return,
            }
        }
    }
}
