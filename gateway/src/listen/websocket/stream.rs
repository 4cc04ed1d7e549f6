//! How do the bytes of MQTT get in and out of frames? The stream that stands between a session and
//! a WebSocket.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::WsError;
use super::frame::{self, CloseCode, Decoder, End};
use super::handshake::Subprotocol;

/// The largest payload of a frame that we send: with its header it fills one TLS record.
const MAX_PAYLOAD: usize = 16 * 1024 - 4;

/// A byte stream over the binary messages of a WebSocket, as its server.
///
/// Reading yields the payload of binary frames; Pings are answered on the way. A Close of the
/// client reads as end of file. A violation (text, an unmasked frame, a message over the limit)
/// reads as an error of kind [`InvalidData`](io::ErrorKind::InvalidData) around a
/// [`WsError::Violation`]. In both cases the Close frame goes out at once if the stream takes it,
/// else with the shutdown that the owner owes every connection.
///
/// Each write becomes one binary frame, of 16 KiB at most. What it has accepted and not written is
/// at most one such frame and two control frames ([`buffered`](Self::buffered)). Reading and
/// writing may happen in two tasks.
///
/// Shutting down sends a Close, code 1000 unless [`set_close`](Self::set_close) or a violation said
/// otherwise, and shuts down the stream below. It does not wait for the client's Close; to linger,
/// read until the end of file.
pub struct WsStream<S> {
    io: S,
    subprotocol: Subprotocol,
    decoder: Decoder,
    /// What the client sent behind its request and nobody has read yet.
    early: Vec<u8>,
    end: Option<End>,
    /// Accepted and not yet written.
    outgoing: Vec<u8>,
    /// Goes out behind `outgoing`.
    pong: Option<Vec<u8>>,
    /// Something went into the stream below that has not been flushed.
    unflushed: bool,
    /// Something waits that no writer may ever ask for: a Pong, a Close, the rest of a frame.
    urgent: bool,
    /// The task that waits for room. Whoever polls the stream below for writing takes its wake-up
    /// away, so a reader of another task keeps its hands off while this is set.
    writer: Option<Waker>,
    close: CloseCode,
    close_sent: bool,
}

impl<S> WsStream<S> {
    pub(super) fn new(io: S, subprotocol: Subprotocol, early: Vec<u8>, max_message: usize) -> Self {
        Self {
            io,
            subprotocol,
            decoder: Decoder::new(max_message),
            early,
            end: None,
            outgoing: Vec::new(),
            pong: None,
            unflushed: false,
            urgent: false,
            writer: None,
            close: CloseCode::Normal,
            close_sent: false,
        }
    }

    /// The subprotocol that was agreed on.
    pub fn subprotocol(&self) -> Subprotocol {
        self.subprotocol
    }

    /// The code of the Close that the shutdown sends, if none has been sent by then.
    pub fn set_close(&mut self, code: CloseCode) {
        self.close = code;
    }

    /// Bytes that were accepted and not yet written to the stream below.
    pub fn buffered(&self) -> usize {
        self.outgoing.len() + self.pong.as_ref().map_or(0, Vec::len)
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// The stream below. Reading from it or writing to it breaks the connection.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.io
    }

    #[cfg(test)]
    pub(super) fn held_on_heap(&self) -> usize {
        self.outgoing.capacity()
            + self.early.capacity()
            + self.pong.as_ref().map_or(0, Vec::capacity)
            + self.decoder.held_on_heap()
    }

    fn end_with(&mut self, end: End) {
        self.end = Some(end);
        self.pong = None;
        match end {
            End::Closed(code) => self.queue_close(code, ""),
            End::Violation { code, problem } => self.queue_close(Some(code.as_u16()), problem),
        }
    }

