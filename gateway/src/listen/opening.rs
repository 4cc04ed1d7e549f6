//! What does this client speak, MQTT or HTTP? Told by its ALPN or by its first byte. What follows from the answer is
//! `listener`'s.

use std::io;

use broker_config::Protocol;
use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::{certificate::Presented, greeting::READ};
use crate::tls::Alpn;

/// What a client is about to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    Mqtt,
    /// A request to upgrade to WebSocket, or whatever else an HTTP client wants.
    Http,
}

/// The time until CONNECT, and what was learned on the way there.
pub struct Opening {
    /// When CONNECT must be complete.
    pub deadline: Instant,
    /// The first bytes of the client, if they had to be looked at.
    pub first: BytesMut,
    /// The certificate that the client presented.
    pub client: Option<Presented>,
}

impl Opening {
    pub fn until(deadline: Instant, client: Option<Presented>) -> Opening {
        Opening {
            deadline,
            first: BytesMut::new(),
            client,
        }
    }

    /// Waits for the first byte, and keeps it; `None` if the client closes instead. Sets no deadline.
    ///
    /// A CONNECT begins with 0x10, and nothing else may come first. An HTTP request begins with a capital letter, and
    /// no client means one of those as MQTT.
    pub async fn listen<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> io::Result<Option<Speech>> {
        self.first.reserve(READ);
        stream.read_buf(&mut self.first).await?;
        Ok(self.first.first().map(|byte| match byte {
            b'A'..=b'Z' => Speech::Http,
            _ => Speech::Mqtt,
        }))
    }
}

/// What a listener of this protocol already knows before the client says anything; `alpn` is what the TLS handshake
/// agreed on.
pub fn known(protocol: Protocol, alpn: Option<&[u8]>) -> Option<Speech> {
    match (protocol, alpn) {
        (Protocol::Mqtt, _) => Some(Speech::Mqtt),
        (Protocol::WebSocket, _) => Some(Speech::Http),
        (Protocol::Any, Some(name)) if name == Alpn::MQTT => Some(Speech::Mqtt),
        (Protocol::Any, Some(name)) if name == Alpn::HTTP => Some(Speech::Http),
        (Protocol::Any, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_byte_decides_and_nothing_of_it_is_lost() {
        for (sent, speech) in [
            (&b"\x10\x0c\0\x04MQTT"[..], Some(Speech::Mqtt)),
            (b"\x10", Some(Speech::Mqtt)),
            (b"GET / HTTP/1.1\r\n", Some(Speech::Http)),
            (b"G", Some(Speech::Http)),
            (b"POST / HTTP/1.1\r\n", Some(Speech::Http)),
            // Not MQTT either; the decoder says so.
            (b"\x16\x03\x01", Some(Speech::Mqtt)),
            (b"get /", Some(Speech::Mqtt)),
            (b"", None),
        ] {
            let mut opening = Opening::until(Instant::now(), None);
            let mut stream = sent;
            assert_eq!(opening.listen(&mut stream).await.unwrap(), speech);
            assert_eq!([&opening.first[..], stream].concat(), sent);
        }
    }

    #[test]
    fn alpn_decides_where_the_listener_leaves_it_open() {
        use Protocol::{Any, Mqtt, WebSocket};
        for (protocol, alpn, speech) in [
            (Any, None, None),
            (Any, Some(&b"mqtt"[..]), Some(Speech::Mqtt)),
            (Any, Some(b"http/1.1"), Some(Speech::Http)),
            (Mqtt, None, Some(Speech::Mqtt)),
            (WebSocket, None, Some(Speech::Http)),
        ] {
            assert_eq!(known(protocol, alpn), speech, "{protocol:?} {alpn:?}");
        }
    }
}
