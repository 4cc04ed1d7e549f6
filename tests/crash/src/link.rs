//! How does a client talk to a gateway that may die at any moment? A connection whose every step may find it gone.

use std::time::Duration;

use postern_tests::packet::{ConnAck, Version};
use postern_tests::{Connect, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::world::World;

/// The connection is gone. The crash may have taken it, so it is never an error by itself.
#[derive(Debug)]
pub struct Gone;

/// How long an answer may take before the connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(10);

pub struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: Vec<u8>,
    version: Version,
    cut: watch::Receiver<u64>,
}

impl Link {
    /// Tries until the gateway lets the client in, or the run is over.
    pub async fn open(world: &World, connect: &Connect) -> Option<(Self, ConnAck)> {
        let connect = world.login(connect.clone());
        loop {
            if !world.may_connect().await {
                return None;
            }
            match Self::try_open(world, &connect).await {
                Ok((link, connack)) if connack.code == 0 => return Some((link, connack)),
                _ => sleep(RETRY).await,
            }
        }
    }

    /// One attempt, whatever the answer is.
    pub async fn try_open(world: &World, connect: &Connect) -> Result<(Self, ConnAck), Gone> {
        let cut = world.watch_cuts();
        let stream = TcpStream::connect(world.address).await.map_err(|_| Gone)?;
        stream.set_nodelay(true).map_err(|_| Gone)?;
        let (reader, writer) = stream.into_split();
        let mut link = Self {
            reader,
            writer,
            buffer: Vec::new(),
            version: connect.version,
            cut,
        };
        link.send(&connect.bytes()).await?;
        match timeout(PATIENCE, link.next()).await {
            Ok(Ok(Packet::ConnAck(connack))) => Ok((link, connack)),
            Ok(Ok(other)) => panic!("instead of CONNACK came {other:?}"),
            _ => Err(Gone),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        match timeout(PATIENCE, self.writer.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// The next packet. Cancel-safe: what was read of one stays for the next call.
    pub async fn next(&mut self) -> Result<Packet, Gone> {
        loop {
            if let Some((head, length)) = split(&self.buffer) {
                let packet: Vec<u8> = self.buffer.drain(..head + length).collect();
                return Ok(Packet::parse(self.version, packet[0], &packet[head..]));
            }
            tokio::select! {
                biased;
                _ = self.cut.changed() => return Err(Gone),
                count = self.reader.read_buf(&mut self.buffer) => match count {
                    Ok(1..) => {}
                    _ => return Err(Gone),
                },
            }
        }
    }
}

/// The lengths of the fixed header and of the rest, if `bytes` begin with a whole packet.
fn split(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (n, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            let head = n + 2;
            return (bytes.len() >= head + length).then_some((head, length));
        }
    }
    None
}
