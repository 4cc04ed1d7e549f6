//! The steady state of a connection: moves bytes between a stream and its session.
//!
//! One hand-written future and no buffer while nothing happens: reads go through a buffer that all connections of
//! a thread share, writes too unless the client is slower than we are. That is what an idle connection costs.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::Sleep,
};

use super::{Context, enhanced, greeting::Welcome};
use crate::{
    mqtt::{Decoder, ReasonCode},
    routing::{
        bus::{Bus, Origin, Reservation},
        envelope::Envelope,
    },
    session::{
        connection::{Connection, Ending},
        mailbox::Mail,
    },
};

/// Bytes read at once, and the permits taken for them: an envelope is a little larger than what it holds (B2).
const READ: usize = 32 * 1024;
const READ_PERMITS: usize = READ + READ / 2;
/// Bytes that may wait for a slow client before its session's queue has to hold the rest.
const OUTBOX: usize = 64 * 1024;
/// Turns of one call, after which other connections get their time.
const TURNS: usize = 4;
/// A buffer above this is not kept for the next use.
const KEPT_BUFFER: usize = 256 * 1024;

/// Drives a connection until it ends, and hands what is left to the registry.
pub async fn drive<S>(
    stream: Pin<Box<S>>,
    welcome: Box<Welcome>,
    context: &Context,
    peer: SocketAddr,
) where
    S: AsyncRead + AsyncWrite,
{
    let mut driver = Driver::new(stream, welcome, context, peer.ip());
    let ending = poll_fn(|cx| driver.poll(cx)).await;
    // Boxed: what ends must not make what lives larger. In turn: when a network breaks, all of them end at once.
    let end = Box::pin(driver.end(ending, peer));
    context.turns.take(end).await;
}

struct Driver<'a, S> {
    stream: Pin<Box<S>>,
    context: &'a Context,
    connection: Connection,
    decoder: Decoder,
    /// The beginning of a packet whose rest has not come.
    input: BytesMut,
    /// `input` holds packets that were not looked at yet: behind CONNECT, or behind a full envelope.
    unread: bool,
    /// What a slow client has not taken.
    output: BytesMut,
    /// Bytes of `input`, `output` and what waits for the disk, counted in the global budget.
    counted: usize,
    hold: Hold,
    keep_alive: Option<KeepAlive>,
    /// A new token of the client is being verified.
    renewal: Option<Renewal<'a>>,
    address: IpAddr,
}

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<(), Ending>> + Send + 'a>>;

/// Why the gateway does not read at the moment.
enum Hold {
    No,
    /// The bus has no room. With an envelope: it is read already and larger than a read usually yields.
    Bus(
        Pin<Box<dyn Future<Output = Reservation<Arc<Bus>>> + Send>>,
        Option<Envelope>,
    ),
    /// Room was granted, and is used by the next read.
    Granted(Reservation<Arc<Bus>>),
}

/// The keep alive of [MQTT-3.1.2-22]: one and a half times the interval.
struct KeepAlive {
    allowed: Duration,
    heard: Instant,
    timer: Pin<Box<Sleep>>,
    /// The gateway itself did not read: that time does not count (S3).
    held_back: bool,
}

enum Input {
    /// Packets were taken; there may be more.
    Some,
    /// Nothing to read now; the task is woken.
    Idle,
}

impl<'a, S: AsyncRead + AsyncWrite> Driver<'a, S> {
    fn new(
        stream: Pin<Box<S>>,
        welcome: Box<Welcome>,
        context: &'a Context,
        address: IpAddr,
    ) -> Self {
        let Welcome {
            connection,
            decoder,
            rest,
            keep_alive,
            ..
        } = *welcome;
        let keep_alive = keep_alive.map(|interval| {
            let allowed = interval + interval / 2;
            let timer = Box::pin(tokio::time::sleep(allowed));
            KeepAlive {
                allowed,
                heard: Instant::now(),
                timer,
                held_back: false,
            }
        });
        Driver {
            stream,
            context,
            connection,
            decoder,
            unread: !rest.is_empty(),
            // The buffer of CONNECT is not kept for nothing.
            input: if rest.is_empty() {
                BytesMut::new()
            } else {
                rest
            },
            output: BytesMut::new(),
            counted: 0,
            hold: Hold::No,
            keep_alive,
            renewal: None,
            address,
        }
    }

    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<Ending> {
        match self.turns(cx) {
            Err(ending) => Poll::Ready(ending),
            Ok(()) => match self.watch(cx) {
                Some(ending) => Poll::Ready(ending),
                None => Poll::Pending,
            },
        }
    }

