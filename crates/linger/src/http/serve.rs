//! The life of an HTTP server, and of each of its connections.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response};
use bytes::Buf;
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Layer, Unread, Upload};
use crate::tokio::{Accept, Lingering, ServerLife, StopNotice, Stream, run};
use crate::{Closer, Policy, Snapshot};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves HTTP on what a listener accepts, with a service of tower: an axum `Router`, or any other.
///
/// Awaited, it serves until the signal of [`stop_when`](Serve::stop_when), or for ever.
///
/// Every connection lingers, the [layer](super::layer) stands around the service, lingering sockets make room when
/// descriptors run out, and with the feature `axum` each request has `ConnectInfo` of the peer's address and of a
/// [`Peer`](crate::axum::Peer). With the feature `http2` it speaks HTTP/2 to clients that begin with it.
///
/// ```no_run
/// use std::time::Duration;
/// use tokio::signal::unix::{SignalKind, signal};
///
/// # #[cfg(feature = "axum")]
/// #[tokio::main]
/// async fn main() -> std::io::Result<()> {
///     let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
///     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
///     let mut terminated = signal(SignalKind::terminate())?;
///     let summary = linger::http::serve(listener, app)
///         .stop_when(async move { _ = terminated.recv().await })
///         .within(Duration::from_secs(20))
///         .await?;
///     eprintln!("{} answers not known to have arrived", summary.undelivered);
///     Ok(())
/// }
/// # #[cfg(not(feature = "axum"))] fn main() {}
/// ```
pub fn serve<L: Accept, S>(listener: L, service: S) -> Serve<L, S> {
    Serve { listener, service, handshake: NoHandshake, layer: Layer::default(), life: ServerLife::default() }
}

/// Longest time for the handshake of TLS, which costs the client nothing to leave unfinished.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A server; see [`serve`].
#[must_use = "a server does nothing unless awaited"]
pub struct Serve<L, S, T = NoHandshake> {
    listener: L,
    service: S,
    handshake: T,
    layer: Layer,
    life: ServerLife,
}

impl<L, S, T> fmt::Debug for Serve<L, S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerLife { policy, deadline, .. } = &self.life;
        f.debug_struct("Serve").field("policy", policy).field("deadline", deadline).finish_non_exhaustive()
    }
}

impl<L, S, T> Serve<L, S, T> {
    /// Ends connections by this policy.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.life.policy = policy;
        self
    }

    /// Lets `closer` end the connections, within that closer's budget, instead of the global closer.
    pub fn with_closer(mut self, closer: &Closer) -> Self {
        self.life.closer = Some(closer.clone());
        self
    }

    /// Treats bodies that handlers leave unread by `unread`, unless a response has an `Unread` of its own.
    pub fn unread(self, unread: Unread) -> Self {
        Self { layer: self.layer.unread(unread), ..self }
    }

    /// Stops when this is ready, as at SIGTERM.
    ///
    /// After that no connection is accepted but those in the accept queue. Idle connections end, and others end after the
    /// request that they are serving, however long that takes, as with `axum::serve`. Then the lingering closes are waited for,
    /// until 9 s after the signal or 1.8 s after the end of the last request, whichever is later. [`within`](Self::within) bounds
    /// the whole stop.
    pub fn stop_when(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.life.signal = Some(Box::pin(signal));
        self
    }

    /// How long a stop may take, lingering included. Without a deadline it waits for every request.
    ///
    /// Handlers get four fifths of this time. Handlers that have not answered by then are dropped, and their connections
    /// linger for the rest of it. Answers that [wait](Unread::wait) for their uploads wait for three fifths at most, of 9 s
    /// without a deadline.
    ///
    /// Give the time that the supervisor allows, less a second, if a client that never ends its request must not be what the
    /// process is killed for: Docker kills after 10 s, Kubernetes after 30 s, systemd after 90 s (`TimeoutStopSec`).
    /// [`Duration::MAX`] waits for handlers as no deadline does, and then for what lingers, no longer than [`Policy::total`].
    pub fn within(mut self, deadline: Duration) -> Self {
        self.life.deadline = Some(deadline);
        self
    }
}

impl<L, S> Serve<L, S> {
    /// Serves above TLS: the handshake gets the lingering stream, and returns the stream on which HTTP is spoken.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn serve(listener: tokio::net::TcpListener, app: axum::Router, tls: tokio_rustls::TlsAcceptor) -> std::io::Result<()> {
    /// linger::http::serve(listener, app).above(move |stream| tls.accept(stream)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The handshake runs in the connection's own task, and has ten seconds.
    pub fn above<T>(self, handshake: T) -> Serve<L, S, T>
    where
        L: Accept,
        T: Handshake<Lingering<L::Io>>,
    {
        let Self { listener, service, layer, life, .. } = self;
        Serve { listener, service, handshake, layer, life }
    }
}

