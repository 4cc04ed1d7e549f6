//! How does MQTT travel over WebSocket? The opening handshake and a byte stream over binary frames
//! (RFC 6455; MQTT 5.0 and 3.1.1, section 6). Knows nothing of MQTT packets: a packet may span
//! frames and a frame may carry several (MQTT-6.0.0-2). Sockets, TLS and deadlines are its
//! neighbours'.
//!
//! Frames are decoded in place, in the buffer of whoever reads, and messages are never put together
//! here: a half-received message costs nothing, and an idle connection costs the size of
//! [`WsStream`] over what the stream below it costs (rule N4).

mod frame;
mod handshake;
mod stream;
#[cfg(test)]
mod tests;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

pub use frame::CloseCode;
pub use handshake::{Refusal, Subprotocol};
pub use stream::WsStream;

/// What a listener accepts as MQTT over WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WsSettings {
    /// The request paths that are MQTT endpoints, compared exactly and without the query. An empty
    /// list serves none.
    pub paths: Vec<String>,
    /// The largest WebSocket message in bytes, all its frames together; larger ones are answered
    /// with Close 1009. A client may put many MQTT packets into one message, so this is at least
    /// the largest MQTT packet.
    pub max_message: usize,
}

/// Why a WebSocket connection could not be had, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WsError {
    #[error("the stream broke during the WebSocket handshake: {0}")]
    Io(#[from] io::Error),

    #[error("the client left during the WebSocket handshake")]
    Left,

    /// The client has been sent the matching HTTP status.
    #[error("WebSocket handshake refused with status {}: {refusal}", refusal.status())]
    Refused { refusal: Refusal },

    /// The client broke RFC 6455 or section 6 of MQTT; it has been sent (or will be, at shutdown) a
    /// Close with `code`.
    #[error("WebSocket closed with {}: {problem}", code.as_u16())]
    Violation {
        code: CloseCode,
        problem: &'static str,
    },
}

/// Performs the server's opening handshake (RFC 6455, 4.2). Demands the subprotocol `mqtt`
/// (MQTT-6.0.0-3; `mqttv3.1` is taken as well, as older clients offer it) and reads at most 8 KiB.
/// Sets no deadline: wrap it in one.
///
/// The `Origin` header is ignored on purpose: a client proves who it is inside MQTT, with
/// credentials that a browser does not add by itself, so a foreign page gains nothing by
/// connecting.
///
/// # Errors
/// [`WsError::Refused`] after a proper HTTP answer, [`WsError::Left`] and [`WsError::Io`].
pub async fn accept<S>(stream: S, settings: &WsSettings) -> Result<WsStream<S>, WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    accept_after(Vec::new(), stream, settings).await
}

/// [`accept`] on a listener that has already read the `first` bytes of the request, to tell it from
/// an MQTT packet: a CONNECT begins with 0x10 and a request with `G`.
///
/// # Errors
/// As for [`accept`].
pub async fn accept_after<S>(
    first: Vec<u8>,
    mut stream: S,
    settings: &WsSettings,
) -> Result<WsStream<S>, WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opened = handshake::open(first, &mut stream, &settings.paths).await?;
    Ok(WsStream::new(
        stream,
        opened.subprotocol,
        opened.early,
        settings.max_message,
    ))
}
