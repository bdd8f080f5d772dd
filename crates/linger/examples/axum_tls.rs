//! axum with TLS, HTTP/2, connect info and an orderly end at SIGTERM.
//!
//! `cargo run --example axum_tls --features axum,http2`, then `curl -k https://127.0.0.1:8443/`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use axum::{Router, routing::get};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let app = Router::new()
        .route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("hello {peer}\n")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8443").await?;
    let mut terminated = signal(SignalKind::terminate())?;
    linger::http::serve(listener, app)
        .above(move |stream| tls.accept(stream))
        .stop_when(async move { _ = terminated.recv().await })
        .await?;
    Ok(())
}
