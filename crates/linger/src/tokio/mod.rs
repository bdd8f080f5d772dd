//! The close for tokio: a future, and a stream that cannot be dropped wrongly.
//!
//! The task itself ends a connection whose peer closes within a tenth of a second, as most do: the runtime
//! has the socket registered already, and no other thread need wake up. All others go to a [`Closer`], whose
//! thread ends them. So nothing here needs the runtime's timers, one [`Budget`](crate::Budget) holds for all
//! connections, and a runtime that is busy or shuts down delays or takes no close with it.

mod ending;

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use self::ending::Ending;
use crate::closer::hand_over;
use crate::{Closer, Outcome, Policy};

/// A stream of tokio's that can be closed lingering: [`TcpStream`] or [`UnixStream`].
pub trait Stream: AsyncRead + AsyncWrite + Unpin + sealed::Stream {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

mod sealed {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::task::{Context, Poll};

    use linger_sys::Family;
    use tokio::io::Interest;
    use tokio::net::{TcpStream, UnixStream};

    pub trait Stream: AsFd + Send + 'static {
        const FAMILY: Family;
        /// Takes the descriptor out of the runtime.
        fn into_fd(self) -> io::Result<OwnedFd>;
        /// Waits until there may be something to read.
        fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
        /// Reads in a way of one's own; the runtime takes note when there is nothing.
        fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R>;
    }

    macro_rules! stream {
        ($stream:ty, $family:expr) => {
            impl Stream for $stream {
                const FAMILY: Family = $family;

                fn into_fd(self) -> io::Result<OwnedFd> {
                    self.into_std().map(Into::into)
                }

                fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                    self.poll_read_ready(context)
                }

                fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                    self.try_io(Interest::READABLE, read)
                }
            }
        };
    }

    stream!(TcpStream, Family::Tcp);
    stream!(UnixStream, Family::Unix);
}

/// Ends a connection so that the peer gets every byte that was written, and says what became of it: what
/// [`linger::close`](crate::close) does for a thread, for a task.
///
/// The half-close has been done when this returns. A future that is dropped, with its task or its runtime, only
/// stops listening: the close goes on in the [global closer](Closer::global).
///
/// ```no_run
/// # use tokio::io::AsyncWriteExt;
/// # async fn serve(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
/// stream.write_all(b"HTTP/1.0 413 Content Too Large\r\n\r\n").await?;
/// let outcome = linger::tokio::close(stream, &linger::Policy::default()).await;
/// # Ok(()) }
/// ```
pub fn close<S: Stream>(stream: S, policy: &Policy) -> impl Future<Output = Outcome> + Send + use<S> {
    let mut ending = Ending::begin(stream, policy, None);
    std::future::poll_fn(move |context| ending.poll(context))
}

/// A stream that lingers whichever way it ends.
///
/// Shutting it down (`AsyncWriteExt::shutdown`) half-closes, discards what still comes and waits for the
/// peer within the bounds of the policy; dropping it hands the socket to the closer, which does the same in
/// the background. So a task that returns early, panics, or is cancelled with its runtime loses nothing that
/// was written. (What a program buffers above the stream, a `BufWriter` or TLS, must be flushed by a shutdown.)
///
/// After a shutdown reads report the end of the stream: what the peer still sends is discarded. A protocol
/// that half-closes and goes on reading (`tokio::io::copy_bidirectional` does) must not shut this stream down.
///
/// ```no_run
/// use linger::{Policy, tokio::Lingering};
/// use tokio::io::AsyncWriteExt;
///
/// # async fn accept(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let (stream, _) = listener.accept().await?;
/// let mut stream = Lingering::new(stream, Policy::default());
/// stream.write_all(b"HTTP/1.0 413 Content Too Large\r\n\r\n").await?;
/// stream.shutdown().await?; // or drop it, if nobody needs to know
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lingering<S: Stream> {
    state: State<S>,
    policy: Policy,
    /// `None` for the global one, which is made when first needed.
    closer: Option<Closer>,
    detached: Detached,
    /// Set by whoever holds a handle of this connection.
    instead: OnceLock<Arc<OnceLock<Policy>>>,
}

/// Whether a shutdown returns before the peer has closed.
#[derive(Debug)]
enum Detached {
    Always,
    Never,
    /// Until the server shuts down gracefully, and so wants to know the end.
    #[cfg(feature = "axum")]
    UntilSet(Arc<std::sync::atomic::AtomicBool>),
}

#[derive(Debug)]
enum State<S: Stream> {
    Open(S),
    Closing(Ending<S>),
    Closed(Option<Outcome>),
}

impl<S: Stream> Lingering<S> {
    /// Wraps a stream that the [global closer](Closer::global) is to end.
    pub fn new(stream: S, policy: Policy) -> Self {
        Self {
            state: State::Open(stream),
            policy,
            closer: None,
            detached: Detached::Never,
            instead: OnceLock::new(),
        }
    }

    /// Wraps a stream that `closer` is to end.
    pub fn with_closer(stream: S, policy: Policy, closer: &Closer) -> Self {
        let mut this = Self::new(stream, policy);
        this.closer = Some(closer.clone());
        this
    }

