//! The close for hyper: the stream that a connection is served on.
//!
//! hyper shuts its stream down at the end of a connection and drops it; on a [`Lingering`] stream the one sends the
//! FIN and the other hands over to the closer, so nothing else is to be done. HTTP/1, HTTP/2 and either of them by
//! `hyper_util::server::conn::auto`. `serve_connection_with_upgrades` gives an upgraded connection's stream to the
//! handler, and it lingers when that drops it. After `graceful_shutdown`, wait for
//! [`Closer::finish`](crate::Closer::finish) before the process exits. What becomes of requests that are answered before
//! their bodies are read is the [layer's](crate::http); [`linger::http::serve`](crate::http::serve) is all of it together.
//!
//! ```no_run
//! use std::convert::Infallible;
//! use http_body_util::Full;
//! use hyper::{Response, body::{Bytes, Incoming}, service::service_fn};
//! use hyper_util::{rt::{TokioExecutor, TokioIo}, server::conn::auto};
//! use linger::http::Upload;
//!
//! # async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
//! let mut listener = linger::tokio::Listener::new(listener, linger::Policy::default());
//! loop {
//!     let (stream, _) = listener.accept().await; // makes room where descriptors run out
//!     tokio::spawn(async move {
//!         let answer = service_fn(async |_: hyper::Request<Upload<Incoming>>| {
//!             Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("early"))))
//!         });
//!         let answer = linger::http::layer().of(&stream.connection()).wrap(answer);
//!         auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await
//!     });
//! }
//! # }
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
