//! How do bytes get to the server and back? One connection: TCP, TLS if asked for, CONNECT, then buffered packets in
//! both directions. What the packets are for is left to the clients.

use crate::error::LoadError;
use crate::options::{Account, TargetOptions};
use crate::tls::Tls;
use crate::wire::{self, ConnAck, Packet, Session, Version};
use rustls::HandshakeKind;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The longest wait for a server to close a connection that has ended.
const GONE: Duration = Duration::from_secs(5);

/// Everything a client needs to connect, resolved once per run.
pub struct Target {
    address: SocketAddr,
    sources: u16,
    pub tls: Option<Tls>,
    version: Version,
    accounts: Vec<Account>,
    keep_alive: u16,
    timeout: Duration,
}

/// What was negotiated, for the report: figures of different ciphers are not to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub tls_version: String,
    pub cipher_suite: String,
    pub key_exchange: String,
    pub resumed: bool,
}

/// An accepted connection.
pub struct Link {
    stream: Stream,
    version: Version,
    client: String,
    pub keep_alive: u16,
    pub receive_maximum: u16,
    /// The server had a session of this client.
    pub session_present: bool,
    inbound: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes to send; whatever is here goes out with the next [`Link::turn`].
    pub out: Vec<u8>,
    sent: usize,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Target {
    /// # Errors
    /// [`LoadError`] if the host has no address, or the options do not fit.
    pub async fn new(options: &TargetOptions) -> Result<Arc<Self>, LoadError> {
        let wanted = format!("{}:{}", options.host, options.port());
        let failed = |source| LoadError::Connect {
            client: "postern-load".to_owned(),
            step: "find",
            address: wanted.clone(),
            source,
        };
        let address = lookup_host((options.host.as_str(), options.port()))
            .await
            .map_err(failed)?
            .next()
            .ok_or_else(|| failed(io::Error::from(io::ErrorKind::NotFound)))?;
        Ok(Arc::new(Self {
            address,
            sources: options.sources,
            tls: Tls::new(options)?,
            version: options.version(),
            accounts: options.accounts()?,
            keep_alive: options.keep_alive,
            timeout: options.connect_timeout,
        }))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    fn account(&self, index: u32) -> Option<&Account> {
        let turn = (index as usize).checked_rem(self.accounts.len())?;
        self.accounts.get(turn)
    }

    /// 127.x.y.z for the client `index`: parties of their own for a server that limits by address.
    fn source(&self, index: u32) -> Option<IpAddr> {
        if self.sources == 0 {
            return None;
        }
        let n = index % u32::from(self.sources);
        Some(IpAddr::V4(Ipv4Addr::new(
            127,
            1,
            (n / 250) as u8,
            (n % 250 + 1) as u8,
        )))
    }
}

impl Link {
    /// Connects and logs in as the `index`th client of this run. `capacity` is the size of the largest packet that
    /// will be accepted, in bytes.
    ///
    /// # Errors
    /// [`LoadError`] if any step fails or all of them together take longer than the connect timeout.
    pub async fn open(
        target: &Target,
        tls: Option<&Tls>,
        client: String,
        session: Session,
        index: u32,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let timeout = target.timeout;
        let late = LoadError::Timeout {
            client: client.clone(),
            what: "no connection was accepted",
            seconds: timeout.as_secs_f64(),
        };
        tokio::time::timeout(
            timeout,
            Self::open_now(target, tls, client, session, index, capacity),
        )
        .await
        .unwrap_or(Err(late))
    }

    async fn open_now(
        target: &Target,
        tls: Option<&Tls>,
        client: String,
        session: Session,
        index: u32,
        capacity: usize,
    ) -> Result<Self, LoadError> {
        let failed = |step| {
            let (client, address) = (client.clone(), target.address.to_string());
            move |source| LoadError::Connect {
                client,
                step,
                address,
                source,
            }
        };
        let tcp = connect_tcp(target, index)
            .await
            .map_err(failed("connect to"))?;
        let stream = match tls {
            None => Stream::Plain(tcp),
            Some(tls) => {
                let connecting =
                    TlsConnector::from(tls.config.clone()).connect(tls.name.clone(), tcp);
                Stream::Tls(Box::new(
                    connecting.await.map_err(failed("start TLS with"))?,
                ))
            }
        };
        let mut link = Self {
            stream,
            version: target.version,
            client,
            keep_alive: target.keep_alive,
            receive_maximum: u16::MAX,
            session_present: false,
            inbound: vec![0; capacity],
            start: 0,
            end: 0,
            out: Vec::new(),
            sent: 0,
        };
        let login = target
            .account(index)
            .map(|account| (account.username.as_str(), account.password.as_deref()));
        wire::connect(
            &mut link.out,
            target.version,
            &link.client,
            session,
            login,
            target.keep_alive,
        );
        link.accepted().await?;
        Ok(link)
    }

    async fn accepted(&mut self) -> Result<(), LoadError> {
        let mut answer: Option<ConnAck> = None;
        while answer.is_none() {
            self.turn().await?;
            // What waited for a session that is taken up may follow at once: it is left for later.
            self.take_one(&mut |packet, _| match packet {
                Packet::ConnAck(ack) => {
                    answer = Some(ack);
                    Ok(())
                }
                other => Err(format!("{other:?} instead of CONNACK")),
            })?;
        }
        let Some(ack) = answer else {
            unreachable!("the loop ends with an answer")
        };
        if ack.code != 0 {
            return Err(LoadError::Refused {
                client: self.client.clone(),
                code: ack.code,
            });
        }
        self.receive_maximum = ack.receive_maximum;
        self.session_present = ack.session_present;
        self.keep_alive = ack.server_keep_alive.unwrap_or(self.keep_alive);
        Ok(())
    }

    pub fn client(&self) -> &str {
        &self.client
    }

    /// `None` on a plain connection.
    pub fn negotiated(&self) -> Option<Negotiated> {
        let Stream::Tls(stream) = &self.stream else {
            return None;
        };
        let session = stream.get_ref().1;
        Some(Negotiated {
            tls_version: session
                .protocol_version()
                .map(|v| format!("{v:?}"))
                .unwrap_or_default(),
            cipher_suite: session
                .negotiated_cipher_suite()
                .map(|s| format!("{:?}", s.suite()))
                .unwrap_or_default(),
            key_exchange: session
                .negotiated_key_exchange_group()
                .map(|g| format!("{:?}", g.name()))
                .unwrap_or_default(),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }

    /// Moves bytes: returns when something was read, or when everything in `out` has been written. Nothing is lost if
    /// the future is dropped. Reading and writing never wait for each other, so neither side can block the other.
    ///
    /// # Errors
    /// [`LoadError::Broken`] if the connection ends.
    pub async fn turn(&mut self) -> Result<(), LoadError> {
        poll_fn(|cx| self.poll_turn(cx))
            .await
            .map_err(|source| LoadError::Broken {
                client: self.client.clone(),
                source,
            })
    }

    /// Hands every complete packet that was read to `take`, with the buffer for answers.
    ///
    /// # Errors
    /// [`LoadError`] for malformed packets, for DISCONNECT, and for what `take` refuses.
    pub fn drain(
        &mut self,
        mut take: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), LoadError> {
        while self.take_one(&mut take)? {}
        Ok(())
    }

    /// Hands on the next packet; `false` if none is complete.
    fn take_one(
        &mut self,
        take: &mut impl FnMut(Packet<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<bool, LoadError> {
        let bytes = &self.inbound[self.start..self.end];
        let client = || self.client.clone();
        match wire::decode(self.version, bytes, self.inbound.len()) {
            Ok(None) => Ok(false),
            Ok(Some((Packet::Disconnect { code }, _))) => Err(LoadError::Disconnected {
                client: client(),
                code,
            }),
            Ok(Some((packet, size))) => {
                take(packet, &mut self.out).map_err(|what| LoadError::Protocol {
                    client: client(),
                    what,
                })?;
                self.start += size;
                Ok(true)
            }
            Err(source) => Err(LoadError::Wire {
                client: client(),
                source,
            }),
        }
    }

    /// Sends what is left, DISCONNECT and, over TLS, close_notify. Errors are of no interest any more.
    pub async fn close(mut self) {
        self.disconnect().await;
    }

    /// Closes, and waits up to [`GONE`] for the server to do the same: from then on it knows that the client is away.
    pub async fn leave(mut self) {
        self.disconnect().await;
        let end = async {
            match &mut self.stream {
                Stream::Plain(tcp) => read_to_the_end(tcp).await,
                Stream::Tls(tls) => read_to_the_end(tls.as_mut()).await,
            }
        };
        let _ = tokio::time::timeout(GONE, end).await;
    }

    async fn disconnect(&mut self) {
        wire::disconnect(&mut self.out);
        let rest = &self.out[self.sent..];
        let _ = match &mut self.stream {
            Stream::Plain(tcp) => write_and_shut(tcp, rest).await,
            Stream::Tls(tls) => write_and_shut(tls.as_mut(), rest).await,
        };
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wrote_all = match self.poll_write_out(cx) {
            Poll::Ready(result) => result?,
            Poll::Pending => false,
        };
        match self.poll_read_in(cx) {
            Poll::Pending if wrote_all => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Ready(true) if there was something to write and now nothing is left of it.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(false));
        }
        let mut stream = self.stream.pin();
        while self.sent < self.out.len() {
            match ready!(stream.as_mut().poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        ready!(stream.as_mut().poll_flush(cx))?;
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(true))
    }

    fn poll_read_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.start > 0 {
            self.inbound.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut space = ReadBuf::new(&mut self.inbound[self.end..]);
        ready!(self.stream.pin().poll_read(cx, &mut space))?;
        match space.filled().len() {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            n => {
                self.end += n;
                Poll::Ready(Ok(()))
            }
        }
    }
}

async fn write_and_shut(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await
}

async fn read_to_the_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut unwanted = [0; 1024];
    while matches!(stream.read(&mut unwanted).await, Ok(1..)) {}
}

async fn connect_tcp(target: &Target, index: u32) -> io::Result<TcpStream> {
    let socket = if target.address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = target.source(index) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let tcp = socket.connect(target.address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A stream with both directions, whatever is below.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Stream {
    fn pin(&mut self) -> Pin<&mut dyn Duplex> {
        Pin::new(match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.as_mut(),
        })
    }
}
