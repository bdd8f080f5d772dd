//! A view of the TCP segment inside a frame, without a copy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::{LinkType, TcpOptions};

mod cursor;
mod icmp;
mod layers;
mod path;
mod tunnels;
mod wireless;

pub use icmp::{IcmpError, IcmpProblem};
pub use path::Path;

use cursor::{Cursor, TCP};

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
    /// The tags and tunnels around it.
    pub path: Path,
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
    /// A layer that this crate cannot read. There may be TCP in it.
    #[error("{0} is not understood")]
    NotUnderstood(Layer),
    /// An ICMP error that quotes a TCP segment.
    #[error("an ICMP error: {}", .0.problem)]
    Icmp(IcmpError),
}

/// A layer that this crate cannot read, named by the number that announced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// The link type of the capture.
    Link(LinkType),
    /// An EtherType.
    EtherType(u16),
    /// A PPP protocol.
    Ppp(u16),
    /// The service access points of an LLC header (IEEE 802.2): destination and source.
    Llc(u8, u8),
    /// An encrypted frame: 802.11, MACsec, or CAPWAP with DTLS.
    Encrypted,
    /// The protocol of an IP packet: 50 is encrypted (ESP), 108 is compressed (IPComp).
    IpProtocol(u8),
    /// Samples of packets (sFlow).
    Samples,
    /// Several frames aggregated into one wireless frame (A-MSDU).
    Aggregated,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(LinkType(number)) => write!(f, "link type {number}"),
            Self::EtherType(number) => write!(f, "EtherType {number:04x}"),
            Self::Ppp(number) => write!(f, "PPP protocol {number:04x}"),
            Self::Llc(to, from) => write!(f, "LLC {to:02x} {from:02x}"),
            Self::Encrypted => f.write_str("an encrypted frame"),
            Self::IpProtocol(50) => f.write_str("ESP (encrypted)"),
            Self::IpProtocol(108) => f.write_str("IPComp (compressed)"),
            Self::IpProtocol(number) => write!(f, "IP protocol {number}"),
            Self::Samples => f.write_str("sFlow samples"),
            Self::Aggregated => f.write_str("an aggregated wireless frame"),
        }
    }
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
    /// Follows tags (VLAN, MPLS, NSH, PBB and others), LLC/SNAP, PPPoE, IPv6 extension headers, IP in IP, GRE (with ERSPAN and
    /// PPTP), VXLAN, Geneve, GTP-U, L2TP and TZSP.
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
    /// Returns the errors of [`Segment::from_ethernet`].
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

    /// The blocks of a selective acknowledgement: the first sequence number of each, and the one after its last. Empty if
    /// the option is absent or was not captured.
    #[inline]
    pub fn sack_blocks(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        // Most segments have timestamps and nothing else.
        let other = self.options.len() >= 10 && (self.options.len() > 12 || self.options[2] != 8);
        crate::options::sack_blocks(if other { self.options } else { &[] })
    }

    /// Whether the checksum is right (RFC 9293 section 3.1). `frame` is the one in which the segment was found; `None` if it
    /// does not hold the whole segment. In a capture on the sending host, checksums are wrong where the network card
    /// computes them later.
    pub fn has_right_checksum(&self, frame: &[u8]) -> Option<bool> {
        let header_len = 20 + self.options.len();
        let whole = self.payload.len() == self.payload_len as usize;
        let begin = self.payload_offset.checked_sub(header_len)?;
        let bytes = frame.get(begin..self.payload_offset + self.payload.len()).filter(|_| whole)?;
        // If the snap length has cut options off, `options` is shorter than the header's own length says.
        if usize::from(bytes.get(12)? >> 4) * 4 != header_len {
            return None;
        }
        let length = u16::try_from(bytes.len()).ok()?;
        let sum = |bytes: &[u8]| -> u64 {
            let (pairs, odd) = bytes.as_chunks::<2>();
            let last = odd.first().map_or(0, |&byte| u64::from(byte) << 8);
            pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum::<u64>() + last
        };
        let addresses = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
            _ => return None,
        };
        let mut total = addresses + u64::from(TCP) + u64::from(length) + sum(bytes);
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        Some(total == 0xffff)
    }

    /// How many sequence numbers the segment takes: its payload, and one each for SYN and FIN.
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

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