    fn turns(&mut self, cx: &mut Task<'_>) -> Result<(), Ending> {
        let borrowed = self.output.is_empty();
        let mut out = if borrowed {
            OUTPUT.take()
        } else {
            std::mem::take(&mut self.output)
        };
        let mut outcome = Ok(());
        let mut idle = false;
        for _ in 0..TURNS {
            outcome = self.turn(cx, &mut out).map(|more| idle = !more);
            if idle || outcome.is_err() {
                break;
            }
        }
        if out.is_empty() {
            give_back(out);
        } else if borrowed {
            // A slow client, or a fault whose answer goes out with the farewell: it keeps what it needs and no more.
            self.output = BytesMut::from(&out[..]);
            give_back(out);
        } else {
            self.output = out;
        }
        if outcome.is_ok() && !idle {
            cx.waker().wake_by_ref();
        }
        self.count();
        self.connection.report();
        outcome
    }

    /// One round of everything; true if another may bring more.
    fn turn(&mut self, cx: &mut Task<'_>, out: &mut BytesMut) -> Result<bool, Ending> {
        let full = out.len() >= OUTBOX;
        let mut more = full;
        if full {
            // A client that does not read is not read from either, and gets nothing more; it can still be told to go.
            self.connection.check_notice()?;
            self.yield_room(cx);
        } else {
            more |= with_mail(|mail| self.connection.pull(mail, out, cx.waker(), Instant::now()))?;
            if self.connection.owes_many_answers() {
                self.yield_room(cx);
                self.hold_back();
            } else if let Input::Some = self.read(cx, out)? {
                more = true;
            }
        }
        more |= self.renew(cx, out)?;
        let written = self.write(cx, out)?;
        if let (true, true, Some(keep_alive)) = (full, written, &mut self.keep_alive) {
            // Whoever takes what we send is alive.
            keep_alive.heard = Instant::now();
        }
        Ok(more && out.len() < OUTBOX)
    }

    /// Has a new token of the client verified; true if that is done.
    fn renew(&mut self, cx: &mut Task<'_>, out: &mut BytesMut) -> Result<bool, Ending> {
        if let Some((token, wait)) = self.connection.take_presented(Instant::now()) {
            let session = self.connection.session().clone();
            let epoch = self.connection.epoch();
            let renewal = enhanced::renew(self.context, session, epoch, token, self.address);
            self.renewal = Some(Box::pin(async move {
                tokio::time::sleep(wait).await;
                renewal.await
            }));
        }
        let Some(renewal) = &mut self.renewal else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = renewal.as_mut().poll(cx) else {
            return Ok(false);
        };
        self.renewal = None;
        outcome?;
        self.connection.authenticated_anew(out)?;
        Ok(true)
    }

