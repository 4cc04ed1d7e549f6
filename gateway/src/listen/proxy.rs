//! Whose connection did the proxy pass on? Reads the header of the PROXY protocol, version 1 or 2, from the start of a
//! stream (N2). Which listeners and addresses are asked is the listener's business; so is the deadline.
//!
//! Exactly the header is read, never a byte behind it: what follows is TLS, and it stays in the socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The client's address, or `None` where the connection is the proxy's own: a health check (`LOCAL`), or a client whose
/// address it does not tell (`UNKNOWN`, `UNSPEC`).
pub type Source = Option<SocketAddr>;

/// Why there is no address. The connection is of no use then.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("it ended within the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("it closed without a PROXY header")]
    Closed,
    #[error("it does not begin with a PROXY header; does the proxy send one?")]
    Missing,
    #[error("its PROXY header of version 1 is wrong: {0}")]
    Version1(#[from] v1::BinaryParseError),
    #[error("its PROXY header of version 2 is wrong: {0}")]
    Version2(#[from] v2::ParseError),
    #[error("its PROXY header has {0} bytes, at most {V2_MAX} are read")]
    TooLong(usize),
    #[error("its PROXY header is not for a TCP connection")]
    NotTcp,
}

/// The longest line of version 1, with its line end (section 2.1 of the specification).
const V1_MAX: usize = 107;
/// The shortest one: `PROXY UNKNOWN\r\n`.
const V1_MIN: usize = 15;
/// The part of a header of version 2 that every one has, its length at the end (section 2.2).
const V2_START: usize = 16;
/// The longest header of version 2 that is read. Addresses have 36 bytes, or 216 for UNIX sockets; the rest are TLVs,
/// which identify nobody here, but a proxy may send some.
const V2_MAX: usize = 2048;

/// Reads one header. Sets no deadline: wrap it in one.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Source, ProxyError> {
    let mut header = [0; V2_MAX];
    // Less than the shortest header of either version: nothing of what follows is taken.
    let length = stream.read(&mut header[..V1_MIN]).await?;
    if length == 0 {
        return Err(ProxyError::Closed);
    }
    could_be_one(&header[..length])?;
    stream.read_exact(&mut header[length..V1_MIN]).await?;
    could_be_one(&header[..V1_MIN])?;
    if header.starts_with(v2::PROTOCOL_PREFIX) {
        return read_v2(stream, &mut header).await;
    }
    read_v1(stream, &mut header).await
}

/// A stream that begins with something else is not waited for.
fn could_be_one(start: &[u8]) -> Result<(), ProxyError> {
    let begins = |prefix: &[u8]| {
        let length = prefix.len().min(start.len());
        start[..length] == prefix[..length]
    };
    match begins(v2::PROTOCOL_PREFIX) || begins(b"PROXY ") {
        true => Ok(()),
        false => Err(ProxyError::Missing),
    }
}

async fn read_v1<S: AsyncRead + Unpin>(
    stream: &mut S,
    header: &mut [u8; V2_MAX],
) -> Result<Source, ProxyError> {
    let mut length = V1_MIN;
    // Byte by byte, at most 92 times: a larger read would take what follows.
    while !header[..length].ends_with(b"\r\n") && length < V1_MAX {
        stream.read_exact(&mut header[length..=length]).await?;
        length += 1;
    }
    let line = v1::Header::try_from(&header[..length])?;
    Ok(match line.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_v2<S: AsyncRead + Unpin>(
    stream: &mut S,
    header: &mut [u8; V2_MAX],
) -> Result<Source, ProxyError> {
    stream.read_exact(&mut header[V1_MIN..V2_START]).await?;
    let rest = u16::from_be_bytes([header[V2_START - 2], header[V2_START - 1]]);
    let length = V2_START + usize::from(rest);
    let Some(header) = header.get_mut(..length) else {
        return Err(ProxyError::TooLong(length));
    };
    stream.read_exact(&mut header[V2_START..]).await?;
    let header = v2::Header::try_from(&*header)?;
    match (header.command, header.protocol, header.addresses) {
        // The rest of a LOCAL header means nothing, whatever it says.
        (v2::Command::Local, ..) | (_, _, v2::Addresses::Unspecified) => Ok(None),
        (_, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
            Ok(Some((ip.source_address, ip.source_port).into()))
        }
        (_, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => Ok(Some(
            (IpAddr::from(ip.source_address), ip.source_port).into(),
        )),
        _ => Err(ProxyError::NotTcp),
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
