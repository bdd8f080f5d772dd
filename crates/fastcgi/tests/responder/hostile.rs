//! Gateways that mean harm, or are broken: whatever they send, each connection ends in order, nothing is reset, and no slot is lost.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::Running;
use crate::idle::{request, response};
use linger_fastcgi::record::{Header, RecordType, Role, push, push_begin};
use linger_fastcgi::responder::Config;
use linger_fastcgi::{Request, Response};

/// Longer than any test: nothing but what a gateway does ends a wait.
const EVER: Duration = Duration::from_secs(3600);
/// As few as possible: one that is lost shows.
const SLOTS: usize = 1;

fn config(multiplex: bool) -> Config {
    let mut config = Config::default();
    (config.connections, config.multiplex) = (SLOTS, multiplex);
    (config.io_timeout, config.keep_idle, config.input_idle) = (EVER, EVER, Duration::ZERO);
    (config.params_within, config.record_within) = (None, None);
    config.stop_within = Some(Duration::from_millis(50));
    config
}

fn hello(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let read = io::copy(request, &mut io::sink())?;
    write!(response, "Content-Type: text/plain\r\n\r\nhello {read}")?;
    Ok(0)
}

/// Runs `gateways` against each driver. Afterwards a well-behaved request is answered: no slot is lost.
fn against_all(gateways: impl Fn(&str, SocketAddr) + Copy + Send + 'static) {
    let and_served = move |driver: &str, address: SocketAddr| {
        gateways(driver, address);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request(false)).unwrap();
        let served = response(&mut stream);
        assert!(served.as_ref().is_ok_and(|got| got.ends_with(b"hello 0")), "{driver}: {served:?}");
    };
    for multiplex in [false, true] {
        let running = Running::start(config(multiplex), hello);
        and_served(if multiplex { "threads, multiplexed" } else { "threads" }, running.port());
    }
    #[cfg(feature = "tokio")]
    on_tokio::serving(move |address| and_served("tokio", address));
}

/// Sends bytes, closes this side, and returns what came until the end.
fn told(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    Ok(got)
}

/// Does what [`told`] does without closing this side first: the responder has to end the connection.
fn ended(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(bytes)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    Ok(got)
}

/// The records of a request, each with its bytes.
fn records(id: u16, keep: bool) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    push_begin(&mut all[0], id, Role::Responder, keep);
    for (kind, content) in [
        (RecordType::Params, &b"\x01\x01KV"[..]),
        (RecordType::Params, b""),
        (RecordType::Stdin, b"body"),
        (RecordType::Stdin, b""),
    ] {
        let mut record = Vec::new();
        push(&mut record, kind, id, content);
        all.push(record);
    }
    all
}

fn abort(id: u16) -> Vec<u8> {
    let mut record = Vec::new();
    push(&mut record, RecordType::AbortRequest, id, b"");
    record
}

/// The ids of the END_REQUEST records, with their protocol status.
fn ends(mut bytes: &[u8]) -> Vec<(u16, u8)> {
    let mut ends = Vec::new();
    while let [_, kind, id1, id0, high, low, padding, _, rest @ ..] = bytes {
        let content = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind == 3 {
            ends.push((u16::from_be_bytes([*id1, *id0]), rest[4]));
        }
        bytes = &rest[content + usize::from(*padding)..];
    }
    assert!(bytes.is_empty(), "a record is cut: {bytes:?}");
    ends
}

#[test]
fn who_closes_its_side_anywhere_is_answered_as_far_as_that_is_possible() {
    against_all(|driver, address| {
        for keep in [false, true] {
            let whole = records(1, keep).concat();
            for cut in 0..=whole.len() {
                let got = told(address, &whole[..cut])
                    .unwrap_or_else(|error| panic!("{driver}, keep {keep}, after {cut} bytes: {error}"));
                let ends = ends(&got);
                if cut == whole.len() {
                    assert_eq!(ends, [(1, 0)], "{driver}, keep {keep}");
                } else {
                    assert!(ends.len() <= 1, "{driver}, keep {keep}, after {cut} bytes: {ends:?}");
                }
            }
        }
    });
}

