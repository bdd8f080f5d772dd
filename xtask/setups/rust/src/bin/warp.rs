//! warp: 300,000 bytes for each request, whose body is not read; and a WebSocket at /ws. `warp PORT`

use std::net::Ipv4Addr;

use futures_util::{SinkExt, StreamExt};
use warp::Filter;

#[tokio::main]
async fn main() {
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let large = warp::path("large").map(|| vec![b'r'; 300_000]);
    let echo = warp::path("ws").and(warp::ws()).map(|upgrade: warp::ws::Ws| {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_close() || socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    });
    warp::serve(echo.or(large)).run((Ipv4Addr::LOCALHOST, port)).await;
}
