//! One listening socket: accepts, and gives each connection a task of its own (nothing is awaited in the accept loop).

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use broker_config::Protocol;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    Context, ListenError,
    budget::Admission,
    driver,
    greeting::{self, Rejected},
    websocket::{self, WsSettings, WsStream},
};
use crate::tls::{TlsAcceptor, is_challenge};

/// What a listener does with the bytes of a connection before MQTT begins.
pub struct Wrapping {
    /// The listener's name in the configuration.
    pub name: Arc<str>,
    pub tls: Option<TlsAcceptor>,
    pub protocol: Protocol,
    /// URL paths of a WebSocket listener.
    pub paths: Vec<String>,
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

/// Accepts until `stop` changes.
pub async fn run(
    listener: TcpListener,
    wrapping: Arc<Wrapping>,
    context: Arc<Context>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((stream, peer)) => accept(stream, peer, &wrapping, &context),
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
    let address = canonical(peer.ip());
    let limits = context.limits();
    let admitted = context.admissions.admit(
        address,
        limits.max_connections,
        limits.max_connections_per_address,
    );
    let Some(admission) = admitted else {
        context.metrics.connections_refused.add(1);
        tracing::debug!(%address, "connection refused: a limit on connections is reached");
        return;
    };
    context.metrics.connections_accepted.add(1);
    if let Err(error) = prepare(&stream, context) {
        tracing::debug!(%address, %error, "a socket could not be set up");
        return;
    }
    let guest = Guest {
        peer: SocketAddr::new(address, peer.port()),
        wrapping: wrapping.clone(),
        context: context.clone(),
        _admission: admission,
    };
    tokio::spawn(guest.serve(stream));
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
    _admission: Admission,
}

/// A future on the heap: stages differ in size, and what is over gives its memory back.
type Stage<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl Guest {
    async fn serve(self, stream: TcpStream) {
        // Each stage is boxed and gone before the next begins: a connection costs what it costs when it is idle.
        match &self.wrapping.tls {
            None => self.unwrap(Box::pin(stream)).await,
            Some(acceptor) => {
                if let Some(stream) = Box::pin(self.handshake(stream, acceptor)).await {
                    self.unwrap(stream).await;
                }
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
    ) -> Option<Pin<Box<crate::tls::TlsStream<TcpStream>>>> {
        let (limits, metrics) = (self.context.limits(), &self.context.metrics);
        let acceptor = stream
            .local_addr()
            .map_or_else(|_| acceptor.clone(), |local| acceptor.at(local.ip()));
        // The wait for a place counts: a client does not know why we are slow.
        let outcome = tokio::time::timeout(limits.tls_timeout, async {
            let places = &self.context.handshakes;
            let _place = places.enter(self.peer.ip(), limits.max_handshakes).await;
            let _counted = metrics.handshakes.during();
            acceptor.accept(stream).await
        })
        .await;
        let peer = self.peer;
        match outcome {
            Ok(Ok(stream)) => return Some(Box::pin(stream)),
            Ok(Err(error)) if is_challenge(&error) => {
                // No failure, whatever came of it (N1).
                tracing::debug!(%peer, %error);
                return None;
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "no TLS handshake within {:?}", limits.tls_timeout),
        }
        metrics.handshakes_failed.add(1);
        None
    }

    fn unwrap<'a, S>(&'a self, stream: Pin<Box<S>>) -> Stage<'a>
    where
        S: AsyncRead + AsyncWrite + Send + 'a,
    {
        match self.wrapping.protocol {
            Protocol::Mqtt => Box::pin(self.talk(stream)),
            Protocol::WebSocket => Box::pin(async move {
                if let Some(stream) = Box::pin(self.upgrade(stream)).await {
                    self.talk(stream).await;
                }
            }),
        }
    }

    async fn upgrade<S: AsyncRead + AsyncWrite>(
        &self,
        stream: Pin<Box<S>>,
    ) -> Option<Pin<Box<WsStream<Pin<Box<S>>>>>> {
        let limits = self.context.limits();
        let settings = WsSettings {
            paths: self.wrapping.paths.clone(),
            max_message: limits.max_packet_size.bytes(),
        };
        let accepted = websocket::accept(stream, &settings);
        let peer = self.peer;
        match tokio::time::timeout(limits.connect_timeout, accepted).await {
            Ok(Ok(stream)) => return Some(Box::pin(stream)),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no WebSocket"),
            Err(_) => tracing::debug!(%peer, "no WebSocket within {:?}", limits.connect_timeout),
        }
        None
    }

    /// MQTT, from CONNECT to the end.
    async fn talk<S: AsyncRead + AsyncWrite>(&self, mut stream: Pin<Box<S>>) {
        let (peer, listener) = (self.peer, &self.wrapping.name);
        match Box::pin(greeting::greet(&mut stream, &self.context)).await {
            Ok(welcome) => {
                let session = welcome.connection.session();
                let (client, principal) = (session.client_id(), session.principal());
                tracing::info!(%peer, %listener, ?client, %principal, "connected");
                driver::drive(stream, welcome, &self.context, peer).await;
            }
            Err(Rejected::Closed) => {}
            Err(rejected) => tracing::info!(%peer, %listener, %rejected, "not connected"),
        }
    }
}

/// Errors of accept(2) that say something about one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
