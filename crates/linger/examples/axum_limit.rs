//! axum with a body limit: the `413` arrives, although the client is still uploading, and so does its next request.
//!
//! `cargo run --example axum_limit --features axum`, then `curl --data-binary @LARGE_FILE http://127.0.0.1:8080/`.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", post(async |body: axum::body::Bytes| format!("{} bytes\n", body.len())))
        .layer(DefaultBodyLimit::max(64 << 10));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    let interrupt = async { _ = tokio::signal::ctrl_c().await };
    let summary = linger::http::serve(listener, app).stop_when(interrupt).await?;
    eprintln!("{} connections ended at the last, {} undelivered", summary.ended.total(), summary.undelivered);
    Ok(())
}
