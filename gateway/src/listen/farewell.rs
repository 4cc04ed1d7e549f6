//! How is a connection closed that nobody wants? So that its client sees an end and not a reset, which it might take for
//! a broken network and answer by coming back at once.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

/// Connections that are being closed: a bounded number, for a bounded time. Further ones are cut off.
#[derive(Debug, Clone)]
pub struct Farewells(Arc<Semaphore>);

/// Connections that are being closed at once; each costs a task and a socket.
const AT_ONCE: usize = 128;
/// Bytes of the client that are swallowed meanwhile: a ClientHello fits.
const SWALLOWED: u64 = 16 * 1024;

impl Default for Farewells {
    fn default() -> Self {
        Farewells(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Farewells {
    /// Closes our side now, and lets the client close its own.
    pub fn close(&self, mut stream: TcpStream) {
        let Ok(place) = self.0.clone().try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let leave = async {
                stream.shutdown().await?;
                // With bytes that were not read, closing would reset the connection.
                tokio::io::copy(&mut stream.take(SWALLOWED), &mut tokio::io::sink()).await
            };
            let _ = tokio::time::timeout(super::LINGER, leave).await;
            drop(place);
        });
    }
}
