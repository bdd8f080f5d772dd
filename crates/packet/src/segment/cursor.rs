//! A position in a frame: the IP and TCP headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::path::{Path, Tag};
use super::{Flags, NotTcp, Segment};

/// Limit of nested tunnels and tags, and of IPv6 extension headers. A stack of MPLS labels counts once.
const MAX_DEPTH: u8 = 8;
/// The number of bytes of a TCP header that must be in the frame: ports, sequence, acknowledgement, offset and flags. A snap
/// length of 68 bytes leaves exactly so many if TCP is over IPv6 over Ethernet.
const LEAST_HEADER: usize = 14;
/// TCP's IP protocol number.
pub(super) const TCP: u8 = 6;

/// A position in a frame, behind the headers that were read.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    frame: &'a [u8],
    at: usize,
    wire_len: usize,
    depth: u8,
    path: Path,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    pub(super) fn new(frame: &'a [u8], wire_len: usize) -> Self {
        Self { frame, at: 0, wire_len: wire_len.max(frame.len()), depth: 0, path: Path::default() }
    }

    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.frame.get(self.at..).unwrap_or(&[])
    }

    #[inline]
    pub(super) fn skip(mut self, bytes: usize) -> Self {
        self.at += bytes;
        self
    }

    #[inline]
    pub(super) fn deeper(mut self) -> Result<Self, NotTcp> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(NotTcp::OtherProtocol) } else { Ok(self) }
    }

    /// Notes a tag or tunnel around what follows.
    pub(super) fn tagged(mut self, tag: Tag, number: u32) -> Self {
        self.path = self.path.and(tag, number);
        self
    }

    #[inline]
    pub(super) fn ip(self) -> Result<Segment<'a>, NotTcp> {
        match self.rest().first().map(|byte| byte >> 4) {
            Some(4) => self.ipv4(),
            Some(6) => self.ipv6(),
            Some(_) => Err(NotTcp::Malformed),
            None => Err(NotTcp::TooShort),
        }
    }

    #[inline]
    pub(super) fn ipv4(self) -> Result<Segment<'a>, NotTcp> {
        let (cursor, protocol, ip) = self.ipv4_header()?;
        cursor.transport(protocol, ip)
    }

    /// Reads the header. Returns the position behind it, the protocol number found there, and the IP fields.
    #[inline(always)]
    pub(super) fn ipv4_header(mut self) -> Result<(Self, u8, Ip), NotTcp> {
        let rest = self.rest();
        let Some(header) = rest.first_chunk::<20>() else { return Err(NotTcp::TooShort) };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < 20 {
            return Err(NotTcp::Malformed);
        }
        // Every fragment is refused: even the first one does not contain the length of the whole segment.
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return Err(NotTcp::Fragment);
        }
        // A total length of 0: the packet was captured before the network card segmented it (TSO).
        if total != 0 {
            if total < header_len {
                return Err(NotTcp::Malformed);
            }
            self.wire_len = self.wire_len.min(self.at + total);
        }
        let source = IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15]));
        let destination = IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19]));
        let ip_id = Some(u16::from_be_bytes([header[4], header[5]]));
        let ip = Ip { source, destination, ip_id, ttl: header[8] };
        Ok((self.skip(header_len), header[9], ip))
    }

    #[inline]
    pub(super) fn ipv6(mut self) -> Result<Segment<'a>, NotTcp> {
        let rest = self.rest();
        let Some(header) = rest.first_chunk::<40>() else { return Err(NotTcp::TooShort) };
        if header[0] >> 4 != 6 {
            return Err(NotTcp::Malformed);
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // A payload length of 0: a jumbogram, or a packet that was captured before the network card segmented it.
        if length != 0 {
            self.wire_len = self.wire_len.min(self.at + 40 + length);
        }
        let mut source = [0; 16];
        source.copy_from_slice(&header[8..24]);
        let mut destination = [0; 16];
        destination.copy_from_slice(&header[24..40]);
        let ip = Ip {
            source: IpAddr::V6(Ipv6Addr::from(source)),
            destination: IpAddr::V6(Ipv6Addr::from(destination)),
            ip_id: None,
            ttl: header[7],
        };
        let mut next = header[6];
        let mut cursor = self.skip(40);
        // Each extension header may occur once, and destination options twice (RFC 8200 section 4.1).
        for _ in 0..MAX_DEPTH {
            let rest = cursor.rest();
            let length = match next {
                // Hop-by-hop, routing, destination options, mobility, HIP, shim6: length in units of 8 bytes.
                0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * usize::from(*rest.get(1).ok_or(NotTcp::TooShort)?),
                // Authentication: in units of 4 bytes, less two.
                51 => 8 + 4 * usize::from(*rest.get(1).ok_or(NotTcp::TooShort)?),
                44 => {
                    // An atomic fragment (RFC 6946) is whole.
                    if be16(rest, 2).ok_or(NotTcp::TooShort)? & 0xfff9 != 0 {
                        return Err(NotTcp::Fragment);
                    }
                    8
                }
                _ => return cursor.transport(next, ip),
            };
            next = *rest.first().ok_or(NotTcp::TooShort)?;
            cursor = cursor.skip(length);
        }
        Err(NotTcp::Malformed)
    }

    #[inline(always)]
    pub(super) fn tcp(self, ip: Ip) -> Result<Segment<'a>, NotTcp> {
        let on_wire = self.wire_len.saturating_sub(self.at);
        let rest = self.rest();
        // Leave out the link layer's padding.
        let rest = &rest[..rest.len().min(on_wire)];
        let Some(header) = rest.first_chunk::<LEAST_HEADER>() else { return Err(NotTcp::TooShort) };
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20 || header_len > on_wire {
            return Err(NotTcp::Malformed);
        }
        Ok(Segment {
            source: SocketAddr::new(ip.source, u16::from_be_bytes([header[0], header[1]])),
            destination: SocketAddr::new(ip.destination, u16::from_be_bytes([header[2], header[3]])),
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags: Flags(header[13]),
            window: be16(rest, 14),
            options: rest.get(20..header_len.min(rest.len())).unwrap_or(&[]),
            payload: rest.get(header_len..).unwrap_or(&[]),
            payload_len: u32::try_from(on_wire - header_len).map_err(|_| NotTcp::Malformed)?,
            payload_offset: self.at + header_len,
            ip_id: ip.ip_id,
            ttl: ip.ttl,
            path: self.path,
        })
    }
}

/// The fields of the IP header that a segment needs.
#[derive(Clone, Copy)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    destination: IpAddr,
    ip_id: Option<u16>,
    ttl: u8,
}

impl Ip {
    /// A number for the two addresses, the same for packets of either direction: it tells tunnels apart that have no number of
    /// their own.
    pub(super) fn ends(&self) -> u32 {
        let fold = |address: IpAddr| {
            let bits = match address {
                IpAddr::V4(v4) => u128::from(v4.to_bits()),
                IpAddr::V6(v6) => v6.to_bits(),
            };
            ((bits ^ bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
        };
        (fold(self.source) as u32).wrapping_add(fold(self.destination) as u32)
    }
}

/// A number of four bytes in network byte order.
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

/// A number in network byte order.
#[inline]
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