#[test]
fn an_abort_anywhere_has_its_end_and_ends_the_connection() {
    against_all(|driver, address| {
        for at in 1..=5 {
            let mut bytes = records(7, false);
            bytes.insert(at, abort(7));
            // Nothing follows an abort.
            let got = ended(address, &bytes[..=at].concat())
                .unwrap_or_else(|error| panic!("{driver}, behind record {at}: {error}"));
            assert_eq!(ends(&got), [(7, 0)], "{driver}, behind record {at}");
        }
    });
}

#[test]
fn a_request_that_is_refused_ends_the_connection_that_is_not_to_be_kept() {
    against_all(|driver, address| {
        let mut unknown = Vec::new();
        push(&mut unknown, RecordType::BeginRequest, 3, &[0, 9, 0, 0, 0, 0, 0, 0]);
        let got = ended(address, &unknown).unwrap_or_else(|error| panic!("{driver}: {error}"));
        assert_eq!(ends(&got), [(3, 3)], "{driver}");
        // One field away: the gateway wants to go on.
        unknown[10] = 1;
        let kept = [unknown, records(3, false).concat()].concat();
        let got = ended(address, &kept).unwrap_or_else(|error| panic!("{driver}: {error}"));
        assert_eq!(ends(&got), [(3, 3), (3, 0)], "{driver}");
    });
}

/// What breaks the protocol, by its name.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let whole = records(1, true);
    let begin = &whole[0];
    let header = |kind: RecordType, id, content| Header::new(kind, id, content).bytes().to_vec();
    let mut begin_zero = begin.clone();
    begin_zero[3] = 0;
    let long_params = [begin.clone(), header(RecordType::Params, 1, 65_535), vec![0x7f; 300]].concat();
    let mut lies = begin.clone();
    push(&mut lies, RecordType::Params, 1, b"\xff\xff\xff\xffKV");
    push(&mut lies, RecordType::Params, 1, b"");
    let wrong_side = [RecordType::Stdout, RecordType::Stderr, RecordType::EndRequest];
    let mut all = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]),
        ("version 0", vec![0; 64]),
        ("BEGIN with id 0", begin_zero),
        ("BEGIN twice", [begin.clone(), begin.clone()].concat()),
        ("BEGIN twice with a body", [whole[..4].concat(), begin.clone()].concat()),
        ("BEGIN too long", [header(RecordType::BeginRequest, 1, 9), vec![0; 9]].concat()),
        ("BEGIN too short", header(RecordType::BeginRequest, 1, 0)),
        ("a record that never ends", long_params),
        ("a length that lies", lies),
        ("GET_VALUES without end", [header(RecordType::GetValues, 0, 65_535), vec![0; 5000]].concat()),
    ];
    for kind in wrong_side {
        all.push(("a record of the other side", [begin.clone(), header(kind, 1, 8), vec![0; 8]].concat()));
    }
    all
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_in_order() {
    against_all(|driver, address| {
        for (name, bytes) in nonsense() {
            // More follows: what comes behind the fault must not reset the connection.
            let got = told(address, &[bytes, vec![1; 200_000]].concat())
                .unwrap_or_else(|error| panic!("{driver}, {name}: {error}"));
            assert!(ends(&got).len() <= 1, "{driver}, {name}: {got:?}");
        }
    });
}

