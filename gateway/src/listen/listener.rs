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
use tracing::Instrument;

use super::{
    Context, ListenError,
    budget::Admission,
    driver,
    greeting::{self, Rejected},
    websocket::{self, WsSettings},
};
use crate::tls::TlsAcceptor;

/// What a listener does with the bytes of a connection before MQTT begins.
#[derive(Clone)]
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
    let listen = || -> io::Result<TcpListener> {
        let domain = if address.is_ipv6() {
            socket2::Domain::IPV6
        } else {
            socket2::Domain::IPV4
        };
        let socket =
            socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|cause| ListenError::Bind {
        name: name.to_owned(),
        address,
        cause,
    })
}

/// Connections that the kernel may hold for us; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Accepts until `stop` changes.
pub async fn run(
    listener: TcpListener,
    wrapping: Wrapping,
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

fn accept(stream: TcpStream, peer: SocketAddr, wrapping: &Wrapping, context: &Arc<Context>) {
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
    let span = tracing::debug_span!("connection", listener = %wrapping.name, %peer);
    tokio::spawn(serve(stream, wrapping.clone(), context.clone(), admission).instrument(span));
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

async fn serve(
    stream: TcpStream,
    wrapping: Wrapping,
    context: Arc<Context>,
    _admission: Admission,
) {
    // Each stage is boxed and gone before the next begins: a connection costs what it costs when it is idle.
    match wrapping.tls.clone() {
        None => unwrap(Box::pin(stream), wrapping, &context).await,
        Some(acceptor) => {
            if let Some(stream) = Box::pin(handshake(stream, acceptor, &context)).await {
                unwrap(stream, wrapping, &context).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    context: &Context,
) -> Option<Pin<Box<crate::tls::TlsStream<TcpStream>>>> {
    let limits = context.limits();
    // The wait for a place counts: a client does not know why we are slow.
    let outcome = tokio::time::timeout(limits.tls_timeout, async {
        let _place = context.handshakes.enter(limits.max_handshakes).await;
        let _counted = context.metrics.handshakes.during();
        acceptor.accept(stream).await
    })
    .await;
    match outcome {
        Ok(Ok(stream)) => return Some(Box::pin(stream)),
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("no TLS handshake within {:?}", limits.tls_timeout),
    }
    context.metrics.handshakes_failed.add(1);
    None
}

/// A future on the heap: stages differ in size, and what is over gives its memory back.
type Stage<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

fn unwrap<'a, S>(stream: Pin<Box<S>>, wrapping: Wrapping, context: &'a Context) -> Stage<'a>
where
    S: AsyncRead + AsyncWrite + Send + 'a,
{
    match wrapping.protocol {
        Protocol::Mqtt => Box::pin(talk(stream, context)),
        Protocol::WebSocket => Box::pin(async move {
            let limits = context.limits();
            let max_message = limits.max_packet_size.bytes();
            let settings = WsSettings {
                paths: wrapping.paths,
                max_message,
            };
            let upgraded = tokio::time::timeout(
                limits.connect_timeout,
                Box::pin(websocket::accept(stream, &settings)),
            )
            .await;
            match upgraded {
                Ok(Ok(stream)) => Box::pin(talk(Box::pin(stream), context)).await,
                Ok(Err(error)) => tracing::debug!(%error, "no WebSocket"),
                Err(_) => tracing::debug!("no WebSocket within {:?}", limits.connect_timeout),
            }
        }),
    }
}

/// MQTT, from CONNECT to the end.
async fn talk<S: AsyncRead + AsyncWrite>(mut stream: Pin<Box<S>>, context: &Context) {
    match Box::pin(greeting::greet(&mut stream, context)).await {
        Ok(welcome) => {
            tracing::debug!(client = %welcome.connection.session().client_id(), "connected");
            driver::drive(stream, welcome, context).await;
        }
        Err(Rejected::Closed) => {}
        Err(rejected) => tracing::info!(%rejected, "not connected"),
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
