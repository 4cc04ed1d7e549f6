//! The door: who is turned away, for what, for how long, and that nobody else notices.

mod bans;
mod budgets;
mod logins;
mod proxy;
mod real_proxies;
mod secrets;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_tests::client::tcp;
use postern_tests::packet::{Packet, Version};
use postern_tests::tls::{ALL_VERSIONS, client_config};
use postern_tests::wait::{until, within, within_time};
use postern_tests::{Client, Connect, Gateway, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Long enough for a busy machine, short enough to tell from a deadline of minutes.
const SOON: Duration = Duration::from_secs(20);

async fn gateway(tables: &str) -> Gateway {
    let sys = "[sys]\ninterval = \"1s\"\n";
    Setup::new().toml(&format!("{tables}\n{sys}")).start().await
}

/// CONNECT on an open stream; the code of CONNACK, or nothing if the stream ends first.
async fn login_on(
    stream: impl postern_tests::client::Stream + 'static,
    connect: &Connect,
) -> Option<(u8, Client)> {
    let mut client = Client::over(stream, connect.version);
    client.try_send(&connect.bytes()).await.ok()?;
    match client.next().await? {
        Packet::ConnAck(connack) => Some((connack.code, client)),
        other => panic!("instead of CONNACK came {other:?}"),
    }
}

/// CONNECT without TLS from `address`; the code of CONNACK, or nothing if the gateway closes instead of answering.
async fn login(gateway: &Gateway, address: IpAddr, connect: &Connect) -> Option<u8> {
    let stream = tcp(Some(address), gateway.addresses.mqtt).await;
    let (code, _) = login_on(stream, connect).await?;
    Some(code)
}

/// The first account's CONNECT with a client identifier of its own.
fn good(gateway: &Gateway, id: &str) -> Connect {
    gateway.login(&Connect::v5(id))
}

fn wrong(name: &str) -> Connect {
    Connect::v5("guess").user(name, "a wrong guess")
}

/// Whether the gateway ends the stream properly, without an answer and without resetting it.
async fn is_closed(mut stream: TcpStream) -> bool {
    let mut byte = [0];
    match within_time("the gateway to close", SOON, stream.read(&mut byte)).await {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => panic!("reset instead of closed: {error}"),
    }
}

/// TLS on an open stream, as `localhost`.
async fn tls_over(
    gateway: &Gateway,
    stream: TcpStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = TlsConnector::from(client_config(&gateway.ca(), ALL_VERSIONS));
    let name = "localhost".try_into().expect("a DNS name");
    within("the end of a handshake", connector.connect(name, stream)).await
}

/// The bytes of a ClientHello.
fn client_hello(gateway: &Gateway) -> Vec<u8> {
    let config = client_config(&gateway.ca(), ALL_VERSIONS);
    let name = "localhost".try_into().expect("a DNS name");
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("written");
    bytes
}

/// Opens a connection, says `bytes`, and leaves it at that.
async fn say(to: SocketAddr, from: IpAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = tcp(Some(from), to).await;
    // It may be closed by the time we write.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Waits until a metric is as wanted.
async fn metric(watcher: &mut Client, name: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    let topic = format!("$SYS/postern/{name}");
    watcher.subscribe(&topic, 0).await;
    let reading = async {
        loop {
            let message = watcher.receive().await;
            let value: u64 = message.text().parse().expect("a number");
            if message.topic == topic && wanted(value) {
                return value;
            }
        }
    };
    let value = within_time(&format!("{name} to be as wanted"), SOON, reading).await;
    watcher.unsubscribe(&[&topic]).await;
    value
}

/// Somebody who is connected already, from an address of its own.
async fn watcher(gateway: &Gateway) -> Client {
    let client = gateway.v5("watcher").await;
    assert_eq!(client.version, Version::V5);
    client
}

/// Lines of the log that contain `part`.
fn lines(gateway: &Gateway, part: &str) -> usize {
    let lines = gateway.process.log().lines();
    lines.iter().filter(|line| line.contains(part)).count()
}

/// Waits for a line of the log that contains `part`.
async fn logged(gateway: &Gateway, part: &str) {
    until(&format!("{part:?} in the log"), || {
        lines(gateway, part) >= 1
    })
    .await;
}
