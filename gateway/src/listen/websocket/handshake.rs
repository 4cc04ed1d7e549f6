//! Is this HTTP request a WebSocket for MQTT? Reads one request head, and answers it.

use std::fmt;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::WsError;

/// The largest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// The subprotocol that both sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subprotocol {
    /// `mqtt`, of MQTT 3.1.1 and 5.0.
    Mqtt,
    /// `mqttv3.1`, which older clients offer. The CONNECT packet alone decides the version of MQTT.
    MqttV31,
}

impl Subprotocol {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::MqttV31 => "mqttv3.1",
        }
    }
}

/// Why a request is not answered with 101. Its text is the body of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    NoHost,
    Method,
    HttpVersion,
    HeadTooLarge,
    NotFound,
    NotAnUpgrade,
    WebSocketVersion,
    Key,
    Subprotocol,
}

impl Refusal {
    /// The HTTP status code (RFC 9110, 15).
    pub fn status(self) -> u16 {
        self.answer().0
    }

    fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "Bad Request", "not an HTTP/1.1 request"),
            Self::NoHost => (400, "Bad Request", "one Host header is needed"),
            Self::Method => (405, "Method Not Allowed", "only GET is served here"),
            Self::HttpVersion => (505, "HTTP Version Not Supported", "HTTP/1.1 is needed"),
            Self::HeadTooLarge => (
                431,
                "Request Header Fields Too Large",
                "the request head is over 8 KiB",
            ),
            Self::NotFound => (404, "Not Found", "no MQTT endpoint at this path"),
            Self::NotAnUpgrade => (426, "Upgrade Required", "this is MQTT over WebSocket"),
            Self::WebSocketVersion => (426, "Upgrade Required", "WebSocket version 13 is needed"),
            Self::Key => (
                400,
                "Bad Request",
                "Sec-WebSocket-Key must be 16 bytes in base64",
            ),
            Self::Subprotocol => (
                400,
                "Bad Request",
                "the WebSocket subprotocol mqtt is needed",
            ),
        }
    }

    fn extra_headers(self) -> &'static str {
        match self {
            Self::Method => "Allow: GET\r\nConnection: close\r\n",
            Self::NotAnUpgrade | Self::WebSocketVersion => {
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n"
            }
            _ => "Connection: close\r\n",
        }
    }

    fn response(self) -> Vec<u8> {
        let (status, reason, text) = self.answer();
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             {}\r\n{text}\n",
            text.len() + 1,
            self.extra_headers(),
        )
        .into_bytes()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.answer().2)
    }
}

/// A handshake that came through.
pub(super) struct Opened {
    pub subprotocol: Subprotocol,
    /// What the client sent behind its request; frames, if it did not wait for the answer.
    pub early: Vec<u8>,
}

/// Reads the request, and answers it with 101 or a refusal.
///
/// # Errors
/// As for [`super::accept`].
pub(super) async fn open<S>(
    first: Vec<u8>,
    stream: &mut S,
    paths: &[String],
) -> Result<Opened, WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let verdict = match read_head(first, stream).await? {
        Some((head, early)) => judge(&head, paths).map(|accepted| (accepted, early)),
        None => Err(Refusal::HeadTooLarge),
    };
    match verdict {
        Ok((accepted, early)) => {
            stream.write_all(&accepted.response).await?;
            stream.flush().await?;
            Ok(Opened {
                subprotocol: accepted.subprotocol,
                early,
            })
        }
        Err(refusal) => {
            stream.write_all(&refusal.response()).await?;
            stream.shutdown().await?;
            Err(WsError::Refused { refusal })
        }
    }
}

/// The request head with its empty line, and what came behind it; `None` if it is too large.
async fn read_head<S>(
    mut head: Vec<u8>,
    stream: &mut S,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, WsError>
where
    S: AsyncRead + Unpin,
{
    const END: &[u8] = b"\r\n\r\n";
    let mut limited = stream.take(MAX_HEAD.saturating_sub(head.len()) as u64);
    let mut searched = 0;
    loop {
        if let Some(at) = head[searched..]
            .windows(END.len())
            .position(|window| window == END)
        {
            let early = head.split_off(searched + at + END.len());
            return Ok(Some((head, early)));
        }
        // Only what is new is searched, so that one byte at a time costs no more than all at once.
        searched = head.len().saturating_sub(END.len() - 1);
        head.reserve(512);
        if limited.read_buf(&mut head).await? == 0 {
            return if limited.limit() == 0 {
                Ok(None)
            } else {
                Err(WsError::Left)
            };
        }
    }
}

struct Accepted {
    response: Vec<u8>,
    subprotocol: Subprotocol,
}

fn judge(head: &[u8], paths: &[String]) -> Result<Accepted, Refusal> {
    let request = match Request::try_parse(head) {
        Ok(Some((_, request))) => request,
        Ok(None) => return Err(Refusal::Malformed),
        Err(error) => return Err(refusal(&error)),
    };
    if request.headers().get_all("Host").iter().count() != 1 {
        return Err(Refusal::NoHost);
    }
    if !paths.iter().any(|path| path == request.uri().path()) {
        return Err(Refusal::NotFound);
    }
    let mut response = create_response(&request).map_err(|error| refusal(&error))?;
    let subprotocol = subprotocol(&request).ok_or(Refusal::Subprotocol)?;
    response.headers_mut().insert(
        "Sec-WebSocket-Protocol",
        HeaderValue::from_static(subprotocol.as_str()),
    );
    let mut octets = Vec::with_capacity(256);
    write_response(&mut octets, &response).map_err(|_| Refusal::Malformed)?;
    Ok(Accepted {
        response: octets,
        subprotocol,
    })
}

/// Several header lines are one list (RFC 6455, 11.3.4); names are case-sensitive.
fn subprotocol(request: &Request) -> Option<Subprotocol> {
    let lines = request.headers().get_all("Sec-WebSocket-Protocol");
    let offered = |wanted: Subprotocol| {
        lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .any(|name| name.trim() == wanted.as_str())
    };
    [Subprotocol::Mqtt, Subprotocol::MqttV31]
        .into_iter()
        .find(|wanted| offered(*wanted))
}

fn refusal(error: &Error) -> Refusal {
    match error {
        Error::Protocol(problem) => match problem {
            ProtocolError::WrongHttpMethod => Refusal::Method,
            ProtocolError::WrongHttpVersion => Refusal::HttpVersion,
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader => Refusal::NotAnUpgrade,
            ProtocolError::MissingSecWebSocketVersionHeader => Refusal::WebSocketVersion,
            ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey => {
                Refusal::Key
            }
            _ => Refusal::Malformed,
        },
        _ => Refusal::Malformed,
    }
}
