//! One listening socket: accepts, and gives each connection a task of its own (nothing is awaited in the accept loop).

use std::{
    fmt::Display,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use broker_config::{IpNet, Protocol};
use rustls::HandshakeKind;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Context, LINGER, ListenError,
    budget::{Admission, Full},
    certificate::Presented,
    door::Turned,
    driver,
    greeting::{self, Rejected},
    lag::Verdict,
    opening::{self, Opening, Speech},
    prefix::Prefix,
    proxy::{self, ProxyError},
    turns::Delay,
    websocket::{self, WsError, WsSettings, WsStream},
};
use crate::tls::{TlsAcceptor, is_challenge};

/// What a listener does with the bytes of a connection before MQTT begins.
pub struct Wrapping {
    /// The listener's name in the configuration.
    pub name: Arc<str>,
    pub tls: Option<TlsAcceptor>,
    pub protocol: Protocol,
    /// URL paths of WebSocket.
    pub paths: Vec<String>,
    /// Whose connections begin with a PROXY header; with `None` nobody's do (N2).
    pub proxies: Option<Vec<IpNet>>,
}

/// Binds one address, IPv6 ones for IPv4 too where the address is unspecified (N3).
pub fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    listen(address).map_err(|cause| ListenError::Bind {
        name: name.to_owned(),
        address,
        cause,
    })
}

