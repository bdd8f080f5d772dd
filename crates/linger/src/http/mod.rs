//! The HTTP half of an early answer: what becomes of the rest of the request, and of the client's next one.
//!
//! A handler may answer before it has read the request's body: `413` from a body limit, `401` from a guard. The
//! lingering close gets that answer to the client; whether the connection can serve another request is for HTTP to say. hyper reads
//! what it has at hand of such a body and then closes, and does not announce it in a response that it has already
//! begun (`poll_drain_or_close_read`): the next request of a pooled client dies. Over HTTP/2, h2 resets the stream
//! as soon as the response is out, and some clients drop the response for it (curl 7.88: every third).
//!
//! [`layer`] puts this right, as the outermost layer of a service:
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # async fn serve(app: axum::Router) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! let listener = linger::axum::listen(listener, linger::Policy::default());
//! axum::serve(listener, app.layer(linger::http::layer())).await
//! # }
//! ```
//!
//! | the handler has answered and | HTTP/1 | HTTP/2 |
//! |---|---|---|
//! | the body was read, or there is none | the connection is kept | nothing to do |
//! | at most [`Unread::keep`] bytes are left, and they have arrived | they are discarded, the connection is kept | as below |
//! | the same, not yet arrived, and [`Unread::wait`] is given | the response waits for them, and the connection is kept | as below |
//! | more may come | the response says `Connection: close` (RFC 9112 section 9.6) | discarded within [`Unread::bytes`] and [`Unread::time`], then `RST_STREAM` with `NO_ERROR` (RFC 9113 section 8.1) |
//! | the client waits for `100 Continue` | `Connection: close`; nothing is read, since reading would ask for the body | nothing is read |
//! | it has upgraded the connection | left alone | left alone |
//! | it goes on reading in another task | left alone until it stops; the rest is discarded within the bounds | the same |
//!
//! What no layer can change: curl ends its stream at the headers of an error response, short of the length that it has
//! announced. h2 takes that for a malformed request (RFC 9113 section 8.1.1), resets the stream, and drops what it has not
//! sent yet of the response, unless nobody has the request's body any more and the response is complete. So the layer lets go
//! of a body whose length was announced as soon as the complete response has to wait for the socket or for the client's window;
//! h2 then resets the stream behind the response, as without the layer. A response of which hyper has not got everything by
//! then is lost with and without: of 30 MB curl 7.88 got about half, each of 40 times. HAProxy 2.6 does the same as a gateway.
//! Whether a response waits is known of a connection that the layer [knows](Layer::of); of others it is taken to wait if it is
//! longer than 16 KiB.
//!
//! hyper hands h2 a response's headers and then its body. On a busy machine the headers may leave alone, and the client's short end
//! is there before the body. On a connection that the layer knows, nothing is written until h2 has all of a response of at most
//! 400 KiB (at most 50 ms, once on a connection); elsewhere such a response is lost as without the layer.
//!
//! A response can say for itself what its request's body is worth, and how its connection is to end:
//!
//! ```
//! use http::{Response, StatusCode};
//! use linger::{Policy, http::Unread};
//!
//! let mut response = Response::new("come back without the body");
//! *response.status_mut() = StatusCode::UNAUTHORIZED;
//! let mut unread = Unread::default();
//! unread.keep = 0; // never read on for the sake of the connection
//! response.extensions_mut().insert(unread);
//! response.extensions_mut().insert(Policy::short());
//! ```
//!
//! The policy needs to reach the stream, and so does the news that an announced upload is unfinished, for which the
//! close waits [`idle`](crate::Policy::idle) and not only [`grace`](crate::Policy::grace). [`Layer::of`] names the
//! connection; [`serve`] does it, and so does the layer alone where handlers get a
//! [`linger::axum::Peer`](crate::axum::Peer) for connect info.
//!
//! With hyper the layer wraps the service of a connection; the request's body is an [`Upload`] of hyper's then:
//!
//! ```no_run
//! # #[cfg(feature = "hyper")]
//! # async fn serve(stream: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use hyper::{Request, Response, body::Incoming, service::service_fn};
//! use hyper_util::{rt::TokioExecutor, server::conn::auto};
//! use linger::http::Upload;
//!
//! let io = linger::hyper::io(stream, linger::Policy::default());
//! let answer = service_fn(async |_: Request<Upload<Incoming>>| {
//!     Ok::<_, std::convert::Infallible>(Response::new("early".to_owned()))
//! });
//! let answer = linger::http::layer().of(&io.inner().connection()).wrap(answer);
//! auto::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await
//! # }
//! ```

mod answer;
#[cfg(feature = "axum")]
mod connect_info;
mod drain;
#[cfg(feature = "hyper")]
mod serve;
mod service;
mod upload;

use std::time::Duration;

pub use self::answer::ResponseBody;
#[cfg(feature = "hyper")]
pub use self::serve::{Handshake, NoHandshake, Serve, serve};
pub use self::service::{ResponseFuture, Service};
pub use self::upload::Upload;

use crate::tokio::Connection;

