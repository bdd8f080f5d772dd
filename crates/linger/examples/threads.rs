//! A server with a thread for each connection: answers early, and loses nothing.
//!
//! `cargo run --example threads`, then `curl --data-binary @LARGE_FILE http://127.0.0.1:8080/`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use linger::{Closer, Policy};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080")?;
    let closer = Closer::global()?;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                std::thread::spawn(move || {
                    if let Err(error) = answer(stream, closer) {
                        eprintln!("{peer}: {error}");
                    }
                });
            }
            Err(error) => {
                // As a rule no descriptors are left: evict lingering sockets. New clients wait in the accept queue.
                eprintln!("{error}");
                closer.evict(64);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn answer(mut stream: TcpStream, closer: &Closer) -> std::io::Result<()> {
    let read = stream.read(&mut [0; 4096])?;
    let body = format!("{read} bytes were enough for me\n");
    write!(stream, "HTTP/1.1 413 Content Too Large\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    // The thread ends now. `linger::close(stream, &policy)` would wait, and return the outcome.
    closer.close(stream, &Policy::default());
    Ok(())
}
