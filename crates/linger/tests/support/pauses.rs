//! Peers that pause, each by its own clock: in seconds, whatever the server's policy is.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use linger::{Closer, Outcome, Policy};
use socket2::{SockFilter, SockRef};

use crate::support::{Got, LONG, RESPONSE, connect_small};

/// axum behind the one line, on a runtime of its own that lives as long as this.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Answers `GET` with a page larger than what the kernels of both ends hold of it for a client that does not
    /// read, and refuses a `POST` of more than 1,024 bytes before it has read it.
    pub(crate) fn start(policy: Policy, closer: &Closer) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let closer = closer.clone();
        runtime.spawn(async move {
            let app = Router::new()
                .route("/", get(|| async { vec![b'r'; RESPONSE] }))
                .route("/", post(|body: axum::body::Bytes| async move { body.len().to_string() }))
                .route("/refused", post(|| async { (StatusCode::UNAUTHORIZED, vec![b'r'; RESPONSE]) }))
                .layer(DefaultBodyLimit::max(1024));
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(linger::axum::listen_with(listener, policy, &closer), app).await
        });
        Self { address, _runtime: runtime }
    }
}

/// The result of a client: whether all its writes succeeded, and the whole of a response.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) wrote: Result<(), ErrorKind>,
    /// Status and length of a body that came whole, before a clean end.
    pub(crate) whole: Option<(u16, usize)>,
}

fn seen(wrote: std::io::Result<()>, got: &Got) -> Seen {
    let status = std::str::from_utf8(got.bytes.get(9..12).unwrap_or_default()).ok();
    let status = status.and_then(|status| status.parse().ok());
    let whole = got.body().and_then(|body| Some((status?, body.len())));
    Seen { wrote: wrote.map_err(|error| error.kind()), whole }
}

/// Asks, reads nothing for `pause`, sends something more, and then reads to the end. Its kernel answers all the
/// while.
pub(crate) fn reads_late(server: SocketAddr, pause: Duration) -> Seen {
    let mut stream = connect_small(server);
    stream.set_read_timeout(Some(LONG)).unwrap();
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    // The pause itself.
    thread::sleep(pause);
    let wrote = asked.and_then(|()| stream.write_all(b"x"));
    seen(wrote, &Got::read(stream))
}

/// Uploads in pieces with a pause after each, and reads the answer only when all is written, as http.client does.
pub(crate) fn uploads_slowly(server: SocketAddr, path: &str, pieces: usize, pause: Duration) -> Seen {
    const PIECE: usize = 16 << 10;
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", pieces * PIECE);
    let mut wrote = stream.write_all(head.as_bytes());
    for _ in 0..pieces {
        wrote = wrote.and_then(|()| stream.write_all(&[b'u'; PIECE]));
        // The pause itself.
        thread::sleep(pause);
    }
    seen(wrote, &Got::read(stream))
}

/// Drops every segment that comes for this socket before its TCP sees it: nobody answers for it any more.
pub(crate) fn vanish(socket: &impl AsFd) {
    /// `BPF_RET | BPF_K` with 0: keep nothing (`sk_filter_trim_cap`).
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[DROP]).unwrap();
}

/// When a client vanishes, if it does.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(dead_code)] // Each of the two binaries uses a part.
pub(crate) enum Vanishes {
    Never,
    /// Before the response: all of it that leaves is in flight.
    WithDataInFlight,
    /// When it has taken what its buffer holds: its window is closed.
    WithItsWindowClosed,
}

/// A client that reads nothing. Returns the outcome of its connection's close.
pub(crate) fn reads_nothing(vanishes: Vanishes, policy: &Policy) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect_small(listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    if vanishes == Vanishes::WithDataInFlight {
        vanish(&client);
    }
    server.write_all(&[7; RESPONSE]).unwrap();
    if vanishes == Vanishes::WithItsWindowClosed {
        // What is not in the client's buffer by then never gets there, because nobody reads.
        let mut before = u64::MAX;
        loop {
            let queue = linger_sys::send_queue(server.as_fd()).unwrap();
            if queue == before {
                break;
            }
            before = queue;
            thread::sleep(Duration::from_millis(50));
        }
        vanish(&client);
    }
    linger::close(server, policy)
}

/// The result of a client whose writes all succeeded and that got a response of this status and length.
pub(crate) fn all(status: u16, bytes: usize) -> Seen {
    Seen { wrote: Ok(()), whole: Some((status, bytes)) }
}
