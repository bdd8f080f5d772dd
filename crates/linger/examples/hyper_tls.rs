//! hyper's own connections over TLS, HTTP/1 and HTTP/2: the lingering stream stands below TLS, the layer above HTTP.
//!
//! `cargo run --example hyper_tls --features hyper`, then `curl -k https://127.0.0.1:8443/`.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use linger::Policy;
use linger::http::Upload;
use linger::tokio::Listener;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8443").await?;
    // Where descriptors run out, it makes room and tries again.
    let mut listener = Listener::new(listener, Policy::default());
    loop {
        let (stream, peer) = listener.accept().await;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let answer = service_fn(async |_: Request<Upload<Incoming>>| {
                Ok::<_, Infallible>(Response::new("hello\n".to_owned()))
            });
            let answer = linger::http::layer().of(&stream.connection()).wrap(answer);
            // At the end hyper shuts the TLS stream down, which sends close_notify and the FIN, and drops it: then
            // it lingers.
            let stream = match acceptor.accept(stream).await {
                Ok(stream) => stream,
                Err(error) => return eprintln!("{peer}: {error}"),
            };
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
