//! A server with a thread for each connection: answers early, and loses nothing.
//!
//! `cargo run --example threads`, then `curl --data-binary @LARGE_FILE http://127.0.0.1:8080/`.

use std::io::{Read, Write};
use std::net::TcpListener;

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080")?;
    let policy = linger::Policy::default();
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || -> std::io::Result<()> {
            let read = stream.read(&mut [0; 4096])?;
            let body = format!("{read} bytes were enough for me\n");
            write!(stream, "HTTP/1.1 413 Content Too Large\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
            let outcome = linger::close(stream, &policy);
            if !outcome.delivered() {
                eprintln!("the client may have lost its answer: {outcome}");
            }
            Ok(())
        });
    }
    Ok(())
}
