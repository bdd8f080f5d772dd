//! A server of axum, without any crate of this project.

fn main() -> anyhow::Result<()> {
    let address = linger_testing::samples::address()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let router = axum::Router::new().fallback(|| async { vec![b'r'; linger_testing::samples::LENGTH] });
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(axum::serve(listener, router).await?)
    })
}
