//! Upgraded connections joined with an upstream, as behind CONNECT or a WebSocket proxy: a half-close of one side
//! leaves the other direction as it is. The bare server is the standard: both ends must see the same here as there.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::support::{LONG, RESPONSE, no_resets, undelivered, until};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use axum::routing::any;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use linger::tokio::Lingering;
use linger::{Closer, Policy};
use linger_testing::{Counters, sandboxed};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// The number of bytes that one direction carries.
const MUCH: usize = 1 << 20;

/// How a server gets its connections, and whether they linger.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    BareAxum,
    Axum,
    /// [`linger::http::serve`].
    Serve,
    BareHyper,
    Hyper,
    BareStream,
    Stream,
}

/// Each bare server with those that must be as good.
const JUDGED: [(Server, Server); 4] = [
    (Server::BareAxum, Server::Axum),
    (Server::BareAxum, Server::Serve),
    (Server::BareHyper, Server::Hyper),
    (Server::BareStream, Server::Stream),
];

/// How a client makes a tunnel of its connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// As a WebSocket does.
    Upgrade,
    /// As at a proxy.
    Connect,
    /// Without a word of HTTP.
    Raw,
}

impl Server {
    fn ways(self) -> &'static [Way] {
        match self {
            Self::BareStream | Self::Stream => &[Way::Raw],
            _ => &[Way::Upgrade, Way::Connect],
        }
    }
}

/// Which side ends its direction first, and how much it has sent by then. The other side then sends the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    /// The upstream says little and ends; the client, which has seen that, sends much.
    Upstream,
    /// The client says little and ends; the upstream, which has seen that, sends much.
    Client,
    /// Both send much at once; the upstream ends when it is done.
    Neither,
}

/// The result of a connection for one of its ends.
#[derive(Clone, Debug, PartialEq)]
struct End {
    wrote: Result<(), ErrorKind>,
    /// Bytes read, and how the reading ended.
    read: (usize, Result<(), ErrorKind>),
}

/// The results for all: the client, the upstream, and the task between them with its counts.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    client: End,
    upstream: End,
    joined: Result<(u64, u64), ErrorKind>,
}

type Joined = mpsc::Sender<Result<(u64, u64), ErrorKind>>;

async fn join(mut stream: impl AsyncRead + AsyncWrite + Unpin, upstream: SocketAddr, joined: Joined) {
    let mut upstream = tokio::net::TcpStream::connect(upstream).await.unwrap();
    let result = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
    // As a program does that has nothing more to say.
    drop((stream, upstream));
    joined.send(result.map_err(|error| error.kind())).unwrap();
}

fn app(upstream: SocketAddr, joined: Joined) -> Router {
    let upgrade = move |request: Request| async move {
        let is_connect = request.method() == Method::CONNECT;
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.unwrap();
            join(TokioIo::new(upgraded), upstream, joined).await;
        });
        if is_connect {
            return Response::default();
        }
        let head = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "t");
        head.body(Body::empty()).unwrap()
    };
    // The target of CONNECT has no path.
    Router::new().fallback(upgrade)
}

async fn serve(server: Server, listener: TcpListener, upstream: SocketAddr, joined: Joined) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let policy = Policy::default();
    match server {
        Server::BareAxum => axum::serve(listener, app(upstream, joined)).await.unwrap(),
        Server::Serve => {
            linger::http::serve(listener, app(upstream, joined)).await.unwrap();
        }
        Server::Axum => {
            axum::serve(linger::axum::listen(listener, policy), app(upstream, joined)).await.unwrap();
        }
        Server::BareHyper | Server::Hyper => {
            let app = TowerToHyperService::new(app(upstream, joined));
            let (stream, _) = listener.accept().await.unwrap();
            let server_of = auto::Builder::new(TokioExecutor::new());
            if server == Server::Hyper {
                let io = linger::hyper::io(stream, policy);
                server_of.serve_connection_with_upgrades(io, app).await.unwrap();
            } else {
                let io = TokioIo::new(stream);
                server_of.serve_connection_with_upgrades(io, app).await.unwrap();
            }
        }
        Server::BareStream => {
            let (stream, _) = listener.accept().await.unwrap();
            join(stream, upstream, joined).await;
        }
        Server::Stream => {
            let (stream, _) = listener.accept().await.unwrap();
            join(Lingering::new(stream, policy), upstream, joined).await;
        }
    }
}

