//! axum with a body limit: the `413` arrives, although the client is still uploading.
//!
//! `cargo run --example axum_limit --features axum`, then `curl --data-binary @LARGE_FILE http://127.0.0.1:8080/`.

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use linger::{Closer, Policy};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", post(async |body: axum::body::Bytes| format!("{} bytes\n", body.len())))
        .layer(DefaultBodyLimit::max(64 << 10));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    let listener = linger::axum::listen(listener, Policy::default());
    let interrupt = async { _ = tokio::signal::ctrl_c().await };
    axum::serve(listener, app).with_graceful_shutdown(interrupt).await?;
    let closer = Closer::global()?;
    let summary = tokio::task::spawn_blocking(|| closer.finish(Duration::from_secs(10))).await?;
    eprintln!("{} connections ended at the last, {} undelivered", summary.ended.total(), summary.undelivered);
    Ok(())
}
