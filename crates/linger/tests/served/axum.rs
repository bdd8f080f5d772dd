//! The axum adapter: the early answer that bare axum loses, and its ends.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{LONG, RESPONSE, no_resets, resets, undelivered, until, upload};
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use linger::axum::{Peer, listen};
use linger::tokio::Lingering;
use linger::{Closer, Policy};
use linger_testing::Counters;
use linger_testing::sandboxed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

/// A server that refuses an upload with a large page, before it has read it.
fn app() -> Router {
    async fn refuse() -> impl IntoResponse {
        (StatusCode::PAYLOAD_TOO_LARGE, vec![b'r'; RESPONSE])
    }
    async fn hold() -> impl IntoResponse {
        HELD.fetch_add(1, Ordering::SeqCst);
        let _pass = GATE.acquire().await;
        refuse().await
    }
    Router::new().route("/", post(refuse)).route("/held", post(hold)).layer(DefaultBodyLimit::max(1024))
}

/// Requests that have come to `/held`, and what lets them go on. Each test has a process of its own.
static HELD: AtomicUsize = AtomicUsize::new(0);
static GATE: Semaphore = Semaphore::const_new(0);

/// A server on a runtime of its own, until it is told to stop. `stop` returns when the graceful shutdown is
/// over.
struct Server {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    fn start(lingering: Option<Policy>) -> Self {
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let stop = async move { stopped.notified().await };
                match lingering {
                    None => axum::serve(listener, app()).with_graceful_shutdown(stop).await,
                    Some(policy) => {
                        axum::serve(listen(listener, policy), app()).with_graceful_shutdown(stop).await
                    }
                }
                .unwrap();
            });
        });
        Self { address: told.recv().unwrap(), stop, thread }
    }

    fn stop(self) {
        self.stop.notify_one();
        self.thread.join().unwrap();
    }

    /// How many of `clients` x `rounds` uploading clients got the whole page.
    fn complete(&self, clients: usize, rounds: usize) -> usize {
        let address = self.address;
        let client = move || {
            let whole = |_: &usize| {
                let got = upload(address, HEAD, 50_000_000);
                got.body().is_some_and(|body| body == [b'r'; RESPONSE])
            };
            (0..rounds).filter(whole).count()
        };
        let clients: Vec<_> = (0..clients).map(|_| std::thread::spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    }
}

#[test]
fn eighty_uploads_refused_early_with_and_without_the_one_line() {
    sandboxed(|| {
        let bare = Server::start(None);
        let before = Counters::read().unwrap();
        assert_eq!(bare.complete(8, 10), 0, "bare axum");
        assert!(resets(&before).0 >= 80);
        bare.stop();

        let lingering = Server::start(Some(Policy::default()));
        let before = Counters::read().unwrap();
        assert_eq!(lingering.complete(8, 10), 80, "with linger::axum::listen");
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 80);
        assert_eq!(snapshot.undelivered, undelivered(80), "{snapshot:?}");
        no_resets(&before);
        lingering.stop();
    });
}

const HEAD: &str = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 50000000\r\n\r\n";

#[test]
fn after_a_graceful_shutdown_the_closer_finishes_what_lingers() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let server = Server::start(Some(Policy::default()));
        let address = server.address;
        let head = HEAD.replace("/ ", "/held ");
        let clients: Vec<_> = (0..4)
            .map(|_| head.clone())
            .map(|head| std::thread::spawn(move || upload(address, &head, 4_000_000)))
            .collect();
        let closer = Closer::global().unwrap();
        // All are being answered when the shutdown begins, so that it has to wait for all.
        while HELD.load(Ordering::SeqCst) < 4 {
            std::thread::yield_now();
        }
        server.stop.notify_one();
        while std::net::TcpStream::connect(address).is_ok() {}
        GATE.add_permits(4);
        server.thread.join().unwrap();
        closer.finish(LONG);
        let snapshot = closer.snapshot();
        // The attempts to connect were connections, too.
        assert!(snapshot.handed_over >= 4, "{snapshot:?}");
        // None was cut off: each ended by itself, not at a bound or because `finish` came to its deadline.
        let ended = &snapshot.ended;
        let at_a_bound =
            ended.timed_out_idle + ended.timed_out_total + ended.timed_out_kernel + ended.evicted;
        assert_eq!((snapshot.lingering, at_a_bound), (0, 0), "{snapshot:?}");
        for client in clients {
            let got = client.join().unwrap();
            assert!(got.body().is_some(), "{:?} {}", got.error, got.bytes.len());
        }
        assert_eq!(snapshot.undelivered, undelivered(snapshot.ended.total()));
        assert_eq!(Counters::read().unwrap().since(&before).of("TCPAbortOnClose"), 0);
    });
}

#[test]
fn a_handler_can_have_its_connection_aborted() {
    async fn refuse(ConnectInfo(peer): ConnectInfo<Peer>) -> StatusCode {
        assert!(peer.address.ip().is_loopback());
        peer.close_with(Policy::abort());
        peer.close_with(Policy::default());
        StatusCode::TOO_MANY_REQUESTS
    }
    sandboxed(|| {
        let before = Counters::read().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let app = Router::new().route("/", post(refuse)).into_make_service_with_connect_info::<Peer>();
            let server = tokio::spawn(async { axum::serve(listen(listener, Policy::default()), app).await });
            tokio::task::spawn_blocking(move || upload(address, HEAD, 50_000_000)).await.unwrap();
            server.abort();
        });
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 1);
        assert_eq!(snapshot.ended.aborted, 1, "{snapshot:?}");
        assert!(resets(&before).0 >= 1);
    });
}

#[test]
fn unix_connections_linger_too() {
    sandboxed(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let server =
                tokio::spawn(async { axum::serve(listen(listener, Policy::default()), app()).await });
            let got = tokio::task::spawn_blocking(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.write_all(HEAD.as_bytes()).unwrap();
                stream.write_all(&[b'u'; 50_000]).unwrap();
                crate::support::Got::read(stream)
            });
            assert_eq!(got.await.unwrap().body().map(<[u8]>::len), Some(RESPONSE));
            server.abort();
        });
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 1);
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (1, undelivered(1)));
    });
}

/// Over HTTP/2 the answer ends a stream and not the connection; what ends the connection is the shutdown,
/// while the client's frames are still on their way.
#[test]
fn http2_connections_end_without_a_reset() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Bytes, Frame};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    sandboxed(|| {
        let before = Counters::read().unwrap();
        let server = Server::start(Some(Policy::default()));
        let address = server.address;
        let stop = server.stop.clone();
        tokio::runtime::Runtime::new().unwrap().block_on(async move {
            let stream = TcpStream::from_std({
                let stream = crate::support::connect_small(address);
                stream.set_nonblocking(true).unwrap();
                stream
            });
            // The client lingers, too: hyper's own would reset on what the server says last.
            let io = TokioIo::new(Lingering::new(stream.unwrap(), Policy::default()));
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            let connection = tokio::spawn(connection);
            let chunks = futures_util::stream::repeat_with(|| {
                Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[b'u'; 16 << 10])))
            });
            let request = hyper::Request::post("http://test/").body(StreamBody::new(chunks)).unwrap();
            let response = send.send_request(request).await.unwrap();
            assert_eq!(response.status(), 413);
            stop.notify_one();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), RESPONSE);
            drop(send);
            connection.await.unwrap().unwrap();
        });
        server.thread.join().unwrap();
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 2);
        // Both ends of the connection went through this closer.
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (2, undelivered(2)), "{snapshot:?}");
        no_resets(&before);
    });
}
