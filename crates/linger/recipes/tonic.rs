//! tonic: its routes are a tower service, which this crate's server serves over HTTP/2.

use std::io;

use tokio::net::TcpListener;
use tonic::service::Routes;

/// Instead of `Server::builder().add_routes(routes).serve(address)`.
pub async fn serve(listener: TcpListener, routes: Routes) -> io::Result<()> {
    linger::http::serve(listener, routes.prepare()).await.map(drop)
}
