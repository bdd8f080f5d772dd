//! What the sample servers have in common: each answers every request with [`LENGTH`] bytes and reads no body.

use std::net::{Ipv4Addr, SocketAddr};

/// Bytes in a response.
pub const LENGTH: usize = 300_000;

/// Where to listen: the port is the first argument.
///
/// # Errors
/// Returns an error if there is no argument, or no port in it.
pub fn address() -> anyhow::Result<SocketAddr> {
    let port = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("give a port as the argument"))?;
    Ok((Ipv4Addr::LOCALHOST, port.parse()?).into())
}