    /// Whether the stream took something.
    fn write(&mut self, cx: &mut Task<'_>, out: &mut BytesMut) -> Result<bool, Ending> {
        let mut written = 0;
        while !out.is_empty() {
            match self.stream.as_mut().poll_write(cx, out) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Ending::lost()),
                Poll::Ready(Ok(n)) => {
                    out.advance(n);
                    written += n;
                }
                Poll::Pending => break,
            }
        }
        if written > 0 {
            self.context.metrics.bytes_sent.add(written as u64);
        }
        // TLS and WebSocket have buffers of their own.
        match self.stream.as_mut().poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(Ending::lost()),
            _ => Ok(written > 0),
        }
    }

    /// Room on the bus is not kept by a connection that does not use it; what was read already is passed on.
    fn yield_room(&mut self, cx: &mut Task<'_>) {
        match &self.hold {
            Hold::Bus(_, Some(_)) => drop(self.may_read(cx)),
            _ => self.hold = Hold::No,
        }
    }

    fn read(&mut self, cx: &mut Task<'_>, out: &mut BytesMut) -> Result<Input, Ending> {
        if !self.may_read(cx) {
            self.hold_back();
            return Ok(Input::Idle);
        }
        let context = self.context;
        let granted = match std::mem::replace(&mut self.hold, Hold::No) {
            Hold::Granted(granted) => Some(granted),
            _ => None,
        };
        let reserved = match &granted {
            Some(_) => None,
            None => match context.bus().try_reserve(READ_PERMITS) {
                Some(reserved) => Some(reserved),
                None => {
                    self.wait_for(READ_PERMITS, None, cx);
                    return Ok(Input::Idle);
                }
            },
        };
        // What is left of the last read comes first.
        let (read, open) = if self.unread {
            (0, true)
        } else {
            INPUT.with_borrow_mut(|buffer| {
                let (read, open) = self.fill(cx, buffer);
                self.input.extend_from_slice(&buffer[..read]);
                (read, open)
            })
        };
        if read > 0 {
            context.metrics.bytes_received.add(read as u64);
        }
        if read == 0 && !std::mem::take(&mut self.unread) {
            return if open {
                Ok(Input::Idle)
            } else {
                Err(Ending::lost())
            };
        }
        let mut envelope = Envelope::with_room(self.input.len());
        let outcome = self.packets(&mut envelope, out);
        // What came before a fault counts.
        match (granted, reserved) {
            (Some(room), _) => self.publish(envelope, room, cx),
            (None, Some(room)) => self.publish(envelope, room, cx),
            (None, None) => {}
        }
        outcome?;
        self.connection.send_acks(out)?;
        if open {
            Ok(Input::Some)
        } else {
            Err(Ending::lost())
        }
    }

    /// Reads until nothing is there or the buffer is full; `false`: the client closed its side.
    fn fill(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> (usize, bool) {
        let mut into = ReadBuf::new(buffer);
        while into.remaining() > 0 {
            let before = into.filled().len();
            match self.stream.as_mut().poll_read(cx, &mut into) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return (before, false),
                Poll::Ready(Ok(())) if into.filled().len() == before => return (before, false),
                Poll::Ready(Ok(())) => {}
            }
        }
        (into.filled().len(), true)
    }

    fn packets(&mut self, envelope: &mut Envelope, out: &mut BytesMut) -> Result<(), Ending> {
        let mut count = 0;
        let outcome = loop {
            // A few bytes can mean a long topic: an alias. The rest waits for an envelope of its own (B2).
            if envelope.len() >= READ_PERMITS {
                self.unread = true;
                break Ok(());
            }
            match self.decoder.decode(&mut self.input) {
                Ok(None) => break Ok(()),
                Ok(Some(packet)) => {
                    count += 1;
                    if let Err(ending) = self.connection.packet(packet, envelope, out) {
                        break Err(ending);
                    }
                }
                Err(error) => {
                    self.context.metrics.protocol_errors.add(1);
                    break Err(Ending::fault(error.reason(), error.to_string()));
                }
            }
        };
        if count > 0 {
            self.context.metrics.packets_received.add(count);
            // Whole packets count, not bytes (MQTT-3.1.2-22).
            if let Some(keep_alive) = &mut self.keep_alive {
                keep_alive.heard = Instant::now();
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        outcome
    }

    fn publish<B: std::ops::Deref<Target = Bus>>(
        &mut self,
        envelope: Envelope,
        room: Reservation<B>,
        cx: &mut Task<'_>,
    ) {
        if envelope.is_empty() {
            return;
        }
        if !room.covers(envelope.len()) {
            // Given back first: two that each hold a part and wait for the rest would wait for ever.
            drop(room);
            self.wait_for(envelope.len(), Some(envelope), cx);
            return;
        }
        self.connection.session().sent_envelope(envelope.len());
        let origin = Origin {
            endpoint: self.connection.session().clone(),
            epoch: self.connection.epoch(),
        };
        self.context.bus().publish(
            self.connection.session().link(),
            envelope,
            room,
            Some(origin),
        );
    }

    fn hold_back(&mut self) {
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.held_back = true;
        }
    }

    /// Whether there is room on the bus for what a read may yield.
    fn may_read(&mut self, cx: &mut Task<'_>) -> bool {
        // One client holds at most its share (B2); the dispatcher wakes this task when it has taken an envelope.
        if self.connection.session().outstanding() > self.context.bus().client_share() {
            return false;
        }
        if self.connection.waits_for_the_disk(cx.waker()) {
            self.yield_room(cx);
            return false;
        }
        if let Hold::Bus(waiting, _) = &mut self.hold {
            let Poll::Ready(room) = waiting.as_mut().poll(cx) else {
                return false;
            };
            match std::mem::replace(&mut self.hold, Hold::No) {
                Hold::Bus(_, Some(envelope)) => self.publish(envelope, room, cx),
                _ => self.hold = Hold::Granted(room),
            }
        }
        !matches!(self.hold, Hold::Bus(..))
    }

    fn wait_for(&mut self, bytes: usize, envelope: Option<Envelope>, cx: &mut Task<'_>) {
        let mut waiting = Box::pin(self.context.bus().clone().reserve(bytes));
        match waiting.as_mut().poll(cx) {
            Poll::Pending => self.hold = Hold::Bus(waiting, envelope),
            Poll::Ready(room) => match envelope {
                Some(envelope) => self.publish(envelope, room, cx),
                None => {
                    self.hold = Hold::Granted(room);
                    cx.waker().wake_by_ref();
                }
            },
        }
    }

    /// Counts what this connection keeps in buffers (N4).
    fn count(&mut self) {
        let held = self.input.len() + self.output.len() + self.connection.held_bytes();
        let gauge = &self.context.metrics.bytes_buffered;
        match held.checked_sub(self.counted) {
            Some(0) => {}
            Some(more) => gauge.add(more as u64),
            None => gauge.sub((self.counted - held) as u64),
        }
        self.counted = held;
    }

    fn watch(&mut self, cx: &mut Task<'_>) -> Option<Ending> {
        let keep_alive = self.keep_alive.as_mut()?;
        while keep_alive.timer.as_mut().poll(cx).is_ready() {
            if std::mem::take(&mut keep_alive.held_back) {
                keep_alive.heard = Instant::now();
            }
            let deadline = keep_alive.heard + keep_alive.allowed;
            if deadline <= Instant::now() {
                return Some(Ending::fault(
                    ReasonCode::KeepAliveTimeout,
                    "nothing was heard for 1.5 times the keep alive",
                ));
            }
            keep_alive.timer.as_mut().reset(deadline.into());
        }
        None
    }

    /// Releases the session at once; the client's goodbye may take a moment longer.
    async fn end(mut self, ending: Ending, peer: SocketAddr) {
        let client = self.connection.session().client_id();
        match &ending.farewell {
            Some((reason, why)) => {
                tracing::info!(%peer, ?client, reason = reason.name(), %why, "closing the connection");
            }
            None => tracing::info!(%peer, ?client, "disconnected"),
        }
        let mut out = std::mem::take(&mut self.output);
        self.input = BytesMut::new();
        self.connection.forget_held();
        self.count();
        self.connection.farewell(&ending, &mut out);
        let Driver {
            mut stream,
            context,
            connection,
            hold,
            ..
        } = self;
        match hold {
            Hold::Bus(waiting, Some(envelope)) => {
                let room = waiting.await;
                connection.session().sent_envelope(envelope.len());
                let origin = Origin {
                    endpoint: connection.session().clone(),
                    epoch: connection.epoch(),
                };
                context
                    .bus()
                    .publish(connection.session().link(), envelope, room, Some(origin));
            }
            // Let go before the release, which needs room itself.
            other => drop(other),
        }
        let told = ending.farewell.is_some();
        context.registry.release(connection.finish(&ending)).await;
        let goodbye = async {
            if told {
                stream.write_all(&out).await?;
                stream.flush().await?;
            }
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(super::LINGER, goodbye).await;
    }
}

thread_local! {
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
    static OUTPUT: RefCell<BytesMut> = RefCell::default();
    static MAIL: RefCell<Mail> = RefCell::default();
}

fn give_back(mut buffer: BytesMut) {
    if buffer.capacity() <= KEPT_BUFFER {
        buffer.clear();
        OUTPUT.set(buffer);
    }
}

/// Lends the thread's mail box; it is left empty.
fn with_mail<T>(work: impl FnOnce(&mut Mail) -> T) -> T {
    let mut mail = MAIL.take();
    let result = work(&mut mail);
    mail.clear();
    MAIL.set(mail);
    result
}
