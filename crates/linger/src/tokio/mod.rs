//! The close for tokio: a future, and a stream that cannot be dropped wrongly.
//!
//! A close is driven on the runtime for a tenth of a second, in which most peers close: the runtime has the socket registered
//! already, and no other thread need wake up. The task that awaits the outcome drives it; the close of a dropped stream is
//! driven by the socket's events, without a task. Closes that take longer go to a [`Closer`], whose thread ends them. So
//! nothing here needs the runtime's timers, and one [`Budget`](crate::Budget) holds for all connections. A runtime that is
//! busy delays no close, and one that shuts down ends none.

mod connection;
mod ending;
mod last;
mod listener;
#[cfg(feature = "http")]
mod sending;
mod serve;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use linger_sys::Family;
use linger_sys::fd::{AsFd, OwnedFd};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

pub use self::connection::Connection;
#[cfg(feature = "http")]
pub(crate) use self::connection::WriteHold;
use self::ending::{LingeringClose, let_go};
use self::last::Unread;
pub use self::listener::{Accept, Listener};
#[cfg(feature = "http")]
pub(crate) use self::sending::{ResponsePlace, ResponseWrites};
#[cfg(feature = "http")]
pub(crate) use self::serve::after;
pub use self::serve::{Serve, StopNotice, serve};
#[cfg(feature = "hyper")]
pub(crate) use self::serve::{ServerLife, run};
use crate::{Closer, Outcome, Policy};

/// A stream on a socket that the runtime has: [`TcpStream`], [`UnixStream`], and types of one's own over them, as an enum
/// of both.
///
/// ```
/// use std::io;
/// use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
/// use std::task::{Context, Poll};
/// # use std::pin::Pin;
/// # use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
/// use linger::tokio::Stream;
///
/// /// A stream with its number; it is read and written as what it wraps.
/// struct Numbered(tokio::net::TcpStream, u64);
/// # impl AsyncRead for Numbered {
/// #     fn poll_read(mut self: Pin<&mut Self>, c: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
/// #         Pin::new(&mut self.0).poll_read(c, b)
/// #     }
/// # }
/// # impl AsyncWrite for Numbered {
/// #     fn poll_write(mut self: Pin<&mut Self>, c: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
/// #         Pin::new(&mut self.0).poll_write(c, b)
/// #     }
/// #     fn poll_flush(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
/// #         Pin::new(&mut self.0).poll_flush(c)
/// #     }
/// #     fn poll_shutdown(mut self: Pin<&mut Self>, c: &mut Context<'_>) -> Poll<io::Result<()>> {
/// #         Pin::new(&mut self.0).poll_shutdown(c)
/// #     }
/// # }
///
/// impl AsFd for Numbered {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.0.as_fd()
///     }
/// }
///
/// impl Stream for Numbered {
///     fn into_fd(self) -> io::Result<OwnedFd> {
///         self.0.into_fd()
///     }
///
///     fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
///         self.0.poll_readable(context)
///     }
///
///     fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
///         self.0.reading(read)
///     }
/// }
/// ```
///
/// A stream that keeps bytes above its socket, such as TLS, must not implement this: put it above a [`Lingering`] stream.
pub trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {
    /// Takes the descriptor out of the runtime.
    ///
    /// # Errors
    /// Returns the error with which the runtime does not give it back. The descriptor is closed in that case.
    fn into_fd(self) -> io::Result<OwnedFd>
    where
        Self: Sized;

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// Returns an error if the runtime reports no events any more.
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads from the socket by `read`. If `read` returns `WouldBlock`, the runtime notes that nothing is there to read.
    ///
    /// # Errors
    /// Returns the errors of `read`, and `WouldBlock` if the runtime knows of nothing to read.
    fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    /// The socket's family, if it is known without asking the kernel.
    #[doc(hidden)]
    fn known(&self) -> KnownFamily {
        KnownFamily(None)
    }
}

