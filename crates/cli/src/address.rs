//! Addresses as they are typed.

use std::net::SocketAddr;

/// An address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write a number and a port, as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080 for all addresses".to_owned()
    })
}
