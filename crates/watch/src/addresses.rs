//! The two addresses in a tracepoint's events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::kernel::tracepoint::{Field, Format};

/// A connection as seen from this host: local address, then remote address.
pub(crate) type Endpoints = (SocketAddr, SocketAddr);

/// How a tracepoint encodes the two addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Addresses {
    /// As `struct sockaddr_in` or `sockaddr_in6`.
    Sockets { source: Field, destination: Field },
    /// As separate fields: the family, then for each end the IPv4 address, the IPv6 address and the port.
    Parts { family: Option<Field>, source: [Field; 3], destination: [Field; 3] },
}

impl Addresses {
    pub(crate) fn of(format: &Format) -> Option<Self> {
        let (source, destination) = (format.field("saddr")?, format.field("daddr")?);
        let (Some(sport), Some(dport)) = (format.field("sport"), format.field("dport")) else {
            return Some(Self::Sockets { source, destination });
        };
        Some(Self::Parts {
            family: format.field("family"),
            source: [source, format.field("saddr_v6")?, sport],
            destination: [destination, format.field("daddr_v6")?, dport],
        })
    }

    pub(crate) fn ends(self, raw: &[u8]) -> Option<Endpoints> {
        match self {
            Self::Sockets { source, destination } => {
                Some((socket_address(source.bytes(raw)?)?, socket_address(destination.bytes(raw)?)?))
            }
            Self::Parts { family, source, destination } => {
                // Before Linux 5.15 there is no family; the IPv6 field then holds an IPv4-mapped address.
                let v6 = family.is_none_or(|family| family.number(raw) == Some(libc::AF_INET6 as u64));
                let end = |[four, six, port]: [Field; 3]| {
                    let ip = if v6 {
                        Ipv6Addr::from(*six.bytes(raw)?.first_chunk::<16>()?).to_canonical()
                    } else {
                        IpAddr::V4(Ipv4Addr::from(*four.bytes(raw)?.first_chunk::<4>()?))
                    };
                    Some(SocketAddr::new(ip, port.number(raw)? as u16))
                };
                Some((end(source)?, end(destination)?))
            }
        }
    }
}

/// Parses a `struct sockaddr_in` or `sockaddr_in6`. All zero if the kernel knows no peer.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let bytes: &[u8; 28] = bytes.first_chunk()?;
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = if family == 10 {
        let bytes: [u8; 16] = *bytes[8..].first_chunk()?;
        Ipv6Addr::from(bytes).to_canonical()
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]))
    };
    Some(SocketAddr::new(ip, port))
}