/// A socket's family, if it is known without asking the kernel.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct KnownFamily(pub(crate) Option<Family>);

impl KnownFamily {
    /// The family of this socket. A socket that is no stream fails later, at the first call that needs one.
    fn family(self, stream: &impl AsFd) -> Family {
        self.0.or_else(|| linger_sys::family(stream.as_fd()).ok()).unwrap_or(Family::Other)
    }
}

macro_rules! stream {
    ($stream:ty, $family:expr) => {
        impl Stream for $stream {
            fn into_fd(self) -> io::Result<OwnedFd> {
                self.into_std().map(Into::into)
            }

            fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(context)
            }

            fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(Interest::READABLE, read)
            }

            fn known(&self) -> KnownFamily {
                KnownFamily(Some($family))
            }
        }
    };
}

stream!(TcpStream, Family::Tcp);
#[cfg(unix)]
stream!(UnixStream, Family::Unix);

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
    let mut ending = LingeringClose::begin(stream, policy, None, false);
    std::future::poll_fn(move |context| ending.poll(context))
}

/// A stream that lingers whichever way it ends.
///
/// Dropping it half-closes at once and begins the lingering close: what still comes is discarded, and the peer is waited
/// for within the bounds of the policy, on the runtime first and then by the closer. So a task that returns early, panics,
/// or is cancelled with its runtime loses nothing that was written. (What a program buffers above the stream, a
/// `BufWriter` or TLS, must be flushed before.) [`close`](Self::close) does the same and says what became of it.
///
/// Until then it is the plain stream. A shutdown (`AsyncWriteExt::shutdown`) sends the FIN, `shutdown(SHUT_WR)`, and
/// nothing more: the peer may go on sending (RFC 9293 section 3.6, case 2), and the reads belong to the owner. So
/// `tokio::io::copy_bidirectional`, and with it each tunnel behind CONNECT or an upgrade, works on it as on the
/// plain one. What the owner does not read before the drop the closer discards.
///
/// ```no_run
/// use linger::{Policy, tokio::Lingering};
/// use tokio::io::AsyncWriteExt;
///
/// # async fn accept(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let (stream, _) = listener.accept().await?;
/// let mut stream = Lingering::new(stream, Policy::default());
/// stream.write_all(b"HTTP/1.0 413 Content Too Large\r\n\r\n").await?;
/// let outcome = stream.close().await; // or drop it, if nobody needs to know
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Lingering<S: Stream> {
    /// Taken only by value or by the drop.
    stream: Option<S>,
    /// The owner has sent the FIN.
    is_half_closed: bool,
    way: Arc<WayToEnd>,
    /// Made when first asked for.
    connection: OnceLock<Connection>,
    /// A stop of the listener waits for this stream's first byte.
    unread: Option<Unread>,
}

/// How all streams of one listener are to be closed.
///
/// Behind a reference count and not in the stream, because servers move a stream a dozen times before it stays where it is,
/// and moving more than a few words costs more than counting a reference.
#[derive(Clone, Debug)]
struct WayToEnd {
    policy: Policy,
    /// `None` for the global closer, which is made when first needed.
    closer: Option<Closer>,
    /// `None` if this crate does not learn of a stop of the stream's server.
    stop: Option<StopNotice>,
}

impl<S: Stream> Lingering<S> {
    /// Wraps a stream that the [global closer](Closer::global) is to end.
    pub fn new(stream: S, policy: Policy) -> Self {
        Self::ending(stream, Arc::new(WayToEnd { policy, closer: None, stop: None }), None)
    }

    /// Wraps a stream that `closer` is to end.
    pub fn with_closer(stream: S, policy: Policy, closer: &Closer) -> Self {
        let way = WayToEnd { policy, closer: Some(closer.clone()), stop: None };
        Self::ending(stream, Arc::new(way), None)
    }

