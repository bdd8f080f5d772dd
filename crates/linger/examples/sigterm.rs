//! A server of its own protocol that can be stopped by SIGTERM at any time and loses no answer.
//!
//! `cargo run --example sigterm --features tokio`, then `kill -TERM` its process while clients are served: it accepts
//! the clients in the accept queue, lets the handlers end, waits for the peers, and exits, all within the deadline.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    let mut terminated = signal(SignalKind::terminate())?;
    let summary = linger::tokio::serve(listener, async |mut stream, _, _| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n";
        if stream.read(&mut [0; 4096]).await.is_ok() {
            let _ = stream.write_all(answer).await;
        }
        // Dropped, the stream lingers.
    })
    .stop_when(async move { _ = terminated.recv().await })
    .within(Duration::from_secs(10))
    .await?;
    eprintln!(
        "{} connections ended while finishing, {} undelivered",
        summary.ended.total(),
        summary.undelivered
    );
    Ok(())
}
