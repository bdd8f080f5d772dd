//! The close for hyper: the stream that a connection is served on.
//!
//! hyper shuts its stream down at the end of a connection and drops it; on a [`Lingering`] stream the one sends the
//! FIN and the other hands over to the closer, so nothing else is to be done. HTTP/1, HTTP/2 and either of them by
//! `hyper_util::server::conn::auto`. `serve_connection_with_upgrades` gives an upgraded connection's stream to the
//! handler, and it lingers when that drops it. What becomes of requests that are answered before their bodies are read is
//! the [layer's](crate::http); [`linger::http::serve`](crate::http::serve) is all of it together.
//!
//! A server with connections and a stop of its own:
//!
//! ```no_run
//! use std::convert::Infallible;
//! use std::pin::pin;
//! use std::time::Duration;
//! use http_body_util::Full;
//! use hyper::{Request, Response, body::{Bytes, Incoming}, service::service_fn};
//! use hyper_util::{rt::{TokioExecutor, TokioIo}, server::{conn::auto, graceful::GracefulShutdown}};
//! use linger::{Closer, Policy, http::Upload, tokio::Listener};
//!
//! # async fn serve(listener: tokio::net::TcpListener, sigterm: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
//! // At the stop the listener is closed, and the connections in its accept queue are returned first.
//! let (mut listener, stopped) = Listener::new(listener, Policy::default()).stop_when(sigterm);
//! let (mut stopped, graceful) = (pin!(stopped), GracefulShutdown::new());
//! loop {
//!     let stream = tokio::select! {
//!         (stream, _) = listener.accept() => stream, // makes room where descriptors run out
//!         () = stopped.as_mut() => break,
//!     };
//!     let answer = service_fn(async |_: Request<Upload<Incoming>>| {
//!         Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("early"))))
//!     });
//!     let answer = linger::http::layer().of(&stream.connection()).wrap(answer);
//!     let builder = auto::Builder::new(TokioExecutor::new());
//!     let connection = builder.serve_connection(TokioIo::new(stream), answer).into_owned();
//!     tokio::spawn(graceful.watch(connection));
//! }
//! // Requests under way end first, as long as the program likes to wait, then what lingers.
//! let _ = tokio::time::timeout(Duration::from_secs(7), graceful.shutdown()).await;
//! let closer = Closer::global()?;
//! tokio::task::spawn_blocking(|| closer.finish(Duration::from_secs(2))).await?;
//! # Ok(()) }
//! ```
//!
//! **tonic** takes any stream of connections: `Server::serve_with_incoming` wants items that are
//! `AsyncRead + AsyncWrite + Connected`. Wrap what the listener accepts in a [`Lingering`] stream within a type
//! of one's own that implements `tonic::transport::server::Connected` by asking
//! [`Lingering::get_ref`] for the addresses, and passes the reads and writes through.
//!
//! **TLS** goes above: `TokioIo::new(acceptor.accept(Lingering::new(stream, policy)).await?)`.

use hyper_util::rt::TokioIo;

use crate::Policy;
use crate::tokio::{Lingering, Stream};

/// Wraps an accepted stream for hyper, so that the global closer ends the connection by `policy`. Use it in place of
/// `TokioIo::new(stream)`.
pub fn io<S: Stream>(stream: S, policy: Policy) -> TokioIo<Lingering<S>> {
    TokioIo::new(Lingering::new(stream, policy))
}
