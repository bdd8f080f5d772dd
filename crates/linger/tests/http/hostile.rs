//! Peers that violate HTTP/2, or use it against the server. Each gets an error code, and not only the end of the
//! connection; nothing panics, and nothing is left running.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use linger::Closer;
use linger_testing::sandboxed;

use crate::server::{Kind, Server};
use crate::support::{LONG, RESPONSE, connect_small, until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes (RFC 9113 section 7).
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// The largest payload of a frame, unless SETTINGS say otherwise.
const FRAME: usize = 16 << 10;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Header fields without Huffman codes and without indexing (RFC 7541).
fn head(method: u8, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut head = vec![method, 0x86, 0x04, path.len() as u8];
    head.extend(path.as_bytes());
    head.extend([0x01, 1, b't']);
    for (name, value) in more {
        head.extend([0, name.len() as u8]);
        head.extend(name.as_bytes());
        head.push(value.len() as u8);
        head.extend(value.as_bytes());
    }
    head
}

fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(0x83, path, &[]))
}

fn get_hello(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(0x82, "/hello", &[]))
}

fn rst(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

struct Peer(TcpStream);

impl Peer {
    /// A peer that gives windows in which every answer has room.
    fn new(server: &Server) -> Self {
        let mut stream = connect_small(server.address);
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut this = Self(stream);
        this.say(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
        this.say(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0]));
        this
    }

    fn say(&mut self, frames: &[u8]) {
        self.0.write_all(frames).unwrap();
    }

    /// The next frame; `None` at the end of the connection. Panics at a reset.
    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            read => read.unwrap(),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads frames up to one of this kind.
    #[track_caller]
    fn until(&mut self, kind: u8) -> Frame {
        loop {
            match self.next() {
                Some(frame) if frame.kind == kind => return frame,
                Some(_) => {}
                None => panic!("the connection ended without a frame of the kind {kind}"),
            }
        }
    }

    /// Asserts that the server ends the connection with this error code, and without a reset.
    #[track_caller]
    fn is_sent_away(&mut self, code: u32) {
        let mut codes = Vec::new();
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                codes.push(frame.code());
            }
        }
        assert_eq!(codes.last(), Some(&code), "{codes:?}");
    }

    /// Asserts that the connection serves another stream.
    #[track_caller]
    fn is_served(&mut self, stream: u32) {
        self.say(&get_hello(stream));
        loop {
            let frame = self.next().expect("the connection goes on");
            assert!(frame.kind != GOAWAY, "code {}", frame.code());
            if frame.stream == stream && frame.kind == DATA && !frame.payload.is_empty() {
                assert_eq!(frame.payload, b"hello");
                return;
            }
        }
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The processor time that this process has used so far.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets a peer attack a server, in a network of its own. Afterwards the server serves others as before, no close is
/// left in the closer, nothing has panicked, and nothing spins.
fn survives(connections: u64, attack: impl Fn(&Server) + Send + Sync + 'static) {
    sandboxed(move || {
        std::panic::set_hook(Box::new(|info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            eprintln!("{info}");
        }));
        let server = Server::start(Kind::Serve);
        attack(&server);
        Peer::new(&server).is_served(1);
        until(Closer::global().unwrap(), |now| now.lingering == 0 && now.ended.total() == connections + 1);
        assert_eq!(PANICS.load(Ordering::SeqCst), 0);
        let before = used();
        // Long enough to notice a thread that spins. Otherwise nothing is used, however slow the machine is.
        std::thread::sleep(Duration::from_millis(200));
        assert!(used() - before < Duration::from_millis(100), "something spins");
    });
}

#[test]
fn streams_that_are_reset_as_they_begin() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        let flood: Vec<u8> =
            (0..2000).flat_map(|i| [post(2 * i + 1, "/refused"), rst(2 * i + 1, CANCEL)].concat()).collect();
        peer.say(&flood);
        peer.is_sent_away(ENHANCE_YOUR_CALM);
    });
}

#[test]
fn headers_without_an_end() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        peer.say(&frame(HEADERS, 0, 1, &head(0x83, "/refused", &[])));
        let field = [&[0, 1, b'a', 100][..], &[b'a'; 100]].concat();
        for _ in 0..2000 {
            peer.say(&frame(CONTINUATION, 0, 1, &field));
        }
        peer.is_sent_away(ENHANCE_YOUR_CALM);
    });
}

/// Each of these frames needs an answer, and the peer reads none.
#[test]
fn settings_and_pings_whose_answers_are_not_read() {
    survives(2, |server| {
        // Small send buffers, which are soon full.
        std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 65536").unwrap();
        for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
            let mut peer = Peer::new(server);
            peer.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let flood = flood.repeat(1000);
            // The server stops reading: it keeps no more than the kernel's buffers hold.
            let stopped = (0..10_000).find_map(|_| peer.0.write_all(&flood).err());
            assert_eq!(stopped.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
        }
    });
}

