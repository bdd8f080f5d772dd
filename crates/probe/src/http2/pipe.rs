//! The connection as crate `h2` reads and writes it, with a gate behind which a client waits before it reads.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::FrameLog;
use crate::prober::Prober;
use crate::seen::ConnectionEnd;
use crate::wire::ClientStream;

/// How far the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Not at all.
    Closed,
    /// To the response's head, in small pieces.
    Head,
    /// All that comes.
    Open,
}

/// How much is read at once up to the response's head. What is read beyond it is no longer in the server's hands.
const PIECE: usize = 256;
/// Frames beside those of the response's body, in bytes: more is a flood.
const BESIDE: u64 = 1 << 20;

/// The connection. Nothing here registers a waker: whoever polls waits for the socket itself.
pub(crate) struct GatedStream<'p> {
    prober: &'p Prober,
    pub(crate) wire: ClientStream,
    pub(crate) log: FrameLog,
    pub(crate) gate: Gate,
    /// Whether a write waits for room in the send buffer.
    pub(crate) wants_write: bool,
    pub(crate) write_failed: bool,
    pub(crate) ended: Option<ConnectionEnd>,
    /// The response is longer, or takes longer, than the configuration allows, or a quiet probe has read all that it may.
    pub(crate) is_endless: bool,
    /// Bytes read, of all frames.
    pub(crate) read: u64,
    /// When the response becomes too slow.
    pub(crate) last: Instant,
}

impl<'p> GatedStream<'p> {
    pub(crate) fn new(prober: &'p Prober, wire: ClientStream) -> Self {
        let config = &prober.config;
        Self {
            prober,
            wire,
            log: FrameLog::default(),
            gate: Gate::Open,
            wants_write: false,
            write_failed: false,
            ended: None,
            is_endless: false,
            read: 0,
            last: Instant::now() + config.longest.max(2 * config.patience),
        }
    }

    /// Another request is made on the connection. The bounds are those of each response.
    pub(crate) fn next(&mut self) {
        let config = &self.prober.config;
        self.log.next();
        (self.read, self.last) = (0, Instant::now() + config.longest.max(2 * config.patience));
    }

    /// Whether the gate lets another byte through.
    pub(crate) fn reads(&self) -> bool {
        match self.gate {
            Gate::Closed => false,
            Gate::Head => !self.log.begun,
            Gate::Open => true,
        }
    }

    /// Waits for what the last polls could not do. Returns false if nothing became possible by `until`.
    pub(crate) fn wait(&self, until: Instant) -> bool {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, self.reads());
        events.set(PollFlags::OUT, self.wants_write);
        if events.is_empty() {
            // An error or the end would be reported at once, again and again, and is not to be read yet.
            self.prober.deadline.sleep(until.saturating_duration_since(Instant::now()));
            return false;
        }
        self.wire.wait(events, until).is_ok_and(|events| !events.is_empty())
    }

    fn receive(&mut self, to: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.reads() || self.is_endless {
            return Poll::Pending;
        }
        let piece = if self.gate == Gate::Head { PIECE } else { to.len() };
        let room = usize::try_from(self.prober.room()).unwrap_or(usize::MAX);
        let flood = self.read > self.log.got.saturating_mul(2) + BESIDE;
        let long = self.log.got > self.prober.config.most;
        let last = Instant::now() > self.last;
        if room == 0 || (!self.log.ended && (flood || long || last)) {
            self.is_endless = !self.log.ended;
            return Poll::Pending;
        }
        let room = to.len().min(piece).min(room);
        match self.wire.read(&mut to[..room]) {
            Ok(0) => {
                self.ended.get_or_insert(ConnectionEnd::Closed);
                Poll::Ready(Ok(0))
            }
            Ok(got) => {
                self.read += got as u64;
                self.prober.spent.received(got);
                self.log.feed(&to[..got]);
                Poll::Ready(Ok(got))
            }
            Err(error) if is_transient(&error) => Poll::Pending,
            Err(error) => {
                self.ended.get_or_insert(ConnectionEnd::Reset);
                Poll::Ready(Err(error))
            }
        }
    }

    /// A write that fails is noted, and said to have succeeded: `h2` would not read any more, and what has arrived is still to
    /// be read.
    fn send(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Ready(Ok(bytes.len()));
        }
        match self.wire.write(bytes) {
            Ok(sent) => {
                self.prober.spent.sent(sent);
                Poll::Ready(Ok(sent))
            }
            Err(error) if is_transient(&error) => {
                self.wants_write = true;
                Poll::Pending
            }
            Err(_) => {
                self.write_failed = true;
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn flush(&mut self) -> Poll<io::Result<()>> {
        match self.wire.flush() {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) if is_transient(&error) => {
                self.wants_write = true;
                Poll::Pending
            }
            Err(_) => {
                self.write_failed = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// After the end of the stream: how the connection ended. A reset that follows the FIN of the same close comes at once.
    pub(crate) fn settle_the_end(&mut self, moment: Duration) {
        if self.ended == Some(ConnectionEnd::Closed) {
            let _ = self.wire.wait(PollFlags::empty(), Instant::now() + moment);
            if self.write_failed || self.wire.was_reset() {
                self.ended = Some(ConnectionEnd::ClosedThenReset);
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The pipe, shared between `h2` and the client that drives it.
#[derive(Clone)]
pub(crate) struct SharedGated<'p>(pub(crate) Rc<RefCell<GatedStream<'p>>>);

impl AsyncRead for SharedGated<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let got = self.0.borrow_mut().receive(to.initialize_unfilled());
        got.map_ok(|got| to.advance(got))
    }
}

impl AsyncWrite for SharedGated<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().send(bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().flush()
    }

    /// The probe ends the connection itself.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
