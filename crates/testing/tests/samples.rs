//! Each sample answers with as many bytes as the matrix expects of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use linger_fastcgi::gateway::{Client, Config, GatewayRequest};
use linger_testing::samples::LENGTH;
use linger_testing::servers::{Launch, sample_program};

/// Runs a sample while `ask` asks it.
fn with(program: &str, ask: impl FnOnce(SocketAddr)) {
    let launch = Launch::new("a sample");
    let mut command = Command::new(program);
    command.arg(launch.port.to_string());
    let sample = launch.start(command).unwrap();
    ask(sample.address);
}

fn http(program: &str) {
    with(program, |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let head = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert!(all.starts_with(b"HTTP/1.1 200"));
        assert_eq!(all.len() - head, LENGTH);
    });
}

#[test]
fn bare_axum() {
    http(env!("CARGO_BIN_EXE_axum-bare"));
}

#[test]
fn axum_with_linger() {
    http(env!("CARGO_BIN_EXE_axum-linger"));
}

#[test]
#[ignore = "compiles actix-web: cargo test -p linger-testing --features samples --test samples -- --ignored"]
fn actix() {
    http(sample_program("actix").unwrap().to_str().unwrap());
}

#[test]
fn fastcgi() {
    with(env!("CARGO_BIN_EXE_fastcgi"), |address| {
        let mut response =
            Client::new(address.into(), Config::default()).send(GatewayRequest::new("GET", "/")).unwrap();
        assert_eq!(response.head().unwrap().status, 200);
        let mut body = Vec::new();
        response.read_to_end(&mut body).unwrap();
        assert_eq!(body.len(), LENGTH);
    });
}
