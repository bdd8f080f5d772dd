//! `plain bare|line PORT`: refuses every upload early, served by `axum::serve` or by `linger::http::serve`.

use axum::{Router, http::StatusCode, routing::post};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (kind, port) = (words.next().unwrap(), words.next().unwrap());
    let app = Router::new().route("/", post(async || (StatusCode::PAYLOAD_TOO_LARGE, vec![b'r'; 300_000])));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    match kind.as_str() {
        "bare" => axum::serve(listener, app).await,
        _ => linger::http::serve(listener, app).await.map(drop),
    }
}
