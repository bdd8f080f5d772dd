//! Accepting connections that linger, also when descriptors run out.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::last::{ConnectionSource, Stop};
use super::serve::StopTimes;
use super::{Lingering, StopNotice, Stream, WayToEnd};
use crate::{Closer, Policy};

/// A listener: tokio's, or a type of one's own, for instance one for "TCP or unix" or one that sets socket options.
///
/// ```
/// use std::io;
/// use linger::tokio::Accept;
/// use tokio::net::{TcpListener, TcpStream};
///
/// /// Sets TCP_NODELAY on all that it accepts.
/// struct NoDelay(TcpListener);
///
/// impl Accept for NoDelay {
///     type Io = TcpStream;
///     type Addr = std::net::SocketAddr;
///
///     async fn accept(&mut self) -> io::Result<(TcpStream, Self::Addr)> {
///         let (stream, address) = self.0.accept().await?;
///         stream.set_nodelay(true)?;
///         Ok((stream, address))
///     }
///
///     fn local_addr(&self) -> io::Result<Self::Addr> {
///         self.0.local_addr()
///     }
///
///     async fn close(self) -> Vec<(TcpStream, Self::Addr)> {
///         self.0.close().await
///     }
/// }
/// ```
pub trait Accept: Send + 'static {
    /// The stream of an accepted connection.
    type Io: Stream;
    /// The address from which a connection comes.
    type Addr: Send;

    /// Accepts one connection. If the future is dropped before it is ready, it has accepted none.
    ///
    /// The listener can still be used after an error: the caller makes room, or waits, and tries again.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, Self::Addr)>> + Send;

    /// Where it listens.
    ///
    /// # Errors
    /// Returns the errors of `getsockname(2)`.
    fn local_addr(&self) -> io::Result<Self::Addr>;

    /// Closes the listener, and returns the connections that were still in its accept queue. The kernel resets those
    /// that are closed with the listener (`inet_csk_listen_stop`), although the client's `connect` has succeeded.
    ///
    /// Connections that arrive in the microseconds between the last look and the close are reset all the same. A
    /// socket filter that drops SYNs would prevent that, but would also stop every other process that has the
    /// listener: a supervisor that keeps it over a restart, or another worker. If another process has it, nothing is
    /// lost: the queue lives on.
    ///
    /// The default implementation drops the listener and loses the queue.
    fn close(self) -> impl Future<Output = Vec<(Self::Io, Self::Addr)>> + Send
    where
        Self: Sized,
    {
        std::future::ready(Vec::new())
    }
}

impl Accept for TcpListener {
    type Io = TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> io::Result<(TcpStream, Self::Addr)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local_addr()
    }

    async fn close(self) -> Vec<(TcpStream, Self::Addr)> {
        // Accept without the runtime, which knows of new connections only after its next turn.
        let Ok(listener) = self.into_std() else { return Vec::new() };
        let accept = || {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, address))
        };
        rest(accept)
    }
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::sync::Arc;

    use tokio::net::{UnixListener, UnixStream};

    use super::{Accept, rest};

    impl Accept for UnixListener {
        type Io = UnixStream;
        type Addr = Arc<tokio::net::unix::SocketAddr>;

        async fn accept(&mut self) -> io::Result<(UnixStream, Self::Addr)> {
            Self::accept(self).await.map(|(stream, address)| (stream, Arc::new(address)))
        }

        fn local_addr(&self) -> io::Result<Self::Addr> {
            self.local_addr().map(Arc::new)
        }

        async fn close(self) -> Vec<(UnixStream, Self::Addr)> {
            let Ok(listener) = self.into_std() else { return Vec::new() };
            let accept = || {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((UnixStream::from_std(stream)?, Arc::new(tokio::net::unix::SocketAddr::from(address))))
            };
            rest(accept)
        }
    }
}

/// More connections than an accept queue holds (`net.core.somaxconn` is 4,096 by default): new ones that keep coming do not
/// prolong a stop for ever.
const QUEUE: usize = 1 << 16;

/// Accepts until nothing is left, or [`QUEUE`] connections have come.
fn rest<C>(accept: impl Fn() -> io::Result<C>) -> Vec<C> {
    let mut rest = Vec::new();
    loop {
        match accept() {
            Ok(_) if rest.len() >= QUEUE => return rest,
            Ok(connection) => rest.push(connection),
            Err(error) if error.kind() == ErrorKind::Interrupted || concerns_one_connection(&error) => {}
            Err(_) => return rest,
        }
    }
}

/// Accepts connections that linger. When accepting fails, it is tried again.
///
/// ```no_run
/// # async fn serve(listener: tokio::net::TcpListener) {
/// let mut listener = linger::tokio::Listener::new(listener, linger::Policy::default());
/// loop {
///     let (stream, peer) = listener.accept().await;
///     tokio::spawn(async move {
///         // A `Lingering` stream, as it was a `TcpStream`.
///         # drop((stream, peer));
///     });
/// }
/// # }
/// ```
pub struct Listener<L: Accept> {
    source: ConnectionSource<L>,
    way: Arc<WayToEnd>,
    stop: Option<Stop>,
    /// The last attempt has failed, most likely because no descriptors or no memory are left.
    lacks_room: bool,
}

