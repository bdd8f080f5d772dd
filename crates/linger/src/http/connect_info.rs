//! axum's connect info for each request of a connection.

use std::task::{Context, Poll};

use ::http::Request;
use axum::extract::ConnectInfo as Info;

use crate::axum::Peer;
use crate::tokio::Connection;

/// Adds the address of the peer, alone and as a [`Peer`], to each request.
#[derive(Clone, Debug)]
pub(super) struct ConnectInfo<S, A> {
    service: S,
    peer: Peer<A>,
}

impl<S, A> ConnectInfo<S, A> {
    pub(super) fn new(service: S, address: A, connection: Connection) -> Self {
        Self { service, peer: Peer::new(address, connection) }
    }
}

impl<S, A, B> tower_service::Service<Request<B>> for ConnectInfo<S, A>
where
    S: tower_service::Service<Request<B>>,
    A: Clone + Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let extensions = request.extensions_mut();
        extensions.insert(Info(self.peer.address.clone()));
        extensions.insert(Info(self.peer.clone()));
        self.service.call(request)
    }
}
