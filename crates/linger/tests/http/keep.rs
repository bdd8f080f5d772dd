//! HTTP/1: when a connection is kept, and when its end is announced.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use linger::Closer;
use linger::http::Unread;
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::sandboxed;

use crate::server::{Kind, Server};
use crate::support::{LONG, until};

/// A client of one connection that reads no more than one response at a time.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Response {
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn closes(&self) -> bool {
        self.head.to_ascii_lowercase().contains("connection: close")
    }
}

impl Client {
    fn new(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.stream.write_all(request.as_ref()).unwrap();
        self.response_to(request.as_ref()).unwrap()
    }

    /// The next response; `None` if the connection has ended.
    fn response(&mut self) -> Option<Response> {
        self.response_to(b"")
    }

    fn response_to(&mut self, request: &[u8]) -> Option<Response> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.fill()?,
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.lines().next().unwrap().trim().parse::<usize>().unwrap());
        let length = if request.starts_with(b"HEAD") { 0 } else { length };
        while self.buffer.len() < length {
            self.fill()?;
        }
        Some(Response { head, body: self.buffer.drain(..length).collect() })
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 4096];
        let read = self.stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        self.buffer.extend(&chunk[..read]);
        Some(())
    }

    /// Whether the server ends the connection, and cleanly, without having been asked for more.
    fn is_ended(&mut self) -> bool {
        self.stream.read(&mut [0]).is_ok_and(|read| read == 0)
    }

    /// Whether the connection serves another request.
    fn is_kept(&mut self) -> bool {
        let _ = self.stream.write_all(b"GET /hello HTTP/1.1\r\nhost: t\r\n\r\n");
        self.response().is_some_and(|response| response.body == b"hello")
    }
}

fn post(path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: t\r\n{more}\r\n").into_bytes();
    request.extend(body);
    request
}

fn sized(path: &str, length: usize, sent: usize) -> Vec<u8> {
    post(path, &format!("content-length: {length}\r\n"), &vec![b'u'; sent])
}

const UNKEPT: &str = "the handler has said that the rest is worth nothing";

/// Requests, and whether the connection is to be kept after each.
fn cases() -> Vec<(&'static str, Vec<u8>, bool)> {
    let chunked = |body: &[u8]| post("/unread", "transfer-encoding: chunked\r\n", body);
    vec![
        ("no body", b"GET /unread HTTP/1.1\r\nhost: t\r\n\r\n".to_vec(), true),
        ("HEAD", b"HEAD /hello HTTP/1.1\r\nhost: t\r\n\r\n".to_vec(), true),
        ("an empty body", sized("/unread", 0, 0), true),
        ("a body that is read", sized("/read", 100_000, 100_000), true),
        ("a small body that is here", sized("/unread", 1000, 1000), true),
        ("one byte of it is missing", sized("/unread", 1000, 999), false),
        ("more is announced than is worth reading", sized("/unread", (256 << 10) + 1, 1000), false),
        ("the last chunk is here", chunked(b"3\r\nabc\r\n0\r\n\r\n"), true),
        ("a last chunk is missing", chunked(b"3\r\nabc\r\n"), false),
        (UNKEPT, sized("/unkept", 1000, 1000), false),
        ("a body that another task drops later", sized("/elsewhere", 1000, 1000), true),
        (
            "100 Continue is awaited",
            post("/unread", "content-length: 9\r\nexpect: 100-continue\r\n", b""),
            false,
        ),
    ]
}

#[test]
fn a_connection_is_kept_exactly_if_nothing_more_of_the_request_can_come() {
    sandboxed(|| {
        let [bare, layer, serve] = [Kind::Bare, Kind::Layer, Kind::Serve].map(Server::start);
        for ((what, request, is_kept), server) in
            cases().into_iter().flat_map(|case| [(case.clone(), &layer), (case, &serve)])
        {
            let mut client = Client::new(server);
            let response = client.ask(&request);
            assert_eq!(response.closes(), !is_kept, "{what}: {}", response.head);
            assert!(!response.head.contains("100 Continue"), "{what}: {}", response.head);
            if is_kept {
                assert!(client.is_kept(), "{what}");
            } else {
                assert!(client.is_ended(), "{what}");
                // The bare server does not keep the connection either, whatever its response says, except where the
                // handler wants this.
                let mut client = Client::new(&bare);
                client.ask(&request);
                assert_eq!(client.is_kept(), what == UNKEPT, "{what}: bare is better");
            }
        }
    });
}

/// Behind the gate, where all of the body has arrived before the handler answers.
#[test]
fn a_body_of_many_frames_is_discarded_if_all_of_it_is_here() {
    sandboxed(|| {
        let server = Server::start(Kind::Layer);
        for (sent, is_kept) in [(64 << 10, true), ((64 << 10) - 1, false)] {
            let mut client = Client::new(&server);
            client.stream.write_all(&sized("/gated", 64 << 10, sent)).unwrap();
            server.gate.add_permits(1);
            let response = client.response().unwrap();
            assert_eq!(response.closes(), !is_kept, "{sent}: {}", response.head);
            assert_eq!(client.is_kept(), is_kept, "{sent}");
        }
    });
}

