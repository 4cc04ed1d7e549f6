//! What goes over the wire in WebSocket? Frames of RFC 6455 written by hand, so that tests can cut and join them as
//! they please, and the upgrade request as text.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::tls;
use crate::property::Reader;
use crate::tls::ALL_VERSIONS;
use crate::wait::within;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One end of a WebSocket over TLS.
pub struct Socket {
    stream: TlsStream<TcpStream>,
}

/// A frame as received.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub last: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame (RFC 6455, section 7.4).
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "a close frame is wanted: {self:?}");
        Reader(&self.payload).two()
    }
}

/// Sends one HTTP request over TLS; the status and the headers of the answer, and the open connection.
pub async fn request(
    to: SocketAddr,
    ca: &Path,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, Socket) {
    request_over(tls(to, ca, ALL_VERSIONS).await, path, headers).await
}

/// [`request`] on a connection that is there.
pub async fn request_over(
    mut stream: TlsStream<TcpStream>,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, Socket) {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream
        .write_all(text.as_bytes())
        .await
        .expect("the request is read");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = within("the answer to an HTTP request", stream.read_u8()).await;
        head.push(
            byte.unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&head))),
        );
    }
    let head = String::from_utf8(head).expect("HTTP is text");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("no status: {head}"));
    (status, head, Socket { stream })
}

/// The headers of a proper upgrade, with `protocol` as the subprotocol.
pub fn upgrade(protocol: &str) -> Vec<(&str, &str)> {
    vec![
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        // The example of RFC 6455, section 1.3, with its answer s3pPLMBiTxaQ9kYGzzhZRbK+xOo=.
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", protocol),
    ]
}

impl Socket {
    /// An upgraded connection with the subprotocol `mqtt`.
    pub async fn open(to: SocketAddr, ca: &Path) -> Self {
        let (status, head, socket) = request(to, ca, "/mqtt", &upgrade("mqtt")).await;
        assert_eq!(status, 101, "{head}");
        assert!(
            head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "the accept key is wrong: {head}"
        );
        socket
    }

    /// A connection that somebody else has upgraded.
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream }
    }

    /// Sends one masked frame.
    pub async fn send(&mut self, last: bool, opcode: u8, payload: &[u8]) {
        let mut frame = vec![u8::from(last) << 7 | opcode];
        match payload.len() {
            n @ 0..=125 => frame.push(0x80 | n as u8),
            n @ 126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend((n as u16).to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend((n as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        frame.extend(mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        self.stream
            .write_all(&frame)
            .await
            .expect("the frame is read");
        self.stream.flush().await.expect("the frame is read");
    }

    /// The next frame, or nothing if the connection ended.
    pub async fn next(&mut self) -> Option<Frame> {
        within("a WebSocket frame", self.read()).await
    }

    async fn read(&mut self) -> Option<Frame> {
        let first = self.stream.read_u8().await.ok()?;
        let second = self.stream.read_u8().await.ok()?;
        assert_eq!(second & 0x80, 0, "a server never masks");
        let length = match second {
            126 => self.stream.read_u16().await.ok()?.into(),
            127 => self.stream.read_u64().await.ok()? as usize,
            n => n.into(),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            last: first & 0x80 != 0,
            opcode: first & 0x0F,
            payload,
        })
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Frame {
        self.next()
            .await
            .expect("the gateway closed the connection instead of sending a frame")
    }

    /// Collects the payloads of binary frames until `length` bytes are there.
    pub async fn binary(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let frame = self.frame().await;
            assert!(
                matches!(frame.opcode, BINARY | CONTINUATION),
                "instead of MQTT came {frame:?}"
            );
            bytes.extend(frame.payload);
        }
        bytes
    }
}
