//! warp: its filters are a tower service. `warp::serve(filter).incoming(...)` takes tokio's listeners only.

use std::io;

use tokio::net::TcpListener;
use warp::{Filter, Reply};

/// Instead of `warp::serve(filter).run(address)`.
pub async fn serve<F>(listener: TcpListener, filter: F) -> io::Result<()>
where
    F: Filter<Error = warp::Rejection> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
    F::Future: Send,
{
    linger::http::serve(listener, warp::service(filter)).await.map(drop)
}
