//! Against tungstenite's client where it will say what the test needs, and against raw bytes where
//! it will not.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::*;

mod handshake;
mod stream;

const MAX_MESSAGE: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);

fn settings() -> WsSettings {
    WsSettings {
        paths: vec!["/mqtt".to_owned()],
        max_message: MAX_MESSAGE,
    }
}

fn request(lines: &str) -> String {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
}

/// A pair that has shaken hands, with `room` bytes of buffer between the ends.
async fn connected(room: usize) -> (WsStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (near, far) = duplex(room);
    let mut hello = "ws://h/mqtt".into_client_request().unwrap();
    hello
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    let settings = settings();
    let (server, client) = tokio::join!(
        accept(near, &settings),
        tokio_tungstenite::client_async(hello, far)
    );
    let (client, response) = client.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    (server.unwrap(), client)
}

/// A server stream past its handshake, and the raw end of a client that may send what it likes.
fn raw(room: usize) -> (WsStream<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(room);
    (
        WsStream::new(near, Subprotocol::Mqtt, Vec::new(), MAX_MESSAGE),
        far,
    )
}

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = vec![first];
    match payload.len() {
        short @ 0..126 => octets.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            octets.push(0x80 | 126);
            octets.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            octets.push(0x80 | 127);
            octets.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    octets.extend_from_slice(&mask);
    octets.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(octet, key)| octet ^ key),
    );
    octets
}

fn violation(error: &io::Error) -> CloseCode {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(WsError::Violation { code, .. }) => *code,
        _ => panic!("not a violation: {error}"),
    }
}