/// [`bind`] for what is no listener of the configuration.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv6() {
        socket2::Domain::IPV6
    } else {
        socket2::Domain::IPV4
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connections that the kernel may hold for us; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Connections accepted before everything else that is ready has its turn.
const IN_A_ROW: u32 = 8;

/// Accepts until `stop` changes.
pub async fn run(
    listener: TcpListener,
    wrapping: Arc<Wrapping>,
    context: Arc<Context>,
    mut stop: watch::Receiver<bool>,
) {
    let mut verdict = context.door.verdict();
    let (mut is_measured, mut in_a_row) = (true, 0);
    loop {
        let waits = is_measured && *verdict.borrow_and_update() == Verdict::Wait;
        let accepted = tokio::select! {
            accepted = listener.accept(), if !waits => accepted,
            changed = verdict.changed(), if is_measured => {
                is_measured = changed.is_ok();
                continue;
            }
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                accept(stream, peer, &wrapping, &context);
                in_a_row += 1;
                if in_a_row == IN_A_ROW {
                    in_a_row = 0;
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of file descriptors, most likely: there is nothing to do but to let some close.
                tracing::warn!(listener = %wrapping.name, %error, "accept failed; raise the limit on open files if this lasts");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn accept(stream: TcpStream, peer: SocketAddr, wrapping: &Arc<Wrapping>, context: &Arc<Context>) {
    let peer = SocketAddr::new(canonical(peer.ip()), peer.port());
    let admission = match admit(peer, wrapping, context) {
        Ok(admission) => admission,
        Err(refused) => {
            tracing::debug!(%peer, %refused, "connection refused");
            return context.farewells.close(stream);
        }
    };
    context.metrics.connections_accepted.add(1);
    if let Err(error) = prepare(&stream, context) {
        tracing::debug!(%peer, %error, "a socket could not be set up");
        return;
    }
    let guest = Guest {
        peer,
        wrapping: wrapping.clone(),
        context: context.clone(),
        admission,
    };
    tokio::spawn(guest.serve(stream));
}

/// Everything that can be said against a connection before a byte is read from it.
fn admit(peer: SocketAddr, wrapping: &Wrapping, context: &Context) -> Result<Admission, Refused> {
    let door = &context.door;
    if *door.verdict().borrow() == Verdict::Close {
        return Err(door.shed().into());
    }
    let Some(proxies) = &wrapping.proxies else {
        door.admit(peer.ip())?;
        let mut admission = place(context)?;
        settle(&mut admission, peer, context)?;
        return Ok(admission);
    };
    // Whose connection it is comes with the header.
    if !proxies.iter().any(|proxy| proxy.contains(&peer.ip())) {
        context.metrics.proxy_refused.add(1);
        door.complain(peer, &wrapping.name, &Refused::NoProxy);
        return Err(Refused::NoProxy);
    }
    place(context)
}

fn place(context: &Context) -> Result<Admission, Refused> {
    let admitted = context.admissions.admit(&context.limits());
    admitted.map_err(|full| refused(full, context))
}

fn settle(admission: &mut Admission, peer: SocketAddr, context: &Context) -> Result<(), Refused> {
    let settled = admission.settle(Prefix::from(peer.ip()), &context.limits());
    settled.map_err(|full| refused(full, context))
}

fn refused(full: Full, context: &Context) -> Refused {
    context.metrics.connections_refused.add(1);
    Refused::Full(full)
}

/// Why a connection is closed before anything is read from it, its PROXY header apart.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Turned(#[from] Turned),
    #[error(transparent)]
    Full(Full),
    #[error("it does not come from one of the listener's trusted_proxies")]
    NoProxy,
}

/// IPv4 addresses look like themselves on a dual-stack socket.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// TCP watches for dead peers where MQTT's keep alive does not (S3).
fn prepare(stream: &TcpStream, context: &Context) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let longest = context.registry.settings().max_keep_alive;
    let socket = SockRef::from(stream);
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(longest.max(Duration::from_secs(60))))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(longest + longest / 2))?;
    Ok(())
}

/// One accepted connection on its way to MQTT.
struct Guest {
    peer: SocketAddr,
    wrapping: Arc<Wrapping>,
    context: Arc<Context>,
    admission: Admission,
}

/// A future on the heap: stages differ in size, and what is over gives its memory back.
type Stage<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl Guest {
    async fn serve(mut self, mut stream: TcpStream) {
        let deadline = Instant::now() + self.context.limits().tls_timeout;
        if self.wrapping.proxies.is_some() && !Box::pin(self.introduce(&mut stream, deadline)).await
        {
            return self.context.farewells.close(stream);
        }
        // Each stage is boxed and gone before the next begins: a connection costs what it costs when it is idle.
        let stage = match &self.wrapping.tls {
            None => Box::pin(self.open(Box::pin(stream), None, None)).await,
            Some(acceptor) => match Box::pin(self.handshake(stream, acceptor, deadline)).await {
                None => None,
                Some(mut stream) => match self.client(&stream, acceptor) {
                    Ok(client) => {
                        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                        Box::pin(self.open(stream, alpn, client)).await
                    }
                    Err(()) => {
                        let _ = timeout(LINGER, stream.shutdown()).await;
                        None
                    }
                },
            },
        };
        if let Some(stage) = stage {
            stage.await;
        }
    }

    /// Has the proxy say whose connection this is, and asks at the door about that address.
    async fn introduce(&mut self, stream: &mut TcpStream, deadline: Instant) -> bool {
        let context = &self.context;
        let header = tokio::time::timeout_at(deadline, proxy::read(stream)).await;
        let complaint: &dyn Display = match &header {
            Ok(Ok(source)) => {
                if let Some(source) = source {
                    self.peer = SocketAddr::new(canonical(source.ip()), source.port());
                }
                let admitted = context.door.admit(self.peer.ip()).map_err(Refused::from);
                let settled =
                    admitted.and_then(|()| settle(&mut self.admission, self.peer, context));
                if let Err(refused) = &settled {
                    tracing::debug!(peer = %self.peer, %refused, "connection refused");
                }
                return settled.is_ok();
            }
            // A proxy that looks whether we are there.
            Ok(Err(ProxyError::Closed)) => return false,
            Ok(Err(error)) => error,
            Err(_) => &"it sent no PROXY header in time",
        };
        context.metrics.proxy_refused.add(1);
        context
            .door
            .complain(self.peer, &self.wrapping.name, complaint);
        false
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
        deadline: Instant,
    ) -> Option<Pin<Box<crate::tls::TlsStream<TcpStream>>>> {
        let (context, metrics) = (&self.context, &self.context.metrics);
        let acceptor = stream
            .local_addr()
            .map_or_else(|_| acceptor.clone(), |local| acceptor.at(local.ip()));
        let (progress, began) = (Progress::default(), Instant::now());
        // The wait for a place counts: a client does not know why we are slow.
        let agreed = timeout_at(deadline, self.agree(stream, &acceptor, &progress)).await;
        let unfinished = match agreed {
            Ok(Ok(stream)) => {
                match stream.get_ref().1.handshake_kind() {
                    Some(HandshakeKind::Resumed) => metrics.handshakes_resumed.add(1),
                    _ => metrics.handshakes_full.add(1),
                }
                return Some(Box::pin(stream));
            }
            Ok(Err(Unfinished::Failed(error))) if is_challenge(&error) => {
                // No failure, whatever came of it (N1).
                context.door.was_validation(self.peer.ip());
                tracing::debug!(peer = %self.peer, %error);
                return None;
            }
            Ok(Err(unfinished)) => unfinished,
            Err(_) => Unfinished::Late,
        };
        tracing::debug!(peer = %self.peer, %unfinished, "no TLS");
        metrics.handshakes_failed.add(1);
        if let Unfinished::Stalled = unfinished {
            metrics.handshakes_stalled.add(1);
        }
        if progress.blames_client(&unfinished, began.elapsed()) {
            context.door.failed(self.peer.ip());
        }
        None
    }

    /// The handshake itself. A place is taken when the ClientHello is there: who says nothing keeps nobody waiting.
    async fn agree(
        &self,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
        progress: &Progress,
    ) -> Result<crate::tls::TlsStream<TcpStream>, Unfinished> {
        let context = &self.context;
        let hello = context.turns.take(Box::pin(acceptor.hello(stream))).await;
        let hello = hello.map_err(Unfinished::Failed)?;
        let heard = *progress.heard.get_or_init(Instant::now);
        let limits = context.limits();
        let places = &context.handshakes;
        let patience = limits.tls_timeout / 2;
        let place = places
            .enter(self.peer.ip().into(), limits.max_handshakes, patience)
            .await;
        let _ = progress.waited.set(heard.elapsed());
        let _counted = context.metrics.handshakes.during();
        tokio::select! {
            finished = context.turns.take_noting(Box::pin(hello.finish()), &progress.turns) => finished.map_err(Unfinished::Failed),
            () = place.stalled() => Err(Unfinished::Stalled),
        }
    }

    /// The client's certificate, judged after every handshake, resumed ones included (C1).
    fn client(
        &self,
        stream: &crate::tls::TlsStream<TcpStream>,
        acceptor: &TlsAcceptor,
    ) -> Result<Option<Presented>, ()> {
        let generation = acceptor.trust().map_or(0, |trust| trust.generation());
        let client = acceptor.client(stream).map_err(|error| {
            let metrics = &self.context.metrics;
            metrics.client_certificates_refused.add(1);
            metrics.handshakes_failed.add(1);
            let door = &self.context.door;
            door.failed(self.peer.ip());
            door.complain(self.peer, &self.wrapping.name, &error);
        })?;
        let presented = acceptor.trust().zip(client);
        Ok(presented.map(|(trust, client)| Presented::new(trust, generation, client)))
    }

    /// From the first byte to MQTT: what comes next, unless nothing does. `alpn` is what the TLS handshake agreed on.
    async fn open<'a, S>(
        &'a self,
        mut stream: Pin<Box<S>>,
        alpn: Option<Vec<u8>>,
        client: Option<Presented>,
    ) -> Option<Stage<'a>>
    where
        S: AsyncRead + AsyncWrite + Send + 'a,
    {
        let time = self.context.limits().connect_timeout;
        let began = Instant::now();
        let mut opening = Box::new(Opening::until(began + time, client));
        let peer = self.peer;
        let speech = match opening::known(self.wrapping.protocol, alpn.as_deref()) {
            Some(speech) => speech,
            None => match timeout_at(opening.deadline, opening.listen(&mut stream)).await {
                Ok(Ok(None)) => {
                    if began.elapsed() >= Progress::PROMPT {
                        self.context.door.failed(peer.ip());
                    }
                    return None;
                }
                Ok(Ok(Some(speech))) => speech,
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "closed before its first byte");
                    return None;
                }
                Err(_) => {
                    let late = Rejected::Deadline(time);
                    self.broke_protocol();
                    self.context.door.complain(peer, &self.wrapping.name, &late);
                    return None;
                }
            },
        };
        match speech {
            Speech::Mqtt => Some(Box::pin(self.talk(stream, opening))),
            Speech::Http => {
                let stream = self.upgrade(stream, &mut opening).await?;
                Some(Box::pin(self.talk(stream, opening)))
            }
        }
    }

    async fn upgrade<S: AsyncRead + AsyncWrite>(
        &self,
        stream: Pin<Box<S>>,
        opening: &mut Opening,
    ) -> Option<Pin<Box<WsStream<Pin<Box<S>>>>>> {
        let limits = self.context.limits();
        let settings = WsSettings {
            paths: self.wrapping.paths.clone(),
            max_message: limits.max_packet_size.bytes(),
        };
        let first = std::mem::take(&mut opening.first).into();
        let accepted = Box::pin(websocket::accept_after(first, stream, &settings));
        let accepted = self.context.turns.take(accepted);
        let peer = self.peer;
        match timeout_at(opening.deadline, accepted).await {
            Ok(Ok(stream)) => return Some(Box::pin(stream)),
            Ok(Err(error @ (WsError::Io(_) | WsError::Left))) => {
                tracing::debug!(%peer, %error, "no WebSocket");
                return None;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no WebSocket"),
            Err(_) => tracing::debug!(%peer, "no WebSocket within {:?}", limits.connect_timeout),
        }
        self.broke_protocol();
        None
    }

    /// No CONNECT came, or something else did.
    fn broke_protocol(&self) {
        self.context.metrics.protocol_errors.add(1);
        self.context.door.failed(self.peer.ip());
    }

    /// MQTT, from CONNECT to the end.
    async fn talk<S: AsyncRead + AsyncWrite>(
        &self,
        mut stream: Pin<Box<S>>,
        opening: Box<Opening>,
    ) {
        let (peer, listener) = (self.peer, &self.wrapping.name);
        let began = Instant::now();
        let greeting = greeting::greet(&mut stream, opening, &self.context, peer.ip());
        match self.context.turns.take(Box::pin(greeting)).await {
            Ok(welcome) => {
                self.admission.connected();
                let session = welcome.connection.session();
                let (client, principal) = (session.client_id(), session.principal());
                tracing::info!(%peer, %listener, ?client, %principal, "connected");
                // Who needs no credentials vouches for no address.
                let door = &self.context.door;
                let _presence =
                    (!principal.anonymous).then(|| door.presence(peer.ip(), welcome.name.clone()));
                driver::drive(stream, welcome, &self.context, peer).await;
            }
            Err(Rejected::Left) => {}
            // Who only looks whether somebody is here leaves at once.
            Err(Rejected::Closed) if began.elapsed() < Progress::PROMPT => {}
            Err(Rejected::Closed) => self.context.door.failed(peer.ip()),
            Err(rejected) => {
                if let Rejected::Deadline(_) | Rejected::Packet(_) = rejected {
                    self.broke_protocol();
                }
                self.context.door.complain(peer, listener, &rejected);
            }
        }
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error("the handshake failed: {0}")]
    Failed(io::Error),
    #[error("the handshake stalled while others waited for a place")]
    Stalled,
    #[error("the handshake took too long")]
    Late,
}

