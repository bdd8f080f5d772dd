//! This crate's client against its responder over real sockets: both keep their promises, without a foreign
//! peer.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::Running;
use linger_fastcgi::gateway::{Client, Config as ClientConfig, Error, GatewayRequest as Call};
use linger_fastcgi::record::{ProtocolStatus, RecordType, Role, push, push_begin};
use linger_fastcgi::responder::{Closed, Config, Handler};
use linger_fastcgi::{Address, Request, Response, cgi};

fn client(running: &Running, keep_conn: bool) -> Client {
    let mut config = ClientConfig::default();
    (config.keep_conn, config.reuses_after_bodies) = (keep_conn, keep_conn);
    Client::new(running.address.clone(), config)
}

/// Answers with as many bytes as `X_ANSWER` says after reading as many as `X_READ` says (all without it).
fn sized(request: &mut Request, response: &mut Response) -> io::Result<u32> {
    let number = |name| request.params().text(name).and_then(|text| text.parse::<u64>().ok());
    let (read, answer) = (number("X_READ").unwrap_or(u64::MAX), number("X_ANSWER").unwrap_or(0));
    let got = io::copy(&mut request.take(read), &mut io::sink())?;
    cgi::head(&mut *response, 200, [("X-Got", got.to_string().as_str())])?;
    vec![b'r'; answer as usize].chunks(8 << 10).try_for_each(|piece| response.write_all(piece))?;
    Ok(0)
}

fn call(body: usize, read: Option<usize>, answer: usize) -> Call {
    let call = Call::new("POST", "/sized").body(vec![b'b'; body]).param("X_ANSWER", answer.to_string());
    match read {
        Some(read) => call.param("X_READ", read.to_string()),
        None => call,
    }
}

const SIZES: [usize; 5] = [0, 8, 67_000, 2 << 20, 8 << 20];

fn every_size(address: &Address, keep_conn: bool) {
    for multiplex in [false, true] {
        every_size_of(address, keep_conn, multiplex);
    }
}

fn every_size_of(address: &Address, keep_conn: bool, multiplex: bool) {
    let mut config = Config::default();
    config.multiplex = multiplex;
    let running = Running::start_at(address, config, sized);
    let client = client(&running, keep_conn);
    for body in SIZES {
        for read in [Some(0), Some(body / 2), None] {
            for answer in [0, 67_000, 2 << 20] {
                let mut response = client.send(call(body, read, answer)).unwrap();
                let head = response.head().unwrap();
                assert_eq!(head.status, 200);
                let got = head.get("x-got").unwrap();
                assert_eq!(got, read.unwrap_or(body).to_string().as_bytes());
                let length = io::copy(&mut response, &mut io::sink()).unwrap();
                assert_eq!(length, answer as u64, "body {body}, read {read:?}");
                assert_eq!(response.end().unwrap().app_status, 0);
            }
        }
    }
}

#[test]
fn every_size_over_tcp() {
    every_size(&"127.0.0.1:0".parse().unwrap(), false);
}

#[test]
fn every_size_over_tcp_on_kept_connections() {
    every_size(&"127.0.0.1:0".parse().unwrap(), true);
}

#[test]
fn every_size_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    every_size(&Address::Unix(path.clone()), false);
    // The file is still there, and nobody listens on it: it is replaced.
    every_size(&Address::Unix(path), true);
}

/// Counts connections and what became of them.
#[derive(Default)]
struct Ends {
    connections: AtomicU64,
    requests: AtomicU64,
    undelivered: AtomicU64,
}

struct Counted(Arc<Ends>);

impl Handler for Counted {
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32> {
        sized(request, response)
    }

    fn closed(&self, connection: &Closed) {
        self.0.connections.fetch_add(1, Ordering::SeqCst);
        self.0.requests.fetch_add(connection.requests, Ordering::SeqCst);
        self.0.undelivered.fetch_add(u64::from(!connection.outcome.delivered()), Ordering::SeqCst);
    }
}

