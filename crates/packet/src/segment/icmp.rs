//! ICMP errors about TCP segments: what a router or a host says of a packet that it did not pass on (RFC 792, RFC 4443).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::NotTcp;
use super::cursor::{TCP, be16, be32};

/// An ICMP error that quotes the beginning of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct IcmpError {
    /// Who reports it.
    pub reporter: IpAddr,
    /// What it reports.
    pub problem: IcmpProblem,
    /// Source address and port of the quoted segment.
    pub source: SocketAddr,
    /// Its destination address and port.
    pub destination: SocketAddr,
    /// Its sequence number.
    pub seq: u32,
}

/// Why a packet was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IcmpProblem {
    /// No route to the network.
    NoRoute,
    /// The host does not answer on its own link.
    HostUnreachable,
    /// The port is not reachable: what a firewall's plain `REJECT` says.
    PortUnreachable,
    /// Forbidden by a rule.
    Prohibited,
    /// The packet is too big for the next link, and must not be fragmented.
    TooBig {
        /// The largest packet that fits; 0 if the router does not say.
        mtu: u32,
    },
    /// The packet has passed too many routers: a loop, or a probe.
    TimeExceeded,
    /// Another type or code.
    Other {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
}

impl fmt::Display for IcmpProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("network unreachable"),
            Self::HostUnreachable => f.write_str("host unreachable"),
            Self::PortUnreachable => f.write_str("port unreachable"),
            Self::Prohibited => f.write_str("administratively prohibited"),
            Self::TooBig { mtu: 0 } => f.write_str("fragmentation needed"),
            Self::TooBig { mtu } => write!(f, "fragmentation needed, at most {mtu} bytes"),
            Self::TimeExceeded => f.write_str("time to live exceeded"),
            Self::Other { kind, code } => write!(f, "type {kind}, code {code}"),
        }
    }
}

/// What an ICMP error says; `None` for queries, their answers and redirects. Types and codes are from RFC 792, RFC 1812
/// and, for IPv6, RFC 4443; `word` is the second word of the message.
fn problem(v6: bool, kind: u8, code: u8, word: u32) -> Option<IcmpProblem> {
    Some(match (v6, kind, code) {
        (false, 3, 4) => IcmpProblem::TooBig { mtu: word & 0xffff },
        (false, 3, 0 | 5 | 6 | 11) | (true, 1, 0) => IcmpProblem::NoRoute,
        (false, 3, 1 | 7 | 8 | 12) | (true, 1, 3) => IcmpProblem::HostUnreachable,
        (false, 3, 3) | (true, 1, 4) => IcmpProblem::PortUnreachable,
        (false, 3, 9 | 10 | 13) | (true, 1, 1 | 5 | 6) => IcmpProblem::Prohibited,
        (true, 2, _) => IcmpProblem::TooBig { mtu: word },
        (false, 11, 0) | (true, 3, 0) => IcmpProblem::TimeExceeded,
        (false, 3 | 4 | 11 | 12, _) | (true, 1 | 3 | 4, _) => IcmpProblem::Other { kind, code },
        _ => return None,
    })
}

/// Reads an ICMP message from `reporter`. The quoted packet is as long as the reporter made it, at least 8 bytes behind its IP
/// header, which hold the ports and the sequence number.
pub(super) fn error(message: &[u8], reporter: IpAddr) -> NotTcp {
    let (Some(&[kind, code, _, _]), Some(word)) = (message.first_chunk::<4>(), be32(message, 4)) else {
        return NotTcp::OtherProtocol;
    };
    let Some(problem) = problem(reporter.is_ipv6(), kind, code, word) else { return NotTcp::OtherProtocol };
    let quoted = message.get(8..).unwrap_or(&[]);
    let ends = if reporter.is_ipv6() { ipv6(quoted) } else { ipv4(quoted) };
    let Some((source, destination, tcp)) = ends else { return NotTcp::OtherProtocol };
    let (Some(from), Some(to), Some(seq)) = (be16(tcp, 0), be16(tcp, 2), be32(tcp, 4)) else {
        return NotTcp::OtherProtocol;
    };
    let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
    NotTcp::Icmp(IcmpError { reporter, problem, source, destination, seq })
}

/// The addresses of a quoted packet that is TCP, and what follows its header.
fn ipv4(quoted: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = quoted.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 || header[9] != TCP {
        return None;
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::from_bits(be32(header, at).unwrap_or(0)));
    Some((address(12), address(16), quoted.get(length..)?))
}

/// The same over IPv6. A quoted packet with extension headers is left out.
fn ipv6(quoted: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = quoted.first_chunk::<40>()?;
    if header[0] >> 4 != 6 || header[6] != TCP {
        return None;
    }
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header[at..at + 16]);
        IpAddr::V6(Ipv6Addr::from(bytes))
    };
    Some((address(8), address(24), &quoted[40..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkType, Segment};

    fn v4(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, (20 + body.len()) as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend([192, 0, 2, 1, 192, 0, 2, 9]);
        packet.extend(body);
        packet
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfe; 16]);
        packet.extend(body);
        packet
    }

    const PORTS: [u8; 8] = [0x9c, 0x40, 0, 80, 1, 2, 3, 4];

    fn read(packet: &[u8]) -> Result<IcmpError, NotTcp> {
        match Segment::from_frame(LinkType::RAW, packet, packet.len()) {
            Err(NotTcp::Icmp(error)) => Ok(error),
            Err(other) => Err(other),
            Ok(_) => panic!("a segment"),
        }
    }

    #[test]
    fn an_error_names_the_segment_that_it_quotes() {
        let quoting = |kind, code, protocol: u8, tcp: &[u8]| {
            let body = [&[kind, code, 0, 0, 0, 0, 5, 0x78][..], &v4(protocol, tcp)].concat();
            read(&v4(1, &body))
        };
        let error = quoting(3, 4, 6, &PORTS).unwrap();
        assert_eq!(error.problem, IcmpProblem::TooBig { mtu: 1400 });
        let ends = (error.source.to_string(), error.destination.to_string(), error.seq);
        assert_eq!(ends, ("192.0.2.1:40000".into(), "192.0.2.9:80".into(), 0x0102_0304));
        assert_eq!(quoting(3, 13, 6, &PORTS).unwrap().problem, IcmpProblem::Prohibited);
        assert_eq!(quoting(11, 0, 6, &PORTS).unwrap().problem, IcmpProblem::TimeExceeded);
        // An echo, a quoted datagram, and too little of a segment.
        for other in [quoting(8, 0, 6, &PORTS), quoting(3, 4, 17, &PORTS), quoting(3, 4, 6, &PORTS[..7])] {
            assert_eq!(other, Err(NotTcp::OtherProtocol));
        }
        // Over IPv6 the numbers differ: 1 is unreachable, 3 is too many routers.
        let quoting = |kind, code, tcp: &[u8]| {
            let body = [&[kind, code, 0, 0, 0, 0, 5, 0][..], &v6(6, tcp)].concat();
            read(&v6(58, &body))
        };
        assert_eq!(quoting(2, 0, &PORTS).unwrap().problem, IcmpProblem::TooBig { mtu: 1280 });
        assert_eq!(quoting(3, 0, &PORTS).unwrap().problem, IcmpProblem::TimeExceeded);
        assert_eq!(quoting(1, 4, &PORTS).unwrap().problem, IcmpProblem::PortUnreachable);
        assert_eq!(quoting(128, 0, &PORTS), Err(NotTcp::OtherProtocol));
    }
}
