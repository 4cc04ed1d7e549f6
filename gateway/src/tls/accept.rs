//! How does an accepted stream become a TLS stream? Reads the ClientHello, picks the listener's
//! configuration for it and completes the handshake. Deadlines and limits are `listen`'s.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::server::Acceptor;
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::acme::{self, Challenges};
use super::{
    ClientCertificate, ClientCertificateError, ClientTrust, ServerConfigs, client_hello_facts,
};

/// A TLS connection over `S`. `get_ref().1` tells what was negotiated.
pub type TlsStream<S> = tokio_rustls::server::TlsStream<Tap<S>>;

/// The server side of TLS for one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TlsAcceptor {
    configs: Arc<ServerConfigs>,
    local: Option<IpAddr>,
    clients: Option<Arc<ClientTrust>>,
    challenges: Option<Arc<Challenges>>,
}

impl TlsAcceptor {
    /// An acceptor for the listener whose configurations these are.
    pub fn new(configs: Arc<ServerConfigs>) -> Self {
        Self {
            configs,
            local: None,
            clients: None,
            challenges: None,
        }
    }

    /// The same, and answering the CA's TLS-ALPN-01 challenges.
    pub fn with_challenges(mut self, challenges: Arc<Challenges>) -> Self {
        self.challenges = Some(challenges);
        self
    }

    /// An acceptor for connections that came to this address: a client that sends no server name
    /// gets the certificate for it (rule C2).
    pub fn at(&self, local: IpAddr) -> Self {
        Self {
            local: Some(local),
            ..self.clone()
        }
    }

    /// What the listener trusts its clients by, if it asks for certificates.
    pub fn trust(&self) -> Option<&Arc<ClientTrust>> {
        self.clients.as_ref()
    }

    /// With what the listener trusts its clients by; its configurations ask for certificates.
    pub fn trusting(self, clients: Option<Arc<ClientTrust>>) -> Self {
        Self { clients, ..self }
    }

    /// The client's certificate, judged anew: a resumed handshake brings the chain of the first one
    /// back without asking whether it is still good (rule C1). To be called after every handshake.
    ///
    /// # Errors
    /// Why the client may not go on.
    pub fn client<S>(
        &self,
        stream: &TlsStream<S>,
    ) -> Result<Option<ClientCertificate>, ClientCertificateError> {
        let Some(trust) = &self.clients else {
            return Ok(None);
        };
        match stream.get_ref().1.peer_certificates() {
            Some(chain) => trust.identify(chain, UnixTime::now()).map(Some),
            None if trust.is_required() => Err(ClientCertificateError::Missing),
            None => Ok(None),
        }
    }

    /// Completes the server's handshake on `stream`. Reads at most 16 KiB before the ClientHello is
    /// complete. Sets no deadline: wrap it in one.
    ///
    /// A handshake that offers only `acme-tls/1` is the CA's (rule C2): it is carried through here
    /// with the challenge's certificate, closed, and given as an error that [`is_challenge`] knows.
    ///
    /// # Errors
    /// Whatever the stream or the handshake fails with; the client has then been sent the alert
    /// that rustls chose.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // The handshake's states are several KB; in a box, a connection's task does not keep room
        // for them as long as it lives.
        Box::pin(async { self.hello(stream).await?.finish().await }).await
    }

    /// The first part of [`Self::accept`]: reads the ClientHello, which costs next to nothing.
    ///
    /// # Errors
    /// As for [`Self::accept`].
    pub async fn hello<S>(&self, stream: S) -> io::Result<Hello<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let tap = Tap {
            inner: stream,
            record: Some(Vec::new()),
        };
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), tap).await?;
        let record = start.io.record.take().unwrap_or_default();
        if let Some(challenges) = &self.challenges
            && acme::is_validation(&start.client_hello())
        {
            return Err(challenges.answer(start).await);
        }
        let mut config = self.configs.for_client(&client_hello_facts(&record));
        if let Some(local) = self.local {
            config = self.configs.at(local, &start.client_hello(), config);
        }
        Ok(Hello { start, config })
    }
}

/// A client that has said its ClientHello, and the configuration that was picked for it.
pub struct Hello<S> {
    start: StartHandshake<Tap<S>>,
    config: Arc<ServerConfig>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Hello<S> {
    /// The second part of [`TlsAcceptor::accept`], which costs a signature and a key exchange.
    ///
    /// # Errors
    /// As for [`TlsAcceptor::accept`].
    pub async fn finish(self) -> io::Result<TlsStream<S>> {
        let Self { start, config } = self;
        start
            .into_stream_with(config, |connection| {
                connection.set_buffer_limit(Some(OUTGOING_LIMIT))
            })
            .await
    }
}

/// Whether an error of [`TlsAcceptor::accept`] only says that the CA has been answered: no failure of
/// a client (rule N1).
pub fn is_challenge(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.is::<acme::Answered>())
}

/// The longest ClientHello with its record headers, in bytes. The largest that clients send, with a
/// post-quantum key share, has about 2 KiB; rustls alone would keep 64 KiB for whoever connects.
const HELLO_MAX: usize = 16 * 1024;
/// What rustls may hold for a client that does not read, in bytes: one full record.
const OUTGOING_LIMIT: usize = 16 * 1024;

/// Keeps a copy of the bytes that are read until the ClientHello is complete; then it only passes
/// on.
#[derive(Debug)]
pub struct Tap<S> {
    inner: S,
    record: Option<Vec<u8>>,
}

impl<S> Tap<S> {
    /// The stream below TLS.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The stream below TLS. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if let Some(record) = &mut self.record {
            let read = &buf.filled()[start..];
            if record.len() + read.len() > HELLO_MAX {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the ClientHello is not complete after {HELLO_MAX} bytes"),
                )));
            }
            record.extend_from_slice(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
