//! A view of the TCP segment inside a frame, without a copy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{LinkType, TcpOptions};

/// Limit of nested tunnels and tags.
const MAX_DEPTH: u8 = 8;
/// The number of bytes of a TCP header that must be in the frame: ports, sequence, acknowledgement, offset and flags. A snap
/// length of 68 bytes leaves exactly so many if TCP is over IPv6 over Ethernet.
const LEAST_HEADER: usize = 14;
/// TCP's IP protocol number.
const TCP: u8 = 6;

/// A view of one TCP segment.
///
/// Lengths are those on the wire; a capture with a snap length may hold less ([`Segment::payload`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment<'a> {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless without [`Flags::ACK`].
    pub ack: u32,
    /// The control bits.
    pub flags: Flags,
    /// The window field, unscaled; `None` if the frame was cut before it.
    pub window: Option<u16>,
    /// The bytes between the fixed header and the payload, as far as captured.
    pub options: &'a [u8],
    /// The payload as far as captured; never longer than `payload_len`.
    pub payload: &'a [u8],
    /// Payload bytes on the wire.
    pub payload_len: u32,
    /// Where the payload begins in the frame. This is past the frame's end if the frame was cut before the payload.
    pub payload_offset: usize,
    /// IPv4 identification; `None` on IPv6.
    pub ip_id: Option<u16>,
    /// Time to live or hop limit.
    pub ttl: u8,
}

/// Why there is no TCP segment to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTcp {
    /// Another protocol.
    #[error("not TCP")]
    OtherProtocol,
    /// A fragment of an IP packet, which is not reassembled.
    #[error("an IP fragment")]
    Fragment,
    /// The frame was cut before the flags of the TCP header.
    #[error("cut before the TCP flags")]
    TooShort,
    /// A header's fields contradict each other.
    #[error("a malformed header")]
    Malformed,
    /// The link type is none of [`LinkType`]'s constants.
    #[error("an unknown link type")]
    UnknownLink,
}

/// The control bits of a segment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);
    /// Urgent.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::SYN, "SYN"),
            (Self::FIN, "FIN"),
            (Self::RST, "RST"),
            (Self::PSH, "PSH"),
            (Self::ACK, "ACK"),
            (Self::URG, "URG"),
        ];
        let mut first = true;
        for (flag, name) in names {
            if self.has(flag) {
                if !first {
                    f.write_str(",")?;
                }
                f.write_str(name)?;
                first = false;
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'a> Segment<'a> {
    /// Reads an Ethernet frame without the frame check sequence (FCS).
    ///
    /// Follows VLAN tags, PPPoE, IPv6 extension headers, IP in IP, GRE (with ERSPAN II), VXLAN and Geneve.
    ///
    /// # Errors
    /// Returns [`NotTcp`], which says why there is no segment.
    #[inline]
    pub fn from_ethernet(frame: &'a [u8]) -> Result<Self, NotTcp> {
        Self::from_frame(LinkType::ETHERNET, frame, frame.len())
    }

    /// Reads an IPv4 or IPv6 packet.
    ///
    /// # Errors
    /// Returns the errors of [`Segment::from_ethernet`].
    #[inline]
    pub fn from_ip(packet: &'a [u8]) -> Result<Self, NotTcp> {
        Self::from_frame(LinkType::RAW, packet, packet.len())
    }

    /// Reads a captured frame of any known link type. `wire_len` is the frame's length before the snap length cut it.
    ///
    /// # Errors
    /// Returns the errors of [`Segment::from_ethernet`], and [`NotTcp::UnknownLink`].
    #[inline]
    pub fn from_frame(link: LinkType, frame: &'a [u8], wire_len: usize) -> Result<Self, NotTcp> {
        match Self::plain(link, frame, wire_len) {
            Some(segment) => Ok(segment),
            None => Cursor::new(frame, wire_len).any(link),
        }
    }

    /// Reads the commonest frame: TCP over IPv4 over Ethernet, without tags or tunnels.
    ///
    /// Always inlined: the view is built in the caller's memory. For any other frame it returns `None`; then call
    /// [`Segment::from_frame`], which also says why there is no segment.
    #[inline(always)]
    pub fn plain(link: LinkType, frame: &'a [u8], wire_len: usize) -> Option<Self> {
        if link != LinkType::ETHERNET || frame.get(12..14) != Some(&[0x08, 0x00]) {
            return None;
        }
        let (cursor, protocol, ip) = Cursor::new(frame, wire_len).skip(14).ipv4_header().ok()?;
        if protocol == TCP { cursor.tcp(ip).ok() } else { None }
    }

    /// Reads the options.
    pub fn parse_options(&self) -> TcpOptions {
        TcpOptions::parse(self.options)
    }

    /// The sequence numbers that the segment takes: its payload, and one each for SYN and FIN.
    #[inline]
    pub fn sequence_len(&self) -> u32 {
        let counted = u32::from(self.flags.any(Flags::SYN)) + u32::from(self.flags.any(Flags::FIN));
        self.payload_len.wrapping_add(counted)
    }

    /// The sequence number after this segment.
    #[inline]
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.sequence_len())
    }
}

