//! The close for axum: one line.
//!
//! ```no_run
//! # async fn serve(app: axum::Router) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let policy = linger::Policy::default();
//! axum::serve(linger::axum::listen(listener, policy), app).await // was: axum::serve(listener, app)
//! # }
//! ```
//!
//! hyper half-closes at the end of a connection and closes at once: a client that is still uploading when an
//! early answer (`413` from a body limit, `401` from a guard) is sent gets a reset instead of it. Behind this
//! listener every connection, HTTP/1 or HTTP/2, lingers within the policy.
//!
//! The close begins where the stream is dropped, which hyper does at the end of a connection, also after a
//! malformed request. An upgraded connection (CONNECT, WebSocket) keeps its stream, and its close begins when the
//! handler drops that; until then a half-close of either side leaves the other direction as it is.
//!
//! A **graceful shutdown** (`with_graceful_shutdown`) ends with the last handler, as without the line. What lingers
//! then is the closer's: give it a deadline before the process exits.
//!
//! ```no_run
//! # async fn serve(app: axum::Router, sigterm: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
//! # use std::time::Duration;
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let closer = linger::Closer::global()?;
//! let listener = linger::axum::listen(listener, linger::Policy::default());
//! axum::serve(listener, app).with_graceful_shutdown(sigterm).await?;
//! tokio::task::spawn_blocking(|| closer.finish(Duration::from_secs(10))).await?;
//! # Ok(()) }
//! ```

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, UnixListener};

use crate::tokio::Lingering;
use crate::{Closer, Policy};

/// Wraps a listener, so that every connection it accepts is ended by `policy`.
pub fn listen<L: Accept>(listener: L, policy: Policy) -> Listener<L> {
    Listener { listener, policy, closer: None }
}

/// A listener for `axum::serve` whose connections linger; see [`listen`].
#[derive(Debug)]
pub struct Listener<L> {
    listener: L,
    policy: Policy,
    closer: Option<Closer>,
}

impl<L: Accept> Listener<L> {
    /// Closes the connections with this closer and its budget instead of the global one.
    pub fn with_closer(self, closer: &Closer) -> Self {
        Self { closer: Some(closer.clone()), ..self }
    }
}

/// A listener of tokio's that can be wrapped: [`TcpListener`] or [`UnixListener`].
pub trait Accept: Send + Sync + sealed::Accept {}

impl Accept for TcpListener {}
impl Accept for UnixListener {}

mod sealed {
    use std::future::Future;
    use std::io;

    use crate::tokio::Stream;

    pub trait Accept: 'static {
        type Stream: Stream + Send + 'static;
        type Addr: Clone + Send + Sync + 'static;
        fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send;
        fn local_addr(&self) -> io::Result<Self::Addr>;
    }
}

impl sealed::Accept for TcpListener {
    type Stream = tokio::net::TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&self) -> io::Result<(Self::Stream, Self::Addr)> {
        self.accept().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local_addr()
    }
}

impl sealed::Accept for UnixListener {
    type Stream = tokio::net::UnixStream;
    type Addr = Arc<tokio::net::unix::SocketAddr>;

    async fn accept(&self) -> io::Result<(Self::Stream, Self::Addr)> {
        self.accept().await.map(|(stream, address)| (stream, Arc::new(address)))
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local_addr().map(Arc::new)
    }
}

impl<L: Accept> axum::serve::Listener for Listener<L> {
    type Io = Lingering<L::Stream>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let stream = match &self.closer {
                        Some(closer) => Lingering::with_closer(stream, self.policy, closer),
                        None => Lingering::new(stream, self.policy),
                    };
                    return (stream, address);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(_) => {
                    // No descriptors or memory: what only lingers makes room. The accept queue holds the
                    // clients meanwhile.
                    if let Some(closer) = self.closer.as_ref().or_else(|| Closer::global().ok()) {
                        closer.evict(ROOM);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// How many lingering sockets make room when there are no descriptors left.
const ROOM: usize = 64;

/// Between two tries to accept without descriptors.
const PAUSE: Duration = Duration::from_millis(20);

fn concerns_one_connection(error: &io::Error) -> bool {
    let kinds = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
    kinds.contains(&error.kind())
}

/// The other end of a request's connection, for handlers: its address, and how the connection is to end.
///
/// ```no_run
/// use axum::extract::ConnectInfo;
/// use linger::axum::{Peer, listen};
/// use linger::Policy;
///
/// async fn refuse(ConnectInfo(peer): ConnectInfo<Peer>) -> axum::http::StatusCode {
///     peer.close_with(Policy::abort()); // has been seen misbehaving
///     axum::http::StatusCode::TOO_MANY_REQUESTS
/// }
/// # async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let app = axum::Router::new().route("/", axum::routing::get(refuse));
/// let app = app.into_make_service_with_connect_info::<Peer>();
/// axum::serve(listen(listener, Policy::default()), app).await
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Peer<Address = std::net::SocketAddr> {
    /// Where the connection comes from.
    pub address: Address,
    instead: Arc<OnceLock<Policy>>,
}

impl<Address> Peer<Address> {
    /// Ends this connection by another policy than the listener's; the first call counts.
    pub fn close_with(&self, policy: Policy) {
        // A second call is no mistake: several requests of one connection may ask for it.
        let _ = self.instead.set(policy);
    }
}

impl<L: Accept> Connected<IncomingStream<'_, Listener<L>>> for Peer<L::Addr> {
    fn connect_info(stream: IncomingStream<'_, Listener<L>>) -> Self {
        Self { address: stream.remote_addr().clone(), instead: stream.io().instead() }
    }
}
