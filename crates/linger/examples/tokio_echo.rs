//! An echo server on tokio whose connections end well however their tasks do.
//!
//! `cargo run --example tokio_echo --features tokio`, then `nc 127.0.0.1 7007`; a line `quit` ends it.

use linger::Policy;
use linger::tokio::{Lingering, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:7007").await?;
    // Where descriptors run out, it makes room and tries again.
    let mut listener = Listener::new(listener, Policy::default());
    loop {
        let (stream, peer) = listener.accept().await;
        tokio::spawn(async move {
            if let Err(error) = echo(stream).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn echo(mut stream: Lingering<TcpStream>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        // A `?` here drops the stream, and the connection lingers all the same.
        let read = stream.read(&mut buffer).await?;
        if read == 0 || buffer[..read].starts_with(b"quit") {
            break;
        }
        stream.write_all(&buffer[..read]).await?;
    }
    let outcome = stream.close().await;
    if !outcome.delivered() {
        eprintln!("{outcome}");
    }
    Ok(())
}
