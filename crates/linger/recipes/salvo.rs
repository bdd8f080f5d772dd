//! salvo takes any listener that a program defines. The connections of this one linger.

use std::io;

use linger::{Policy, tokio::Lingering};
use salvo_core::conn::tcp::TcpCoupler;
use salvo_core::conn::{Accepted, Acceptor, ConnCtrl, Holding, StraightStream};
use salvo_core::fuse::ArcFusePolicy;
use salvo_core::http::{Version, uri::Scheme};
use tokio::net::{TcpListener, TcpStream};

/// `salvo::Server::new(Linger::new(listener)?)`. salvo's own policy against slow clients is not used.
pub struct Linger {
    listener: linger::tokio::Listener<TcpListener>,
    holdings: Vec<Holding>,
}

impl Linger {
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        let local_addr = listener.local_addr()?.into();
        let holding =
            Holding { local_addr, http_versions: vec![Version::HTTP_11], http_scheme: Scheme::HTTP };
        let listener = linger::tokio::Listener::new(listener, Policy::default());
        Ok(Self { listener, holdings: vec![holding] })
    }
}

impl Acceptor for Linger {
    type Coupler = TcpCoupler<Self::Stream>;
    type Stream = StraightStream<Lingering<TcpStream>>;

    fn holdings(&self) -> &[Holding] {
        &self.holdings
    }

    async fn accept(
        &mut self,
        _: Option<ArcFusePolicy>,
    ) -> io::Result<Accepted<Self::Coupler, Self::Stream>> {
        let (stream, peer) = self.listener.accept().await;
        let conn_ctrl = ConnCtrl::new();
        Ok(Accepted {
            coupler: TcpCoupler::new(),
            stream: StraightStream::new(stream, None, conn_ctrl.clone(), None),
            fuse_config: None,
            conn_ctrl,
            local_addr: self.holdings[0].local_addr.clone(),
            remote_addr: peer.into(),
            http_scheme: Scheme::HTTP,
        })
    }
}
