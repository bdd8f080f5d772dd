//! A server that can be stopped by SIGTERM at any time and loses no answer.
//!
//! `cargo run --example sigterm --features tokio`, then `kill -TERM` its process while clients are served. The
//! order is what matters: stop accepting, let the handlers end, wait for the peers, exit.

use std::time::Duration;

use linger::tokio::Lingering;
use linger::{Budget, Closer, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let closer = Closer::new(Budget::default())?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut handlers = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            // Ended handlers make room.
            Some(_) = handlers.join_next() => continue,
            _ = terminated.recv() => break,
        };
        let mut stream = Lingering::with_closer(stream, Policy::default(), &closer);
        handlers.spawn(async move {
            let _ = stream.read(&mut [0; 4096]).await?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n")
                .await
            // The drop hands the connection to the closer.
        });
    }
    drop(listener);
    while handlers.join_next().await.is_some() {}
    let summary = tokio::task::spawn_blocking(move || closer.finish(Duration::from_secs(10))).await?;
    eprintln!(
        "{} connections ended while finishing, {} undelivered",
        summary.ended.total(),
        summary.undelivered
    );
    Ok(())
}