    fn queue_close(&mut self, code: Option<u16>, reason: &str) {
        if !self.close_sent {
            self.close_sent = true;
            self.urgent = true;
            frame::push_close(&mut self.outgoing, code, reason);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            this.send_urgent(cx);
            match this.end {
                Some(End::Closed(_)) => return Poll::Ready(Ok(())),
                Some(End::Violation { code, problem }) => {
                    let violation = WsError::Violation { code, problem };
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
                None => {}
            }
            let start = buf.filled().len();
            ready!(this.fill(cx, buf))?;
            if buf.filled().len() == start {
                return Poll::Ready(if this.decoder.is_between_messages() {
                    Ok(())
                } else {
                    Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the stream ended inside a WebSocket message",
                    ))
                });
            }
            let decoded = this.decoder.decode(&mut buf.filled_mut()[start..]);
            buf.set_filled(start + decoded.data);
            if decoded.ping.is_some() && !this.close_sent {
                this.pong = decoded.ping;
                this.urgent = true;
            }
            if let Some(end) = decoded.end {
                this.end_with(end);
            }
            if decoded.data > 0 {
                this.send_urgent(cx);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.close_sent {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the WebSocket is closed",
            )));
        }
        let data = &data[..data.len().min(MAX_PAYLOAD)];
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = match this.poll_drain(cx) {
            Poll::Ready(Ok(())) => this.poll_frame(cx, data),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        this.note_writer(cx, &written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = this.poll_drain_and_flush(cx);
        this.note_writer(cx, &flushed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.queue_close(Some(this.close.as_u16()), "");
        let shut = match this.poll_drain_and_flush(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut this.io).poll_shutdown(cx),
            other => other,
        };
        this.note_writer(cx, &shut);
        shut
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// Reads raw bytes, first those that came with the request.
    fn fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..length]);
        self.early.drain(..length);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Tries to get a Pong, a Close or the rest of a frame out, on the reader's time. What does not
    /// go now goes with the next read, write, flush or shutdown; errors show there as well.
    fn send_urgent(&mut self, cx: &mut Context<'_>) {
        let another_task_waits = self
            .writer
            .as_ref()
            .is_some_and(|writer| !writer.will_wake(cx.waker()));
        if self.urgent && !another_task_waits {
            let _ = self.poll_drain_and_flush(cx);
        }
    }

    /// One frame around `data`, which is not empty and within [`MAX_PAYLOAD`]. Accepts all of it or
    /// nothing.
    fn poll_frame(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let (header, header_length) = frame::binary_header(data.len() as u16);
        let header = &header[..header_length];
        let written = if self.io.is_write_vectored() {
            let slices = [IoSlice::new(header), IoSlice::new(data)];
            match ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => written,
            }
        } else {
            0
        };
        self.unflushed = true;
        if written < header.len() + data.len() {
            self.outgoing
                .extend_from_slice(header.get(written..).unwrap_or_default());
            self.outgoing
                .extend_from_slice(&data[written.saturating_sub(header.len())..]);
            self.urgent = true;
            // Registers for the wake-up, or finds that there is room after all.
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(data.len()))
    }

    /// Writes what was accepted, control frames behind the frame that is under way.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut written = 0;
            while written < self.outgoing.len() {
                match Pin::new(&mut self.io).poll_write(cx, &self.outgoing[written..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.outgoing.drain(..written);
                        return Poll::Pending;
                    }
                }
                self.unflushed = true;
            }
            // Given back: an idle connection holds no buffer.
            self.outgoing = Vec::new();
            match self.pong.take() {
                Some(payload) => frame::push_pong(&mut self.outgoing, &payload),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_drain_and_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.urgent = false;
        Poll::Ready(Ok(()))
    }

    fn note_writer<T>(&mut self, cx: &Context<'_>, result: &Poll<io::Result<T>>) {
        match result {
            Poll::Pending => self.writer = Some(cx.waker().clone()),
            Poll::Ready(_) => self.writer = None,
        }
    }
}

/// Leaves out all buffers: they may hold credentials.
impl<S> fmt::Debug for WsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WsStream")
            .field("subprotocol", &self.subprotocol)
            .field("buffered", &self.buffered())
            .field("end", &self.end)
            .field("close_sent", &self.close_sent)
            .finish_non_exhaustive()
    }
}
