//! A server of axum, without any crate of this project.

use linger_testing::samples::{address, length};

fn main() -> anyhow::Result<()> {
    let (address, length) = (address()?, length()?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let router = axum::Router::new().fallback(move || async move { vec![b'r'; length] });
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(axum::serve(listener, router).await?)
    })
}