#[test]
fn a_handler_that_reads_is_waited_for_with_100_continue() {
    sandboxed(|| {
        let server = Server::start(Kind::Layer);
        let mut client = Client::new(&server);
        let head = post("/read", "content-length: 9\r\nexpect: 100-continue\r\n", b"");
        assert!(client.ask(head).head.starts_with("HTTP/1.1 100 Continue"));
        let response = client.ask(b"123456789");
        assert_eq!((response.body.as_slice(), response.closes()), (b"9".as_slice(), false));
        assert!(client.is_kept());
    });
}

#[test]
fn an_upgrade_is_left_alone() {
    sandboxed(|| {
        let server = Server::start(Kind::Layer);
        let request = post("/upgraded", "connection: upgrade\r\nupgrade: t\r\ncontent-length: 9\r\n", b"");
        let response = Client::new(&server).ask(request);
        assert!(response.head.contains("connection: upgrade") && !response.closes(), "{}", response.head);
    });
}

#[test]
fn kept_connections_are_the_same_ones() {
    sandboxed(|| {
        let server = Server::start(Kind::Layer);
        let mut client = Client::new(&server);
        for _ in 0..100 {
            assert!(!client.ask(sized("/unread", 1000, 1000)).closes());
        }
        assert_eq!(server.accepted(), 1);
    });
}

/// A client that sends only the head of an upload, pauses, then sends the body, and only then reads. Returns whether
/// it could write all of it, and what it got.
fn pauses_before_its_body(server: &Server, head: &str) -> (Result<(), ErrorKind>, Option<Vec<u8>>) {
    let mut client = Client::new(server);
    let mut wrote = client.stream.write_all(head.as_bytes());
    // Longer than `grace`, shorter than `idle`. The pause is what the client does, not a wait for the server.
    std::thread::sleep(Duration::from_millis(900));
    for _ in 0..8 {
        wrote = wrote.and_then(|()| client.stream.write_all(&[b'u'; 16 << 10]));
        std::thread::sleep(Duration::from_millis(20));
    }
    let response = client.response();
    (wrote.map_err(|error| error.kind()), response.map(|response| response.body))
}

#[test]
fn an_announced_upload_is_waited_for_as_long_as_idle() {
    sandboxed(|| {
        // The answer is small, and acknowledged long before the client reads it.
        let head = "POST /unread HTTP/1.1\r\nhost: t\r\ncontent-length: 131072\r\n\r\n";
        // Whether the close was over before the body came. The client gets all of the answer all the same: the socket stays.
        let is_over_before = |kind, head: &str| {
            let closer = Closer::global().unwrap();
            let before = closer.snapshot().ended;
            assert_eq!(
                pauses_before_its_body(&Server::start(kind), head),
                (Ok(()), Some(b"unread".to_vec()))
            );
            let ended = until(closer, |now| now.ended.total() > before.total()).ended;
            ended.acknowledged > before.acknowledged
        };
        assert!(!is_over_before(Kind::Serve, head));
        if !TELLS_ACKNOWLEDGED {
            // Any silent peer is waited for as long as `idle`.
            return;
        }
        // Nobody has told the stream about the announced upload.
        assert!(is_over_before(Kind::Listen, head));
        // Nothing is owed to one that asks for leave and does not wait for it.
        assert!(is_over_before(Kind::Serve, &head.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n")));
    });
}

#[test]
fn a_response_says_how_its_connection_ends() {
    sandboxed(|| {
        let request = "GET /aborted HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
        for (kind, ends, is_reset) in [(Kind::Serve, 1, true), (Kind::Listen, 2, false)] {
            let server = Server::start(kind);
            let mut client = Client::new(&server);
            client.ask(request);
            let end = client.stream.read(&mut [0]).map_err(|error| error.kind());
            // A FIN goes before the reset, and may be read first.
            assert!(end == Ok(0) || is_reset, "{kind:?} {end:?}");
            drop(client);
            let snapshot = until(Closer::global().unwrap(), |snapshot| snapshot.ended.total() == ends);
            assert_eq!(snapshot.ended.aborted, 1, "{kind:?} {snapshot:?}");
        }
    });
}

#[test]
fn an_answer_waits_for_the_body_if_it_is_told_to() {
    sandboxed(|| {
        let mut unread = Unread::default();
        unread.wait = LONG;
        let server = Server::with(Kind::Serve, unread);
        let mut client = Client::new(&server);
        client.stream.write_all(&sized("/unread", 1000, 999)).unwrap();
        // When this second client is served, the handler of the first has answered.
        assert!(Client::new(&server).is_kept());
        let response = client.ask("u");
        assert!(!response.closes(), "{response:?}");
        assert!(client.is_kept());

        // The same if the client asks for the close: it may be a gateway.
        let mut client = Client::new(&server);
        let closing = "content-length: 1000\r\nconnection: close\r\n";
        client.stream.write_all(&post("/unread", closing, &[b'u'; 999])).unwrap();
        client.stream.write_all(b"u").unwrap();
        assert_eq!(client.response().unwrap().body, b"unread");
        assert!(client.is_ended());

        // The response waits no longer than `wait`, and for no more than `keep` bytes.
        unread.wait = Duration::from_millis(50);
        let server = Server::with(Kind::Serve, unread);
        assert!(Client::new(&server).ask(sized("/unread", 1000, 999)).closes());
        unread.wait = LONG * 10;
        unread.keep = 998;
        let server = Server::with(Kind::Serve, unread);
        assert!(Client::new(&server).ask(sized("/unread", 1000, 1000)).closes());
    });
}
