//! axum with handlers that leave bodies unread, bare, behind the one line, and with the layer.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::serve::ListenerExt;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use linger::Policy;
use linger::axum::listen;
use linger::http::Unread;
use tokio::sync::Semaphore;

use crate::support::RESPONSE;

/// Bytes of a response that leaves in one write with its headers.
pub(crate) const SHORT: usize = 1_000;

/// How much of this crate a server uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Bare,
    /// The lingering close alone.
    Listen,
    /// The lingering close and the layer.
    Layer,
    /// A server of this crate, which has both, and tells the stream what was announced.
    Serve,
}

/// A server on a runtime of its own that lives as long as this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Lets handlers of `/gated` answer.
    pub(crate) gate: Arc<Semaphore>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::with(kind, Unread::default())
    }

    pub(crate) fn with(kind: Kind, unread: Unread) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (accepted, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counter, app) = (accepted.clone(), app(&gate));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let count = move || _ = counter.fetch_add(1, Ordering::SeqCst);
            match kind {
                Kind::Bare => axum::serve(listener.tap_io(move |_| count()), app).await,
                Kind::Listen => {
                    let listener = listen(listener, Policy::default()).tap_io(move |_| count());
                    axum::serve(listener, app).await
                }
                Kind::Layer => {
                    let listener = listen(listener, Policy::default()).tap_io(move |_| count());
                    axum::serve(listener, app.layer(linger::http::layer().unread(unread))).await
                }
                Kind::Serve => linger::http::serve(listener, app).unread(unread).await.map(drop),
            }
        });
        Self { address, accepted, gate, _runtime: runtime }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn app(gate: &Arc<Semaphore>) -> Router {
    let gate = gate.clone();
    let limited = Router::new()
        .route("/limit", post(|body: Bytes| async move { body.len().to_string() }))
        .layer(DefaultBodyLimit::max(1024));
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/unread", any(|| async { "unread" }))
        .route("/refused", any(|| async { (StatusCode::UNAUTHORIZED, vec![b'r'; RESPONSE]) }))
        .route("/refused_shortly", any(|| async { (StatusCode::UNAUTHORIZED, vec![b'r'; SHORT]) }))
        .route(
            "/refused_late/{bytes}",
            any(|Path(bytes): Path<usize>| async move {
                (StatusCode::UNAUTHORIZED, Body::new(LateBody(Some(bytes))))
            }),
        )
        .route("/read", any(|body: Bytes| async move { body.len().to_string() }))
        .route(
            "/upgraded",
            any(|| async {
                (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "t")])
            }),
        )
        .route("/unkept", any(unkept))
        .route(
            "/aborted",
            any(|| async {
                let mut response = "aborted".into_response();
                response.extensions_mut().insert(Policy::abort());
                response
            }),
        )
        .route("/elsewhere", post(elsewhere))
        .route(
            "/gated",
            post(move |body: Body| async move {
                let pass = gate.acquire().await;
                drop((body, pass));
                "gated"
            }),
        )
        .merge(limited)
}

/// A body of so many bytes, whose task is kept from running for a moment before it gives them to the server, while others run:
/// what a busy machine does now and then.
struct LateBody(Option<usize>);

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(20)));
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(vec![b'r'; bytes].into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.unwrap_or_default() as u64)
    }
}

async fn unkept() -> Response {
    let mut response = "unkept".into_response();
    let mut unread = Unread::default();
    unread.keep = 0;
    response.extensions_mut().insert(unread);
    response
}

/// Answers, and reads one frame in another task, which drops the rest.
async fn elsewhere(request: Request) -> &'static str {
    let mut body = request.into_body();
    tokio::spawn(async move { _ = body.frame().await });
    "elsewhere"
}
