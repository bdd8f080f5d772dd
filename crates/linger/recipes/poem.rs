//! poem takes any listener that a program defines. The connections of this one linger.

use std::io;

use linger::{Policy, tokio::Lingering};
use poem::Addr;
use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::net::{TcpListener, TcpStream};

/// `poem::Server::new_with_acceptor(Linger(linger::tokio::Listener::new(listener, Policy::default())))`
pub struct Linger(pub linger::tokio::Listener<TcpListener>);

impl Linger {
    pub fn new(listener: TcpListener) -> Self {
        Self(linger::tokio::Listener::new(listener, Policy::default()))
    }
}

impl Acceptor for Linger {
    type Io = Lingering<TcpStream>;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr().into_iter().map(|address| LocalAddr(Addr::SocketAddr(address))).collect()
    }

    async fn accept(&mut self) -> io::Result<(Self::Io, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, peer) = self.0.accept().await;
        let local = LocalAddr(Addr::SocketAddr(stream.get_ref().local_addr()?));
        Ok((stream, local, RemoteAddr(Addr::SocketAddr(peer)), Scheme::HTTP))
    }
}
