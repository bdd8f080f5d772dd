//! axum-server lets a program change each accepted stream: here into one that lingers. `ConnectInfo` stays what it was.

use std::future::{Ready, ready};
use std::io;

use axum_server::accept::Accept;
use linger::{Policy, tokio::Lingering};
use tokio::net::TcpStream;

/// `axum_server::from_tcp(listener)?.acceptor(Linger)`; TLS goes above: `RustlsAcceptor::new(config).acceptor(Linger)`.
#[derive(Clone)]
pub struct Linger;

impl<S> Accept<TcpStream, S> for Linger {
    type Stream = Lingering<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(Ok((Lingering::new(stream, Policy::default()), service)))
    }
}
