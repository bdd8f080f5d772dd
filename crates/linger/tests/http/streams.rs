//! Responses that go on while their clients leave, cancel, or end their own direction: what the handler and the client
//! notice must be what they notice with the bare server.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use linger::Policy;
use linger_testing::sandboxed;

use crate::support::LONG;

const EVENT: &[u8] = b"data: hello\n\n";

/// An event stream: one event, and then nothing for ever. Tells when the server gives it up.
struct Events {
    is_begun: bool,
    _given_up: mpsc::Sender<()>,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(EVENT)))))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bare,
    Listen,
    Layer,
    Serve,
}

const KINDS: [Kind; 4] = [Kind::Bare, Kind::Listen, Kind::Layer, Kind::Serve];

struct Server {
    address: std::net::SocketAddr,
    /// Receives nothing, and ends when the event stream has been given up.
    given_up: mpsc::Receiver<()>,
    runtime: tokio::runtime::Runtime,
}

/// A server with one event stream, and `/hello`.
fn start(kind: Kind) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (tell, given_up) = mpsc::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let events = move || {
        let tell = tell.lock().unwrap().take().expect("one client asks for events");
        async move { Body::new(Events { is_begun: false, _given_up: tell }) }
    };
    let app = Router::new().route("/events", get(events)).route("/hello", get(|| async { "hello" }));
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let lingering = |listener| linger::axum::listen(listener, Policy::default());
        match kind {
            Kind::Bare => axum::serve(listener, app).await,
            Kind::Listen => axum::serve(lingering(listener), app).await,
            Kind::Layer => axum::serve(lingering(listener), app.layer(linger::http::layer())).await,
            Kind::Serve => linger::http::serve(listener, app).await.map(drop),
        }
    });
    Server { address, given_up, runtime }
}

impl Server {
    /// Waits until the handler's stream has been dropped.
    fn gives_up(&self) {
        assert_eq!(self.given_up.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    fn keeps_on(&self) {
        assert_eq!(self.given_up.try_recv(), Err(mpsc::TryRecvError::Empty));
    }

    /// A client that has read the first event.
    fn listening(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: t\r\n\r\n").unwrap();
        let mut got = Vec::new();
        // A chunk ends with an empty line of its own (RFC 9112 section 7.1).
        while !got.ends_with(&[EVENT, b"\r\n"].concat()) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            got.extend(byte);
        }
        stream
    }
}

/// A server that went on with an event stream whose client is gone would keep its database cursor, lock or
/// subscription for ever.
#[test]
fn an_event_stream_ends_when_its_client_leaves() {
    sandboxed(|| {
        for kind in KINDS {
            let server = start(kind);
            let client = server.listening();
            server.keeps_on();
            drop(client);
            server.gives_up();
        }
    });
}

/// hyper takes the end of the client's direction for the client's end.
#[test]
fn an_event_stream_ends_when_its_client_half_closes() {
    sandboxed(|| {
        let told = KINDS.map(|kind| {
            let server = start(kind);
            let mut client = server.listening();
            client.shutdown(Shutdown::Write).unwrap();
            server.gives_up();
            client.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
        });
        // The same for all: nothing more comes, and the connection ends without an error.
        assert_eq!(told, [Ok(0); KINDS.len()]);
    });
}

/// As a client of gRPC does that cancels a server's stream: the handler hears of it, and the connection is as good as
/// before.
#[test]
fn a_stream_of_http2_ends_alone_when_its_client_cancels_it() {
    sandboxed(|| {
        for kind in KINDS {
            let server = start(kind);
            let address = server.address;
            server.runtime.block_on(async {
                let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
                let (mut send, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                let get = |path: &str| {
                    hyper::Request::get(format!("http://t{path}")).body(Empty::<Bytes>::new()).unwrap()
                };
                let mut events = send.send_request(get("/events")).await.unwrap().into_body();
                let event = events.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(event, EVENT, "{kind:?}");
                server.keeps_on();
                drop(events);
                let hello = send.send_request(get("/hello")).await.unwrap();
                let hello = hello.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(hello, "hello", "{kind:?}");
            });
            server.gives_up();
        }
    });
}