impl<L: Accept> fmt::Debug for Listener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { way, lacks_room, .. } = self;
        f.debug_struct("Listener")
            .field("policy", &way.policy)
            .field("lacks_room", lacks_room)
            .finish_non_exhaustive()
    }
}

impl<L: Accept> Listener<L> {
    /// Wraps a listener, so that every connection it accepts is ended by `policy`, on the global closer.
    pub fn new(listener: L, policy: Policy) -> Self {
        let way = Arc::new(WayToEnd { policy, closer: None, stop: None });
        Self { source: ConnectionSource::Open(listener), way, stop: None, lacks_room: false }
    }

    /// Lets `closer` end the connections, within that closer's budget, instead of the global closer.
    pub fn with_closer(mut self, closer: &Closer) -> Self {
        Arc::make_mut(&mut self.way).closer = Some(closer.clone());
        self
    }

    /// Lets its connections know of a stop.
    pub(super) fn with_notice(mut self, stop: StopNotice) -> Self {
        Arc::make_mut(&mut self.way).stop = Some(stop);
        self
    }

    /// Makes this listener stop when `signal` is ready, for a server that would otherwise drop the listener together
    /// with the connections in its accept queue. The second value is the signal to give to that server.
    ///
    /// After `signal` the listener is [closed](Accept::close). [`accept`](Self::accept) then returns the connections
    /// that were in its queue, and no more. The second value is ready when each connection has been read from once or
    /// dropped, at the latest a second after `signal`: a server that is told to stop earlier would drop connections
    /// unread. Both values have to be polled, and need the runtime's timer.
    ///
    /// ```no_run
    /// # async fn serve(listener: tokio::net::TcpListener, app: axum::Router, sigterm: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    /// let listener = linger::tokio::Listener::new(listener, linger::Policy::default());
    /// let (listener, stopped) = listener.stop_when(sigterm);
    /// # #[cfg(feature = "axum")]
    /// axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    /// # Ok(()) }
    /// ```
    pub fn stop_when<F>(self, signal: F) -> (Self, impl Future<Output = ()> + Send + use<L, F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, notice) = StopNotice::new();
        let signal = async move {
            signal.await;
            tell.send_replace(Some(StopTimes::of_a_foreign_server()));
        };
        let (stop, stopped) = Stop::when(signal);
        (Self { stop: Some(stop), ..self.with_notice(notice) }, stopped)
    }

    /// Accepts one connection.
    ///
    /// If descriptors or memory have run out, lingering sockets are closed to make room ([`Closer::evict`]), and accepting
    /// is tried again; new clients wait in the accept queue meanwhile. The same is done after any other error of the listener,
    /// so this never fails. If this future is dropped before it is ready, it has accepted no connection. Needs the runtime's
    /// timer.
    pub async fn accept(&mut self) -> (Lingering<L::Io>, L::Addr) {
        // Start the global closer while there are descriptors left: it needs two.
        let _ = self.closer();
        loop {
            match self.source.accept(self.stop.as_mut()).await {
                Some(Ok((stream, address))) => {
                    self.lacks_room = false;
                    let unread = self.stop.as_ref().and_then(Stop::hold);
                    return (Lingering::ending(stream, self.way.clone(), unread), address);
                }
                Some(Err(error)) if concerns_one_connection(&error) => {}
                Some(Err(_)) => {
                    self.lacks_room = true;
                    self.make_room().await;
                }
                None => {
                    if self.lacks_room {
                        self.make_room().await;
                    }
                    self.source.close();
                }
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Returns the errors of `getsockname(2)`, and `NotConnected` if it was told to stop and is closed.
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        self.source.local_addr()
    }

    /// Closes the listener, and returns the connections that were still in its accept queue; see [`Accept::close`].
    pub async fn close(mut self) -> Vec<(Lingering<L::Io>, L::Addr)> {
        if self.lacks_room {
            self.make_room().await;
        }
        let Self { mut source, way, .. } = self;
        source.close();
        let mut rest = Vec::new();
        while let Some((stream, address)) = source.rest().await {
            rest.push((Lingering::ending(stream, way.clone(), None), address));
        }
        rest
    }

    async fn make_room(&mut self) {
        if let Some(closer) = self.closer() {
            closer.evict(ROOM);
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// The closer that ends the connections; `None` if none was given and the global one cannot be started now.
    fn closer(&self) -> Option<&Closer> {
        self.way.closer.as_ref().or_else(|| Closer::global().ok())
    }
}

/// How many lingering sockets are evicted when there are no descriptors left.
const ROOM: usize = 64;

/// Pause between two tries to accept while descriptors are lacking.
const PAUSE: Duration = Duration::from_millis(20);

fn concerns_one_connection(error: &io::Error) -> bool {
    let kinds = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
    kinds.contains(&error.kind())
}