    fn ending(stream: S, way: Arc<WayToEnd>, unread: Option<Unread>) -> Self {
        Self { stream: Some(stream), is_half_closed: false, way, connection: OnceLock::new(), unread }
    }

    /// Ends the connection in the way in which [`close`] ends a plain stream. The future's output is what became of it.
    ///
    /// When this function returns, the half-close has been done. If the future is dropped, the close goes on, and only its
    /// outcome is not learnt.
    pub fn close(mut self) -> impl Future<Output = Outcome> + Send + use<S> {
        let policy = self.last_policy();
        let is_half_closed = self.is_half_closed;
        let stream = self.stream.take();
        let mut ending = stream
            .map(|stream| LingeringClose::begin(stream, &policy, self.way.closer.as_ref(), is_half_closed));
        std::future::poll_fn(move |context| match &mut ending {
            Some(ending) => ending.poll(context),
            None => unreachable!("{TAKEN}"),
        })
    }

    /// Changes how this connection will be ended, for instance to [`Policy::abort`] for a peer that misbehaves.
    pub fn set_policy(&mut self, policy: Policy) {
        Arc::make_mut(&mut self.way).policy = policy;
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        match &self.stream {
            Some(stream) => stream,
            None => unreachable!("{TAKEN}"),
        }
    }

    /// The stream.
    pub fn get_mut(&mut self) -> &mut S {
        match &mut self.stream {
            Some(stream) => stream,
            None => unreachable!("{TAKEN}"),
        }
    }

    /// Returns the stream. It no longer lingers.
    pub fn into_inner(mut self) -> S {
        match self.stream.take() {
            Some(stream) => stream,
            None => unreachable!("{TAKEN}"),
        }
    }

    /// A handle to the connection, for whoever learns something of it while the stream is somewhere else.
    pub fn connection(&self) -> Connection {
        self.connection.get_or_init(|| Connection::of(&self.way)).clone()
    }

    /// The policy by which the connection is to be closed.
    fn last_policy(&self) -> Policy {
        let policy = self.way.policy;
        self.connection.get().map_or(policy, |connection| connection.policy(policy))
    }

    /// Whether a write may go to the socket, or is held back until a response is complete.
    fn poll_may_write(&self, context: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "http")]
        if let Some(connection) = self.connection.get() {
            return connection.sending().poll_may_write(context);
        }
        #[cfg(not(feature = "http"))]
        let _ = context;
        Poll::Ready(())
    }

    /// Notes the result of a write for those who watch the connection, if anybody has its handle.
    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        #[cfg(feature = "http")]
        if let Some(connection) = self.connection.get() {
            connection.sending().wrote(result);
        }
        #[cfg(not(feature = "http"))]
        let _ = result;
    }

    fn pinned(&mut self) -> Pin<&mut S> {
        Pin::new(self.get_mut())
    }
}

const TAKEN: &str = "the stream is taken by value or by the drop, and nothing follows either";

impl<S: Stream> Drop for Lingering<S> {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        let_go(stream, &self.last_policy(), self.way.closer.as_ref(), self.is_half_closed);
    }
}

impl<S: Stream> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        #[cfg(feature = "http")]
        if let Some(connection) = self.connection.get() {
            connection.sending().reads();
        }
        let read = ready!(self.pinned().poll_read(cx, buf));
        self.unread = None;
        Poll::Ready(read)
    }
}

impl<S: Stream> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_may_write(cx));
        let result = self.pinned().poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_may_write(cx));
        let result = self.pinned().poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.pinned().poll_flush(cx));
        #[cfg(feature = "http")]
        if let (Some(connection), Ok(())) = (self.connection.get(), &result) {
            connection.sending().flushed();
        }
        Poll::Ready(result)
    }

    /// Sends the FIN. The stream can be read on.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(self.pinned().poll_shutdown(cx));
        self.is_half_closed |= result.is_ok();
        Poll::Ready(result)
    }
}