#[test]
fn frames_that_cannot_be() {
    let cases: [(&str, Vec<u8>, u32); 7] = [
        ("a window of 0 more", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), PROTOCOL_ERROR),
        ("a stream's window of 0 more", frame(WINDOW_UPDATE, 0, 1, &[0; 4]), PROTOCOL_ERROR),
        ("a window too wide", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW_CONTROL_ERROR),
        ("data of no stream", frame(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("data of a stream to come", frame(DATA, 0, 7, b"x"), PROTOCOL_ERROR),
        ("a frame too large", frame(DATA, 0, 1, &[0; FRAME + 1]), FRAME_SIZE_ERROR),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL_ERROR),
    ];
    survives(cases.len() as u64, move |server| {
        for (what, frames, code) in &cases {
            eprintln!("{what}");
            let mut peer = Peer::new(server);
            peer.say(&post(1, "/gated"));
            // The peer's upload goes on, and the server's GOAWAY still arrives.
            peer.say(&[frames.clone(), frame(DATA, 0, 1, &[0; 1000]).repeat(30)].concat());
            peer.is_sent_away(*code);
        }
    });
}

#[test]
fn streams_that_violate_what_they_announce_end_alone() {
    let length = |path| frame(HEADERS, END_HEADERS, 1, &head(0x83, path, &[("content-length", "10")]));
    let cases = [
        ("a body longer than announced", [length("/gated"), frame(DATA, 0, 1, &[0; 20])].concat()),
        ("a body shorter than announced", [length("/gated"), frame(DATA, END_STREAM, 1, &[0; 9])].concat()),
    ];
    survives(cases.len() as u64, move |server| {
        for (what, frames) in &cases {
            eprintln!("{what}");
            let mut peer = Peer::new(server);
            peer.say(frames);
            let reset = peer.until(RST_STREAM);
            assert_eq!((reset.stream, reset.code()), (1, PROTOCOL_ERROR), "{what}");
            peer.is_served(3);
        }
    });
}

#[test]
fn a_body_with_trailers_is_answered() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 1, b'a', 1, b'b']);
        peer.say(&[post(1, "/read"), frame(DATA, 0, 1, b"12345"), trailers].concat());
        assert_eq!(peer.until(DATA).payload, b"5");
        // Trailers in the middle of a body that the layer discards are no error, either.
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0, 1, b'a', 1, b'b']);
        peer.say(&[post(3, "/unread"), frame(DATA, 0, 3, b"12345"), trailers].concat());
        assert_eq!(peer.until(DATA).payload, b"unread");
        peer.is_served(5);
    });
}

/// Reads the whole answer of a stream. Returns its length in bytes.
fn answer(peer: &mut Peer, stream: u32) -> usize {
    let mut bytes = 0;
    while let Some(frame) = peer.next() {
        assert!(frame.kind != RST_STREAM || frame.code() == NO_ERROR, "code {}", frame.code());
        if frame.kind == DATA && frame.stream == stream {
            bytes += frame.payload.len();
            if frame.flags & END_STREAM != 0 {
                return bytes;
            }
        }
    }
    bytes
}

#[test]
fn a_client_that_says_goodbye_in_the_middle_has_its_answer() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        peer.say(&[post(1, "/refused"), frame(DATA, 0, 1, &[0; 1000])].concat());
        peer.say(&frame(GOAWAY, 0, 0, &[0; 8]));
        assert_eq!(answer(&mut peer, 1), RESPONSE);
        while peer.next().is_some() {}
    });
}

#[test]
fn a_stream_that_is_reset_while_it_is_discarded_ends_alone() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        for stream in [1, 3, 5] {
            peer.say(&[post(stream, "/refused"), frame(DATA, 0, stream, &[0; 1000])].concat());
            assert_eq!(answer(&mut peer, stream), RESPONSE);
            peer.say(&rst(stream, CANCEL));
        }
        peer.is_served(7);
    });
}

/// A hundred uploads that never go on, with answers for which the peer gives no window: nothing of them is left
/// afterwards.
#[test]
fn half_open_streams_hold_nothing_that_outlives_their_connection() {
    survives(1, |server| {
        let mut peer = Peer::new(server);
        peer.say(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
        peer.say(&(0..100).flat_map(|i| post(2 * i + 1, "/refused")).collect::<Vec<_>>());
        for _ in 0..100 {
            peer.until(HEADERS);
        }
    });
}
