//! The life of a server: its stop, its accept queue, and the shipped examples when descriptors run out.

mod examples;
mod queue;
mod stop;
#[path = "../support/mod.rs"]
mod support;
mod uploads;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use linger::http::Unread;
use linger::tokio::Accept;
use linger::{Policy, Snapshot};
use support::{LONG, RESPONSE};
use tokio::sync::oneshot;

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that is stopped by a call.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<Snapshot>,
}

impl Server {
    fn start<L: Accept<Addr: Clone + Sync>>(
        listener: impl FnOnce(tokio::net::TcpListener) -> L + Send + 'static,
        app: Router,
        deadline: Duration,
    ) -> Self {
        Self::run(move |bound, stopped| async move {
            linger::http::serve(listener(bound), app).stop_when(stopped).within(deadline).await.unwrap()
        })
    }

    fn run<F: Future<Output = Snapshot>>(
        serve: impl FnOnce(tokio::net::TcpListener, Signal) -> F + Send + 'static,
    ) -> Self {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        bound.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let summary = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(bound).unwrap();
                serve(listener, Box::pin(async { _ = stopped.await })).await
            });
            // An orderly end does not wait for this.
            runtime.shutdown_background();
            summary
        });
        Self { address, stop: Some(stop), thread }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Stops the server. Returns how long the stop takes, and its counts.
    fn stopped(mut self) -> (Duration, Snapshot) {
        let started = Instant::now();
        self.stop();
        let summary = self.thread.join().unwrap();
        (started.elapsed(), summary)
    }
}

fn app() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/refused", post(|| async { (StatusCode::UNAUTHORIZED, vec![b'r'; RESPONSE]) }))
        .route("/never", get(std::future::pending::<()>))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Much less than the policy's `total`, and much more than the deadline that is given.
const SOON: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(1);

async fn served<L: Accept<Addr: Clone + Sync>>(listener: L, app: Router, stopped: Signal) -> Snapshot {
    linger::http::serve(listener, app).stop_when(stopped).within(LONG).await.unwrap()
}

/// By `axum::serve`, whose stop lasts as long as its handlers, and lets the closes go on.
async fn by_axum<L>(listener: L, app: Router, stopped: Signal) -> Snapshot
where
    L: axum::serve::Listener<Addr: std::fmt::Debug>,
{
    axum::serve(listener, app).with_graceful_shutdown(stopped).await.unwrap();
    linger::Closer::global().unwrap().snapshot()
}

/// By hyper's own connections, as the documentation of [`linger::hyper`] has it.
async fn by_hyper(
    listener: tokio::net::TcpListener,
    app: Router,
    policy: Policy,
    unread: Unread,
    stopped: Signal,
) {
    let (mut listener, stopped) = linger::tokio::Listener::new(listener, policy).stop_when(stopped);
    let mut stopped = std::pin::pin!(stopped);
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            (stream, _) = listener.accept() => stream,
            () = stopped.as_mut() => break,
        };
        let service = TowerToHyperService::new(app.clone());
        let service = linger::http::layer().unread(unread).of(&stream.connection()).wrap(service);
        let builder = auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::spawn(graceful.watch(connection));
    }
    graceful.shutdown().await;
}
