//! MQTT over WebSocket, from the opening handshake to the last frame: no bytes make it panic, hang or invent payload,
//! and how they are split makes no difference.
//!
//! The top bit of the first byte puts a good request before the rest, so that a run from an empty corpus gets to the
//! frames at once; the next bit chooses a small limit on messages. The second byte says where the stream is split.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, join, sink};
use tokio::runtime::Runtime;

#[allow(dead_code, unused_imports)]
#[path = "../../gateway/src/listen"]
mod listen {
    pub mod websocket;
}

use listen::websocket::{WsSettings, accept};

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        const { LazyCell::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime")) };
}

fuzz_target!(|input: &[u8]| {
    let [choice, split, rest @ ..] = input else {
        return;
    };
    let stream = &match choice & 0x80 {
        0 => rest.to_vec(),
        _ => [REQUEST, rest].concat(),
    };
    let settings = WsSettings {
        paths: vec!["/mqtt".to_owned()],
        max_message: if choice & 0x40 == 0 { 1 << 20 } else { 16 },
    };
    // Behind a good request, or in the raw stream.
    let at = match choice & 0x80 {
        0 => usize::from(*split),
        _ => REQUEST.len() + usize::from(*split),
    };
    let whole = read(&settings, stream, &[]);
    let (left, right) = stream.split_at(at.min(stream.len()));
    assert_eq!(whole, read(&settings, left, right));
    assert!(whole.payload.len() <= rest.len());
});

#[derive(Debug, PartialEq)]
struct Outcome {
    payload: Vec<u8>,
    error: Option<String>,
}

/// What a client gets through that sends `left`, then `right`, then nothing more.
fn read(settings: &WsSettings, left: &[u8], right: &[u8]) -> Outcome {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let mut payload = Vec::new();
            let mut stream = match accept(join(left.chain(right), sink()), settings).await {
                Ok(stream) => stream,
                Err(error) => {
                    return Outcome {
                        payload,
                        error: Some(error.to_string()),
                    };
                }
            };
            let error = stream.read_to_end(&mut payload).await.err();
            stream.shutdown().await.expect("a sink takes everything");
            Outcome {
                payload,
                error: error.map(|error| error.to_string()),
            }
        })
    })
}
