//! Small servers whose behaviour is known, and how they are asked.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use linger_probe::{Check, ProbeConfig, ProbeError, ProbeReport, probe};

pub(crate) const BODY: usize = 300_000;

/// Reads a request's head. Returns it with what came with it.
pub(crate) fn head(stream: &mut TcpStream) -> Vec<u8> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 65_536]);
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(got) if got > 0 => seen.extend_from_slice(&buffer[..got]),
            _ => break,
        }
    }
    seen
}

/// A close that loses nothing: FIN, then everything is read until the client closes.
pub(crate) fn close_well(stream: &mut TcpStream) -> u64 {
    let _ = stream.shutdown(Shutdown::Write);
    let (mut buffer, mut all) = (vec![0; 65_536], 0);
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        all += got as u64;
    }
    all
}

/// Serves every connection in a thread of its own, with its number and its request's head. Returns the URL.
pub(crate) fn serve(answer: impl Fn(&mut TcpStream, u64, &[u8]) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let head = head(&mut stream);
                answer(&mut stream, number as u64, &head);
                close_well(&mut stream);
            });
        }
    });
    url
}

pub(crate) fn respond(stream: &mut TcpStream, status: &str, more: &str, body: usize) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\nConnection: close\r\n{more}\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'r'; body]));
}

pub(crate) fn config(only: &[Check]) -> ProbeConfig {
    let mut config = ProbeConfig::default();
    (config.only, config.watch, config.delay) = (only.to_vec(), false, Duration::from_millis(50));
    config
}

pub(crate) fn ask(url: &str, config: &ProbeConfig) -> Result<ProbeReport, ProbeError> {
    probe(&url.parse().unwrap(), config, |_| {})
}

/// Asks a server on loopback as if others used it, too.
pub(crate) fn quiet(only: &[Check]) -> ProbeConfig {
    let mut quiet = config(only);
    quiet.active = Some(false);
    quiet
}
