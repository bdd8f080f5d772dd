//! The close for axum: one line.
//!
//! ```no_run
//! # async fn serve(app: axum::Router) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! linger::http::serve(listener, app).await?; // was: axum::serve(listener, app).await
//! # Ok(()) }
//! ```
//!
//! hyper half-closes at the end of a connection and closes at once: a client that is still uploading when an
//! early answer (`413` from a body limit, `401` from a guard) is sent gets a reset instead of it.
//! [`linger::http::serve`](../http/fn.serve.html) serves as `axum::serve` does, and every connection, HTTP/1 or HTTP/2,
//! lingers within its policy; the rest of unread bodies is [seen to](../http/index.html); a stop is one call, with a deadline.
//!
//! **On `axum::serve`** it is a line for each of these:
//!
//! ```no_run
//! # async fn serve(app: axum::Router, sigterm: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
//! # use std::time::Duration;
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let (listener, stopped) = linger::axum::listen_until(listener, linger::Policy::default(), sigterm);
//! let app = app.layer(linger::http::layer()); // the last layer, so that it is the outermost
//! axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
//! // What lingers now is the closer's: give it a deadline before the process exits.
//! let closer = linger::Closer::global()?;
//! tokio::task::spawn_blocking(|| closer.finish(Duration::from_secs(10))).await?;
//! # Ok(()) }
//! ```
//!
//! The close begins when the stream is dropped, which hyper does at the end of a connection, also after a
//! malformed request. An upgraded connection (CONNECT, WebSocket) keeps its stream, and its close begins when the
//! handler drops that; until then a half-close of either side leaves the other direction as it is.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, ListenerExt, TapIo};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::tokio::{Accept, Connection, Lingering, Listener, Stream};
use crate::{Closer, Policy};

/// A listener for `axum::serve` whose connections linger; see [`listen`].
///
/// It is the TCP half alone: the next request of a pooled client after an early answer, and HTTP/2, need
/// `linger::http::layer` as well.
///
/// The outer type is axum's, so that `ConnectInfo<SocketAddr>` stays what it was.
pub type LingeringListener<L> = TapIo<Listener<L>, fn(&mut Lingering<<L as Accept>::Io>)>;

/// Wraps a listener, so that every connection it accepts is ended by `policy`.
///
/// **One more line is needed for pooled clients, and for HTTP/2:** `app.layer(linger::http::layer())`. A stream knows
/// bytes and not messages. After an early answer hyper ends the connection without having said `Connection: close`, and the
/// next request of a pooled client goes into a connection that is ending; only the layer can announce the end. Over HTTP/2 a
/// reset of the stream may overtake the answer, and only the layer can read the upload first. Without the layer both are as they
/// are on bare axum. `linger::http::serve` has the layer and bounds the stop.
///
/// **At a graceful stop `axum::serve` drops its listener, and the kernel resets the connections in its accept queue**,
/// as with bare axum. A listener cannot prevent this: it has no service that could answer, and to close these
/// connections without an answer would take them from another process that has the same listener (systemd's socket
/// units, a successor). [`listen_until`] lets the queue be served first, and so does `linger::http::serve`.
///
/// The listener is a [`TcpListener`] or a [`UnixListener`], each also with axum's `tap_io`, or any type that implements
/// [`Accept`]. TLS goes above the result: write a listener that implements `axum::serve::Listener` over it.
pub fn listen<L: Accept>(listener: L, policy: Policy) -> LingeringListener<L> {
    Listener::new(listener, policy).tap_io(|_| ())
}

/// Does what [`listen`] does, but `closer` ends the connections, within its budget, instead of the global closer.
pub fn listen_with<L: Accept>(listener: L, policy: Policy, closer: &Closer) -> LingeringListener<L> {
    Listener::new(listener, policy).with_closer(closer).tap_io(|_| ())
}

