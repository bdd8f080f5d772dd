//! axum behind a lingering listener: the listener is all that differs from `axum-bare`.

use linger_testing::samples::{address, length, policy};

fn main() -> anyhow::Result<()> {
    let (address, length, policy) = (address()?, length()?, policy()?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let router = axum::Router::new().fallback(move || async move { vec![b'r'; length] });
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(axum::serve(linger::axum::listen(listener, policy), router).await?)
    })
}