/// What is done about the rest of a request's body that its handler has answered without reading. Plain data; every
/// field may be set directly.
///
/// Give it to the [`Layer`] for all responses, or to one response as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unread {
    /// HTTP/1: most bytes to read and discard in order to keep the connection; 0 for none.
    ///
    /// Only bytes that have arrived are read, unless [`wait`](Self::wait) says otherwise. A higher number saves new connections
    /// after refused requests with small bodies, and costs the reading.
    pub keep: u64,
    /// HTTP/1: the longest time for which the response waits for the rest of the body, if that is no more than
    /// [`keep`](Self::keep) bytes. Zero (the default) means that it does not wait.
    ///
    /// For servers behind a gateway that cannot pass an early answer on ([`behind_gateway`](Self::behind_gateway)). A longer
    /// time lets a slow client hold a handler's response.
    ///
    /// A stop of the server ends the waiting while there is time to send the response: after three fifths of the
    /// [deadline](crate::tokio::Serve::within), with [`tokio::Listener::stop_when`](crate::tokio::Listener::stop_when) after
    /// 5.4 s. That needs a layer that knows the [connection](Layer::of), as in [`serve`](crate::http::serve()); elsewhere keep this
    /// time shorter than what the process is given to end.
    pub wait: Duration,
    /// HTTP/2: most bytes to read and discard of one stream before it is reset.
    ///
    /// A higher number costs the bandwidth of uploads that nobody wants. If it is below the size of a client's upload, the
    /// client may take the reset for a failure and drop the response.
    pub bytes: u64,
    /// HTTP/2: longest time to discard, from the end of the response on.
    ///
    /// A longer time lets a slow client finish, and lets a hostile client hold a stream of its own connection.
    pub time: Duration,
    /// HTTP/2: longest time without a byte of the body, once the response has ended.
    ///
    /// A shorter time resets the streams of clients that are only slow: three losses in a row of one segment are a silence
    /// of 0.2 + 0.4 + 0.8 = 1.4 s (`TCP_RTO_MIN` and RFC 6298), and a client on a busy machine may not be scheduled
    /// for a second. With a longer time, a client that has stopped its upload and neither ends nor resets the stream holds the stream
    /// longer. (curl 7.88 and libcurl 8.11 to 8.23 end it at once.)
    pub idle: Duration,
}

impl Unread {
    /// For a server behind a gateway that cannot pass an early answer on: the response waits for the whole of the upload, up
    /// to 256 MiB and 30 s.
    ///
    /// nginx with `proxy_request_buffering off` tells its client `Connection: keep-alive` and closes the connection, or lets an
    /// HTTP/2 client wait for ever; HAProxy 2.6 resets HTTP/2 streams. Both do it too with a server that neither closes nor
    /// resets, so that only the order of the bytes can prevent it. (`docs/clients.md` in the repository has the numbers.) At a stop
    /// of the server the response does not [wait](Self::wait) to the end.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn serve(listener: tokio::net::TcpListener, app: axum::Router) -> std::io::Result<()> {
    /// use linger::http::Unread;
    ///
    /// linger::http::serve(listener, app).unread(Unread::behind_gateway()).await?;
    /// # Ok(()) }
    /// ```
    pub const fn behind_gateway() -> Self {
        let unread = Self::new();
        Self { keep: unread.bytes, wait: unread.time, ..unread }
    }

    /// The default, as a constant.
    pub const fn new() -> Self {
        Self {
            // As in Go's net/http (`maxPostHandlerReadBytes`).
            keep: 256 << 10,
            wait: Duration::ZERO,
            bytes: 256 << 20,
            // As `Policy::total`.
            time: crate::defaults::TOTAL,
            // As `Policy::idle`.
            idle: crate::defaults::IDLE,
        }
    }
}

impl Default for Unread {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer that sees to the rest of bodies that handlers leave unread, by the default [`Unread`].
pub fn layer() -> Layer {
    Layer::default()
}

/// Wraps services; see [`layer`].
#[derive(Clone, Debug, Default)]
pub struct Layer {
    unread: Unread,
    connection: Option<Connection>,
}

impl Layer {
    /// Treats the rest of bodies by `unread`, for every response that has no `Unread` of its own.
    pub fn unread(self, unread: Unread) -> Self {
        Self { unread, ..self }
    }

    /// Names the connection on which the service answers, so that its close knows of unfinished uploads and of the
    /// policies of single responses.
    pub fn of(self, connection: &Connection) -> Self {
        Self { connection: Some(connection.clone()), ..self }
    }

    /// Wraps a service, of tower or of hyper.
    pub fn wrap<S>(&self, service: S) -> Service<S> {
        Service::new(service, self.clone())
    }
}

impl<S> tower_layer::Layer<S> for Layer {
    type Service = Service<S>;

    fn layer(&self, service: S) -> Service<S> {
        self.wrap(service)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Policy;

    /// A silence that the close bears must not cost the client of a stream its answer.
    #[test]
    fn a_stream_is_waited_for_as_long_as_a_connection() {
        let (unread, policy) = (Unread::default(), Policy::default());
        assert_eq!((unread.idle, unread.time), (policy.idle, policy.total));
    }

    /// A gateway that cannot pass an early answer on needs the end of the upload first; HTTP/2 is as it was.
    #[test]
    fn behind_a_gateway_the_answer_waits_for_uploads_that_a_close_would_have_waited_for() {
        let (unread, plain) = (Unread::behind_gateway(), Unread::default());
        assert_eq!((unread.wait, unread.keep), (Policy::default().total, 256 << 20));
        assert_eq!(Unread { wait: plain.wait, keep: plain.keep, ..unread }, plain);
    }
}
