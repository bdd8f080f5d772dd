//! TLS to the collector.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::roots::TrustedRoots;
use crate::endpoint::{Endpoint, OtlpProtocol};

/// What is spoken within, as ALPN names it.
fn spoken(protocol: OtlpProtocol) -> &'static [u8] {
    match protocol {
        OtlpProtocol::HttpProtobuf => b"http/1.1",
        OtlpProtocol::Grpc => b"h2",
    }
}

pub(super) fn connector(roots: &TrustedRoots, protocol: OtlpProtocol) -> Result<TlsConnector, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config = builder
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.0.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![spoken(protocol).to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

pub(super) async fn encrypt(
    connector: &TlsConnector,
    endpoint: &Endpoint,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| error.to_string())?;
    connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))
}