/// Does what [`listen`] does, until `signal`: then the listener is closed, and what is in its accept queue is served. Give
/// the second value to `with_graceful_shutdown`; see [`Listener::stop_when`].
///
/// ```no_run
/// # async fn serve(listener: tokio::net::TcpListener, app: axum::Router, sigterm: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
/// let (listener, stopped) = linger::axum::listen_until(listener, linger::Policy::default(), sigterm);
/// axum::serve(listener, app).with_graceful_shutdown(stopped).await
/// # }
/// ```
pub fn listen_until<L: Accept, F: Future<Output = ()> + Send + 'static>(
    listener: L,
    policy: Policy,
    signal: F,
) -> (LingeringListener<L>, impl Future<Output = ()> + Send + use<L, F>) {
    let (listener, stopped) = Listener::new(listener, policy).stop_when(signal);
    (listener.tap_io(|_| ()), stopped)
}

impl<L: Accept> axum::serve::Listener for Listener<L> {
    type Io = Lingering<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        Self::accept(self).await
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.local_addr()
    }
}

/// A listener that was tapped before it is wrapped. It tries again by axum's rules: at EMFILE it sleeps for a second, and
/// only the closer's [budget](crate::Budget) makes room. Tap what [`listen`] gives instead if that matters.
impl<L, F> Accept for TapIo<L, F>
where
    L: axum::serve::Listener<Io: Stream, Addr: Clone + Sync>,
    F: FnMut(&mut L::Io) + Send + 'static,
{
    type Io = L::Io;
    type Addr = L::Addr;

    async fn accept(&mut self) -> std::io::Result<(L::Io, L::Addr)> {
        Ok(axum::serve::Listener::accept(self).await)
    }

    fn local_addr(&self) -> std::io::Result<L::Addr> {
        axum::serve::Listener::local_addr(self)
    }
}

/// The other end of a request's connection, for handlers: its address, and how the connection is to end.
///
/// ```no_run
/// use axum::extract::ConnectInfo;
/// use linger::axum::Peer;
/// use linger::Policy;
///
/// async fn refuse(ConnectInfo(peer): ConnectInfo<Peer>) -> axum::http::StatusCode {
///     peer.close_with(Policy::abort()); // has been seen misbehaving
///     axum::http::StatusCode::TOO_MANY_REQUESTS
/// }
/// # async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let app = axum::Router::new().route("/", axum::routing::get(refuse));
/// linger::http::serve(listener, app).await?;
/// # Ok(()) }
/// ```
///
/// On `axum::serve` it wants `app.into_make_service_with_connect_info::<Peer>()`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer<Address = std::net::SocketAddr> {
    /// Where the connection comes from.
    pub address: Address,
    connection: Connection,
}

impl<Address> Peer<Address> {
    pub(crate) fn new(address: Address, connection: Connection) -> Self {
        Self { address, connection }
    }

    /// Ends this connection by another policy than the listener's; the first call counts.
    pub fn close_with(&self, policy: Policy) {
        self.connection.close_with(policy);
    }
}

impl<L: Accept<Addr: Clone + Sync + 'static>> Connected<IncomingStream<'_, Listener<L>>> for Peer<L::Addr> {
    fn connect_info(stream: IncomingStream<'_, Listener<L>>) -> Self {
        Self::new(stream.remote_addr().clone(), stream.io().connection())
    }
}

/// For concrete listeners only. axum implements `Connected` for the address of every tapped listener, and only for a
/// concrete address the compiler knows that it is no `Peer`. Listeners that were tapped before [`listen`] are not covered.
macro_rules! peer {
    ($listener:ty: $accept:ty) => {
        impl<F> Connected<IncomingStream<'_, TapIo<$listener, F>>> for Peer<<$accept as Accept>::Addr>
        where
            F: FnMut(&mut Lingering<<$accept as Accept>::Io>) + Send + 'static,
        {
            fn connect_info(stream: IncomingStream<'_, TapIo<$listener, F>>) -> Self {
                Self::new(stream.remote_addr().clone(), stream.io().connection())
            }
        }
    };
}

peer!(Listener<TcpListener>: TcpListener);
#[cfg(unix)]
peer!(Listener<UnixListener>: UnixListener);

/// The connection of a request, where its connect info names it.
pub(crate) fn connection(extensions: &axum::http::Extensions) -> Option<Connection> {
    let info = extensions.get::<axum::extract::ConnectInfo<Peer>>()?;
    Some(info.0.connection.clone())
}