#[test]
fn what_belongs_to_no_request_changes_nothing() {
    against_all(|driver, address| {
        let mut bytes = Vec::new();
        for (kind, id, content) in [
            (RecordType::Stdin, 9, &b"nobody's"[..]),
            (RecordType::Params, 9, b"\x01\x01KV"),
            (RecordType::Params, 9, b""),
            (RecordType::Params, 0, b""),
            (RecordType::Data, 0, b"nobody's"),
            (RecordType::AbortRequest, 9, b""),
            (RecordType::AbortRequest, 0, b""),
            (RecordType::from(200), 5, b"unknown, and of a request"),
        ] {
            push(&mut bytes, kind, id, content);
        }
        // As much padding as there can be.
        let mut padded = Header::new(RecordType::Stdin, 4, 3).bytes().to_vec();
        padded[6] = 255;
        bytes.extend_from_slice(&padded);
        bytes.resize(bytes.len() + 3 + 255, 1);
        let request = records(1, false);
        bytes.extend_from_slice(&request[..3].concat());
        push(&mut bytes, RecordType::Params, 1, b"\x01\x01KW");
        push(&mut bytes, RecordType::Params, 1, b"");
        push(&mut bytes, RecordType::Data, 1, b"no filter");
        bytes.extend_from_slice(&request[3..].concat());
        // Behind the end of the body.
        push(&mut bytes, RecordType::Stdin, 1, b"late");
        push(&mut bytes, RecordType::Stdin, 1, b"");
        let got = ended(address, &bytes).unwrap_or_else(|error| panic!("{driver}: {error}"));
        assert_eq!(ends(&got), [(1, 0)], "{driver}");
        assert!(got.windows(7).any(|seven| seven == b"hello 4"), "{driver}: {got:?}");
    });
}

/// Sends as much as the responder takes, and leaves.
fn flood(address: SocketAddr, piece: &[u8], most: usize) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    let pieces = piece.repeat((64 << 10) / piece.len());
    stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut waits = 0;
    while sent < most && waits < 200 {
        match stream.write(&pieces[sent % pieces.len()..]) {
            Ok(more) => (sent, waits) = (sent + more, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Full: the responder does not read on while its answers find no room.
                waits += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn floods_whose_answers_nobody_reads_leave_nothing_behind() {
    against_all(|driver, address| {
        let (mut values, mut unknown, mut begin) = (Vec::new(), Vec::new(), Vec::new());
        push(&mut values, RecordType::GetValues, 0, b"\x0e\x00FCGI_MAX_CONNS\x0d\x00FCGI_MAX_REQS");
        push(&mut unknown, RecordType::from(99), 0, b"");
        push(&mut begin, RecordType::BeginRequest, 3, &[0, 9, 1, 0, 0, 0, 0, 0]);
        for piece in [values, unknown, begin] {
            let most = 64 << 20;
            let sent = flood(address, &piece, most);
            assert!(
                sent < most,
                "{driver}: answers to {sent} bytes are held for a gateway that does not read"
            );
        }
    });
}

#[test]
fn every_id_at_once_is_served_or_refused() {
    against_all(|driver, address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut sending = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let all: Vec<Vec<Vec<u8>>> = (1..=u16::MAX).map(|id| records(id, true)).collect();
            // Record by record of all, so that all run at once.
            for number in 0..5 {
                let round: Vec<u8> = all.iter().flat_map(|request| request[number].iter().copied()).collect();
                sending.write_all(&round).unwrap();
            }
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        let mut ended: Vec<u16> = ends(&got).into_iter().map(|(id, _)| id).collect();
        ended.sort_unstable();
        ended.dedup();
        assert_eq!(ended.len(), usize::from(u16::MAX), "{driver}");
        let served = ends(&got).into_iter().filter(|(_, status)| *status == 0).count();
        assert!(served >= 1, "{driver}");
    });
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use linger_fastcgi::tokio::{Request, Response, serve_until};

    use super::*;

    async fn hello(mut request: Request, mut response: Response) -> io::Result<()> {
        let mut read = 0;
        while let Some(bytes) = request.chunk().await? {
            read += bytes.len();
        }
        response.write(format!("Content-Type: text/plain\r\n\r\nhello {read}").as_bytes()).await?;
        response.end(0).await
    }

    pub(super) fn serving(gateways: impl FnOnce(SocketAddr)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = serve_until(listener, config(true), hello, async { drop(stopped.await) });
        let server = runtime.spawn(server);
        gateways(address);
        stop.send(()).unwrap();
        runtime.block_on(server).unwrap().unwrap();
    }
}