fn connect(way: Way, address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    if way != Way::Raw {
        let (request, status) = if way == Way::Connect {
            ("CONNECT t:1 HTTP/1.1\r\nhost: t:1\r\n\r\n", "200")
        } else {
            ("GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: t\r\n\r\n", "101")
        };
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    stream
}

fn write(mut stream: &TcpStream, bytes: usize) -> Result<(), ErrorKind> {
    let result = stream.write_all(&vec![b'b'; bytes]).and_then(|()| stream.shutdown(Shutdown::Write));
    result.map_err(|error| error.kind())
}

fn read(mut stream: &TcpStream) -> (usize, Result<(), ErrorKind>) {
    let mut bytes = Vec::new();
    let result = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
    (bytes.len(), result)
}

/// Plays one end. It waits for the end of the other side's direction, never for a time.
fn play(stream: TcpStream, is_first: bool, both: bool) -> End {
    if both {
        let writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || write(&writer, MUCH));
        let read = read(&stream);
        return End { wrote: writing.join().unwrap(), read };
    }
    if is_first {
        let wrote = write(&stream, 10);
        return End { wrote, read: read(&stream) };
    }
    let read = read(&stream);
    End { wrote: write(&stream, MUCH), read }
}

fn tunnel(server: Server, way: Way, first: First) -> Told {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let [listener, upstream] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, up) = (listener.local_addr().unwrap(), upstream.local_addr().unwrap());
    let (joined, is_joined) = mpsc::channel();
    let serving = runtime.spawn(serve(server, listener, up, joined));
    let both = first == First::Neither;
    let upstream = thread::spawn(move || {
        let stream = upstream.accept().unwrap().0;
        stream.set_read_timeout(Some(LONG)).unwrap();
        play(stream, first == First::Upstream, both)
    });
    let client = play(connect(way, address), first == First::Client, both);
    let upstream = upstream.join().unwrap();
    let joined = is_joined.recv_timeout(LONG).unwrap();
    serving.abort();
    Told { client, upstream, joined }
}

#[test]
fn a_half_close_of_either_side_leaves_the_other_direction() {
    sandboxed(|| {
        let whole = |bytes| End { wrote: Ok(()), read: (bytes, Ok(())) };
        for first in [First::Upstream, First::Client, First::Neither] {
            let (to_client, to_upstream) = match first {
                First::Upstream => (10, MUCH),
                First::Client => (MUCH, 10),
                First::Neither => (MUCH, MUCH),
            };
            let right = Told {
                client: whole(to_client),
                upstream: whole(to_upstream),
                joined: Ok((to_upstream as u64, to_client as u64)),
            };
            for (bare, lingering) in JUDGED {
                for &way in lingering.ways() {
                    let (judge, told) = (tunnel(bare, way, first), tunnel(lingering, way, first));
                    assert_eq!(judge, right, "{bare:?}, {way:?}, {first:?}");
                    assert_eq!(told, judge, "{lingering:?} beside {bare:?}, {way:?}, {first:?}");
                }
            }
        }
    });
}

/// The tunnel's close lingers, too: the handler sends its last bytes and drops the stream while the client is still
/// sending.
#[test]
fn the_close_of_an_upgraded_connection_begins_when_the_handler_drops_it() {
    async fn upgrade(request: Request) -> Response {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            stream.write_all(&[b'b'; RESPONSE]).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let head = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "t");
        head.body(Body::empty()).unwrap()
    }
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let app = Router::new().route("/", any(upgrade));
            axum::serve(linger::axum::listen(listener, Policy::default()), app).await
        });
        let stream = connect(Way::Upgrade, address);
        let writer = stream.try_clone().unwrap();
        // Ends when the reader has everything and closes the connection.
        let writing = thread::spawn(move || while (&writer).write_all(&[b'u'; 4096]).is_ok() {});
        assert_eq!(read(&stream), (RESPONSE, Ok(())));
        assert_eq!(Counters::read().unwrap().since(&before).of("TCPAbortOnClose"), 0);
        stream.shutdown(Shutdown::Both).unwrap();
        writing.join().unwrap();
        let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == 1);
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (1, undelivered(1)), "{snapshot:?}");
        no_resets(&before);
    });
}