/// How far a handshake came, and who was slow.
#[derive(Debug, Default)]
struct Progress {
    /// When the ClientHello was complete.
    heard: OnceLock<Instant>,
    /// How long it waited for a place then.
    waited: OnceLock<Duration>,
    /// And for turns after that.
    turns: Delay,
}

impl Progress {
    /// After this time a client may well think that nobody is here.
    const PROMPT: Duration = Duration::from_secs(1);

    /// Whether it counts as a failure of the client. That we are slow, after a restart with everybody at the door,
    /// must ban nobody.
    fn blames_client(&self, unfinished: &Unfinished, held: Duration) -> bool {
        let is_heard = self.heard.get().is_some();
        let had_turns = self.turns.get() < Self::PROMPT;
        let were_prompt = had_turns
            && self
                .waited
                .get()
                .is_some_and(|waited| *waited < Self::PROMPT);
        match unfinished {
            // Who leaves before its ClientHello looked whether somebody is here, unless it held its place for long. A
            // reset may have taken a ClientHello with it that we were slow to read.
            Unfinished::Failed(error) if !is_heard && has_left(error) => {
                held >= Self::PROMPT && error.kind() == io::ErrorKind::UnexpectedEof
            }
            Unfinished::Failed(error) if has_left(error) => were_prompt,
            Unfinished::Failed(_) => true,
            // Its place is younger than that: only turns can have kept it.
            Unfinished::Stalled => had_turns,
            Unfinished::Late => !is_heard || were_prompt,
        }
    }
}

fn has_left(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Errors of accept(2) that say something about one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
