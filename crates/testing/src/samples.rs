//! What the sample servers have in common: each answers every request with [`LENGTH`] bytes, or as many as its second argument says, and
//! reads no body.

use std::net::{Ipv4Addr, SocketAddr};

use linger::Policy;

/// Bytes in a response, if no argument says otherwise.
pub const LENGTH: usize = 300_000;

/// Where to listen: the port is the first argument.
///
/// # Errors
/// Returns an error if there is no argument, or no port in it.
pub fn address() -> anyhow::Result<SocketAddr> {
    let port = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("give a port as the argument"))?;
    Ok((Ipv4Addr::LOCALHOST, port.parse()?).into())
}

/// Bytes in a response: the second argument.
///
/// # Errors
/// Returns an error if the argument is no number.
pub fn length() -> anyhow::Result<usize> {
    Ok(std::env::args().nth(2).map_or(Ok(LENGTH), |bytes| bytes.parse())?)
}

/// How connections end: the third argument is `patient`, or absent for the default.
///
/// # Errors
/// Returns an error for another word.
pub fn policy() -> anyhow::Result<Policy> {
    match std::env::args().nth(3).as_deref() {
        None => Ok(Policy::default()),
        Some("patient") => Ok(Policy::patient()),
        Some(other) => anyhow::bail!("the policy is `patient`, or left out for the default; not {other}"),
    }
}