#[test]
fn kept_connections_are_used_again_even_after_an_early_answer() {
    let ends = Arc::new(Ends::default());
    let running = Running::start(Config::default(), Counted(ends.clone()));
    let client = client(&running, true);
    for round in 0..50 {
        // Small enough to be sent whole before the answer comes, so that the connection can be kept.
        let mut response = client.send(call(1000, Some(round % 2), 10)).unwrap();
        io::copy(&mut response, &mut io::sink()).unwrap();
    }
    drop(client);
    drop(running);
    assert_eq!(ends.requests.load(Ordering::SeqCst), 50);
    assert_eq!(ends.connections.load(Ordering::SeqCst), 1);
    assert_eq!(ends.undelivered.load(Ordering::SeqCst), 0);
}

#[test]
fn a_body_that_never_ends_on_a_kept_connection_is_bounded() {
    let ends = Arc::new(Ends::default());
    let mut config = Config::default();
    config.policy.max_discard = Some(1 << 20);
    let running = Running::start(config, Counted(ends.clone()));
    let mut response = client(&running, true)
        .send(Call::new("POST", "/").param("X_READ", "0").param("X_ANSWER", "10").stream(io::repeat(1)))
        .unwrap();
    let mut got = String::new();
    response.read_to_string(&mut got).unwrap();
    assert!(got.ends_with("rrrrrrrrrr"));
    drop(response);
    drop(running);
    assert_eq!(ends.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn many_requests_share_a_connection() {
    let mut config = Config::default();
    config.multiplex = true;
    let (first, second) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let (tell, gate) = (std::sync::Mutex::new(first.0), std::sync::Mutex::new(second.1));
    let running = Running::start(config, move |request: &mut Request, response: &mut Response| {
        if request.id() == 1 {
            // The first is answered only after the second has been.
            tell.lock().unwrap().send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        let mut body = String::new();
        request.read_to_string(&mut body)?;
        cgi::head(&mut *response, 200, [])?;
        response.write_all(body.as_bytes())?;
        Ok(u32::from(request.id()))
    });
    let mut stream = std::net::TcpStream::connect(running.port()).unwrap();
    let mut wire = Vec::new();
    for id in [1, 2] {
        push_begin(&mut wire, id, Role::Responder, true);
        push(&mut wire, RecordType::Params, id, &[]);
    }
    push(&mut wire, RecordType::Stdin, 2, b"two");
    push(&mut wire, RecordType::Stdin, 1, b"one");
    for id in [2, 1] {
        push(&mut wire, RecordType::Stdin, id, &[]);
    }
    stream.write_all(&wire).unwrap();
    first.1.recv_timeout(Duration::from_secs(20)).unwrap();
    let ends = |stream: &mut std::net::TcpStream, id: u16| {
        let mut replies = linger_fastcgi::replies::Replies::new(id);
        let (mut text, mut byte) = (Vec::new(), [0]);
        loop {
            stream.read_exact(&mut byte).unwrap();
            let mut input = &byte[..];
            while let Some(reply) = replies.next(&mut input).unwrap() {
                match reply {
                    linger_fastcgi::replies::Reply::Stdout(bytes) => text.extend_from_slice(bytes),
                    linger_fastcgi::replies::Reply::End(end) => return (end.app_status, text),
                    _ => {}
                }
            }
        }
    };
    let (status, text) = ends(&mut stream, 2);
    assert_eq!((status, text.ends_with(b"two")), (2, true));
    second.0.send(()).unwrap();
    let (status, text) = ends(&mut stream, 1);
    assert_eq!((status, text.ends_with(b"one")), (1, true));
}

#[test]
fn a_handler_that_fails_is_a_500_or_a_cut() {
    let running = Running::start(Config::default(), |request: &mut Request, response: &mut Response| {
        if request.params().text("X_PART").is_some() {
            response.write_all(&[b'x'; 100_000])?;
        }
        match request.params().text("X_PANIC") {
            Some(_) => panic!("on purpose"),
            None => Err(io::Error::other("no database")),
        }
    });
    let client = client(&running, false);
    for name in ["X", "X_PANIC"] {
        let mut response = client.send(Call::new("GET", "/").param(name, "1")).unwrap();
        assert_eq!(response.head().unwrap().status, 500);
        io::copy(&mut response, &mut io::sink()).unwrap();
        assert_eq!(response.end().unwrap().app_status, 1);
        assert!(!response.stderr().is_empty());
    }
    let mut response = client.send(Call::new("GET", "/").param("X_PART", "1")).unwrap();
    let error = response.read_to_end(&mut Vec::new()).unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
}

#[test]
fn only_one_request_a_connection_unless_multiplexing() {
    let running = Running::start(Config::default(), sized);
    let mut stream = std::net::TcpStream::connect(running.port()).unwrap();
    let mut wire = Vec::new();
    push_begin(&mut wire, 1, Role::Responder, true);
    push_begin(&mut wire, 2, Role::Responder, true);
    stream.write_all(&wire).unwrap();
    let mut end = [0; 16];
    stream.read_exact(&mut end).unwrap();
    assert_eq!((end[1], end[3], end[12]), (3, 2, u8::from(ProtocolStatus::CantMultiplex)));
}

#[test]
fn strangers_are_turned_away() {
    let mut config = Config::default();
    config.allowed = Some(vec!["192.0.2.1".parse().unwrap()]);
    let running = Running::start(config, sized);
    let error = client(&running, false).send(call(0, None, 0)).unwrap_err();
    assert!(matches!(error, Error::Cut { received: 0, .. }), "{error}");
}

#[test]
fn an_address_is_the_same_in_either_spelling() {
    for (allowed, admitted) in [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("::ffff:127.0.0.2", false)]
    {
        let mut config = Config::default();
        config.allowed = Some(vec![allowed.parse().unwrap()]);
        let running = Running::start(config, sized);
        assert_eq!(client(&running, false).send(call(0, None, 0)).is_ok(), admitted, "{allowed}");
    }
}

#[test]
fn resting_connections_keep_nobody_waiting_and_a_stop_ends_them() {
    let mut config = Config::default();
    config.connections = 1;
    let running = Running::start(config, sized);
    // Each client keeps its connection; with one slot the second would wait for ever if a resting one held it.
    let clients: Vec<Client> = (0..5).map(|_| client(&running, true)).collect();
    for _ in 0..3 {
        for client in &clients {
            let mut response = client.send(call(0, None, 10)).unwrap();
            io::copy(&mut response, &mut io::sink()).unwrap();
        }
    }
    // The connections still rest: the responder's end must not wait for them.
    drop(running);
    drop(clients);
}

#[test]
fn a_stop_ends_a_multiplexed_connection_that_rests() {
    let mut config = Config::default();
    config.multiplex = true;
    // The test does not end in time if only this ends the connection.
    config.keep_idle = Duration::from_secs(3600);
    let brief = Duration::from_millis(100);
    (config.policy.grace, config.policy.idle, config.policy.total) = (brief, brief, brief);
    let running = Running::start(config, sized);
    let client = client(&running, true);
    for _ in 0..2 {
        let mut response = client.send(call(0, None, 10)).unwrap();
        io::copy(&mut response, &mut io::sink()).unwrap();
    }
    drop(running);
    drop(client);
}

#[test]
fn a_filter_reads_both_streams_and_an_authorizer_needs_none() {
    let running = Running::start(Config::default(), |request: &mut Request, response: &mut Response| {
        if request.role() == Role::Authorizer {
            cgi::head(&mut *response, 200, [("Variable-USER", "somebody")])?;
            return Ok(0);
        }
        let (mut body, mut file) = (String::new(), String::new());
        request.read_to_string(&mut body)?;
        request.data().read_to_string(&mut file)?;
        cgi::head(&mut *response, 200, [])?;
        write!(response, "{body} and {file}")?;
        Ok(0)
    });
    for keep_conn in [false, true] {
        let client = client(&running, keep_conn);
        let mut call = Call::new("GET", "/").body(b"the body".to_vec());
        (call.role, call.data) = (Role::Filter, Some(b"the file".to_vec().into()));
        let mut response = client.send(call).unwrap();
        response.head().unwrap();
        let mut got = String::new();
        response.read_to_string(&mut got).unwrap();
        assert_eq!(got, "the body and the file");
        let mut call = Call::new("GET", "/");
        call.role = Role::Authorizer;
        let mut response = client.send(call).unwrap();
        let head = response.head().unwrap();
        io::copy(&mut response, &mut io::sink()).unwrap();
        assert_eq!((head.status, head.get("variable-user")), (200, Some(&b"somebody"[..])));
    }
}
