//! Connections without a request, held by somebody who wants nothing, or who sends a request byte by byte: they keep nobody out.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::common::Running;
use linger_fastcgi::journal::{Incident, Journal};
use linger_fastcgi::record::{RecordType, Role, push, push_begin};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response};

/// Longer than any test: nothing but another connection ends a wait.
const EVER: Duration = Duration::from_secs(3600);
const SLOTS: usize = 2;
const SEATS: usize = 3;

/// Sends the names of notices on.
#[derive(Debug)]
pub(crate) struct Tells(pub(crate) Sender<String>);

impl Journal for Tells {
    fn noted(&self, notice: &Incident<'_>) {
        let text = format!("{notice:?}");
        let name = text.split(['(', ' ']).next().unwrap_or_default();
        let _ = self.0.send(name.to_owned());
    }
}

pub(crate) fn told(config: &mut Config) -> Receiver<String> {
    let (tell, told) = channel();
    config.journal = Some(Arc::new(Tells(tell)));
    told
}

fn config(multiplex: bool, resting: usize) -> Config {
    let mut config = Config::default();
    (config.connections, config.resting, config.multiplex) = (SLOTS, resting, multiplex);
    (config.io_timeout, config.keep_idle, config.params_within, config.record_within) =
        (EVER, EVER, None, None);
    config.stop_within = Some(Duration::from_millis(50));
    config
}

pub(crate) fn request(keep: bool) -> Vec<u8> {
    let mut out = Vec::new();
    push_begin(&mut out, 1, Role::Responder, keep);
    push(&mut out, RecordType::Params, 1, b"\x01\x01KV");
    push(&mut out, RecordType::Params, 1, b"");
    push(&mut out, RecordType::Stdin, 1, b"");
    out
}

/// Reads a response to its END_REQUEST.
pub(crate) fn response(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut got = Vec::new();
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header)?;
        let [_, kind, _, _, high, low, padding, _] = header;
        let mut content = vec![0; usize::from(u16::from_be_bytes([high, low])) + usize::from(padding)];
        stream.read_exact(&mut content)?;
        content.truncate(usize::from(u16::from_be_bytes([high, low])));
        match kind {
            3 => return Ok(got),
            _ => got.append(&mut content),
        }
    }
}

/// What somebody does who holds connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Connects.
    Silent,
    /// Has sent a byte.
    Byte,
    /// Has sent a part of the parameters.
    Params,
    /// Has had a response, and keeps the connection.
    Kept,
}

const ALL: [Held; 4] = [Held::Silent, Held::Byte, Held::Params, Held::Kept];

impl Held {
    fn connect(self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        let whole = request(true);
        let sent = match self {
            Self::Silent => 0,
            Self::Byte => 1,
            Self::Params => whole.len() - 20,
            Self::Kept => whole.len(),
        };
        stream.write_all(&whole[..sent]).unwrap();
        if self == Self::Kept {
            assert!(response(&mut stream).unwrap().ends_with(b"hello"));
        }
        stream
    }
}

fn hello(_: &mut Request, response: &mut Response) -> io::Result<u32> {
    write!(response, "Content-Type: text/plain\r\n\r\nhello")?;
    Ok(0)
}

/// Holds more connections than there are slots and seats, and is served all the same: a new one, and the newest of those held.
fn keeps_nobody_out(case: impl Debug, held: Held, address: SocketAddr, told: &Receiver<String>) {
    let most = SLOTS + SEATS;
    let mut streams: Vec<TcpStream> = (0..3 * most).map(|_| held.connect(address)).collect();
    for _ in 0..3 {
        let mut new = TcpStream::connect(address).unwrap();
        new.write_all(&request(false)).unwrap();
        let got =
            response(&mut new).unwrap_or_else(|error| panic!("{case:?}: a new one is kept out: {error}"));
        assert!(got.ends_with(b"hello"), "{case:?}: {got:?}");
    }
    let newest = streams.last_mut().unwrap();
    if held == Held::Kept {
        newest.write_all(&request(true)).unwrap();
        assert!(response(newest).unwrap().ends_with(b"hello"), "{case:?}: the newest went");
    }
    all_end_but_those_with_a_seat(case, &mut streams);
    assert_eq!(told.recv().unwrap(), "Evicted");
}

/// The oldest end, unless a thread is so late to its seat that others have gone before: so their number is what holds.
fn all_end_but_those_with_a_seat(case: impl Debug, streams: &mut Vec<TcpStream>) {
    let until = Instant::now() + Duration::from_secs(60);
    let mut number = 0;
    while streams.len() > SEATS {
        assert!(Instant::now() < until, "{case:?}: {} are left", streams.len());
        number = (number + 1) % streams.len();
        let stream = &mut streams[number];
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        match stream.read(&mut [0; 10]) {
            Ok(0) => drop(streams.remove(number)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            end => panic!("{case:?}: {end:?}"),
        }
    }
}

#[test]
fn held_connections_keep_nobody_out() {
    for (held, multiplex) in ALL.into_iter().flat_map(|held| [(held, false), (held, true)]) {
        let mut config = config(multiplex, SEATS);
        let told = told(&mut config);
        let running = Running::start(config, hello);
        keeps_nobody_out((held, multiplex), held, running.port(), &told);
    }
}

/// A connection that waits without a request has no slot: requests run in all of them.
#[test]
fn a_held_connection_takes_no_slot() {
    for (held, multiplex) in ALL.into_iter().flat_map(|held| [(held, false), (held, true)]) {
        let meeting = std::sync::Barrier::new(SLOTS);
        let running = Running::start(
            config(multiplex, SEATS),
            move |request: &mut Request, response: &mut Response| {
                if request.params().text("K") == Some("M") {
                    meeting.wait();
                }
                hello(request, response)
            },
        );
        let _held: Vec<TcpStream> = (0..SEATS).map(|_| held.connect(running.port())).collect();
        let mut meeters: Vec<TcpStream> =
            (0..SLOTS).map(|_| TcpStream::connect(running.port()).unwrap()).collect();
        for stream in &mut meeters {
            let mut bytes = request(false);
            let at = bytes.iter().position(|byte| *byte == b'V').unwrap();
            bytes[at] = b'M';
            stream.write_all(&bytes).unwrap();
        }
        for stream in &mut meeters {
            assert!(response(stream).unwrap().ends_with(b"hello"), "{held:?}, multiplex {multiplex}");
        }
    }
}

#[test]
fn without_seats_a_connection_ends_after_its_request_and_a_silent_one_has_a_slot() {
    for multiplex in [false, true] {
        let running = Running::start(config(multiplex, 0), hello);
        let mut silent = TcpStream::connect(running.port()).unwrap();
        let mut stream = Held::Kept.connect(running.port());
        assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0, "multiplex {multiplex}");
        silent.write_all(&request(false)).unwrap();
        assert!(response(&mut silent).unwrap().ends_with(b"hello"));
    }
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve_until};

    use super::*;

    async fn hello(_: Request, mut response: Response) -> io::Result<()> {
        response.write(b"Content-Type: text/plain\r\n\r\nhello").await?;
        response.end(0).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn held_connections_keep_nobody_out() {
        for held in ALL {
            let mut config = config(true, SEATS);
            let told = told(&mut config);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = tokio::spawn(serve_until(listener, config, hello, async { drop(stopped.await) }));
            let gateways = move || keeps_nobody_out(held, held, address, &told);
            tokio::task::spawn_blocking(gateways).await.unwrap();
            stop.send(()).unwrap();
            server.await.unwrap().unwrap();
        }
    }
}