/// Turns an accepted stream into the stream on which HTTP is spoken, as a TLS handshake does. A closure implements this if it
/// returns a future with an `io::Result` of a stream.
pub trait Handshake<S>: Clone + Send + Sync + 'static {
    /// The stream on which HTTP is spoken.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Makes the handshake.
    fn begin(&self, stream: S) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// No handshake: HTTP on the stream itself.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NoHandshake;

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Handshake<S> for NoHandshake {
    type Io = S;

    async fn begin(&self, stream: S) -> io::Result<S> {
        Ok(stream)
    }
}

impl<S, T, F, I> Handshake<S> for T
where
    T: Fn(S) -> F + Clone + Send + Sync + 'static,
    F: IntoFuture<Output = io::Result<I>, IntoFuture: Send>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = I;

    fn begin(&self, stream: S) -> impl Future<Output = io::Result<I>> + Send {
        self(stream).into_future()
    }
}

impl<L, S, T, R> IntoFuture for Serve<L, S, T>
where
    L: Accept<Addr: Clone + Sync + 'static>,
    S: tower_service::Service<Request<Upload<Incoming>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    R: Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
    T: Handshake<Lingering<L::Io>>,
{
    /// Counts of the closes for which the stop has waited.
    ///
    /// An error names the wrong field of an invalid policy (`InvalidInput`, before anything is accepted), or means that
    /// [`Closer::global`] could not make a closer; no connection has needed one in that case.
    type Output = io::Result<Snapshot>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { listener, service, handshake, layer, life } = self;
        let handler = move |stream, address, stop| {
            connection(stream, address, stop, service.clone(), handshake.clone(), layer.clone())
        };
        Box::pin(run(listener, handler, life))
    }
}

/// Serves one connection. When told to stop, it ends after the request under way.
async fn connection<I, A, S, T, R>(
    mut stream: Lingering<I>,
    address: A,
    mut stop: StopNotice,
    service: S,
    handshake: T,
    layer: Layer,
) where
    I: Stream,
    A: Clone + Send + Sync + 'static,
    S: tower_service::Service<Request<Upload<Incoming>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    R: Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
    T: Handshake<Lingering<I>>,
{
    let mut stop = Stopping { until: pin!(stop.begun_until()), told: None };
    if !has_begun(&mut stream, &mut stop).await {
        return;
    }
    let connection = stream.connection();
    let Ok(Ok(stream)) = timeout(HANDSHAKE, handshake.begin(stream)).await else { return };
    let service = layer.of(&connection).wrap(service);
    #[cfg(feature = "axum")]
    let service = super::connect_info::ConnectInfo::new(service, address, connection);
    #[cfg(not(feature = "axum"))]
    drop(address);
    #[allow(unused_mut)] // Without HTTP/2.
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // WebSockets over HTTP/2 (RFC 8441).
    #[cfg(feature = "http2")]
    builder.http2().enable_connect_protocol();
    let serving =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    let mut is_stopping = false;
    // An error of the connection is the peer's to see. How the connection ends is reported by the closer.
    let _ = poll_fn(|context| {
        // First, so that a request that is here is taken before the stop.
        let served = serving.as_mut().poll(context);
        if served.is_ready() || is_stopping || stop.poll(context).is_pending() {
            return served;
        }
        is_stopping = true;
        serving.as_mut().graceful_shutdown();
        serving.as_mut().poll(context)
    })
    .await;
}

/// The stop of the server, as one connection waits for it. Once it has come its deadline is remembered, so that it can be
/// polled again.
struct Stopping<F> {
    until: F,
    /// Once the stop has come: until when a connection may still begin to send.
    told: Option<Instant>,
}

impl<F: Future<Output = Instant> + Unpin> Stopping<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        match self.told {
            Some(until) => Poll::Ready(until),
            None => Pin::new(&mut self.until).poll(context).map(|until| *self.told.insert(until)),
        }
    }
}

/// Whether the peer sends a byte or its FIN before the stop lets no connection begin any more.
///
/// If hyper is told to stop before it has seen a byte of a connection, it drops the connection, even if a request has
/// arrived that the runtime has not reported yet.
async fn has_begun<I, F>(stream: &mut Lingering<I>, stop: &mut Stopping<F>) -> bool
where
    I: Stream,
    F: Future<Output = Instant> + Unpin,
{
    let mut timer = None;
    poll_fn(|context| {
        if stream.get_mut().poll_readable(context).is_ready() {
            return Poll::Ready(true);
        }
        let timer = match &mut timer {
            Some(timer) => timer,
            None => match stop.poll(context) {
                Poll::Ready(until) => timer.insert(Box::pin(sleep_until(until))),
                Poll::Pending => return Poll::Pending,
            },
        };
        timer.as_mut().poll(context).map(|()| false)
    })
    .await
}
