//! The two addresses in a tracepoint's events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::kernel::tracepoint::{Field, Format};

/// A connection as seen from this host: local address, then remote address.
pub(crate) type Endpoints = (SocketAddr, SocketAddr);

/// The same in little memory, for what is kept in large numbers. Of IPv6 no scope is kept, which no event of the kernel has; an
/// IPv4-mapped address is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackedEnds([([u8; 16], [u8; 2]); 2]);

impl From<Endpoints> for PackedEnds {
    fn from((local, remote): Endpoints) -> Self {
        let packed = |end: SocketAddr| {
            let ip = match end.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            (ip.octets(), end.port().to_ne_bytes())
        };
        Self([packed(local), packed(remote)])
    }
}

impl From<PackedEnds> for Endpoints {
    fn from(PackedEnds(ends): PackedEnds) -> Self {
        let [local, remote] = ends
            .map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_ne_bytes(port)));
        (local, remote)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_ends_are_the_ends() {
        let ends =
            |local: &str, remote: &str| -> Endpoints { (local.parse().unwrap(), remote.parse().unwrap()) };
        for (local, remote) in
            [("10.0.0.1:80", "0.0.0.0:0"), ("[fe80::1]:65535", "[::]:1"), ("[::1]:1", "1.2.3.4:5")]
        {
            let ends = ends(local, remote);
            assert_eq!(Endpoints::from(PackedEnds::from(ends)), ends);
            assert_ne!(PackedEnds::from(ends), PackedEnds::from((ends.1, ends.0)));
        }
        let (four, mapped) = (ends("1.2.3.4:5", "[::1]:6"), ends("[::ffff:1.2.3.4]:5", "[::1]:6"));
        assert_eq!(PackedEnds::from(four), PackedEnds::from(mapped));
        assert_eq!(size_of::<PackedEnds>(), 36);
    }
}
