//! What happens on one MQTT connection, byte by byte? A client that sends whatever it is told, answers only when
//! asked to, and waits with a deadline for everything.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::packet::{
    Ack, Codes, ConnAck, Connect, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish,
    Reason, Subscribe, Version, ack, unsubscribe,
};
use crate::scope::own_address;
use crate::tls::client_config;
use crate::wait::{DEADLINE, within, within_time};

/// A byte stream to the gateway.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub struct Client {
    stream: Box<dyn Stream>,
    pub version: Version,
    /// What the gateway answered to CONNECT.
    pub connack: ConnAck,
    /// Bytes that are not a whole packet yet, or not asked for.
    received: Vec<u8>,
    /// Received while something else was awaited.
    pending: VecDeque<Packet>,
    next_id: u16,
}

/// A TCP connection from `source`, or from an address nobody else uses.
pub async fn tcp(source: Option<IpAddr>, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let source = source.unwrap_or_else(own_address);
    socket
        .bind(SocketAddr::new(source, 0))
        .unwrap_or_else(|e| panic!("cannot bind {source}: {e}"));
    let stream = within("a TCP connection", socket.connect(to))
        .await
        .unwrap_or_else(|e| panic!("no way to {to}: {e}"));
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// A TLS connection to `to` as `localhost`, trusting `ca`.
pub async fn tls(
    to: SocketAddr,
    ca: &Path,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let connector = TlsConnector::from(client_config(ca, versions));
    let name = "localhost".try_into().expect("a DNS name");
    within(
        "a TLS handshake",
        connector.connect(name, tcp(None, to).await),
    )
    .await
    .expect("the handshake succeeds")
}

impl Client {
    /// A connection on which nothing was sent yet.
    pub fn over(stream: impl Stream + 'static, version: Version) -> Self {
        let connack = ConnAck {
            session_present: false,
            code: 0xFF,
            properties: Vec::new(),
        };
        Self {
            stream: Box::new(stream),
            version,
            connack,
            received: Vec::new(),
            pending: VecDeque::new(),
            next_id: 0,
        }
    }

    /// Sends CONNECT and reads CONNACK into `connack`, whatever it says.
    pub async fn connect(&mut self, connect: &Connect) {
        self.version = connect.version;
        self.send(&connect.bytes()).await;
        match self.packet().await {
            Packet::ConnAck(connack) => self.connack = connack,
            other => panic!("instead of CONNACK came {other:?}"),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes)
            .await
            .expect("the gateway reads what is sent");
    }

    /// Sends to a gateway that may have closed the connection already.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("the gateway to read", async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
    }

    /// The next packet as first byte and body, or nothing if the gateway closed the connection.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        within("a packet", self.read_frame()).await
    }

    /// Cancel-safe: what was read of a packet stays for the next call.
    async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((head, length)) = split(&self.received) {
                let mut packet: Vec<u8> = self.received.drain(..head + length).collect();
                let body = packet.split_off(head);
                return Some((packet[0], body));
            }
            let count = self.stream.read_buf(&mut self.received).await.ok()?;
            if count == 0 {
                return None;
            }
        }
    }

    /// The next packet, or nothing if the gateway closed the connection. Cancel-safe.
    pub async fn next(&mut self) -> Option<Packet> {
        if let Some(packet) = self.pending.pop_front() {
            return Some(packet);
        }
        let (first, body) = self.frame().await?;
        Some(Packet::parse(self.version, first, &body))
    }

    /// Like [`Client::next`], with a deadline of its own.
    pub async fn next_within(&mut self, what: &str, deadline: Duration) -> Option<Packet> {
        if let Some(packet) = self.pending.pop_front() {
            return Some(packet);
        }
        let (first, body) = within_time(what, deadline, self.read_frame()).await?;
        Some(Packet::parse(self.version, first, &body))
    }

    /// The next packet.
    pub async fn packet(&mut self) -> Packet {
        self.next()
            .await
            .expect("the gateway closed the connection instead of sending a packet")
    }

    /// The next PUBLISH, not answered. Cancel-safe.
    pub async fn message(&mut self) -> Publish {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("instead of PUBLISH came {other:?}"),
        }
    }

    /// The next PUBLISH, with its whole QoS exchange.
    pub async fn receive(&mut self) -> Publish {
        let publish = self.message().await;
        self.answer(&publish).await;
        publish
    }

    /// Finishes the QoS exchange of a received PUBLISH.
    pub async fn answer(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, publish.id)).await,
            _ => {
                self.send(&ack(PUBREC, publish.id)).await;
                let id = publish.id;
                self.wait_for("PUBREL", |p| matches!(p, Packet::PubRel(a) if a.id == id))
                    .await;
                self.send(&ack(PUBCOMP, publish.id)).await;
            }
        }
    }

    /// Everything received before a message on `end`, with its QoS exchanges. The proof that something did not come:
    /// a marker sent behind it came, and it was not before it.
    pub async fn receive_until(&mut self, end: &str) -> Vec<Publish> {
        let mut before = Vec::new();
        loop {
            let publish = self.receive().await;
            if publish.topic == end {
                return before;
            }
            before.push(publish);
        }
    }

    /// The first packet that fits, keeping all others for later.
    pub async fn wait_for(&mut self, what: &str, fits: impl Fn(&Packet) -> bool) -> Packet {
        if let Some(at) = self.pending.iter().position(&fits) {
            return self.pending.remove(at).expect("it is there");
        }
        loop {
            let Some((first, body)) = self.frame().await else {
                panic!(
                    "the gateway closed the connection instead of sending {what}; before: {:?}",
                    self.pending
                );
            };
            let packet = Packet::parse(self.version, first, &body);
            if fits(&packet) {
                return packet;
            }
            self.pending.push_back(packet);
        }
    }

    /// A packet identifier that this client has not used yet.
    pub fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Publishes and finishes the QoS exchange; the reason code of PUBACK or PUBREC (QoS 0 and v3: 0).
    pub async fn publish(&mut self, publish: Publish) -> u8 {
        let (qos, id) = self.start_publish(publish).await;
        match qos {
            0 => 0,
            1 => self.puback(id).await.code,
            _ => {
                let code = self.pubrec(id).await.code;
                if code < 0x80 {
                    self.send(&ack(PUBREL, id)).await;
                    self.wait_for("PUBCOMP", |p| matches!(p, Packet::PubComp(a) if a.id == id))
                        .await;
                }
                code
            }
        }
    }

    /// Sends PUBLISH alone; its QoS and packet identifier.
    pub async fn start_publish(&mut self, mut publish: Publish) -> (u8, u16) {
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.fresh_id();
        }
        self.send(&publish.bytes(self.version)).await;
        (publish.qos, publish.id)
    }

    pub async fn puback(&mut self, id: u16) -> Ack {
        match self
            .wait_for("PUBACK", |p| matches!(p, Packet::PubAck(a) if a.id == id))
            .await
        {
            Packet::PubAck(ack) => ack,
            _ => unreachable!("it fitted"),
        }
    }

    pub async fn pubrec(&mut self, id: u16) -> Ack {
        match self
            .wait_for("PUBREC", |p| matches!(p, Packet::PubRec(a) if a.id == id))
            .await
        {
            Packet::PubRec(ack) => ack,
            _ => unreachable!("it fitted"),
        }
    }

    /// Subscribes to one filter; its code in SUBACK.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let codes = self.subscribe_all(Subscribe::to(filter, options)).await;
        codes.codes[0]
    }

    /// Subscribes and returns SUBACK. Messages that come before it stay for later.
    pub async fn subscribe_all(&mut self, mut subscribe: Subscribe) -> Codes {
        if subscribe.id == 0 {
            subscribe.id = self.fresh_id();
        }
        self.send(&subscribe.bytes(self.version)).await;
        let id = subscribe.id;
        match self
            .wait_for("SUBACK", |p| matches!(p, Packet::SubAck(c) if c.id == id))
            .await
        {
            Packet::SubAck(codes) => {
                assert_eq!(
                    codes.codes.len(),
                    subscribe.filters.len(),
                    "one code for each filter"
                );
                codes
            }
            _ => unreachable!("it fitted"),
        }
    }

    /// Unsubscribes; the codes of UNSUBACK (none in v3).
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.fresh_id();
        self.send(&unsubscribe(self.version, id, filters)).await;
        match self
            .wait_for(
                "UNSUBACK",
                |p| matches!(p, Packet::UnsubAck(c) if c.id == id),
            )
            .await
        {
            Packet::UnsubAck(codes) => codes.codes,
            _ => unreachable!("it fitted"),
        }
    }

    /// PINGREQ and PINGRESP.
    pub async fn ping(&mut self) {
        self.send(&PINGREQ).await;
        self.wait_for("PINGRESP", |p| *p == Packet::PingResp).await;
    }

    /// Nothing came, and the connection is still up: the answer to a ping is the next packet.
    pub async fn nothing_came(&mut self) {
        self.send(&PINGREQ).await;
        assert_eq!(self.packet().await, Packet::PingResp);
    }

    /// The gateway closes the connection (v5: after DISCONNECT, which is returned) before `deadline`. Messages on
    /// their way before it are skipped.
    pub async fn end_within(&mut self, deadline: Duration) -> Option<Reason> {
        let mut reason = None;
        let start = Instant::now();
        while let Some(packet) = self
            .next_within(
                "the gateway to close the connection",
                deadline.saturating_sub(start.elapsed()),
            )
            .await
        {
            assert!(reason.is_none(), "after DISCONNECT came {packet:?}");
            if let Packet::Disconnect(disconnect) = packet {
                reason = Some(disconnect);
            }
        }
        reason
    }

    /// [`Client::end_within`] the usual deadline.
    pub async fn end(&mut self) -> Option<Reason> {
        self.end_within(DEADLINE).await
    }

    /// The reason code with which the gateway ends a v5 connection.
    pub async fn end_code(&mut self) -> u8 {
        self.end()
            .await
            .expect("the gateway sends DISCONNECT before it closes")
            .code
    }

    /// A normal DISCONNECT, and the end of the connection.
    pub async fn disconnect(mut self) {
        self.send(&[0xE0, 0x00]).await;
        assert_eq!(self.end().await, None, "no DISCONNECT answers a DISCONNECT");
    }

    /// Leaves in a way that keeps its will (DISCONNECT 0x04, MQTT-3.14.4-3), and returns when its session is without it.
    pub async fn leave_will(mut self) {
        self.send(&[0xE0, 1, 0x04]).await;
        self.end().await;
    }

    /// Ends the connection without a word: an abnormal end (MQTT 5.0, section 3.1.2.5).
    pub fn vanish(self) {
        drop(self);
    }
}

/// The lengths of the fixed header and of the rest, if `bytes` begin with a whole packet.
fn split(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (n, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            let head = n + 2;
            return (bytes.len() >= head + length).then_some((head, length));
        }
    }
    None
}
