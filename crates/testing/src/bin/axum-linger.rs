//! axum behind a lingering listener: one line differs from `axum-bare`.

fn main() -> anyhow::Result<()> {
    let address = linger_testing::samples::address()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let router = axum::Router::new().fallback(|| async { vec![b'r'; linger_testing::samples::LENGTH] });
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(axum::serve(linger::axum::listen(listener, linger::Policy::default()), router).await?)
    })
}
