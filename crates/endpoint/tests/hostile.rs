//! Each request has its answer, and slow peers make room.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{HANG, NEVER, answer, connect, endpoint, is_whole, scrape};

#[test]
fn each_request_has_its_answer() {
    let address = endpoint(NEVER, 8);
    let asked = |request: &str| answer(&mut connect(address), request).unwrap();
    assert!(is_whole(&scrape(address).unwrap()));
    assert!(is_whole(&asked(
        "GET /metrics?collect=all HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
    )));
    let head = asked("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.contains("content-length: 300000") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(asked("GET /healthz HTTP/1.0\r\n\r\n").ends_with("\r\n\r\nok\n"));
    assert!(asked("GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("/metrics"));
    let refused = asked("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"), "{refused}");
    assert!(asked("GET /x HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(asked("nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(asked(&long).starts_with("HTTP/1.1 431"));
}

/// A refusal reaches a peer that uploads: the connection lingers.
#[test]
fn an_upload_is_refused_in_words() {
    let address = endpoint(NEVER, 8);
    let mut peer = connect(address);
    peer.write_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n").unwrap();
    peer.write_all(&[b'x'; 500_000]).unwrap();
    let mut refused = String::new();
    peer.read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
}

#[test]
fn one_peer_too_many_ends_the_oldest_that_asks() {
    let address = endpoint(NEVER, 3);
    let mut slow: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    slow.iter_mut().for_each(|peer| peer.write_all(b"G").unwrap());
    assert!(is_whole(&scrape(address).unwrap()));
    let mut rest = "ET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(!answer(&mut slow[0], rest).is_ok_and(|answer| is_whole(&answer)));
    for peer in &mut slow[1..] {
        assert!(is_whole(&answer(peer, rest).unwrap()));
    }
    // Peers that do not take their answers make room as well.
    rest = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let small = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(2_048).unwrap();
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(rest.as_bytes()).unwrap();
        stream
    };
    let _greedy: Vec<TcpStream> = (0..6).map(|_| small()).collect();
    assert!(is_whole(&scrape(address).unwrap()));
}

#[test]
fn a_dripping_peer_has_one_deadline_for_all_its_bytes() {
    let mut dripping = connect(endpoint(Duration::from_millis(300), 3));
    dripping.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let until = Instant::now() + HANG;
    // The bytes come far sooner after one another than the deadline.
    for byte in b"GET /metrics HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
        if dripping.write_all(&[*byte]).is_err() {
            return;
        }
        match dripping.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            ended => return assert!(!matches!(ended, Ok(1..)), "it was ended, and not answered"),
        }
        assert!(Instant::now() < until, "it was never ended");
    }
}
