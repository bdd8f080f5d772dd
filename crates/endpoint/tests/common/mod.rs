//! An endpoint, and peers of it.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use linger_endpoint::{EndpointLimits, MetricsSource, serve};

/// No deadline falls within a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);
/// A bound that only a failure reaches.
pub(crate) const HANG: Duration = Duration::from_secs(30);
/// More than the socket buffers hold, so that a peer that does not read keeps its answer waiting.
pub(crate) const TEXT: usize = 300_000;

struct Text;

impl MetricsSource for Text {
    fn metrics(&self) -> String {
        "m".repeat(TEXT)
    }
}

pub(crate) fn endpoint(patience: Duration, peers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut limits = EndpointLimits::default();
    (limits.patience, limits.peers) = (patience, peers);
    serve(listener, limits, Text).unwrap();
    address
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream
}

/// All of the answer to `request`.
pub(crate) fn answer(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) fn scrape(address: SocketAddr) -> io::Result<String> {
    answer(&mut connect(address), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
}

pub(crate) fn is_whole(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    head.starts_with("HTTP/1.1 200")
        && head.contains(&format!("content-length: {TEXT}"))
        && body.len() == TEXT
}
