//! HTTP/2: a client that ends its upload short of its length when it has the status of an early answer, as curl 7.88 does.
//!
//! h2 resets such a stream, and throws away what it holds of the answer, if somebody has the request's body. Here the client's
//! window makes h2 hold nearly all of it; over a slow link the socket does (`tests/clients`). And where the status leaves before
//! the body is there, nothing but the status arrives.

use std::io::{Read, Write};
use std::net::TcpStream;

use linger_testing::sandboxed;

use crate::server::{Kind, SHORT, Server};
use crate::support::{LONG, RESPONSE};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What the client lets the server send of an answer before it has ended its upload.
const WINDOW: u32 = 1000;
/// The window of a client that has no reason to let the server wait.
const WIDE: u32 = 65_535;

/// A client that speaks as little of HTTP/2 as this needs (RFC 9113 section 4.1).
struct Client(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Client {
    fn new(server: &Server, window: u32) -> Self {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut client = Self(stream);
        client.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE
        client.send(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        client
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).unwrap();
    }

    fn next(&mut self) -> Frame {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Frame { kind: head[3], flags: head[4], stream, payload }
    }

    /// Begins an upload to `path`, with this `content-length` if there is one.
    fn begin_upload(&mut self, path: &str, length: Option<&str>) {
        // Static indexes for POST and http, and literals that are not indexed (RFC 7541 section 6.2.2 and appendix A).
        let mut block = vec![0x83, 0x86];
        let mut literal = |name: u8, value: &str| {
            // A name whose index is 15 or more goes on in a second byte.
            if name < 15 {
                block.push(name)
            } else {
                block.extend([15, name - 15])
            }
            block.push(value.len() as u8);
            block.extend(value.bytes());
        };
        literal(1, "t");
        literal(4, path);
        if let Some(length) = length {
            literal(28, length);
        }
        self.send(HEADERS, END_HEADERS, 1, &block);
        self.send(DATA, 0, 1, b"the first of many bytes");
    }

    /// Waits until the server has read and written everything up to now, as many times as even a thread that has lost its processor
    /// to others needs until it has its turn.
    fn turns(&mut self) {
        for number in 0..=u8::MAX {
            self.send(PING, 0, 0, &[number; 8]);
            loop {
                match self.next() {
                    Frame { kind: PING, flags: ACK, .. } => break,
                    Frame { kind: RST_STREAM, payload, .. } => panic!("the stream is reset: {payload:?}"),
                    _ => {}
                }
            }
        }
    }

    /// Reads the answer to its end, or until the stream is reset. Returns its bytes with those that were there `before`.
    fn rest(&mut self, mut before: usize) -> usize {
        loop {
            let Frame { kind, flags, stream, payload } = self.next();
            match kind {
                DATA => before += payload.len(),
                RST_STREAM => return before,
                _ => {}
            }
            if stream == 1 && flags & END_STREAM != 0 {
                return before;
            }
        }
    }
}

/// Bytes that a client with this window gets of the early answer at a path if it ends its upload at once when it has the status.
fn got_at_once(server: &Server, window: u32, path: &str) -> usize {
    let mut client = Client::new(server, window);
    client.begin_upload(path, Some("3000000"));
    let mut bytes = 0;
    loop {
        let Frame { kind, flags, stream, payload } = client.next();
        match kind {
            HEADERS => client.send(DATA, END_STREAM, 1, b""),
            DATA => bytes += payload.len(),
            RST_STREAM => return bytes,
            _ => {}
        }
        if stream == 1 && flags & END_STREAM != 0 {
            return bytes;
        }
    }
}

/// Between hyper's two steps, the headers and the body, another thread of the runtime may write the headers. A layer that does
/// not know its connection cannot keep it from that.
#[test]
fn a_status_does_not_leave_before_its_short_answer() {
    sandboxed(|| {
        // Beyond 400 KiB nothing is held back.
        let cases = [
            (Kind::Bare, SHORT, false),
            (Kind::Layer, SHORT, false),
            (Kind::Serve, SHORT, true),
            (Kind::Serve, (400 << 10) + 1, false),
        ];
        for (kind, length, whole) in cases {
            let server = Server::start(kind);
            let path = format!("/refused_late/{length}");
            let rounds: Vec<usize> = (0..10).map(|_| got_at_once(&server, WIDE, &path)).collect();
            assert_eq!(rounds.iter().all(|bytes| *bytes == length), whole, "{kind:?} {rounds:?}");
        }
    });
}

/// A client whose window has no room for the answer gets what has room, as it does from a bare server, and the next answers too.
#[test]
fn an_answer_that_cannot_be_complete_holds_nothing_back_for_long() {
    sandboxed(|| {
        for kind in [Kind::Bare, Kind::Serve] {
            let server = Server::start(kind);
            let mut client = Client::new(&server, SHORT as u32 / 2);
            client.begin_upload("/refused_shortly", Some("3000000"));
            let mut bytes = 0;
            while bytes < SHORT / 2 {
                let frame = client.next();
                assert_ne!(frame.kind, RST_STREAM, "{kind:?}: {:?}", frame.payload);
                bytes += if frame.kind == DATA { frame.payload.len() } else { 0 };
            }
            client.turns();
            client.send(WINDOW_UPDATE, 0, 1, &(1_u32 << 20).to_be_bytes());
            assert_eq!(client.rest(bytes), SHORT, "{kind:?}");
        }
    });
}

/// Bytes that a client gets of an early answer if it ends its upload when it has the status.
fn got(kind: Kind, length: Option<&str>) -> usize {
    let server = Server::start(kind);
    let mut client = Client::new(&server, WINDOW);
    client.begin_upload("/refused", length);
    let (mut has_status, mut bytes) = (false, 0);
    while !has_status || bytes < WINDOW as usize {
        let frame = client.next();
        has_status |= frame.kind == HEADERS;
        bytes += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
    client.turns();
    client.send(DATA, END_STREAM, 1, b"");
    client.turns();
    for stream in [0, 1] {
        client.send(WINDOW_UPDATE, 0, stream, &(1_u32 << 20).to_be_bytes());
    }
    client.rest(bytes)
}

#[test]
fn an_upload_that_ends_short_costs_no_more_of_the_answer_than_bare() {
    sandboxed(|| {
        for kind in [Kind::Bare, Kind::Layer, Kind::Serve] {
            for length in [Some("3000000"), None] {
                assert_eq!(got(kind, length), RESPONSE, "{kind:?} {length:?}");
            }
        }
    });
}