/// A position in a frame, behind the headers that were read.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    frame: &'a [u8],
    at: usize,
    wire_len: usize,
    depth: u8,
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn new(frame: &'a [u8], wire_len: usize) -> Self {
        Self { frame, at: 0, wire_len: wire_len.max(frame.len()), depth: 0 }
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.frame.get(self.at..).unwrap_or(&[])
    }

    #[inline]
    fn skip(mut self, bytes: usize) -> Self {
        self.at += bytes;
        self
    }

    #[inline]
    fn deeper(mut self) -> Result<Self, NotTcp> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(NotTcp::OtherProtocol) } else { Ok(self) }
    }

    #[inline(never)]
    fn any(self, link: LinkType) -> Result<Segment<'a>, NotTcp> {
        match link {
            LinkType::ETHERNET => self.ethernet(),
            LinkType::RAW | LinkType::IPV4 | LinkType::IPV6 | LinkType(12 | 14) => self.ip(),
            LinkType::LINUX_SLL => self.ether_type_at(14, 16),
            LinkType::LINUX_SLL2 => self.ether_type_at(0, 20),
            // The address family's number for IPv6 differs between systems; the IP version does not.
            LinkType::NULL | LinkType::LOOP => self.skip(4).ip(),
            _ => Err(NotTcp::UnknownLink),
        }
    }

    #[inline]
    fn ethernet(self) -> Result<Segment<'a>, NotTcp> {
        self.ether_type_at(12, 14)
    }

    /// Reads an EtherType at `at`, and continues with that protocol at `next`.
    #[inline]
    fn ether_type_at(self, at: usize, next: usize) -> Result<Segment<'a>, NotTcp> {
        let ether_type = be16(self.rest(), at).ok_or(NotTcp::TooShort)?;
        self.skip(next).ether_type(ether_type)
    }

    #[inline]
    fn ether_type(self, ether_type: u16) -> Result<Segment<'a>, NotTcp> {
        match ether_type {
            0x0800 => self.ipv4(),
            0x86dd => self.ipv6(),
            // 802.1Q, 802.1ad and the old QinQ number: two bytes of tag, then the EtherType.
            0x8100 | 0x88a8 | 0x9100 => self.deeper()?.ether_type_at(2, 4),
            // PPPoE session: six bytes, then the PPP protocol.
            0x8864 => match be16(self.rest(), 6).ok_or(NotTcp::TooShort)? {
                0x0021 | 0x0057 => self.skip(8).ip(),
                _ => Err(NotTcp::OtherProtocol),
            },
            // Transparent Ethernet bridging, inside GRE and Geneve.
            0x6558 => self.deeper()?.ethernet(),
            // ERSPAN II: eight bytes before the mirrored frame.
            0x88be => self.deeper()?.skip(8).ethernet(),
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    #[inline]
    fn ip(self) -> Result<Segment<'a>, NotTcp> {
        match self.rest().first().map(|byte| byte >> 4) {
            Some(4) => self.ipv4(),
            Some(6) => self.ipv6(),
            Some(_) => Err(NotTcp::Malformed),
            None => Err(NotTcp::TooShort),
        }
    }

    #[inline]
    fn ipv4(self) -> Result<Segment<'a>, NotTcp> {
        let (cursor, protocol, ip) = self.ipv4_header()?;
        cursor.transport(protocol, ip)
    }

    /// Reads the header. Returns the position behind it, the protocol number found there, and the IP fields.
    #[inline(always)]
    fn ipv4_header(mut self) -> Result<(Self, u8, Ip), NotTcp> {
        let rest = self.rest();
        let Some(header) = rest.first_chunk::<20>() else { return Err(NotTcp::TooShort) };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < 20 {
            return Err(NotTcp::Malformed);
        }
        // Any fragment: even the first does not hold the segment's length.
        if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
            return Err(NotTcp::Fragment);
        }
        // Zero: captured before the network card segmented it.
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
    fn ipv6(mut self) -> Result<Segment<'a>, NotTcp> {
        let rest = self.rest();
        let Some(header) = rest.first_chunk::<40>() else { return Err(NotTcp::TooShort) };
        if header[0] >> 4 != 6 {
            return Err(NotTcp::Malformed);
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // Zero: a jumbogram, or captured before the network card segmented it.
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
        // RFC 8200 section 4: each extension header once, one of them twice.
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

    #[inline]
    fn transport(self, protocol: u8, ip: Ip) -> Result<Segment<'a>, NotTcp> {
        if protocol == TCP { self.tcp(ip) } else { self.tunnel(protocol) }
    }

    #[cold]
    #[inline(never)]
    fn tunnel(self, protocol: u8) -> Result<Segment<'a>, NotTcp> {
        let rest = self.rest();
        match protocol {
            4 | 41 => self.deeper()?.ip(),
            // GRE (RFC 2784, RFC 2890): flags say which optional words follow.
            47 => {
                let flags = be16(rest, 0).ok_or(NotTcp::TooShort)?;
                let ether_type = be16(rest, 2).ok_or(NotTcp::TooShort)?;
                if flags & 0x4007 != 0 {
                    return Err(NotTcp::OtherProtocol); // routing, or version 1 (PPTP)
                }
                let words = [0x8000, 0x2000, 0x1000].iter().filter(|&&bit| flags & bit != 0).count();
                // Type I ERSPAN has no sequence number and no header of its own.
                if ether_type == 0x88be && words == 0 {
                    return self.deeper()?.skip(4).ethernet();
                }
                self.deeper()?.skip(4 + 4 * words).ether_type(ether_type)
            }
            17 => match be16(rest, 2).ok_or(NotTcp::TooShort)? {
                // VXLAN (RFC 7348), and the port Linux used before it had a number.
                4789 | 8472 => match rest.get(8) {
                    Some(flags) if flags & 0x08 != 0 => self.deeper()?.skip(16).ethernet(),
                    Some(_) => Err(NotTcp::OtherProtocol),
                    None => Err(NotTcp::TooShort),
                },
                // Geneve (RFC 8926).
                6081 => {
                    let options = 4 * usize::from(rest.get(8).ok_or(NotTcp::TooShort)? & 0x3f);
                    let ether_type = be16(rest, 10).ok_or(NotTcp::TooShort)?;
                    self.deeper()?.skip(16 + options).ether_type(ether_type)
                }
                _ => Err(NotTcp::OtherProtocol),
            },
            _ => Err(NotTcp::OtherProtocol),
        }
    }

    #[inline(always)]
    fn tcp(self, ip: Ip) -> Result<Segment<'a>, NotTcp> {
        let on_wire = self.wire_len.saturating_sub(self.at);
        let rest = self.rest();
        // Not the link layer's padding.
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
        })
    }
}

/// The fields of the IP header that a segment needs.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    ip_id: Option<u16>,
    ttl: u8,
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