    /// Makes a shutdown return after a tenth of a second at most, or as soon as the peer is seen to go on
    /// sending, instead of waiting for it.
    ///
    /// The task and its memory are free seconds earlier; what became of such a connection is in the closer's
    /// [snapshot](Closer::snapshot) alone, and a graceful shutdown has to [`finish`](Closer::finish) it.
    pub fn detached(mut self, detached: bool) -> Self {
        self.detached = if detached { Detached::Always } else { Detached::Never };
        self
    }

    /// As [`detached`](Self::detached), until the flag is set.
    #[cfg(feature = "axum")]
    pub(crate) fn detached_until(mut self, flag: Arc<std::sync::atomic::AtomicBool>) -> Self {
        self.detached = Detached::UntilSet(flag);
        self
    }

    fn is_detached(&self) -> bool {
        match &self.detached {
            Detached::Always => true,
            Detached::Never => false,
            #[cfg(feature = "axum")]
            Detached::UntilSet(flag) => !flag.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Changes how this connection will be ended, for instance to [`Policy::abort`] for a peer that misbehaves.
    ///
    /// Without effect once the shutdown has begun.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The stream, until its shutdown begins.
    pub fn get_ref(&self) -> Option<&S> {
        if let State::Open(stream) = &self.state { Some(stream) } else { None }
    }

    /// The stream, until its shutdown begins.
    pub fn get_mut(&mut self) -> Option<&mut S> {
        if let State::Open(stream) = &mut self.state { Some(stream) } else { None }
    }

    /// What the shutdown came to, once it is over; `None` for one that went on without the task.
    pub fn outcome(&self) -> Option<Outcome> {
        if let State::Closed(outcome) = self.state { outcome } else { None }
    }

    /// Gives the stream back unless its shutdown has begun; it no longer lingers.
    pub fn into_inner(mut self) -> Option<S> {
        match std::mem::replace(&mut self.state, State::Closed(None)) {
            State::Open(stream) => Some(stream),
            _ => None,
        }
    }

    /// A handle through which another policy can be set while the stream is somewhere else.
    #[cfg(feature = "axum")]
    pub(crate) fn instead(&self) -> Arc<OnceLock<Policy>> {
        self.instead.get_or_init(Arc::default).clone()
    }

    /// The policy by which it is to be ended.
    fn last_policy(&self) -> Policy {
        self.instead.get().and_then(|instead| instead.get()).copied().unwrap_or(self.policy)
    }

    fn open(&mut self) -> Option<Pin<&mut S>> {
        self.get_mut().map(Pin::new)
    }
}

impl<S: Stream> Drop for Lingering<S> {
    fn drop(&mut self) {
        let policy = self.last_policy();
        if let State::Open(stream) = std::mem::replace(&mut self.state, State::Closed(None)) {
            // A descriptor that the runtime does not give back was closed by it: nothing is left to do.
            if let Ok(fd) = stream.into_fd() {
                hand_over(self.closer.as_ref(), fd, &policy);
            }
        }
    }
}

impl<S: Stream> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.open().map_or(Poll::Ready(Ok(())), |stream| stream.poll_read(cx, buf))
    }
}

impl<S: Stream> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.open().map_or_else(over, |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.open().map_or_else(over, |stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.get_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open().map_or(Poll::Ready(Ok(())), |stream| stream.poll_flush(cx))
    }

    /// Half-closes, drains and closes.
    ///
    /// # Errors
    /// `ConnectionReset`, `TimedOut` or another kind with the [`Outcome`] as text, when not every byte is
    /// known to have arrived.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.state, State::Open(_))
            && let State::Open(stream) = std::mem::replace(&mut this.state, State::Closed(None))
        {
            let policy = this.last_policy();
            this.state = State::Closing(Ending::begin(stream, &policy, this.closer.as_ref()));
        }
        let detached = this.is_detached();
        if let State::Closing(ending) = &mut this.state {
            let outcome = match ending.poll(cx) {
                Poll::Ready(outcome) => Some(outcome),
                Poll::Pending if detached && ending.is_given() => None,
                Poll::Pending => return Poll::Pending,
            };
            this.state = State::Closed(outcome);
        }
        match this.state {
            State::Closed(Some(outcome)) => Poll::Ready(verdict(outcome)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn over<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(ErrorKind::BrokenPipe, "the stream has been shut down")))
}

fn verdict(outcome: Outcome) -> io::Result<()> {
    use crate::Ended;
    let kind = match outcome.ended {
        _ if outcome.delivered() => return Ok(()),
        // Nothing is known to be lost where the kernel cannot say.
        Ended::PeerClosed => return Ok(()),
        Ended::PeerReset | Ended::Gone => ErrorKind::ConnectionReset,
        Ended::TimedOut(_) | Ended::Limit => ErrorKind::TimedOut,
        Ended::Failed(kind) => kind,
        Ended::Acknowledged | Ended::Unwaited | Ended::Aborted => return Ok(()),
        Ended::Evicted => ErrorKind::ConnectionAborted,
    };
    Err(io::Error::new(kind, format!("the peer may have lost the response: {outcome}")))
}
