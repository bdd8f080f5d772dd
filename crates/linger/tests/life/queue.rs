//! What becomes of the connections in the accept queue at a stop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use linger::http::Unread;
use linger::tokio::Accept;
use linger::{Policy, Snapshot};
use linger_testing::sandboxed;

use crate::{Server, Signal, app, by_axum, by_hyper, connect, served};

/// tokio's listener without its `close`: the accept queue is lost with it.
struct Forgetful(tokio::net::TcpListener);

impl Accept for Forgetful {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> io::Result<(Self::Io, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The results of clients that connected and asked while the only thread of the server was busy, until the server was
/// stopped.
fn queued<F: Future<Output = Snapshot>>(
    serve: impl FnOnce(tokio::net::TcpListener, Router, Signal) -> F + Send + 'static,
) -> Vec<Result<bool, ErrorKind>> {
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Arc::new(std::sync::Mutex::new(may_go));
    let block = move || {
        let (begun, may_go) = (begun.clone(), may_go.clone());
        async move {
            begun.send(()).unwrap();
            // The whole runtime waits here.
            may_go.lock().unwrap().recv().unwrap();
            "done"
        }
    };
    let app = app().route("/block", get(block));
    let mut server = Server::run(move |listener, stopped| serve(listener, app, stopped));
    let mut first = connect(server.address);
    first.write_all(b"GET /block HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    has_begun.recv().unwrap();
    let clients: Vec<_> = (0..QUEUE)
        .map(|_| {
            let mut client = connect(server.address);
            client.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
            client
        })
        .collect();
    server.stop();
    go.send(()).unwrap();
    let clients = clients.into_iter().map(|mut client| {
        let mut got = Vec::new();
        let read = client.read_to_end(&mut got).map_err(|error| error.kind());
        read.map(|_| got.ends_with(b"hello"))
    });
    let got = clients.collect();
    server.thread.join().unwrap();
    // Refused, not reset.
    assert_eq!(TcpStream::connect(server.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    got
}

const QUEUE: usize = 40;
const SERVED: [Result<bool, ErrorKind>; QUEUE] = [Ok(true); QUEUE];
const RESET: Result<bool, ErrorKind> = Err(ErrorKind::ConnectionReset);

#[test]
fn who_is_in_the_accept_queue_at_a_stop_is_served() {
    sandboxed(|| {
        assert_eq!(queued(served), SERVED);
        assert_eq!(
            queued(|listener, app, stopped| served(Forgetful(listener), app, stopped)),
            [RESET; QUEUE]
        );
    });
}

#[test]
fn axum_serves_the_accept_queue_if_its_listener_knows_of_the_stop() {
    let until = |listener, app, signal| {
        let (listener, stopped) = linger::axum::listen_until(listener, Policy::default(), signal);
        by_axum(listener, app, Box::pin(stopped))
    };
    sandboxed(move || {
        assert_eq!(queued(until), SERVED);
        // If it does not know, as without this crate. Before each accept axum chooses at random between the connection
        // and the stop: 2^-40 that all are accepted.
        let listen =
            |listener, app, stopped| by_axum(linger::axum::listen(listener, Policy::default()), app, stopped);
        assert!(queued(listen).contains(&RESET));
        assert!(queued(by_axum).contains(&RESET));
    });
}

#[test]
fn hyper_serves_the_accept_queue_if_its_listener_knows_of_the_stop() {
    sandboxed(|| {
        let until = |listener, app, signal| async {
            by_hyper(listener, app, Policy::default(), Unread::default(), signal).await;
            linger::Closer::global().unwrap().snapshot()
        };
        assert_eq!(queued(until), SERVED);
        // Without this crate, and with a loop that drops its listener at the stop.
        let bare = |listener, app, signal| async {
            by_bare_hyper(listener, app, signal).await;
            Snapshot::default()
        };
        assert!(queued(bare).contains(&RESET));
    });
}

/// By hyper's own connections, without this crate.
async fn by_bare_hyper(listener: tokio::net::TcpListener, app: Router, mut stopped: Signal) {
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = stopped.as_mut() => break,
        };
        let service = TowerToHyperService::new(app.clone());
        let builder = auto::Builder::new(TokioExecutor::new());
        tokio::spawn(graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned()));
    }
    drop(listener);
    graceful.shutdown().await;
}
