//! Those who are no help: sockets that begin a handshake and leave it at that, and somebody who guesses passwords.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use postern_tests::client::tcp;
use postern_tests::packet::{Packet, Version};
use postern_tests::scope::own_address;
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::{Client, Connect, Gateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

const SOCKETS: usize = 200;
/// They come from this many addresses.
const ADDRESSES: usize = 8;
const GUESSERS: usize = 8;

/// 200 half-open handshakes at any time: half of them silent, half behind a whole ClientHello.
pub struct HalfOpen {
    tasks: JoinSet<()>,
    opened: Arc<AtomicU64>,
}

impl HalfOpen {
    pub fn start(gateway: &Gateway) -> HalfOpen {
        let (to, hello) = (gateway.addresses.mqtts, client_hello(gateway));
        let addresses: Vec<_> = (0..ADDRESSES).map(|_| own_address()).collect();
        let opened = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for n in 0..SOCKETS {
            let bytes = if n % 2 == 0 {
                Vec::new()
            } else {
                hello.clone()
            };
            let from = addresses[n / 2 % ADDRESSES];
            tasks.spawn(again_and_again(to, from, bytes, opened.clone()));
        }
        HalfOpen { tasks, opened }
    }

    /// How many there were.
    pub async fn stop(mut self) -> u64 {
        self.tasks.shutdown().await;
        self.opened.load(Relaxed)
    }
}

async fn again_and_again(to: SocketAddr, from: IpAddr, bytes: Vec<u8>, opened: Arc<AtomicU64>) {
    loop {
        let mut stream = tcp(Some(from), to).await;
        opened.fetch_add(1, Relaxed);
        let _ = stream.write_all(&bytes).await;
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        // As soon as it is closed, within reason: it is not the point to measure this test's own sockets.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn client_hello(gateway: &Gateway) -> Vec<u8> {
    let config = client_config(&gateway.ca(), ALL_VERSIONS);
    let name = "localhost".try_into().expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("written");
    bytes
}

/// Guesses the password of one name, as fast as the gateway lets it.
pub struct Guesser {
    tasks: JoinSet<()>,
    tried: Arc<AtomicU64>,
    closed_out: Arc<AtomicU64>,
}

impl Guesser {
    pub fn start(gateway: &Gateway, name: String) -> Guesser {
        let (tried, closed_out) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (to, from) = (gateway.addresses.mqtt, own_address());
        let mut tasks = JoinSet::new();
        for n in 0..GUESSERS {
            let (name, tried, closed_out) = (name.clone(), tried.clone(), closed_out.clone());
            tasks.spawn(async move {
                loop {
                    tried.fetch_add(1, Relaxed);
                    let guess = format!("guess {n} {}", tried.load(Relaxed));
                    if !is_answered(to, from, &name, &guess).await {
                        closed_out.fetch_add(1, Relaxed);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
        Guesser {
            tasks,
            tried,
            closed_out,
        }
    }

    /// How often it tried until it was not even answered, and how often that was so.
    pub async fn stop(mut self) -> (u64, u64) {
        let closed_out = async {
            while self.closed_out.load(Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // A fast machine has everybody back before the guesser has failed often enough.
        let _ = tokio::time::timeout(Duration::from_secs(60), closed_out).await;
        self.tasks.shutdown().await;
        (self.tried.load(Relaxed), self.closed_out.load(Relaxed))
    }
}

async fn is_answered(to: SocketAddr, from: IpAddr, name: &str, guess: &str) -> bool {
    let mut client = Client::over(tcp(Some(from), to).await, Version::V5);
    let connect = Connect::v5("guesser").user(name, guess);
    if client.try_send(&connect.bytes()).await.is_err() {
        return false;
    }
    match client
        .next_within("an answer", Duration::from_secs(60))
        .await
    {
        Some(Packet::ConnAck(connack)) => {
            assert!(connack.code >= 0x80, "nobody guesses this");
            true
        }
        _ => false,
    }
}
